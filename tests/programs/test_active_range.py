"""How far parameters may move with the same active constraints: against exact rationals, closed forms and scans."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from oracles import exact

import dcl

COUNT = 60
SIDES = ("q", "b", "h", "lb", "ub")


def program_of(data: dict[str, Any]) -> dcl.ParametricProgram:
    """Its linear cost and right-hand sides are parameters; infinite bounds are left out."""
    n = len(data["q"])
    x, q = cp.Variable(n, name="x"), cp.Parameter(n, name="q")
    cost = q @ x + (0 if data["P"] is None else 0.5 * cp.quad_form(x, cp.psd_wrap(data["P"])))
    constraints = []
    if data["A"] is not None:
        constraints.append(data["A"] @ x == cp.Parameter(len(data["b"]), name="b"))
    constraints.append(data["G"] @ x <= cp.Parameter(len(data["h"]), name="h"))
    for name, sign in (("lb", -1.0), ("ub", 1.0)):
        if data[name] is not None and np.isfinite(data[name]).any():
            there = np.flatnonzero(np.isfinite(data[name]))
            side = cp.Parameter(len(there), name=name)
            constraints.append(sign * x[there] <= sign * side)
    return dcl.ParametricProgram(cp.Problem(cp.Minimize(cost), constraints))


def values_of(data: dict[str, Any]) -> dict[str, Any]:
    return {
        name: data[name][np.isfinite(data[name])]
        for name in SIDES
        if data[name] is not None and np.isfinite(data[name]).any()
    }


def moved(data: dict[str, Any], direction: dict[str, Any], t: Fraction) -> dict[str, Any]:
    """The data at t, as fractions."""
    found = dict(data)
    for name, step in direction.items():
        old, steps = data[name], iter(step.tolist())
        found[name] = np.array(
            [Fraction(v) + t * Fraction(next(steps)) if math.isfinite(v) else v for v in old.tolist()], dtype=object
        )
    return found


def active(data: dict[str, Any]) -> Any:
    """The active set of a regular program; None where it is degenerate or has no solution."""
    program = exact.analyze(data)
    if not program.regular:
        return None
    return {block: tuple(rows.tolist()) for block, rows in program.bases[0].active.items()}


@pytest.mark.sample(7)
@pytest.mark.parametrize("seed", range(COUNT))
def test_against_exact_rationals(seed: int) -> None:
    """Just inside of the range the active set is that of t = 0, just outside it is another one, or there is none."""
    tiny, rng = exact.tiny(seed), np.random.default_rng(seed)
    data, values = dict(tiny.data), values_of(tiny.data)
    direction = {name: rng.integers(-2, 3, len(v)).astype(float) for name, v in values.items() if rng.random() < 0.6}
    if not direction:
        direction = {"q": np.ones(len(data["q"]))}
    low, high = program_of(data).solve(values).active_range(direction)
    at_zero = active(data)
    assert low < 0.0 < high
    for end in (low, high):
        if math.isinf(end):
            for far in (10, 10_000):
                assert active(moved(data, direction, Fraction(far if end > 0 else -far))) == at_zero
            continue
        # the bound itself is a rational with a small denominator
        known = Fraction(end).limit_denominator(100_000)
        assert float(known) == pytest.approx(end, rel=1e-11)
        assert active(moved(data, direction, known * Fraction(999_999, 1_000_000))) == at_zero
        assert active(moved(data, direction, known)) != at_zero
        assert active(moved(data, direction, known * Fraction(1_000_001, 1_000_000))) != at_zero


def test_textbook_linear_program() -> None:
    # Wyndor Glass (Hillier and Lieberman, section 7.2): max 3 x1 + 5 x2, x1 <= 4, 2 x2 <= 12, 3 x1 + 2 x2 <= 18
    # costs: 0 <= c1 <= 7.5, c2 >= 2;  right-hand sides: b1 >= 2, 6 <= b2 <= 18, 12 <= b3 <= 24
    x, c, b = cp.Variable(2, name="x"), cp.Parameter(2, name="c"), cp.Parameter(3, name="b")
    problem = cp.Problem(cp.Maximize(c @ x), [np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 2.0]]) @ x <= b, x >= 0])
    solution = dcl.ParametricProgram(problem).solve(c=[3.0, 5.0], b=[4.0, 12.0, 18.0])
    np.testing.assert_allclose(solution["x"], [2.0, 6.0], atol=1e-12)
    np.testing.assert_allclose(solution.dual(0), [0.0, 1.5, 1.0], atol=1e-12)
    for direction, known in (
        ({"c": [1.0, 0.0]}, (-3.0, 4.5)),
        ({"c": [0.0, 1.0]}, (-3.0, math.inf)),
        ({"b": [1.0, 0.0, 0.0]}, (-2.0, math.inf)),
        ({"b": [0.0, 1.0, 0.0]}, (-6.0, 6.0)),
        ({"b": [0.0, 0.0, 1.0]}, (-6.0, 6.0)),
    ):
        assert solution.active_range(direction) == pytest.approx(known, rel=1e-12)


def test_nothing_ever_changes_without_inequalities() -> None:
    x, t = cp.Variable(3, name="x"), cp.Parameter(3, name="t")
    solution = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [cp.sum(x) == 1])).solve(
        t=np.ones(3)
    )
    assert solution.active_range({t: [1.0, 0.0, 0.0]}) == (-math.inf, math.inf)
    assert solution.active_range({}) == (-math.inf, math.inf)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_range_does_not_depend_on_the_units(scale: float) -> None:
    rng = np.random.default_rng(0)
    w, mu, cap = cp.Variable(8, name="w"), cp.Parameter(8, name="mu"), cp.Parameter(name="cap")
    M = rng.standard_normal((8, 8))
    problem = cp.Problem(
        cp.Minimize(scale * (cp.quad_form(w, M @ M.T + np.eye(8)) - mu @ w)), [cp.sum(w) == 1, w >= 0, w <= cap]
    )
    solution = dcl.ParametricProgram(problem).solve(mu=3.0 * rng.standard_normal(8), cap=0.4)
    low, high = solution.active_range({mu: np.eye(8)[0]})
    reference = dcl.ParametricProgram(
        cp.Problem(cp.Minimize(cp.quad_form(w, M @ M.T + np.eye(8)) - mu @ w), [cp.sum(w) == 1, w >= 0, w <= cap])
    ).solve({name: solution.parameters[name] for name in solution.parameters})
    assert (low, high) == pytest.approx(reference.active_range({mu: np.eye(8)[0]}), rel=1e-10)


def test_a_batch_has_a_range_for_each_instance() -> None:
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0, x <= 1]))
    many = program.solve(t=[[0.5, 0.25], [2.0, -1.0], [-3.0, 0.5]])
    low, high = many.active_range({t: [1.0, 0.0]})
    np.testing.assert_allclose(low, [-0.5, -1.0, -math.inf], atol=1e-12)
    np.testing.assert_allclose(high, [0.5, math.inf, 3.0], atol=1e-12)
    for i in range(3):
        assert many.at(i).active_range({t: [1.0, 0.0]}) == pytest.approx((low[i], high[i]))


def test_what_has_no_range_is_an_error() -> None:
    x, t, g = cp.Variable(2, name="x"), cp.Parameter(2, name="t"), cp.Parameter(nonneg=True, name="g")
    problem = cp.Problem(cp.Minimize(g * cp.sum_squares(x) - t @ x), [x >= 0])
    program = dcl.ParametricProgram(problem)
    with pytest.raises(dcl.UnsupportedError, match=r"g changes the quadratic cost\. Use a sweep"):
        program.solve(t=[1.0, 2.0], g=1.0).active_range({g: 1.0})
    with pytest.raises(dcl.DegenerateError, match=r"not unique.*WEAKLY_ACTIVE.*constraint 0 \(x >= 0\), entry 0"):
        program.solve(t=[0.0, 2.0], g=1.0).active_range({t: [1.0, 0.0]})
    with pytest.raises(dcl.UnsupportedError, match="needs mu = 0"):
        dcl.ParametricProgram(problem, mu=1e-3).solve(t=[1.0, 2.0], g=1.0).active_range({t: [1.0, 0.0]})
    ball = dcl.ParametricProgram(cp.Problem(cp.Minimize(t @ x), [cp.norm(x) <= 1]))
    with pytest.raises(dcl.UnsupportedError, match="not piecewise affine"):
        ball.solve(t=[1.0, 2.0]).active_range({t: [1.0, 0.0]})

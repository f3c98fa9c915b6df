"""Nonlinear constraints: published optima, closed-form projections, and derivatives by differences of SciPy's answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from scipy.special import expit
from torch import Tensor

import dcl

Function = Callable[[Tensor], Tensor] | None
ROOT3 = math.sqrt(3.0)


def all_of(*rows: Tensor) -> Tensor:
    return torch.cat([row.reshape(-1) for row in rows])


# Hock and Schittkowski, Test Examples for Nonlinear Programming Codes, 1981: f, h = 0, g <= 0, start, optimal value
HOCK_SCHITTKOWSKI: dict[str, tuple[Any, Function, Function, list[float], float]] = {
    "6": (lambda y: (1 - y[0]) ** 2, lambda y: 10 * (y[1] - y[0] ** 2), None, [-1.2, 1.0], 0.0),
    "7": (lambda y: torch.log(1 + y[0] ** 2) - y[1], lambda y: (1 + y[0] ** 2) ** 2 + y[1] ** 2 - 4, None, [2.0, 2.0], -ROOT3),
    "10": (lambda y: y[0] - y[1], None, lambda y: 3 * y[0] ** 2 - 2 * y[0] * y[1] + y[1] ** 2 - 1, [-10.0, 10.0], -1.0),
    "12": (
        lambda y: 0.5 * y[0] ** 2 + y[1] ** 2 - y[0] * y[1] - 7 * y[0] - 7 * y[1],
        None, lambda y: 4 * y[0] ** 2 + y[1] ** 2 - 25, [0.0, 0.0], -30.0,
    ),
    "15": (
        lambda y: 100 * (y[1] - y[0] ** 2) ** 2 + (1 - y[0]) ** 2,
        None, lambda y: all_of(1 - y[0] * y[1], -y[0] - y[1] ** 2, y[0] - 0.5), [-2.0, 1.0], 306.5,
    ),
    "24": (
        lambda y: ((y[0] - 3) ** 2 - 9) * y[1] ** 3 / (27 * ROOT3),
        None, lambda y: all_of(y[1] - y[0] / ROOT3, -y[0] - ROOT3 * y[1], y[0] + ROOT3 * y[1] - 6, -y), [1.0, 0.5], -1.0,
    ),
    "35": (
        lambda y: 9 - 8 * y[0] - 6 * y[1] - 4 * y[2] + 2 * y[0] ** 2 + 2 * y[1] ** 2 + y[2] ** 2 + 2 * y[0] * (y[1] + y[2]),
        None, lambda y: all_of(y[0] + y[1] + 2 * y[2] - 3, -y), [0.5, 0.5, 0.5], 1 / 9,
    ),
    "43": (
        lambda y: y[0] ** 2 + y[1] ** 2 + 2 * y[2] ** 2 + y[3] ** 2 - 5 * y[0] - 5 * y[1] - 21 * y[2] + 7 * y[3],
        None,
        lambda y: all_of(
            (y**2).sum() + y[0] - y[1] + y[2] - y[3] - 8,
            y[0] ** 2 + 2 * y[1] ** 2 + y[2] ** 2 + 2 * y[3] ** 2 - y[0] - y[3] - 10,
            2 * y[0] ** 2 + y[1] ** 2 + y[2] ** 2 + 2 * y[0] - y[1] - y[3] - 5,
        ),
        [0.0] * 4, -44.0,
    ),
    "71": (
        lambda y: y[0] * y[3] * (y[0] + y[1] + y[2]) + y[2],
        lambda y: (y**2).sum() - 40, lambda y: all_of(25 - y.prod(), 1 - y, y - 5), [1.0, 5.0, 5.0, 1.0], 17.0140173,
    ),
    "77": (
        lambda y: (y[0] - 1) ** 2 + (y[0] - y[1]) ** 2 + (y[2] - 1) ** 2 + (y[3] - 1) ** 4 + (y[4] - 1) ** 6,
        lambda y: all_of(
            y[0] ** 2 * y[3] + torch.sin(y[3] - y[4]) - 2 * math.sqrt(2), y[1] + y[2] ** 4 * y[3] ** 2 - 8 - math.sqrt(2)
        ),
        None, [2.0] * 5, 0.24150513,
    ),
    "100": (
        lambda y: (y[0] - 10) ** 2 + 5 * (y[1] - 12) ** 2 + y[2] ** 4 + 3 * (y[3] - 11) ** 2 + 10 * y[4] ** 6 + 7 * y[5] ** 2
        + y[6] ** 4 - 4 * y[5] * y[6] - 10 * y[5] - 8 * y[6],
        None,
        lambda y: all_of(
            2 * y[0] ** 2 + 3 * y[1] ** 4 + y[2] + 4 * y[3] ** 2 + 5 * y[4] - 127,
            7 * y[0] + 3 * y[1] + 10 * y[2] ** 2 + y[3] - y[4] - 282,
            23 * y[0] + y[1] ** 2 + 6 * y[5] ** 2 - 8 * y[6] - 196,
            4 * y[0] ** 2 + y[1] ** 2 - 3 * y[0] * y[1] + 2 * y[2] ** 2 + 5 * y[5] - 11 * y[6],
        ),
        [1.0, 2.0, 0.0, 4.0, 0.0, 1.0, 1.0], 680.6300573,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1e-6, 1e6))])
@pytest.mark.parametrize("name", HOCK_SCHITTKOWSKI)
def test_published_optima(name: str, scale: float) -> None:
    f, h, g, start, value = HOCK_SCHITTKOWSKI[name]
    y, solution = dcl.argmin(
        lambda y: scale * f(y), torch.tensor(start).double(), equality=h, inequality=g, return_solution=True
    )
    np.testing.assert_allclose(solution.value / scale, value, rtol=2e-8, atol=1e-8)
    if h is not None:
        assert float(h(y).abs().max()) < 1e-9
    if g is not None:
        assert float(g(y).max()) < 1e-9


def test_published_point_and_multipliers_of_problem_71() -> None:
    f, h, g, start, _ = HOCK_SCHITTKOWSKI["71"]
    y, solution = dcl.argmin(f, torch.tensor(start).double(), equality=h, inequality=g, return_solution=True)
    np.testing.assert_allclose(y, [1.0, 4.74299963, 3.82114998, 1.37940829], atol=1e-8)
    known = [0.16146857, 0.55229366, 1.08787121, *[0.0] * 7]
    np.testing.assert_allclose(solution.z, known, atol=1e-8)


def test_multipliers_are_the_gradient_of_the_optimal_value() -> None:
    """The envelope theorem on problem 43, whose constraints bind, against the difference of two optima."""
    f, _, g, start, _ = HOCK_SCHITTKOWSKI["43"]
    layer = dcl.ArgminLayer(lambda y, b: f(y), inequality=lambda y, b: g(y) - b)
    b = torch.zeros(3).double().requires_grad_()
    y, solution = layer(torch.tensor(start).double(), b, return_solution=True)
    (gradient,) = torch.autograd.grad(f(y), b)
    np.testing.assert_allclose(gradient, -solution.z, atol=1e-9)
    np.testing.assert_allclose(solution.z, [1.0, 0.0, 2.0], atol=1e-9)


def simplex_by_bisection(a: np.ndarray) -> np.ndarray:
    shift = brentq(lambda t: np.maximum(a - t, 0.0).sum() - 1.0, a.min() - 1.0, a.max(), xtol=1e-15)
    return np.maximum(a - shift, 0.0)


def test_projections_onto_the_simplex_in_a_batch() -> None:
    a = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    layer = dcl.ArgminLayer(
        lambda y, a: 0.5 * (y - a).square().sum(), equality=lambda y, a: y.sum() - 1.0, inequality=lambda y, a: -y,
        in_dims=(None, 0),
    )  # fmt: skip
    y = layer(torch.full((6,), 1.0 / 6.0).double(), a)
    known = np.stack([simplex_by_bisection(row) for row in a.detach().numpy()])
    np.testing.assert_allclose(y.detach(), known, atol=1e-12)
    weights = torch.arange(6.0).double()
    (gradient,) = torch.autograd.grad((y * weights).sum(), a)
    active = known > 0.0
    mean = (active * weights.numpy()).sum(1, keepdims=True) / active.sum(1, keepdims=True)
    np.testing.assert_allclose(gradient, active * (weights.numpy() - mean), atol=1e-12)


def scipy_argmin(a: np.ndarray) -> np.ndarray:
    """The nonconvex program below by SLSQP, then Newton on its Lagrangian; both constraints hold with equality."""
    result = minimize(
        lambda y: np.sin(y[0]) * y[1] + 0.5 * np.sum((y - a[:3]) ** 2), [0.5, 0.5, 0.5], method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda y: y[0] * y[1] * y[2] - a[3]},
            {"type": "ineq", "fun": lambda y: 1.5 + 0.1 * a[0] - y @ y},
        ],
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    y, multipliers = np.asarray(result.x), np.zeros(2)
    for _ in range(6):  # the next multipliers come with the step, whatever the last ones were
        gradient = [np.cos(y[0]) * y[1] + y[0] - a[0], np.sin(y[0]) + y[1] - a[1], y[2] - a[2]]
        values = [y[0] * y[1] * y[2] - a[3], y @ y - 1.5 - 0.1 * a[0]]
        rows = np.array([[y[1] * y[2], y[0] * y[2], y[0] * y[1]], 2.0 * y])
        sine = np.array([[-np.sin(y[0]) * y[1], np.cos(y[0]), 0.0], [np.cos(y[0]), 0.0, 0.0], [0.0, 0.0, 0.0]])
        product = np.array([[0.0, y[2], y[1]], [y[2], 0.0, y[0]], [y[1], y[0], 0.0]])
        H = np.eye(3) + sine + multipliers[0] * product + 2.0 * multipliers[1] * np.eye(3)
        K = np.block([[H, rows.T], [rows, np.zeros((2, 2))]])
        step, multipliers = np.split(np.linalg.solve(K, -np.concatenate([gradient, values])), [3])
        y = y + step
    assert np.abs(step).max() <= 1e-14
    assert multipliers[1] > 0.0
    return y


def test_a_nonconvex_program_against_differences_of_scipy() -> None:
    a0 = np.array([1.0, 0.8, 1.2, 0.1])
    a = torch.tensor(a0, requires_grad=True)
    y, solution = dcl.argmin(
        lambda y, a: torch.sin(y[0]) * y[1] + 0.5 * (y - a[:3]).square().sum(), torch.full((3,), 0.5).double(), a,
        equality=lambda y, a: y.prod() - a[3], inequality=lambda y, a: y.square().sum() - 1.5 - 0.1 * a[0], return_solution=True,
    )  # fmt: skip
    assert solution.z[1] > 0.1
    np.testing.assert_allclose(y.detach(), scipy_argmin(a0), atol=1e-10)
    rows = torch.stack([torch.autograd.grad(t, a, retain_graph=True)[0] for t in y]).numpy()
    step = 1e-4
    columns = [(scipy_argmin(a0 + step * e) - scipy_argmin(a0 - step * e)) / (2.0 * step) for e in np.eye(4)]
    np.testing.assert_allclose(rows, np.stack(columns, -1), atol=1e-6)


@pytest.mark.sample(3)
@pytest.mark.parametrize(("start", "any_", "minimum"), [(0.1, 0.0, 2.0), (-0.8, -1.0, -1.0), (1.9, 2.0, 2.0)])
def test_any_stationary_point_between_bounds(start: float, any_: float, minimum: float) -> None:
    for stationary, known in (("any", any_), ("minimum", minimum)):
        y = dcl.argmin(
            lambda y: -(y**2), torch.tensor(start).double(), inequality=lambda y: torch.stack([-1.0 - y, y - 2.0]),
            stationary=stationary,
        )  # fmt: skip
        np.testing.assert_allclose(y, known, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.02])
def test_warm_starts_take_a_step_or_two_and_change_nothing(mu: float) -> None:
    f, h, g, start, _ = HOCK_SCHITTKOWSKI["71"]
    layer = dcl.ArgminLayer(
        lambda y, b: f(y) + b * y[1], equality=lambda y, b: h(y), inequality=lambda y, b: g(y) - b, mu=mu
    )
    y0, b = torch.tensor(start).double(), torch.tensor(0.0).double()
    _, last = layer(y0, b, return_solution=True)
    for step in range(1, 6):
        moved = b + 0.002 * step
        cold, by_search = layer(y0, moved, return_solution=True)
        warm, last = layer(y0, moved, warm_start=last, return_solution=True)
        np.testing.assert_allclose(warm, cold, atol=1e-11)
        np.testing.assert_allclose(last.z, by_search.z, atol=1e-9)
        assert last.solvers[last.solver] == "warm start"
        assert last.iterations <= 5 < by_search.iterations
    # one that is of no use is not taken
    far, solution = layer(y0, b + 8.0, warm_start=last, return_solution=True)
    np.testing.assert_allclose(far, layer(y0, b + 8.0), atol=1e-9)
    assert solution.ok
    other = dcl.ArgminLayer(lambda y: y.square().sum()).solve(y0[:2])
    with pytest.raises(dcl.InputError, match="warm_start has x"):
        layer(y0, b, warm_start=other)


def test_the_ball_of_cvxpy_has_the_same_barrier() -> None:
    """cp.SOC(1, x) has the barrier -log(1 - |x|^2): eq. 61 of the report for f_1 = |x|^2 - 1, at any mu."""
    x, a = cp.Variable(2), cp.Parameter(2)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - a)), [cp.SOC(1.0, x)]), [a], [x], mu=0.3)
    theirs_in, ours_in = (torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    (theirs,) = layer(theirs_in)
    ours = dcl.argmin(
        lambda y, a: 0.5 * (y - a).square().sum(), torch.zeros(2).double(), ours_in,
        inequality=lambda y, a: y.square().sum() - 1.0, mu=0.3,
    )  # fmt: skip
    np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=1e-9)
    for k in range(2):
        one, other = (
            torch.autograd.grad(ours[k], ours_in, retain_graph=True)[0],
            torch.autograd.grad(theirs[k], theirs_in, retain_graph=True)[0],
        )
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_saturated_maximum(start: float) -> None:
    """f is 1e-6 at the optimum; the oracle is a root of the derivative in the angle of a function that is not saturated."""
    A = np.array([[3.7452449640574716, 6.273072552680016], [-8.528772075035906, -1.0148982679634564],
                  [5.054650576082353, -4.536063092274194]])  # fmt: skip
    b = np.array([-0.7099916197280212, 0.10834214580582868, -1.567043683504062])

    def slope(t: float) -> float:
        """Of log(exp(l_0 - l_1) + exp(l_2 - l_1)) along the circle."""
        first, last = ((A - A[1]) @ [np.cos(t), np.sin(t)] + b)[[0, 2]]
        return float(([expit(first - last), expit(last - first)] @ (A - A[1])[[0, 2]]) @ [-np.sin(t), np.cos(t)])

    t = brentq(slope, 2.0, 4.5, xtol=1e-15)
    y, solution = dcl.argmin(
        lambda x, A, b: A[1] @ x + b[1] - torch.logsumexp(A @ x + b, 0), torch.full((2,), start).double(),
        torch.from_numpy(A), torch.from_numpy(b), maximize=True, inequality=lambda x, A, b: x @ x - 1.0, return_solution=True,
    )  # fmt: skip
    np.testing.assert_allclose(y, [np.cos(t), np.sin(t)], atol=1e-8)
    np.testing.assert_allclose(solution.value, -1.234e-6, rtol=1e-3)

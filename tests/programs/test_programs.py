"""`dcl.ParametricProgram`: answers against cvxpy's own, derivatives against closed forms and central differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
import torch
from oracles import polish

import dcl

DIFFERENCE = 1e-5  # step of the central differences, relative to 1 + |parameter|


@dataclass(frozen=True)
class Case:
    """A problem, and a value for each of its parameters."""

    problem: cp.Problem
    values: dict[str, Any]
    gp: bool = False


def qp() -> Case:
    rng = np.random.default_rng(0)
    w, mu, cap = cp.Variable(5, name="w"), cp.Parameter(5, name="mu"), cp.Parameter(name="cap")
    gamma = cp.Parameter(nonneg=True, name="gamma")
    M = rng.standard_normal((5, 5))
    risk = cp.quad_form(w, M @ M.T / 5 + np.eye(5))
    problem = cp.Problem(cp.Maximize(mu @ w - gamma * risk), [cp.sum(w) == 1, w >= 0, w <= cap])
    return Case(problem, {"mu": np.array([0.1, 0.9, 1.5, -2.0, 0.7]), "cap": 0.4, "gamma": 0.6})


def lp() -> Case:
    x, c, b = cp.Variable(3, name="x"), cp.Parameter(3, name="c"), cp.Parameter(2, name="b")
    A = np.array([[1.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    problem = cp.Problem(cp.Maximize(c @ x), [A @ x <= b, x >= 0])
    return Case(problem, {"c": np.array([2.0, 3.0, 1.0]), "b": np.array([4.0, 7.0])})


def matrices() -> Case:
    rng = np.random.default_rng(1)
    X, Y = cp.Variable((2, 3), name="X"), cp.Variable(2, name="Y")
    B, t = cp.Parameter((2, 3), name="B"), cp.Parameter(3, name="t")
    cost = cp.sum_squares(X - B) + cp.sum_squares(Y) + cp.sum(X, axis=1) @ Y
    problem = cp.Problem(cp.Minimize(cost + 2 * cp.sum_squares(X)), [cp.sum(X, axis=0) == t, X <= 1.2])
    cost = cp.sum_squares(X - B) + cp.sum_squares(Y - X[:, 0])
    problem = cp.Problem(cp.Minimize(cost), [cp.sum(X, axis=0) == t, X <= 1.2])
    return Case(problem, {"B": rng.standard_normal((2, 3)), "t": np.array([1.0, 2.3, 0.5])})


def ball() -> Case:
    x, q, r = cp.Variable(3, name="x"), cp.Parameter(3, name="q"), cp.Parameter(nonneg=True, name="r")
    problem = cp.Problem(cp.Minimize(q @ x + 0.1 * cp.sum_squares(x)), [cp.norm(x) <= r, x[0] + x[1] >= -0.2])
    return Case(problem, {"q": np.array([1.0, 2.0, -1.5]), "r": 1.3})


def entropy() -> Case:
    x, c, total = cp.Variable(4, name="x"), cp.Parameter(4, name="c"), cp.Parameter(pos=True, name="total")
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + c @ x), [cp.sum(x) == total])
    return Case(problem, {"c": np.array([0.3, -0.4, 1.1, 0.0]), "total": 1.5})


def geometric() -> Case:
    x, y = cp.Variable(pos=True, name="x"), cp.Variable(pos=True, name="y")
    a, b = cp.Parameter(pos=True, name="a"), cp.Parameter(pos=True, name="b")
    problem = cp.Problem(cp.Minimize(x / y + a * y + 1 / x), [x * y <= b, y >= 0.1])
    return Case(problem, {"a": 2.0, "b": 0.7}, gp=True)


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f for f in (qp, lp, matrices, ball, entropy, geometric)
}  # fmt: skip


def made(case: Case, **settings: Any) -> dcl.ParametricProgram:
    return dcl.ParametricProgram(case.problem, gp=case.gp, **settings)


def differences(program: dcl.ParametricProgram, case: Case, name: str, of: Callable[[Any], Any]) -> np.ndarray:
    """Central differences of a number or array of the solution in every entry of a parameter, (*of, *parameter)."""
    at = np.asarray(case.values[name], dtype=float)
    columns = []
    for place in np.ndindex(*at.shape):
        step = np.zeros(at.shape)
        step[place] = DIFFERENCE * (1.0 + abs(at[place]))
        ahead, behind = (np.asarray(of(program.solve(case.values | {name: at + s}))) for s in (step, -step))
        columns.append((ahead - behind) / (2.0 * step[place]))
    return np.moveaxis(np.array(columns), 0, -1).reshape((*columns[0].shape, *at.shape))


@pytest.mark.parametrize("name", CASES)
def test_solution_and_multipliers_are_those_of_cvxpy(name: str) -> None:
    case = CASES[name]()
    solution = made(case).solve(case.values)
    for parameter in case.problem.parameters():
        parameter.value = case.values[parameter.name()]
    polish.solve(case.problem, gp=case.gp)
    assert solution.status is dcl.Status.OPTIMAL
    assert solution.ok is True
    assert solution.value == pytest.approx(case.problem.value, rel=1e-7, abs=1e-7)
    for variable in case.problem.variables():
        np.testing.assert_allclose(solution[variable], variable.value, atol=2e-6)
        np.testing.assert_array_equal(solution[variable], solution[variable.name()])
    if case.gp:
        return
    for place, constraint in enumerate(case.problem.constraints):
        known = constraint.dual_value
        found = solution.dual(constraint)
        if isinstance(found, tuple):
            assert isinstance(known, list | tuple)
        else:
            np.testing.assert_allclose(found, np.reshape(known, found.shape), atol=2e-5)
            np.testing.assert_array_equal(found, solution.dual(place))
    assert max(solution.primal_residual, solution.dual_residual, solution.gap) <= 1e-8


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_central_differences(name: str) -> None:
    case = CASES[name]()
    program = made(case)
    solution = program.solve(case.values)
    slopes = solution.value_gradient()
    assert set(slopes) == set(case.values)
    for parameter in case.values:
        np.testing.assert_allclose(
            slopes[parameter], differences(program, case, parameter, lambda s: s.value), rtol=1e-6, atol=1e-6
        )
        for variable in case.problem.variables():
            known = differences(program, case, parameter, lambda s, v=variable: s[v])
            np.testing.assert_allclose(solution.jacobian(variable, wrt=parameter), known, rtol=1e-5, atol=2e-6)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CASES)
def test_derivative_and_adjoint_agree_with_the_jacobian(name: str) -> None:
    case, rng = CASES[name](), np.random.default_rng(2)
    solution = made(case).solve(case.values)
    direction = {p: rng.standard_normal(np.shape(v)) for p, v in case.values.items()}
    weights = {v.name(): rng.standard_normal(v.shape) for v in case.problem.variables()}
    moved, pulled = solution.derivative(direction), solution.adjoint(weights)
    for variable in weights:
        by_matrix = sum(
            np.tensordot(solution.jacobian(variable, wrt=p), d, axes=np.ndim(d)) for p, d in direction.items()
        )
        np.testing.assert_allclose(moved[variable], by_matrix, rtol=1e-9, atol=1e-9)
    forward = sum(np.sum(weights[v] * moved[v]) for v in weights)
    backward = sum(np.sum(pulled[p] * direction[p]) for p in direction)
    assert forward == pytest.approx(backward, rel=1e-9, abs=1e-9)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_a_loop_of_single_calls(name: str) -> None:
    case = CASES[name]()
    program = made(case)
    factors = np.array([1.0, 1.05, 0.97])
    swept = next(iter(case.values))
    many = case.values | {swept: factors.reshape(3, *[1] * np.ndim(case.values[swept])) * case.values[swept]}
    batch = program.solve(many)
    assert batch.batch == (3,)
    assert batch.status.tolist() == [0, 0, 0]
    slopes = batch.value_gradient()
    for i, factor in enumerate(factors):
        one = program.solve(case.values | {swept: factor * np.asarray(case.values[swept])})
        picked = batch.at(i)
        assert picked.batch == ()
        assert picked.status is dcl.Status.OPTIMAL
        assert picked.binding == batch.binding[i]
        for variable in case.problem.variables():
            np.testing.assert_allclose(batch[variable][i], one[variable], atol=1e-8)
            for parameter in case.values:
                known = one.jacobian(variable, wrt=parameter)
                np.testing.assert_allclose(batch.jacobian(variable, wrt=parameter)[i], known, rtol=1e-6, atol=1e-6)
                np.testing.assert_allclose(picked.jacobian(variable, wrt=parameter), known, rtol=1e-6, atol=1e-6)
        for parameter, slope in one.value_gradient().items():
            np.testing.assert_allclose(slopes[parameter][i], slope, rtol=1e-6, atol=1e-6)


def test_projection_onto_a_hyperplane_in_closed_form() -> None:
    # x = t + a (b - a't) / a'a:  dx/dt = I - aa' / a'a,  dx/db = a / a'a,  value (b - a't)^2 / a'a
    a = np.array([1.0, -2.0, 0.5])
    x, t, b = cp.Variable(3, name="x"), cp.Parameter(3, name="t"), cp.Parameter(name="b")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [a @ x == b]))
    at, side = np.array([0.3, 1.0, -0.7]), 2.0
    solution = program.solve({t: at, b: side})
    square, left = a @ a, side - a @ at
    np.testing.assert_allclose(solution[x], at + a * left / square, atol=1e-12)
    np.testing.assert_allclose(solution.jacobian(x, wrt=t), np.eye(3) - np.outer(a, a) / square, atol=1e-12)
    np.testing.assert_allclose(solution.jacobian(x, wrt=b), a / square, atol=1e-12)
    assert solution.value == pytest.approx(left**2 / square, rel=1e-12)
    slopes = solution.value_gradient()
    assert float(slopes[b]) == pytest.approx(2.0 * left / square, rel=1e-12)
    np.testing.assert_allclose(slopes[t], -2.0 * left / square * a, rtol=1e-11)


def test_on_the_central_path_the_value_is_that_of_x_of_mu() -> None:
    # minimize c x with x >= 0 and barrier mu: x = mu / c, value mu, whatever c is
    x, c = cp.Variable(name="x"), cp.Parameter(name="c")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(c * x), [x >= 0]), mu=0.01)
    solution = program.solve(c=2.0)
    assert float(solution["x"]) == pytest.approx(0.005, rel=1e-8)
    assert float(solution.jacobian("x", wrt="c")) == pytest.approx(-0.0025, rel=1e-7)
    assert float(solution.value_gradient()["c"]) == pytest.approx(0.0, abs=1e-9)
    assert solution.binding == ()


def test_every_kind_of_value_gives_the_same_answer() -> None:
    case = qp()
    program = made(case)
    known = program.solve(case.values)["w"]
    mu = case.values["mu"]
    rest = {"cap": 0.4, "gamma": 0.6}
    frame = pd.Series(mu, index=list("abcde"))
    for value in (mu.tolist(), torch.tensor(mu), torch.tensor(mu).float().double(), frame, mu.astype(object)):
        np.testing.assert_allclose(program.solve(rest, mu=value)["w"], known, atol=1e-7)
    exact = program.solve(mu=mu, cap=np.float64(0.4), gamma=torch.tensor(0.6, dtype=torch.float64))
    np.testing.assert_array_equal(exact["w"], known)
    for parameter in case.problem.parameters():
        parameter.value = case.values[parameter.name()]
    np.testing.assert_array_equal(program.solve()["w"], known)
    np.testing.assert_array_equal(program.jacobian("w", wrt="mu"), program.solve().jacobian("w", wrt="mu"))


def test_labels_of_pandas_are_kept() -> None:
    case = qp()
    program = made(case)
    mu = pd.Series(case.values["mu"], index=list("abcde"))
    solution = program.solve(case.values | {"mu": mu})
    frame = solution.to_frame()
    of_w = frame[frame["name"] == "w"]
    assert of_w["entry"].tolist() == list("abcde")
    np.testing.assert_array_equal(of_w["value"].to_numpy(), solution["w"])
    assert "a 0" in repr(solution)
    many = pd.DataFrame([mu.to_numpy(), 0.5 * mu.to_numpy()], index=["mon", "tue"], columns=list("abcde"))
    frame = program.solve(case.values | {"mu": many}).to_frame()
    assert set(frame["instance"]) == {"mon", "tue"}
    assert len(frame) == 2 * (5 + 1 + 5 + 5)
    assert {effect.name for effect in solution.sensitivity()} >= {"mu[a]", "cap"}


def test_the_same_labels_in_another_order_are_an_error() -> None:
    x, a, b = cp.Variable(3, name="x"), cp.Parameter(3, name="a"), cp.Parameter(3, name="b")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [x >= b]))
    one, other = pd.Series([1.0, 2.0, 3.0], index=list("uvw")), pd.Series([0.0, 0.0, 5.0], index=list("wvu"))
    with pytest.raises(
        dcl.InputError, match=r"b has the labels of a in another order \(w, v, u and u, v, w\).*reindex"
    ):
        program.solve(a=one, b=other)
    np.testing.assert_allclose(program.solve(a=one, b=other.reindex(one.index))["x"], [5.0, 2.0, 3.0], atol=1e-12)


def labelled() -> tuple[dcl.ParametricProgram, pd.Series]:
    """x = max(c, floor) for labels a, b, c."""
    x, c, floor = cp.Variable(3, name="x"), cp.Parameter(3, name="c"), cp.Parameter(3, name="floor")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= floor]))
    return program, pd.Series([1.0, 2.0, 3.0], index=list("abc"))


def test_changes_and_weights_must_have_the_order_of_the_labels() -> None:
    program, one = labelled()
    solution = program.solve(c=one, floor=np.zeros(3))
    order = r"has the labels of c in another order \(c, b, a and a, b, c\).*reindex"
    with pytest.raises(dcl.InputError, match="c " + order):
        solution.derivative({"c": one[::-1]})
    with pytest.raises(dcl.InputError, match="floor " + order):
        solution.active_range({"floor": one[::-1]})
    with pytest.raises(dcl.InputError, match="x " + order):
        solution.adjoint({"x": one[::-1]})
    with pytest.raises(dcl.InputError, match="x " + order):
        program.sweep({"c": one, "floor": np.zeros((2, 3))}, gradient={"x": one[::-1]}, progress=False)
    np.testing.assert_allclose(solution.derivative({"c": one[::-1].reindex(one.index)})["x"], one, atol=1e-12)
    np.testing.assert_allclose(solution.adjoint({"x": one})["c"], one, atol=1e-12)
    low, high = solution.active_range({"floor": one})
    assert (low, high) == (-np.inf, pytest.approx(1.0))


def test_labels_that_agree_only_in_part_are_an_error() -> None:
    program, one = labelled()
    other = pd.Series(np.zeros(3), index=list("cbZ"))
    with pytest.raises(dcl.InputError, match=r"floor and c share labels.*only floor has Z, only c has a.*reindex"):
        program.solve(c=one, floor=other)
    solution = program.solve(c=one, floor=np.zeros(3))
    with pytest.raises(dcl.InputError, match="x and c share labels"):
        solution.adjoint({"x": other})
    # no label in common: two axes
    factors = pd.Series(np.zeros(3), index=list("FGH"))
    np.testing.assert_allclose(program.solve(c=one, floor=factors)["x"], one, atol=1e-12)


@pytest.mark.parametrize("first", ["cost", "supply"])
def test_rows_and_columns_of_a_matrix_may_share_labels(first: str) -> None:
    x, cost = cp.Variable((2, 2), name="x"), cp.Parameter((2, 2), name="cost")
    supply, demand = cp.Parameter(2, name="supply"), cp.Parameter(2, name="demand")
    total = cp.sum_squares(x - cost) + cp.sum(cp.multiply(supply, cp.sum(x, axis=1))) + demand @ cp.sum(x, axis=0)
    if first == "supply":
        total = cp.sum(cp.multiply(supply, cp.sum(x, axis=1))) + demand @ cp.sum(x, axis=0) + cp.sum_squares(x - cost)
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(total), [x >= -9]))
    frame = pd.DataFrame(np.ones((2, 2)), index=["Rome", "Oslo"], columns=["Oslo", "Bern"])
    rows, columns = pd.Series([0.0, 2.0], index=frame.index), pd.Series([0.0, 4.0], index=frame.columns)
    solution = program.solve(cost=frame, supply=rows, demand=columns)
    np.testing.assert_allclose(solution["x"], [[1.0, -1.0], [0.0, -2.0]], atol=1e-12)
    np.testing.assert_allclose(solution.derivative({"demand": columns})["x"], [[0.0, -2.0]] * 2, atol=1e-12)


def test_directions_by_name_and_one_parameter_without_a_list() -> None:
    program, one = labelled()
    solution = program.solve(c=one, floor=np.zeros(3))
    direction = np.array([1.0, 0.0, 0.0])
    assert solution.active_range(floor=direction) == solution.active_range({"floor": direction})
    assert program.active_range(floor=direction, at=solution) == solution.active_range({"floor": direction})
    np.testing.assert_allclose(solution.derivative(c=direction)["x"], direction, atol=1e-12)
    np.testing.assert_allclose(program.derivative(c=direction, at=solution)["x"], direction, atol=1e-12)
    assert list(solution.value_gradient(wrt="c")) == list(solution.adjoint({"x": one}, wrt="c")) == ["c"]
    for wrong in ("floor", ["floor"], direction):
        with pytest.raises(dcl.InputError, match=r'direction must be a dict with a parameter as key.*\{"c": change\}'):
            solution.active_range(wrong)  # type: ignore[arg-type]
    with pytest.raises(dcl.InputError, match=r'cotangents must be a dict with a variable as key.*"x": weights'):
        solution.adjoint("x")  # type: ignore[arg-type]
    with pytest.raises(dcl.InputError, match="a direction is missing"):
        solution.active_range()
    with pytest.raises(dcl.InputError, match="parameter c is given twice"):
        solution.derivative({"c": direction}, c=direction)
    with pytest.raises(dcl.InputError, match="'costs' is not a parameter"):
        solution.value_gradient(wrt="costs")


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [
        ({}, {}, "parameter mu has no value: give one, as in solve\\(mu=...\\)"),
        ({"mux": 1.0}, {}, "'mux' is not a parameter of the program; parameters: mu, gamma, cap"),
        ({"cap": 1.0}, {"cap": 2.0}, "parameter cap is given twice"),
        ({"mu": np.ones(4)}, {}, r"parameter mu must have shape \(5,\), or \(\*batch, 5\).*got \(4,\)"),
        ({"mu": [[1.0], [1.0, 2.0]]}, {}, "mu is not an array: its rows have different lengths"),
        ({"mu": ["1", "2", "3", "4", "5"]}, {}, "mu must be real numbers"),
        ({"cap": True}, {}, "cap must be real numbers, got bool"),
        ({"cap": "0.4"}, {}, "cap must be real numbers, got text: '0.4'"),
        ({"cap": None}, {}, "cap is None: give a value, or leave it out to use its .value"),
        ({"cap": 1.0, "mu": np.ones(5), "gamma": -1.0}, {}, r"domain \(nonneg\): the value is -1$"),
        ({"cap": 1j}, {}, "cap must be real numbers, got complex128"),
        ({"cap": torch.tensor(0.4, requires_grad=True)}, {}, r"cap requires a gradient.*cap.detach\(\).*CvxpyLayer"),
        ({"cap": np.nan, "mu": np.ones(5), "gamma": 1.0}, {}, "cap is nan"),
        ({"cap": 1.0, "mu": np.ones(5), "gamma": -1.0}, {}, "gamma is outside its declared domain"),
        ([1.0, 2.0], {}, r"values must be a dict \{parameter: value\}, got list"),
    ],
)
def test_bad_values_are_named(values: Any, named: dict[str, Any], message: str) -> None:
    with pytest.raises(dcl.InputError, match=message):
        made(qp()).solve(values, **named)


def test_failures() -> None:
    case = qp()
    impossible = case.values | {"cap": 0.1}
    with pytest.raises(dcl.SolveError, match="PRIMAL_INFEASIBLE"):
        made(case).solve(impossible)
    solution = made(case, on_failure="nan").solve(impossible)
    assert solution.status is dcl.Status.PRIMAL_INFEASIBLE
    assert not solution.ok
    assert np.isnan(solution["w"]).all()
    assert np.isnan(solution.value)
    assert "the conflict lies among: constraint" in repr(solution)
    assert {name.split()[1] for name in solution.conflict} >= {"0", "2"}
    mixed = made(case, on_failure="nan").solve(case.values | {"cap": np.array([0.4, 0.1, 0.5])})
    assert mixed.ok.tolist() == [True, False, True]
    assert mixed.conflict[0] == mixed.conflict[2] == ()
    assert mixed.conflict[1]
    assert mixed.binding[1] == ()
    jacobian = mixed.jacobian("w", wrt="mu")
    assert np.isnan(jacobian[1]).all()
    np.testing.assert_allclose(jacobian[0], made(case).solve(case.values).jacobian("w", wrt="mu"), atol=1e-10)
    with pytest.raises(dcl.InputError, match="needs a solution in every instance"):
        mixed.active_range({"cap": 1.0})


@pytest.mark.sample(3)
@pytest.mark.parametrize("how", ["nan", "last"])
@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_what_has_no_solution_has_no_derivative(how: str, mu: float) -> None:
    """NaN, as in a sweep: zeros would read as "does not move"."""
    case = qp()
    program = made(case, on_failure=how, mu=mu)
    weights = np.ones(5)
    failed = program.solve(case.values | {"cap": 0.1})
    batch = program.solve(case.values | {"cap": np.array([0.4, 0.1])})
    good = program.solve(case.values)

    def derivatives(solution: Any) -> list[Any]:
        found = [
            solution.jacobian("w", wrt="mu"),
            solution.jacobian("w", wrt="cap"),
            solution.derivative({"cap": 1.0})["w"],
        ]
        found += [solution.adjoint({"w": weights})[name] for name in ("mu", "cap", "gamma")]
        return found + [solution.value_gradient()[name] for name in ("mu", "cap", "gamma")]

    for alone, both, known in zip(derivatives(failed), derivatives(batch), derivatives(good), strict=True):
        assert np.isnan(alone).all()
        assert np.isnan(both[1]).all()
        np.testing.assert_allclose(both[0], known, rtol=1e-6, atol=1e-9)
    table = failed.sensitivity()
    assert len(table) == 7
    assert all(np.isnan([effect.value, effect.solution, effect.most_moved]).all() for effect in table)
    assert repr(table).startswith(f"no sensitivities, because there is no solution: {failed.status.name}: ")
    assert repr(good.sensitivity()).startswith("parameter")


def test_a_maximization_is_unbounded_above() -> None:
    x, t = cp.Variable(name="x"), cp.Parameter(name="t")
    for objective, side in ((cp.Maximize(t * x), "above"), (cp.Minimize(-t * x), "below")):
        problem = cp.Problem(objective, [x >= 0])
        with pytest.raises(dcl.SolveError, match=f"DUAL_INFEASIBLE: the objective is unbounded {side}"):
            dcl.ParametricProgram(problem).solve(t=1.0)
        assert f"unbounded {side}" in repr(dcl.ParametricProgram(problem, on_failure="nan").solve(t=1.0))


def test_binding_names_constraints_and_entries() -> None:
    x, t = cp.Variable(4, name="x", nonneg=True), cp.Parameter(4, name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x <= 2.0, cp.sum(x) <= 50]))
    solution = program.solve(t=[3.0, -1.0, 1.0, 4.0])
    np.testing.assert_allclose(solution["x"], [2.0, 0.0, 1.0, 2.0], atol=1e-12)
    assert solution.binding == ("constraint 0 (x <= 2), entry 0, 3", "variable x (attribute nonneg), entry 1")


def test_a_doubtful_derivative_is_said_where_it_is_asked_for() -> None:
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0])
    solution = dcl.ParametricProgram(problem).solve(t=[0.0, 1.0])  # solving says nothing
    assert solution.gradient_kind is dcl.GradientKind.WEAKLY_ACTIVE
    with pytest.warns(dcl.DegenerateWarning, match=r"weakly active: constraint 0 \(x >= 0\), entry 0"):
        solution.jacobian(x, wrt=t)
    with pytest.raises(dcl.DegenerateError):
        dcl.ParametricProgram(problem, on_degenerate="raise").solve(t=[0.0, 1.0]).derivative({t: [1.0, 0.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dcl.ParametricProgram(problem, on_degenerate="ignore").solve(t=[0.0, 1.0]).adjoint({x: [1.0, 0.0]})


def test_a_doubtful_table_is_said_once_with_what_silences_it() -> None:
    x, b = cp.Variable(2, name="x"), cp.Parameter(name="b")
    problem = cp.Problem(cp.Minimize(x[0] + 2 * x[1]), [cp.sum(x) >= b, x >= 0, x[0] <= 80])
    with pytest.warns(dcl.DegenerateWarning) as said:
        dcl.ParametricProgram(problem).solve(b=80.0).sensitivity()
    (message,) = [str(one.message) for one in said]
    assert 'dcl.ParametricProgram(problem, on_degenerate="ignore") silences it' in message
    assert "layer" not in message
    with pytest.raises(dcl.DegenerateError):
        dcl.ParametricProgram(problem, on_degenerate="raise").solve(b=80.0).sensitivity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dcl.ParametricProgram(problem, on_degenerate="ignore").solve(b=80.0).sensitivity()


def test_sensitivity_against_differences() -> None:
    case = qp()
    program = made(case)
    table = program.solve(case.values).sensitivity()
    slopes = {name: differences(program, case, name, lambda s: s.value) for name in case.values}
    moves = {name: differences(program, case, name, lambda s: s["w"]) for name in case.values}
    assert len(table) == 7
    size = {"mu": 0.01 * np.sqrt(np.mean(case.values["mu"] ** 2)), "cap": 0.004, "gamma": 0.006}
    for effect in table:
        name, _, rest = effect.name.partition("[")
        place = (int(rest[:-1]),) if rest else ()
        assert effect.value == pytest.approx(float(slopes[name][place]), abs=1e-5)
        assert effect.solution == pytest.approx(float(np.linalg.norm(moves[name][(slice(None), *place)])), abs=1e-5)
        assert effect.solution_percent == pytest.approx(size[name] * effect.solution, rel=1e-12)
    percents = [effect.solution_percent for effect in table]
    assert percents == sorted(percents, reverse=True)
    assert table.binding
    lines = repr(table).splitlines()
    assert lines[0].split()[:2] == ["parameter", "value"]
    assert lines[-1].startswith("binding: constraint 1")
    assert list(table.to_frame()["name"]) == [effect.name for effect in table]
    with pytest.raises(dcl.InputError, match=r"choose one with .at\(i\)"):
        program.solve(case.values | {"cap": [0.4, 0.5]}).sensitivity()


def test_a_program_reads_the_problem_and_changes_nothing() -> None:
    case = qp()
    before = [p.value for p in case.problem.parameters()]
    program = made(case)
    program.solve(case.values).sensitivity()
    assert [p.value for p in case.problem.parameters()] == before
    assert all(v.value is None for v in case.problem.variables())
    assert program.parameters == {"mu": (5,), "gamma": (), "cap": ()}
    assert program.variables == {"w": (5,)}
    assert "mu (5,), gamma, cap; variables: w (5,); 3 constraints" in repr(program)


def test_names_that_are_not_unique_ask_for_the_object() -> None:
    x, a, b = cp.Variable(name="x"), cp.Parameter(name="p"), cp.Parameter(name="p")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.square(x - a) + cp.square(x - 2 * b))))
    assert float(program.solve({a: 1.0, b: 2.0})[x]) == pytest.approx(2.5)
    with pytest.raises(dcl.InputError, match="2 parameters are called 'p': give the object"):
        program.solve(p=1.0)


def test_objects_are_keys_where_names_are_not_unique(tmp_path: Any) -> None:
    """Minimize (x - a)^2 + (x - 2 b)^2 + (y - a)^2: x = (a + 2 b) / 2, y = a, value (a - 2 b)^2 / 2."""
    x, y = cp.Variable(name="x"), cp.Variable(name="x")
    a, b = cp.Parameter(name="k"), cp.Parameter(name="k")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.square(x - a) + cp.square(x - 2 * b) + cp.square(y - a))))
    assert list(program.parameters) == ["k (1)", "k (2)"]
    solution = program.solve({a: 1.0, b: 2.0})
    assert (float(solution[x]), float(solution["x (2)"])) == pytest.approx((2.5, 1.0))
    assert "x (1)" in repr(solution)
    assert "x (2)" in repr(solution)
    assert solution.parameters[b] == solution.parameters["k (2)"] == 2.0
    assert (float(solution.value_gradient()[a]), float(solution.value_gradient()[b])) == pytest.approx((-3.0, 6.0))
    assert float(solution.adjoint({x: 1.0})[b]) == pytest.approx(1.0)
    assert float(solution.derivative({b: 1.0})[x]) == pytest.approx(1.0)
    assert {effect.name for effect in solution.sensitivity()} == {"k (1)", "k (2)"}
    assert dict(solution.value_gradient()).keys() == {"k (1)", "k (2)"}
    assert set(solution.to_frame()["name"]) == {"x (1)", "x (2)"}
    sweep = program.sweep({a: np.array([1.0, 3.0]), b: 2.0}, gradient="value", progress=False)
    np.testing.assert_allclose(sweep.gradient[a], [-3.0, -1.0], atol=1e-9)
    assert "k (1)" in repr(sweep)
    assert {"k (1)", "x (2)", "gradient of k (2)"} <= set(sweep.to_pandas().columns)
    sweep.plot(tmp_path / "paths.png", [y])
    with pytest.raises(KeyError, match=r"give the object instead of its name, or one of 'k \(1\)', 'k \(2\)'"):
        solution.parameters["k"]
    with pytest.raises(dcl.InputError, match=r"parameter k \(2\) has no value: give one, as in solve\({parameter"):
        program.solve({a: 1.0})


def test_a_program_without_parameters() -> None:
    x = cp.Variable(2, name="x")
    solution = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x <= 0.5])).solve()
    np.testing.assert_allclose(solution[x], 0.5, atol=1e-9)
    assert not len(solution.value_gradient())
    assert not len(solution.adjoint({x: [1.0, 0.0]}))
    assert not solution.derivative({})[x].any()
    assert "binding: constraint 0" in repr(solution.sensitivity())


def test_settings_are_not_values() -> None:
    program = made(lp())
    for name in ("on_failure", "solver", "mu"):
        with pytest.raises(
            dcl.InputError, match=rf"{name} is not a parameter.* ParametricProgram\(problem, {name}=...\)"
        ):
            program.solve(lp().values, **{name: "nan"})
    assert made(qp()).solve(**qp().values).ok  # there mu is a parameter


def test_warm_start_from_a_solution() -> None:
    case = qp()
    program = made(case)
    first = program.solve(case.values)
    again = program.solve(case.values | {"cap": 0.41}, first)
    np.testing.assert_allclose(again["w"], program.solve(case.values | {"cap": 0.41})["w"], atol=1e-12)


def test_pictures(tmp_path: Any) -> None:
    case = qp()
    solution = made(case).solve(case.values)
    solution.plot(tmp_path / "one.png")
    made(case).solve(case.values | {"cap": [0.3, 0.4]}).plot(tmp_path / "many.svg")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "many.svg").read_text()
    with pytest.raises(dcl.InputError, match="unknown kind of picture"):
        solution.plot(tmp_path / "one.abc")


def test_xarray_has_labels() -> None:
    pytest.importorskip("xarray", reason='needs the extra "programs"')
    case = qp()
    many = pd.DataFrame(np.outer([1.0, 0.5], case.values["mu"]), index=["mon", "tue"], columns=list("abcde"))
    solution = made(case).solve(case.values | {"mu": many})
    found = solution.to_xarray()
    assert found["w"].dims == ("instance", "w_0")
    assert float(found["w"].sel(instance="tue", w_0="c")) == solution["w"][1, 2]
    assert found["value"].sel(instance="mon") == solution.value[0]


def test_a_kink_of_the_value_is_said() -> None:
    """The value min(a, b) has a kink where a = b; that of the square of x - t with x >= 0 is smooth at t = 0."""
    x, a, b, t = cp.Variable(name="x"), cp.Parameter(name="a"), cp.Parameter(name="b"), cp.Parameter(name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Maximize(x), [x <= a, x <= b]))
    assert program.solve(a=1.0, b=2.0).value_gradient()["a"] == pytest.approx(1.0)
    with pytest.warns(dcl.DegenerateWarning, match="RANK_DEFICIENT"):
        slopes = program.solve(a=1.0, b=1.0).value_gradient()
    assert float(slopes["a"] + slopes["b"]) == pytest.approx(1.0)
    with pytest.warns(dcl.DegenerateWarning, match=r"RANK_DEFICIENT in 1 of 3 rows \(1\)"):
        sweep = program.sweep({a: np.array([0.5, 1.0, 1.5]), b: 1.0}, progress=False, gradient="value")
    np.testing.assert_allclose(sweep.gradient["a"][[0, 2]], [1.0, 0.0], atol=1e-12)
    smooth = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.square(x - t)), [x >= 0]))
    assert smooth.solve(t=0.0).value_gradient()["t"] == pytest.approx(0.0, abs=1e-12)
    assert smooth.sweep({t: np.zeros(2)}, progress=False, gradient="value").gradient_kind.tolist() == [0, 0]


def test_elastic_net_path_is_that_of_scikit_learn() -> None:
    """1 / 2m |y - Xw|^2 + alpha (r |w|_1 + (1 - r) / 2 |w|^2), a path of 40 penalties on the diabetes data."""
    datasets = pytest.importorskip("sklearn.datasets")
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = datasets.load_diabetes(return_X_y=True)
    X, y, ratio = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std(), 0.6
    w, alpha = cp.Variable(X.shape[1], name="w"), cp.Parameter(nonneg=True, name="alpha")
    penalty = ratio * cp.norm1(w) + 0.5 * (1.0 - ratio) * cp.sum_squares(w)
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) / (2 * len(y)) + alpha * penalty)))
    alphas = np.geomspace(1e-3, 1.0, 40)
    sweep = program.sweep({alpha: alphas}, progress=False, gradient="value")
    for row in range(40):
        known = linear_model.ElasticNet(
            alphas[row], l1_ratio=ratio, fit_intercept=False, tol=1e-12, max_iter=100_000
        ).fit(X, y)
        np.testing.assert_allclose(sweep["w"][row], known.coef_, atol=1e-6)
        slope = ratio * np.abs(known.coef_).sum() + 0.5 * (1.0 - ratio) * known.coef_ @ known.coef_
        assert float(sweep.gradient["alpha"][row]) == pytest.approx(slope, abs=1e-6)

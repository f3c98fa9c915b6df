"""A program as a user would write it, every call with the type that it has: `mypy --strict` passes, and so does a run.

`tests/house/test_typing.py` checks both, and that a wrong use is an error of the type checker.
"""

from __future__ import annotations

from typing import assert_type

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

import dcl


def quadratic(P: Tensor, q: Tensor) -> Tensor:
    layer = dcl.QPLayer(dcl.solvers.Clarabel(eps=1e-9), on_failure="nan")
    result = layer(P, q, lb=0.0, ub=np.ones(2))
    assert_type(result, dcl.QPResult)
    assert_type(result.x, Tensor)
    result, solution = layer(P, q, lb=0.0, mu=1e-2, return_solution=True)
    assert_type(result, dcl.QPResult)
    assert_type(solution, dcl.Solution)
    assert_type(layer.solve(P, q, lb=0.0), dcl.Solution)
    assert_type(dcl.solve_qp(P, q, lb=0.0), dcl.QPResult)
    assert_type(dcl.solve_qp(P, q, lb=0.0, return_solution=True), tuple[dcl.QPResult, dcl.Solution])
    return result.x + solution.x


def cone(P: Tensor, q: Tensor) -> Tensor:
    layer = dcl.ConeLayer({"l": 2})
    result = layer(P, q, -torch.eye(2), np.zeros(2))
    assert_type(result, dcl.ConeResult)
    assert_type(layer(P, q, -torch.eye(2), torch.zeros(2), return_solution=True), tuple[dcl.ConeResult, dcl.Solution])
    return result.x


def modeled(target: Tensor) -> Tensor:
    x, t = cp.Variable(2), cp.Parameter(2, name="t")
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0]), [t], [x])
    (y,) = layer(target)
    assert_type(y, Tensor)
    assert_type(layer(t=target), tuple[Tensor, ...])
    outputs, solution = layer(target, return_solution=True)
    assert_type(outputs, tuple[Tensor, ...])
    assert_type(solution.ok, Tensor)
    return y


def of_a_function(a: Tensor) -> Tensor:
    def objective(y: Tensor, a: Tensor) -> Tensor:
        return (y - a).square().sum()

    layer = dcl.ArgminLayer(objective)
    y = layer(torch.zeros(2), a)
    assert_type(y, Tensor)
    y, solution = layer(torch.zeros(2), a, return_solution=True)
    assert_type(y, Tensor)
    assert_type(solution, dcl.Solution)
    assert_type(dcl.argmin(objective, torch.zeros(2), a), Tensor)
    return y


def without_a_network() -> float:
    w, mu = cp.Variable(2, name="w"), cp.Parameter(2, name="mu")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(w) - mu @ w), [cp.sum(w) == 1]))
    solution = program.solve(mu=[0.5, 0.1])
    assert_type(solution, dcl.ProgramSolution)
    sweep = program.sweep({"mu": np.ones((3, 2))})
    assert_type(sweep, dcl.Sweep)
    assert_type(solution.sensitivity(), dcl.Sensitivity)
    return float(solution["w"][0] + sweep["w"][0, 0])


def which_gradient(P: Tensor, q: Tensor) -> float:
    found = dcl.compare_gradients(dcl.QPLayer(), P, q, mu=[1e-4], engines=[])
    assert_type(found, dcl.Comparison)
    assert_type(dcl.diagnose(dcl.QPLayer(), P, q)[0], dcl.PointDiagnosis)
    return found.recommended_mu


def failing(q: Tensor) -> list[dcl.Status]:
    try:
        dcl.solve_qp(None, q, lb=0.0, ub=-1.0)
    except dcl.SolveError as error:
        return error.statuses
    return []


if __name__ == "__main__":
    P, q = torch.eye(2, dtype=torch.float64), torch.tensor([-1.0, 3.0], dtype=torch.float64)
    total = [*quadratic(P, q).tolist(), *cone(P, q).tolist(), *modeled(q).tolist(), *of_a_function(q).tolist()]
    print(len(total), without_a_network() > 0.0, which_gradient(P, q), failing(q)[0].name)

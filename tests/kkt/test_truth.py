"""What counts as solved: wrong points with small residuals are refused, right ones of degenerate programs are not."""

import numpy as np
import pytest
import torch
from oracles.cone_data import SDPLIB, certificate, load
from oracles.real_data import data_folder

import dcl
from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.point import OPTIMAL_TOLERANCE, Point, worst
from dcl.point.truth import relaxed_residuals
from dcl.program import ConeProgram, Structure
from dcl.program.pattern import DensePattern

ROOT = np.sqrt(2.0)


def tensor(a):
    return torch.tensor(np.asarray(a, dtype=float))


def corner(kind, cost):
    """minimize x_1 + cost x_2 subject to x_1 >= 1, x_2 >= -1, both in one cone: A, b in the rows of the waist."""
    if kind == "semidefinite":  # diag(x_1 - 1, x_2 + 1)
        A, b = [[-1.0, 0.0], [0.0, 0.0], [0.0, -1.0]], [-1.0, 0.0, 1.0]
    else:  # (u + w, u - w) / sqrt(2) with u = x_1 - 1, w = x_2 + 1: |u - w| <= u + w
        A, b = np.array([[-1.0, -1.0], [-1.0, 1.0]]) / ROOT, np.array([0.0, -2.0]) / ROOT
    structure = Structure(DensePattern((2, 2)), DensePattern((len(b), 2)), named([Block(kind, 2)]))
    return ConeProgram(structure, *(tensor([t]) for t in (np.zeros((2, 2)), [1.0, cost], A, b)))


@pytest.mark.parametrize("cost", [0.0, 1e-10, 1e-9, 1e-8, -1e-9])
def test_a_point_that_is_not_at_its_bound_is_refused_however_small_the_cost(cost):
    program = corner("semidefinite", cost)
    x, v = tensor([[1.0, 0.5]]), tensor([[1.0, 0.0, -1.5]])  # x_2 is free to fall, or to rise
    assert float(worst(Point(program, x, v).check(floor=1.0))) <= 1e-8  # and nobody sees it
    found = relaxed_residuals(Point(program, x, v))
    assert (float(worst(found)) <= OPTIMAL_TOLERANCE) == (cost == 0.0)


@pytest.mark.sample(5)
@pytest.mark.parametrize("cost", [1e-10, 1e-9, 1e-8, 1e-6])
@pytest.mark.parametrize("cones", [{"s": [2]}, {"q": [2]}])
@pytest.mark.parametrize("solver", ["CLARABEL", "SCS"])
def test_small_costs_in_a_block_with_large_multipliers(solver, cones, cost):
    program = corner("semidefinite" if "s" in cones else "second_order", cost)
    q, A, b = (t[0] for t in (program.q, program.A, program.b))
    try:
        solution = dcl.ConeLayer(cones, solver, on_degenerate="ignore").solve(None, q, A, b)
    except dcl.SolveError:
        assert cost <= 1e-8, "an honest failure, but only where the scales are hopeless"
        return
    if "q" in cones and cost <= 1e-9:  # -z_1 + z_2 = -cost is lost beside z_1 = z_2 = 1: what is known is the value
        assert solution.gradient_kind == dcl.GradientKind.NONUNIQUE
        assert solution.value == pytest.approx(1.0, abs=1e-8)
    else:
        np.testing.assert_allclose(solution.x.numpy(), [1.0, -1.0], atol=1e-6)


@pytest.mark.skipif(data_folder() is None, reason="no ../shared/data beside the repository, no DCL_DATA")
@pytest.mark.parametrize("solver", ["CLARABEL", "SCS"])
def test_a_degenerate_semidefinite_program_is_solved(solver):
    # truss3: strict complementarity fails, neither x nor z is unique, and its digits are inconsistent by 3e-10
    rows = load("sdplib", "truss3").rows()
    layer = dcl.ConeLayer(rows.cones, solver, on_degenerate="ignore")
    q, A, b = torch.tensor(rows.q, requires_grad=True), torch.tensor(rows.A.toarray()), torch.tensor(rows.b)
    result, solution = layer(None, q, A, b, return_solution=True)
    x, z, s = (t.detach().numpy() for t in result)
    assert certificate(rows, x, z, s).worst <= 1e-8
    assert rows.q @ x == pytest.approx(SDPLIB["truss3"], abs=1e-6)
    assert solution.gradient_kind == dcl.GradientKind.NONUNIQUE
    # x is not unique, the value is, and a minimum-norm derivative is one of an optimal x: q'dx = 0 (P = 0, envelope theorem)
    (gradient,) = torch.autograd.grad(q @ result.x, q)
    np.testing.assert_allclose(gradient.numpy(), x, atol=1e-6)


@pytest.mark.skipif(data_folder() is None, reason="no ../shared/data beside the repository, no DCL_DATA")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["hinf1", "hinf3", "hinf11", "hinf13"])
def test_optimal_values_that_are_not_attained_are_not_answers(name):
    """Small residuals and a small gap, values wrong by up to a half: the bound on the error of the value tells."""
    rows = load("sdplib", name).rows()
    data = torch.tensor(rows.q), torch.tensor(rows.A.toarray()), torch.tensor(rows.b)
    for solver in ("CLARABEL", "SCS"):
        try:
            x = dcl.ConeLayer(rows.cones, solver, on_degenerate="ignore")(None, *data).x.numpy()
        except dcl.SolveError:
            continue
        assert rows.q @ x == pytest.approx(SDPLIB[name], rel=1e-2)

"""Laws of the reduction: what the core finds for the smaller program solves the one as given, and so do the derivatives."""

from __future__ import annotations

import copy
import pickle
import warnings
from contextlib import contextmanager

import cvxpy as cp
import numpy as np
import pytest
import torch
from reduction_programs import CASES, Case
from tolerances import IDENTITY, ROUNDING

import dcl
from dcl import core
from dcl.layers.base import AbstractLayer
from dcl.layers.lane import Ask, Direct
from dcl.layers.reduced_lane import ReducedWay
from dcl.program.reduction.matrices import Diagonal, Full, Zero, product, total, transposed_product

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
F64 = {"dtype": torch.float64}
SEEDS = range(3)


@pytest.fixture(autouse=True)
def reduced(monkeypatch):
    """The reduced program goes first, however small the program is."""
    monkeypatch.setattr("dcl.layers.either_way._FIXED", 0.0)


def case_of(name: str, seed: int = 0) -> Case:
    return CASES[name](np.random.default_rng(seed))


def layer_of(case: Case, *outputs, **settings) -> dcl.CvxpyLayer:
    return dcl.CvxpyLayer(
        case.problem, case.parameters, outputs or case.variables, **{"on_degenerate": "ignore"} | settings
    )


def asked(layer: dcl.CvxpyLayer, tensors, mu=None):
    """What the reduced program alone says, no careful lane behind it: x, z, and what it keeps."""
    arguments = {str(p): t for p, t in enumerate(tensors)}
    plan = layer._plan(arguments)
    way = layer._way(arguments, plan, mu is None)
    _, kept = way.ask(tensors, Ask(plan.batch.shape, mu, None, 1, True))
    return *kept.point(), kept


@contextmanager
def careful_calls(monkeypatch):
    """A list that gets one entry for every call of the careful lane."""
    calls, evaluate = [], AbstractLayer._evaluate

    def spy(self, *rest):
        calls.append(rest)
        return evaluate(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(AbstractLayer, "_evaluate", spy)
        yield calls


# The program as given


@pytest.mark.sample(5)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_what_is_certified_satisfies_the_kkt_system_of_the_program_as_given(name, seed):
    case = case_of(name, seed)
    layer = layer_of(case)
    tensors = case.tensors()
    x, z, answer = asked(layer, tensors)
    form = layer._form
    program, _ = form.program([form.flatten(t, p) for p, t in enumerate(tensors)])
    structure = program.structure
    P, A = structure.P.dense(program.P), structure.A.dense(program.A)
    zeros = structure.cone.zeros
    assert (answer.status == 0).any() or name == "mixture", "which draws degenerate programs too"
    kept = answer.status == 0
    stationarity = (P @ x.unsqueeze(-1)).squeeze(-1) + program.q + (A.mT @ z.unsqueeze(-1)).squeeze(-1)
    slack = program.b - (A @ x.unsqueeze(-1)).squeeze(-1)
    size = 1.0 + z.abs().amax(-1, keepdim=True) + x.abs().amax(-1, keepdim=True)
    for residual in (stationarity, slack[:, :zeros], slack[:, zeros:].clamp_max(0.0), z[:, zeros:].clamp_max(0.0)):
        assert bool(((residual / size)[kept].abs() <= 1e-12).all())
    assert bool(((slack * z / size)[kept].abs() <= 1e-12).all())


@pytest.mark.sample(7)
@pytest.mark.parametrize("mu", [0.0, 0.05])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_agree_with_those_without_reduction(name, mu):
    for seed in SEEDS:
        case = case_of(name, seed)
        duals = [c.dual_variables[0] for c in case.problem.constraints if "redundant" not in name]
        outputs = [*case.variables, case.problem.objective, *duals]
        found = []
        for reduce in (True, False):
            layer = layer_of(case, *outputs, mu=mu, reduce=reduce)
            leaves = [t.requires_grad_() for t in case.tensors()]
            results = layer(*leaves)
            generator = torch.Generator().manual_seed(seed)
            loss = sum((t * torch.randn(t.shape, generator=generator, **F64)).sum() for t in results)
            found.append((results, torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)))
        for one, other in zip(*(found[k][0] + found[k][1] for k in (0, 1)), strict=True):
            assert float((one - other).detach().norm()) <= IDENTITY * (1e-3 + float(other.detach().norm()))


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CASES)
def test_gradients_against_differences_of_clarabel(name):
    case = case_of(name, 7)
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal(v.shape) for v in case.variables]
    directions = [
        rng.standard_normal(np.shape(value)[-p.ndim :] if p.ndim else ())
        for p, value in zip(case.parameters, case.values, strict=True)
    ]
    first = [
        value[0] if np.ndim(value) > p.ndim else value for p, value in zip(case.parameters, case.values, strict=True)
    ]
    step = 1e-5

    def solved(t: float) -> float:
        for p, value, direction in zip(case.parameters, first, directions, strict=True):
            p.value = value + t * direction
        case.problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
        return sum(float((w * v.value).sum()) for w, v in zip(weights, case.variables, strict=True))

    slope = (solved(step) - solved(-step)) / (2.0 * step)
    leaves = [torch.tensor(value, **F64, requires_grad=True) for value in first]
    outputs = layer_of(case)(*leaves)
    loss = sum((torch.tensor(w) * t).sum() for w, t in zip(weights, outputs, strict=True))
    gradients = torch.autograd.grad(loss, leaves)
    found = sum(float((g * torch.tensor(d)).sum()) for g, d in zip(gradients, directions, strict=True))
    assert abs(found - slope) <= 1e-4 * (1.0 + abs(slope))


# Closed forms


def test_ridge_regression_in_closed_form():
    case = case_of("ridge")
    leaves = [t.requires_grad_() for t in case.tensors()]
    A, b, weight = leaves
    n = A.shape[-1]
    M = A.mT @ A + weight[:, None, None] * torch.eye(n, **F64)
    exact = torch.linalg.solve(M, (A.mT @ b.unsqueeze(-1))).squeeze(-1)
    (x,) = layer_of(case)(*leaves)
    torch.testing.assert_close(x, exact, rtol=1e-12, atol=1e-13)
    w = torch.linspace(0.5, 1.5, x.numel(), **F64).reshape(x.shape)
    for one, other in zip(*(torch.autograd.grad((t * w).sum(), leaves) for t in (x, exact)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_soft_thresholding():
    """min |x - y|^2 / 2 + c |x|_1: sign(y) max(|y| - c, 0), at points on both sides of the threshold and beyond."""
    n = 8
    x, y, c = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - y) + c * cp.norm1(x)))
    layer = dcl.CvxpyLayer(problem, [y, c], [x, problem.objective], on_degenerate="raise")
    assert layer._reductions.exact.cuts is not None
    point = torch.tensor([[3.0, -2.0, 0.5, -0.3, 1.5, 0.0, -5.0, 0.9]], **F64, requires_grad=True)
    cap = torch.tensor([1.0], **F64, requires_grad=True)
    exact = point.sign() * (point.abs() - cap).clamp_min(0.0)
    value = 0.5 * (exact - point).square().sum(-1) + cap * exact.abs().sum(-1)
    found, cost = layer(point, cap)
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(cost, value, rtol=1e-14, atol=0.0)
    weights = torch.linspace(-1.0, 2.0, n, **F64)
    for one, other in ((found @ weights + cost, exact @ weights + value),):
        pairs = zip(*(torch.autograd.grad(t.sum(), [point, cap], retain_graph=True) for t in (one, other)), strict=True)
        for g, h in pairs:
            torch.testing.assert_close(g, h, rtol=1e-13, atol=1e-13)


def test_a_negative_cap_is_for_the_careful_lane():
    """With c < 0 the program is not convex: no answer, as without reduction."""
    x, y, c = cp.Variable(3), cp.Parameter(3), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - y) + c * cp.norm1(x)))
    layer = dcl.CvxpyLayer(problem, [y, c], [x])
    with pytest.raises(dcl.InputError, match="outside its declared domain"):
        layer(torch.ones(3, **F64), torch.tensor(-1.0, **F64))


# What is not unique


def test_a_variable_whose_cost_is_zero_is_not_unique():
    """min |x - p|^2 + c t, t >= x_1 + x_2: at c = 0, t may be anywhere above."""
    x, t, p, c = cp.Variable(2), cp.Variable(), cp.Parameter(2), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + c * t), [t >= cp.sum(x)])
    point = torch.tensor([1.0, 2.0], **F64, requires_grad=True)
    layer = dcl.CvxpyLayer(problem, [p, c], [x, t], on_degenerate="raise")
    assert layer._reductions.exact is not None
    _, found = layer(point, torch.tensor(0.5, **F64))
    torch.testing.assert_close(found.detach(), torch.tensor(2.5, **F64))
    with pytest.raises(dcl.DegenerateError):
        layer(point, torch.tensor(0.0, **F64))
    # x alone is unique
    (found,) = dcl.CvxpyLayer(problem, [p, c], [x], on_degenerate="raise")(point, torch.tensor(0.0, **F64))
    torch.testing.assert_close(found, point)


@pytest.mark.parametrize("aliases", [1, 2])
def test_what_is_defined_by_a_variable_without_a_cost_is_not_unique_either(aliases):
    """t is anywhere between x_1 + x_2 and 5, and so are y = 2 t and what is defined by y."""
    x, t, y, w, p = cp.Variable(2), cp.Variable(), cp.Variable(), cp.Variable(), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [y == 2 * t, w == 3 * y - 1, t >= cp.sum(x), t <= 5])
    asked = (y, w)[aliases - 1]
    point = torch.tensor([1.0, -2.0], **F64, requires_grad=True)
    with pytest.raises(dcl.DegenerateError, match="NONUNIQUE"):
        dcl.CvxpyLayer(problem, [p], [x, asked], on_degenerate="raise")(point)
    layer = dcl.CvxpyLayer(problem, [p], [x], on_degenerate="raise")
    torch.testing.assert_close(layer(point)[0], point)
    assert layer._reductions.exact.has_tight


# No cliffs


@pytest.mark.filterwarnings("ignore:the gradient with respect to:dcl.DegenerateWarning")  # of a linear program
def test_a_redundant_row_changes_nothing(monkeypatch):
    one, other = case_of("flow"), case_of("flow_with_redundant_row")
    supply = torch.tensor(other.problem.constraints[0].args[1].value[:-1], **F64)
    c = other.tensors()[0].requires_grad_()
    with careful_calls(monkeypatch) as calls:
        (x,) = layer_of(other, on_degenerate="raise")(c)
        (y,) = layer_of(one, on_degenerate="raise")(c, supply)
    assert not calls
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    w = torch.linspace(0.0, 1.0, x.numel(), **F64).reshape(x.shape)
    torch.testing.assert_close(*(torch.autograd.grad((t * w).sum(), c)[0] for t in (x, y)), rtol=1e-11, atol=1e-11)


def test_the_multipliers_of_redundant_rows_and_their_derivatives_are_for_the_careful_lane():
    x, c, b = cp.Variable(3), cp.Parameter(3), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == b[0], 2 * cp.sum(x) == b[1], x >= 0])
    tensors = [torch.tensor([1.0, 2.0, 3.0], **F64), torch.tensor([1.0, 2.0], **F64)]
    layer = dcl.CvxpyLayer(problem, [c, b], [x], on_degenerate="raise")
    (found,) = layer(tensors[0].requires_grad_(), tensors[1])
    torch.testing.assert_close(found.detach(), torch.tensor([1.0, 0.0, 0.0], **F64))
    with pytest.raises(dcl.DegenerateError):
        layer(tensors[0], tensors[1].requires_grad_())
    asks = dcl.CvxpyLayer(problem, [c, b], [problem.constraints[0].dual_variables[0]], on_degenerate="raise")
    with pytest.raises(dcl.DegenerateError):
        asks(tensors[0], tensors[1].detach())
    with pytest.raises(dcl.SolveError, match="PRIMAL_INFEASIBLE"):
        layer(tensors[0], torch.tensor([1.0, 2.1], **F64))


def test_a_box_written_as_abs_is_a_box(monkeypatch):
    n = 6
    x, y = cp.Variable(n), cp.Parameter(n)
    cost = cp.Minimize(cp.sum_squares(x - y) + cp.square(cp.sum(x)))
    point = torch.tensor(
        [[2.0, -3.0, 0.3, 0.1, -0.4, 1.7], [0.1, 0.2, -0.3, 0.0, 0.3, -0.1]], **F64, requires_grad=True
    )
    results = []
    with careful_calls(monkeypatch) as calls:
        for constraints in ([cp.abs(x) <= 1], [x <= 1, x >= -1]):
            layer = dcl.CvxpyLayer(cp.Problem(cost, constraints), [y], [x], on_degenerate="raise")
            (found,) = layer(point)
            results.append((found, torch.autograd.grad(found.square().sum(), point)[0]))
    assert not calls
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_constraints_stated_twice_change_nothing(monkeypatch):
    """Twice, scaled, or less than another one; constant sides, and sides with the same parameter."""
    n = 5
    y = torch.tensor(
        [[0.9, 0.8, -0.4, 0.3, 0.1], [0.2, -0.9, 0.7, 2.0, 0.1], [0.4, 1.4, -0.4, 1.3, -0.2]], **F64, requires_grad=True
    )
    leaves = y, torch.tensor([0.95, 0.95, 0.95, 0.6, 0.95], **F64, requires_grad=True)
    results = []
    with careful_calls(monkeypatch) as calls:
        for twice in (False, True):
            x, y, cap = cp.Variable(n), cp.Parameter(n), cp.Parameter(n)
            held = [cp.sum(x) == 1.5, x >= 0, x <= 0.9, x[0] + 2 * x[1] <= 1.4, x <= cap]
            again = [2 * x >= 0, x >= -1, x <= 0.9, 3 * x[0] + 6 * x[1] <= 4.2, 2 * x <= 2 * cap, cp.abs(x) <= 0.9]
            problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [*held, *(again if twice else [])])
            layer = dcl.CvxpyLayer(problem, [y, cap], [x], on_degenerate="raise")
            if twice:
                assert layer._reductions.exact.after == (n, 1 + 1 + n, 2 * n)
            (found,) = layer(*leaves)
            results.append((found, *torch.autograd.grad((found @ torch.linspace(1.0, 2.0, n, **F64)).sum(), leaves)))
    assert not calls
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    assert float(results[0][-1].abs().max()) > 0.1, "the parameter of the bound that is stated twice matters"


def test_duals_of_constraints_stated_twice_are_valid_and_say_that_they_are_not_unique():
    """min |x - y|^2, x on the simplex: x = (0.55, 0.45, 0); the multiplier of x_3 >= 0 is 2 (x_3 - y_3) - nu = 1.5."""
    x, y = cp.Variable(3), cp.Parameter(3)
    once, twice = x >= 0, 2 * x >= 0
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [once, twice, cp.sum(x) == 1])
    point = torch.tensor([0.9, 0.8, -0.4], **F64)
    layer = dcl.CvxpyLayer(problem, [y], [x, once.dual_variables[0], twice.dual_variables[0]], on_degenerate="ignore")
    assert layer._reductions.exact is None
    (found, one, other), solution = layer(point, return_solution=True)
    torch.testing.assert_close(found, torch.tensor([0.55, 0.45, 0.0], **F64), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(one + 2 * other, torch.tensor([0.0, 0.0, 1.5], **F64), rtol=0.0, atol=1e-12)
    assert float(torch.minimum(one, other).min()) >= 0.0
    assert solution.gradient_kind == dcl.GradientKind.RANK_DEFICIENT
    alone = dcl.CvxpyLayer(problem, [y], [x], on_degenerate="raise")
    assert alone._reductions.exact.after == (3, 1, 3)
    assert alone(point, return_solution=True)[1].gradient_kind == dcl.GradientKind.EXACT


def test_the_dual_of_a_constraint_that_says_less_is_zero(monkeypatch):
    x, y = cp.Variable(3), cp.Parameter(3)
    strong, weak = x <= 1, x <= 2
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [strong, weak])
    layer = dcl.CvxpyLayer(problem, [y], [x, strong.dual_variables[0], weak.dual_variables[0]], on_degenerate="raise")
    assert layer._reductions.exact.after == (3, 0, 3)
    y = torch.tensor([3.0, 0.5, 1.5], **F64, requires_grad=True)
    with careful_calls(monkeypatch) as calls:
        x, one, other = layer(y)
    assert not calls
    torch.testing.assert_close(x.detach(), torch.tensor([1.0, 0.5, 1.0], **F64))
    torch.testing.assert_close(one, 2.0 * (y - 1.0).clamp_min(0.0))
    torch.testing.assert_close(other, torch.zeros(3, **F64))


def test_many_rows_take_the_fast_lane_when_they_reduce(monkeypatch):
    m, n = 1600, 4
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0]), [A, b], [x])
    rng = np.random.default_rng(0)
    A, b = (torch.tensor(rng.standard_normal(shape), **F64) for shape in ((m, n), (m,)))
    with careful_calls(monkeypatch) as calls:
        (found,) = layer(A, b)
    assert not calls
    import scipy.optimize

    torch.testing.assert_close(
        found, torch.tensor(scipy.optimize.nnls(A.numpy(), b.numpy())[0]), rtol=1e-10, atol=1e-12
    )


def test_long_chains_that_grow_are_cut():
    A, B = np.array([[1.3, 0.2], [-0.1, 1.25]]), np.array([[0.0], [0.4]])
    x, u, start = cp.Variable((31, 2)), cp.Variable((30, 1)), cp.Parameter(2)
    dynamics = [x[t + 1] == A @ x[t] + B @ u[t] for t in range(30)]
    cost = cp.Minimize(cp.sum_squares(x) + cp.sum_squares(u))
    point = torch.tensor([1.0, -0.5], **F64, requires_grad=True)
    # with bounds, the inputs define nothing, and states would be sums of 1.3^30 = 2600 times others
    for bounds, states in (([], 0), ([u <= 9, u >= -9], 2)):
        problem = cp.Problem(cost, [x[0] == start, *dynamics, *bounds])
        layer = dcl.CvxpyLayer(problem, [start], [u])
        reduction = layer._reductions.exact
        E = reduction.elimination.at([torch.zeros(1, 2, **F64)]).E.full()
        assert float(E.abs().max()) <= 1.5 * 100.0, "the last state, which one row alone has, is once more A times that"
        assert reduction.after[0] >= 30 + states
        results = [f(point)[0] for f in (layer, dcl.CvxpyLayer(problem, [start], [u], reduce=False))]
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(*(torch.autograd.grad(t.sum(), point)[0] for t in results), rtol=1e-9, atol=1e-10)


# Digits


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_gradients_keep_their_digits_where_products_lose_them(condition):
    """x = A^+ b by QR, which sees the condition of A once, in place of A'A."""
    rng = np.random.default_rng(0)
    m, n = 15, 4
    U, _ = np.linalg.qr(rng.standard_normal((m, n)))
    V, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = torch.tensor((U * np.logspace(0.0, -np.log10(condition), n)) @ V.T, **F64, requires_grad=True)
    b = torch.tensor(rng.standard_normal(m), **F64)
    x, P, q = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(P @ x - q))), [P, q], [x], on_degenerate="ignore")
    (found,) = layer(A, b)
    weights = torch.linspace(1.0, 2.0, n, **F64)
    (gradient,) = torch.autograd.grad(found @ weights, A)
    exact_x, exact = _pseudo_inverse(A.detach().numpy(), b.numpy(), weights.numpy())
    assert float((found.detach() - exact_x).norm() / exact_x.norm()) <= 1e-8
    assert float((gradient - exact).norm() / exact.norm()) <= 1e-8


def test_digits_that_no_factor_has_are_told():
    """At condition 1e6 the KKT matrix has one of 1e12."""
    A = torch.diag(torch.tensor([1.0, 1e-6], **F64)).requires_grad_()
    x, P = cp.Variable(2), cp.Parameter((2, 2))
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(P @ x - 1))), [P], [x], on_degenerate="raise")
    with pytest.raises(dcl.DegenerateError):
        layer(A)


def _pseudo_inverse(A, b, w):
    """A^+ b and the gradient of w'A^+ b in A, in 60 digits:  -(A^+)'w x' + r ((A'A)^-1 w)',  r = b - A x."""
    import mpmath

    with mpmath.workdps(60):
        A, b, w = (mpmath.matrix(t.tolist()) for t in (A, b, w))
        gram = A.T * A
        x, u = mpmath.lu_solve(gram, A.T * b), mpmath.lu_solve(gram, w)
        gradient = (b - A * x) * u.T - (A * u) * x.T
        as_tensor = [torch.tensor([[float(t) for t in row] for row in M.tolist()], **F64) for M in (x, gradient)]
    return as_tensor[0].flatten(), as_tensor[1]


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-8])
def test_what_kinks_hold_stays_where_it_is_however_small_the_curvature(scale):
    """min |A x - b|^2 + |x_2 - x_1|, x_1 + x_2 = 1/2, with A small: x = (1/4, 1/4), and its derivative is zero."""
    x, P, q = cp.Variable(2), cp.Parameter((2, 2)), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(P @ x - q) + cp.norm1(cp.diff(x))), [cp.sum(x) == 0.5])
    A = (scale * torch.tensor([[0.7, 0.42], [-0.78, 0.91]], **F64)).requires_grad_()
    b = torch.tensor([0.1, -0.1], **F64, requires_grad=True)
    layer = dcl.CvxpyLayer(problem, [P, q], [x], on_degenerate="raise")
    assert layer._reductions.exact.cuts is not None
    (found,) = layer(A, b)
    torch.testing.assert_close(found, torch.full_like(found, 0.25), rtol=1e-14, atol=0.0)
    for gradient in torch.autograd.grad(found @ torch.tensor([1.0, -2.0], **F64), [A, b]):
        assert float(gradient.abs().max()) <= 1e-12


# In and out of the fast lane


def test_instances_that_are_not_certified_say_what_they_say_without_reduction():
    x, p, h = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) <= h, x >= 0])
    p_values = torch.tensor([[0.9, 0.6], [0.5, 0.5], [0.3, 0.2], [0.5, 0.5]], **F64, requires_grad=True)
    h_values = torch.tensor([1.0, -1.0, 1.0, 1.0], **F64)  # regular, infeasible, regular, at a tie
    said = []
    for reduce in (True, False):
        layer = dcl.CvxpyLayer(problem, [p, h], [x], on_failure="nan", reduce=reduce)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            (found,) = layer(p_values, h_values)
        (gradient,) = torch.autograd.grad(found.nansum(), p_values)
        with pytest.raises(dcl.SolveError) as error:
            dcl.CvxpyLayer(problem, [p, h], [x], reduce=reduce, on_degenerate="ignore")(p_values, h_values)
        degenerate = [str(w.message) for w in heard if issubclass(w.category, dcl.DegenerateWarning)]
        said.append((found.detach(), gradient, str(error.value), degenerate))
    assert len(said[0][3]) == 1
    assert said[0][2:] == said[1][2:]
    torch.testing.assert_close(said[0][:2], said[1][:2], equal_nan=True, rtol=1e-12, atol=1e-12)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["ls_simplex", "lasso", "mpc_with_abs", "aliases"])
def test_higher_derivatives_and_jacobians(name):
    case = case_of(name)
    layer, plain = (layer_of(case, reduce=reduce) for reduce in (True, False))
    tensors = [
        t[:1] if np.ndim(value) > p.ndim else t
        for t, value, p in zip(case.tensors(), case.values, case.parameters, strict=True)
    ]
    last = tensors.pop()

    def loss(f, t):
        return f(*tensors, t)[0].square().sum()

    for transform in (torch.func.hessian, torch.func.grad):
        torch.testing.assert_close(
            *(transform(lambda t, f=f: loss(f, t))(last) for f in (layer, plain)), rtol=1e-8, atol=1e-9
        )
    leaf = last.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(layer, leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    whole = torch.func.hessian(lambda t: loss(plain, t))(last)
    torch.testing.assert_close(second.flatten(), whole.reshape(last.numel(), -1).sum(0), rtol=1e-8, atol=1e-9)


def test_solutions_and_warm_starts():
    case = case_of("ls_simplex")
    layer, plain = (layer_of(case, reduce=reduce) for reduce in (True, False))
    tensors = case.tensors()
    one, other = (f.solve(*tensors) for f in (layer, plain))
    for name in ("canonical_x", "z", "s", "value"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-11, atol=1e-12)
    assert one.solvers == ("CORE",)
    (again,) = layer(*tensors, warm_start=one)
    torch.testing.assert_close(again, layer(*tensors)[0], rtol=1e-12, atol=1e-13)


def test_sizes_are_told():
    case = case_of("portfolio")
    assert "n=23, m=24" in repr(layer_of(case))
    assert "reduced=[n=10, m=1, bounds=10]" in repr(layer_of(case))
    assert "reduced" not in repr(layer_of(case, reduce=False))


@pytest.mark.parametrize("name", [name for name in CASES if case_of(name).after is not None])
def test_sizes_of_what_the_core_solves(name):
    case = case_of(name)
    reduction = layer_of(case)._reductions.exact
    assert reduction is not None
    assert reduction.after == case.after


def test_gradients_of_shared_parameters_are_sums():
    case = case_of("lasso")
    A, b, weight = case.tensors()
    shared = A[0].clone().requires_grad_()
    repeated = A[:1].expand_as(A).clone().requires_grad_()
    layer = layer_of(case)
    g, h = (torch.autograd.grad(layer(t, b, weight)[0].square().sum(), t)[0] for t in (shared, repeated))
    torch.testing.assert_close(g, h.sum(0), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["lasso", "mpc", "tv"])
def test_a_first_call_under_inference_mode_leaves_nothing_behind(name):
    case = case_of(name)
    layer, fresh = layer_of(case), layer_of(case)
    with torch.inference_mode():
        layer(*case.tensors())
    results = []
    for f in (layer, fresh):
        leaves = [t.requires_grad_() for t in case.tensors()]
        results.append(torch.autograd.grad(f(*leaves)[0].square().sum(), leaves))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)


def test_copies_and_pickles():
    case = case_of("lasso")
    layer = layer_of(case)
    expected = layer(*case.tensors())[0]
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(again(*case.tensors())[0], expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("reduce", [True, False])
def test_outputs_may_be_changed_in_place(reduce):
    case = case_of("ls_simplex")
    outputs = [*case.variables, case.problem.constraints[1].dual_variables[0], case.problem.objective]
    leaves = [t.requires_grad_() for t in case.tensors()]
    layer = layer_of(case, *outputs, reduce=reduce)
    losses = [
        sum(t.square().sum() for t in layer(*leaves)),
        sum(t.mul_(2.0).square().sum() / 4.0 for t in layer(*leaves)),
    ]
    for one, other in zip(*(torch.autograd.grad(t, leaves) for t in losses), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


def test_float32_in_and_out():
    case = case_of("ls_simplex")
    layer = layer_of(case)
    (x,) = layer(*(t.float() for t in case.tensors()))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), layer(*case.tensors())[0], rtol=1e-4, atol=1e-5)


# The parts


def test_matrices_of_all_kinds_multiply_as_full_ones():
    generator = torch.Generator().manual_seed(0)
    n, B = 3, 4

    def normal(*shape):
        return torch.randn(shape, generator=generator, **F64)

    kinds = [Zero((n, n)), Diagonal(normal(B, n)), Diagonal(normal(1, n)), Full(normal(B, n, n)), Full(normal(1, n, n))]
    x, y = normal(B, n), normal(B, n)
    for M in kinds:
        assert torch.allclose((M.times(x) * y).sum(), (x * M.transposed(y)).sum(), rtol=ROUNDING, atol=ROUNDING)
        for N in kinds:
            torch.testing.assert_close(
                product(M, N).full() + 0.0 * normal(B, n, n), M.full() @ N.full() + 0.0 * normal(B, n, n)
            )
            torch.testing.assert_close(
                transposed_product(M, N).full() + 0.0 * normal(B, n, n), M.full().mT @ N.full() + 0.0 * normal(B, n, n)
            )
            torch.testing.assert_close(
                total(M, N).full() + 0.0 * normal(B, n, n), M.full() + N.full() + 0.0 * normal(B, n, n)
            )


def ways(monkeypatch, layer, *tensors):
    """The output of a call, and the ways that were asked: "Direct" or "ReducedWay"."""
    asked = []
    with monkeypatch.context() as patch:
        for way in (Direct, ReducedWay):

            def spy(self, given, ask, of=way.ask):
                asked.append(type(self).__name__)
                return of(self, given, ask)

            patch.setattr(way, "ask", spy)
        (out,) = layer(*tensors)
    return out, asked


def test_small_programs_go_as_they_are(monkeypatch):
    monkeypatch.setattr("dcl.layers.either_way._FIXED", 3e6)
    case = case_of("lasso")
    few = [t[:1] for t in case.tensors()]
    many = [t.repeat(500, *[1] * (t.ndim - 1)) for t in few]
    assert ways(monkeypatch, layer_of(case), *few)[1] == ["Direct"]
    assert ways(monkeypatch, layer_of(case), *many)[1] == ["ReducedWay"]


def test_what_only_the_reduction_makes_ill_conditioned_goes_as_it_is(monkeypatch):
    # P' = A'A + tiny I has the condition 1 / tiny; beside the residuals as variables the KKT matrix has not
    rng, tiny = np.random.default_rng(0), 1e-8
    A, x, b = rng.standard_normal((10, 20)), cp.Variable(20), cp.Parameter(10)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + tiny * cp.sum_squares(x)))
    leaf = torch.tensor(rng.standard_normal((4, 10)), requires_grad=True)
    out, asked = ways(monkeypatch, dcl.CvxpyLayer(problem, [b], [x], on_degenerate="raise"), leaf)
    assert asked == ["ReducedWay", "Direct"]
    # x = A'(A A' + tiny I)^-1 b
    K = np.linalg.solve(A @ A.T + tiny * np.eye(10), A).T
    np.testing.assert_allclose(out.detach().numpy(), leaf.detach().numpy() @ K.T, rtol=0.0, atol=1e-9)
    weights = rng.standard_normal((4, 20))
    out.backward(torch.tensor(weights))
    np.testing.assert_allclose(leaf.grad.numpy(), weights @ K, rtol=0.0, atol=1e-9)

"""Laws of the reduction for cone programs: those of test_reduction.py, and the contract of what the core certifies."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles import polish
from reduction_cones import CONES, TERMS
from reduction_programs import Case
from tolerances import IDENTITY

import dcl
from dcl import GradientKind, Status, core
from dcl.layers.lane import Ask
from dcl.layers.reduced_lane import Lifted, ReducedWay

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
F64 = {"dtype": torch.float64}
CASES = TERMS | CONES
# A case whose reduction would save nothing has none.
AS_GIVEN = ("entropic_constraint",)
REDUCED = [name for name in CASES if name not in AS_GIVEN]
KKT, POINT, GRADIENT = 1e-11, 1e-10, 1e-9


@pytest.fixture(autouse=True)
def reduced(monkeypatch):
    """The reduced program goes first, however small the program is."""
    monkeypatch.setattr("dcl.layers.either_way._FIXED", 0.0)


def case_of(name: str, seed: int = 0) -> Case:
    return CASES[name](np.random.default_rng(seed))


def layer_of(case: Case, *outputs, **settings) -> dcl.CvxpyLayer:
    settings = {"on_degenerate": "ignore"} | settings
    return dcl.CvxpyLayer(case.problem, case.parameters, outputs or case.variables, **settings)


def asked(layer: dcl.CvxpyLayer, tensors, mu=None) -> tuple[ReducedWay, Lifted]:
    """What the reduced program alone says, neither the program as given nor the careful lane behind it."""
    arguments = {str(p): t for p, t in enumerate(tensors)}
    plan = layer._plan(arguments)
    way = layer._way(arguments, plan, mu is None)
    way = getattr(way, "reduced", way)
    assert isinstance(way, ReducedWay)
    barrier = None if mu is None else torch.tensor([mu], **F64)
    _, kept = way.ask(tensors, Ask(plan.batch.shape, barrier, None, 1, True))
    return way, kept


def stated(layer: dcl.CvxpyLayer, tensors):
    """The programs as given, P and A as matrices."""
    form = layer._form
    program, _ = form.program([form.flatten(t, p) for p, t in enumerate(tensors)])
    return program, form.structure.P.dense(program.P), form.structure.A.dense(program.A)


def times(M, x):
    return (M @ x.unsqueeze(-1)).squeeze(-1)


# The program as given


@pytest.mark.sample(5)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", REDUCED)
def test_what_is_certified_satisfies_the_kkt_system_of_the_program_as_given(name, seed):
    """F(x, v) = 0 for v = z - s, s = b - Ax: z is the projection of v onto K*."""
    case = case_of(name, seed)
    layer, tensors = layer_of(case), case.tensors()
    _, kept = asked(layer, tensors)
    (x, z), (program, P, A) = kept.point(), stated(layer, tensors)
    assert bool((kept.status == 0).all())
    size = 1.0 + z.abs().amax(-1, keepdim=True) + x.abs().amax(-1, keepdim=True)
    stationarity = times(P, x) + program.q + times(A.mT, z)
    s = program.b - times(A, x)
    zeros = layer._form.structure.cone.zeros
    projected = layer._form.structure.cone.project(z - s, 0.0) - z
    for residual in (stationarity, s[:, :zeros], projected):
        assert bool(((residual / size).abs() <= KKT).all())


@pytest.mark.sample(3)
@pytest.mark.parametrize("mu", [None, 0.05])
@pytest.mark.parametrize("name", REDUCED)
def test_systems_are_those_of_the_program_as_given(name, mu):
    """P u + A'w = g and D dv = w for dv = w - (h - A u), with D of `dcl.cones`, for any g and h, those of terms too."""
    case = case_of(name, 1)
    layer, tensors = layer_of(case), case.tensors()
    if mu is not None and layer._reductions.on_path is None:
        pytest.skip("nothing is reduced on the path")
    way, kept = asked(layer, tensors, mu)
    if not kept.is_regular:
        pytest.skip("a row that has defined a variable is slack here")
    _, P, A = stated(layer, tensors)
    order, (x, z) = way.reduction.order, kept.point()
    generator = torch.Generator().manual_seed(2)
    g, h = (torch.randn(t.shape, generator=generator, **F64) for t in (x, z))
    u, w = kept.solved.factored.solve(g[:, order.columns], h[:, order.lines])
    u, w = u[:, order.variables], w[:, order.rows]
    size = float(u.abs().max() + w.abs().max())
    assert float((times(P, u) + times(A.mT, w) - g).abs().max()) <= 1e-11 * size
    cone, s = layer._form.structure.cone, kept.solved.measured.s[:, order.rows]
    barrier = 0.0 if mu is None else torch.full((1, 1), mu, **F64)
    D = cone.dproject(z - s, barrier, torch.full_like(z, torch.nan))
    assert float((D.apply(w - h + times(A, u)) - w).abs().max()) <= 1e-9 * size


@pytest.mark.sample(3)
@pytest.mark.parametrize("mu", [0.0, 0.05])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_agree_with_those_without_reduction(name, mu):
    for seed in range(2):
        case = case_of(name, seed)
        outputs = [*case.variables, case.problem.objective, *(c.dual_variables[0] for c in case.problem.constraints)]
        found = []
        for reduce in (True, False):
            leaves = [t.requires_grad_() for t in case.tensors()]
            results = layer_of(case, *outputs, mu=mu, reduce=reduce)(*leaves)
            generator = torch.Generator().manual_seed(seed)
            loss = sum((t * torch.randn(t.shape, generator=generator, **F64)).sum() for t in results)
            found.append((*results, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)))
        for one, other in zip(*found, strict=True):
            assert float((one - other).detach().norm()) <= IDENTITY * (1e-3 + float(other.detach().norm()))


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", REDUCED)
def test_gradients_against_differences(name):
    """Of Newton's method on the KKT conditions in NumPy (tests/oracles/polish.py)."""
    case = case_of(name, 7)
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal(v.shape) for v in case.variables]
    first = [v[0] if np.ndim(v) > p.ndim else v for p, v in zip(case.parameters, case.values, strict=True)]
    ways = [rng.standard_normal(np.shape(value)) for value in first]
    ways = [w + w.T if p.is_symmetric() and np.ndim(w) == 2 else w for p, w in zip(case.parameters, ways, strict=True)]
    step = 1e-4

    def solved(t: float) -> float:
        for p, value, way in zip(case.parameters, first, ways, strict=True):
            p.value = value + t * way
        polish.solve(case.problem)
        return sum(float((w * v.value).sum()) for w, v in zip(weights, case.variables, strict=True))

    slope = (8.0 * (solved(step) - solved(-step)) - solved(2.0 * step) + solved(-2.0 * step)) / (12.0 * step)
    leaves = [torch.tensor(value, **F64, requires_grad=True) for value in first]
    loss = sum((torch.tensor(w) * t).sum() for w, t in zip(weights, layer_of(case)(*leaves), strict=True))
    gradients = torch.autograd.grad(loss, leaves)
    found = sum(float((g * torch.tensor(d)).sum()) for g, d in zip(gradients, ways, strict=True))
    assert abs(found - slope) <= 1e-7 * (1.0 + abs(slope))


def test_sizes():
    """As many variables as there are in the smooth functions; cones that stay lose their aliases."""
    for name, after in (
        ("logistic", (4, 24, 0)),
        ("log_sum_exp", (4, 7, 0)),
        ("entropy", (5, 11, 0)),
        ("log_utility", (4, 13, 4)),
        ("spectraplex", (6, 7, 0)),
        ("ball", (4, 6, 0)),
    ):
        layer = layer_of(case_of(name))
        assert layer._reductions.exact.after == after, name
        assert (layer._reductions.exact.terms is not None) == (name in TERMS)


# Closed forms


def test_maximum_entropy_is_softmax():
    n = 6
    x, c = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(c @ x - cp.sum(cp.entr(x))), [cp.sum(x) == 1])
    layer = dcl.CvxpyLayer(problem, [c], [x, problem.objective], on_degenerate="raise")
    costs = torch.linspace(-2.0, 3.0, 5 * n, **F64).reshape(5, n).sin().requires_grad_()
    found, value = layer(costs)
    exact = torch.softmax(-costs, -1)
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(value, -torch.logsumexp(-costs, -1), rtol=1e-13, atol=1e-14)
    w = torch.linspace(0.5, 1.5, n, **F64)
    for one, other in ((found @ w + value, exact @ w - torch.logsumexp(-costs, -1)),):
        grads = (torch.autograd.grad(t.sum(), costs, retain_graph=True)[0] for t in (one, other))
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-13)


def test_projection_onto_a_ball():
    """min |x - y|^2, |x| <= r:  r y / |y|, and y inside, where the row that has defined t is slack."""
    x, y, r = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [cp.norm(x) <= r]), [y, r], [x])
    points = torch.tensor([[3.0, 4.0, 0.0], [0.3, -0.2, 0.1], [-1.0, 2.0, 2.0]], **F64, requires_grad=True)
    radius = torch.tensor([1.0, 1.0, 2.0], **F64, requires_grad=True)
    size = points.norm(dim=-1, keepdim=True)
    exact = torch.where(size > radius.unsqueeze(-1), radius.unsqueeze(-1) * points / size, points)
    (found,) = layer(points, radius)
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=1e-14)
    w = torch.tensor([1.0, -2.0, 0.5], **F64)
    for g, h in zip(*(torch.autograd.grad((t @ w).sum(), [points, radius]) for t in (found, exact)), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-12, atol=1e-13)


# The contract of the two lanes


@pytest.mark.sample(5)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", REDUCED)
def test_certified_is_optimal_and_exact(name, scale):
    """With the first parameter times `scale`; a solver that is named is the one that runs, in the careful lane."""
    case = case_of(name, 5)
    tensors = case.tensors()
    tensors[0] = tensors[0] * scale
    _, kept = asked(layer_of(case), tensors)
    certified = kept.status == 0
    assert scale != 1.0 or bool(certified.all())
    if not bool(certified.any()):
        return
    picked = [t[certified] if t.ndim > p.ndim else t for t, p in zip(tensors, case.parameters, strict=True)]
    layer = layer_of(case, solver="CLARABEL", on_failure="nan")
    outputs, solution = layer(*picked, return_solution=True)
    assert set(solution.status.tolist()) == {Status.OPTIMAL}
    assert set(solution.gradient_kind.tolist()) == {GradientKind.EXACT}
    x, z = kept.point()
    pairs = list(zip(layer._form.extract(x, z), outputs, strict=True))
    if kept.is_regular:  # else a row that has defined a variable is slack, and that variable is one of many
        pairs += [(x, solution.canonical_x), (z, solution.z)]
    for one, other in ((a[certified].flatten(1), b.flatten(1)) for a, b in pairs):
        assert float(((one - other).abs().amax(-1) / (1.0 + other.abs().amax(-1))).max()) <= POINT


def _classes(separable: bool) -> torch.Tensor:
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal((3, 20, 4)), rng.standard_normal(4)
    signs = np.where(np.arange(20) % 2 == 0, 1.0, -1.0)
    return torch.tensor(X * np.sign((X @ w) * signs)[..., None] if separable else X)


def _hard() -> dict[str, tuple[cp.Problem, list[cp.Parameter], list[torch.Tensor]]]:
    x, c, X = cp.Variable(4), cp.Parameter(4), cp.Parameter((20, 4))
    signs = np.where(np.arange(20) % 2 == 0, 1.0, -1.0)
    loss = cp.sum(cp.logistic(-cp.multiply(signs, X @ x)))
    points = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), **F64)
    entropy = cp.Minimize(c @ x - cp.sum(cp.entr(x)))
    return {
        "separable": (cp.Problem(cp.Minimize(loss)), [X], [_classes(True)]),
        "separable, and hardly a penalty": (
            cp.Problem(cp.Minimize(loss + 1e-9 * cp.sum_squares(x))),
            [X],
            [_classes(True)],
        ),
        "infeasible entropy": (cp.Problem(entropy, [cp.sum(x) == -1.0]), [c], [points]),
        "infeasible logarithm": (cp.Problem(cp.Maximize(cp.sum(cp.log(x)) + c @ x), [x <= -0.1]), [c], [points]),
        "infeasible ball": (
            cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= 1.0, cp.sum(x) >= 3.0]),
            [c],
            [points],
        ),
        "unattained exponential": (cp.Problem(cp.Minimize(cp.sum(cp.exp(x)) + 0.0 * c @ x)), [c], [points]),
        "unbounded exponential": (cp.Problem(cp.Minimize(cp.sum(cp.exp(x)) + c @ x)), [c], [points.abs() + 0.1]),
        "unbounded logarithm": (cp.Problem(cp.Maximize(cp.sum(cp.log(x)) + c @ x)), [c], [points.abs()]),
    }


@pytest.mark.parametrize("name", list(_hard()))
def test_nothing_without_a_solution_is_certified(name):
    problem, parameters, tensors = _hard()[name]
    layer = dcl.CvxpyLayer(problem, parameters, problem.variables(), on_failure="nan", on_degenerate="ignore")
    _, kept = asked(layer, tensors)
    assert not bool((kept.status == 0).any())
    assert int(kept.iterations.max()) <= 400


def test_a_weight_of_zero_is_for_the_careful_lane():
    """At lambda = 0 the epigraph may be anywhere above: x is as it is without it, and the cone is at a tie."""
    x, y, weight = cp.Variable(3), cp.Parameter(3), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y) + weight * cp.sum(cp.logistic(x))))
    layer = dcl.CvxpyLayer(problem, [y, weight], [x])
    points = torch.tensor([[1.0, -2.0, 0.5], [1.0, -2.0, 0.5]], **F64, requires_grad=True)
    weights = torch.tensor([0.0, 1.0], **F64)
    _, kept = asked(layer, [points.detach(), weights])
    assert (kept.status == 0).tolist() == [False, True]
    (found,) = layer(points, weights)
    torch.testing.assert_close(found[0], points[0])
    (gradient,) = torch.autograd.grad(found[0].sum(), points)
    torch.testing.assert_close(gradient[0], torch.ones(3, **F64))


def test_warm_starts_and_threads_change_nothing():
    case = case_of("logistic_in_a_box")
    layer = layer_of(case)
    tensors = case.tensors()
    solution = layer.solve(*tensors)
    moved = [t * 1.01 for t in tensors]
    torch.testing.assert_close(layer(*moved, warm_start=solution)[0], layer(*moved)[0], rtol=1e-12, atol=1e-13)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        twice = layer(*moved)[0]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(twice, layer(*moved)[0])


def test_second_derivatives_are_taken_at_the_same_point():
    case = case_of("entropy")
    costs = case.tensors()[0].requires_grad_()
    (x,) = layer_of(case)(costs)
    exact = torch.softmax(-costs, -1)
    hessians = []
    for t in (x, exact):
        (g,) = torch.autograd.grad(t[:, 0].sum(), costs, create_graph=True)
        hessians.append(torch.autograd.grad(g[:, 1].sum(), costs)[0])
    torch.testing.assert_close(*hessians, rtol=1e-9, atol=1e-11)

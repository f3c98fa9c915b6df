"""The derivative in mu: 40 digits, closed forms, every mode of torch; and mu = 0 beside mu > 0 in one batch.

Measured: the gradient in mu agrees with eq. 61 in 40 digits to 2e-11 for mu from 1e-1 to 1e-6.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles import central_path
from oracles.central_path import KEYS
from torch import func
from torch.autograd import gradcheck, gradgradcheck

import dcl
from dcl.cones import Exponential, Nonnegative, Power, Product, SecondOrder, Semidefinite, Zero
from dcl.implicit.projection import curvature_product, dproduct, project, slope_in_mu
from dcl.program import Structure
from dcl.program.pattern import DensePattern
from dcl.status import GradientKind

F64 = {"dtype": torch.float64}
CONES = {
    "zero and nonnegative": Product((Zero(2), Nonnegative(3))),
    "second order": SecondOrder(3, 2),
    "semidefinite": Semidefinite(3),
    "exponential": Exponential(2),
    "power": Power((0.3, 0.5)),
}
each_cone = pytest.mark.parametrize("name", CONES)
costly = ("s", "ep", "p", "all")
each_key = pytest.mark.parametrize("key", [pytest.param(k, marks=[pytest.mark.slow] * (k in costly)) for k in KEYS])


def on_cone(name: str):
    """A structure with this cone, points v of both signs, and mu."""
    cone, generator = CONES[name], torch.Generator().manual_seed(3)
    v = torch.randn(2, cone.dim, generator=generator, **F64)
    structure = Structure(DensePattern((cone.dim, cone.dim)), DensePattern((cone.dim, cone.dim)), cone)
    return structure, v, torch.full_like(v, torch.nan), torch.tensor([[0.3], [0.02]], **F64)


@each_cone
def test_slope_is_the_derivative_of_the_projection_and_D_s_over_mu(name):
    structure, v, at_kink, mu = on_cone(name)
    cone, step = structure.cone, 1e-5
    slope = cone.slope_in_mu(v, mu)
    difference = (cone.project(v, mu * (1 + step)) - cone.project(v, mu * (1 - step))) / (2 * step * mu)
    torch.testing.assert_close(slope, difference, rtol=1e-8, atol=1e-8)
    z = cone.project(v, mu)
    torch.testing.assert_close(slope, cone.dproject(v, mu, at_kink).apply(z - v) / mu, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=[pytest.mark.slow] * (k in ("exponential", "power"))) for k in CONES]
)
def test_primitives_are_differentiable_in_mu_and_v(name):
    structure, v, at_kink, mu = on_cone(name)
    w, a = torch.randn_like(v), torch.randn_like(v)
    leaves = (mu.requires_grad_(), v.requires_grad_())
    once = {
        "project": lambda mu, v: project(structure, mu, v, at_kink),
        "dproduct": lambda mu, v: dproduct(structure, mu, v, at_kink, w),
        "slope": lambda mu, v: slope_in_mu(structure, mu, v),
    }
    for f in once.values():
        assert gradcheck(f, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(once["project"], leaves, fast_mode=True)
    if name not in ("exponential", "power"):  # third derivatives are not available there
        assert gradcheck(lambda mu, v: curvature_product(structure, mu, v, a, w), leaves, fast_mode=True)


@pytest.mark.sample(2)
@pytest.mark.parametrize("mu", [1e-1, 1e-3, 1e-6])
@each_key
def test_against_equation_61_in_high_precision(key, mu):
    cones, data, inside = central_path.program(key, 1)
    weights = np.random.default_rng(7).standard_normal(len(inside))
    known = central_path.point(**data, cones=cones, mu=mu, start=inside, weights=weights)
    leaf = torch.tensor(mu, **F64, requires_grad=True)
    x = dcl.ConeLayer(cones)(**{name: torch.tensor(a) for name, a in data.items()}, mu=leaf).x
    np.testing.assert_allclose(x.detach().numpy(), known["x"], rtol=0, atol=1e-10 * np.abs(known["x"]).max())
    (found,) = torch.autograd.grad(x @ torch.tensor(weights), leaf)
    np.testing.assert_allclose(float(found), known["mu"][0], rtol=1e-9, atol=1e-9)


@pytest.mark.sample(2)
@each_key
def test_cone_layer_in_mu_and_data(key):
    cones, data, _ = central_path.program(key, 2)
    layer = dcl.ConeLayer(cones)
    P, A = (torch.tensor(data[name]) for name in ("P", "A"))
    q, b = (torch.tensor(data[name]).expand(2, -1).clone().requires_grad_() for name in ("q", "b"))
    mu = torch.tensor([0.1, 0.02], **F64, requires_grad=True)
    assert gradcheck(
        lambda mu, q, b: tuple(layer(P, q, A, b, mu=mu)), (mu, q, b), check_forward_ad=True, fast_mode=True
    )
    assert gradgradcheck(lambda mu: layer(P, q.detach(), A, b.detach(), mu=mu).x, (mu,), fast_mode=True)


def box(mu: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """argmin q'x - mu sum log(x) - mu sum log(1 - x): q x (1 - x) = mu (1 - 2 x)."""
    r = torch.sqrt(q * q + 4.0 * mu * mu)
    return 2.0 * mu / (q + 2.0 * mu + r)


def box_layers():
    """Functions of mu and q whose x is `box`."""
    x, q = cp.Variable(3), cp.Parameter(3)
    cvx = dcl.CvxpyLayer(cp.Problem(cp.Minimize(q @ x), [x >= 0, x <= 1]), [q], [x])
    zero, one, eye = torch.zeros(3, **F64), torch.ones(3, **F64), torch.eye(3, **F64)
    A, b = torch.cat([-eye, eye]), torch.cat([zero, one])
    qp, cone = dcl.QPLayer(), dcl.ConeLayer({"l": 6})
    return {
        "qp": lambda mu, q: qp(None, q, lb=zero, ub=one, mu=mu).x,
        "cone": lambda mu, q: cone(None, q, A, b, mu=mu).x,
        "cvxpy": lambda mu, q: cvx(q, mu=mu)[0],
    }


@pytest.mark.parametrize("name", ["qp", "cone", "cvxpy"])
def test_box_against_its_closed_form_in_every_mode(name):
    layer = box_layers()[name]
    q = torch.tensor([[1.0, -0.5, 0.2], [-1.0, 3.0, 0.1]], **F64)
    mu = torch.tensor([0.2, 1e-3], **F64)

    def total(f):
        return lambda mu, q: f(mu, q).square().sum()

    def known(mu, q):
        return box(mu.unsqueeze(-1), q)

    close = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(layer(mu, q), known(mu, q), **close)
    for order in (func.grad, lambda f: func.jacrev(f), lambda f: func.jacfwd(f), lambda f: func.hessian(f)):
        torch.testing.assert_close(order(total(layer))(mu, q), order(total(known))(mu, q), rtol=1e-8, atol=1e-9)
    tangents = (torch.tensor([1.0, -2.0], **F64), torch.ones_like(q))
    torch.testing.assert_close(func.jvp(layer, (mu, q), tangents), func.jvp(known, (mu, q), tangents), **close)
    mapped = func.vmap(func.grad(total(lambda m, q: layer(m, q))), (0, 0))(mu, q)
    torch.testing.assert_close(mapped, func.vmap(func.grad(total(box)))(mu.unsqueeze(-1), q).squeeze(-1), **close)
    shared = torch.tensor(0.1, **F64, requires_grad=True)  # one number for the batch: the sum
    found, sums = (torch.autograd.grad(f(shared, q).sum(), shared)[0] for f in (layer, box))
    torch.testing.assert_close(found, sums, **close)


def test_cvxpy_layer_with_duals_and_value():
    x, t = cp.Variable(3), cp.Parameter(3)
    constraint = cp.norm(x) <= 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t) + cp.norm1(x)), [constraint, cp.sum(x) == 0.5])
    layer = dcl.CvxpyLayer(problem, [t], [x, constraint.dual_variables[0], problem.objective])
    mu = torch.tensor([0.1, 0.3], **F64, requires_grad=True)
    at = torch.tensor([[1.0, -0.2, 0.4], [0.1, 0.5, 0.3]], **F64)
    assert gradcheck(lambda mu: layer(at, mu=mu), (mu,), check_forward_ad=True)


def test_mu_of_the_layer_itself_can_be_learned():
    mu = torch.nn.Parameter(torch.tensor(0.5, **F64))
    layer = dcl.QPLayer(mu=mu)
    q = torch.tensor([1.0, -0.5, 0.2], **F64)
    target = box(torch.tensor(0.05, **F64), q)
    for _ in range(12):  # Gauss-Newton in log mu
        x = layer(None, q, lb=0.0, ub=1.0).x
        J = torch.stack([torch.autograd.grad(t, mu, retain_graph=True)[0] for t in x]) * mu.detach()
        mu.data.mul_(torch.exp(-(J @ (x.detach() - target)) / (J @ J)))
    assert float(mu.detach()) == pytest.approx(0.05, rel=1e-9)


@pytest.mark.slow
def test_compiled_graphs_have_the_derivative():
    layer, q = box_layers()["qp"], torch.tensor([1.0, -0.5, 0.2], **F64)
    mu = torch.tensor(0.1, **F64, requires_grad=True)
    compiled = torch.compile(lambda mu: layer(mu, q).sum(), fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(mu), mu)
    torch.testing.assert_close(found, torch.autograd.grad(box(mu, q).sum(), mu)[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("how", ["leaf", "grad", "jvp", "vmap of grad", "compiled"])
def test_zero_has_no_derivative_in_mu_and_says_so(how):
    f, q = box_layers()["qp"], torch.tensor([[1.0, -0.5, 0.2]] * 2, **F64)
    mu = torch.tensor([0.1, 0.0], **F64)

    def total(mu):
        return f(mu, q).sum()

    calls = {
        "leaf": lambda: total(mu.requires_grad_()),
        "grad": lambda: func.grad(total)(mu),
        "jvp": lambda: func.jvp(total, (mu,), (mu,)),
        "vmap of grad": lambda: func.vmap(func.grad(lambda m: f(m, q[0]).sum()))(mu),
        "compiled": lambda: torch.compile(total, backend="aot_eager")(mu.requires_grad_()).backward(),
    }
    with pytest.raises(dcl.UnsupportedError, match="requires a gradient and is zero at batch index"):
        calls[how]()


MIXED = torch.tensor([0.0, 0.1, 0.0, 1e-3], **F64)


def assert_as_one_by_one(call, leaves):
    """call(mu, *leaves), leaves (4, ...), gives in a batch with MIXED what it gives with each mu by itself; gradients too."""
    together = call(MIXED, *leaves)
    seeds = [torch.randn(t.shape, generator=torch.Generator().manual_seed(1), **F64) for t in together]
    grads = torch.autograd.grad(together, leaves, seeds)
    for i, mu in enumerate(MIXED.tolist()):
        row = [t[i].detach().requires_grad_() for t in leaves]
        alone = call(mu, *row)
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one, all_of_them[i], rtol=1e-10, atol=1e-12)
        for one, all_of_them in zip(torch.autograd.grad(alone, row, [s[i] for s in seeds]), grads, strict=True):
            torch.testing.assert_close(one, all_of_them[i], rtol=1e-8, atol=1e-9)


def leaves_of(data, *names):
    return [torch.tensor(data[name]).expand(4, *data[name].shape).clone().requires_grad_() for name in names]


@pytest.mark.parametrize("core", [True, False])
@each_key
def test_zero_and_positive_mu_in_one_batch_for_every_cone(key, core):
    cones, data, _ = central_path.program(key, 4)
    layer = dcl.ConeLayer(cones, solver=None if core else "CLARABEL")
    assert_as_one_by_one(lambda mu, *t: tuple(layer(*t, mu=mu)), leaves_of(data, "P", "q", "A", "b"))


@pytest.mark.parametrize("core", [True, False])
def test_zero_and_positive_mu_in_one_batch_of_quadratic_programs(core):
    rng = np.random.default_rng(0)
    B = rng.standard_normal((5, 5))
    data = {
        "P": B @ B.T,
        "q": rng.standard_normal(5),
        "A": rng.standard_normal((1, 5)),
        "b": np.zeros(1),
        "G": rng.standard_normal((3, 5)),
        "h": np.array([0.1, 1.0, 2.0]),
        "lb": np.array([-1.0, -np.inf, -0.1, -np.inf, -1.0]),
    }
    layer = dcl.QPLayer("DAQP" if not core else None)
    leaves = leaves_of(data, *data)

    def call(mu, P, q, A, b, G, h, lb):
        result = layer(P, q, A=A, b=b, G=G, h=h, lb=lb, mu=mu)
        return result.x, result.y, result.z, result.z_lb, result.value

    assert_as_one_by_one(call, leaves)
    second = [func.hessian(lambda q, m=m: layer(leaves[0][0], q, lb=-0.1, mu=m).x.sum())(leaves[1][0]) for m in MIXED]
    together = func.vmap(func.hessian(lambda q, m: layer(leaves[0][0], q, lb=-0.1, mu=m).x.sum()))(leaves[1], MIXED)
    torch.testing.assert_close(torch.stack(second), together, rtol=1e-8, atol=1e-9)


def test_zero_and_positive_mu_in_one_batch_of_a_reduced_program():
    x, t, A = cp.Variable(4), cp.Parameter(6), cp.Parameter((6, 4))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - t) + cp.norm1(x)), [x <= 0.3])
    layer = dcl.CvxpyLayer(problem, [A, t], [x, problem.objective])
    rng = np.random.default_rng(1)
    data = {"A": rng.standard_normal((6, 4)), "t": rng.standard_normal(6)}
    assert_as_one_by_one(lambda mu, *at: layer(*at, mu=mu), leaves_of(data, "A", "t"))


@pytest.mark.parametrize("solver", [None, "CLARABEL"])
def test_kinds_and_failures_are_those_of_each_instance(solver):
    """q = 0 on x >= 0 is weakly active at mu = 0 only; lb > ub has no solution, lb = ub no x(mu)."""
    zero, one = torch.zeros(1, **F64), torch.ones(1, **F64)
    P, mu = torch.eye(1, **F64), torch.tensor([0.0, 0.01, 0.0, 0.01, 0.01, 0.0], **F64)
    q = torch.stack([zero, zero, -one, -one, -one, -one]).requires_grad_()
    lb = torch.stack([zero, zero, zero, zero, one, one]) * 1.0
    lb[3] = 2.0
    layer = dcl.QPLayer(solver, on_failure="nan", on_degenerate="ignore")
    result, solution = layer(P, q, lb=lb, ub=one, mu=mu, return_solution=True)
    status = [dcl.Status(int(k)).name for k in solution.status]
    assert status == ["OPTIMAL", "OPTIMAL", "OPTIMAL", "PRIMAL_INFEASIBLE", "NUMERICAL_ERROR", "OPTIMAL"]
    kinds = [int(k) for k in solution.gradient_kind]
    assert kinds[:2] == [GradientKind.WEAKLY_ACTIVE, GradientKind.EXACT]
    assert result.x[[0, 2, 5], 0].tolist() == pytest.approx([0.0, 1.0, 1.0], abs=1e-14)
    assert bool(result.x[3:5].isnan().all())
    (gradient,) = torch.autograd.grad(result.x.nansum(), q)
    assert gradient[0].item() == pytest.approx(-0.5)
    assert not gradient[3:5].any()
    assert bool(gradient.isfinite().all())
    with pytest.raises(dcl.SolveError) as caught:
        dcl.QPLayer(solver)(P, q, lb=lb, ub=one, mu=mu)
    assert caught.value.indices == [(3,), (4,)]


def test_all_zero_is_the_exact_solution_and_negative_or_nan_is_refused():
    layer, q = dcl.QPLayer(), torch.tensor([[1.0, -0.5], [0.2, 0.1]], **F64)
    exact = layer(torch.eye(2, **F64), q, lb=0.0, ub=1.0).x
    for mu in (torch.zeros(2, **F64), torch.zeros((), **F64), np.zeros(2)):
        assert torch.equal(layer(torch.eye(2, **F64), q, lb=0.0, ub=1.0, mu=mu).x, exact)
    for bad in (-1e-3, float("nan"), float("inf")):
        with pytest.raises(dcl.InputError, match="positive or zero") as caught:
            layer(torch.eye(2, **F64), q, lb=0.0, ub=1.0, mu=torch.tensor([0.0, bad], **F64))
        assert caught.value.index == (1,)


def test_diagnose_tells_active_rows_of_exact_instances_only():
    P, q, zero = torch.eye(1, **F64), torch.tensor([[1.0], [1.0]], **F64), torch.zeros(1, **F64)
    exact, smooth = dcl.diagnose(dcl.QPLayer(), P, q, lb=zero, mu=torch.tensor([0.0, 0.1], **F64)).points
    assert (exact.on_path, exact.active, exact.margin) == (False, ("lb[0]",), 1.0)
    assert (smooth.on_path, smooth.active, smooth.margin) == (True, (), float("inf"))


def test_straight_through_and_compiled_graphs_take_zeros():
    layer, q = dcl.QPLayer(), torch.tensor([[0.3, -0.5]] * 4, **F64)

    def call(q, **options):
        return layer(torch.eye(2, **F64), q, lb=torch.zeros(2, **F64), mu=MIXED, **options).x

    def slope(f):
        leaf = q.clone().requires_grad_()
        return torch.autograd.grad(f(leaf).sum(), leaf)[0]

    torch.testing.assert_close(call(q, straight_through=True), torch.relu(-q), rtol=0, atol=1e-14)
    torch.testing.assert_close(slope(lambda q: call(q, straight_through=True)), slope(call), rtol=1e-12, atol=1e-13)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q), call(q), rtol=0, atol=1e-13)
    torch.testing.assert_close(slope(compiled), slope(call), rtol=1e-12, atol=1e-13)


def test_argmin_layer_keeps_to_positive_mu_without_a_gradient():
    layer = dcl.ArgminLayer(lambda y, t: ((y - t) ** 2).sum(), inequality=lambda y, t: -y)
    y0, t = torch.ones(2, **F64), torch.zeros(2, **F64)
    with pytest.raises(dcl.UnsupportedError, match="ArgminLayer"):
        layer(y0, t, mu=torch.tensor(0.1, **F64, requires_grad=True))
    with pytest.raises(dcl.InputError, match="ArgminLayer"):
        layer(y0, t, mu=torch.tensor(0.0, **F64))

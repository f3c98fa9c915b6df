"""Every transform of torch.func on every layer, against loops, plain autograd and differences.

A case is a function of a few tensors at a regular point.  Its Jacobians by plain autograd are held to closed forms and high
precision in other files; here they are the reference of the transforms, and second derivatives are held to differences of them.
"""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import pytest
import torch
from front_end_cases import QPByPosition
from tolerances import IDENTITY, ROUNDING
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree

import dcl

func = torch.func
F64 = {"dtype": torch.float64}


@dataclass(frozen=True)
class Case:
    """f maps tensors (n tensors of one instance) to a vector; `draw(seed)` gives an instance."""

    f: Callable[..., Tensor]
    draw: Callable[[int], tuple[Tensor, ...]]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g, **F64)


def qp(mu: float) -> Case:
    layer = QPByPosition(mu=mu)

    def draw(seed: int) -> tuple[Tensor, ...]:
        g = generator(seed)
        L, x0, G, A = normal(g, 3, 3), normal(g, 3), normal(g, 4, 3), normal(g, 1, 3)
        slack = torch.rand(4, generator=g, **F64)
        return L @ L.mT + torch.eye(3, **F64), 3.0 * normal(g, 3), A, A @ x0, G, G @ x0 + slack

    return Case(lambda *t: torch.cat([part.reshape(-1) for part in layer(*t)]), draw)


def lp(mu: float) -> Case:
    """Over the box 0 <= x <= u with a budget: the multipliers move with q, x with the sides."""
    layer = dcl.QPLayer(mu=mu)

    def f(q: Tensor, A: Tensor, u: Tensor) -> Tensor:
        out = layer(None, q, A=A, b=torch.ones(1, **F64), lb=torch.zeros(3, **F64), ub=u)
        return torch.cat([out.x, out.y, out.z_lb, out.z_ub])

    def draw(seed: int) -> tuple[Tensor, ...]:
        g = generator(seed)
        return normal(g, 3), 1.0 + torch.rand(1, 3, generator=g, **F64), 0.5 + torch.rand(3, generator=g, **F64)

    return Case(f, draw)


def cone(cones: dict[str, Any], rows: int, mu: float) -> Case:
    """The projection of a point onto an affine image of the cone: P = I, x = A'y-like, boundary at random points."""
    layer = dcl.ConeLayer(cones, mu=mu)

    def f(q: Tensor, A: Tensor, b: Tensor) -> Tensor:
        out = layer(torch.eye(A.shape[-1], **F64), q, A, b)
        return torch.cat([out.x, out.z, out.s])

    def draw(seed: int) -> tuple[Tensor, ...]:
        g = generator(seed)
        inside = {
            "q": [1.5, 0.1, -0.2, 0.3],
            "s": [1.0, 0.1, 0.2, 1.0, 0.1, 1.0],
            "ep": [0.1, 1.0, 3.0],
            "p": [1.0, 1.2, 0.1],
        }
        (kind,) = cones
        A = normal(g, rows, 3)
        return 3.0 * normal(g, 3), A, torch.tensor(inside[kind], **F64) + 0.1 * A @ normal(g, 3)

    return Case(f, draw)


def portfolio(mu: float) -> Case:
    mean, root, gamma = cp.Parameter(3), cp.Parameter((3, 3)), cp.Parameter(nonneg=True)
    w, t = cp.Variable(3), cp.Variable()
    budget = cp.sum(w) == 1
    problem = cp.Problem(
        cp.Maximize(mean @ w - gamma * t - cp.sum_squares(w)), [budget, w >= 0, cp.norm(root @ w) <= t]
    )
    layer = dcl.CvxpyLayer(problem, [mean, root, gamma], [w, budget.dual_variables[0], problem.objective], mu=mu)

    def draw(seed: int) -> tuple[Tensor, ...]:
        g = generator(seed)
        return normal(g, 3), normal(g, 3, 3), 0.5 + torch.rand((), generator=g, **F64)

    return Case(lambda *p: torch.cat([part.reshape(-1) for part in layer(*p)]), draw)


KINDS: dict[str, Callable[[float], Case]] = {
    "qp": qp,
    "lp": lp,
    "second-order": lambda mu: cone({"q": [4]}, 4, mu),
    "semidefinite": lambda mu: cone({"s": [3]}, 6, mu),
    "exponential": lambda mu: cone({"ep": 1}, 3, mu),
    "power": lambda mu: cone({"p": [0.3]}, 3, mu),
    "cvxpy": portfolio,
}
CASES = {f"{kind}, mu={mu}": make(mu) for (kind, make), mu in itertools.product(KINDS.items(), (0.0, 0.1))}
QUICK = ("qp, mu=0.0", "lp, mu=0.0", "second-order, mu=0.1", "semidefinite, mu=0.0")
each_case = pytest.mark.parametrize(
    "case", [pytest.param(c, id=name, marks=[] if name in QUICK else pytest.mark.slow) for name, c in CASES.items()]
)


def batch(case: Case, size: int) -> tuple[Tensor, ...]:
    return tuple(torch.stack(parts) for parts in zip(*(case.draw(seed) for seed in range(size)), strict=True))


def scalar(case: Case) -> Callable[..., Tensor]:
    """A loss with curvature of its own."""

    def loss(*t: Tensor) -> Tensor:
        out = case.f(*t)
        return (out * torch.linspace(0.5, 1.5, out.shape[-1], **F64)).sum() + 0.5 * (out * out).sum()

    return loss


def close(got: Any, want: Any, tol: float) -> None:
    got, want = ((t,) if isinstance(t, Tensor) else t for t in (got, want))
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= tol * (1.0 + float(b.abs().max()))


def jacobian(case: Case, data: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Rows by torch.autograd.grad."""
    leaves = [t.clone().requires_grad_() for t in data]
    out = case.f(*leaves)
    rows = [torch.autograd.grad(entry, leaves, retain_graph=True) for entry in out]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


@pytest.mark.sample(3)
@each_case
def test_vmap_is_the_loop(case: Case) -> None:
    data = batch(case, 4)
    want = torch.stack([case.f(*one) for one in zip(*data, strict=True)])
    close(func.vmap(case.f)(*data), want, IDENTITY)
    moved = tuple(t.movedim(0, -1) for t in data)
    close(func.vmap(case.f, in_dims=-1, out_dims=1)(*moved), want.mT, IDENTITY)
    # over the first argument only
    shared = (data[0], *(t[0] for t in data[1:]))
    want = torch.stack([case.f(first, *shared[1:]) for first in data[0]])
    close(func.vmap(case.f, in_dims=(0, *[None] * (len(data) - 1)))(*shared), want, IDENTITY)
    # nested: the first argument inside, the others outside
    inner = func.vmap(case.f, in_dims=(0, *[None] * (len(data) - 1)))
    outer = func.vmap(inner, in_dims=(None, *[0] * (len(data) - 1)))
    grid = torch.stack([torch.stack([case.f(a, *one) for a in data[0]]) for one in zip(*data[1:], strict=True)])
    close(outer(*data), grid, IDENTITY)


@pytest.mark.filterwarnings("ignore:the gradient with respect to:dcl.DegenerateWarning")  # of a linear program
@pytest.mark.sample(3)
@each_case
def test_per_instance_gradients(case: Case) -> None:
    data, every = batch(case, 3), tuple(range(len(batch(case, 1))))
    loss = scalar(case)
    want = [torch.autograd.grad(loss(*leaves), leaves) for leaves in _leaves(data)]
    want = tuple(torch.stack(parts) for parts in zip(*want, strict=True))
    close(func.vmap(func.grad(loss, argnums=every))(*data), want, IDENTITY)
    close(func.grad(lambda *t: func.vmap(loss)(*t).sum(), argnums=every)(*data), want, IDENTITY)
    # the plain graph of a vmapped call
    leaves = [t.clone().requires_grad_() for t in data]
    close(torch.autograd.grad(func.vmap(loss)(*leaves).sum(), leaves), want, IDENTITY)


def _leaves(data: tuple[Tensor, ...]) -> list[list[Tensor]]:
    return [[t.clone().requires_grad_() for t in one] for one in zip(*data, strict=True)]


@pytest.mark.sample(3)
@each_case
def test_jacobians_in_both_modes(case: Case) -> None:
    data = case.draw(0)
    every, want = tuple(range(len(data))), jacobian(case, data)
    close(func.jacrev(case.f, argnums=every)(*data), want, IDENTITY)
    close(func.jacfwd(case.f, argnums=every)(*data), want, IDENTITY)
    tangents = tuple(normal(generator(7), *t.shape) for t in data)
    along = sum((J.reshape(len(J), -1) @ t.flatten() for J, t in zip(want, tangents, strict=True)), torch.zeros(()))
    out, pushed = func.jvp(case.f, data, tangents)
    close(pushed, along, IDENTITY)
    _, pull = func.vjp(case.f, *data)
    cotangent = normal(generator(8), *out.shape)
    close(pull(cotangent), tuple(torch.tensordot(cotangent, J, 1) for J in want), IDENTITY)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(p, t) for p, t in zip(data, tangents, strict=True)]
        close(forward_ad.unpack_dual(case.f(*duals)).tangent, along, IDENTITY)
    # a batch of Jacobians
    many = batch(case, 2)
    close(func.vmap(func.jacfwd(case.f))(*many)[0], want[0], IDENTITY)
    close(func.vmap(func.jacrev(case.f))(*many)[0], want[0], IDENTITY)


@pytest.mark.sample(4)
@each_case
def test_hessians(case: Case) -> None:
    """Against central differences of the gradient: the error of these is about 1e-8 of the third derivative."""
    data, loss = case.draw(1), scalar(case)
    for k in range(len(data)):

        def of_one(t: Tensor, k: int = k) -> Tensor:
            return loss(*data[:k], t, *data[k + 1 :])

        gradient, t, step = func.grad(of_one), data[k], 1e-5
        columns = [
            (gradient(t + step * e.view_as(t)) - gradient(t - step * e.view_as(t))) / (2.0 * step)
            for e in torch.eye(t.numel(), **F64)
        ]
        differences = torch.stack(columns, -1).reshape(t.shape + t.shape)
        forward_over_reverse = func.hessian(of_one)(t)
        close(forward_over_reverse, differences, 1e-6)
        close(func.jacrev(gradient)(t), forward_over_reverse, IDENTITY)
        close(func.jacrev(func.jacfwd(of_one))(t), forward_over_reverse, IDENTITY)
        leaf = t.clone().requires_grad_()
        (first,) = torch.autograd.grad(of_one(leaf), leaf, create_graph=True)
        rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0] for entry in first.flatten()]
        close(torch.stack(rows).reshape(t.shape + t.shape), forward_over_reverse, IDENTITY)


@pytest.mark.sample(3)
@each_case
def test_vmap_of_hessian(case: Case) -> None:
    data = batch(case, 2)
    got = func.vmap(func.hessian(scalar(case)))(*data)
    want = torch.stack([func.hessian(scalar(case))(*one) for one in zip(*data, strict=True)])
    close(got, want, IDENTITY)


@pytest.mark.sample(3)
@each_case
def test_the_older_vmap_of_autograd(case: Case) -> None:
    """`vectorize=True` and `is_grads_batched=True` do not go through torch.func."""
    data = case.draw(0)
    want = jacobian(case, data)
    for strategy in ("reverse-mode", "forward-mode"):
        got = torch.autograd.functional.jacobian(case.f, data, vectorize=True, strategy=strategy)
        close(got, want, IDENTITY)
    leaves = [t.clone().requires_grad_() for t in data]
    out = case.f(*leaves)
    close(torch.autograd.grad(out, leaves, torch.eye(len(out), **F64), is_grads_batched=True), want, IDENTITY)


def test_forward_over_forward_is_an_error() -> None:
    case = CASES["qp, mu=0.0"]
    data, loss = case.draw(0), scalar(case)
    with pytest.raises(dcl.UnsupportedError, match="forward mode over forward mode"):
        func.jacfwd(func.jacfwd(loss, argnums=2), argnums=2)(*data)


def test_vmap_makes_one_call() -> None:
    """No loop: the solver sees one batch, the report has one entry for each instance."""
    data = batch(CASES["qp, mu=0.0"], 5)
    want = QPByPosition().solve(*data)

    def f(*t: Tensor) -> tuple[Tensor, Tensor]:
        _, solution = QPByPosition()(*t, return_solution=True)
        return solution.status, solution.primal_residual

    status, residual = func.vmap(f)(*data)
    assert torch.equal(status, want.status)
    close(residual, want.primal_residual, ROUNDING)


def test_errors_name_the_instance_of_vmap() -> None:
    P, q, A, b, G, h = batch(CASES["qp, mu=0.0"], 5)
    q = q.clone()
    q[3, 1] = torch.nan
    with pytest.raises(dcl.InputError, match=r"q\[1\] is nan at batch index \(3,\)"):
        func.vmap(QPByPosition())(P, q, A, b, G, h)
    impossible = torch.cat([G, -G], -2), torch.cat([h, -h], -1) - 1.0
    with pytest.raises(dcl.SolveError, match="PRIMAL_INFEASIBLE") as caught:
        func.vmap(lambda P, q, G, h: dcl.solve_qp(P, q, G=G, h=h).x)(P, P[..., 0], *impossible)
    assert caught.value.indices[0] == (0,)
    mu = torch.tensor([1.0, 0.5, -1.0, 1.0, 1.0], **F64)
    with pytest.raises(dcl.InputError, match=r"mu is -1.0 at batch index \(2,\)"):
        func.vmap(lambda P, q, mu: dcl.QPLayer()(P, q, mu=mu).x)(P, P[..., 0], mu)


def test_vmap_over_mu() -> None:
    P, q, A, b, G, h = CASES["qp, mu=0.0"].draw(0)
    layer, mus = QPByPosition(), torch.tensor([1e-3, 1e-1, 1.0], **F64)
    got = func.vmap(lambda mu: layer(P, q, A, b, G, h, mu=mu).x)(mus)
    close(got, torch.stack([layer(P, q, A, b, G, h, mu=float(mu)).x for mu in mus]), IDENTITY)


def test_vmap_with_bounds_at_infinity() -> None:
    lb = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.5]], **F64)
    q = torch.tensor([[1.0, 1.0], [2.0, 1.0]], **F64)
    out = func.vmap(lambda q, lb: dcl.solve_qp(torch.eye(2, **F64), q, lb=lb))(q, lb)
    close(out.x, torch.maximum(-q, lb), ROUNDING)
    close(out.z_lb, torch.where(torch.isinf(lb), 0.0, (out.x + q)), ROUNDING)


def test_vmap_of_a_failed_instance() -> None:
    layer = dcl.QPLayer(on_failure="nan")
    h = torch.tensor([[1.0, 1.0], [1.0, -2.0]], **F64)  # x <= 1, -x <= 1 or -2: the second is empty
    G = torch.tensor([[1.0], [-1.0]], **F64)

    def f(h: Tensor) -> Tensor:
        return layer(torch.eye(1, **F64), torch.tensor([-3.0], **F64), G=G, h=h).x

    out = func.vmap(f)(h)
    assert float(out[0]) == 1.0
    assert bool(out[1].isnan())
    gradient = func.vmap(func.grad(lambda h: f(h).sum()))(h)
    close(gradient, torch.tensor([[1.0, 0.0], [0.0, 0.0]], **F64), ROUNDING)


def test_functional_call() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 3, dtype=torch.float64)
            self.layer = dcl.QPLayer()

        def forward(self, t: Tensor) -> Tensor:
            q = self.linear(t)
            return self.layer(torch.eye(3, **F64), q, lb=torch.zeros(3, **F64)).x  # relu(-q)

    model = Model()
    inputs = normal(generator(0), 6, 2)
    weights = {k: v.detach() for k, v in model.named_parameters()}

    def loss(w: dict[str, Tensor], t: Tensor) -> Tensor:
        return (func.functional_call(model, w, (t,)) ** 2).sum()

    def known(w: dict[str, Tensor], t: Tensor) -> Tensor:
        return (torch.relu(-(t @ w["linear.weight"].mT + w["linear.bias"])) ** 2).sum()

    got, want = (func.vmap(func.grad(f), in_dims=(None, 0))(weights, inputs) for f in (loss, known))
    close(tuple(got.values()), tuple(want.values()), IDENTITY)


def test_a_solution_is_a_pytree() -> None:
    """torch.func.vmap may return it, trees of tensors may be mapped over it; it then still knows its derivative's kind."""
    data = batch(CASES["qp, mu=0.0"], 4)
    want = QPByPosition().solve(*data)

    def f(*t: Tensor) -> dcl.Solution:
        return QPByPosition(on_degenerate="ignore").solve(*t)

    got = func.vmap(f)(*data)
    assert isinstance(got, dcl.Solution)
    close((got.x, got.z, got.value, got.outputs[0]), (want.x, want.z, want.value, want.outputs[0]), IDENTITY)
    assert torch.equal(got.gradient_kind, want.gradient_kind)
    close((got.condition, got.margin), (want.condition, want.margin), IDENTITY)
    moved = _pytree.tree_map(lambda t: t.clone(), want)
    assert torch.equal(moved.x, want.x)
    assert moved.solvers == want.solvers
    assert torch.equal(moved.gradient_kind, want.gradient_kind)
    leaves, spec = _pytree.tree_flatten(want)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    assert spec == _pytree.tree_flatten(QPByPosition().solve(*data))[1]


@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_a_solution_of_nested_vmap(mu: float) -> None:
    """Shared data stay shared inside, and are found again; a CVXPY layer asks for part of its variables only."""
    case_mean, root, gamma = batch(portfolio(mu), 6)
    w, mean, R, g = cp.Variable(3), cp.Parameter(3), cp.Parameter((3, 3)), cp.Parameter(nonneg=True)
    t = cp.Variable()
    problem = cp.Problem(cp.Maximize(mean @ w - g * t), [cp.sum(w) == 1, w >= 0, cp.norm(R @ w) <= t])
    layer = dcl.CvxpyLayer(problem, [mean, R, g], [w], mu=mu, on_degenerate="ignore")
    inner = func.vmap(layer.solve, in_dims=(0, None, None))
    got = func.vmap(inner, in_dims=(0, 0, None))(case_mean.reshape(2, 3, 3), root[:2], gamma[0])
    want = layer.solve(case_mean.reshape(2, 3, 3), root[:2].unsqueeze(1), gamma[0])
    close(got.outputs, want.outputs, IDENTITY)
    assert torch.equal(got.gradient_kind, want.gradient_kind)
    # each instance has units of its own here, as in a call of its own; the condition is an estimate
    alone = layer.solve(case_mean[5], root[1], gamma[0])
    close(got.margin[1, 2], alone.margin, 1e-6)
    assert 0.3 < float(got.condition[1, 2] / alone.condition) < 3.0


# Found by an adversary: under vmap of a derivative the ties were not looked at, so that D was 0 or 1 there without a word.


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "how", ["vmap of grad", "vmap of jacrev", "vmap of jacfwd", "grad of vmap", "vmap of vmap of grad"]
)
def test_doubt_about_a_derivative_is_told_inside_of_vmap(how: str) -> None:
    q = torch.tensor([[0.0, -1.0], [1.0, -1.0]], **F64)  # relu(-q), with a kink in the first instance

    def call(on_degenerate: str) -> Tensor:
        layer = dcl.QPLayer(on_degenerate=on_degenerate)

        def x(q: Tensor) -> Tensor:
            return layer(torch.eye(2, **F64), q, lb=torch.zeros(2, **F64)).x

        def total(q: Tensor) -> Tensor:
            return x(q).sum()

        return {
            "vmap of grad": lambda: func.vmap(func.grad(total))(q),
            "vmap of jacrev": lambda: func.vmap(func.jacrev(x))(q).sum(-2),
            "vmap of jacfwd": lambda: func.vmap(func.jacfwd(x))(q).sum(-2),
            "grad of vmap": lambda: func.grad(lambda q: func.vmap(total)(q).sum())(q),
            "vmap of vmap of grad": lambda: func.vmap(func.vmap(func.grad(total)))(q.unsqueeze(0))[0],
        }[how]()

    close(call("ignore"), torch.tensor([[-0.5, -1.0], [0.0, -1.0]], **F64), ROUNDING)
    with pytest.raises(dcl.DegenerateError, match="WEAKLY_ACTIVE"):
        call("raise")
    with pytest.warns(dcl.DegenerateWarning, match="1 of 2 instances"):
        call("warn")


def test_no_doubt_where_no_derivative_is_asked_for() -> None:
    layer = dcl.QPLayer(on_degenerate="raise")
    q = torch.tensor([[0.0, -1.0]], **F64)
    close(func.vmap(lambda q: layer(torch.eye(2, **F64), q, lb=torch.zeros(2, **F64)).x)(q), torch.relu(-q), ROUNDING)


@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_third_derivatives_of_a_semidefinite_program(mu: float) -> None:
    """Against differences of the second ones."""
    X, C = cp.Variable((2, 2), symmetric=True), cp.Parameter((2, 2))
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0]), [C], [X], mu=mu)
    weights = torch.tensor([[1.0, 2.0], [0.5, -1.0]], **F64)

    def f(a: Tensor) -> Tensor:
        return (layer(torch.stack([torch.stack([a[0], a[1]]), torch.stack([a[1], 0.3 - a[0]])]))[0] * weights).sum()

    a, step = torch.tensor([0.7, 0.4], **F64), 1e-4
    hessian = func.hessian(f)
    columns = [(hessian(a + step * e) - hessian(a - step * e)) / (2.0 * step) for e in torch.eye(2, **F64)]
    for third in (func.jacrev(func.jacrev(func.jacrev(f))), func.jacfwd(func.jacrev(func.jacrev(f)))):
        close(third(a), torch.stack(columns, -1), 1e-6)


def test_a_solution_inside_of_vmap_says_what_it_cannot() -> None:
    data = batch(CASES["qp, mu=0.0"], 2)

    def f(*t: Tensor) -> Tensor:
        solution = QPByPosition().solve(*t)
        assert "inside torch.func.vmap" in repr(solution)
        return solution.gradient_kind

    with pytest.raises(dcl.UnsupportedError, match="ask it outside"):
        func.vmap(f)(*data)


@pytest.mark.slow
def test_forward_mode_of_the_older_vmap_in_a_fresh_process() -> None:
    """Nothing that is computed once may be computed by torch's random numbers inside of vmap."""
    code = """
import torch, dcl
f = lambda q: dcl.QPLayer()(torch.eye(3).double(), q, lb=torch.zeros(3).double()).x
q = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
print(torch.autograd.functional.jacobian(f, q, vectorize=True, strategy="forward-mode").tolist())
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert torch.equal(torch.tensor(ast.literal_eval(found.stdout)), torch.diag(torch.tensor([0.0, -1.0, 0.0])))


@pytest.mark.sample(3)
@pytest.mark.parametrize("how", ["vmap of grad", "vmap of jacrev", "vmap of jacfwd"])
def test_doubt_about_an_argmin_is_told_inside_of_vmap(how: str) -> None:
    """The same for torch functions: relu(a), with a kink in the first instance."""
    a = torch.tensor([[0.0, 1.0], [1.0, -1.0]], **F64)

    def call(on_degenerate: str) -> Tensor:
        layer = dcl.ArgminLayer(
            lambda y, a: ((y - a) ** 2).sum(), inequality=lambda y, a: -y, on_degenerate=on_degenerate
        )

        def y(a: Tensor) -> Tensor:
            return layer(torch.ones(2, **F64), a)

        return {
            "vmap of grad": lambda: func.vmap(func.grad(lambda a: y(a).sum()))(a),
            "vmap of jacrev": lambda: func.vmap(func.jacrev(y))(a).sum(-2),
            "vmap of jacfwd": lambda: func.vmap(func.jacfwd(y))(a).sum(-2),
        }[how]()

    close(call("ignore"), torch.tensor([[0.5, 1.0], [1.0, 0.0]], **F64), IDENTITY)
    with pytest.raises(dcl.DegenerateError, match="WEAKLY_ACTIVE"):
        call("raise")
    with pytest.warns(dcl.DegenerateWarning, match="1 of 2 instances"):
        call("warn")

"""Cone layers through the compiled core: right answers, derivatives of every order, nothing lost that the careful lane says."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from test_fast_lane import careful_calls
from torch.func import jacfwd, jacrev, vmap

import dcl
from dcl import core

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
F64 = {"dtype": torch.float64}
CONES = {"z": 1, "l": 2, "q": [3, 4], "s": [2, 3], "ep": 2, "p": [0.3, 0.8]}


def program(B=3, n=6, cones=CONES, seed=0):
    """P, q, A, b of regular programs, strictly feasible by construction.

    (-1, 1, 2) is inside of the exponential K and K*, (1, 1, 1/2) of the power cone's.
    """
    rng = np.random.default_rng(seed)
    s = [np.zeros(cones["z"]), np.ones(cones["l"])]
    s += [np.append(2.0, np.ones(k - 1) / np.sqrt(k)) for k in cones["q"]]
    s += [np.eye(k)[np.tril_indices(k)[::-1]] for k in cones["s"]]
    s += [np.array([-1.0, 1.0, 2.0])] * cones["ep"] + [np.array([1.0, 1.0, 0.5])] * len(cones["p"])
    s = np.concatenate(s)
    A = rng.standard_normal((B, len(s), n))
    L = rng.standard_normal((B, n, n)) / np.sqrt(n)
    x = rng.standard_normal((B, n))
    P, b = L @ L.transpose(0, 2, 1) + 0.1 * np.eye(n), np.einsum("bij,bj->bi", A, x) + s
    return [torch.tensor(t) for t in (P, 2.0 * rng.standard_normal((B, n)), A, b)]


def test_a_cone_layer_without_the_careful_lane(monkeypatch):
    data = program()
    leaves, others = ([t.clone().requires_grad_() for t in data] for _ in range(2))
    with careful_calls(monkeypatch) as calls:
        result = dcl.ConeLayer(CONES, on_degenerate="raise")(*leaves)
        sum((t * t).sum() for t in result).backward()
    assert not calls
    careful = dcl.ConeLayer(CONES, solver="CLARABEL", on_degenerate="raise")(*others)
    sum((t * t).sum() for t in careful).backward()
    for mine, theirs in zip([*result, *(t.grad for t in leaves)], [*careful, *(t.grad for t in others)], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_gradcheck_and_gradgradcheck(mu):
    P, q, A, b = program(B=1, n=3, cones={"z": 1, "l": 1, "q": [3], "s": [2], "ep": 1, "p": [0.3]}, seed=1)
    layer = dcl.ConeLayer({"z": 1, "l": 1, "q": [3], "s": [2], "ep": 1, "p": [0.3]}, mu=mu)
    leaves = [t.requires_grad_() for t in (P, q, A, b)]
    assert torch.autograd.gradcheck(lambda *t: tuple(layer(*t)), leaves, eps=1e-6, atol=1e-6)
    assert torch.autograd.gradgradcheck(lambda *t: tuple(layer(*t)), leaves, eps=1e-6, atol=1e-4)


def test_outputs_that_were_changed_in_place_do_not_change_second_derivatives():
    """The ball: x = r c / |c|, so the Hessian of x_1 is known."""
    layer, r = dcl.ConeLayer({"q": [4]}), 0.5
    A = torch.cat([torch.zeros(1, 3, **F64), -torch.eye(3, **F64)])
    b = torch.tensor([r, 0.0, 0.0, 0.0], **F64)
    c = torch.tensor([1.0, -2.0, 0.5], **F64, requires_grad=True)
    expected = torch.autograd.functional.hessian(lambda c: r * c[0] / c.norm(), c.detach())
    result = layer(torch.eye(3, **F64), -c, A, b)
    first_entry = result.x[0].clone()
    with torch.no_grad():
        result.x.mul_(3.0)
        result.z.zero_()
    (first,) = torch.autograd.grad(first_entry, c, create_graph=True)
    found = torch.stack([torch.autograd.grad(g, c, retain_graph=True)[0] for g in first])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_forward_mode_and_mapped_calls_agree_with_reverse_mode():
    P, q, A, b = program(B=2)
    layer = dcl.ConeLayer(CONES)
    reverse = jacrev(lambda q: layer(P[0], q, A[0], b[0]).x)(q[0])
    forward = jacfwd(lambda q: layer(P[0], q, A[0], b[0]).x)(q[0])
    torch.testing.assert_close(reverse, forward, rtol=1e-9, atol=1e-9)
    mapped = vmap(lambda *t: layer(*t).x)(P, q, A, b)
    torch.testing.assert_close(mapped, layer(P, q, A, b).x, rtol=1e-9, atol=1e-9)


def test_shared_data_and_single_precision():
    P, q, A, b = program()
    shared = [t.clone().requires_grad_() for t in (P[0], q, A[0], b[0])]
    repeated = [P[:1].repeat(3, 1, 1), q, A[:1].repeat(3, 1, 1), b[:1].repeat(3, 1)]
    repeated = [t.clone().requires_grad_() for t in repeated]
    for leaves in (shared, repeated):
        sum((t * t).sum() for t in dcl.ConeLayer(CONES)(*leaves)).backward()
    for one, many in zip(shared, repeated, strict=True):
        total = many.grad.sum(0) if one.ndim < many.ndim else many.grad
        torch.testing.assert_close(one.grad, total, rtol=1e-9, atol=1e-9)
    single = [t.float().requires_grad_() for t in (P, q, A, b)]
    result = dcl.ConeLayer(CONES)(*single)
    result.x.sum().backward()
    assert result.x.dtype == single[1].grad.dtype == torch.float32
    torch.testing.assert_close(result.x.double(), dcl.ConeLayer(CONES)(P, q, A, b).x, rtol=1e-4, atol=1e-4)


def test_what_is_not_certified_takes_the_careful_lane_row_by_row(monkeypatch):
    """|x| <= t with the center at distance 2, at the kink, and with t = -1."""
    P, A = torch.eye(2, **F64), torch.cat([torch.zeros(1, 2, **F64), -torch.eye(2, **F64)])
    q = torch.tensor([[2.0, 0.0], [1.0, 0.0], [2.0, 0.0]], **F64, requires_grad=True)
    b = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], **F64)
    with careful_calls(monkeypatch) as calls, pytest.warns(dcl.DegenerateWarning):
        x, _, _ = dcl.ConeLayer({"q": [3]}, on_failure="nan")(P, q, A, b)
    assert calls == [2]
    torch.testing.assert_close(x[0].detach(), torch.tensor([-1.0, 0.0], **F64), rtol=0.0, atol=1e-14)
    assert bool(torch.isnan(x[2]).all())
    x[0].sum().backward()
    # d(-q/|q|)/dq = -(I - ee') / |q|
    torch.testing.assert_close(q.grad[0], torch.tensor([0.0, -0.5], **F64), rtol=0.0, atol=1e-13)
    assert not bool(q.grad[2].any())


def test_a_solution_and_a_warm_start():
    P, q, A, b = program(B=8)
    layer = dcl.ConeLayer(CONES)
    cold = layer.solve(P, q, A, b)
    careful = dcl.ConeLayer(CONES, solver="CLARABEL").solve(P, q, A, b)
    assert set(cold.solvers) == {"CORE"}
    assert bool(cold.ok.all())
    for name in ("x", "z", "s", "value", "margin"):
        torch.testing.assert_close(getattr(cold, name), getattr(careful, name), rtol=1e-9, atol=1e-9)
    moved = q * (1.0 + 1e-2 * torch.randn(q.shape, generator=torch.Generator().manual_seed(0), **F64))
    warm, again = layer.solve(P, moved, A, b, warm_start=cold), layer.solve(P, moved, A, b)
    torch.testing.assert_close(warm.x, again.x, rtol=1e-9, atol=1e-9)
    assert float(warm.iterations.double().mean()) <= 0.6 * float(again.iterations.double().mean())


# closed forms


def test_projection_on_the_ball():
    y = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), **F64) * 2.0
    P, A = torch.eye(5, **F64), torch.cat([torch.zeros(1, 5, **F64), -torch.eye(5, **F64)])
    b = torch.cat([torch.ones(1, **F64), torch.zeros(5, **F64)])
    leaf = y.clone().requires_grad_()
    x = dcl.ConeLayer({"q": [6]}, on_degenerate="raise")(P, -leaf, A, b).x
    known = y.clone().requires_grad_()
    exact = known / torch.linalg.vector_norm(known, dim=-1, keepdim=True).clamp(min=1.0)
    torch.testing.assert_close(x, exact, rtol=0.0, atol=1e-13)
    weights = torch.linspace(-1.0, 1.0, 5, **F64)
    (x @ weights).sum().backward()
    (exact @ weights).sum().backward()
    torch.testing.assert_close(leaf.grad, known.grad, rtol=0.0, atol=1e-13)


def test_nearest_semidefinite_matrix_and_smallest_eigenvalue():
    k = 4
    M = torch.randn(6, k, k, generator=torch.Generator().manual_seed(1), **F64)
    C = 0.5 * (M + M.mT)
    i, j = np.triu_indices(k)
    scale = torch.tensor(np.where(i == j, 1.0, np.sqrt(2.0)))
    leaf, size = (C[:, j, i] * scale).requires_grad_(), len(i)
    P, A, b = torch.eye(size, **F64), -torch.eye(size, **F64), torch.zeros(size, **F64)
    x = dcl.ConeLayer({"s": [k]}, on_degenerate="raise")(P, -leaf, A, b).x
    values, U = torch.linalg.eigh(C)
    nearest = (U * values.clamp(min=0.0).unsqueeze(-2)) @ U.mT
    torch.testing.assert_close(x.detach(), nearest[:, j, i] * scale, rtol=0.0, atol=1e-12)
    # minimize <C, X>, tr X = 1, X psd: the value is the smallest eigenvalue, and its gradient the projector
    X = cp.Variable((k, k), symmetric=True)
    cost = cp.Parameter((k, k))
    problem = cp.Problem(cp.Minimize(cp.trace(cost @ X)), [cp.trace(X) == 1, X >> 0])
    given = C.clone().requires_grad_()
    (value,) = dcl.CvxpyLayer(problem, [cost], [problem.objective])(given)
    value.sum().backward()
    torch.testing.assert_close(value.detach(), values[:, 0], rtol=0.0, atol=1e-12)
    projector = U[:, :, :1] @ U[:, :, :1].mT
    torch.testing.assert_close(0.5 * (given.grad + given.grad.mT), projector, rtol=0.0, atol=1e-11)


def test_maximum_entropy_is_softmax(monkeypatch):
    """maximize sum entr(x) + c'x over the simplex: x = softmax(c)."""
    x, c = cp.Variable(6), cp.Parameter(6)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + c @ x), [cp.sum(x) == 1]), [c], [x])
    leaf = torch.randn(5, 6, generator=torch.Generator().manual_seed(2), **F64).requires_grad_()
    with careful_calls(monkeypatch) as calls:
        (found,) = layer(leaf)
        (found[:, 0] ** 2).sum().backward()
    assert not calls
    known = leaf.detach().clone().requires_grad_()
    exact = torch.softmax(known, -1)
    (exact[:, 0] ** 2).sum().backward()
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(leaf.grad, known.grad, rtol=0.0, atol=1e-10)


def test_demand_of_cobb_and_douglas(monkeypatch):
    """maximize x^a y^b subject to p x + q y <= w: the share a of w is spent on x, b on y."""
    a, x, t, prices, wealth = 0.3, cp.Variable(2), cp.Variable(), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Maximize(t), [cp.PowCone3D(x[0], x[1], t, a), prices @ x <= wealth])
    layer = dcl.CvxpyLayer(problem, [prices, wealth], [x])
    rng = torch.Generator().manual_seed(3)
    given = [
        (0.5 + torch.rand(4, 2, generator=rng, **F64)).requires_grad_(),
        torch.tensor(2.0, **F64, requires_grad=True),
    ]
    with careful_calls(monkeypatch) as calls:
        (found,) = layer(*given)
        (found[:, 0] ** 2 + found[:, 1]).sum().backward()
    assert not calls
    p, w = (g.detach().clone().requires_grad_() for g in given)
    exact = torch.tensor([a, 1.0 - a], **F64) * w / p
    (exact[:, 0] ** 2 + exact[:, 1]).sum().backward()
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(given[0].grad, p.grad, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(given[1].grad, w.grad, rtol=0.0, atol=1e-10)


def test_power_of_variables(monkeypatch):
    """minimize sum |x|^e - c'x: |x|^(e - 1) = |c| / e, with the sign of c."""
    e, x, c = 2.7, cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.power(cp.abs(x), e, approx=False)) - c @ x))
    leaf = torch.tensor([[1.0, -2.0, 0.3], [3.0, 0.7, -0.4]], **F64, requires_grad=True)
    with careful_calls(monkeypatch) as calls:
        (found,) = dcl.CvxpyLayer(problem, [c], [x])(leaf)
        (found**2).sum().backward()
    assert not calls
    known = leaf.detach().clone().requires_grad_()
    exact = torch.sign(known) * (known.abs() / e) ** (1.0 / (e - 1.0))
    (exact**2).sum().backward()
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(leaf.grad, known.grad, rtol=0.0, atol=1e-10)


def test_separable_logistic_regression_has_no_minimum():
    X, w = torch.tensor([[1.0], [2.0], [-1.5]], **F64).numpy(), cp.Variable(1)
    y, c = np.sign(X[:, 0]), cp.Parameter(1)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.logistic(cp.multiply(-y, X @ w))) + c @ w))
    with pytest.raises(dcl.SolveError):
        dcl.CvxpyLayer(problem, [c], [w])(torch.zeros(1, **F64))

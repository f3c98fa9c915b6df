"""Programs with soft rows that are solved by the cell of their solution: hinges, quantiles, wide lassos (dcl/core/soft.hpp)."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

import dcl
from dcl import GradientKind, Status, core
from dcl.core import dense
from dcl.layers.lane import Ask
from dcl.layers.reduced_lane import ReducedWay

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
F64 = {"dtype": torch.float64}
BATCH = 6


@pytest.fixture(autouse=True)
def reduced(monkeypatch):
    """The reduced program goes first, however small the program is."""
    monkeypatch.setattr("dcl.layers.either_way._FIXED", 0.0)


def reduced_of(layer: dcl.CvxpyLayer, tensors) -> ReducedWay:
    arguments = {str(p): t for p, t in enumerate(tensors)}
    way = layer._way(arguments, layer._plan(arguments), True)
    return way if isinstance(way, ReducedWay) else way.reduced


def drawn(rng: np.random.Generator):
    """A program with soft rows, hard ones and bounds, singular P', and parameters: whole numbers, with many ties, or normal."""
    n, m = rng.integers(1, 5), rng.integers(2, 9)
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    weight, y = cp.Parameter(nonneg=True), cp.Parameter(n)
    r = A @ x - b
    losses = [
        cp.norm1(r),
        cp.sum(cp.pos(r)),
        cp.sum(cp.maximum(0.3 * r, -0.7 * r)),
        cp.sum(cp.maximum(r, 2 * r - 1)),
        2 * cp.sum(cp.pos(1 - r)) + cp.norm1(x),
    ]
    loss = losses[rng.integers(len(losses))]
    loss += weight * cp.norm1(x) if rng.random() < 0.5 else 0.0
    loss += 0.5 * cp.sum_squares(x[:1] - y[:1]) if rng.random() < 0.5 else 0.1 * (y @ x)
    constraints = [([cp.sum(x) == 1], 0.4), ([x >= -2], 0.4), ([A[0] @ x <= b[0] + 1], 0.3), ([x <= 3, x >= -3], 0.6)]
    held = [c for some, share in constraints if rng.random() < share for c in some]
    problem = cp.Problem(cp.Minimize(loss), held)
    is_whole = rng.random() < 0.5

    def draw(*shape):
        size = (BATCH, *shape)
        return rng.integers(-2, 3, size).astype(float) if is_whole else rng.standard_normal(size)

    used = {p.id for p in problem.parameters()}
    values = ((A, draw(m, n)), (b, draw(m)), (weight, np.abs(draw())), (y, draw(n)))
    pairs = [(p, torch.tensor(value)) for p, value in values if p.id in used]
    return problem, [p for p, _ in pairs], x, [t for _, t in pairs]


@pytest.mark.parametrize(
    "seeds", [range(12), pytest.param(range(12, 150), marks=pytest.mark.slow)], ids=["few", "more"]
)
def test_what_is_certified_is_exact_and_agrees_with_the_careful_lane(seeds):
    certified = left = 0
    for seed in seeds:
        problem, parameters, x, tensors = drawn(np.random.default_rng(seed))
        settings = {"on_degenerate": "ignore", "on_failure": "nan"}
        layer = dcl.CvxpyLayer(problem, parameters, [x], **settings)
        reduction = layer._reductions.exact
        if reduction is None or reduction.cuts is None or reduction.cuts.in_dual:
            continue
        way = reduced_of(layer, tensors)
        (found,), kept = way.ask(tensors, Ask((BATCH,), None, None, 1, True))
        gradients = way.pull(kept, [torch.ones_like(found)], [True] * len(tensors), 1)
        leaves = [t.clone().requires_grad_() for t in tensors]
        plain = dcl.CvxpyLayer(problem, parameters, [x], reduce=False, **settings)
        (other,), solution = plain(*leaves, return_solution=True)
        expected = torch.autograd.grad(other.sum(), leaves, allow_unused=True, materialize_grads=True)
        rows = kept.status == 0
        certified, left = certified + int(rows.sum()), left + int((~rows).sum())
        assert bool((solution.status[rows] == int(Status.OPTIMAL)).all())
        assert bool((solution.gradient_kind[rows] == int(GradientKind.EXACT)).all())
        torch.testing.assert_close(found[rows], other[rows].detach(), rtol=1e-9, atol=1e-9)
        for one, two in zip(gradients, expected, strict=True):
            one = torch.zeros_like(two) if one is None else one.reshape(two.shape)
            torch.testing.assert_close(one[rows], two[rows], rtol=1e-7, atol=1e-8)
    assert certified > left > 0, "regular points and degenerate ones"


def test_a_weighted_median():
    """min sum_i |a_i (x - c_i)|: the c_k at which the weights |a_i| on both sides balance, whatever the others are."""
    m = 9
    rng = np.random.default_rng(0)
    x, a, ac = cp.Variable(), cp.Parameter(m), cp.Parameter(m)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.norm1(a * x - ac))), [a, ac], [x], on_degenerate="raise")
    assert layer._reductions.exact.after == (1, m, 0)
    weights = torch.tensor(rng.standard_normal((5, m)), requires_grad=True)
    centers = torch.tensor(rng.standard_normal((5, m)))
    products = (weights.detach() * centers).requires_grad_()
    way = reduced_of(layer, [weights.detach(), products.detach()])
    _, kept = way.ask([weights.detach(), products.detach()], Ask((5,), None, None, 1, True))
    assert kept.left == 0
    (found,) = layer(weights, products)
    order = centers.argsort(-1)
    half = weights.detach().abs().gather(-1, order).cumsum(-1)
    k = order.gather(-1, (half >= 0.5 * half[:, -1:]).int().argmax(-1, keepdim=True))
    exact = (products.gather(-1, k) / weights.gather(-1, k)).squeeze(-1)
    torch.testing.assert_close(found, exact, rtol=1e-14, atol=1e-15)
    pairs = zip(*(torch.autograd.grad(t.sum(), [weights, products]) for t in (found, exact)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("y", "kind"), [(1.0, "WEAKLY_ACTIVE"), (0.0, "WEAKLY_ACTIVE"), (0.5, "EXACT"), (2.0, "EXACT")]
)
def test_multipliers_at_the_cap_and_at_zero_are_ties(y, kind):
    """min (x - y)^2 / 2 + max(x, 0) + |v - 1|: x = 0 with multiplier y where that is between 0 and 1, else y or y - 1."""
    x, v, p = cp.Variable(), cp.Variable(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(0.5 * cp.square(x - p) + cp.pos(x) + cp.abs(v - 1)))
    layer = dcl.CvxpyLayer(problem, [p], [x, v], on_degenerate="ignore")
    assert not layer._reductions.exact.cuts.in_dual
    point = torch.tensor([y], **F64)
    _, kept = reduced_of(layer, [point]).ask([point], Ask((1,), None, None, 1, True))
    assert (kept.left == 0) is (kind == "EXACT")
    (found, other), solution = layer(point, return_solution=True)
    assert GradientKind(int(solution.gradient_kind)).name == kind
    torch.testing.assert_close(found, torch.tensor([max(y - 1.0, min(y, 0.0))], **F64), rtol=0.0, atol=1e-9)
    torch.testing.assert_close(other, torch.ones(1, **F64))


def test_cells_of_instances_that_are_no_numbers_or_have_no_cap():
    """min x + cap max(-x, 0): x = 0 with multiplier 1 on either side of it."""
    q = torch.tensor([[1.0], [torch.nan], [1.0]], **F64)
    data = {"q": q, "G": -torch.ones(1, 1, 1, **F64), "h": torch.zeros(3, 1, **F64)}
    cap = torch.tensor([[2.0], [2.0], [0.0]], **F64)
    found = dense.find_cells(data, cap, 3)
    assert found.beyond[1:].tolist() == [[False], [False]]
    assert found.start["x"][1:].tolist() == [[0.0], [0.0]]
    torch.testing.assert_close(found.start["z"][:1], torch.ones(1, 1, **F64), rtol=1e-4, atol=0.0)


def test_the_number_of_threads_changes_no_bit():
    rng = np.random.default_rng(1)
    m, n = 30, 4
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.norm1(A @ x - b))), [A, b], [x])
    tensors = [torch.tensor(rng.standard_normal((16, *shape))) for shape in ((m, n), (m,))]
    way = reduced_of(layer, tensors)
    one, two = (way.ask(tensors, Ask((16,), None, None, threads, True))[0][0] for threads in (1, 3))
    assert torch.equal(one, two)

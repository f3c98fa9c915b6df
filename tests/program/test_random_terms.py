"""The contract of the two lanes on random programs with smooth terms (tests/random_terms.py), and their digits.

Certified is OPTIMAL, EXACT, and agrees. A solver that is named is the one that runs, in the careful lane; where it fails
(NUMERICAL_ERROR) there is nothing to compare with. For a list of seeds the points and gradients are held to Newton's method with
90 digits (tests/oracles/exponential.py). That is the only judge of seed 727, where the careful lane's own point is not accurate
enough for EXACT.
"""

from __future__ import annotations

from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import pytest
import random_terms
import torch
from oracles import exponential
from test_reduction_cones import GRADIENT, POINT, asked

import dcl
from dcl import GradientKind, Status, core

pytestmark = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")
F64 = {"dtype": torch.float64}
CHUNK, ALL = 3, 240


@pytest.fixture(autouse=True)
def reduced(monkeypatch):
    """The reduced program goes first, however small the program is."""
    monkeypatch.setattr("dcl.layers.either_way._FIXED", 0.0)


def in_digits(
    layer: dcl.CvxpyLayer,
    tensors: list[torch.Tensor],
    point: tuple[torch.Tensor, torch.Tensor],
    cotangents: list[torch.Tensor],
    gradients: Sequence[torch.Tensor | None],
    i: int,
) -> bool:
    """Are x, z and the gradients of instance i those of 90 digits?"""
    x, z = point
    c = torch.zeros_like(x)
    layer._form.extract_adjoint(cotangents, c, torch.zeros_like(z))
    cone = layer._form.structure.cone
    orthant = sum(block.size for block in cone.blocks if block.is_orthant)
    stated = data_of(layer, [t[i : i + 1] for t in tensors])
    exact = exponential.solve(
        exponential.Program(*stated, cone.zeros, orthant), x[i].numpy(), z[i].numpy(), c[i].numpy()
    )
    if exact is None:
        return False
    pairs = [(x[i].numpy(), exact.x, 1.0, POINT), (z[i].numpy(), exact.z, 1.0, POINT)]
    nothing = [torch.zeros_like(t[:1]) for t in tensors]
    base = data_of(layer, nothing)
    for p, found in enumerate(gradients):
        if found is None:
            continue
        expected = []
        for entry in range(found[i].numel()):
            moved = [t.clone() for t in nothing]
            moved[p].view(-1)[entry] = 1.0
            changes = [one - other for one, other in zip(data_of(layer, moved), base, strict=True)]
            expected.append(exact.gradient(*changes))
        pairs.append((found[i].flatten().numpy(), np.array(expected), 1e-3, GRADIENT))
    return all(np.abs(a - b).max() <= limit * (floor + np.abs(b).max()) for a, b, floor, limit in pairs)


def data_of(layer: dcl.CvxpyLayer, tensors: list[torch.Tensor]) -> list[np.ndarray]:
    """P, q, A, b of one instance."""
    form = layer._form
    program, _ = form.program([form.flatten(t, p) for p, t in enumerate(tensors)])
    structure = form.structure
    return [t[0].numpy() for t in (structure.P.dense(program.P), program.q, structure.A.dense(program.A), program.b)]


def differences(seed: int) -> tuple[list[str], int]:
    """What of the certified instances is not what the careful lane says, and how many there are to compare."""
    case = random_terms.program(seed)
    settings = {"on_degenerate": "ignore", "on_failure": "nan"}
    tensors = case.tensors()
    way, kept = asked(dcl.CvxpyLayer(case.problem, case.parameters, case.variables, **settings), tensors)
    layer = dcl.CvxpyLayer(case.problem, case.parameters, case.variables, solver="CLARABEL", **settings)
    leaves = [t.clone().requires_grad_() for t in tensors]
    outputs, solution = layer(*leaves, return_solution=True)
    compared = (kept.status == 0) & (solution.status != Status.NUMERICAL_ERROR)
    if not bool(compared.any()):
        return [], 0
    wrong = (solution.status != Status.OPTIMAL) | (solution.gradient_kind != GradientKind.EXACT)
    bad = [f"{seed}: instance {i} is not exact" for i in torch.nonzero(compared & wrong).flatten().tolist()]
    cotangents = [torch.randn(t.shape, generator=torch.Generator().manual_seed(seed), **F64) for t in outputs]
    kinds = [True] * len(leaves)
    mine = way.pull(kept, cotangents, kinds, 1)
    loss = sum((torch.nan_to_num(t) * c).sum() for t, c in zip(outputs, cotangents, strict=True))
    theirs = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    x, z = kept.point()
    pairs = [(a, b, 1.0, POINT) for a, b in ((x, solution.canonical_x), (z, solution.z)) if kept.is_regular]
    pairs += [(a, b, 1.0, POINT) for a, b in zip(layer._form.extract(x, z), outputs, strict=True)]
    pairs += [(a, b, 1e-3, GRADIENT) for a, b in zip(mine, theirs, strict=True) if a is not None]
    for number, (one, other, floor, limit) in enumerate(pairs):
        a, b = (t[compared & ~wrong].flatten(1) if t.ndim > 1 else t[compared & ~wrong, None] for t in (one, other))
        error = (a - b).abs().amax(-1) / (floor + b.abs().amax(-1))
        bad += [f"{seed}: pair {number} is off by {e:.1e}" for e in error.tolist() if not e <= limit]
    return bad, int(compared.sum())


@pytest.mark.parametrize(
    "start", [pytest.param(i, marks=[pytest.mark.slow] if i else []) for i in range(0, ALL, CHUNK)]
)
def test_what_is_certified_is_what_the_careful_lane_says(start):
    found = [differences(seed) for seed in range(start, start + CHUNK)]
    bad = [line for lines, _ in found for line in lines]
    assert not bad, "\n".join(bad)
    assert start or sum(count for _, count in found) > 0


@pytest.mark.sample(4)
@pytest.mark.parametrize("seed", [24, 46, 51, 235, 330, 283, 296, 327])
def test_steep_terms_and_slacks_of_few_digits(seed):
    """Where derivatives had lost their digits, or the condition of the quadratic model had told nothing of the cones."""
    assert differences(seed)[0] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [513, 941])
def test_null_vectors_whose_units_differ_by_far(seed):
    """The basis of the null space lost its rank to rounding, and LinAlgError came out."""
    case = random_terms.program(seed)
    settings = {"on_degenerate": "ignore", "on_failure": "nan"}
    layer = dcl.CvxpyLayer(case.problem, case.parameters, case.variables, solver="CLARABEL", **settings)
    leaves = [t.clone().requires_grad_() for t in case.tensors()]
    outputs, solution = layer(*leaves, return_solution=True)
    loss = sum(torch.nan_to_num(t).sum() for t in outputs)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert (solution.gradient_kind != GradientKind.EXACT).all()


# Where the careful lane says ILL_CONDITIONED, where an estimate in place of the bound had certified, and where terms are steep.
@pytest.mark.sample(4)
@pytest.mark.parametrize("seed", [3, 49, 138, 168, 316, 373, 526, 727, 851, *range(300, 330)])
def test_what_is_certified_has_its_digits(seed):
    case = random_terms.program(seed)
    tensors = case.tensors()
    layer = dcl.CvxpyLayer(case.problem, case.parameters, case.variables, on_degenerate="ignore", on_failure="nan")
    way, kept = asked(layer, tensors)
    certified = torch.nonzero(kept.status == 0).flatten().tolist()
    shapes = [(random_terms.BATCH, *variable.shape) for variable in case.variables]
    cotangents = [torch.randn(shape, generator=torch.Generator().manual_seed(seed), **F64) for shape in shapes]
    gradients = way.pull(kept, cotangents, [True] * len(tensors), 1)
    assert [i for i in certified if not in_digits(layer, tensors, kept.point(), cotangents, gradients, i)] == []


def test_logistic_regressions_of_nearly_separated_classes_are_certified():
    """Some slacks are tiny beside their multipliers, and rounding times the condition is between 1e-7 and 1e-6."""
    size, n = 50, 10
    labels, rng = np.where(np.arange(size) % 2 == 0, 1.0, -1.0), np.random.default_rng(0)
    beta, X = cp.Variable(n), cp.Parameter((size, n))
    cost = cp.sum(cp.logistic(-cp.multiply(labels, X @ beta))) + 0.1 * cp.sum_squares(beta)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cost)), [X], [beta])
    data = torch.from_numpy(rng.standard_normal((16, size, n)) + 0.3 * labels[:, None])
    way, kept = asked(layer, [data])
    assert kept.status.tolist() == [0] * 16
    c = [torch.ones(16, n, **F64)]
    gradients = way.pull(kept, c, [True], 1)
    x, found = kept.point()[0], gradients[0]
    (place,) = layer._form.extract(x, kept.point()[1])
    for i in range(16):
        expected = _logistic_gradient(data[i].numpy(), labels, place[i].numpy())
        assert np.abs(found[i].numpy() - expected).max() <= GRADIENT * np.abs(expected).max()


def _logistic_gradient(X: np.ndarray, labels: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Of the sum of beta: implicit differentiation of the stationarity in closed form."""
    margin = -labels * (X @ beta)
    p = 1.0 / (1.0 + np.exp(-margin))
    w = p * (1.0 - p)
    u = np.linalg.solve(X.T @ (w[:, None] * X) + 0.2 * np.eye(len(beta)), np.ones(len(beta)))
    return np.outer(labels * p, u) - np.outer(w * (X @ u), beta)

"""P that is positive semidefinite up to rounding only: nothing wrong is OPTIMAL, and an honest Gram matrix is solved.

Oracles in exact rationals.  The least value of any quadratic, convex or not, over a box is at a face where it is stationary
and strictly convex, or at a corner.  Programs with equalities are linear systems.  An unbounded one has a direction.
"""

import itertools
import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from flint import fmpq, fmpq_mat
from oracles.regular import rational
from torch.func import vmap

import dcl
from dcl import core
from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.core import dense
from dcl.implicit.nearest import lift
from dcl.program import dense_structure
from dcl.program.convexity import excess
from dcl.program.structure import ConeProgram

BOX = 1e5
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
# eigenvalues below zero within what counts as rounding of 2 x 2 matrices
NEGATIVE = {torch.float32: (-1e-6, -1e-7), torch.float64: (-1e-9, -1e-11)}


@pytest.fixture(params=["core", "torch"], autouse=True)
def lane(request, monkeypatch):
    """With the compiled core and without it."""
    if request.param == "torch":
        monkeypatch.setattr(core, "available", False)
        monkeypatch.setattr("dcl.about.warn_of_slow_path", lambda: None)
        monkeypatch.setattr("dcl.layers.fast.warn_of_slow_path", lambda: None)
    elif not core.available:
        pytest.skip(f"no compiled core: {core.reason}")
    return request.param


def qp(P, q, lower=None, upper=None, **more):
    return dcl.QPLayer()(P, q, lb=lower, ub=upper, **more).x


def cone(P, q, lower, upper):
    n = q.shape[-1]
    eye = torch.eye(n, dtype=q.dtype)
    blocks = [(-eye, -lower)] if lower is not None else []
    blocks += [(eye, upper)] if upper is not None else []
    A = torch.cat([a for a, _ in blocks]) if blocks else q.new_zeros(0, n)
    b = torch.cat([c for _, c in blocks]) if blocks else q.new_zeros(0)
    return dcl.ConeLayer({"l": b.shape[0]})(P, q, A, b).x


def modeled(P, q, lower, upper):
    n = q.shape[-1]
    x, S, p = cp.Variable(n), cp.Parameter((n, n), PSD=True, name="S"), cp.Parameter(n)
    rows = [x >= lower.double().numpy()] if lower is not None else []
    rows += [x <= upper.double().numpy()] if upper is not None else []
    return dcl.CvxpyLayer(cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, S) + p @ x), rows), [S, p], [x])(P, q)[0]


LAYERS = pytest.mark.parametrize("layer", [qp, cone, modeled], ids=["QPLayer", "ConeLayer", "CvxpyLayer"])


def least_over_box(P, q, lower, upper):
    """min 1/2 x'Px + q'x over a box, exact: every face, the free entries where their block of P is positive definite."""
    P, n = matrix(P), len(q)
    q, low, high = (exact(v) for v in (q, lower, upper))
    best = None
    for face in itertools.product((-1, 0, 1), repeat=n):
        free = [j for j in range(n) if face[j] == 0]
        x = [low[j] if face[j] < 0 else high[j] for j in range(n)]
        if free:
            block = fmpq_mat(len(free), len(free), [P[i, j] for i in free for j in free])
            corners = [
                fmpq_mat(k, k, [block[i, j] for i in range(k) for j in range(k)]) for k in range(1, len(free) + 1)
            ]
            if not all(corner.det() > 0 for corner in corners):
                continue
            held = [j for j in range(n) if face[j] != 0]
            right = [-q[i] - sum((P[i, j] * x[j] for j in held), fmpq(0)) for i in free]
            for i, value in zip(free, block.solve(fmpq_mat(len(free), 1, right)).entries(), strict=True):
                x[i] = value
            if any(not low[i] <= x[i] <= high[i] for i in free):
                continue
        f = value_at(P, q, x)
        best = f if best is None or f < best else best
    return best


def value_at(P, q, x):
    n = len(x)
    Px = [sum((P[i, j] * x[j] for j in range(n)), fmpq(0)) for i in range(n)]
    return sum((x[i] * (Px[i] / 2 + q[i]) for i in range(n)), fmpq(0))


def exact(v):
    return [rational(float(t)) for t in v]


def matrix(M):
    return fmpq_mat(*M.shape, exact(M.flatten()))


def gram(rng, samples, n):
    """X (samples, n) in float32, and X'X / samples as float32 computes it."""
    X = torch.tensor(rng.standard_normal((samples, n)), dtype=torch.float32)
    return X, X.T @ X / samples


# What is wrong is refused


@DTYPES
@LAYERS
@pytest.mark.parametrize("which", [0, 1])
def test_saddles_are_no_solutions(layer, dtype, which):
    """X = 0 satisfies every first-order condition; the corners are better by 5e9 |eigenvalue|."""
    P, q = torch.diag(torch.tensor([1.0, NEGATIVE[dtype][which]], dtype=dtype)), torch.zeros(2, dtype=dtype)
    far = torch.full((2,), BOX, dtype=dtype)
    assert float(least_over_box(P, q, -far, far)) < -0.04
    with pytest.raises(dcl.SolveError, match=r"has the eigenvalue -.*float64") as error:
        layer(P, q, -far, far)
    assert error.value.statuses == [dcl.Status.NUMERICAL_ERROR]
    assert ("the quadratic form of S" if layer is modeled else "P has") in str(error.value)


@DTYPES
@LAYERS
def test_unbounded_programs_have_no_solution(layer, dtype):
    """x_2 -> infinity, against a curvature that is negative, and with a lower bound whose multiplier is tiny."""
    P = torch.diag(torch.tensor([1.0, NEGATIVE[dtype][0]], dtype=dtype))
    for slope, lower in ((0.0, None), (1.0, None), (1e-5, -torch.ones(2, dtype=dtype))):
        with pytest.raises(dcl.SolveError, match="eigenvalue"):
            layer(P, torch.tensor([1.0, slope], dtype=dtype), lower, None)


def test_few_samples_without_constraints():
    """Generic q and P of rank below n: unbounded with the exact P, and x = -P^-1 q of 1e7 is a saddle of the rounded one."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = int(rng.integers(4, 12))
        _, P = gram(rng, n - 2, n)
        with pytest.raises(dcl.SolveError):
            qp(P, torch.tensor(rng.standard_normal(n), dtype=torch.float32))


@pytest.mark.parametrize("layer", [qp, cone, modeled])
def test_the_batch_index_is_named(layer):
    P = torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -1e-6])), torch.eye(2)])
    far = torch.full((2,), BOX)
    with pytest.raises(dcl.SolveError, match=r"eigenvalue -1e-06 at batch index \(1,\)") as error:
        layer(P, torch.zeros(3, 2), -far, far)
    assert error.value.indices == [(1,)]


@pytest.mark.sample(5)
@DTYPES
@pytest.mark.parametrize(("size", "least"), [(1.0, 10), (30.0, 4), (1e4, 0)])
def test_optimal_is_globally_optimal(dtype, size, least):
    """Random boxes, some of them far: OPTIMAL means that no point of the box is better than the rounding of P allows."""
    rng, solved = np.random.default_rng(int(size)), 0
    rounding = max(1e-9, 8 * 3 * torch.finfo(dtype).eps)
    for _ in range(12):
        X, P = gram(rng, 2, 3)
        P = P.tril() + P.tril(-1).T  # symmetric to the last bit, for the oracle
        if dtype == torch.float64:
            P = X.T.double() @ X.double() / 2 - 2e-11 * torch.eye(3).double()
        q = torch.tensor(rng.standard_normal(3) * rng.choice([0.0, 1e-3, 1.0]), dtype=dtype)
        upper = size * torch.tensor(rng.uniform(0.5, 2.0, 3), dtype=dtype)
        layer = dcl.QPLayer(on_failure="nan", on_degenerate="ignore")
        x = layer(P, q, lb=-upper, ub=upper).x
        if not bool(torch.isfinite(x).all()):
            continue
        solved += 1
        x = torch.minimum(torch.maximum(x, -upper), upper)
        found, best = value_at(matrix(P), exact(q), exact(x)), least_over_box(P, q, -upper, upper)
        terms = 1.0 + float((x @ P @ x).abs() + (q * x).abs().sum())
        assert float(found - best) <= 10.0 * rounding * terms
    assert solved >= least


# What is right is solved


@pytest.mark.sample(7)
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("derivative", ["reverse", "vmap"])
def test_float32_gram_with_enough_equalities(seed, derivative):
    """x and its derivative in q are those of the exact Gram matrix, up to float32."""
    rng = np.random.default_rng(seed)
    n, samples = 6, 3
    X, P = gram(rng, samples, n)
    p = n - samples
    A, b = torch.tensor(rng.standard_normal((p, n)), dtype=torch.float32), torch.ones(p)
    q, c = (torch.tensor(rng.standard_normal(n), dtype=torch.float32) for _ in range(2))
    R, C = matrix(X), matrix(A)
    K = fmpq_mat(n + p, n + p)
    for i, j in itertools.product(range(n), range(n)):
        K[i, j] = sum((R[k, i] * R[k, j] for k in range(samples)), fmpq(0)) / samples
    for i, j in itertools.product(range(p), range(n)):
        K[n + i, j] = K[j, n + i] = C[i, j]
    x = np.array([float(t) for t in K.solve(fmpq_mat(n + p, 1, [-t for t in exact(q)] + exact(b))).entries()[:n]])
    g = np.array([-float(t) for t in K.solve(fmpq_mat(n + p, 1, exact(c) + [fmpq(0)] * p)).entries()[:n]])
    tolerance = 1e-7 * np.linalg.cond(np.array([[float(K[i, j]) for j in range(n + p)] for i in range(n + p)]))
    layer = dcl.QPLayer(on_degenerate="raise")
    if derivative == "reverse":
        leaf = q.clone().requires_grad_()
        found = layer(P, leaf, A=A, b=b).x
        (slope,) = torch.autograd.grad(found @ c, leaf)
    else:

        def one(P, q):
            return layer(P, q, A=A, b=b).x

        found = vmap(one)(torch.stack([P, torch.eye(n)]), q.expand(2, n))[0]
        slope = torch.func.vmap(torch.func.grad(lambda P, q: one(P, q) @ c, argnums=1))(P[None], q[None])[0]
    assert np.abs(found.detach().double().numpy() - x).max() <= tolerance * (1.0 + np.abs(x).max())
    assert np.abs(slope.double().numpy() - g).max() <= tolerance * (1.0 + np.abs(g).max())


@pytest.mark.sample(5)
@pytest.mark.parametrize("seed", range(6))
@LAYERS
def test_float32_gram_that_is_flat(layer, seed):
    """Least squares in a box: the residual is determined, x is not; the derivative is that of the minimum norm.

    Where the rounding of P has a negative eigenvalue, and no positive one that is much larger; else P as it is given is
    positive definite, or that eigenvalue counts.
    """
    rng = np.random.default_rng(seed)
    n, samples, values = 6, 3, np.ones(6)
    while not -values[0] > values[2] / 3.0:
        X, P = gram(rng, samples, n)
        values = np.linalg.eigvalsh(P.double().numpy())
    y = torch.tensor(rng.uniform(-0.05, 0.05, samples), dtype=torch.float32)
    q = (-X.T @ y / samples).requires_grad_()
    bound = torch.full((n,), 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dcl.DegenerateWarning)
        x = layer(P, q, -bound, bound)
    assert float((X @ x.detach() - y).abs().max()) <= 1e-4
    if bool((x.abs() < 1.4).all()):
        c = X.T @ torch.tensor(rng.standard_normal(samples), dtype=torch.float32)
        (g,) = torch.autograd.grad(x @ c, q)
        truth = -np.linalg.pinv(X.double().numpy().T @ X.double().numpy() / samples, rcond=1e-10) @ c.double().numpy()
        assert np.abs(g.double().numpy() - truth).max() <= 1e-4 * (1.0 + np.abs(truth).max())


@pytest.mark.sample(5)
@pytest.mark.parametrize("seed", range(6))
def test_float32_portfolios(seed):
    """Few samples, weights in the simplex: unique with returns, flat without; the value is that of float64."""
    rng = np.random.default_rng(seed)
    n = 8
    X, P = gram(rng, 4, n)
    ones, zeros = torch.ones(1, n), torch.zeros(n)
    truth = X.double().T @ X.double() / 4
    for q in (torch.tensor(rng.standard_normal(n), dtype=torch.float32), torch.zeros(n)):
        result = dcl.QPLayer(on_degenerate="ignore")(P, q, A=ones, b=torch.ones(1), lb=zeros)
        w = cp.Variable(n)
        f = 0.5 * cp.sum_squares(X.double().numpy() @ w) / 4 + q.double().numpy() @ w
        reference = cp.Problem(cp.Minimize(f), [cp.sum(w) == 1, w >= 0]).solve(solver=cp.CLARABEL)
        x = result.x.double()
        assert float(0.5 * x @ truth @ x + q.double() @ x) <= reference + 1e-5
        assert float(result.value) == pytest.approx(reference, abs=1e-5)


def test_second_order_cones_and_the_path_hold_float32_grams():
    rng = np.random.default_rng(3)
    n = 5
    _, P = gram(rng, 2, n)
    q = torch.tensor(rng.standard_normal(n), dtype=torch.float32)
    A, b = torch.cat([torch.zeros(1, n), -torch.eye(n)]), torch.tensor([1.0] + [0.0] * n)
    x = dcl.ConeLayer({"q": [n + 1]})(P, q, A, b).x
    assert float(x.norm()) == pytest.approx(1.0, abs=1e-5)
    assert float((P @ x + q + (-(P @ x + q) @ x) * x).abs().max()) < 1e-5  # z_0 = -x'(Px + q)
    bound = torch.ones(n)
    mu = 1e-2
    x = dcl.QPLayer(mu=mu)(P, q, lb=-bound, ub=bound).x.double()
    slope = P.double() @ x + q.double() + mu / (1.0 - x) - mu / (1.0 + x)
    assert float(slope.abs().max()) < 1e-4


@DTYPES
def test_rows_that_hold_x_hold_it_against_a_negative_eigenvalue(dtype):
    """-1e-6 x_2^2 / 2 - x_2 in a box of 1e3 has its minimum at the upper bound, with a multiplier of 1."""
    e = -NEGATIVE[dtype][0]
    P, q = torch.diag(torch.tensor([1.0, -e], dtype=dtype)), torch.tensor([0.5, -1.0], dtype=dtype)
    upper = torch.tensor([10.0, 1.0], dtype=dtype)
    result = dcl.QPLayer(on_degenerate="raise")(P, q, lb=-10 * torch.ones(2, dtype=dtype), ub=upper)
    assert result.x.tolist() == pytest.approx([-0.5, 1.0], abs=1e-6)
    assert float(result.value) == pytest.approx(-0.125 - 1.0, abs=2e-6)


# The pieces


def test_excess():
    n = 4
    Q = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    values = torch.tensor([[-1e-8, 2e-8, 0.5, 1.0], [0.0, 0.0, 0.5, 1.0], [-1e-17, 1e-12, 1.0, 1.0]]).double()
    P = (Q * values.unsqueeze(-2)) @ Q.T
    P = 0.5 * P + 0.5 * P.mT
    E = excess(P)
    kept = torch.where(values[0] < 1e-7, 0.0, values[0])
    torch.testing.assert_close(P[0] + E[0], (Q * kept) @ Q.T, rtol=0, atol=1e-15)
    assert not E[1:].any()
    assert excess(P[1:]) is None
    assert excess(torch.zeros(1, n, n).double()) is None
    assert excess(torch.full((1, n, n), torch.nan).double()) is None
    program = ConeProgram(dense_structure(named([Block("nonnegative", 1)]), n), P, P[:, 0], P[:, :1], P[:, 0, :1])
    torch.testing.assert_close(lift(program), E)


def test_the_core_leaves_what_is_not_semidefinite(lane):
    if lane == "torch":
        pytest.skip("about the core")
    bound = torch.ones(1, 2, dtype=torch.float64)
    for e, code in ((1e-9, dense.Code.NOT_PSD), (1e-13, dense.Code.NOT_PSD), (-1e-9, dense.Code.CERTIFIED)):
        P = torch.diag(torch.tensor([1.0, -e])).double()[None]
        data = {"P": P, "q": bound * torch.tensor([0.5, -1.0]), "lb": -bound, "ub": bound}
        assert dense.solve(data, 1).status.item() == code

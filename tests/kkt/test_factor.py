"""Factorizations of the saddle matrix S against NumPy: regular, singular, badly scaled, in batches; dense and sparse."""

import numpy as np
import pytest
import torch

from dcl.kkt import DenseFactor, SparseFactor
from dcl.kkt.saddle import Saddle

BATCH, N, K = 3, 5, 3


def rng_of(seed):
    return np.random.default_rng(seed)


def gram(rng, rank=N, batch=BATCH):
    L = rng.standard_normal((batch, N, rank))
    return L @ L.swapaxes(-1, -2)


def regular(rng):
    return gram(rng), rng.standard_normal((BATCH, K, N)), np.zeros((BATCH, K))


def semidefinite(rng):
    return gram(rng, N - K), rng.standard_normal((BATCH, K, N)), np.zeros((BATCH, K))


def vertex(rng):
    return np.zeros((BATCH, N, N)), rng.standard_normal((BATCH, N, N)), np.zeros((BATCH, N))


def ties(rng):
    T = np.zeros((BATCH, K))
    T[:, 0] = 0.5
    return gram(rng), rng.standard_normal((BATCH, K, N)), T


def barrier(rng):
    return gram(rng), rng.standard_normal((BATCH, 2 * N, N)), rng.uniform(0.01, 0.99, (BATCH, 2 * N))


def barrier_of_an_lp(rng):
    return np.zeros((BATCH, N, N)), rng.standard_normal((BATCH, 2 * N, N)), rng.uniform(0.1, 0.9, (BATCH, 2 * N))


def no_rows(rng):
    return gram(rng), np.zeros((BATCH, 0, N)), np.zeros((BATCH, 0))


def dead_rows(rng):
    # padding of a batch: rows of zeros with T = 1
    H, B, T = regular(rng)
    B[1, 2:], T[1, 2:] = 0.0, 1.0
    B[2, :], T[2, :] = 0.0, 1.0
    return H, B, T


def shared_H(rng):
    return gram(rng, batch=1), rng.standard_normal((BATCH, K, N)), np.zeros((BATCH, K))


def tiny(rng):
    return 1e-6 * gram(rng), 1e-6 * rng.standard_normal((BATCH, K, N)), np.zeros((BATCH, K))


REGULAR = [regular, semidefinite, vertex, ties, barrier, barrier_of_an_lp, no_rows, dead_rows, shared_H, tiny]


def duplicated_row(rng):
    H, B, T = regular(rng)
    B[:, 2] = B[:, 0]
    return H, B, T


def dependent_rows(rng):
    H, B, T = regular(rng)
    B[:, 2] = 2.0 * B[:, 0] - 0.5 * B[:, 1]
    return H, B, T


def too_many_rows(rng):
    return gram(rng), rng.standard_normal((BATCH, N + 2, N)), np.zeros((BATCH, N + 2))


def flat(rng):
    H, B, T = regular(rng)
    H[:, -2:], H[:, :, -2:], B[:, :, -2:] = 0.0, 0.0, 0.0
    return H, B, T


def flat_rotated(rng):
    H, B, T = flat(rng)
    Q = np.linalg.qr(rng.standard_normal((N, N)))[0]
    return Q @ H @ Q.T, B @ Q.T, T


def flat_and_duplicated(rng):
    H, B, T = flat(rng)
    B[:, 2] = B[:, 0]
    return H, B, T


def nothing(rng):
    return np.zeros((BATCH, N, N)), np.zeros((BATCH, K, N)), np.zeros((BATCH, K))


def zero_row(rng):
    H, B, T = regular(rng)
    B[:, 1] = 0.0
    return H, B, T


def duplicated_and_scaled(rng):
    H, B, T = regular(rng)
    B[:, 2] = 1e4 * B[:, 0]
    return H, B, T


# (make, dimension of the null space in a, in y)
SINGULAR = [
    (duplicated_row, 0, 1),
    (dependent_rows, 0, 1),
    (too_many_rows, 0, 2),
    (flat, 2, 0),
    (flat_rotated, 2, 0),
    (flat_and_duplicated, 2, 1),
    (nothing, N, K),
    (zero_row, 0, 1),
    (duplicated_and_scaled, 0, 1),
]

FACTORS = ["dense", "sparse"]
each_factor = pytest.mark.parametrize("kind", FACTORS)


def factor(kind, H, B, T):
    if kind == "dense":
        return DenseFactor(*(torch.tensor(M) for M in (H, B, T)))
    H = np.broadcast_to(H, (len(B), *H.shape[1:]))
    live = (B != 0.0).any(-1) | (T < 1.0)
    places = [np.nonzero((M != 0.0).any(0)) for M in (H, B)]
    saddle = Saddle(H.shape[1], B.shape[1], *places)
    return SparseFactor(saddle, *(M[:, *place] for M, place in zip((H, B), places, strict=True)), T, live)


def saddles(H, B, T):
    H = np.broadcast_to(H, (len(B), *H.shape[1:]))
    return [np.block([[Hi, Bi.T], [Bi, -np.diag(Ti)]]) for Hi, Bi, Ti in zip(H, B, T, strict=True)]


def sides(n, k, lead=(), seed=7):
    rng = rng_of(seed)
    return rng.standard_normal((*lead, BATCH, n)), rng.standard_normal((*lead, BATCH, k))


def solved(f, r1, r2):
    """(solutions (..., B, n + k), residuals (..., B)) in NumPy."""
    a, y, accuracy = f.solve(torch.tensor(r1), torch.tensor(r2))
    assert (a.shape, y.shape, accuracy.shape) == (r1.shape, r2.shape, r1.shape[:-1])
    return torch.cat([a, y], -1).numpy(), accuracy.numpy()


@pytest.mark.sample(7)
@pytest.mark.parametrize("lead", [(), (1,), (2, 3)], ids=str)
@pytest.mark.parametrize("make", REGULAR, ids=lambda f: f.__name__)
@each_factor
def test_regular(kind, make, lead):
    data = make(rng_of(0))
    S, (r1, r2) = saddles(*data), sides(N, data[1].shape[1], lead)
    f = factor(kind, *data)
    x, accuracy = solved(f, r1, r2)
    r = np.concatenate([r1, r2], -1)
    for i in range(BATCH):
        # dead rows are dropped by the sparse factor: their y is not looked at by anybody
        keep = np.ones(len(S[i]), bool)
        keep[N:] = (data[1][i] != 0.0).any(-1)
        expected = np.linalg.solve(S[i], r[..., i, :, None])[..., 0]
        np.testing.assert_allclose(
            x[..., i, keep], expected[..., keep], rtol=0, atol=1e-12 * np.linalg.cond(S[i]) * np.abs(expected).max()
        )
    assert (accuracy <= [1e-15 * max(np.linalg.cond(M), 1e2) for M in S]).all()
    assert not f.conditioning.null_a.any()
    assert not f.conditioning.null_y.any()


@pytest.mark.parametrize("make", REGULAR, ids=lambda f: f.__name__)
@each_factor
def test_condition_is_that_of_the_two_norm(kind, make):
    data = make(rng_of(0))
    if kind == "sparse" and make is dead_rows:
        pytest.skip("dead rows are dropped")
    expected = [np.linalg.cond(S) for S in saddles(*data)]
    ratio = factor(kind, *data).conditioning.condition.numpy() / expected
    assert (ratio > 0.05).all()
    assert (ratio < 1.5).all()


@pytest.mark.sample(5)
@pytest.mark.parametrize(("make", "null_a", "null_y"), SINGULAR, ids=lambda v: getattr(v, "__name__", str(v)))
@pytest.mark.parametrize("consistent", [True, False], ids=["consistent", "inconsistent"])
@each_factor
def test_singular(kind, make, null_a, null_y, consistent):
    data = make(rng_of(0))
    S, f = saddles(*data), factor(kind, *data)
    assert f.conditioning.null_a.tolist() == [null_a] * BATCH
    assert f.conditioning.null_y.tolist() == [null_y] * BATCH
    r1, r2 = sides(N, data[1].shape[1], (2,))
    r = np.concatenate([r1, r2], -1)
    if consistent:
        r = np.stack([r[:, i] @ S[i].T for i in range(BATCH)], 1)
    x, accuracy = solved(f, r[..., :N], r[..., N:])
    for i in range(BATCH):
        inverse = np.linalg.pinv(S[i], rcond=1e-11, hermitian=True)
        expected = r[:, i] @ inverse.T
        scale = 1e-12 * np.linalg.norm(inverse, 2) * np.linalg.norm(S[i], 2)
        np.testing.assert_allclose(x[:, i], expected, rtol=0, atol=max(scale, 1e-12) * max(1.0, np.abs(expected).max()))
        # of the nonzero part
        values = np.abs(np.linalg.eigvalsh(S[i]))
        values = values[values > 1e-11 * values.max()] if values.max() > 0.0 else np.ones(1)
        assert (
            float(f.conditioning.condition[i]) == pytest.approx(values.max() / values.min(), rel=1e-3)
            or make is nothing
        )
    assert (accuracy <= 1e-15 * np.maximum(f.conditioning.condition.numpy(), 1e3)).all()


@each_factor
def test_hard_and_easy_instances_in_one_batch(kind):
    easy, hard, flat_ = regular(rng_of(0)), duplicated_row(rng_of(1)), flat(rng_of(2))
    data = [np.concatenate([e[:1], h[1:2], g[2:3]]) for e, h, g in zip(easy, hard, flat_, strict=True)]
    f = factor(kind, *data)
    assert f.conditioning.null_a.tolist() == [0, 0, 2]
    assert f.conditioning.null_y.tolist() == [0, 1, 0]
    r1, r2 = sides(N, K, (4,))
    x, accuracy = solved(f, r1, r2)
    for i, S in enumerate(saddles(*data)):
        one = factor(kind, *(M[[i] * BATCH] for M in data))
        alone, _ = solved(one, r1[:, [i] * BATCH], r2[:, [i] * BATCH])
        np.testing.assert_allclose(x[:, i], alone[:, 0], rtol=1e-11, atol=1e-12)
        expected = np.concatenate([r1, r2], -1)[:, i] @ np.linalg.pinv(S, rcond=1e-11, hermitian=True).T
        np.testing.assert_allclose(x[:, i], expected, rtol=1e-9, atol=1e-10)
    assert accuracy.max() < 1e-12


@pytest.mark.parametrize("power", [2, 4, 6, 8])
@pytest.mark.parametrize("what", ["rows", "one row", "H"])
@each_factor
def test_badly_scaled(kind, what, power):
    H, B, T = regular(rng_of(0))
    if what == "rows":
        B *= 10.0 ** np.linspace(-power / 2, power / 2, K)[:, None]
    elif what == "one row":
        B[:, 1] *= 10.0**power
    else:
        H *= 10.0**power
    S, f = saddles(H, B, T), factor(kind, H, B, T)
    assert not f.conditioning.null_a.any()
    assert not f.conditioning.null_y.any()
    x, accuracy = solved(f, *sides(N, K))
    r = np.concatenate(sides(N, K), -1)
    for i in range(BATCH):
        # row by row backward stable: the error is that of the equilibrated matrix, not of S
        E = 1.0 / np.sqrt(np.abs(S[i]).max(1))
        scaled = E[:, None] * S[i] * E
        expected = E * np.linalg.solve(scaled, E * r[i])
        error = np.abs((x[i] - expected) / E).max() / np.abs(expected / E).max()
        assert error < 1e-13 * np.linalg.cond(scaled)
        actual = np.linalg.norm(r[i] - S[i] @ x[i]) / np.linalg.norm(r[i])
        assert accuracy[i] == pytest.approx(actual, rel=0.9, abs=1e-14 * np.linalg.cond(S[i]))


@pytest.mark.parametrize("digits", [1, 2, 3, 4, 7, 9])
@each_factor
def test_ill_conditioned(kind, digits):
    # rows that are almost parallel, nothing to equilibrate: the smallest singular value of S is like 10^(-2 digits)
    H, B, T = regular(rng_of(0))
    B[:, 2] = B[:, 0] + 10.0**-digits * B[:, 2]
    S, f = saddles(H, B, T), factor(kind, H, B, T)
    rank_deficient = f.conditioning.null_y.numpy() > 0
    assert (rank_deficient == (digits > 5)).all()
    if digits > 5:
        return
    r1, r2 = sides(N, K)
    x, accuracy = solved(f, r1, r2)
    r = np.concatenate([r1, r2], -1)
    for i in range(BATCH):
        condition = np.linalg.cond(S[i])
        np.testing.assert_allclose(float(f.conditioning.condition[i]) / condition, 1.0, atol=0.95)
        expected = refined(S[i], r[i])
        assert np.abs(x[i] - expected).max() <= 1e-13 * condition * np.abs(expected).max()
        actual = np.linalg.norm(r[i] - S[i] @ x[i]) / np.linalg.norm(r[i])
        assert accuracy[i] < 1e-3
        assert actual < 10 * accuracy[i] + 1e-15 * condition


def refined(S, r):
    """S^-1 r with residuals in long double."""
    x = np.linalg.solve(S, r).astype(np.longdouble)
    for _ in range(20):
        x = x + np.linalg.solve(S, (r - S.astype(np.longdouble) @ x).astype(float))
    return x.astype(float)


@each_factor
def test_zero_sides_give_exact_zeros(kind):
    for make in (regular, duplicated_row, flat, barrier):
        data = make(rng_of(0))
        x, accuracy = solved(factor(kind, *data), np.zeros((2, BATCH, N)), np.zeros((2, BATCH, data[1].shape[1])))
        assert not x.any()
        assert not accuracy.any()


@each_factor
def test_one_variable(kind):
    H, B, T = np.full((BATCH, 1, 1), 2.0), np.full((BATCH, 1, 1), -3.0), np.zeros((BATCH, 1))
    x, _ = solved(factor(kind, H, B, T), np.ones((BATCH, 1)), np.full((BATCH, 1), 6.0))
    # 2 a - 3 y = 1, -3 a = 6
    np.testing.assert_allclose(x, [[-2.0, -5.0 / 3.0]] * BATCH, rtol=1e-14)


def test_many_right_hand_sides_are_as_one_by_one():
    for make in (regular, duplicated_row, barrier):
        data = make(rng_of(0))
        f, (r1, r2) = factor("dense", *data), sides(N, data[1].shape[1], (7,))
        x, _ = solved(f, r1, r2)
        for j in range(7):
            alone, _ = solved(f, r1[j], r2[j])
            np.testing.assert_allclose(x[j], alone, rtol=1e-11, atol=1e-13)


def test_inputs_are_not_modified():
    for make in (regular, flat_and_duplicated):
        tensors = [torch.tensor(M) for M in make(rng_of(0))]
        before = [t.clone() for t in tensors]
        r = [torch.tensor(t) for t in sides(N, K)]
        kept = [t.clone() for t in r]
        DenseFactor(*tensors).solve(*r)
        assert all(torch.equal(a, b) for a, b in zip([*tensors, *r], [*before, *kept], strict=True))


@pytest.mark.slow
def test_sparse_above_the_limit_of_the_eigenvalue_solver(monkeypatch):
    monkeypatch.setattr("dcl.kkt.sparse.EIGEN_LIMIT", 4)
    for make in (duplicated_row, flat, dependent_rows):
        data = make(rng_of(0))
        S, (r1, r2) = saddles(*data), sides(N, K)
        x, _ = solved(factor("sparse", *data), r1, r2)
        for i in range(BATCH):
            expected = np.linalg.pinv(S[i], rcond=1e-11, hermitian=True) @ np.concatenate([r1[i], r2[i]])
            np.testing.assert_allclose(x[i], expected, rtol=1e-7, atol=1e-7)

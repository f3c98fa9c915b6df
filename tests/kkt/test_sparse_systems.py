"""The sparse KKT system without a spectrum: against the dense one, on singular systems too; what is asked decides the kind."""

import importlib

import cvxpy as cp
import numpy as np
import pytest
import torch
from test_factor import SINGULAR, solved
from test_factor import factor as factor_of

import dcl
from dcl import core
from dcl.kkt.eigen import EigenFactor
from dcl.kkt.saddle import Saddle
from dcl.kkt.sparse import SparseFactor

N, K, BATCH = 160, 90, 2
# the module: the package has the function by this name
CANONICALIZE = importlib.import_module("dcl.frontends.cvxpy.canonicalize")


def sparse_matrices(seed):
    """H (B, N, N) of rank N - 40, B (B, K, N) with three entries a row, T: zeros, halves, and rows that are dead."""
    rng = np.random.default_rng(seed)
    H, B = np.zeros((BATCH, N, N)), np.zeros((BATCH, K, N))
    for i in range(N - 40):
        j = rng.integers(N - 40)
        v = rng.standard_normal((BATCH, 2))
        H[:, i, i] += v[:, 0] ** 2 + 0.1
        H[:, j, j] += v[:, 1] ** 2
        if i != j:
            H[:, i, j] += v[:, 0] * v[:, 1]
            H[:, j, i] += v[:, 0] * v[:, 1]
            H[:, i, i] += v[:, 0] ** 2
            H[:, j, j] += v[:, 1] ** 2
    for k in range(K):
        # the variables without curvature are seen by a row each
        places = [*rng.choice(N - 40, 2, replace=False), N - 40 + k % 40]
        B[:, k, places] = rng.standard_normal((BATCH, 3)) + 2.0
    T = np.zeros((BATCH, K))
    T[:, ::7] = 0.5
    B[:, 5::9], T[:, 5::9] = 0.0, 1.0
    return H, B, T


def with_free_columns(H, B, T):
    B[:, :, -5:] = 0.0
    return H, B, T


def with_duplicated_rows(H, B, T):
    B[:, 1], B[:, 2] = 3.0 * B[:, 0], B[:, 3] + B[:, 4]
    T[:, :5] = 0.0
    return H, B, T


def with_a_flat_direction(H, B, T):
    # d = e_0 - e_1 + e_2
    H[:, :3], H[:, :, :3], B[:, :, :3] = 0.0, 0.0, 0.0
    B[:, 0, :2], B[:, 1, 1:3], T[:, :2] = 1.0, 1.0, 0.0
    return H, B, T


def with_all(H, B, T):
    return with_duplicated_rows(*with_a_flat_direction(*with_free_columns(H, B, T)))


CASES = [lambda *S: S, with_free_columns, with_duplicated_rows, with_a_flat_direction, with_all]
each_case = pytest.mark.parametrize("change", CASES, ids=["regular", *(f.__name__ for f in CASES[1:])])


def both(H, B, T):
    places = [np.nonzero((M != 0.0).any(0)) for M in (H, B)]
    saddle = Saddle(N, K, *places)
    values = [M[:, *place] for M, place in zip((H, B), places, strict=True)]
    sparse = SparseFactor(saddle, *values, T, (B != 0.0).any(-1) | (T < 1.0))
    return sparse, EigenFactor(*(torch.tensor(M) for M in (H, B, T)))


@pytest.mark.sample(5)
@pytest.mark.parametrize("seed", range(4))
@each_case
def test_the_null_spaces_are_those_of_the_spectrum(change, seed):
    sparse, dense = (f.conditioning for f in both(*change(*sparse_matrices(seed))))
    for name in ("null_a", "null_y"):
        assert torch.equal(getattr(sparse, name) > 0, getattr(dense, name) > 0)
    for name in ("spread", "dependence"):
        assert torch.equal(getattr(sparse, name) > 1e-9, getattr(dense, name) > 1e-9)
    ratio = sparse.condition / dense.condition
    assert bool(((ratio > 0.02) & (ratio < 50.0)).all())


@pytest.mark.sample(5)
@pytest.mark.parametrize("seed", range(4))
@each_case
def test_solutions_are_those_of_the_spectrum(change, seed):
    H, B, T = change(*sparse_matrices(seed))
    sparse, dense = both(H, B, T)
    live = (B != 0.0).any(-1) | (T < 1.0)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((BATCH, N + K)) * np.concatenate([np.ones((BATCH, N)), live], 1)
    S = np.block([[H, B.swapaxes(1, 2)], [B, -T[:, :, None] * np.eye(K)]])
    for r in ((S @ x[..., None])[..., 0], x):
        found, accuracy = solved(sparse, r[:, :N], r[:, N:])
        expected, _ = solved(dense, r[:, :N], r[:, N:])
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-8 * np.abs(expected).max())
        assert accuracy.max() < 1e-7
    # a right-hand side in the range is met to the last digit
    r = (S @ x[..., None])[..., 0]
    found, accuracy = solved(sparse, r[:, :N], r[:, N:])
    assert accuracy.max() < 1e-14
    assert np.abs((S @ found[..., None])[..., 0] - r).max() < 1e-12


@each_case
def test_flat_directions_span_the_null_space(change):
    H, B, T = change(*sparse_matrices(0))
    sparse, dense = both(H, B, T)
    toward = torch.tensor(np.random.default_rng(1).standard_normal(N))
    for i in range(BATCH):
        found, expected = sparse.flat_directions(i, toward), dense.flat_directions(i, toward)
        assert found.shape == expected.shape
        torch.testing.assert_close(found @ (found.mT @ toward), expected @ (expected.mT @ toward), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("make", "null_a", "null_y"), SINGULAR, ids=lambda v: getattr(v, "__name__", str(v)))
@pytest.mark.parametrize("consistent", [True, False])
def test_small_singular_systems_without_a_spectrum(make, null_a, null_y, consistent, monkeypatch):
    monkeypatch.setattr("dcl.kkt.sparse.EIGEN_LIMIT", 0)
    H, B, T = make(np.random.default_rng(0))
    f, n = factor_of("sparse", H, B, T), H.shape[-1]
    assert bool((f.conditioning.null_a > 0).all()) == (null_a > 0)
    assert bool((f.conditioning.null_y > 0).all()) == (null_y > 0)
    S = np.block([[H, B.swapaxes(1, 2)], [B, -T[:, :, None] * np.eye(B.shape[1])]])
    r = np.random.default_rng(7).standard_normal(S.shape[:2])
    r = (S @ r[..., None])[..., 0] if consistent else r
    x, _ = solved(f, r[:, :n], r[:, n:])
    expected = [np.linalg.pinv(Si, rcond=1e-11, hermitian=True) @ ri for Si, ri in zip(S, r, strict=True)]
    np.testing.assert_allclose(x, expected, rtol=0.0, atol=1e-7 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("consistent", [True, False])
def test_minimum_norm_solutions_where_units_differ_along_the_null_space(consistent):
    # of dimension 20 + 60, rows and columns of sizes 2^-4 to 2^4: more than a few projections tell apart
    rng = np.random.default_rng(0)
    B = rng.standard_normal((1, 100, 40)) @ rng.standard_normal((1, 40, 60))
    B = np.exp2(rng.uniform(-4.0, 4.0, (1, 100, 1))) * B * np.exp2(rng.uniform(-4.0, 4.0, (1, 1, 60)))
    H, T = np.zeros((1, 60, 60)), np.zeros((1, 100))
    S = np.block([[H, B.swapaxes(1, 2)], [B, np.zeros((1, 100, 100))]])
    r = rng.standard_normal((1, 160))
    r = (S @ r[..., None])[..., 0] if consistent else r
    f = factor_of("sparse", H, B, T)
    x, accuracy = solved(f, r[:, :60], r[:, 60:])
    expected = np.linalg.pinv(S[0], rcond=1e-11, hermitian=True) @ r[0]
    # a residual of up to 1e-8 times the condition of the projection: 1e-5 with the core, 1e-4 without; where directions are
    # missing, 5e-2.  The residual, 1e-2 there, is 3e-6 without the core, of which users are warned.
    np.testing.assert_allclose(x[0], expected, rtol=0.0, atol=1e-3 * np.abs(expected).max())
    assert accuracy.max() <= 1e-5
    largest = np.linalg.svd(B[0], compute_uv=False)
    assert 0.01 < float(f.conditioning.condition) * largest[39] / largest[0] <= 1.001  # an estimate from below


@each_case
def test_without_the_core_the_numbers_are_the_same(change, monkeypatch):
    H, B, T = change(*sparse_matrices(2))
    r1, r2 = np.random.default_rng(3).standard_normal((BATCH, N)), np.random.default_rng(4).standard_normal((BATCH, K))
    found = []
    for available in (core.available, False):
        monkeypatch.setattr(core, "available", available)
        f, _ = both(H, B, T)
        found.append(solved(f, r1, r2)[0])
    np.testing.assert_allclose(found[1], found[0], rtol=0.0, atol=1e-8 * np.abs(found[0]).max())


# Layers: stored dense and stored sparse


def mpc(epigraph):
    x, u, start = cp.Variable((7, 2)), cp.Variable(6), cp.Parameter(2)
    A, B = np.array([[1.0, 0.4], [-0.2, 0.9]]), np.array([0.1, 0.5])
    rows = [x[0] == start, *(x[k + 1] == A @ x[k] + B * u[k] for k in range(6))]
    rows += [cp.abs(u) <= 1] if epigraph else [u <= 1, u >= -1]
    return cp.Problem(cp.Minimize(cp.sum_squares(x) + 0.1 * cp.sum_squares(u)), rows), [start], [u], [[2.0, -1.0]]


def redundant():
    x, c, supply = cp.Variable(6, nonneg=True), cp.Parameter(6), cp.Parameter()
    flow = np.array([[1, 1, 0, 0, 0, 0], [-1, 0, 1, 1, 0, 0], [0, -1, -1, 0, 1, 0], [0, 0, 0, -1, -1, 0.0]])
    rows = [flow @ x == np.array([1.0, 0.0, 0.0, -1.0]), x[5] == supply, x <= 2]
    objective = c @ x + 0.05 * cp.sum_squares(x)
    return cp.Problem(cp.Minimize(objective), rows), [c, supply], [x], [[1.0, 1.2, 0.3, 1.1, 0.8, 0.5], 0.3]


def lasso():
    x, b = cp.Variable(5), cp.Parameter(8)
    A = np.random.default_rng(0).standard_normal((8, 5))
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + 3.0 * cp.norm1(x))), [b], [x], [np.linspace(-2, 3, 8)]


def cone():
    x, b = cp.Variable(4), cp.Parameter(4)
    rows = [cp.norm(x) <= 1, cp.sum(x) == 0.3, x[0] + x[1] <= 0.2]
    return cp.Problem(cp.Minimize(cp.sum_squares(x - b) + cp.exp(x[3])), rows), [b], [x], [[1.0, -2.0, 0.5, 1.0]]


PROGRAMS = {"box": lambda: mpc(False), "abs": lambda: mpc(True), "redundant": redundant, "lasso": lasso, "cone": cone}


@pytest.mark.parametrize("name", PROGRAMS)
def test_layers_stored_sparse_are_those_stored_dense(name, monkeypatch):
    problem, parameters, variables, values = PROGRAMS[name]()
    answers, kinds = [], []
    for dense in (True, False):
        monkeypatch.setattr(CANONICALIZE, "dense_storage", lambda *_, dense=dense: dense)
        monkeypatch.setattr("dcl.kkt.sparse.EIGEN_LIMIT", 0)
        given = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
        (out,), solution = dcl.CvxpyLayer(problem, parameters, variables)(*given, return_solution=True)
        weights = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).reshape(out.shape)
        answers.append([out, *torch.autograd.grad((weights * out).sum(), given)])
        kinds.append(int(solution.gradient_kind))
    torch.testing.assert_close(answers[1], answers[0], rtol=0.0, atol=1e-9)
    assert kinds == [int(dcl.GradientKind.EXACT)] * 2


# Doubt only what is asked


def kind(problem, parameters, variables, values):
    given = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    _, solution = dcl.CvxpyLayer(problem, parameters, variables, on_degenerate="ignore")(*given, return_solution=True)
    return dcl.GradientKind(int(solution.gradient_kind))


def test_redundant_rows_count_where_their_data_change():
    problem, parameters, variables, values = redundant()
    assert kind(problem, parameters, variables, values) == dcl.GradientKind.EXACT
    # their multipliers are not unique
    duals = [problem.constraints[0].dual_variables[0]]
    assert kind(problem, parameters, duals, values) == dcl.GradientKind.RANK_DEFICIENT
    x, b = cp.Variable(2), cp.Parameter(2)
    twice = cp.Problem(cp.Minimize(cp.sum_squares(x)), [cp.sum(x) == b[0], 2 * cp.sum(x) == b[1]])
    assert kind(twice, [b], [x], [[1.0, 2.0]]) == dcl.GradientKind.RANK_DEFICIENT


def test_flat_directions_count_where_data_multiply_them():
    # t1 + t2 = 1 leaves t1 - t2 free; with a1 = a2 = 1 it moves nothing: x = c - 1
    x, t, a, c = cp.Variable(), cp.Variable(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.square(x)), [x + a @ t == c, cp.sum(t) == 1])
    assert kind(problem, [a, c], [x], [[1.0, 1.0], 3.0]) == dcl.GradientKind.NONUNIQUE
    constant = cp.Problem(cp.Minimize(cp.square(x)), [x + np.ones(2) @ t == c, cp.sum(t) == 1])
    assert kind(constant, [c], [x], [3.0]) == dcl.GradientKind.EXACT


def test_a_long_chain_with_free_epigraphs_has_no_cliff(monkeypatch):
    def forbidden(*_):
        raise AssertionError("nothing dense is formed of a large sparse program")

    monkeypatch.setattr("dcl.kkt.sparse.EigenFactor", forbidden)
    n = 4000
    x, u, start = cp.Variable(n + 1), cp.Variable(n), cp.Parameter()
    rows = [x[0] == start, x[1:] == 0.9 * x[:-1] + 0.5 * u, cp.abs(u) <= 1, 2 * x[0] == 2 * start]
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.sum_squares(u)), rows), [start], [u])
    value = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    with pytest.warns(dcl.DegenerateWarning, match="RANK_DEFICIENT"):
        (out,) = layer(value)
    (gradient,) = torch.autograd.grad(out[0], value)
    # linear-quadratic regulator: u_0 = -k x_0, p = 1 + 0.81 p - (0.45 p)^2 / (1 + 0.25 p), k = 0.45 p / (1 + 0.25 p)
    p = 1.0
    for _ in range(200):
        p = 1.0 + 0.81 * p - (0.45 * p) ** 2 / (1.0 + 0.25 * p)
    assert float(out[0].detach()) == pytest.approx(-1.5 * 0.45 * p / (1.0 + 0.25 * p), rel=1e-9)
    assert float(gradient) == pytest.approx(-0.45 * p / (1.0 + 0.25 * p), rel=1e-9)


@pytest.mark.sample(7)
@pytest.mark.parametrize("seed", range(20))
def test_many_ties_are_seen_together_as_one_by_one(seed, monkeypatch):
    """x = max(x0, 0) entry by entry, some entries of x0 zero: a doubt where such an entry is requested, or coupled to one."""
    rng = np.random.default_rng(seed)
    x, y, target = cp.Variable(4), cp.Variable(3), cp.Parameter(7)
    rows = [x >= 0, y >= 0] + ([x[0] + y[0] == 2] if seed % 2 else [])
    objective = cp.sum_squares(x - target[:4]) + cp.sum_squares(y - target[4:])
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(objective), rows), [target], [x], on_degenerate="ignore")
    value = torch.tensor(rng.choice([-1.0, 0.0, 1.0], 7), requires_grad=True)
    kinds = []
    for many in (32, 0):
        monkeypatch.setattr("dcl.point.effects._MANY", many)
        _, solution = layer(value, return_solution=True)
        kinds.append(int(solution.gradient_kind))
    assert kinds[0] == kinds[1]
    if not seed % 2:
        doubtful = bool((value[:4] == 0.0).any())
        assert kinds[0] == int(dcl.GradientKind.WEAKLY_ACTIVE if doubtful else dcl.GradientKind.EXACT)

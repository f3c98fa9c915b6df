"""A point against NumPy: its residuals by the formulas of the header, and what combinations of points still know."""

import numpy as np
import pytest
import torch

from dcl.cones import orthant
from dcl.point import Point
from dcl.program import ConeProgram, dense_structure

B, N, ZEROS, M = 5, 4, 2, 6
EPS = np.finfo(float).eps


def data(seed=0, shared=()):
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((B, N, N))
    P, A = L @ L.swapaxes(1, 2), rng.standard_normal((B, M, N))
    found = {"P": P, "q": rng.standard_normal((B, N)), "A": A, "b": rng.standard_normal((B, M))}
    return {name: t[:1] if name in shared else t for name, t in found.items()}


def program(**arrays):
    return ConeProgram(dense_structure(orthant(ZEROS, M - ZEROS), N), **{k: torch.tensor(t) for k, t in arrays.items()})


def some(seed, mu=0.0, **arrays):
    """A point with rows on both sides of their bounds."""
    rng = np.random.default_rng(seed)
    x, v = (torch.tensor(rng.standard_normal((B, size))) for size in (N, M))
    return Point(program(**arrays), x, v, mu)


def barrier(mu):
    return mu if mu == 0.0 else torch.full((B, 1), mu, dtype=torch.float64) * torch.arange(1.0, B + 1.0).unsqueeze(-1)


def split(v, mu, i):
    """z and s of instance i: v = z - s, and z s = mu on the inequalities."""
    mu = 0.0 if isinstance(mu, float) else float(mu[i])
    root = np.sqrt(v * v + 4.0 * mu)
    z, s = (v + root) / 2.0, (root - v) / 2.0
    z[:ZEROS], s[:ZEROS] = v[:ZEROS], 0.0
    return z, s, mu


@pytest.mark.parametrize("shared", [(), ("P",), ("A", "b")])
@pytest.mark.parametrize("mu", [0.0, 0.03])
@pytest.mark.parametrize("floor", [1e-5, 1.0])
def test_residuals_by_the_formulas(floor, mu, shared):
    arrays = data(shared=shared)
    point = some(1, barrier(mu), **arrays)
    by_row, net = point.measures(floor)
    for i in range(B):
        P, q, A, b = (arrays[k][min(i, len(arrays[k]) - 1)] for k in ("P", "q", "A", "b"))
        x, v = point.x[i].numpy(), point.v[i].numpy()
        z, s, t = split(v, point.mu, i)
        primal, dual = A @ x + s - b, P @ x + q + A.T @ z
        gap = abs(x @ P @ x + q @ x + b @ z - t * (M - ZEROS))
        np.testing.assert_allclose(point.feasibility[i], primal, atol=64 * EPS)
        np.testing.assert_allclose(point.stationarity[i], dual, atol=64 * EPS)
        assert float(point.size[i]) == pytest.approx(np.sqrt(primal @ primal + dual @ dual), rel=1e-13)
        ax, az = abs(x), abs(z)
        expected = (
            (abs(primal) / (floor + abs(A) @ ax + s + abs(b))).max(),
            (abs(dual) / (floor + abs(P) @ ax + abs(q) + abs(A).T @ az)).max(),
            gap / (floor + ax @ abs(P) @ ax + abs(q) @ ax + abs(b) @ az),
        )
        np.testing.assert_allclose(by_row[i], expected, rtol=1e-12)
        largest = max(abs(t).max() for t in (P @ x, q, A.T @ z))
        expected = (
            (abs(primal) / (1.0 + abs(A @ x).max() + s + abs(b))).max(),
            abs(dual).max() / (1.0 + largest),
            gap / (1.0 + max(abs(x @ P @ x), abs(q @ x), abs(b @ z))),
        )
        np.testing.assert_allclose(net[i], expected, rtol=1e-12)


def test_rounding_is_reported_where_it_hides_everything():
    # P x with P = [[1, 1], [1, 1]] and x = 1e13 (1, -1): the terms cancel to zero, which is luck
    x, none = torch.tensor([[1e13, -1e13]], dtype=torch.float64), torch.zeros(1, 0, dtype=torch.float64)
    P, A = torch.ones(1, 2, 2, dtype=torch.float64), torch.zeros(1, 0, 2, dtype=torch.float64)
    by_row, net = Point(ConeProgram(dense_structure(orthant(0, 0), 2), P, 0.0 * x, A, none), x, none).measures()
    assert float(by_row[0, 1]) == 0.0
    assert float(net[0, 1]) == pytest.approx(2e13 * EPS, rel=1e-12)


def everything(point):
    return {
        k: getattr(point, k) for k in ("z", "s", "Px", "Ax", "ATz", "stationarity", "feasibility", "size", "residuals")
    }


@pytest.mark.parametrize("asked", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("mu", [0.0, 0.03])
@pytest.mark.parametrize("shared", [(), ("P", "A")])
def test_combined_points_are_the_points_of_their_rows(shared, mu, asked):
    arrays, index = data(shared=shared), torch.tensor([1, 3])
    first, second = some(1, barrier(mu), **arrays), some(2, barrier(mu), **arrays)
    second = Point(first.program, second.x, second.v, first.mu)
    if asked:
        everything(first), everything(second)
    mask = torch.tensor([True, False, False, True, False])
    combined = {
        "rows": (first.rows(index), lambda t, u: t[index]),
        "with_rows": (first.with_rows(index, second.rows(index)), lambda t, u: t.index_copy(0, index, u[index])),
        "where": (first.where(mask, second), lambda t, u: torch.where(mask.unsqueeze(-1), t, u)),
    }
    for name, (point, how) in combined.items():
        rows = index if name == "rows" else torch.arange(B)
        mu_rows = first.mu if isinstance(first.mu, float) else first.mu[rows]
        fresh = Point(program(**arrays).rows(rows), how(first.x, second.x), how(first.v, second.v), mu_rows)
        for key, value in everything(fresh).items():
            torch.testing.assert_close(getattr(point, key), value, rtol=1e-13, atol=1e-13, msg=f"{name}: {key}")


def test_combinations_that_are_one_of_the_points():
    arrays = data()
    first, second = some(1, **arrays), some(2, **arrays)
    all_of_them = torch.arange(B)
    assert first.rows(all_of_them) is first
    assert first.with_rows(all_of_them, second) is second
    assert first.where(torch.ones(B, dtype=torch.bool), second) is first
    assert first.where(torch.zeros(B, dtype=torch.bool), second) is second


def test_newton_ends_at_the_exact_point_of_its_active_set():
    # one step from a point with the right signs of v: the KKT system of the active rows is linear, solved here by NumPy
    arrays, active = data(3), [0, 1, 4]
    P, q, A, b = (arrays[k] for k in ("P", "q", "A", "b"))
    v = -np.ones((B, M))
    v[:, active] = 1.0
    point = Point(program(**arrays), torch.tensor(np.ones((B, N))), torch.tensor(v))
    moved = point.moved(*point.newton())
    for i in range(B):
        J = A[i][active]
        K = np.block([[P[i], J.T], [J, np.zeros((len(active), len(active)))]])
        solution = np.linalg.solve(K, np.concatenate([-q[i], b[i][active]]))
        np.testing.assert_allclose(moved.x[i], solution[:N], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(moved.v[i][active], solution[N:], rtol=1e-9, atol=1e-9)
        passive = [k for k in range(M) if k not in active]
        np.testing.assert_allclose(moved.v[i][passive], (A[i] @ solution[:N] - b[i])[passive], rtol=1e-9, atol=1e-9)


def test_a_factor_is_taken_over_where_the_active_set_is_the_same():
    point = some(1, **data())
    near = point.kkt
    same = point.moved(torch.ones_like(point.x), 1e-3 * point.v)
    assert same.kkt.factor is near.factor
    assert same.kkt.is_at(same.v)
    other = point.moved(torch.ones_like(point.x), -2.0 * point.v)
    assert other.kkt.factor is not near.factor

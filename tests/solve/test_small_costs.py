"""Linear programs whose costs are far apart: the small ones decide, and the vertex is verified in rational numbers."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from sympy import QQ
from sympy.polys.matrices import DomainMatrix

import dcl


def covering(n, small, seed):
    """Minimize c'x over Ax >= b, x >= 0: up to half of the costs of size `small`, the others up to 5."""
    rng = np.random.default_rng(seed + 100 * n)
    A = rng.random((n, n)) * (rng.random((n, n)) < 0.5)
    A[np.arange(n), rng.integers(0, n, n)] += 0.5
    b, c = rng.random(n) + 0.5, 5.0 * rng.random(n)
    k = rng.integers(1, n // 2)
    c[rng.permutation(n)[:k]] = small * rng.random(k)
    return A, b, c


def rational(M):
    rows = [[QQ(*float(t).as_integer_ratio()) for t in row] for row in np.atleast_2d(M)]
    return DomainMatrix(rows, (len(rows), len(rows[0])), QQ)


def vertex_of(A, b, c, x):
    """The vertex of the n rows that hold at x, exactly, as numbers; asserted to be feasible and optimal."""
    n = len(c)
    R, h = np.vstack([A, np.eye(n)]), np.concatenate([b, np.zeros(n)])
    held = np.flatnonzero(np.abs(R @ x - h) <= 1e-9)
    assert len(held) == n
    M = rational(R[held])
    y = M.transpose().lu_solve(rational(c[:, None]))
    known = M.lu_solve(rational(h[held][:, None]))
    slacks = rational(R) * known - rational(h[:, None])
    assert all(entry >= 0 for (entry,) in y.to_list())
    assert all(entry >= 0 for (entry,) in slacks.to_list())
    return np.array([float(entry) for (entry,) in known.to_list()])


# of 72 such programs these were among the 26 that failed
FAILED = [(10, 1e-8, 3), (10, 1e-9, 0), (10, 1e-9, 3), (20, 1e-6, 2), (20, 1e-8, 2), (20, 1e-9, 1), (20, 1e-9, 4)]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("n", "small", "seed"), FAILED)
def test_the_vertex_is_the_one_of_the_small_costs(n, small, seed, sparse):
    A, b, c = covering(n, small, seed)
    G = torch.from_numpy(-A)
    data = {"G": G.to_sparse() if sparse else G, "h": torch.from_numpy(-b), "lb": torch.zeros(n).double()}
    result, solution = dcl.QPLayer()(None, torch.from_numpy(c), **data, return_solution=True)
    x = result.x.numpy()
    known = vertex_of(A, b, c, x)
    np.testing.assert_allclose(x, known, rtol=1e-12, atol=1e-12 * np.abs(known).max())
    assert float(solution.value) == pytest.approx(c @ known, rel=1e-12)
    # the multipliers are those of the vertex too: strong duality, to digits of the small costs
    assert float(b @ result.z.numpy()) == pytest.approx(c @ known, rel=1e-6)


def test_in_a_batch_and_by_its_names():
    """One instance of usual costs, one of costs that are far apart, maximized in CVXPY."""
    A, b, far = covering(10, 1e-9, 3)
    near = covering(10, 1.0, 3)[2]
    x, c = cp.Variable(10), cp.Parameter(10)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Maximize(-c @ x), [A @ x >= b, x >= 0]), [c], [x])
    costs = np.stack([near, far])
    (found,) = layer(torch.from_numpy(costs))
    for one, cost in zip(found.numpy(), costs, strict=True):
        np.testing.assert_allclose(one, vertex_of(A, b, cost, one), atol=1e-10)


def test_costs_that_are_lost_beside_others_are_told():
    """At 1e-12 the value is right to 1e-8, and x is not determined to the digits that the check asks for."""
    A, b, c = covering(10, 1e-12, 3)
    data = {"G": torch.from_numpy(-A), "h": torch.from_numpy(-b), "lb": torch.zeros(10).double()}
    _, solution = dcl.QPLayer(on_degenerate="ignore")(None, torch.from_numpy(c), **data, return_solution=True)
    assert int(solution.gradient_kind) == dcl.GradientKind.NONUNIQUE
    assert abs(float(solution.value)) < 1e-8

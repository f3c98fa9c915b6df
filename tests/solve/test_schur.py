"""dcl's interior-point method for semidefinite cones: closed forms, its matrix against Kronecker products, and who is asked."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import dcl
from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.cones.semidefinite import smat, svec
from dcl.program import ConeProgram, dense_structure
from dcl.solve.backend import Backend
from dcl.solve.polish import polish
from dcl.solvers import Clarabel, HostProgram, Schur
from dcl.solvers.base import Claim
from dcl.solvers.choose import centering, solver_order
from dcl.solvers.clarabel import _merging
from dcl.solvers.congruence import Cone, Cones
from dcl.solvers.schur import is_for

F64 = {"dtype": torch.float64}


def symmetric(rng, k, *lead):
    M = rng.standard_normal((*lead, k, k))
    return M + np.swapaxes(M, -1, -2)


def program(blocks, q, A, b, P=None):
    n = len(q)
    structure = dense_structure(named([Block(*block) for block in blocks]), n)
    P = torch.zeros(n, n, **F64) if P is None else torch.as_tensor(P)
    return ConeProgram(structure, P[None], torch.as_tensor(q)[None], torch.as_tensor(A)[None], torch.as_tensor(b)[None])


def largest_eigenvalue(C):
    """minimize t subject to t I - C semidefinite."""
    k = len(C)
    A, b = -svec(torch.eye(k, **F64)), -svec(torch.as_tensor(C))
    return program([("semidefinite", k)], np.ones(1), A[:, None], b)


@pytest.mark.parametrize("order", [1, 2, 7, 40])
def test_the_largest_eigenvalue_of_a_matrix(order):
    C = symmetric(np.random.default_rng(order), order)
    values, vectors = np.linalg.eigh(C)
    found = Backend(Schur(eps=1e-11)).solve(largest_eigenvalue(C))
    assert found.is_solved.all()
    np.testing.assert_allclose(found.x[0], values[-1:], rtol=1e-9)
    # its multiplier is the projection onto the eigenvector
    Z = smat(found.z[0], order).numpy()
    np.testing.assert_allclose(Z, np.outer(vectors[:, -1], vectors[:, -1]), atol=1e-6)


def mixed(rng, n=9, orders=(3, 3, 5), zeros=2, nonnegatives=4, curved=True):
    """A program with all kinds of rows whose solution is x, z by construction: s and z complementary, q and b follow."""
    A = [rng.standard_normal((zeros + nonnegatives, n))]
    s, z = np.zeros(zeros + nonnegatives), rng.standard_normal(zeros + nonnegatives)
    z[zeros:] = np.where(np.arange(nonnegatives) % 2, np.abs(z[zeros:]) + 0.1, 0.0)
    s[zeros:] = np.where(np.arange(nonnegatives) % 2, 0.0, 1.0)
    pieces_s, pieces_z = [s], [z]
    for k in orders:
        A.append(svec(torch.as_tensor(symmetric(rng, k, n))).numpy().T)
        Q, _ = np.linalg.qr(rng.standard_normal((k, k)))
        active = np.arange(k) < 1
        pieces_s.append(svec(torch.as_tensor((Q * np.where(active, 0.0, 1.0 + rng.random(k))) @ Q.T)).numpy())
        pieces_z.append(svec(torch.as_tensor((Q * np.where(active, 1.0 + rng.random(k), 0.0)) @ Q.T)).numpy())
    A, s, z = np.concatenate(A), np.concatenate(pieces_s), np.concatenate(pieces_z)
    half = rng.standard_normal((n, n)) * curved
    P, x = half @ half.T, rng.standard_normal(n)
    blocks = [("zero", zeros), ("nonnegative", nonnegatives), *(("semidefinite", k) for k in orders)]
    return program(blocks, -P @ x - A.T @ z, A, A @ x + s, P), x, z


@pytest.mark.parametrize("seed", range(5))
def test_programs_with_all_its_rows_and_a_known_solution(seed):
    given, x, z = mixed(np.random.default_rng(seed))
    found = Backend(Schur(eps=1e-11)).solve(given)
    assert found.is_solved.all()
    # z and s are O(sqrt(gap)) away from each other's null spaces, until Newton's method has them
    np.testing.assert_allclose(found.x[0], x, atol=1e-4)
    point = polish(found.points())
    np.testing.assert_allclose(point.x[0], x, atol=1e-9)
    np.testing.assert_allclose(point.z[0], z, atol=1e-8)


def test_equal_rows_are_no_obstacle():
    given, _, z = mixed(np.random.default_rng(7), zeros=3)
    A, b = given.A.clone(), given.b.clone()
    # row 1 becomes row 0, at the same solution
    A[:, 1], b[:, 1] = A[:, 0], b[:, 0]
    q = given.q + (given.A - A).mT[0] @ torch.as_tensor(z)
    found = Backend(Schur()).solve(ConeProgram(given.structure, given.P, q, A, b))
    assert found.is_solved.all()
    np.testing.assert_allclose(polish(found.points()).x[0], mixed(np.random.default_rng(7), zeros=3)[1], atol=1e-8)


def test_what_has_no_solution_comes_with_a_certificate():
    one = np.ones(1)
    # x I below and above matrices that leave no room
    k, eye = 4, svec(torch.eye(4, **F64)).numpy()
    blocks, A = [("semidefinite", k, 2)], np.concatenate([-eye, eye])[:, None]
    infeasible = program(blocks, one, A, np.concatenate([-2.0 * eye, eye]))
    found = Backend(Schur()).solve(infeasible)
    assert found.claim[0] == Claim.PRIMAL_INFEASIBLE
    assert abs(float(found.z[0] @ infeasible.A[0, :, 0])) <= 1e-6 * -float(found.z[0] @ infeasible.b[0])
    unbounded = program([("semidefinite", k)], -one, -eye[:, None], eye)
    assert Backend(Schur()).solve(unbounded).claim[0] == Claim.DUAL_INFEASIBLE
    layer = dcl.ConeLayer({"s": [k, k]}, "SCHUR")
    with pytest.raises(dcl.SolveError, match="PRIMAL_INFEASIBLE"):
        layer(None, torch.ones(1, **F64), torch.as_tensor(A), infeasible.b[0])


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0], ids=["pairs", "columns of N", "dense"])
def test_its_matrix_is_that_of_the_kronecker_product(density):
    rng = np.random.default_rng(3)
    k, n = 7, 6
    rows = k * (k + 1) // 2
    A = rng.standard_normal((2 * rows, n)) * (rng.random((2 * rows, n)) < density)
    cones = Cones(sp.csc_matrix(A), [Cone(k, 2)])
    halves = rng.standard_normal((2, 2, k, k))
    S, Z = (cones.cones[0].coordinates(half @ half.mT + np.eye(k)) for half in halves)
    scaling = cones.scaling(S, Z)
    expected = np.zeros((n, n))
    for j in range(2):
        part = slice(j * rows, (j + 1) * rows)
        s, z = (smat(torch.as_tensor(u[part]), k).numpy() for u in (S, Z))
        # the scaling point W has W Z W = S, and N is its inverse
        values, Q = np.linalg.eigh(z)
        root = (Q * np.sqrt(values)) @ Q.T
        inner, V = np.linalg.eigh(root @ s @ root)
        inverse_root = np.linalg.inv(root)
        N = np.linalg.inv(inverse_root @ (V * np.sqrt(inner)) @ V.T @ inverse_root)
        mats = smat(torch.as_tensor(A[part].T.copy()), k).numpy()
        expected += np.einsum("iab,jab->ij", mats, N @ mats @ N)
    np.testing.assert_allclose(scaling.gram(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert cones.grams[0].by_pairs == (density == 0.02)


def test_it_is_asked_where_it_is_cheaper():
    psd = Block("semidefinite", 124)
    assert is_for(124, 0, (psd,))
    assert not is_for(20_000, 0, (psd,))
    assert not is_for(124, 0, (psd, Block("second_order", 3)))
    assert not is_for(10, 0, (Block("semidefinite", 5, 40),))
    assert not is_for(10, 0, (Block("nonnegative", 500),))
    large, small = (dense_structure(named([Block("semidefinite", k)]), 4) for k in (40, 5))
    assert [solver.name for solver in solver_order(large, True, None)] == ["SCHUR", "CLARABEL", "SCS"]
    assert [solver.name for solver in solver_order(small, True, None)] == ["CLARABEL", "SCS"]
    assert [solver.name for solver in solver_order(large, True, Clarabel())] == ["CLARABEL", "SCHUR", "SCS"]
    assert centering(1e-5, 2.0, large) == Schur(eps=1e-5, time_limit=2.0)
    assert centering(1e-5, 2.0, small) == Clarabel(eps=1e-5, time_limit=2.0)


def max_cut(n, edges):
    """q, A, b of minimize sum x subject to Diag(x) - L / 4 semidefinite, L the Laplacian of a graph."""
    L = np.zeros((n, n))
    for i, j in edges:
        L[[i, j], [i, j]] += 0.25
        L[i, j] = L[j, i] = L[i, j] - 0.25
    # the order of SCS: the lower triangle, column by column
    j, i = np.triu_indices(n)
    A = np.zeros((len(i), n))
    A[i == j, np.arange(n)] = -1.0
    return np.ones(n), A, -L[i, j] * np.where(i == j, 1.0, np.sqrt(2.0))


def test_a_large_cone_through_the_layer():
    """The cycle of 41 vertices: its relaxation is n (1 + cos(pi / n)) / 2, all x equal (Delorme and Poljak 1993)."""
    n = 41
    q, A, b = max_cut(n, [(i, (i + 1) % n) for i in range(n)])
    At = torch.as_tensor(A).to_sparse().requires_grad_()
    q, b = (torch.as_tensor(t).requires_grad_() for t in (q, b))
    result, solution = dcl.ConeLayer({"s": [n]}, on_degenerate="ignore")(None, q, At, b, return_solution=True)
    assert solution.solvers[int(solution.solver)] == "SCHUR"
    expected = 0.5 * (1.0 + np.cos(np.pi / n))
    np.testing.assert_allclose(result.x.detach(), np.full(n, expected), rtol=1e-8)
    # the value moves with b by its multiplier
    (slope,) = torch.autograd.grad(q.detach() @ result.x, b)
    torch.testing.assert_close(slope, -result.z.detach(), rtol=0.0, atol=1e-7)


def test_a_graph_on_which_clarabels_own_merging_of_cliques_panics():
    edges = [(2, 8), (3, 4), (3, 5), (3, 9), (3, 14), (3, 20), (6, 9), (11, 22), (14, 22), (14, 24), (16, 22), (19, 24)]
    edges += [(21, 23), (21, 27)]
    q, A, b = (torch.as_tensor(t) for t in max_cut(28, edges))
    x = dcl.ConeLayer({"s": [28]}, "CLARABEL", on_degenerate="ignore")(None, q, A.to_sparse(), b).x
    # a forest is bipartite: all its edges are cut
    torch.testing.assert_close(x.sum(), torch.tensor(float(len(edges)), **F64), rtol=1e-7, atol=0.0)


def test_the_graphs_of_cones_are_told_connected():
    """A ball of 3 rows, then two cones of order 3: the chain 0 - 1 - 2, by A and b together, and one that lacks an edge."""
    cones = (Block("second_order", 3), Block("semidefinite", 3, 2))
    chain = [0, 1, 2, 4, 5]  # X_00, X_01, X_11, X_12, X_22
    for second, merging in ((chain, "clique_graph"), ([0, 1, 2, 5], "parent_child")):
        A, b = np.zeros((15, 1)), np.zeros(15)
        A[[3 + k for k in chain]] = 1.0
        A[[9 + k for k in second if k != 1]], b[10] = 1.0, 1.0
        program = HostProgram(1, 15, 0, 1, np.zeros((1, 1, 1)), np.ones((1, 1)), A[None], b[None], cones=cones)
        assert _merging(program, sp.csc_matrix(A), b) == merging
    empty = HostProgram(1, 1, 0, 1, np.zeros((1, 1, 1)), np.ones((1, 1)), np.ones((1, 1, 1)), np.ones((1, 1)))
    assert _merging(empty, sp.csc_matrix(np.ones((1, 1))), np.ones(1)) == "clique_graph"

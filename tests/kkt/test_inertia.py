"""Signs of pivots against eigenvalues, and rotated rows of large cones against the product of matrices."""

import numpy as np
import pytest
import torch

from dcl import core
from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.kkt import inertia, system
from dcl.kkt.ldl import _Compiled, _Scipy
from dcl.kkt.saddle import saddle_of
from dcl.program import Structure
from dcl.program.pattern import SparsePattern

KINDS = [_Scipy, pytest.param(_Compiled, marks=pytest.mark.skipif(not core.available, reason="no compiled core"))]


def sparse_symmetric(seed, n=12):
    rng = np.random.default_rng(seed)
    M = np.where(rng.random((n, n)) < 0.2, rng.standard_normal((n, n)), 0.0)
    return M + M.T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_pivots_keep_their_signs_exactly_if_the_eigenvalues_do(kind, seed):
    S = sparse_symmetric(seed)
    lowest = np.linalg.eigvalsh(S)[0]
    rows, cols = np.nonzero(np.triu(S))
    ldl, n = kind(len(S), rows, cols), len(S)
    for shift, positive in ((-lowest + 0.01, True), (-lowest - 0.01, False)):
        factors = ldl.factor(S[None, rows, cols], np.full(n, shift), 1)
        assert (ldl.turned(factors)[0] == 0) == positive


def test_semidefinite_up_to_the_tolerance():
    S = sparse_symmetric(5)
    lowest = np.linalg.eigvalsh(S)[0]
    S = S - lowest * np.eye(len(S))  # singular
    i, j = np.nonzero(S)
    pattern = SparsePattern(S.shape, torch.from_numpy(i), torch.from_numpy(j))
    on = (i == j).astype(float)
    batch = torch.tensor(np.stack([S[i, j], S[i, j] - 1e-6 * on, S[i, j] + 1e-6 * on, 0.0 * on]))
    assert inertia.is_semidefinite(pattern, batch, 1e-9).tolist() == [True, False, True, True]


def test_rotations_by_columns_and_by_blocks_agree():
    rng = np.random.default_rng(0)
    blocks = (Block("nonnegative", 2), Block("second_order", 5), Block("semidefinite", 3))
    cone, n = named(blocks), 4
    A = np.where(rng.random((cone.dim, n)) < 0.4, rng.standard_normal((cone.dim, n)), 0.0)
    i, j = np.nonzero(A)
    none = torch.zeros(0, dtype=torch.int64)
    structure = Structure(
        SparsePattern((n, n), none, none), SparsePattern(A.shape, torch.from_numpy(i), torch.from_numpy(j)), cone
    )
    D = cone.dproject(torch.tensor(rng.standard_normal((2, cone.dim))), 0.0, torch.full((2, cone.dim), torch.nan))
    saddle, values = saddle_of(structure, rotated=True), np.stack([A[i, j], 2.0 * A[i, j]])
    columns = system._rotated_columns(structure, saddle, values, D)
    for k, Qt in enumerate(system._rotations(cone, D)):
        found = np.zeros(A.shape)
        found[saddle.B] = columns[k]
        np.testing.assert_allclose(found, Qt @ ((k + 1.0) * A), atol=1e-14)

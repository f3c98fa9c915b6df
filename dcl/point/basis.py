"""At degenerate points: which of the multipliers, and which of the weakly active rows, to differentiate with.

Multipliers that are not unique are reduced to a basic solution: independent active rows carry all of the weight,

    find  z_W >= 0, y  with  A_W' z_W + A_eq' y = -(Px + q),   the rows of A_W and A_eq independent,  W among the active

An interior point ends inside of the face of multipliers, where K is singular and its minimum-norm inverse averages over
bases with negative multipliers too: outside of the hull of the one-sided derivatives.  At a basic solution the other
active rows are ties.  SciPy's NNLS (Lawson and Hanson 1974, chapter 23) keeps its passive columns independent.

Ties with D = 1/2 average the derivatives over the active sets W+ u T', T' a part of the ties, with weights det K >= 0; an
active set that leaves x undetermined has weight zero but adds a direction of its null space.  Where there is one, that
is where null(P) n null(A_W+) != 0, D is 1 on as many ties as determine x, and 0 on the others: an attained derivative.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.optimize import nnls
from torch import Tensor

from dcl.kkt import RANK_TOLERANCE
from dcl.point.ties import tie_width
from dcl.program import ConeProgram

Array = NDArray[np.float64]

# NNLS is dense and takes a step for each row: above this many rows the point is left as it is.
SIZE_LIMIT = 600


def basic_multipliers(program: ConeProgram, x: Tensor, v: Tensor, zeros: int) -> Tensor:
    """V with basic multipliers for an instance with x (n,), v (m,), whose first `zeros` rows are equalities; else v."""
    active = v > tie_width(program, v.unsqueeze(0))[0]
    active[:zeros] = False
    rows = torch.nonzero(active).squeeze(-1)
    if not 0 < rows.numel() <= SIZE_LIMIT or program.structure.n > SIZE_LIMIT:
        return v
    A = program.structure.A.dense(program.A)[0].cpu().numpy()
    equalities, inequalities = A[:zeros], A[rows.cpu().numpy()]
    gradient = -(program.Px(x.unsqueeze(0)) + program.q)[0].cpu().numpy()
    free = null_space(unit_rows(equalities))  # the equalities always are in the basis: solve in their null space
    # SciPy 1.17's nnls frees memory twice on a matrix without columns and reads what was never written on one without rows
    if (
        not inequalities.size
        or not free.shape[1]
        or not np.isfinite(inequalities).all()
        or not np.isfinite(gradient).all()
    ):
        return v
    try:
        z, distance = nnls(free.T @ inequalities.T, free.T @ gradient)
    except RuntimeError:  # the iteration limit of NNLS
        return v
    if distance > 1e-8 * (1.0 + np.linalg.norm(gradient)):
        return v
    y = np.linalg.lstsq(equalities.T, gradient - inequalities.T @ z, rcond=None)[0]
    basic = v.clamp(max=0.0).index_copy(0, rows, torch.from_numpy(z).to(v))
    basic[:zeros] = torch.from_numpy(y).to(v)
    return basic


def kink_values(program: ConeProgram, v: Tensor, at_kink: Tensor, zeros: int) -> Tensor:
    """at_kink (m,), 1/2 at the ties of an instance with v (m,) and NaN elsewhere, with the ties resolved if need be."""
    tied = ~torch.isnan(at_kink)
    strict = ~tied & (v > 0.0)
    strict[:zeros] = True
    ties = torch.nonzero(tied).squeeze(-1)
    if not 0 < ties.numel() <= SIZE_LIMIT or program.structure.n > SIZE_LIMIT:
        return at_kink
    A = program.structure.A.dense(program.A)[0].cpu().numpy()
    P = program.structure.P.dense(program.P)[0].cpu().numpy()
    free = null_space(unit_rows(np.concatenate([P, A[strict.cpu().numpy()]])))
    if not free.shape[1]:
        return at_kink
    _, R, order = qr(unit_rows(A[ties.cpu().numpy()]).dot(free).T, mode="economic", pivoting=True)
    rank = int((np.abs(np.diag(R)) > RANK_TOLERANCE).sum())
    chosen = ties[torch.from_numpy(order[:rank].astype(np.int64)).to(ties.device)]
    return at_kink.index_fill(0, ties, 0.0).index_fill(0, chosen, 1.0)


def unit_rows(M: Array) -> Array:
    """The rows of M, each divided by its largest entry."""
    size = np.abs(M).max(axis=1, keepdims=True, initial=0.0)
    return np.asarray(M / np.where(size > 0.0, size, 1.0))


def null_space(M: Array) -> Array:
    """Orthonormal columns that span null(M), singular values below RANK_TOLERANCE of the largest taken for zero."""
    if not M.size:
        return np.eye(M.shape[1])
    _, values, Vt = np.linalg.svd(M)
    rank = int((values > RANK_TOLERANCE * values.max(initial=0.0)).sum())
    return np.asarray(Vt[rank:].T)

"""Is the solution unique, are the multipliers, are the active rows independent? Exact tests at the point, not at its KKT matrix.

With s the strictly active rows (equalities too), w the weakly active ones, E s and E w their gradients (rows of A):

    x is not unique       iff  d != 0:  P d = 0,  A_s d = 0,  A_w d <= 0                  (orthants)
    z is not unique       iff  y != 0:  A_s'y_s + A_w'y_w = 0,  y_w >= 0
    LICQ                  rank [A_s; A_w] = number of rows

Each is a null space where there are no weakly active rows, else a linear program in its coordinates (HiGHS).  For other cones
the rows are those of Q'A (Q of `dcl.cones`) where D is 1 (and 1/2 at ties); an eigenvalue of D between is curvature, which
counts like P: x is decided by P, those rows and the curved ones, z by the rows where D is 1.  At ties both stay open there.
On the central path (mu > 0) every inequality is curved: x(mu) is inside of all of them.

x is a vertex if no d != 0 with A_s d = 0 moves it: it stays where it is whatever the objective does, dx/dq = dx/dP = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from dcl.kkt import KKT, RANK_TOLERANCE
from dcl.point.asked import Requested
from dcl.point.basis import null_space, unit_rows
from dcl.point.degeneracy import CONDITION_LIMIT
from dcl.program import ConeProgram

Array = NDArray[np.float64]
# Beyond this size dense decompositions take longer than the answer is worth: a KKT matrix that is well-conditioned, without
# ties, says that all is regular; nothing else is decided.
_LARGEST = 1500
_MOVES = 1e-7


@dataclass(frozen=True)
class Uniqueness:
    """Rows and rank of the active gradients; x, z: unique; vertex: x is fixed by active rows alone; None: not decided."""

    rows: int
    rank: int | None
    x: bool | None
    z: bool | None
    vertex: bool | None = None


def uniqueness(
    program: ConeProgram, kkt: KKT, i: int, strong: Tensor, ties: Tensor, requested: Requested | None
) -> Uniqueness:
    """For instance i, which is `program` alone; strong, ties (m,): strictly and weakly active rows in the coordinates of Q.

    On the path strong are the equalities, the only rows that x(mu) is on.
    """
    structure, D = program.structure, kkt.D
    if structure.n > _LARGEST or structure.m > _LARGEST:
        count = int((strong | ties).sum())
        known = kkt.conditioning
        singular = bool((known.null_a[i] > 0.0) | (known.null_y[i] > 0.0))
        regular = not (bool(ties.any()) or singular) and float(known.condition[i]) <= CONDITION_LIMIT
        return Uniqueness(count, count, True, True) if regular else Uniqueness(count, None, None, None)
    A = structure.A.dense(program.A)[0]
    d = D.d[i].cpu().numpy()
    if not D.diagonal:
        columns = A.mT.unsqueeze(1).expand(-1, D.d.shape[0], -1)
        A = D.to_eigen(columns)[:, i].mT
    rows, P = unit_rows(A.cpu().numpy()), unit_rows(structure.P.dense(program.P)[0].cpu().numpy())
    weak = ties.cpu().numpy()
    strict = strong.cpu().numpy() & (d == 1.0)
    curved = (d > 0.0) & ~weak & ~strict
    active = rows[strict | weak]
    rank = _rank(active)
    free = null_space(np.concatenate([P, rows[strict], rows[curved]]))
    shown = None if requested is None else requested[0].cpu().numpy()
    x: bool | None = _only_zero(-rows[weak] @ free, free, shown)
    S, W = rows[strict], rows[weak]
    z: bool | None = _multipliers_unique(S, W)
    if not structure.cone.is_orthant and weak.any():
        x, z = x or None, None
    along = null_space(rows[strict])
    vertex = (shown is None or bool(shown.any())) and _only_zero(np.zeros((0, along.shape[1])), along, shown)
    return Uniqueness(len(active), rank, x, z, vertex)


def _only_zero(C: Array, free: Array, requested: NDArray[np.bool_] | None) -> bool:
    """Is y = 0 the only y with C y >= 0, as far as free @ y moves a requested entry?"""
    if not free.shape[1]:
        return True
    shown = free if requested is None else free[requested]
    if not len(C):
        return not bool(np.abs(shown).max(initial=0.0) > _MOVES)
    for k in range(len(shown)):
        for sign in (1.0, -1.0):
            found = linprog(sign * shown[k], A_ub=-C, b_ub=np.zeros(len(C)), bounds=(-1.0, 1.0), method="highs")
            if found.status == 0 and found.fun < -_MOVES:
                return False
    return True


def _multipliers_unique(S: Array, W: Array) -> bool:
    """Is y = 0 the only y with S'y_s + W'y_w = 0, y_w >= 0?"""
    both = np.concatenate([S, W])
    free = null_space(both.T)
    return _only_zero(free[len(S) :], free, None) if len(both) else True


def _rank(M: Array) -> int:
    values = np.linalg.svd(M, compute_uv=False) if M.size else np.zeros(0)
    return int((values > RANK_TOLERANCE * values.max(initial=0.0)).sum())

"""Equality rows that follow from others, where all of them are constant: sum_k c_k A_k = 0 for the rows k of a circle.

One row of each circle is dropped; its multiplier is zero, which is one of many: z + t c is a multiplier for every t.  So the
derivative of a multiplier of these rows is not defined, and neither is that of x in their right-hand sides: where these move
alone, there is no feasible point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from dcl.program.reduction.blocks import Bools, Ints
from dcl.program.reduction.shape import Shape
from dcl.program.reduction.working import Working

_DEPENDENT = 1e-11


@dataclass(frozen=True, eq=False)
class Redundant:
    """Rows to drop and rows of their circles, by their places among the rows that are left."""

    dropped: Ints
    circles: Ints


def redundant(work: Working) -> Redundant:
    """What can be dropped of the equality rows that are left; a row whose size is zero is a circle of its own."""
    there = work.present
    constant: Bools = ~(work.V & there).any(1) & ~work.used
    constant[work.zeros :] = False
    rows = np.nonzero(constant)[0]
    nothing = np.zeros(0, dtype=np.int64)
    if len(rows) < 1:
        return Redundant(nothing, nothing)
    A = np.where(there, work.W, 0.0)[rows][:, ~work.gone]
    sizes = np.abs(A).max(1, initial=0.0)
    A = A / np.where(sizes > 0.0, sizes, 1.0)[:, None]
    R, order = scipy.linalg.qr(A.T, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(R))
    rank = int((diagonal > _DEPENDENT * max(diagonal[0], 1e-300)).sum()) if len(diagonal) else 0
    if rank == len(rows):
        return Redundant(nothing, nothing)
    combination = scipy.linalg.solve_triangular(R[:rank, :rank], R[:rank, rank:]) if rank else np.zeros((0, 1))
    in_circle = order[:rank][(np.abs(combination) > 1e-9).any(1)]
    dropped = order[rank:]
    return Redundant(np.sort(rows[dropped]), np.sort(rows[np.concatenate([dropped, in_circle])]))


def of_program(shape: Shape, rows: Ints, pivot_rows: Ints, pivot_columns: Ints) -> Ints:
    """Rows of the program in the circles of `rows`: where one of these has a variable that was taken out, all pivots are."""
    A = shape.A
    through = np.isin(A.rows, rows) & np.isin(A.cols, pivot_columns)
    return np.union1d(rows, pivot_rows) if through.any() else np.asarray(rows)


def moving(shape: Shape, rows: Ints) -> frozenset[int]:
    """Parameters that these rows of A and b depend on."""
    A, b = shape.A, shape.b
    used = A.source.linear[A.entries[np.isin(A.rows, rows)]].indices, b.linear[rows].indices
    starts = np.concatenate([[0], np.cumsum(b.sizes)])
    owners = np.searchsorted(starts, np.concatenate(used), side="right") - 1
    return frozenset(int(p) for p in owners)

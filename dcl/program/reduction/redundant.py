"""Equality rows that follow from others, where all of them are constant: sum_k c_k A_k = 0 for the rows k of a circle.

One row of each circle is dropped; its multiplier is zero, which is one of many: z + t c is a multiplier for every t.  So the
derivative of a multiplier of these rows is not defined, and neither is that of x in their right-hand sides: where these move
alone, there is no feasible point.

Inequality rows that say less than another one, or the same, are dropped too: a bound stated twice, x <= 2 beside abs(x) <= 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg

from dcl.program.reduction.blocks import Bools, Floats, Ints
from dcl.program.reduction.shape import Shape
from dcl.program.reduction.working import Working

_DEPENDENT = 1e-11
_ROUNDING = 1e-13


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


@dataclass(frozen=True, eq=False)
class Dominated:
    """Inequality rows to drop, by their places among the rows that are left, and those that are the same as another one."""

    dropped: Ints
    same: Ints


def dominated(work: Working, shape: Shape, pivot_rows: Ints, pivot_columns: Ints, soft: Ints) -> Dominated:
    """Of inequality rows  a'x <= b,  t a'x <= c  with constant a and t > 0, the one with the larger side, for all parameters.

    With t b = c the multipliers are not unique: the row that is dropped has zero, which is one of many.  b and c may depend on
    parameters, as long as t b - c does not.
    """
    nothing = Dominated(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    there = work.present
    constant = there.any(1) & ~(work.V & there).any(1) & ~work.used & ~np.isin(work.rows, soft)
    constant[: work.zeros] = False
    constant[work.rows >= shape.orthant] = False
    places = np.nonzero(constant)[0]
    A = np.where(there, work.W, 0.0)[places]
    if len(places) < 2:
        return nothing
    sizes = np.abs(A).max(1)
    keys = np.round(A / sizes[:, None], 10) + 0.0
    _, group, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    several = np.nonzero(counts[group] > 1)[0]
    several = several[_is_constant(shape, work.rows[places[several]], pivot_rows, pivot_columns)]
    if len(several) < 2:
        return nothing
    offset, linear = _sides(shape, work.rows[places[several]], pivot_rows, pivot_columns)
    offset, linear = offset / sizes[several], linear / sizes[several, None]
    rows = A[several] / sizes[several, None]
    dropped, same = [], []
    for number in np.unique(group[several]):
        of_group = [int(k) for k in np.nonzero(group[several] == number)[0]]
        of_group.sort(key=lambda k: float(offset[k]))
        kept: list[int] = []
        for k in of_group:
            for i in kept:
                unit = _ROUNDING * (1.0 + abs(offset[i]))
                if np.abs(rows[k] - rows[i]).max() > _ROUNDING or np.abs(linear[k] - linear[i]).max(initial=0.0) > unit:
                    continue
                dropped.append(k)
                if offset[k] - offset[i] <= unit:
                    same += [i, k]
                break
            else:
                kept.append(k)
    at = places[several]
    return Dominated(np.sort(at[dropped]), np.unique(at[same]))


def _is_constant(shape: Shape, rows: Ints, pivot_rows: Ints, pivot_columns: Ints) -> Bools:
    """Is A_KJ A_IJ^-1 constant, for each of the rows K?"""
    A = shape.A
    defined = np.isin(A.cols, pivot_columns)
    is_constant = not (A.varying & defined & np.isin(A.rows, pivot_rows)).any()
    return ~np.isin(rows, A.rows[defined & A.varying if is_constant else defined])


def _sides(shape: Shape, rows: Ints, pivot_rows: Ints, pivot_columns: Ints) -> tuple[Floats, Floats]:
    """b_K - A_KJ A_IJ^-1 b_I for the rows K: constants (k,), and what they have of each number of the parameters (k, S)."""
    A, b = shape.A, shape.b
    values = np.where(A.varying, 0.0, A.values)
    whole = sp.csr_array((values, (A.rows, A.cols)), shape=A.shape)
    A_KJ = whole[rows][:, pivot_columns]
    offset, linear = b.offset[rows], b.linear[rows].toarray()
    if A_KJ.nnz == 0:
        return offset, linear
    A_IJ = sp.csc_array(whole[pivot_rows][:, pivot_columns])
    F = sp.linalg.splu(sp.csc_matrix(A_IJ.T)).solve(A_KJ.toarray().T).T
    return offset - F @ b.offset[pivot_rows], linear - F @ b.linear[pivot_rows].toarray()

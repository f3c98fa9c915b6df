"""From the matrices of a HostProgram to those a solver takes: planned once per call, applied per instance.

Each function returns one matrix for each of `rows`, in that order.  What the batch shares is converted once and
repeated.  The plan depends on the whole batch and never on `rows`, so that a batch solved in chunks takes the same
numbers in the same places as one solved in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dcl.cones.semidefinite import lower_from_upper
from dcl.solvers.base import Array, HostProgram

Index = tuple[NDArray[np.int64], NDArray[np.int64]]
T = TypeVar("T")


def _each(values: Array, rows: Sequence[int], make: Callable[[Array], T]) -> Iterable[T]:
    """make(values of instance i) for each i of rows; made once where the values are shared."""
    if values.shape[0] == 1:
        return repeat(make(values[0]))
    return map(make, map(values.__getitem__, rows))


def writable(values: Array) -> Array:
    """The same numbers, C-ordered and marked writable, as Cython buffers want them; a copy only where needed."""
    return np.require(values, np.float64, ["C", "W"])


def vectors(values: Array, rows: Sequence[int]) -> Iterable[Array]:
    """The vectors of the instances `rows`, as views."""
    return repeat(values[0]) if values.shape[0] == 1 else map(values.__getitem__, rows)


def dense(values: Array, index: Index | None, shape: tuple[int, int], rows: Sequence[int]) -> Iterable[Array]:
    """The matrices of the instances `rows`, dense and C-ordered."""
    if index is None:
        return vectors(writable(values), rows)
    places = index  # at their own name: mypy does not carry the check into the function below

    def fill(numbers: Array) -> Array:
        matrix = np.zeros(shape)
        matrix[places] = numbers
        return matrix

    return _each(values, rows, fill)


def by_columns(
    values: Array,
    index: Index | None,
    shape: tuple[int, int],
    rows: Sequence[int],
    *,
    first: int = 0,
    upper: bool = False,
    order: NDArray[np.int64] | None = None,
) -> Iterable[sp.csc_matrix]:
    """The matrices from row `first` on (a first of 0: all) in CSC form, of shape `shape`; upper: the upper triangle.

    order: row k of the result is row order[k] of all rows, which it permutes.

    On a dense pattern the nonzeros of the batch are kept, those of all instances together: sparse matrices that come
    in dense arrays stay cheap to factor.
    """
    if index is None:
        r, c = np.nonzero((values != 0.0).any(0))
        place = r * shape[1] + c
    else:
        r, c = index
        place = np.arange(len(r))
    if order is not None:
        r = np.argsort(order)[r]
    keep = (r >= first) & (r < first + shape[0])
    if upper:
        keep &= r <= c
    kept = np.flatnonzero(keep)
    kept = kept[np.lexsort((r[kept], c[kept]))]
    take = place[kept]
    indices = (r[kept] - first).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(c[kept], minlength=shape[1]))]).astype(np.int32)

    def gather(numbers: Array) -> sp.csc_matrix:
        return sp.csc_matrix((numbers.reshape(-1)[take], indices, indptr), shape=shape)

    return _each(values, rows, gather)


def lower_order(program: HostProgram) -> NDArray[np.int64]:
    """The rows of a program in the order of SCS: semidefinite blocks by the lower triangle, column by column.

    u[order] is in SCS's order for u in that of dcl; the adjoint and inverse is w with w[order] = the other.
    """
    pieces = [np.arange(program.zeros + program.nonnegatives)]
    start = pieces[0].size
    for block in program.cones:
        inner = lower_from_upper(block.size).numpy() if block.kind == "semidefinite" else np.arange(block.rows)
        starts = start + block.rows * np.arange(block.count)
        pieces.append((starts[:, None] + inner).reshape(-1))
        start += block.rows * block.count
    return np.concatenate(pieces)

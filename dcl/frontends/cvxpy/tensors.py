"""From CVXPY's tensors to affine maps.

A tensor is a sparse matrix T (entries, p + 1) with the entries of an r x c matrix in column-major order: the value of
entry (i, j) is sum_k T[i + j r, k] phi_k with phi = (reduced parameters, 1).  Here it becomes its nonzeros with
places i c + j, row-major, the order of a dense pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.lin_ops.lin_op import CONSTANT_ID
from numpy.typing import NDArray

from dcl.errors import InputError, UnsupportedError
from dcl.frontends.cvxpy.attributes import reduction
from dcl.frontends.cvxpy.chain import Reduced
from dcl.program.affine import AffineMap, affine_map, affine_map_of
from dcl.program.pattern import AbstractPattern, DensePattern, pattern_of

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Entries:
    """Nonzeros of a tensor for a (rows, cols) matrix: its row-major place, its column k, its value."""

    shape: tuple[int, int]
    place: Ints
    column: Ints
    value: NDArray[np.float64]

    def select(self, keep: NDArray[np.bool_], place: Ints, shape: tuple[int, int]) -> Entries:
        """The nonzeros where `keep`, at new places in a matrix of another shape."""
        return Entries(shape, place[keep], self.column[keep], self.value[keep])

    @cached_property
    def places(self) -> Ints:
        """The places, increasing, each once. NumPy's unique takes ten times as long: it makes a table of hashes."""
        increasing = np.sort(self.place)
        return increasing[np.diff(increasing, prepend=-1) > 0]

    def scaled(self, factor: float) -> Entries:
        """All values times `factor`."""
        return Entries(self.shape, self.place, self.column, factor * self.value)


def entries(tensor: sp.sparray | None, shape: tuple[int, int]) -> Entries:
    """Nonzeros of one of CVXPY's tensors; None is the zero matrix."""
    if tensor is None:
        nothing = np.zeros(0, np.int64)
        return Entries(shape, nothing, nothing, np.zeros(0))
    coo = sp.coo_array(tensor)
    keep = coo.data != 0.0
    flat, column, value = coo.row[keep].astype(np.int64), coo.col[keep].astype(np.int64), coo.data[keep]
    return Entries(shape, flat % shape[0] * shape[1] + flat // shape[0], column, value.astype(np.float64))


def symmetric(square: Entries) -> Entries:
    """(M + M') / 2: the user's quadratic form, whichever triangle it was written in."""
    n = square.shape[0]
    mirror = square.place % n * n + square.place // n
    return Entries(
        square.shape,
        np.concatenate([square.place, mirror]),
        np.concatenate([square.column, square.column]),
        np.concatenate([0.5 * square.value, 0.5 * square.value]),
    )


def split_last_column(matrix: Entries) -> tuple[Entries, Entries]:
    """[M, b] -> M and b."""
    m, width = matrix.shape
    i, j = matrix.place // width, matrix.place % width
    inner = j < width - 1
    return matrix.select(inner, i * (width - 1) + j, (m, width - 1)), matrix.select(~inner, i, (m, 1))


def split_last_row(column: Entries) -> tuple[Entries, Entries]:
    """[q; d] -> q and d."""
    n = column.shape[0] - 1
    inner = column.place < n
    return column.select(inner, column.place, (n, 1)), column.select(~inner, column.place - n, (1, 1))


def without_infinite(
    matrix: Entries, offset: Entries, zeros: int, inequalities: int, constant: int, describe: Callable[[int], str]
) -> tuple[Entries, Entries, NDArray[np.bool_] | None]:
    """A and b without sides that are the constant inf: an inequality like x <= inf becomes the row 0'x + s = 1.

    Rows come as `zeros` equalities, then `inequalities`.  constant: the column of what does not depend on parameters.
    Also returned: which rows these are, (m,); None if there are none.
    Raises InputError that names the row of any other constant that is infinite or NaN, as in x <= -inf.
    """
    inert = (offset.value == np.inf) & (offset.column == constant)
    inert &= (offset.place >= zeros) & (offset.place < zeros + inequalities)
    odd = ~np.isfinite(offset.value) & ~inert
    if bool(odd.any()):
        row, value = int(offset.place[odd][0]), float(offset.value[odd][0])
        why = ", so that no point satisfies it" if row < zeros + inequalities and not np.isnan(value) else ""
        raise InputError(f"{describe(row)} has the constant right-hand side {value:g}{why}", argument="problem")
    odd = ~np.isfinite(matrix.value)
    if bool(odd.any()):
        row = int(matrix.place[odd][0]) // matrix.shape[1]
        raise InputError(f"{describe(row)} has a constant coefficient that is not finite", argument="problem")
    if not bool(inert.any()):
        return matrix, offset, None
    free = np.zeros(matrix.shape[0], dtype=bool)
    free[offset.place[inert]] = True
    rows, own = np.flatnonzero(free), ~free[offset.place]
    sides = Entries(
        offset.shape,
        np.concatenate([offset.place[own], rows]),
        np.concatenate([offset.column[own], np.full(rows.size, constant)]),
        np.concatenate([offset.value[own], np.ones(rows.size)]),
    )
    return matrix.select(~free[matrix.place // matrix.shape[1]], matrix.place, matrix.shape), sides, free


class Inputs:
    """The inputs of the affine maps (every parameter, then the logarithms of some) against the columns k.

    sizes: number of entries of each input.  (phi, 1) = L theta + e_constant, with one L for all inputs.
    """

    def __init__(self, reduced: Reduced, parameters: Sequence[cp.Parameter], logs: Sequence[int]) -> None:
        program = reduced.program
        # a GP's parameter enters by its logarithm, and by itself where it is an exponent
        ids = [(p, p.id if p.id in reduced.logs else _last(reduced, p.id)) for p in parameters]
        ids += [(parameters[p], _last(reduced, reduced.logs[parameters[p].id][0])) for p in logs]
        self.sizes = [parameter.size for parameter, _ in ids]
        self.constant = program.param_id_to_col[CONSTANT_ID]
        rows, cols, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        start = 0
        for parameter, final in ids:
            if final in program.param_id_to_col:
                L = reduction(parameter)
                if program.param_id_to_size[final] != L.shape[0]:
                    raise UnsupportedError(
                        f"parameter {parameter.name()}: CVXPY replaced it in a way that dcl does not know"
                    )
                rows.append(L.row.astype(np.int64) + program.param_id_to_col[final])
                cols.append(L.col.astype(np.int64) + start)
                values.append(L.data)
            start += parameter.size
        self._L = sp.csr_array(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))),
            shape=(program.total_param_size + 1, start),
        )
        unknown = set(program.param_id_to_col) - {CONSTANT_ID} - {final for _, final in ids}
        if unknown:
            names = ", ".join(program.id_to_param[key].name() for key in unknown)
            raise UnsupportedError(f"CVXPY introduced parameters of its own ({names})")

    def map(self, part: Entries, places: Ints | None = None) -> AffineMap:
        """The values of `part`, row-major, as a map of the inputs; only those at `places` (sorted) where given."""
        rows = part.place if places is None else np.searchsorted(places, part.place)
        size = part.shape[0] * part.shape[1] if places is None else len(places)
        constant = part.column == self.constant
        offset = np.zeros(size)
        np.add.at(offset, rows[constant], part.value[constant])
        inner = ~constant
        rows, column, value = rows[inner], part.column[inner], part.value[inner]
        L = self._L
        first = L.indptr[column].astype(np.int64)
        if bool(np.all(L.indptr[column + 1] - first == 1)):  # one entry of theta for each column, as a rule
            return affine_map_of(offset, rows, L.indices[first].astype(np.int64), value * L.data[first], self.sizes)
        tensor = sp.csr_array((value, (rows, column)), shape=(size, L.shape[0]))
        return affine_map(offset, tensor @ L, self.sizes)

    def on_pattern(self, part: Entries, *, dense: bool) -> tuple[AbstractPattern, AffineMap]:
        """The pattern of a matrix and the map to its values."""
        if dense:
            return DensePattern(part.shape), self.map(part)
        places = part.places
        return pattern_of(places // part.shape[1], places % part.shape[1], part.shape), self.map(part, places)


def _last(reduced: Reduced, key: int) -> int:
    return reduced.parameters.get(key, [key])[0]

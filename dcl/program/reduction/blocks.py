"""Blocks of P and A, and parts of q and b, as affine maps of the parameters (`dcl.program.affine`) of their own.

What is constant is made when a plan is made.  A block that no batched parameter touches is shared by the batch, whatever
the others are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from torch import Tensor

from dcl.program.affine import AffineMap, affine_map
from dcl.program.pattern import AbstractPattern
from dcl.program.reduction.matrices import AbstractMatrix, Diagonal, Full, Zero

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Source:
    """An affine map with its matrix at hand. offset (size,), linear (size, sum of sizes)."""

    offset: Floats
    linear: sp.csr_array
    sizes: tuple[int, ...]

    @cached_property
    def varying(self) -> Bools:
        """Entries that depend on a parameter."""
        varying: Bools = np.diff(self.linear.indptr) > 0
        return varying

    def part(self, entries: Ints) -> AffineMap:
        """The map to the entries, in this order."""
        return affine_map(self.offset[entries], self.linear[entries], self.sizes)

    def spread(self, entries: Ints, places: Ints, size: int) -> AffineMap:
        """The map to `size` numbers, the entries at their places and zeros elsewhere."""
        put = sp.csr_array((np.ones(len(entries)), (places, np.arange(len(entries)))), shape=(size, len(entries)))
        return affine_map(put @ self.offset[entries], put @ self.linear[entries], self.sizes)


def source(affine: AffineMap, sizes: Sequence[int]) -> Source:
    """The source of a map."""
    return Source(affine.offset.numpy(), affine.linear(sizes), tuple(sizes))


@dataclass(frozen=True, eq=False)
class MatrixSource:
    """The nonzeros of a matrix: entry `entries[k]` of the source stands at (rows[k], cols[k])."""

    shape: tuple[int, int]
    source: Source
    entries: Ints
    rows: Ints
    cols: Ints

    @property
    def values(self) -> Floats:
        """Constants of the nonzeros; meaningless where they vary."""
        return self.source.offset[self.entries]

    @property
    def varying(self) -> Bools:
        """Which of the nonzeros vary."""
        return self.source.varying[self.entries]

    def block(self, rows: Ints, cols: Ints) -> Block:
        """The block [rows, cols] in this order."""
        row_at, col_at = _places(rows, self.shape[0]), _places(cols, self.shape[1])
        i, j = row_at[self.rows], col_at[self.cols]
        inside = (i >= 0) & (j >= 0)
        i, j, entries = i[inside], j[inside], self.entries[inside]
        shape = (len(rows), len(cols))
        if len(entries) == 0:
            return Block(shape, None, diagonal=False)
        if shape[0] == shape[1] and bool(np.all(i == j)):
            return Block(shape, self.source.spread(entries, i, shape[0]), diagonal=True)
        return Block(shape, self.source.spread(entries, i * shape[1] + j, shape[0] * shape[1]), diagonal=False)


def matrix_source(affine: AffineMap, pattern: AbstractPattern, sizes: Sequence[int]) -> MatrixSource:
    """The nonzeros of a matrix on its pattern; entries that are always zero are left out."""
    whole = source(affine, sizes)
    entries = np.nonzero((whole.offset != 0.0) | whole.varying)[0].astype(np.int64)
    rows, cols = pattern.coordinates()
    return MatrixSource(pattern.shape, whole, entries, rows[entries], cols[entries])


def _places(index: Ints, size: int) -> Ints:
    """Where in `index` each of `size` numbers stands; -1: nowhere."""
    places = np.full(size, -1, dtype=np.int64)
    places[index] = np.arange(len(index))
    return places


@dataclass(frozen=True, eq=False)
class Block:
    """A matrix as an affine map of the parameters; no map: zero.  diagonal: the map's entries are the diagonal."""

    shape: tuple[int, int]
    map: AffineMap | None
    diagonal: bool

    @property
    def constant(self) -> bool:
        """Is it the same for all parameters?"""
        return self.map is None or not self.map.touching

    @property
    def stored(self) -> int:
        """How many numbers one instance has."""
        return 0 if self.map is None else self.map.size

    @cached_property
    def _fixed(self) -> AbstractMatrix:
        return self._matrix(())

    def at(self, thetas: Sequence[Tensor]) -> AbstractMatrix:
        """The matrices for thetas[p] (B or 1, size_p)."""
        return self._fixed if self.constant else self._matrix(thetas)

    def _matrix(self, thetas: Sequence[Tensor]) -> AbstractMatrix:
        if self.map is None:
            return Zero(self.shape)
        values = self.map.numbers(thetas)
        return Diagonal(values) if self.diagonal else Full(values.reshape(values.shape[0], *self.shape))

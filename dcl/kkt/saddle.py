"""The pattern of S = [[H, B'], [B, -T]] for a structure, analyzed once: rows that are active only sometimes stay in it.

Entries, in this order: the upper triangle of H, B, the diagonal.  B = diag(d)^(1/2) Q'A has the pattern of A where Q is I, and
else that of a whole block in each of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dcl.cones.base import AbstractCone
from dcl.kkt.ldl import AbstractLdl, ldl
from dcl.program import Structure

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Places = tuple[Indices, Indices]


@dataclass(frozen=True, eq=False)
class Saddle:
    """S for H (n, n) and B (k, n), symmetric, with nonzeros at the places H and B."""

    n: int
    k: int
    H: Places
    B: Places

    @cached_property
    def _upper(self) -> Indices:
        return np.flatnonzero(self.H[0] <= self.H[1])

    @cached_property
    def entries(self) -> Places:
        """Rows and columns of the entries of S, one of each off-diagonal pair."""
        diagonal, upper = np.arange(self.n + self.k), self._upper
        rows = np.concatenate([self.H[0][upper], self.n + self.B[0], diagonal])
        return rows, np.concatenate([self.H[1][upper], self.B[1], diagonal])

    @cached_property
    def B_by_columns(self) -> tuple[Indices, Indices]:
        """The entries of B in the order of their columns, and where each column starts, (n + 1,)."""
        order = np.argsort(self.B[1], kind="stable")
        return order, np.concatenate([[0], np.cumsum(np.bincount(self.B[1], minlength=self.n))])

    @cached_property
    def ldl(self) -> AbstractLdl:
        """The analysis of the pattern."""
        return ldl(self.n + self.k, *self.entries)

    @cached_property
    def signs(self) -> Array:
        """J = diag(I, -I), (n + k,)."""
        return np.repeat([1.0, -1.0], [self.n, self.k])

    def values(self, H: Array, B: Array, T: Array, shift: Array | float = 0.0) -> Array:
        """The entries of S + diag(shift I, 0), (B, entries), for values H (B or 1, .), B (B or 1, .), T (B, k), shift (B, 1)."""
        batch = len(T)
        parts = [
            np.broadcast_to(H[:, self._upper], (batch, len(self._upper))),
            np.broadcast_to(B, (batch, B.shape[1])),
            np.broadcast_to(shift, (batch, self.n)),
            -T,
        ]
        return np.concatenate(parts, axis=1)


_plain: WeakKeyDictionary[Structure, Saddle] = WeakKeyDictionary()
_rotated: WeakKeyDictionary[Structure, Saddle] = WeakKeyDictionary()


def saddle_of(structure: Structure, rotated: bool) -> Saddle:
    """The S of a structure. rotated: Q is not I."""
    known = _rotated if rotated else _plain
    found = known.get(structure)
    if found is None:
        B = structure.A.coordinates()
        if rotated:
            B = _mixed(structure.cone, B, structure.n)
        found = known[structure] = Saddle(structure.n, structure.m, structure.P.coordinates(), B)
    return found


def block_rows(cone: AbstractCone) -> tuple[Indices, Indices]:
    """Of each row of the cone, the first row and the size of the block that Q mixes it with."""
    sizes = np.concatenate(
        [np.full(b.count, b.rows) if not b.is_orthant else np.ones(b.size, int) for b in cone.blocks]
    )
    return np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)


def _mixed(cone: AbstractCone, places: Places, n: int) -> Places:
    """Places of Q'A, by rows: a column of A that is not zero in a block is full there."""
    first, size = block_rows(cone)
    block, column = np.divmod(np.unique(first[places[0]] * n + places[1]), n)
    rows = size[block]
    ends = np.cumsum(rows)
    row = np.arange(rows.sum()) - np.repeat(ends - rows - block, rows)
    column = np.repeat(column, rows)
    order = np.lexsort((column, row))
    return row[order], column[order]

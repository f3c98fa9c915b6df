"""The pattern of S = [[H, B'], [B, -T]] for a structure, analyzed once: rows that are active only sometimes stay in it.

Entries, in this order: the upper triangle of H, B, the diagonal.  B = diag(d)^(1/2) Q'A has the pattern of A where Q is I, and
else that of a whole block in each of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp
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
            A = sp.csr_array((np.ones(len(B[0])), B), shape=structure.A.shape)
            QtA = sp.csr_array(_blocks(structure.cone) @ A)
            QtA.sort_indices()
            B = np.repeat(np.arange(structure.m), np.diff(QtA.indptr)), QtA.indices.astype(np.int64)
        found = known[structure] = Saddle(structure.n, structure.m, structure.P.coordinates(), B)
    return found


def block_rows(cone: AbstractCone) -> tuple[Indices, Indices]:
    """Of each row of the cone, the first row and the size of the block that Q mixes it with."""
    sizes = np.concatenate(
        [np.full(b.count, b.rows) if not b.is_orthant else np.ones(b.size, int) for b in cone.blocks]
    )
    return np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)


def _blocks(cone: AbstractCone) -> sp.csr_array:
    """A matrix with the pattern of Q'."""
    first, size = block_rows(cone)
    m = len(first)
    start = np.concatenate([[0], np.cumsum(size)])
    columns = np.arange(start[-1]) - np.repeat(start[:-1] - first, size)
    return sp.csr_array((np.ones(start[-1]), columns, start), shape=(m, m))

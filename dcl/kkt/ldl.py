"""LDL' of sparse symmetric quasi-definite matrices on one pattern: by the compiled core, or by SciPy where there is none.

Arrays are NumPy, float64: values (B or 1, entries), vectors (B, order, columns).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from dcl import core
from dcl.core.ldl import Analysis

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class AbstractLdl(ABC):
    """The pattern of symmetric matrices S: entries (rows[e], cols[e]), each off-diagonal pair once; equal places add up."""

    @abstractmethod
    def factor(self, values: Array, shift: Array, batch: int) -> Any:
        """The factors of S + diag(shift), for `solve`. Law: shift (order,) makes S quasi-definite and has the signs of D."""

    @abstractmethod
    def turned(self, factors: Any) -> Indices:
        """Pivots whose sign is not that of their shift, (B,). Law: zero exactly if S + diag(shift) has the shift's inertia."""

    @abstractmethod
    def solve(self, factors: Any, r: Array) -> Array:
        """(S + diag(shift))^-1 r, without refinement."""

    @abstractmethod
    def multiply(self, values: Array, x: Array) -> Array:
        """S x."""

    @abstractmethod
    def row_sizes(self, values: Array) -> Array:
        """The largest absolute entry of each row, (B or 1, order)."""


def ldl(order: int, rows: Indices, cols: Indices) -> AbstractLdl:
    """The pattern, analyzed."""
    return _Compiled(order, rows, cols) if core.available else _Scipy(order, rows, cols)


class _Compiled(AbstractLdl):
    """`dcl.core.ldl`: the pattern is analyzed once, the instances of a batch are shared out to threads."""

    def __init__(self, order: int, rows: Indices, cols: Indices) -> None:
        self._analysis = Analysis(order, rows, cols)

    def factor(self, values: Array, shift: Array, batch: int) -> Any:
        return self._analysis.factor(values, shift, batch, torch.get_num_threads())

    def turned(self, factors: Any) -> Indices:
        return self._analysis.turned(factors)

    def solve(self, factors: Any, r: Array) -> Array:
        return self._analysis.solve(factors, r, torch.get_num_threads())

    def multiply(self, values: Array, x: Array) -> Array:
        return self._analysis.multiply(values, x, torch.get_num_threads())

    def row_sizes(self, values: Array) -> Array:
        return self._analysis.row_sizes(values)


class _Scipy(AbstractLdl):
    """SuperLU with its pivots on the diagonal, which is LDL' but for the work: it analyzes every instance anew."""

    def __init__(self, order: int, rows: Indices, cols: Indices) -> None:
        off = np.flatnonzero(rows != cols)
        self._order, self._source = order, np.concatenate([np.arange(len(rows)), off])
        self._places = np.concatenate([rows, cols[off]]), np.concatenate([cols, rows[off]])

    def _matrices(self, values: Array, batch: int) -> list[sp.csc_array]:
        shape = (self._order, self._order)
        out = [sp.csc_array(sp.coo_array((row[self._source], self._places), shape=shape)) for row in values]
        return out * batch if len(out) == 1 else out

    def factor(self, values: Array, shift: Array, batch: int) -> Any:
        own = sp.diags_array(shift)
        options = {"SymmetricMode": True}
        return shift, [
            splu(sp.csc_array(S + own), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
            for S in self._matrices(values, batch)
        ]

    def turned(self, factors: Any) -> Indices:
        shift, lus = factors
        return np.array([(lu.U.diagonal()[lu.perm_c] * shift <= 0.0).sum() for lu in lus], dtype=np.int64)

    def solve(self, factors: Any, r: Array) -> Array:
        return np.stack([lu.solve(right) for lu, right in zip(factors[1], r, strict=True)])

    def multiply(self, values: Array, x: Array) -> Array:
        return np.stack([S @ right for S, right in zip(self._matrices(values, len(x)), x, strict=True)])

    def row_sizes(self, values: Array) -> Array:
        return np.stack([abs(S).max(axis=1).toarray().ravel() for S in self._matrices(values, len(values))])

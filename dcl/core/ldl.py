"""The compiled core's sparse LDL' factorization: one analysis for a pattern, all instances of a batch in one call.

    (S + diag(shift)) = C' L D L' C            S symmetric, quasi-definite with the shift; see ldl.hpp

Arrays are NumPy, float64, contiguous; values (B or 1, entries), x (B, order, columns).  All of it releases the interpreter's
lock, and gives the same numbers whatever `threads` is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcl import core

Array = NDArray[np.float64]
# None where `core.available` is false: then nothing here may be called.
_extension: Any = core.extension


class Analysis:
    """The pattern of symmetric matrices: entries (rows[e], cols[e]), each off-diagonal pair once; equal places add up."""

    def __init__(self, order: int, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> None:
        rows, cols = (np.ascontiguousarray(index, dtype=np.int64) for index in (rows, cols))
        self._order = order
        self._handle = _extension.analyze(order, len(rows), rows.ctypes.data, cols.ctypes.data)

    @property
    def fill(self) -> int:
        """Nonzeros of L below the diagonal."""
        return int(self._handle.fill)

    @property
    def work(self) -> float:
        """Multiplications of one factorization."""
        return float(self._handle.work)

    def factor(self, values: Array, shift: Array, batch: int, threads: int) -> Any:
        """The factors of S + diag(shift) for `batch` instances; shift (order,) has the signs of D."""
        values, stride = _strided(values)
        shift = np.ascontiguousarray(shift)
        return _extension.factor(self._handle, batch, values.ctypes.data, stride, shift.ctypes.data, threads)

    def turned(self, factors: Any) -> NDArray[np.int64]:
        """How many pivots of each instance had the other sign than their shift, (B,)."""
        return np.array(factors.turned, dtype=np.int64)

    def solve(self, factors: Any, r: Array, threads: int) -> Array:
        """(S + diag(shift))^-1 r."""
        x = r.copy()
        _extension.substitute(factors, x.ctypes.data, x.shape[-1], threads)
        return x

    def multiply(self, values: Array, x: Array, threads: int) -> Array:
        """S x."""
        values, stride = _strided(values)
        x = np.ascontiguousarray(x)
        y = np.empty_like(x)
        _extension.multiply(
            self._handle, len(x), values.ctypes.data, stride, x.ctypes.data, y.ctypes.data, x.shape[-1], threads
        )
        return y

    def row_sizes(self, values: Array) -> Array:
        """The largest absolute entry of each row, (B or 1, order)."""
        values = np.ascontiguousarray(values)
        sizes = np.empty((len(values), self._order))
        _extension.row_sizes(self._handle, len(values), values.ctypes.data, values.shape[1], sizes.ctypes.data)
        return sizes


def _strided(values: Array) -> tuple[Array, int]:
    """The values, and how far those of the next instance are: 0 where all share them."""
    values = np.ascontiguousarray(values)
    return values, 0 if len(values) == 1 else values.shape[1]

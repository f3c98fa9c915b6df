"""theta -> c + sum_p M_p theta_p : problem data as an affine function of the parameters, on a fixed pattern.

Each parameter p is a flat vector (B, size_p) or (1, size_p); the result has B rows if a parameter that touches it has
B, else 1: data that depend on shared parameters only stay shared.  With u = (theta of those that touch it, constants),

    result = weights * u[index]        every entry: one parameter's entry or a constant (most data are just these)
             + sum over the rest       of the few entries that are sums:  rest_weights * u[rest_cols]  into rest_rows

Torch operations with the adjoint <M theta, y> = <theta, M' y> from autograd, in every mode of torch; and, where nothing is
recorded, one call of the compiled core for the map and one for its transpose (`dcl.core.affine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl import core
from dcl.core import affine as compiled
from dcl.core.affine import Lists


def take(t: Tensor, index: Tensor) -> Tensor:
    """t[..., index] for a 1-d index.

    gather, because index_select along the last of several dimensions is 17 times slower on the CPU (torch 2.13,
    128 x 10,000 entries: 17 ms against 1 ms).
    """
    return t.gather(-1, index.to(t.device).expand(*t.shape[:-1], -1))


def _times(t: Tensor, weights: Tensor | None) -> Tensor:
    return t if weights is None else t * weights.to(t.device)


@dataclass(frozen=True, eq=False)
class AffineMap:
    """c + sum_p M_p theta_p. Law: the linear part and its transpose agree, <M theta, y> = <theta, M' y>.

    offset: c, (size,).  touching: positions of the parameters with M_p != 0, of `width` entries together.  varying: entries
    with M != 0, (size,).
    The others: see above; weights None: 1.
    """

    offset: Tensor
    touching: tuple[int, ...]
    width: int
    constants: Tensor
    index: Tensor
    weights: Tensor | None
    rest_rows: Tensor
    rest_cols: Tensor
    rest_weights: Tensor | None
    varying: Tensor

    @property
    def size(self) -> int:
        """Number of entries of the result."""
        return self.offset.shape[-1]

    @property
    def parameters(self) -> frozenset[int]:
        """Positions of the parameters that the result depends on."""
        return frozenset(self.touching)

    def __call__(self, thetas: Sequence[Tensor]) -> Tensor:
        """Result (B or 1, size) for thetas[p] of shape (B or 1, size_p), float64."""
        if not self.touching:
            out = self.offset.unsqueeze(0)
            return out.to(thetas[0].device) if thetas else out
        used = [thetas[p] for p in self.touching]
        batch = next((t.shape[0] for t in used if t.shape[0] != 1), 1)
        constants = self.constants.to(used[0].device)
        u = torch.cat([*(t.expand(batch, -1) for t in used), constants.expand(batch, -1)], -1)
        out = _times(take(u, self.index), self.weights)
        if self.rest_rows.numel() == 0:
            return out
        return out.index_add(-1, self.rest_rows.to(u.device), _times(take(u, self.rest_cols), self.rest_weights))

    def numbers(self, thetas: Sequence[Tensor], threads: int = 1) -> Tensor:
        """The same for plain tensors on the CPU, without a record for autograd."""
        if not (core.available and self.touching):
            return self(thetas)
        return compiled.assemble(self._rows, [thetas[p] for p in self.touching], threads)

    def adjoint(self, y: Tensor, sizes: Sequence[int], threads: int = 1) -> dict[int, Tensor]:
        """M_p' y, (B, size_p), for the p that are touched; sizes[p] = size_p. Law: see the class.

        y (B, size): float64 on the CPU. Nothing is recorded for autograd.
        """
        if not self.touching:
            return {}
        widths = [sizes[p] for p in self.touching]
        if core.available:
            return dict(zip(self.touching, compiled.transpose(self._columns, y, widths, threads), strict=True))
        u = y.new_zeros(y.shape[0], self.width + self.constants.shape[-1])
        u.index_add_(-1, self.index, _times(y, self.weights))
        if self.rest_rows.numel():
            u.index_add_(-1, self.rest_cols, _times(take(y, self.rest_rows), self.rest_weights))
        return dict(zip(self.touching, u[:, : self.width].split(widths, -1), strict=True))

    @cached_property
    def _rows(self) -> Lists:
        return compiled.lists(self._local(np.arange(self.width)), self.offset.numpy())

    @cached_property
    def _columns(self) -> Lists:
        return compiled.lists(self._local(np.arange(self.width)).T)

    def linear(self, sizes: Sequence[int]) -> sp.csr_array:
        """The matrix [M_1 M_2 ...], (size, sum of sizes); sizes[p] = size_p."""
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        places = [np.arange(starts[p], starts[p + 1]) for p in self.touching]
        return self._local(np.concatenate([*places, np.zeros(0, np.int64)]), int(starts[-1]))

    def _local(self, columns: NDArray[np.int64], width: int | None = None) -> sp.csr_array:
        """The matrix, with the columns of the parameters that are touched at `columns` of `width`, None: as many."""
        index, rest = self.index.numpy(), self.rest_cols.numpy()
        alone = np.flatnonzero(index < self.width)
        weights, rest_weights = (
            np.ones(len(at)) if w is None else w.numpy() for at, w in ((index, self.weights), (rest, self.rest_weights))
        )
        rows = np.concatenate([alone, self.rest_rows.numpy()])
        cols = columns[np.concatenate([index[alone], rest])]
        values = np.concatenate([weights[alone], rest_weights])
        return sp.csr_array((values, (rows, cols)), shape=(self.size, len(columns) if width is None else width))

    def part(self, entries: slice, sizes: Sequence[int]) -> AffineMap:
        """The map of some entries of the result. Law: part(e)(thetas) = self(thetas)[:, e]."""
        return affine_map(self.offset[entries].numpy(), self.linear(sizes)[entries], sizes)


def _weights(values: NDArray[np.float64]) -> Tensor | None:
    return None if np.all(values == 1.0) else torch.from_numpy(values)


def affine_map(offset: NDArray[np.float64], linear: sp.sparray, sizes: Sequence[int]) -> AffineMap:
    """The map with constant `offset` (size,) and matrix `linear` (size, sum of sizes); sizes[p] columns are M_p."""
    coo = sp.coo_array(sp.csr_array(linear))
    return affine_map_of(offset, coo.row.astype(np.int64), coo.col.astype(np.int64), coo.data, sizes)


def affine_map_of(
    offset: NDArray[np.float64],
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    values: NDArray[np.float64],
    sizes: Sequence[int],
) -> AffineMap:
    """The same for a matrix with values[k] at (rows[k], cols[k]); what stands at one place is added."""
    offset = np.ascontiguousarray(offset, dtype=np.float64)
    there = values != 0.0
    rows, cols, values = rows[there], cols[there], values[there].astype(np.float64)
    # columns of the parameters that are touched move together, the constants follow
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    owner = np.searchsorted(starts, cols, side="right") - 1
    touching = np.flatnonzero(np.bincount(owner, minlength=len(sizes)))
    widths = np.asarray(sizes, dtype=np.int64)[touching]
    moved = np.zeros(len(starts), np.int64)
    moved[touching] = np.cumsum(widths) - widths - starts[touching]
    cols = cols + moved[owner]
    constants, index = np.unique(offset, return_inverse=True)
    index, weights = index.astype(np.int64) + widths.sum(), np.ones(len(offset))
    varying = np.bincount(rows, minlength=len(offset)) > 0
    alone = (np.bincount(rows, minlength=len(offset)) == 1)[rows] & (offset[rows] == 0.0)
    index[rows[alone]], weights[rows[alone]] = cols[alone], values[alone]
    rows, cols, values = rows[~alone], cols[~alone], values[~alone]
    return AffineMap(
        offset=torch.from_numpy(offset),
        touching=tuple(int(p) for p in touching),
        width=int(widths.sum()),
        constants=torch.from_numpy(constants),
        index=torch.from_numpy(index),
        weights=_weights(weights),
        rest_rows=torch.from_numpy(rows),
        rest_cols=torch.from_numpy(cols),
        rest_weights=_weights(values),
        varying=torch.from_numpy(varying),
    )

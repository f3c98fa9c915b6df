"""Affine maps of a batch of parameters in the compiled core, and the transposes of their linear parts.

    data = c + M u,    u = [theta_1; theta_2; ...]         gradient of u = M'y         M sparse, by rows and by columns

Tensors are float64 on the CPU; their last dimension is contiguous, and one row in front of it is shared by the batch.  Nothing
is recorded for autograd.  All functions release the interpreter's lock, and give the same numbers whatever `threads` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl import core

# None where `core.available` is false: then only `lists` may be called.
_extension: Any = core.extension


@dataclass(frozen=True, eq=False)
class Lists:
    """The rows of a sparse matrix: row k has the entries start[k] .. start[k + 1], at `place` with `weight` (None: all 1).

    offset: c, (rows,), None for 0.
    """

    start: Tensor
    place: Tensor
    weight: Tensor | None
    offset: Tensor | None

    @property
    def count(self) -> int:
        """How many rows."""
        return self.start.shape[0] - 1

    def _numbers(self) -> tuple[int, int, int, int, int]:
        weight, offset = (0 if t is None else t.data_ptr() for t in (self.weight, self.offset))
        return self.count, self.start.data_ptr(), self.place.data_ptr(), weight, offset


def lists(M: sp.sparray, offset: NDArray[np.float64] | None = None) -> Lists:
    """The rows of M."""
    rows = sp.csr_array(M)
    rows.sort_indices()
    weight = None if np.all(rows.data == 1.0) else torch.from_numpy(np.array(rows.data, dtype=np.float64))
    start, place = (torch.from_numpy(np.array(t, dtype=np.int64)) for t in (rows.indptr, rows.indices))
    c = None if offset is None or not offset.any() else torch.from_numpy(np.array(offset, dtype=np.float64))
    return Lists(start, place, weight, c)


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries of the data of a program: rows and columns of P and of A, numbers of q and of b; has_value: its constant too."""

    P: tuple[Tensor, Tensor]
    A: tuple[Tensor, Tensor]
    q: Tensor
    b: Tensor
    has_value: bool

    def _numbers(self) -> list[int]:
        places = (*self.P, *self.A, self.q, self.b)
        counts = (self.P[0], self.A[0], self.q, self.b)
        return [*(t.numel() for t in counts), int(self.has_value), *(t.data_ptr() for t in places)]


def assemble(rows: Lists, thetas: Sequence[Tensor], threads: int = 1) -> Tensor:
    """c + M u, (B, rows) for thetas (B or 1, .), (1, rows) if all of them are shared."""
    batch = max([t.shape[0] for t in thetas], default=1)
    if any([t.shape[0] == 0 for t in thetas]):
        batch = 0
    thetas = [t if t.stride(-1) == 1 or t.shape[-1] <= 1 else t.contiguous() for t in thetas]
    data = torch.empty((batch, rows.count), dtype=torch.float64, device="cpu")
    parts = [(t.data_ptr(), 0 if t.shape[0] == 1 else t.stride(0), t.shape[-1]) for t in thetas]
    _extension.assemble(rows._numbers(), batch, parts, data.data_ptr(), threads)
    return data


def transpose(columns: Lists, y: Tensor, sizes: Sequence[int], threads: int = 1) -> list[Tensor]:
    """The parts (B, sizes[k]) of M'y for y (B, rows of M); columns: those of M, all of the parts' together."""
    y = y.contiguous()
    found = [torch.empty((y.shape[0], size), dtype=torch.float64, device="cpu") for size in sizes]
    parts = [(t.data_ptr(), size, size) for t, size in zip(found, sizes, strict=True)]
    _extension.transpose(columns._numbers(), y.shape[0], (y.data_ptr(), y.shape[-1]), parts, threads)
    return found


def pull_back(
    entries: Entries,
    columns: Lists,
    point: Sequence[Tensor],
    value: Tensor | None,
    status: Tensor | None,
    sizes: Sequence[tuple[int, bool]],
    threads: int = 1,
) -> list[Tensor]:
    """The parts of M'y for the gradients y of `entries` at a point (pullback.hpp).

    point: x (B, n), z (B, m), u (B, n), w (B, m).  value: its cotangent (B,), None for 0.  status: (B,) int8, instances where it
    is not zero add nothing; None: all do.  sizes: of each part, and whether it is the sum over the batch: then it has one row.
    """
    tensors = [t.contiguous() for t in point]
    batch = tensors[0].shape[0]
    pairs = [number for t in tensors for number in (t.data_ptr(), t.shape[-1])]
    value = None if value is None else value.contiguous()
    pairs += (0, 0) if value is None else (value.data_ptr(), 1)
    found = [torch.empty((1 if shared else batch, size), dtype=torch.float64, device="cpu") for size, shared in sizes]
    left = 0 if status is None else status.data_ptr()
    strides = [0 if shared and batch != 1 else size for size, shared in sizes]
    parts = [(t.data_ptr(), stride, t.shape[-1]) for t, stride in zip(found, strides, strict=True)]
    _extension.pull_back(entries._numbers(), columns._numbers(), batch, pairs, left, parts, threads)
    return found

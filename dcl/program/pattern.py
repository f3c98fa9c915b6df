"""Matrices on a fixed pattern, in batches: the values vary, the places of the nonzeros do not.

A pattern of shape (m, n) turns values into a linear map M.  Every operation stands beside its adjoint:

    matvec(values, x)   = M x                       <M x, y> = <x, M' y>
    rmatvec(values, y)  = M' y
    outer(y, x)         = dM-adjoint of (y, x):     <values, outer(y, x)> = <M(values) x, y>

Batches lead.  Values have B or 1 in front (1: shared by the whole batch, and then `outer` sums over the batch);
vectors are (..., B, n) or (..., B, m) with any extra dimensions in front, for several right-hand sides.
All operations are torch operations, so they are differentiable and can be vmapped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl.program.affine import take
from dcl.torch_modes import outside_of_transforms


class AbstractPattern(ABC):
    """Places of the nonzeros of an m x n matrix."""

    shape: tuple[int, int]

    @abstractmethod
    def matvec(self, values: Tensor, x: Tensor) -> Tensor:
        """M x: (..., B, m). Law: <matvec(w, x), y> = <x, rmatvec(w, y)> = <w, outer(y, x)>."""

    @abstractmethod
    def rmatvec(self, values: Tensor, y: Tensor) -> Tensor:
        """M' y: (..., B, n). Adjoint of `matvec` in x."""

    @abstractmethod
    def outer(self, y: Tensor, x: Tensor, batch: int) -> Tensor:
        """Adjoint of `matvec` in the values for y (..., B, m), x (..., B, n), summed over the extra dimensions.

        batch is that of the values: B, or 1, and then the sum is over the batch too.
        """

    @abstractmethod
    def row_sizes(self, values: Tensor) -> Tensor:
        """Largest absolute entry of each row, (B, m); 0 for an empty row."""

    @abstractmethod
    def row_minimum(self, values: Tensor, t: Tensor) -> Tensor:
        """min_j t_j / values_ij over the nonzeros of each row, (B, m), for values >= 0, t (B, n); inf for an empty row."""

    @abstractmethod
    def scale_rows(self, values: Tensor, factors: Tensor) -> Tensor:
        """Values of diag(factors) M, for factors (B or 1, m)."""

    @abstractmethod
    def dense(self, values: Tensor) -> Tensor:
        """The matrices, (B, m, n)."""

    @abstractmethod
    def coordinates(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the nonzeros, in the order of `values` flattened per instance."""


def _add_extra(terms: Tensor, dims: int) -> Tensor:
    """Sum over all but the last `dims` dimensions."""
    return terms if terms.ndim == dims else terms.sum(tuple(range(terms.ndim - dims)))


@dataclass(frozen=True)
class DensePattern(AbstractPattern):
    """Every entry may be nonzero; values are (B, m, n)."""

    shape: tuple[int, int]

    def matvec(self, values: Tensor, x: Tensor) -> Tensor:
        return (values @ x.unsqueeze(-1)).squeeze(-1)

    def rmatvec(self, values: Tensor, y: Tensor) -> Tensor:
        return (values.mT @ y.unsqueeze(-1)).squeeze(-1)

    def outer(self, y: Tensor, x: Tensor, batch: int) -> Tensor:
        if batch == 1:
            # not flatten: the older vmap of torch.autograd has no rule for it
            rows = math.prod(y.shape[:-1])
            return (y.reshape(rows, y.shape[-1]).mT @ x.reshape(rows, x.shape[-1])).unsqueeze(0)
        return _add_extra(y.unsqueeze(-1) * x.unsqueeze(-2), 3)

    def row_sizes(self, values: Tensor) -> Tensor:
        return values.abs().amax(-1)

    def row_minimum(self, values: Tensor, t: Tensor) -> Tensor:
        return torch.where(values > 0.0, t.unsqueeze(-2) / values, torch.inf).amin(-1)

    def scale_rows(self, values: Tensor, factors: Tensor) -> Tensor:
        return values * factors.unsqueeze(-1)

    def dense(self, values: Tensor) -> Tensor:
        return values

    def coordinates(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        m, n = self.shape
        return np.repeat(np.arange(m), n), np.tile(np.arange(n), m)


@dataclass(frozen=True, eq=False)
class SparsePattern(AbstractPattern):
    """Nonzeros at (rows[k], cols[k]), each place at most once; values are (B, nnz)."""

    shape: tuple[int, int]
    rows: Tensor
    cols: Tensor

    def matvec(self, values: Tensor, x: Tensor) -> Tensor:
        return self._gather_add(values, x, self.cols, self.rows, self.shape[0])

    def rmatvec(self, values: Tensor, y: Tensor) -> Tensor:
        return self._gather_add(values, y, self.rows, self.cols, self.shape[1])

    @staticmethod
    def _gather_add(values: Tensor, x: Tensor, source: Tensor, target: Tensor, size: int) -> Tensor:
        # torch's own CSR and COO products fail under jacfwd, and CSR is slow on the CPU
        terms = values * take(x, source)
        out = terms.new_zeros((*terms.shape[:-1], size))
        return out.index_add(-1, target.to(x.device), terms)

    def outer(self, y: Tensor, x: Tensor, batch: int) -> Tensor:
        terms = take(y, self.rows) * take(x, self.cols)
        return _add_extra(terms, 1).unsqueeze(0) if batch == 1 else _add_extra(terms, 2)

    def row_sizes(self, values: Tensor) -> Tensor:
        sizes = values.new_zeros((values.shape[0], self.shape[0]))
        # index_reduce warns that it is in beta
        rows = self.rows.to(values.device).expand(values.shape[0], -1)
        return sizes.scatter_reduce(1, rows, values.abs(), "amax")

    def row_minimum(self, values: Tensor, t: Tensor) -> Tensor:
        ratios = torch.where(values > 0.0, take(t, self.cols) / values, torch.inf)
        smallest = torch.full((ratios.shape[0], self.shape[0]), torch.inf, dtype=t.dtype, device=t.device)
        return smallest.scatter_reduce(1, self.rows.to(t.device).expand_as(ratios), ratios, "amin")

    def scale_rows(self, values: Tensor, factors: Tensor) -> Tensor:
        return values * take(factors, self.rows)

    def dense(self, values: Tensor) -> Tensor:
        out = values.new_zeros((values.shape[0], self.shape[0] * self.shape[1]))
        return out.index_copy(1, self.flat.to(values.device), values).reshape(values.shape[0], *self.shape)

    @cached_property
    def flat(self) -> Tensor:
        """The places in a matrix of which the rows are one after the other, (nnz,)."""
        # it stays: no tensor of a transform, nor one that was made under inference_mode
        with outside_of_transforms(), torch.inference_mode(False):
            return self.rows * self.shape[1] + self.cols

    @cached_property
    def is_sound(self) -> bool:
        """Is every place inside of the matrix, and there only once?"""
        if not self.rows.numel():
            return True
        (m, n), rows, cols = self.shape, self.rows, self.cols
        if bool((rows < 0).any() | (cols < 0).any() | (rows >= m).any() | (cols >= n).any()):
            return False
        places = self.flat.sort().values
        return not bool((places[1:] == places[:-1]).any())

    def coordinates(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        with outside_of_transforms():  # inside of them no tensor gives its memory to NumPy
            return self.rows.numpy(), self.cols.numpy()


def pattern_of(rows: NDArray[np.int64], cols: NDArray[np.int64], shape: tuple[int, int]) -> SparsePattern:
    """The sparse pattern with nonzeros at (rows[k], cols[k])."""
    return SparsePattern(shape, torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(cols.astype(np.int64)))

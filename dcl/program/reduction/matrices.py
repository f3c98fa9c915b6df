"""Batches of matrices of a few kinds, so that sums and products of mostly constant, diagonal and empty blocks stay cheap.

    Zero        nothing is stored
    Diagonal    values (B or 1, k)
    Full        values (B or 1, r, c)
    Lower       [[Diagonal, 0], [any, any]], and its inverse

What has 1 in front is shared by the batch, and so are products of what is shared.  Vectors are (B or 1, size).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


class AbstractMatrix(ABC):
    """M, (B or 1) matrices of one shape."""

    shape: tuple[int, int]
    is_zero: ClassVar[bool]

    @abstractmethod
    def times(self, x: Tensor) -> Tensor:
        """M x, (B or 1, r). Law: <M x, y> = <x, M' y>."""

    @abstractmethod
    def transposed(self, y: Tensor) -> Tensor:
        """M' y, (B or 1, c). Adjoint of `times`."""

    @abstractmethod
    def negative(self) -> AbstractMatrix:
        """-M."""

    @abstractmethod
    def full(self) -> Tensor:
        """The matrices, (B or 1, r, c)."""


@dataclass(frozen=True)
class Zero(AbstractMatrix):
    """The zero matrix."""

    shape: tuple[int, int]
    is_zero: ClassVar[bool] = True

    def times(self, x: Tensor) -> Tensor:
        return x.new_zeros(1, self.shape[0])

    def transposed(self, y: Tensor) -> Tensor:
        return y.new_zeros(1, self.shape[1])

    def negative(self) -> AbstractMatrix:
        return self

    def full(self) -> Tensor:
        return torch.zeros(1, *self.shape, dtype=torch.float64, device="cpu")


@dataclass(frozen=True, eq=False)
class Diagonal(AbstractMatrix):
    """diag(values)."""

    values: Tensor
    is_zero: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return self.values.shape[-1], self.values.shape[-1]

    def times(self, x: Tensor) -> Tensor:
        return self.values * x

    def transposed(self, y: Tensor) -> Tensor:
        return self.values * y

    def negative(self) -> AbstractMatrix:
        return Diagonal(-self.values)

    def full(self) -> Tensor:
        return torch.diag_embed(self.values)


@dataclass(frozen=True, eq=False)
class Full(AbstractMatrix):
    """Matrices in which every entry is stored."""

    values: Tensor
    is_zero: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return self.values.shape[-2], self.values.shape[-1]

    def times(self, x: Tensor) -> Tensor:
        if self.values.shape[0] == 1:
            return x @ self.values[0].mT
        return (self.values @ x.unsqueeze(-1)).squeeze(-1)

    def transposed(self, y: Tensor) -> Tensor:
        if self.values.shape[0] == 1:
            return y @ self.values[0]
        return (y.unsqueeze(-2) @ self.values).squeeze(-2)

    def negative(self) -> AbstractMatrix:
        return Full(-self.values)

    def full(self) -> Tensor:
        return self.values


def _stacked(F: AbstractMatrix, S: AbstractMatrix) -> tuple[int, int]:
    """The shape of a matrix with these two blocks on its diagonal."""
    return F.shape[0] + S.shape[0], F.shape[0] + S.shape[1]


@dataclass(frozen=True, eq=False)
class Lower(AbstractMatrix):
    """[[F, 0], [C, S]] with a diagonal F."""

    F: Diagonal
    C: AbstractMatrix
    S: AbstractMatrix
    is_zero: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return _stacked(self.F, self.S)

    def times(self, x: Tensor) -> Tensor:
        first, second = x.tensor_split([self.F.shape[0]], -1)
        return _beside(self.F.times(first), self.C.times(first) + self.S.times(second))

    def transposed(self, y: Tensor) -> Tensor:
        first, second = y.tensor_split([self.F.shape[0]], -1)
        return _beside(self.F.transposed(first) + self.C.transposed(second), self.S.transposed(second))

    def negative(self) -> AbstractMatrix:
        return Lower(Diagonal(-self.F.values), self.C.negative(), self.S.negative())

    def full(self) -> Tensor:
        F, C, S = self.F.full(), self.C.full(), self.S.full()
        batch = max(F.shape[0], C.shape[0], S.shape[0])
        out = F.new_zeros(batch, *self.shape)
        k = self.F.shape[0]
        out[:, :k, :k], out[:, k:, :k], out[:, k:, k:] = F, C, S
        return out


@dataclass(frozen=True, eq=False)
class InverseLower(AbstractMatrix):
    """The inverse of a `Lower`, with that of F and of S at hand:  (x_1, x_2) -> (F^-1 x_1, S^-1 (x_2 - C F^-1 x_1))."""

    F: Diagonal
    C: AbstractMatrix
    S: AbstractMatrix
    is_zero: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return _stacked(self.F, self.S)

    def times(self, x: Tensor) -> Tensor:
        first, second = x.tensor_split([self.F.shape[0]], -1)
        first = self.F.times(first)
        return _beside(first, self.S.times(second - self.C.times(first)))

    def transposed(self, y: Tensor) -> Tensor:
        first, second = y.tensor_split([self.F.shape[0]], -1)
        second = self.S.transposed(second)
        return _beside(self.F.transposed(first - self.C.transposed(second)), second)

    def negative(self) -> AbstractMatrix:
        return InverseLower(Diagonal(-self.F.values), self.C.negative(), self.S.negative())

    def full(self) -> Tensor:
        F, S = self.F, self.S
        return Lower(F, product(product(S, self.C), F).negative(), S).full()


def _beside(one: Tensor, other: Tensor) -> Tensor:
    batch = max(one.shape[0], other.shape[0])
    return torch.cat([one.expand(batch, -1), other.expand(batch, -1)], -1)


def product(a: AbstractMatrix, b: AbstractMatrix) -> AbstractMatrix:
    """A B."""
    if isinstance(a, Zero) or isinstance(b, Zero):
        return Zero((a.shape[0], b.shape[1]))
    if isinstance(a, Diagonal) and isinstance(b, Diagonal):
        return Diagonal(a.values * b.values)
    if isinstance(a, Diagonal):
        return Full(a.values.unsqueeze(-1) * b.full())
    if isinstance(b, Diagonal):
        return Full(a.full() * b.values.unsqueeze(-2))
    return Full(a.full() @ b.full())


def transposed_product(a: AbstractMatrix, b: AbstractMatrix) -> AbstractMatrix:
    """A' B."""
    if isinstance(a, Full) and isinstance(b, Full):
        return Full(a.values.mT @ b.values)
    if isinstance(a, Full) and not isinstance(b, Zero):
        return product(Full(a.values.mT), b)
    return product(a if isinstance(a, Diagonal) else Zero((a.shape[1], a.shape[0])), b)


def total(a: AbstractMatrix, b: AbstractMatrix) -> AbstractMatrix:
    """A + B."""
    if isinstance(a, Zero):
        return b
    if isinstance(b, Zero):
        return a
    if isinstance(a, Diagonal) and isinstance(b, Diagonal):
        return Diagonal(a.values + b.values)
    return Full(a.full() + b.full())

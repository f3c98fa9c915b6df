"""A product of cones is a cone: every method acts on consecutive slices of the last dimension."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier, Block
from dcl.cones.orthant import Diagonal, Nonnegative, Zero


@dataclass(frozen=True, eq=False)
class _Parts(AbstractDerivative):
    """Derivatives of consecutive slices of `sizes` rows."""

    d: Tensor
    parts: tuple[AbstractDerivative, ...]
    sizes: list[int]
    diagonal: bool = False

    def to_eigen(self, w: Tensor) -> Tensor:
        slices = torch.split(w, self.sizes, dim=-1)
        return torch.cat([part.to_eigen(wi) for part, wi in zip(self.parts, slices, strict=True)], -1)

    def from_eigen(self, w: Tensor) -> Tensor:
        slices = torch.split(w, self.sizes, dim=-1)
        return torch.cat([part.from_eigen(wi) for part, wi in zip(self.parts, slices, strict=True)], -1)


@dataclass(frozen=True)
class Product(AbstractCone):
    """K_1 x ... x K_k in the order given."""

    cones: tuple[AbstractCone, ...]

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Sum of the dimensions."""
        return sum(cone.dim for cone in self.cones)

    @property
    def degree(self) -> int:  # type: ignore[override]
        """Sum of the degrees."""
        return sum(cone.degree for cone in self.cones)

    @property
    def zeros(self) -> int:  # type: ignore[override]
        """Those of the zero cones in front."""
        return sum(cone.zeros for cone in self.cones)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(block for cone in self.cones for block in cone.blocks)

    @cached_property
    def _sizes(self) -> list[int]:
        return [cone.dim for cone in self.cones]

    def _split(self, t: Tensor) -> tuple[Tensor, ...]:
        return torch.split(t, self._sizes, dim=-1)

    def project(self, v: Tensor, mu: Barrier) -> Tensor:
        return torch.cat([cone.project(part, mu) for cone, part in zip(self.cones, self._split(v), strict=True)], -1)

    def dproject(self, v: Tensor, mu: Barrier, at_kink: Tensor) -> AbstractDerivative:
        pieces = zip(self.cones, self._split(v), self._split(at_kink), strict=True)
        parts = [cone.dproject(part, mu, kink) for cone, part, kink in pieces]
        d = torch.cat([part.d for part in parts], -1)
        return Diagonal(d) if all(part.diagonal for part in parts) else _Parts(d, tuple(parts), self._sizes)

    def slope_in_mu(self, v: Tensor, mu: Tensor) -> Tensor:
        return torch.cat(
            [cone.slope_in_mu(part, mu) for cone, part in zip(self.cones, self._split(v), strict=True)], -1
        )

    def curvature_product(self, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
        parts = zip(self.cones, self._split(v), self._split(a), self._split(w), strict=True)
        return torch.cat([cone.curvature_product(vi, mu, ai, wi) for cone, vi, ai, wi in parts], -1)

    def equalize(self, sizes: Tensor) -> Tensor:
        return torch.cat([cone.equalize(part) for cone, part in zip(self.cones, self._split(sizes), strict=True)], -1)

    def kink_distance(self, v: Tensor) -> Tensor:
        return torch.cat([cone.kink_distance(part) for cone, part in zip(self.cones, self._split(v), strict=True)], -1)


def orthant(zeros: int, nonnegatives: int) -> AbstractCone:
    """The zero cone of R^zeros times the nonnegative orthant of R^nonnegatives, as one cone."""
    return Product((Zero(zeros), Nonnegative(nonnegatives)))

"""The zero cone {0} (dual: all of R^dim) and the nonnegative orthant.

zero         s = 0, z = v, D = I, no barrier (degree 0)
nonnegative  s z = mu for each entry:  z = (v + sqrt(v^2 + 4 mu)) / 2,   D = (1 + v / sqrt(v^2 + 4 mu)) / 2,
             dz/dmu = 1 / sqrt(v^2 + 4 mu)
dD/dv = 2 mu / (v^2 + 4 mu)^(3/2);  at mu = 0: z = max(v, 0), D = [v > 0], at_kink at a tie, dD/dv = 0
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier, Block


@dataclass(frozen=True, eq=False)
class Diagonal(AbstractDerivative):
    """D with entries d (B, dim) on its diagonal."""

    d: Tensor
    diagonal: bool = True

    def to_eigen(self, w: Tensor) -> Tensor:
        return w

    def from_eigen(self, w: Tensor) -> Tensor:
        return w


@dataclass(frozen=True)
class Zero(AbstractCone):
    """{0} in R^dim."""

    dim: int
    degree: int = 0

    @property
    def zeros(self) -> int:  # type: ignore[override]
        """All rows."""
        return self.dim

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("zero", self.dim),)

    def project(self, v: Tensor, mu: Barrier) -> Tensor:
        return v

    def dproject(self, v: Tensor, mu: Barrier, at_kink: Tensor) -> Diagonal:
        return Diagonal(torch.ones_like(v))

    def slope_in_mu(self, v: Tensor, mu: Tensor) -> Tensor:
        return torch.zeros_like(v)

    def curvature_product(self, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
        return torch.zeros_like(a * w)

    def equalize(self, sizes: Tensor) -> Tensor:
        return sizes

    def kink_distance(self, v: Tensor) -> Tensor:
        return torch.full_like(v, torch.inf)


@dataclass(frozen=True)
class Nonnegative(AbstractCone):
    """{s in R^dim : s >= 0}."""

    dim: int

    @property
    def degree(self) -> int:  # type: ignore[override]
        """One for each entry."""
        return self.dim

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("nonnegative", self.dim),)

    def project(self, v: Tensor, mu: Barrier) -> Tensor:
        if isinstance(mu, float) and mu == 0.0:
            return v.clamp(min=0.0)
        root = torch.sqrt(v * v + 4.0 * mu)
        # for v < 0 the difference v + root cancels: use z = mu / s there
        return torch.where(v > 0.0, 0.5 * (v + root), 2.0 * mu / (root + v.abs()))

    def dproject(self, v: Tensor, mu: Barrier, at_kink: Tensor) -> Diagonal:
        if isinstance(mu, float) and mu == 0.0:
            return Diagonal(torch.where(torch.isnan(at_kink), (v > 0.0).to(v.dtype), at_kink))
        root = torch.sqrt(v * v + 4.0 * mu)
        small = 2.0 * mu / (root * (root + v.abs()))
        return Diagonal(torch.where(v > 0.0, 1.0 - small, small))

    def slope_in_mu(self, v: Tensor, mu: Tensor) -> Tensor:
        return torch.rsqrt(v * v + 4.0 * mu)

    def curvature_product(self, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
        if isinstance(mu, float) and mu == 0.0:
            return torch.zeros_like(a * w)
        return 2.0 * mu * (v * v + 4.0 * mu) ** -1.5 * a * w

    def equalize(self, sizes: Tensor) -> Tensor:
        return sizes

    def kink_distance(self, v: Tensor) -> Tensor:
        return v.abs()

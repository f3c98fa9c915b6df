"""The interface of a cone K of R^dim, its dual K*, and its log-barrier phi (nu = degree, phi(t s) = phi(s) - nu log t).

    z = Pi_mu*(v)   and   s = z - v :     z in K*,  s in K,  z's = mu * nu        (mu = 0: z = projection of v onto K*)
    D(v) = dz/dv,  symmetric,  0 <= D <= I

mu is the float 0.0 (Euclidean projection) or a tensor that broadcasts against v, (B or 1, 1), with entries > 0; where some
are zero, `dcl.cones.by_rows` asks for the two parts.

z is homogeneous, z(t v, t^2 mu) = t z(v, mu), so D depends on v / sqrt(mu) alone, and with dz/dmu = D s / mu at fixed v, which
`slope_in_mu` has without the cancellation of s = z - v, every derivative in mu is one in v:

    d(D w)/dmu = -(dD/dv [v]) w / (2 mu)
At a kink of the projection (mu = 0, v_i = 0 up to rounding) D takes the value `at_kink`: 1/2, the limit of D as mu -> 0,
unless `dcl.point.basis` chose another; NaN says that there is no kink (`dcl.point.ties`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

Barrier = float | Tensor

# What counts as a tie, |v_i| = 0 up to rounding (of symmetric cones the eigenvalue), in the units of `dcl.program.scaling`: below
# this, or below what rounding leaves of the largest terms, relative to these.  `dcl.point.ties` says which terms.
TIE_TOLERANCE = 1e-9
TIE_ROUNDING = 1e-12


def is_exact(mu: Barrier) -> bool:
    """Is mu = 0, the exact problem?"""
    return isinstance(mu, float) and mu == 0.0


def barrier_at(mu: Barrier, index: Tensor) -> Barrier:
    """mu of the instances `index` (a 1-d integer tensor); one that the batch shares stays shared."""
    return mu[index] if isinstance(mu, Tensor) and mu.shape[0] > 1 else mu


class AbstractDerivative(ABC):
    """The symmetric map D = dz/dv of a batch of points by its eigenvalues: D = Q diag(d) Q', Q orthogonal, 0 <= d <= 1.

    Vectors are (..., B, dim).  In the coordinates Q'w everything that the KKT matrix needs of D is diagonal.
    """

    d: Tensor  # eigenvalues, (B, dim)
    diagonal: bool  # Q = I

    @abstractmethod
    def to_eigen(self, w: Tensor) -> Tensor:
        """Q'w. Law: orthogonal, and the inverse of `from_eigen`."""

    @abstractmethod
    def from_eigen(self, w: Tensor) -> Tensor:
        """Q w."""

    @final
    def apply(self, w: Tensor) -> Tensor:
        """D w."""
        return self.from_eigen(self.d * self.to_eigen(w))


@final
@dataclass(frozen=True, eq=False)
class Revalued(AbstractDerivative):
    """Q of another derivative with the eigenvalues d (B, dim)."""

    d: Tensor
    of: AbstractDerivative

    @property
    def diagonal(self) -> bool:  # type: ignore[override]
        """Is Q = I?"""
        return self.of.diagonal

    def to_eigen(self, w: Tensor) -> Tensor:
        return self.of.to_eigen(w)

    def from_eigen(self, w: Tensor) -> Tensor:
        return self.of.from_eigen(w)


@dataclass(frozen=True)
class Block:
    """`count` equal cones, one after the other, named so that a solver's file can map them to its own.

    kind                         size                rows of each cone
    "zero", "nonnegative"        rows                size, count is 1
    "second_order"               rows, t first       size
    "semidefinite"               order k             k (k + 1) / 2, see `dcl.cones.semidefinite`
    "exponential"                3                   3
    "power"                      3                   3, and one exponent in `alphas` for each cone
    """

    kind: str
    size: int
    count: int = 1
    alphas: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of one of the cones."""
        return self.size * (self.size + 1) // 2 if self.kind == "semidefinite" else self.size

    @property
    def is_orthant(self) -> bool:
        """Zero or nonnegative: rows that do not see each other."""
        return self.kind in ("zero", "nonnegative")


class AbstractCone(ABC):
    """A closed convex cone of R^dim."""

    dim: int
    degree: int
    zeros: int = 0  # leading rows that belong to zero cones

    @property
    @abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """The same cone by name. Law: the rows of all blocks, in order, are those of the cone."""

    @final
    @property
    def is_orthant(self) -> bool:
        """Zero and nonnegative cones only."""
        return all(block.is_orthant for block in self.blocks)

    @abstractmethod
    def project(self, v: Tensor, mu: Barrier) -> Tensor:
        """Z of the header, (B, dim). Law: z in K*, z - v in K, z'(z - v) = mu * degree."""

    @abstractmethod
    def dproject(self, v: Tensor, mu: Barrier, at_kink: Tensor) -> AbstractDerivative:
        """D at v, and at_kink (B, dim) where that is not NaN. Law: D is the derivative of `project`."""

    @abstractmethod
    def slope_in_mu(self, v: Tensor, mu: Tensor) -> Tensor:
        """dz/dmu at fixed v, (B, dim), for mu > 0. Law: the derivative of `project`; D s / mu."""

    @abstractmethod
    def curvature_product(self, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
        """Gradient in v of <a, D(v) w>, (..., B, dim). Law: the derivative of `dproject`."""

    @abstractmethod
    def equalize(self, sizes: Tensor) -> Tensor:
        """Row sizes (B, dim) made constant where the cone allows no scaling row by row. Law: diag(result) K = K."""

    @abstractmethod
    def kink_distance(self, v: Tensor) -> Tensor:
        """(B, dim): how far each row (SOC, PSD: eigenvalue) is from the kink of the mu = 0 projection; inf if none."""

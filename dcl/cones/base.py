"""The interface of a cone K of R^dim, its dual K*, and its log-barrier phi (nu = degree, phi(t s) = phi(s) - nu log t).

    z = Pi_mu*(v)   and   s = z - v :     z in K*,  s in K,  z's = mu * nu        (mu = 0: z = projection of v onto K*)
    D(v) = dz/dv,  symmetric,  0 <= D <= I,       R = D^(1/2)

mu is the float 0.0 (Euclidean projection) or a tensor that broadcasts against v, (B or 1, 1), with entries > 0.
At a kink of the projection (mu = 0 and |v_i| <= tie) D takes the value `at_kink` (B, dim): 1/2, the limit of D as mu -> 0,
unless `dcl.basis` chose another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

Barrier = float | Tensor


class AbstractDerivative(ABC):
    """The symmetric map D = dz/dv of a batch of points; vectors are (..., B, dim)."""

    @abstractmethod
    def apply(self, w: Tensor) -> Tensor:
        """The product D w. Law: <w, apply(u)> = <apply(w), u>, 0 <= <w, apply(w)> <= <w, w>."""

    @abstractmethod
    def sqrt(self, w: Tensor) -> Tensor:
        """R w, with R R = D and R = R'."""

    @abstractmethod
    def sqrt_rows(self, J: Tensor) -> Tensor:
        """R J for matrices J (B or 1, dim, n)."""

    @abstractmethod
    def complement(self) -> Tensor:
        """I - D: its diagonal (B, dim) where it is diagonal. Law: complement + D = I."""

    @abstractmethod
    def live(self) -> Tensor:
        """(B, dim) boolean: False where row and column of D are zero, so that R drops the row."""


class AbstractCone(ABC):
    """A closed convex cone of R^dim."""

    dim: int
    degree: int
    zeros: int = 0  # leading rows that belong to zero cones

    @abstractmethod
    def project(self, v: Tensor, mu: Barrier) -> Tensor:
        """Z of the header, (B, dim). Law: z in K*, z - v in K, z'(z - v) = mu * degree."""

    @abstractmethod
    def dproject(self, v: Tensor, mu: Barrier, tie: Tensor, at_kink: Tensor) -> AbstractDerivative:
        """D at v; `tie` (B, 1) is the distance to a kink that counts as zero. Law: D is the derivative of `project`."""

    @abstractmethod
    def curvature(self, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
        """Gradient in v of <a, D(v) w>, (..., B, dim). Law: the derivative of `dproject`."""

    @abstractmethod
    def kink_distance(self, v: Tensor) -> Tensor:
        """(B, dim): how far each row (SOC, PSD: eigenvalue) is from the kink of the mu = 0 projection; inf if none."""

"""The canonical program, and the one place where signs and letters are defined.

    minimize 1/2 x'Px + q'x + d   subject to   Ax + s = b,   s in K            dual z in K*,   v = z - s

    stationarity  Px + q + A'z = 0        feasibility  Ax + s = b        complementarity  z's = mu * degree(K)
    s = Pi_mu(-v), z = v + s: at mu = 0 the projections onto K and K* (Moreau), at mu > 0 the prox of the log-barrier of K
    F(x, v) = ( Px + q + A'z,  Ax - b + z - v )  is zero exactly at a KKT point (mu = 0) or at the central-path point x(mu)

P is symmetric, n x n; A is m x n; x, q are n-vectors; z, s, v, b are m-vectors; d is a number.
Signs are those of Clarabel and SCS.  Batch dimensions lead: every tensor is float64 and has B or 1 in front.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from dcl.cones.base import AbstractCone
from dcl.program.pattern import AbstractPattern, DensePattern


@dataclass(frozen=True, eq=False)
class Structure:
    """What does not change from call to call: the patterns of P (n, n) and A (m, n), and the cone K of R^m.

    Rows come sorted by cone, as SCS sorts them: zero, nonnegative, second-order, semidefinite, exponential, power.
    """

    P: AbstractPattern
    A: AbstractPattern
    cone: AbstractCone

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.A.shape[1]

    @property
    def m(self) -> int:
        """Number of rows of A."""
        return self.A.shape[0]


@lru_cache(maxsize=1024)
def dense_structure(cone: AbstractCone, n: int) -> Structure:
    """The structure of dense programs with n variables and rows in the cone, one object for equal arguments."""
    return Structure(DensePattern((n, n)), DensePattern((cone.dim, n)), cone)


@dataclass(frozen=True, eq=False)
class ConeProgram:
    """A batch of programs on one structure. P, A: values on their patterns; q (., n); b (., m); . is B or 1."""

    structure: Structure
    P: Tensor
    q: Tensor
    A: Tensor
    b: Tensor

    @property
    def batch(self) -> int:
        """Number of instances B."""
        sizes = [t.shape[0] for t in (self.P, self.q, self.A, self.b)]
        return next((size for size in sizes if size != 1), 1)

    def Px(self, x: Tensor) -> Tensor:
        """P x, (..., B, n)."""
        return self.structure.P.matvec(self.P, x)

    def Ax(self, x: Tensor) -> Tensor:
        """A x, (..., B, m)."""
        return self.structure.A.matvec(self.A, x)

    def ATz(self, z: Tensor) -> Tensor:
        """A' z, (..., B, n)."""
        return self.structure.A.rmatvec(self.A, z)

    def absolute(self) -> ConeProgram:
        """The program with |P| and |A|."""
        return replace(self, P=self.P.abs(), A=self.A.abs())

    def objective(self, x: Tensor) -> Tensor:
        """1/2 x'Px + q'x, (B,), without the constant d."""
        return ((0.5 * self.Px(x) + self.q) * x).sum(-1)

    def rows(self, index: Tensor) -> ConeProgram:
        """The instances `index` (a 1-d integer tensor); shared data stay shared."""

        def pick(t: Tensor) -> Tensor:
            return t if t.shape[0] == 1 else t.index_select(0, index)

        return replace(self, P=pick(self.P), q=pick(self.q), A=pick(self.A), b=pick(self.b))

    def expanded(self, batch: int) -> ConeProgram:
        """The same programs, with q repeated where nothing else says that there are `batch` of them."""
        return self if self.batch == batch else replace(self, q=self.q.expand(batch, -1))

    def detach(self) -> ConeProgram:
        """The same numbers outside of any graph."""
        return replace(self, P=self.P.detach(), q=self.q.detach(), A=self.A.detach(), b=self.b.detach())


def symmetric(P: Tensor) -> Tensor:
    """(P + P') / 2 of matrices (..., n, n); halved first, since P + P' may overflow where P does not."""
    return 0.5 * P + 0.5 * P.mT


def norm(a: Tensor, b: Tensor) -> Tensor:
    """2-norm of (a, b) along the last dimension, as of F or of a point (x, v)."""
    return torch.sqrt((a * a).sum(-1) + (b * b).sum(-1))


def magnitude(t: Tensor) -> Tensor:
    """Largest absolute entry of the last dimension, 0 where that dimension is empty."""
    if t.shape[-1] == 0:
        return t.new_zeros(t.shape[:-1])
    return t.abs().amax(-1)


def largest(*sizes: Tensor) -> Tensor:
    """The largest of several tensors, entry by entry."""
    return torch.stack(torch.broadcast_tensors(*sizes)).amax(0)

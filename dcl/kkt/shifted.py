"""LDL' of a batch of equilibrated matrices S^ with a shift, and what it gives: solutions, and projections onto null spaces.

    F = (S^ + e J)^-1,   J = diag(I, -I),   e = 1e-6              S^ = [[H, B'], [B, -T]],  H >= 0,  T >= 0,  largest entry 1

S^ + e J is quasi-definite: it has an LDL' for every permutation, so that a pattern is analyzed once.  J S^ is monotone and has
the null space N of its transpose, so R^n is N + range(S^), orthogonal, and on the range |F| <= 1 / sigma, sigma the
smallest singular value of S^ that is not zero.  Refinement x += F (r - S^ x) shrinks the range part of the error by
e / (e + sigma) a step, and finds the range part of the solution of a singular system.  y -= S^ F y, which is e J F y, leaves
the projection of y onto N.  (So does y -= F S^ y; but pivots of size e make F inaccurate, up to 1e-4 in N, and that adds to y.
The first only takes away what is in the range; what rounding leaves there, 1e-10, the second takes at the end.)
Where this is slow, sigma < e, Krylov's method takes over (`dcl.kkt.krylov`).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dcl.kkt.base import RANK_TOLERANCE
from dcl.kkt.krylov import minimal_residual
from dcl.kkt.saddle import Saddle

Array = NDArray[np.float64]
SHIFT = 1e-6
_STEPS, _CLEANING = 8, 2
# A residual below this, relative to the terms that cancel in it, is rounding.
_ROUNDING = 1e-15
# A step that shrinks something by less than this is slow; of a null vector, what S leaves of it is rounding below _PURE.
_SLOW, _PURE = 0.5, 1e-14


def norms(columns: Array) -> Array:
    """2-norms of the columns of (B, N, c), (B, 1, c)."""
    return np.asarray(np.sqrt(np.einsum("bnc,bnc->bc", columns, columns)[:, None]))


class Shifted:
    """S^ and its F, for vectors (B, N, c)."""

    def __init__(self, saddle: Saddle, values: Array) -> None:
        self.saddle, self.values = saddle, values

    @cached_property
    def _factors(self) -> object:
        return self.saddle.ldl.factor(self.values, SHIFT * self.saddle.signs, len(self.values))

    def only(self, i: int) -> Shifted:
        """Instance i alone."""
        return Shifted(self.saddle, self.values[[i]])

    def F(self, r: Array) -> Array:
        """F r."""
        return self.saddle.ldl.solve(self._factors, r)

    def multiply(self, x: Array) -> Array:
        """S^ x."""
        return self.saddle.ldl.multiply(self.values, x)

    def solve(self, r: Array, enough: float = 0.0) -> Array:
        """An x with S^ x = r for r in the range. Where that is slow, residuals up to `enough` of |r| stay."""
        x = self.F(r)
        rest = r - self.multiply(x)
        size, scale = norms(rest), norms(r)
        for _ in range(_STEPS):
            rounding = _ROUNDING * (scale + norms(x))
            if not (size > rounding).any():
                return x
            x_new = x + self.F(rest)
            rest_new = r - self.multiply(x_new)
            size_new = norms(rest_new)
            better = size_new < size
            x, rest = np.where(better, x_new, x), np.where(better, rest_new, rest)
            slow = size_new > _SLOW * size
            size = np.minimum(size, size_new)
            if (slow | (size <= rounding)).all():
                break
        for i, c in np.argwhere((size > 100.0 * rounding + enough * scale)[:, 0]):
            x[i, :, c] += self._sought(int(i), rest[i, :, c])[0]
        return x

    def null_part(self, y: Array, none: float = _PURE) -> tuple[Array, NDArray[np.bool_]]:
        """The projection of y onto N, zero below `none` of |y|; and where (B, 1, c) what is left is not in N."""
        nothing = none * norms(y)
        before = np.full_like(nothing, np.inf)
        for _ in range(_STEPS):
            y = y - self.multiply(self.F(y))
            left, outside = norms(y), self.multiply(y)
            size = norms(outside)
            if ((left <= nothing) | (size <= _PURE * left) | (size > _SLOW * before)).all():
                break
            before = size
        for _ in range(_CLEANING):
            if not ((left > nothing) & (size > _PURE * left)).any():
                break
            y = y - self.F(outside)
            left, outside = norms(y), self.multiply(y)
            size = norms(outside)
        unsure = (left > nothing) & (size > RANK_TOLERANCE * left)
        for i, c in np.argwhere(unsure[:, 0]):
            y[i, :, c] = self._sought(int(i), y[i, :, c])[1]
        if unsure.any():
            left = norms(y)
            unsure = (left > nothing) & (norms(self.multiply(y)) > RANK_TOLERANCE * left)
        return np.where(left > nothing, y, 0.0), unsure

    def _sought(self, i: int, r: Array) -> tuple[Array, Array]:
        """x and r - S^ x for r (N,) and instance i, by Krylov's method."""
        one = self.only(i)
        return minimal_residual(
            lambda y: one.F(y[None, :, None])[0, :, 0], lambda y: one.multiply(y[None, :, None])[0, :, 0], r
        )

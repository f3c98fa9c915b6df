"""Dense batches: two Cholesky factorizations, and a last resort for the instances they cannot serve.

Adding B'G times the second row of S to the first, and scaling the second by C = I - G T (G >= 0 diagonal, G T < 1):

    [[M, B'C], [C B, -C T]] (a, y) = (r1 + B'G r2, C r2),      M = H + B'G B,      Q = C B M^-1 B'C + C T

This is exact for every such G, and M > 0 and Q > 0 hold exactly if S is nonsingular: M fails where the solution is not
unique, Q where active rows are dependent; then all eigenvalues of S decide, or, where these take too long, `dcl.kkt.sparse`.
On batches of small matrices Cholesky is 3 to 50 times faster than the
pivoted LDL of LAPACK, and `torch.linalg.lu_factor` is unusable there (see docs/design.md).
Rounding errors of the elimination are removed by iterative refinement on S itself, where S is ill-conditioned in extended
precision (`dcl.kkt.extended`).
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from dcl.kkt.base import AbstractFactor, Conditioning, saddle
from dcl.kkt.eigen import EigenFactor
from dcl.kkt.extended import residual as extended_residual
from dcl.kkt.sparse import EIGEN_LIMIT, of_dense

# Beyond this estimate of the condition the Cholesky pair is not trusted and `_exact` decides.
_SUSPICIOUS = 1e9
# A solve is refined in extended precision where condition * (larger part of the solution / smaller part) exceeds this:
# below, the smaller part has ten digits without.
_DELICATE = 1e6
_NOISE = 2e-16
# Refinement multiplies the error by about the relative residual of the first solve: this is where it still is quick.
_REFINABLE = 1e-4
# A relative residual below this is not refined further.
_ACCURATE = 1e-14
_REFINEMENTS = 4


@lru_cache(maxsize=256)
def _probe(size: int) -> Tensor:
    # NumPy's numbers: vmap lets torch draw none
    probe = np.random.default_rng(size).standard_normal((size, 1))
    return torch.from_numpy(probe / max(np.linalg.norm(probe), np.finfo(np.float64).tiny))


def _norms(r: Tensor) -> Tensor:
    """2-norm of each column: (B, N, c) -> (B, c). Three times as fast as `torch.linalg.vector_norm` on small batches."""
    return (r * r).sum(-2).sqrt()


def _safe(t: Tensor) -> Tensor:
    """t with 1 in place of 0."""
    return torch.where(t > 0.0, t, 1.0)


class DenseFactor(AbstractFactor):
    """S for dense H (B or 1, n, n), B (B, k, n), T (B, k), all float64 on one device.

    regular: S is known to be nonsingular, so that its rank is not asked for; where it is so in exact numbers only, solutions
    may be wrong, and the residual that `solve` returns tells.
    best_units: as in `dcl.kkt.eigen`.
    """

    def __init__(self, H: Tensor, B: Tensor, T: Tensor, *, regular: bool = False, best_units: bool = False) -> None:
        self._best_units = best_units
        self._H, self._B, self._T = H, B, T.unsqueeze(-1)
        self._n = H.shape[-1]
        scale = _safe(H.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True))
        if regular:  # H is at least a small multiple of I, which says nothing of the size of B
            scale = scale.clamp(min=1.0)
        G = torch.minimum(scale / _safe((B * B).sum(-1)), torch.where(T > 0.0, 0.5 / _safe(T), torch.inf))
        self._G = G.unsqueeze(-1)
        self._C = 1.0 - self._G * self._T
        self._L1, info1 = torch.linalg.cholesky_ex(H + B.mT @ (self._G * B))
        self._W = torch.linalg.solve_triangular(self._L1, (self._C * B).mT, upper=False)
        Q = self._W.mT @ self._W
        Q.diagonal(dim1=-2, dim2=-1).add_((self._C * self._T).squeeze(-1))
        self._L2, info2 = torch.linalg.cholesky_ex(Q)
        failed = (info1 != 0) | (info2 != 0)
        if bool(failed.any()):
            # keep the batched solves finite; these instances are overwritten by the eigenvalue solver
            self._L1, self._L2 = (
                torch.where(failed[:, None, None], torch.eye(L.shape[-1], dtype=L.dtype, device=L.device), L)
                for L in (self._L1, self._L2)
            )
            self._W = torch.where(failed[:, None, None], 0.0, self._W)
        if regular:
            self._estimated = torch.ones_like(failed, dtype=H.dtype)
            self._refinable = torch.ones_like(failed)
        else:
            self._estimated, accurate = self._estimate()
            self._refinable = ~failed & accurate & (self._estimated < _SUSPICIOUS)
        self._hard = torch.nonzero(~self._refinable).squeeze(-1)

    @cached_property
    def _exact(self) -> AbstractFactor:
        """Of the instances `_hard`. It takes longer than the rest, and a point that is no solution never asks."""
        H, B, T = (
            self._H.expand(self._B.shape[0], -1, -1)[self._hard],
            self._B[self._hard],
            self._T[self._hard].squeeze(-1),
        )
        if self._n + T.shape[-1] <= EIGEN_LIMIT:
            return EigenFactor(H, B, T, best_units=self._best_units)
        return of_dense(H, B, T, best_units=self._best_units)

    @property
    def conditioning(self) -> Conditioning:
        return self._conditioning

    @cached_property
    def _conditioning(self) -> Conditioning:
        """Estimated, and decided by `_exact` for the instances `_hard`."""
        condition = self._estimated.clone()
        null_a, null_y = torch.zeros_like(condition), torch.zeros_like(condition)
        spread = condition.new_zeros((condition.shape[0], self._n))
        dependence = condition.new_zeros((condition.shape[0], self._B.shape[1]))
        scaled = torch.zeros_like(condition, dtype=torch.bool)
        if self._hard.numel():
            exact = self._exact.conditioning
            condition[self._hard], spread[self._hard] = exact.condition, exact.spread
            dependence[self._hard] = exact.dependence
            scaled[self._hard] = exact.scaled
            null_a[self._hard], null_y[self._hard] = exact.null_a, exact.null_y
        return Conditioning(condition, null_a, null_y, spread, dependence, scaled)

    def flat_directions(self, i: int, toward: Tensor) -> Tensor:
        place = torch.nonzero(self._hard == i).flatten().tolist()
        return self._exact.flat_directions(place[0], toward) if place else self._H.new_zeros(self._n, 0)

    def _multiply(self, x: Tensor) -> Tensor:
        """S x for x (B, n + k, c)."""
        a, y = x[..., : self._n, :], x[..., self._n :, :]
        return torch.cat([self._H @ a + self._B.mT @ y, self._B @ a - self._T * y], -2)

    def _once(self, r: Tensor, rows: Tensor | None = None) -> Tensor:
        """S^-1 r for r (B, n + k, c), or for the instances `rows` only, without refinement."""
        factors = (self._L1, self._L2, self._W, self._B, self._G, self._C)
        L1, L2, W, B, G, C = factors if rows is None else (t[rows] for t in factors)
        r1, r2 = r[..., : self._n, :], r[..., self._n :, :]
        t = torch.linalg.solve_triangular(L1, r1 + B.mT @ (G * r2), upper=False)
        y = torch.linalg.solve_triangular(L2, W.mT @ t - C * r2, upper=False)
        y = torch.linalg.solve_triangular(L2.mT, y, upper=True)
        a = torch.linalg.solve_triangular(L1.mT, t - W @ y, upper=True)
        return torch.cat([a, y], -2)

    def _estimate(self) -> tuple[Tensor, Tensor]:
        """Estimate |S| |S^-1| in the 2-norm from a fixed random probe and a power step; and can solves be refined?"""
        g = _probe(self._n + self._B.shape[1]).to(self._H.device).expand(self._B.shape[0], -1, -1)
        x = self._once(g)
        error = _norms(g - self._multiply(x)).squeeze(-1)
        inverse = _norms(self._once(x / _norms(x).unsqueeze(-2))).squeeze(-1)
        forward = self._multiply(g)
        norm = _norms(self._multiply(forward / _norms(forward).unsqueeze(-2))).squeeze(-1)
        return norm * inverse, error <= _REFINABLE

    def _is_delicate(self, x: Tensor) -> Tensor:
        """(B,) whether rounding takes more than six digits of a part of x (B, n + k, c)."""
        delicate: Tensor = self._refinable & (self._estimated > _DELICATE)
        if self._B.shape[1]:
            a, y = (part.abs().amax((-2, -1)) for part in (x[:, : self._n], x[:, self._n :]))
            amplified = self._estimated * torch.maximum(a, y)
            small = _DELICATE * torch.minimum(a, y) < amplified
            # at a vertex of the active rows a is zero but for rounding: nothing to gain
            delicate = delicate | (self._refinable & small & (y > 0.0) & (a > _NOISE * amplified))
        return delicate

    def _extended(self, x: Tensor, r: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The instances `rows` of x (B, n + k, c), refined with residuals in extended precision, and their last steps.

        The steps (., c) are relative: the distance from S^-1 r, where an ordinary residual is rounding of |S| |x|.
        """
        H = self._H.expand(x.shape[0], -1, -1)[rows]
        S = saddle(H, self._B[rows], self._T[rows].squeeze(-1))
        out, target = x[rows], r[rows]
        for _ in range(_REFINEMENTS):
            step = self._once(extended_residual(S, out, target), rows)
            out = out + step
            moved = _norms(step) / _safe(_norms(out))
            if bool((moved <= _ACCURATE).all()):
                break
        return out, moved

    def solve(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lead, size = r1.shape[:-1], r1.shape[-1] + r2.shape[-1]
        r = torch.cat([r1, r2], -1).reshape(-1, lead[-1], size).permute(1, 2, 0)
        x = self._once(r)
        norms = _safe(_norms(r))
        residual = r - self._multiply(x)
        accuracy = _norms(residual) / norms
        for _ in range(_REFINEMENTS):
            if bool((accuracy <= _ACCURATE).all()):
                break
            x_new = x + self._once(residual)
            residual_new = r - self._multiply(x_new)
            accuracy_new = _norms(residual_new) / norms
            better = (accuracy_new < accuracy).unsqueeze(-2)
            if not bool(better.any()):
                break
            x, residual = torch.where(better, x_new, x), torch.where(better, residual_new, residual)
            accuracy = torch.minimum(accuracy, accuracy_new)
        delicate = torch.nonzero(self._is_delicate(x)).squeeze(-1)
        if delicate.numel():
            sharp, moved = self._extended(x, r, delicate)
            x = x.index_copy(0, delicate, sharp)
            accuracy = accuracy.index_copy(0, delicate, torch.minimum(accuracy[delicate], moved))
        x = x.permute(2, 0, 1).reshape(*lead, size)
        a, y, accuracy = x[..., : self._n], x[..., self._n :], accuracy.mT.reshape(lead)
        if self._hard.numel():
            exact = self._exact.solve(r1[..., self._hard, :], r2[..., self._hard, :])
            a, y = (t.index_copy(-2, self._hard, part) for t, part in zip((a, y), exact[:2], strict=True))
            accuracy = accuracy.index_copy(-1, self._hard, exact[2])
        return a, y, accuracy

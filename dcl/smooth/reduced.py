"""Symmetric matrices on the null space of constraint rows, in batches: step, curvature, and the direction of the weakest.

    A = U diag(sigma) V',   N = the columns of V with sigma = 0         M = N'W N
    minimize 1/2 d'W d + g'd  subject to  A d = r:     d = A^+ r + N w,   M w = -N'(g + W A^+ r)

Ranks may differ within a batch: the columns that are not in N are masked, not removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.program import magnitude

# Singular values below this, relative to the largest, count as zero.
_RANK = 1e-11
# Eigenvalues of M are not taken to be smaller than this, relative to the largest.
SMALLEST = 1e-10


def _times(M: Tensor, x: Tensor) -> Tensor:
    return (M @ x.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True, eq=False)
class Reduced:
    """M for W (B, n, n) and A (B, m, n), rows of zeros included. V None: there are no rows, N = I."""

    W: Tensor
    M: Tensor
    V: Tensor | None
    free: Tensor
    inverse: Tensor | None
    U: Tensor | None

    @property
    def _masked(self) -> Tensor:
        """M with 1 on the diagonal of what is not in N."""
        return self.M + torch.diag_embed((~self.free).to(self.M.dtype))

    def particular(self, r: Tensor) -> Tensor:
        """A^+ r, (B, n)."""
        if self.V is None or self.U is None or self.inverse is None:
            return torch.zeros_like(self.W[..., 0])
        return _times(self.V[..., : self.inverse.shape[-1]], self.inverse * _times(self.U.mT, r))

    def multipliers(self, g: Tensor) -> Tensor:
        """y of least norm with A'y = -g as nearly as can be, (B, m)."""
        if self.V is None or self.U is None or self.inverse is None:
            return g.new_zeros(g.shape[0], 0)
        return -_times(self.U, self.inverse * _times(self.V[..., : self.inverse.shape[-1]].mT, g))

    def step(self, g: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """d of the header with M made positive definite where it is not, (B, n), and d'|W|d on N, (B,)."""
        d = self.particular(r)
        h = -(g + _times(self.W, d))
        if self.V is not None:
            h = torch.where(self.free, _times(self.V.mT, h), 0.0)
        w, info = self._cholesky(h)
        bad = torch.nonzero(info).squeeze(-1)
        if bad.numel():
            M = self._masked[bad]
            # rows of size one first: an entry of y in other units is not flat
            rows = M.abs().amax(-1)
            E = torch.where(rows > 0.0, rows, 1.0).rsqrt()
            values, Q = torch.linalg.eigh(E.unsqueeze(-1) * M * E.unsqueeze(-2))
            size = values.abs()
            size = size.clamp(min=1e-300).maximum(SMALLEST * size.amax(-1, keepdim=True))
            w = w.index_copy(0, bad, E * _times(Q, _times(Q.mT, E * h[bad]) / size))
        curvature = (h * w).sum(-1)
        return d + (w if self.V is None else _times(self.V, torch.where(self.free, w, 0.0))), curvature

    def _cholesky(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """M^-1 h, and where M has no trustworthy factor."""
        M = self._masked
        L, info = torch.linalg.cholesky_ex(M)
        pivots = L.diagonal(dim1=-2, dim2=-1)
        # eigenvalues decide where a pivot is rounding of the entry that it comes from
        tiny = (pivots**2 <= 1e2 * SMALLEST * M.diagonal(dim1=-2, dim2=-1)).any(-1)
        info = info + (tiny | ~torch.isfinite(pivots).all(-1)).to(info.dtype)
        L = torch.where((info != 0)[:, None, None], torch.eye(L.shape[-1], dtype=L.dtype, device=L.device), L)
        return torch.cholesky_solve(h.unsqueeze(-1), L).squeeze(-1), info

    def spectrum(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Smallest eigenvalue of M, smallest and largest size of one (B,), and the unit vector of the first (B, n).

        Where N is empty the eigenvalues are 1: nothing can be flat or curved the wrong way.
        """
        shift = 1.0 + 2.0 * magnitude(self.M.flatten(1)) * self.M.shape[-1]
        outside = torch.where(self.free, 0.0, shift.unsqueeze(-1))
        values, Q = torch.linalg.eigh(self.M + torch.diag_embed(outside))
        inside = torch.arange(values.shape[-1], device=values.device) < self.free.sum(-1, keepdim=True)
        size = values.abs()
        empty = ~inside.any(-1)
        smallest = torch.where(inside, size, torch.inf).amin(-1)
        largest = torch.where(inside, size, 0.0).amax(-1)
        u = Q[..., 0] if self.V is None else _times(self.V, torch.where(self.free, Q[..., 0], 0.0))
        first, smallest, largest = (torch.where(empty, 1.0, t) for t in (values[..., 0], smallest, largest))
        return first, smallest, largest, u

    def weakest(self) -> Tensor:
        """The unit vector of the eigenvalue of M of least size, (B, n)."""
        shift = 1.0 + 2.0 * magnitude(self.M.flatten(1)) * self.M.shape[-1]
        values, Q = torch.linalg.eigh(self.M + torch.diag_embed(torch.where(self.free, 0.0, shift.unsqueeze(-1))))
        u = Q.gather(-1, values.abs().argmin(-1).view(-1, 1, 1).expand(-1, Q.shape[1], 1)).squeeze(-1)
        return u if self.V is None else _times(self.V, torch.where(self.free, u, 0.0))


def reduce(W: Tensor, A: Tensor) -> Reduced:
    """M for W (B, n, n) and the rows A (B, m, n)."""
    n = W.shape[-1]
    everything = torch.ones(*W.shape[:1], n, dtype=torch.bool, device=W.device)
    if not A.shape[-2]:
        return Reduced(W, W, None, everything, None, None)
    U, sigma, Vh = torch.linalg.svd(A, full_matrices=True)
    k = sigma.shape[-1]
    fixed = sigma > _RANK * sigma.amax(-1, keepdim=True)
    free = everything.clone()
    free[..., :k] = ~fixed
    V = Vh.mT
    M = V.mT @ W @ V * free.unsqueeze(-1) * free.unsqueeze(-2)
    inverse = torch.where(fixed, 1.0 / torch.where(fixed, sigma, 1.0), 0.0)
    return Reduced(W, M, V, free, inverse, U[..., :k])

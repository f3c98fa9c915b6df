"""The last resort for dense S: all eigenvalues of the equilibrated matrix, so that the rank is computed and not guessed.

E S E = V diag(l) V',   E = diag(max_j |S_ij|)^(-1/2)        null(S) = E null(E S E) =: N
minimum-norm least squares:   x = P E V diag(1/l) V' E P r,  P = I - N (N'N)^-1 N'   the projector onto range(S)
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.kkt.base import RANK_TOLERANCE, AbstractFactor, Conditioning, saddle


def _cholesky(gram: Tensor) -> Tensor:
    """Of N'N, whose rank may be lost to rounding where the units of rows differ by 1e8 and more: then of N'N + rounding."""
    L: Tensor
    L, info = torch.linalg.cholesky_ex(gram)
    if not bool(info.any()):
        return L
    size = torch.diagonal(gram, dim1=-2, dim2=-1).rsqrt()
    shift = 16.0 * gram.shape[-1] * torch.finfo(gram.dtype).eps
    scaled = size.unsqueeze(-1) * gram * size.unsqueeze(-2)
    shifted = scaled + shift * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    other = torch.linalg.cholesky(shifted) / size.unsqueeze(-1)
    return torch.where((info != 0)[..., None, None], other, L)


class EigenFactor(AbstractFactor):
    """S for dense H (B, n, n), B (B, k, n), T (B, k); costs some ten times a Cholesky factorization."""

    def __init__(self, H: Tensor, B: Tensor, T: Tensor) -> None:
        n = H.shape[-1]
        self._n = n
        S = saddle(H, B, T)
        self._S = S
        size = S.abs().amax(-1)
        E = torch.where(size > 0.0, size, torch.ones_like(size)).rsqrt()
        values, V = torch.linalg.eigh(E.unsqueeze(-1) * S * E.unsqueeze(-2))
        largest = values.abs().amax(-1, keepdim=True)
        null = values.abs() <= RANK_TOLERANCE * torch.where(largest > 0.0, largest, torch.ones_like(largest))
        self._EV = E.unsqueeze(-1) * V
        self._inverse = torch.where(
            null, torch.zeros_like(values), 1.0 / torch.where(null, torch.ones_like(values), values)
        )
        N = self._EV * null.unsqueeze(-2)
        self._N, self._gram = N, _cholesky(N.mT @ N + torch.diag_embed((~null).to(N.dtype)))
        dimension = null.sum(-1).to(N.dtype)
        share = (V**2 * null.unsqueeze(-2)).sum(-1)
        spread, dependence = share[:, :n], share[:, n:]
        null_a = spread.sum(-1).round()
        # |S| |S^+| in the 2-norm of S itself: the `dimension` smallest eigenvalues belong to the null space
        raw = torch.linalg.eigvalsh(S).abs().sort(-1).values
        smallest = raw.gather(-1, dimension.long().clamp(max=raw.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        condition = raw[..., -1] / smallest.clamp(min=torch.finfo(raw.dtype).tiny)
        self._conditioning = Conditioning(condition, null_a, dimension - null_a, spread, dependence)

    @property
    def conditioning(self) -> Conditioning:
        return self._conditioning

    def flat_directions(self, i: int, toward: Tensor) -> Tensor:
        # the null space is a product: the first n rows of its basis have rank null_a
        basis = self._N[i, : self._n]
        U, _, _ = torch.linalg.svd(basis[:, basis.any(0)], full_matrices=False)
        flat: Tensor = U[:, : int(self.conditioning.null_a[i])]
        return flat

    def _project(self, r: Tensor) -> Tensor:
        coefficients = torch.cholesky_solve(self._N.mT @ r.unsqueeze(-1), self._gram)
        return torch.sub(r, (self._N @ coefficients).squeeze(-1))

    def _apply(self, r: Tensor) -> Tensor:
        """S^+ r."""
        t = self._EV.mT @ self._project(r).unsqueeze(-1)
        return self._project((self._EV @ (self._inverse.unsqueeze(-1) * t)).squeeze(-1))

    def solve(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r = self._project(torch.cat([r1, r2], -1))
        x = self._apply(r)
        for _ in range(2):
            x = x + self._apply(r - (self._S @ x.unsqueeze(-1)).squeeze(-1))
        error = self._project(r - (self._S @ x.unsqueeze(-1)).squeeze(-1)).norm(dim=-1)
        size = r.norm(dim=-1)
        residual = error / torch.where(size > 0.0, size, torch.ones_like(size))
        return x[..., : self._n], x[..., self._n :], residual

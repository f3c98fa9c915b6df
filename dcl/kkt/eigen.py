"""The last resort for dense S: all eigenvalues of the matrix in good units, so that the rank is computed and not guessed.

E S E = V diag(l) V'        null(S) = E null(E S E) =: N
minimum-norm least squares:   x = P E V diag(1/l) V' E P r,  P = I - N (N'N)^-1 N'   the projector onto range(S)

E makes the largest entry of each row one.  Where eigenvalues are then nearly zero, and S is data and nothing else (T is 0 or 1),
the units of `dcl.kkt.balance` decide whether that is because of S, or of units.  Solutions of a regular S have all their digits,
by residuals in extended precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.kkt.balance import balanced
from dcl.kkt.base import RANK_TOLERANCE, AbstractFactor, Conditioning, saddle
from dcl.kkt.extended import residual as extended_residual

# Relative eigenvalues below this may be those of bad units.
_DOUBTFUL = 1e-8
# Above this condition solutions of a regular S are refined in extended precision, until steps are this small.
_DELICATE, _ACCURATE = 1e6, 1e-15
_REFINEMENTS = 6


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
    """S for dense H (B, n, n), B (B, k, n), T (B, k); costs some ten times a Cholesky factorization.

    best_units: are the units of `dcl.kkt.balance` looked for?
    """

    def __init__(self, H: Tensor, B: Tensor, T: Tensor, *, best_units: bool = False) -> None:
        n = H.shape[-1]
        self._n = n
        S = saddle(H, B, T)
        self._S = S
        is_data = ((T == 0.0) | (T == 1.0)).all(-1) & best_units
        E, values, V, scaled = _units(S, is_data)
        size = values.abs()
        null = size <= RANK_TOLERANCE * size.amax(-1, keepdim=True)
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
        condition = _over(size.amax(-1), size.amin(-1))
        own = torch.nonzero(~scaled).squeeze(-1)
        if own.numel():
            # |S| |S^+| in the 2-norm of S itself: the `dimension` smallest eigenvalues belong to the null space
            raw = torch.linalg.eigvalsh(S[own]).abs().sort(-1).values
            first = dimension[own].long().clamp(max=raw.shape[-1] - 1).unsqueeze(-1)
            condition[own] = _over(raw[..., -1], raw.gather(-1, first).squeeze(-1))
        self._delicate = torch.nonzero((dimension == 0) & (scaled | (condition > _DELICATE))).squeeze(-1)
        self._conditioning = Conditioning(condition, null_a, dimension - null_a, spread, dependence, scaled)

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
        if self._delicate.numel():
            x, moved = self._sharpened(x, r)
            residual = residual.index_copy(-1, self._delicate, moved)
        return x[..., : self._n], x[..., self._n :], residual

    def _sharpened(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., B, N), that of the delicate instances refined with residuals in extended precision, and their last steps.

        A step relative to the solution says how far it is from S^-1 r; ordinary residuals are rounding of |S| |x| here.
        """
        rows, (lead, order) = self._delicate, (x.shape[:-2], x.shape[-1])
        at, right = (t[..., rows, :].reshape(-1, len(rows), order).permute(1, 2, 0) for t in (x, r))
        S, EV = self._S[rows], self._EV[rows]
        inverse = self._inverse[rows].unsqueeze(-1)
        last = torch.full_like(at[:, :1], torch.inf)
        for _ in range(_REFINEMENTS):
            step = EV @ (inverse * (EV.mT @ extended_residual(S, at, right)))
            size = step.norm(dim=1, keepdim=True)
            falls = size < 0.5 * last
            at, last = torch.where(falls, at + step, at), torch.where(falls, size, last)
            if not bool((falls & (size > _ACCURATE * at.norm(dim=1, keepdim=True))).any()):
                break
        length = at.norm(dim=1, keepdim=True)
        moved = (last / torch.where(length > 0.0, length, 1.0)).nan_to_num(nan=torch.inf)
        x = x.index_copy(-2, rows, at.permute(2, 0, 1).reshape(*lead, len(rows), order))
        return x, moved[:, 0].mT.reshape(*lead, len(rows))


def _over(largest: Tensor, smallest: Tensor) -> Tensor:
    return largest / smallest.clamp(min=torch.finfo(largest.dtype).tiny)


def _units(S: Tensor, is_data: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """E (B, N), eigenvalues (B, N) and vectors (B, N, N) of E S E, of the header; and which are in the best units, (B,)."""
    size = S.abs().amax(-1)
    E = torch.where(size > 0.0, size, torch.ones_like(size)).rsqrt()
    values, V = torch.linalg.eigh(E.unsqueeze(-1) * S * E.unsqueeze(-2))
    scaled = values.abs().amin(-1) <= _DOUBTFUL * values.abs().amax(-1)
    doubtful = torch.nonzero(scaled & is_data).squeeze(-1)
    scaled = torch.zeros_like(scaled)
    if doubtful.numel():
        other, new_values, new_V = balanced(S[doubtful], E[doubtful])
        # units in which S is still singular tell no more than those of the rows
        better = torch.nonzero(new_values.abs().amin(-1) > RANK_TOLERANCE * new_values.abs().amax(-1)).squeeze(-1)
        at = doubtful[better]
        E, values, V = (t.index_copy(0, at, part[better]) for t, part in ((E, other), (values, new_values), (V, new_V)))
        scaled[at] = True
    return E, values, V, scaled

"""Units of rows and columns in which a symmetric S is as well-conditioned as units can make it.

    minimize over E = diag(e^t)    log |E S E|_F^2 + log |E^-1 S^-1 E^-1|_F^2      convex in t: logarithms of sums of exponentials

At the minimum row i has the same share of |E S E|_F^2 and of |(E S E)^-1|_F^2; that is what is iterated.  No unit of a row, of a
column or of the objective changes E S E, so its condition belongs to the program.  Up to a factor of the order it is one over
the componentwise distance to a singular matrix (Rump 1999, Ill-conditioned matrices are componentwise near to singularity):
1e10 says that changes of 1e-10 of each entry make S singular, and zeros stay zeros.

For |A x - b|^2, in x, y = A x - b and a multiplier, S is [[0, 0, A'], [0, 2, -I], [A, -I, 0]].  With rows of size one its
condition is that of A'A, the square of A's; in the best unit of y it is that of A (Bjorck 1967).
"""

from __future__ import annotations

import torch
from torch import Tensor

# What is left of the eigenvalues beside the largest, at least.
_FLOOR = 1e-16
_ROUNDS, _STEPS = 6, 60
_RATE = 0.125  # of the logarithm of the two shares' ratio: a diagonal matrix is there in one step
# Shares this near to each other are equal, and a round that gains less than this is the last one.
_EVEN, _GAIN = 1.0, 2.0


def balanced(S: Tensor, E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E (B, N) of the header from a first one, and eigenvalues (B, N) and vectors (B, N, N) of E S E, for S (B, N, N).

    Where S is singular S^-1 is what rounding makes of it, which says along which entries; a row of zeros keeps its unit.
    """
    values, V = _spectrum(S, E)
    for _ in range(_ROUNDS):
        size = values.abs()
        inverse = V @ (
            (1.0 / size.clamp(min=_FLOOR * size.amax(-1, keepdim=True)) * values.sign()).unsqueeze(-1) * V.mT
        )
        better = E * _even(E.unsqueeze(-1) * S * E.unsqueeze(-2), inverse)
        new_values, new_V = _spectrum(S, better)
        gain = _smallest(new_values) / _smallest(values)
        improved = gain > 1.0
        E = torch.where(improved.unsqueeze(-1), better, E)
        values = torch.where(improved.unsqueeze(-1), new_values, values)
        V = torch.where(improved[:, None, None], new_V, V)
        if not bool((gain > _GAIN).any()):
            break
    return E, values, V


def _spectrum(S: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
    values, V = torch.linalg.eigh(E.unsqueeze(-1) * S * E.unsqueeze(-2))
    return values, V


def _smallest(values: Tensor) -> Tensor:
    """Relative to the largest, (B,)."""
    size = values.abs()
    return size.amin(-1).clamp(min=torch.finfo(size.dtype).tiny) / size.amax(-1).clamp(min=torch.finfo(size.dtype).tiny)


def _even(S: Tensor, inverse: Tensor) -> Tensor:
    """Factors (B, N), powers of two, that even out the shares of the rows."""
    squares, others = S.square(), inverse.square()
    none = squares.sum(-1) == 0.0
    t = torch.zeros_like(S[..., 0])
    for _ in range(_STEPS):
        f = torch.exp2(2.0 * t)
        mine = f * (squares @ f.unsqueeze(-1)).squeeze(-1)
        theirs = ((others @ (1.0 / f).unsqueeze(-1)).squeeze(-1) / f).masked_fill(none, 0.0)
        mine, theirs = mine / mine.sum(-1, keepdim=True), theirs / theirs.sum(-1, keepdim=True)
        step = torch.where(none, 0.0, torch.log2(theirs / mine).nan_to_num(0.0, 0.0, 0.0))
        t = t + _RATE * step
        if bool((step.abs() <= _EVEN).all()):
            break
    return torch.exp2(t.round())

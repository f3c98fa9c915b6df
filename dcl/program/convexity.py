"""If only rounding keeps P from being positive semidefinite: the convex program that is solved instead.

A covariance X'X / m of fewer samples than features, computed in float32, has eigenvalues of -1e-7 |P| where zero is meant,
and as many of +1e-7 |P|.  With the P given, the program is not convex: a point with Px + q + A'z = 0 may be a saddle, or
f may fall without end.  What is solved is

    P + E,      E = - sum l_k u_k u_k'  over the eigenvalues  l_k <= _SPREAD |l_min|,   l_min < 0 the smallest

so that everything as small as what is wrong in P counts as zero.  P that float64 cannot tell from a semidefinite matrix is
left alone.  Whether the answer is one for the P given, too, is for `dcl.solve.nearly_convex` to say.  E is a constant:
the derivative in P is that in P + E.
"""

from __future__ import annotations

import torch
from torch import Tensor

# How far below zero an eigenvalue of P may be, relative to the largest, before P counts as not PSD; never less than
# 8 n times the rounding of the caller's dtype, which a covariance computed in float32 misses by.
PSD_TOLERANCE = 1e-9
# Eigenvalues above -_ROUNDING n times the largest diagonal entry are zero up to the rounding of float64.
_ROUNDING = 10.0 * torch.finfo(torch.float64).eps
# Noise has eigenvalues of both signs, of much the same size.
_SPREAD = 3.0


def excess(P: Tensor) -> Tensor | None:
    """E of the header, (B or 1, n, n), for symmetric P (B or 1, n, n); zero where P is semidefinite, None if all are."""
    if not P.numel():
        return None
    size = P.diagonal(dim1=-2, dim2=-1).abs().amax(-1, keepdim=True)
    shift = (_ROUNDING * P.shape[-1]) * size + torch.finfo(P.dtype).tiny
    _, info = torch.linalg.cholesky_ex(P + torch.diag_embed(shift.expand(P.shape[:-1])))
    doubtful = (info != 0) & torch.isfinite(P).flatten(1).all(-1)
    if not bool(doubtful.any()):
        return None
    values, vectors = torch.linalg.eigh(P[doubtful])
    removed = torch.where(values <= -_SPREAD * values[:, :1], values, 0.0)
    E = torch.zeros_like(P)
    E[doubtful] = -(vectors * removed.unsqueeze(-2)) @ vectors.mT
    return 0.5 * E + 0.5 * E.mT

"""Minimal residuals for a nearly singular matrix with an approximate inverse: a few vectors that this misses are found.

    minimize |r - S F V t| over t,   V an orthonormal basis of span(r, (S F) r, (S F)^2 r, ...)       x = F V t       (GMRES)

S F is the identity but on the vectors that S nearly annuls, so its Krylov spaces are small.  Singular values of the small
least-squares problem that belong to a relative singular value of S below the rank tolerance count as zero: what is left of r
is then the part outside of the range of S, since S F has the null space of its transpose (Brown and Walker 1997).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Operator = Callable[[Array], Array]
_LENGTH, _RESTARTS = 24, 6
_SMALLEST = 1e-4  # RANK_TOLERANCE over the shift with which F was made
_ROUNDING = 1e-15
_SLOW = 0.5


def minimal_residual(F: Operator, S: Operator, r: Array) -> tuple[Array, Array]:
    """x and r - S x for r (N,)."""
    x, rest = np.zeros_like(r), r
    scale = size = float(np.linalg.norm(r))
    for _ in range(_RESTARTS):
        if size <= _ROUNDING * (scale + float(np.linalg.norm(x))):
            break
        x_new = x + _cycle(F, S, rest)
        rest_new = r - S(x_new)
        size_new = float(np.linalg.norm(rest_new))
        if not size_new < size:
            break
        slow = size_new > _SLOW * size
        x, rest, size = x_new, rest_new, size_new
        if slow:
            break
    return x, rest


def _cycle(F: Operator, S: Operator, r: Array) -> Array:
    """One Krylov space: the x in it with the least residual."""
    length = min(_LENGTH, len(r))
    size = float(np.linalg.norm(r))
    V, Z = np.zeros((length + 1, len(r))), np.zeros((length, len(r)))
    H: Array = np.zeros((length + 1, length))
    V[0] = r / size
    used = 0
    for j in range(length):
        Z[j] = F(V[j])
        w = S(Z[j])
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            t = V[: j + 1] @ w
            w -= t @ V[: j + 1]
            H[: j + 1, j] += t
        H[j + 1, j] = np.linalg.norm(w)
        used = j + 1
        if H[j + 1, j] <= 1e-14:
            break
        V[j + 1] = w / H[j + 1, j]
    right = np.zeros(used + 1)
    right[0] = size
    weights = np.linalg.lstsq(H[: used + 1, :used], right, rcond=_SMALLEST)[0]
    return np.asarray(weights @ Z[:used])

"""r - M x to about twice the working precision, from exact float64 products (Ozaki, Ogita, Oishi, Rump 2012).

M and x are cut into slices of so few bits that the products of slices, and their sums over a row, are exact:

    M = M_1 + M_2 + M_3,   x = x_1 + x_2 + x_3,      r - M x = r - M_1 x_1 - (M_1 x_2 + M_2 x_1) - ...

added from the largest with the rounding errors carried along.  With such residuals, iterative refinement gives every
digit of the solution as long as the condition is below 1e15; with ordinary ones it loses as many as the condition has.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SLICES = 3


def _cut(t: Tensor, dim: int, length: int) -> list[Tensor]:
    """Slices of t along whose dimension `dim` sums of products of slices are exact, for `length` terms."""
    bits = math.ceil((53 + math.log2(max(length, 2))) / 2)
    slices = []
    for _ in range(_SLICES - 1):
        size = t.abs().amax(dim, keepdim=True)
        anchor = torch.exp2(torch.ceil(torch.log2(torch.where(size > 0.0, size, 1.0))) + bits)
        head = (t + anchor) - anchor
        slices.append(head)
        t = t - head
    return [*slices, t]


def residual(M: Tensor, x: Tensor, r: Tensor) -> Tensor:
    """r - M x for M (B, N, k), x (B, k, c), r (B, N, c), rounded once at the end."""
    length = M.shape[-1]
    Ms, xs = _cut(M, -1, length), _cut(x, -2, length)
    high, low = r, torch.zeros_like(r)
    for order in range(_SLICES + 1):  # what is left out, M_3 x_3, is below 2^-88
        for i in range(max(0, order - _SLICES + 1), min(order, _SLICES - 1) + 1):
            term = -(Ms[i] @ xs[order - i])
            total = high + term
            back = total - high
            low = low + ((high - (total - back)) + (term - back))
            high = total
    return high + low

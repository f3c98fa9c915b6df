"""The function g of the eigenvalues that projects onto a symmetric cone, and its divided differences.

A point of R^size (`second_order`) or a symmetric matrix (`semidefinite`) is v = sum_i l_i c_i with eigenvalues l_i and
orthogonal idempotents c_i, and s^-1 = sum_i c_i / l_i(s).  On the central path z = -mu grad phi(s) = mu' s^-1, z - s = v:

    z = sum_i g(l_i) c_i,      g(l) = (l + r) / 2,      r = sqrt(l^2 + h),      h = 4 mu'            g (g - l) = h / 4

    phi = -log det s               grad phi = -s^-1                                     mu' = mu      h = 4 mu
    phi = -log(t^2 - |u|^2)        grad phi = -2 (t, -u) / (t^2 - |u|^2) = -2 s^-1      mu' = 2 mu    h = 8 mu

In mu the slope is dg/dmu = (h / mu) / (4 r).
h = 0.0 (a float) gives g(l) = max(l, 0).  Divided differences, with every term >= 0, so that nothing cancels:

    g[i, j]    = (g_i + g_j) / (r_i + r_j)                                     g[i, i] = g'
    g[i, j, k] = (h + w_ij + w_jk + w_ik) / (2 (r_i + r_j) (r_j + r_k) (r_i + r_k)),      w_ij = r_i r_j - l_i l_j

Proof of the last: bring r[i, j] = (l_i + l_j) / (r_i + r_j) and r[j, k] on one denominator and divide by l_i - l_k, with
l_i r_k - l_k r_i = (l_i - l_k) (h + w_ik) / (r_i + r_k).
At h = 0 an eigenvalue that is zero up to rounding is a kink: there g' = 1/2, the limit as mu -> 0 (`settled`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.cones.base import TIE_ROUNDING, TIE_TOLERANCE, Barrier, is_exact


def lifted(mu: Barrier, factor: float, dims: int) -> Barrier:
    """h = factor * mu, with `dims` more dimensions behind those of mu."""
    return factor * (mu.reshape(*mu.shape, *[1] * dims) if isinstance(mu, Tensor) else mu)


def is_smooth(h: Barrier) -> bool:
    """Is h > 0?"""
    return not is_exact(h)


def root(values: Tensor, h: Barrier) -> Tensor:
    """r = sqrt(l^2 + h)."""
    return torch.sqrt(values * values + h) if is_smooth(h) else values.abs()


def image(values: Tensor, h: Barrier) -> Tensor:
    """g(l)."""
    if not is_smooth(h):
        return values.clamp(min=0.0)
    r = root(values, h)
    # for l < 0 the sum l + r cancels: use r^2 - l^2 = h there
    return torch.where(values > 0.0, 0.5 * (values + r), 0.5 * h / (r + values.abs()))


def slope(left: Tensor, right: Tensor, h: Barrier) -> Tensor:
    """g[i, j] for l_i = left, l_j = right, in [0, 1]; 1/2 where h = 0 and both are zero."""
    total = root(left, h) + root(right, h)
    kink = total == 0.0
    return torch.where(kink, 0.5, (image(left, h) + image(right, h)) / torch.where(kink, 1.0, total))


def product_gap(left: Tensor, right: Tensor, h: Barrier) -> Tensor:
    """w_ij = r_i r_j - l_i l_j >= 0."""
    lengths, product = root(left, h) * root(right, h), left * right
    # where the product is positive the difference cancels: use r_i^2 r_j^2 - l_i^2 l_j^2 = h (l_i^2 + l_j^2 + h)
    same_sign = product > 0.0
    quotient = h * (left * left + right * right + h) / torch.where(same_sign, lengths + product, 1.0)
    return torch.where(same_sign, quotient, lengths - product)


def settled(values: Tensor, kink: Tensor | None = None) -> Tensor:
    """Eigenvalues (..., k) of blocks, exactly 0 where zero up to rounding, and where `kink` says so."""
    zero = values.abs() <= (TIE_ROUNDING * values.abs().amax(-1, keepdim=True)).clamp(min=TIE_TOLERANCE)
    return torch.where(zero if kink is None else zero | kink, 0.0, values)

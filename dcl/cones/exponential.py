"""The exponential cone, and its barrier of degree 3.

    K  = closure {(x, y, z) : y exp(x/y) <= z, y > 0}                  the order of Clarabel, SCS and CVXPY
    K* = closure {(u, v, w) : -u exp(v/u) <= e w, u < 0}
    phi(x, y, z) = -log(y log(z/y) - x) - log y - log z                Nesterov 2006, Chares 2009 (thesis, Louvain)

Projection of p = -v onto K (H. A. Friberg 2023, "Projection onto the exponential cone: a univariate root-finding problem"):
p in K: s = p.   p in the polar -K*: s = 0.   x <= 0, y <= 0: s = (x, 0, max(z, 0)).   Otherwise p = S a - Z b with the rays

    a = (r, 1, e^r)      b = (-e^r, (r - 1) e^r, 1)        (of any length)       ta = |b| / |a|^2,   tb = e^r |a| / |b|^2

The first two rows give the lengths L of s and N of z as functions of r, both positive on an interval; the third gives r:

    L = ((r - 1) x + y) / (r^2 - r + 1)      N e^r = (x - r y) / (r^2 - r + 1)      h(r) = L e^r - N - z, increasing
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.cones.base import Block
from dcl.cones.three import AbstractThree, Foot, Forms, Nearest, Rays, along_rays, landed, root

# Solution of -phi'(e) = e.
_CENTER = (-1.0513828793570063, 0.5564085700309546, 1.2589666996209303)
_FAR = 800.0


@dataclass(frozen=True)
class Exponential(AbstractThree):
    """`count` exponential cones, one after the other."""

    count: int = 1

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Three rows for each."""
        return 3 * self.count

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("exponential", 3, self.count),)

    def foot(self, v: Tensor) -> Foot:
        p = -v
        return landed(p, _rays(_find(p)), _primal_gap(p), _dual_gap(v))

    def dual_part(self, v: Tensor, foot: Foot) -> Tensor:
        flat = torch.stack([torch.zeros_like(v[..., 0]), v[..., 1], v[..., 2].clamp(min=0.0)], -1)
        return torch.where(_on_face(v, foot).unsqueeze(-1), flat, foot.z(v))

    def nearest(self, v: Tensor, foot: Foot, tied: Tensor | None = None) -> Nearest:
        p = -v
        x, y, z = p.unbind(-1)
        face = _on_face(v, foot)
        smooth = along_rays(p, foot)
        # the flat faces: coordinates along which nothing (0) or everything (1) is cut off; those at zero are the kink
        flat = torch.stack([x > 0.0, y <= 0.0, z < 0.0], -1).to(v.dtype)
        distance = _to_planes(p)
        zero = p.abs() <= distance.unsqueeze(-1)
        on_face = on_flat = face.unsqueeze(-1)
        if tied is not None:
            nearer = tied & (distance <= self.kink(v, foot)) & (x <= distance) & (y <= distance)
            on_flat = (face | nearer).unsqueeze(-1)
        eye = torch.eye(3, dtype=v.dtype, device=v.device).expand(*v.shape, 3)
        flat_s = torch.stack([x, torch.zeros_like(x), z.clamp(min=0.0)], -1)
        return Nearest(
            s=torch.where(on_face, flat_s, smooth.s),
            z=self.dual_part(v, foot),
            Q=torch.where(on_flat.unsqueeze(-1), eye, smooth.Q),
            d=torch.where(on_flat, flat, smooth.d),
            low=torch.where(on_flat, torch.where(zero, 0.0, flat), smooth.low),
            high=torch.where(on_flat, torch.where(zero, 1.0, flat), smooth.high),
            bend=torch.where(face, 0.0, smooth.bend),
            twist=torch.where(face, 0.0, smooth.twist),
            e=smooth.e,
        )

    def forms(self, s: Tensor) -> Forms:
        return _forms(s, _psi(s))

    def forms_on_path(self, s: Tensor, v: Tensor, mu: Tensor) -> Forms:
        psi, multiplier = _psi(s), -(s[..., 0] + v[..., 0])  # psi * multiplier = mu
        return _forms(s, torch.where(multiplier > psi, mu.squeeze(-1) / multiplier, psi))

    def center(self, v: Tensor) -> Tensor:
        return v.new_tensor(_CENTER)

    def kink(self, v: Tensor, foot: Foot) -> Tensor:
        x, y, _ = (-v).unbind(-1)
        faces = torch.minimum(torch.minimum(foot.S, foot.Z), torch.hypot(x.clamp(min=0.0), y.clamp(min=0.0)))
        out = torch.where((x <= 0.0) & (y <= 0.0), _to_planes(v), faces)
        out = torch.where(foot.polar, torch.minimum(foot.dual, x.abs()), out)
        return torch.where(foot.inside, torch.minimum(foot.primal, y.abs()), out)


def _on_face(v: Tensor, foot: Foot) -> Tensor:
    """Is -v projected onto a flat face, y = 0 or x = 0? (B, k)."""
    return (v[..., 0] >= 0.0) & (v[..., 1] >= 0.0) & ~foot.inside & ~foot.polar


def _to_planes(p: Tensor) -> Tensor:
    """Distance of p from the planes between the flat faces and their neighbors, (B, k)."""
    return p.abs().amin(-1)


def _primal_gap(p: Tensor) -> Tensor:
    """Distance of p in K from the curved boundary, to first order; negative outside of K: (B, k)."""
    x, y, z = p.unbind(-1)
    usable = (y > 0.0) & (z > 0.0)
    y, z = torch.where(usable, y, 1.0), torch.where(usable, z, 1.0)
    log = torch.log(z) - torch.log(y)
    size = torch.sqrt(1.0 + (log - 1.0) ** 2 + (y / z) ** 2)
    return torch.where(usable, (y * log - x) / size, -torch.inf)


def _dual_gap(v: Tensor) -> Tensor:
    """The same for K*: v + m + m log(w/m) >= 0 with m = -u > 0, or u = 0 <= v, w."""
    u, y, w = v.unbind(-1)
    usable = (u < 0.0) & (w > 0.0)
    m, w1 = torch.where(usable, -u, 1.0), torch.where(usable, w, 1.0)
    log = torch.log(w1) - torch.log(m)
    gap = (y + m + m * log) / torch.sqrt(log**2 + 1.0 + (m / w1) ** 2)
    edge = torch.where((u == 0.0) & (y >= 0.0) & (w >= 0.0), 0.0, -torch.inf)
    return torch.where(usable, gap, edge)


def _find(p: Tensor) -> Tensor:
    """The root r of h for p (B, k, 3); the nearer end of its interval where there is none."""
    x, y, z = (p / p.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)).unbind(-1)
    flat = (x <= 0.0) & (y <= 0.0)  # no interval, and not asked for
    x, y = torch.where(flat, 1.0, x), torch.where(flat, 1.0, y)
    lo = torch.where(x > 0.0, 1.0 - y / x, -torch.inf)
    hi = torch.where(y > 0.0, x / y, torch.inf)

    def f(r: Tensor) -> tuple[Tensor, Tensor]:
        q, dq = r * r - r + 1.0, 2.0 * r - 1.0
        L, N = ((r - 1.0) * x + y) / q, (x - r * y) / q
        dL, dN = (x - L * dq) / q, (-y - N * dq) / q
        # h times e^-|r|
        up, down, z_ = torch.exp(r - r.abs()), torch.exp(-r - r.abs()), z * torch.exp(-r.abs())
        h, dh = L * up - N * down - z_, (L + dL) * up + (N - dN) * down
        return h, -h / dh

    # e^-_FAR vanishes beside everything else, so that h changes sign this close to the ends or to zero
    low, high = torch.maximum(lo, hi.clamp(max=0.0) - _FAR), torch.minimum(hi, lo.clamp(min=0.0) + _FAR)
    inward = (0.5 * (high - low)).clamp(max=1.0)
    return root(f, low, high, torch.minimum((low + inward).clamp(min=0.0), high - inward))


def _rays(r: Tensor) -> Rays:
    """The rays at r (B, k); for r > 0 both are divided by e^r."""
    positive = r > 0.0
    up, down = torch.exp(-r.clamp(min=0.0)), torch.exp(r.clamp(max=0.0))
    one = torch.ones_like(r)
    a = torch.stack([r * up, up, down], -1)
    b = torch.stack([-down, (r - 1.0) * down, up], -1)
    aa, bb = (a * a).sum(-1), (b * b).sum(-1)
    slope = 1.0 + 3.0 * (r * up * up + down * down) / aa - 3.0 * down * down * (r * r - r + 1.0) / bb
    ta = torch.where(positive, up, one) * bb.sqrt() / aa
    tb = torch.where(positive, one, down) * aa.sqrt() / bb
    return Rays(a, b, ta, tb, slope, one)


def _psi(s: Tensor) -> Tensor:
    """y log(z/y) - x, at least what rounding leaves of it."""
    x, y, z = s.unbind(-1)
    curve = y * (torch.log(z) - torch.log(y))
    return torch.maximum(curve - x, torch.finfo(s.dtype).eps * (curve.abs() + x.abs()))


def _forms(s: Tensor, psi: Tensor) -> Forms:
    _, y, z = s.unbind(-1)
    zero, one = torch.zeros_like(y), torch.ones_like(y)
    A = torch.stack([-one, torch.log(z) - torch.log(y) - 1.0, y / z], -1) / psi.unsqueeze(-1)
    B = torch.stack([zero, one, -y / z], -1) / torch.sqrt(psi * y).unsqueeze(-1)
    X = torch.stack([torch.stack([zero, 1.0 / y, zero], -1), torch.stack([zero, zero, 1.0 / z], -1)], -2)
    c, nu = s.new_ones(2), s.new_tensor([1.0 / 3.0, 2.0 / 3.0])
    return Forms(A.unsqueeze(-2), B, X, one.unsqueeze(-1), c, nu)

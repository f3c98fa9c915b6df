"""The power cones of R^3, and their barriers of degree 3; exponents 0 < a < 1, b = 1 - a.

    K  = {(x, y, z) : x^a y^b >= |z|, x, y >= 0}                       the order of Clarabel, SCS and CVXPY (PowCone3D)
    K* = {(x, y, z) : (x/a)^a (y/b)^b >= |z|, x, y >= 0}
    phi(x, y, z) = -log(x^2a y^2b - z^2) - b log x - a log y           Chares 2009 (thesis, Louvain), Nesterov 2006

Projection of p = -v onto K (L. T. K. Hien 2015, "Differential properties of Euclidean projection onto power cone"):
p in K: s = p.   p in the polar -K*: s = 0.   Otherwise s_z = l, z_z = -k with l + k = |z| (and the sign of z),

    s_x (s_x - x) = a l k       s_y (s_y - y) = b l k       a log s_x + b log s_y = log l

one equation in w = log l/k, which has one root.  The rays, with t = log s_x/s_y, are

    (e^bt, e^-at, 1)   and   (a e^-bt, b e^at, -1)       ta = e^(b-a)t |b| / |a|^2,    tb = ab e^(a-b)t |a| / |b|^2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dcl.cones.base import Block
from dcl.cones.three import AbstractThree, Foot, Forms, Nearest, Rays, along_rays, landed, root

# w is found in [-_WIDEST, _WIDEST], far beyond the range of e^w: its logarithms are what is used.
_WIDEST = 1e5
# e^650 is the largest power of e used to bring ta and tb to size one.
_LARGEST = 650.0


@dataclass(frozen=True)
class Power(AbstractThree):
    """Power cones with the exponents `alphas`, one after the other."""

    alphas: tuple[float, ...]

    def __post_init__(self) -> None:
        wrong = [a for a in self.alphas if not 0.0 < a < 1.0]
        if wrong:
            raise ValueError(f"exponents of power cones lie strictly between 0 and 1, got {wrong}")

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Three rows for each."""
        return 3 * len(self.alphas)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("power", 3, len(self.alphas), self.alphas),)

    def foot(self, v: Tensor) -> Foot:
        p, a = -v, v.new_tensor(self.alphas)
        mirror = _mirror(p)
        rays = _rays(_find(p * mirror, a), a)
        turn = -rays.turn * mirror[..., 2]
        mirrored = Rays(rays.a * mirror, rays.b * mirror, rays.ta, rays.tb, rays.slope, turn)
        return landed(p, mirrored, _gap(p, a, dual=False), _gap(v, a, dual=True))

    def dual_part(self, v: Tensor, foot: Foot) -> Tensor:
        return foot.z(v)

    def nearest(self, v: Tensor, foot: Foot, tied: Tensor | None = None) -> Nearest:
        return along_rays(-v, foot)

    def forms(self, s: Tensor) -> Forms:
        a = s.new_tensor(self.alphas)
        return _forms(s, a, _relative_gap(s, a))

    def forms_on_path(self, s: Tensor, v: Tensor, mu: Tensor) -> Forms:
        a = s.new_tensor(self.alphas)
        gap = _relative_gap(s, a)
        # mu / gap = mu + |s_z z_z| / 2
        large = mu.squeeze(-1) + 0.5 * (s[..., 2] * (s[..., 2] + v[..., 2])).abs()
        exact = (s[..., 2] * v[..., 2]).abs() * gap < large
        return _forms(s, a, torch.where(exact, mu.squeeze(-1) / large, gap))

    def center(self, v: Tensor) -> Tensor:
        a = v.new_tensor(self.alphas)
        return torch.stack([torch.sqrt(1.0 + a), torch.sqrt(2.0 - a), torch.zeros_like(a)], -1)

    def kink(self, v: Tensor, foot: Foot) -> Tensor:
        out = torch.minimum(foot.Z, foot.S)
        return torch.where(foot.inside, foot.primal, torch.where(foot.polar, foot.dual, out))


def _mirror(p: Tensor) -> Tensor:
    """(1, 1, sign of z)."""
    one = torch.ones_like(p[..., 0])
    return torch.stack([one, one, torch.where(p[..., 2] < 0.0, -one, one)], -1)


def _mean(s: Tensor, a: Tensor) -> Tensor:
    """x^a y^b, (B, k)."""
    return torch.exp(a * torch.log(s[..., 0]) + (1.0 - a) * torch.log(s[..., 1]))


def _relative_gap(s: Tensor, a: Tensor) -> Tensor:
    """1 - z^2 / (x^2a y^2b), at least what rounding leaves of it: (B, k)."""
    ratio = s[..., 2].abs() / _mean(s, a)
    return torch.clamp((1.0 - ratio) * (1.0 + ratio), min=torch.finfo(s.dtype).eps)


def _gap(p: Tensor, a: Tensor, *, dual: bool) -> Tensor:
    """Distance of p in K (K* if dual) from its boundary, to first order; negative outside: (B, k)."""
    x, y, z = p.unbind(-1)
    mx, my = (a, 1.0 - a) if dual else (torch.ones_like(a), torch.ones_like(a))
    positive = (x > 0.0) & (y > 0.0)
    x1, y1 = torch.where(positive, x, 1.0), torch.where(positive, y, 1.0)
    u = torch.exp(a * torch.log(x1 / mx) + (1.0 - a) * torch.log(y1 / my))
    size = torch.sqrt((a * u / x1) ** 2 + ((1.0 - a) * u / y1) ** 2 + 1.0)
    gap = (u - z.abs()) / size
    edge = torch.where((x >= 0.0) & (y >= 0.0) & (z == 0.0), 0.0, -torch.inf)
    return torch.where(positive, torch.where(gap >= 0.0, torch.minimum(gap, torch.minimum(x, y)), gap), edge)


def _find(p: Tensor, a: Tensor) -> Tensor:
    """The t of the rays for p (B, k, 3) with z >= 0."""
    tiny = torch.finfo(p.dtype).tiny
    p = p / p.abs().amax(-1, keepdim=True).clamp(min=tiny)
    xy, log_z = p[..., :2].movedim(-1, 0), torch.log(p[..., 2].clamp(min=tiny))
    share = torch.stack([a, 1.0 - a]).reshape(2, *[1] * (xy.ndim - 1 - a.ndim), *a.shape).expand_as(xy)
    n = 0.5 * (1.0 - torch.sign(xy))
    total = (share * n).sum(0)
    both = n.sum(0) == 2.0

    def parts(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_lk = 2.0 * log_z + logsigmoid(w) + logsigmoid(-w)
        wider = (2, *[1] * (w.ndim - log_z.ndim), *log_z.shape)
        return log_lk, *_positive_root(xy.reshape(wider), share.reshape(wider), log_lk)

    def f(w: Tensor) -> tuple[Tensor, Tensor]:
        log_lk, rest, change = parts(w)
        wider = (2, *[1] * (w.ndim - log_z.ndim), *log_z.shape)
        # log l - a log s_x - b log s_y; where both are m / |.| the large log l cancels
        log = torch.where(both, -log_z - logsigmoid(-w), log_z + logsigmoid(w) - total * log_lk)
        value = log - (share.reshape(wider) * rest).sum(0)
        slope = torch.sigmoid(-w) + (share.reshape(wider) * change).sum(0) * torch.tanh(0.5 * w)
        return value, -value / slope

    w = root(f, torch.full_like(log_z, -_WIDEST), torch.full_like(log_z, _WIDEST), torch.zeros_like(log_z))
    log_lk, rest, _ = parts(w)
    return rest[0] - rest[1] + (n[0] - n[1]) * log_lk


def _positive_root(x: Tensor, share: Tensor, log_lk: Tensor) -> tuple[Tensor, Tensor]:
    """The positive root s of s (s - x) = m = share lk, where m may be too small for a number.

    rest with log s = rest + n log lk, n = 0, 1/2, 1 for x > 0, x = 0, x < 0; and d log s / d log m.
    """
    zero, log_share = x == 0.0, torch.log(share)
    size = torch.where(zero, 1.0, torch.hypot(x, 2.0 * torch.exp(0.5 * (log_share + log_lk))))
    log_big = torch.log(0.5 * (x.abs() + size))
    change = torch.where(zero, 0.5, 0.5 * (size + x.abs()) / size)
    rest = torch.where(x > 0.0, log_big, torch.where(zero, 0.5 * log_share, log_share - log_big))
    return rest, torch.where(x > 0.0, 1.0 - change, change)


def _rays(t: Tensor, a: Tensor) -> Rays:
    """The rays at t (B, k), each divided by its largest exponential; ta, tb and the slope by a common factor."""
    b = 1.0 - a
    A, B = torch.maximum(b * t, -a * t), torch.maximum(a * t, -b * t)
    r = torch.stack([torch.exp(b * t - A), torch.exp(-a * t - A), torch.exp(-A)], -1)
    n = torch.stack([a * torch.exp(-b * t - B), b * torch.exp(a * t - B), -torch.exp(-B)], -1)
    rr, nn = (r * r).sum(-1), (n * n).sum(-1)
    turning = (b * r[..., 0] ** 2 - a * r[..., 1] ** 2) / rr, (a * n[..., 1] ** 2 - b * n[..., 0] ** 2) / nn
    least = torch.minimum(A, B)
    ta, tb = torch.exp(least - A) * nn.sqrt() / rr, a * b * torch.exp(least - B) * rr.sqrt() / nn
    slope = (2.0 * (a - b) + 3.0 * turning[0] - 3.0 * turning[1]) * torch.exp(least.clamp(max=_LARGEST))
    return Rays(r, n, ta, tb, slope, torch.ones_like(t))


def _forms(s: Tensor, a: Tensor, gap: Tensor) -> Forms:
    """gap: 1 - z^2 / (x^2a y^2b)."""
    x, y, z = s.unbind(-1)
    b, u = 1.0 - a, _mean(s, a)
    ratio, sign, zero = z.abs() / u, torch.where(z < 0.0, -1.0, 1.0), torch.zeros_like(x)
    near = torch.stack([a / x, b / y, -sign / u], -1) * ((1.0 + ratio) / gap).unsqueeze(-1)
    far = torch.stack([a / x, b / y, sign / u], -1) / (1.0 + ratio).unsqueeze(-1)
    B = torch.stack([1.0 / x, -1.0 / y, zero], -1) * torch.sqrt(2.0 * a * b / gap).unsqueeze(-1)
    X = torch.stack([torch.stack([1.0 / x, zero, zero], -1), torch.stack([zero, 1.0 / y, zero], -1)], -2)
    th = torch.stack([0.5 * (1.0 + ratio), 0.5 * gap / (1.0 + ratio)], -1)
    c, nu = torch.stack([b, a], -1), torch.stack([(1.0 + b) / 3.0, (1.0 + a) / 3.0], -1)
    return Forms(torch.stack([near, far], -2), B, X, th, c, nu)

"""The second-order cone {(t, u) : |u| <= t}, self-dual, with the barrier -log(t^2 - |u|^2) of degree 2.

With rho = |u| and e = u / rho, v = (t, u) has the eigenvalues l_1, l_2 = t +- rho, and (`dcl.cones.spectral`, h = 8 mu)

    z = ( (g_1 + g_2) / 2,  g[1, 2] u )
    D = Q diag(g'_1, g'_2, g[1, 2], ..., g[1, 2]) Q',      columns of Q:  (1, +-e) / sqrt(2),  (0, n) with n'e = 0

    dz/dmu = ( (k_1 + k_2) / 2,  k[1, 2] u ),     k_i = 2 / r_i,   k[1, 2] = -2 (l_1 + l_2) / (r_1 r_2 (r_1 + r_2))

Q is a Householder reflection that takes e to the first axis, and a rotation by 45 degrees: O(size).

Curvature: z is the gradient of a function of t and q = |u|^2 / 2, smooth in both.  With subscripts for its derivatives,
a = (a_0, A), w = (w_0, W), the gradient in v of <a, D w> is

    c_0 = f_ttt a_0 w_0 + f_ttq (a_0 u'W + w_0 u'A) + f_tq A'W + f_tqq u'A u'W
    c   = f_ttq a_0 w_0 u + f_tq (a_0 W + w_0 A) + f_tqq (a_0 u'W + w_0 u'A) u
          + f_qq (u'A W + u'W A + A'W u) + f_qqq u'A u'W u

In N = r_1 r_2, M = r_1 + r_2 (M^2 = r_1^2 + r_2^2 + 2 N), p = l_1 l_2 = t^2 - 2 q, kappa = (h + N - p) / N:

    f_t  = t / 2 + M / 4,  f_q = 1/2 + t / M       f_tq  = kappa / (2 M)           f_qq  = -2 t kappa / M^3
    f_ttt = h M (M^2 - 3 N) / (4 N^3)              f_ttq = -h t (M^2 - N) / (M N^3)
    f_tqq = kappa / M (E - kappa / M^2)            f_qqq = -4 t kappa / M^3 (E - 3 kappa / M^2),   E = (N + p - h) / N^2

(N N_t = 2 t (p + h),  N N_q = 2 (h - p),  M M_q = 2 + N_q = 2 kappa.)  No direction e enters, so that autograd may
differentiate further, at u = 0 too.  At mu = 0: kappa = 2, M = 2 rho, E = h = 0 where l_2 < 0 < l_1, and all vanish elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier, Block
from dcl.cones.orthant import Diagonal
from dcl.cones.spectral import image, is_smooth, lifted, root, settled, slope

_HALF = sqrt(0.5)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class _Rotated(AbstractDerivative):
    """Q of the header: x -> x - normal (normal'x) / (1 + |e_1|) takes e to -sign times the first axis."""

    d: Tensor
    normal: Tensor  # e + sign * (first axis), (B, count, size - 1), size > 1
    sign: Tensor  # of e_1, (B, count, 1)
    diagonal: bool = False

    def _reflect(self, y: Tensor) -> Tensor:
        # |normal|^2 / 2 = 1 + |e_1| = |normal_1|
        return y - self.normal * (_dot(self.normal, y) / self.normal[..., :1].abs())

    def to_eigen(self, w: Tensor) -> Tensor:
        blocks = w.reshape(*w.shape[:-1], self.normal.shape[-2], self.normal.shape[-1] + 1)
        t, y = blocks[..., :1], self._reflect(blocks[..., 1:])
        along = -self.sign * y[..., :1]
        return torch.cat([_HALF * (t + along), _HALF * (t - along), y[..., 1:]], -1).flatten(-2)

    def from_eigen(self, w: Tensor) -> Tensor:
        blocks = w.reshape(*w.shape[:-1], self.normal.shape[-2], self.normal.shape[-1] + 1)
        plus, minus = blocks[..., :1], blocks[..., 1:2]
        y = torch.cat([-self.sign * _HALF * (plus - minus), blocks[..., 2:]], -1)
        return torch.cat([_HALF * (plus + minus), self._reflect(y)], -1).flatten(-2)


@dataclass(frozen=True)
class SecondOrder(AbstractCone):
    """`count` cones of R^size, size >= 1, one after the other; t is the first row of each. size 1: nonnegative rays."""

    size: int
    count: int = 1

    @property
    def dim(self) -> int:  # type: ignore[override]
        """All rows."""
        return self.size * self.count

    @property
    def degree(self) -> int:  # type: ignore[override]
        """Two for each cone."""
        return 2 * self.count

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("second_order", self.size, self.count),)

    def _split(self, t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:-1], self.count, self.size)

    @staticmethod
    def _eigenvalues(blocks: Tensor) -> Tensor:
        t, rho = blocks[..., 0], torch.linalg.vector_norm(blocks[..., 1:], dim=-1)
        return torch.stack([t + rho, t - rho], -1)

    def project(self, v: Tensor, mu: Barrier) -> Tensor:
        h, blocks = lifted(mu, 8.0, 1), self._split(v)
        values = self._eigenvalues(blocks)
        u = slope(values[..., :1], values[..., 1:], h) * blocks[..., 1:]
        return torch.cat([image(values, h).mean(-1, keepdim=True), u], -1).flatten(-2)

    def dproject(self, v: Tensor, mu: Barrier, at_kink: Tensor) -> AbstractDerivative:
        h, blocks = lifted(mu, 8.0, 1), self._split(v)
        values, u = self._eigenvalues(blocks), blocks[..., 1:]
        if not is_smooth(h):
            values = settled(values, ~torch.isnan(self._split(at_kink)[..., :2]))
        across = slope(values[..., :1], values[..., 1:], h).expand(*u.shape[:-1], max(self.size - 2, 0))
        d = torch.cat([slope(values, values, h), across], -1)[..., : self.size].flatten(-2)
        if self.size == 1:
            return Diagonal(d)
        rho = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        first = torch.nn.functional.one_hot(torch.zeros_like(u[..., 0], dtype=torch.int64), self.size - 1).to(u)
        e = torch.where(rho > 0.0, u / torch.where(rho > 0.0, rho, 1.0), first)
        sign = torch.where(e[..., :1] < 0.0, -1.0, 1.0).to(u)
        return _Rotated(d, e + sign * first, sign)

    def slope_in_mu(self, v: Tensor, mu: Tensor) -> Tensor:
        h, blocks = lifted(mu, 8.0, 1), self._split(v)
        values = self._eigenvalues(blocks)
        r = root(values, h)
        across = -2.0 * values.sum(-1, keepdim=True) / (r.prod(-1, keepdim=True) * r.sum(-1, keepdim=True))
        return torch.cat([(2.0 / r).mean(-1, keepdim=True), across * blocks[..., 1:]], -1).flatten(-2)

    def curvature_product(self, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
        h, blocks = lifted(mu, 8.0, 1), self._split(v)
        ttt, ttq, tq, qq, tqq, qqq = self._smooth(blocks, h) if is_smooth(h) else self._exact(blocks)
        u = blocks[..., 1:]
        a0, A, w0, W = (part for x in (self._split(a), self._split(w)) for part in (x[..., :1], x[..., 1:]))
        uA, uW, AW = _dot(u, A), _dot(u, W), _dot(A, W)
        mixed = a0 * uW + w0 * uA
        c0 = ttt * a0 * w0 + ttq * mixed + tq * AW + tqq * uA * uW
        c = (ttq * a0 * w0 + tqq * mixed + qq * AW + qqq * uA * uW) * u
        c = c + tq * (a0 * W + w0 * A) + qq * (uA * W + uW * A)
        return torch.cat([c0, c], -1).flatten(-2)

    @staticmethod
    def _smooth(blocks: Tensor, h: Barrier) -> tuple[Tensor, ...]:
        """f_ttt, f_ttq, f_tq, f_qq, f_tqq, f_qqq, (B, count, 1) each, at mu > 0."""
        t, u = blocks[..., :1], blocks[..., 1:]
        squares = 2.0 * (t * t + _dot(u, u))  # l_1^2 + l_2^2
        p = t * t - _dot(u, u)
        small_squared = h * (squares + h)  # N^2 - p^2
        N = torch.sqrt(p * p + small_squared)
        M = torch.sqrt(squares + 2.0 * (h + N))
        large = N + p.abs()
        small = small_squared / large
        kappa = (h + torch.where(p > 0.0, small, large)) / N
        E = (torch.where(p > 0.0, large, small) - h) / N / N
        kM = kappa / (M * M)
        return (
            0.25 * h * M / N * (M * M - 3.0 * N) / N / N,
            -h * t / M / N * (M * M - N) / N / N,
            0.5 * kappa / M,
            -2.0 * t * kM / M,
            kappa / M * (E - kM),
            -4.0 * t * kM / M * (E - 3.0 * kM),
        )

    def _exact(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """The same at mu = 0; zero at a kink."""
        t, u = blocks[..., :1], blocks[..., 1:]
        plus, minus = settled(self._eigenvalues(blocks)).unsqueeze(-1).unbind(-2)
        crossing = (plus > 0.0) & (minus < 0.0)
        rho = torch.sqrt(torch.where(crossing, _dot(u, u), 1.0))
        tq = crossing.to(u) / (2.0 * rho)
        cubed = tq / (rho * rho)
        zero = torch.zeros_like(t)
        return zero, zero, tq, -t * cubed, -cubed, 3.0 * t * cubed / (rho * rho)

    def equalize(self, sizes: Tensor) -> Tensor:
        blocks = self._split(sizes)
        return blocks.amax(-1, keepdim=True).expand_as(blocks).flatten(-2)

    def kink_distance(self, v: Tensor) -> Tensor:
        blocks = self._split(v)
        others = torch.full_like(blocks[..., : max(self.size - 2, 0)], torch.inf)
        values = settled(self._eigenvalues(blocks)).abs()
        return torch.cat([values, others], -1)[..., : self.size].flatten(-2)

"""What the cones of R^3 share: the frame of a boundary ray, which diagonalizes D at mu = 0, and the prox of the barrier.

mu = 0.  The boundary of K is a curve of rays a(r), and b(r), in K*, is normal to it:  a'b = 0, (da/dr)'b = 0.  Every -v outside
of K, of its polar and of its flat faces is  -v = s - z  with  s = S a/|a|,  z = Z b/|b|,  S, Z > 0, for one r (Moreau).
In the orthonormal frame a/|a|, b/|b|, c

    da/dr = ta c,   db/dr = -tb c,   dc/dr = -ta a + tb b,        dr = -c'dv / W,   dS = -a'dv,   dZ = b'dv,   W = S ta + Z tb
    D = bb' + g cc',   g = Z tb / W                                                         eigenvalues 0, 1, g
    D'(v) = (ta tb / W^2) sym(c c (S b + Z a)) - (S Z ta tb (log tb/ta)' / W^3) ccc         sym: the sum over the 3 places

At a kink between two smooth pieces the frame still is right: D goes from 0 to bb' + g cc' on the boundary of K, and from there
to I on that of K*.  The barrier's D goes to their mean: near a smooth boundary every barrier is -log(distance).

mu > 0.  The barriers are sums of -log of functions psi_j that are concave with a Hessian of rank one, and of -c_i log x_i.
With the forms  A_j = psi_j'/psi_j,  X_i = dx_i/x_i  and one form B that holds all of the curvature of the psi_j,

    phi'   = -sum A_j - sum c_i X_i
    phi''  =  sum A_j A_j + B B + sum c_i X_i X_i                       = G'G,  G the rows of these forms
    phi''' = -sum (2 A_j A_j A_j + th_j sym(B B A_j)) - sum nu_i sym(B B X_i) - 2 sum c_i X_i X_i X_i

s = argmin mu phi(s) + |s + v|^2 / 2 by damped Newton steps for self-concordant functions (Nesterov 2018, Lectures on Convex
Optimization, section 5.2): length 1 / (1 + decrement) until the decrement is 1/4, then 1.
M = -ds/dv = (I + mu G'G)^-1 and D = I - M come from the singular values of sqrt(mu) G, which keep what mu G'G has lost.
So does dz/dmu = M z / mu = -M phi' = M G'e at fixed v, where G'e = -phi' with e = 1 for A_j, 0 for B and sqrt(c_i) for X_i.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier
from dcl.errors import UnsupportedError

_MAX_STEPS = 200  # of Newton, and of the root search
_NO_MORE = (
    "third derivatives of a solution with exponential or power cones are not available: first and second ones are"
)
# After this many full Newton steps from a decrement of 1/4 nothing is left but rounding.
_FULL_STEPS = 6


@dataclass(frozen=True, eq=False)
class Rotated(AbstractDerivative):
    """D of blocks of 3: eigenvalues d (B, 3 k), eigenvectors the columns of Q (B, k, 3, 3)."""

    d: Tensor
    Q: Tensor
    diagonal: bool = False

    def to_eigen(self, w: Tensor) -> Tensor:
        return times(self.Q.mT, triples(w)).flatten(-2)

    def from_eigen(self, w: Tensor) -> Tensor:
        return times(self.Q, triples(w)).flatten(-2)


@dataclass(frozen=True, eq=False)
class Rays:
    """A ray a of the boundary of K and its normal b in K*, (B, k, 3) of any length; ta, tb, (log tb/ta)', (B, k).

    turn: +1 or -1, the sign of det(a, b, da/dr).
    """

    a: Tensor
    b: Tensor
    ta: Tensor
    tb: Tensor
    slope: Tensor
    turn: Tensor


@dataclass(frozen=True, eq=False)
class Foot:
    """What one root search at blocks v (B, k, 3) finds, and everything at mu = 0 is made of.

    Q (B, k, 3, 3): the frame, columns a/|a|, b/|b|, c.  S, Z, ta, tb, slope (B, k) as in the header, with S, Z >= 0.
    primal, dual (B, k): distance of -v in K, of v in K*, from the boundary, to first order; negative outside.
    """

    Q: Tensor
    S: Tensor
    Z: Tensor
    ta: Tensor
    tb: Tensor
    slope: Tensor
    primal: Tensor
    dual: Tensor

    @property
    def inside(self) -> Tensor:
        """Is -v in K, so that z = 0?"""
        return self.primal >= 0.0

    @property
    def polar(self) -> Tensor:
        """Is v in K*, so that s = 0?"""
        return self.dual >= 0.0

    def z(self, v: Tensor) -> Tensor:
        """The projection of v onto K*, (B, k, 3)."""
        z = self.Z.unsqueeze(-1) * self.Q[..., 1]
        return torch.where(self.polar.unsqueeze(-1), v, torch.where(self.inside.unsqueeze(-1), 0.0, z))


@dataclass(frozen=True, eq=False)
class Nearest:
    """The projections s, z at mu = 0 of blocks of v (B, k, 3) and what their derivatives need.

    Q: eigenvectors (B, k, 3, 3).  d: eigenvalues of D (B, k, 3); at a kink they go from `low` to `high`.
    smooth (B, k): there D' = bend sym(c c e) + twist c c c, with e (B, k, 3) and c the last column of Q.
    """

    s: Tensor
    z: Tensor
    Q: Tensor
    d: Tensor
    low: Tensor
    high: Tensor
    bend: Tensor
    twist: Tensor
    e: Tensor


@dataclass(frozen=True, eq=False)
class Forms:
    """The forms of the header at s: A (B, k, J, 3), B (B, k, 3), X (B, k, 2, 3); th (B, k, J); c, nu broadcast to (B, k, 2)."""

    A: Tensor
    B: Tensor
    X: Tensor
    th: Tensor
    c: Tensor
    nu: Tensor

    @property
    def gradient(self) -> Tensor:
        """phi', (B, k, 3)."""
        return -self.A.sum(-2) - (self.c.unsqueeze(-1) * self.X).sum(-2)

    @property
    def G(self) -> Tensor:
        """phi'' = G'G, (B, k, J + 3, 3)."""
        return torch.cat([self.A, self.B.unsqueeze(-2), self.c.sqrt().unsqueeze(-1) * self.X], -2)

    @property
    def ones(self) -> Tensor:
        """e of the header, (B, k, J + 3)."""
        roots = self.c.sqrt().expand(self.X.shape[:-1])
        return torch.cat([torch.ones_like(self.A[..., 0]), torch.zeros_like(self.B[..., :1]), roots], -1)

    def third(self, p: Tensor, q: Tensor) -> Tensor:
        """t with phi'''[x, y, .] = G't for p = G x, q = G y: (..., B, k, J + 3)."""
        J, root = self.A.shape[-2], self.c.sqrt()
        Ap, Bp, Xp = p[..., :J], p[..., J], p[..., J + 1 :] / root
        Aq, Bq, Xq = q[..., :J], q[..., J], q[..., J + 1 :] / root
        BB = (Bp * Bq).unsqueeze(-1)
        tA = -2.0 * Ap * Aq - self.th * BB
        along_p = (self.th * Ap).sum(-1) + (self.nu * Xp).sum(-1)
        along_q = (self.th * Aq).sum(-1) + (self.nu * Xq).sum(-1)
        tX = -self.nu * BB - 2.0 * self.c * Xp * Xq
        return torch.cat([tA, -(Bp * along_q + Bq * along_p).unsqueeze(-1), tX / root], -1)


class AbstractThree(AbstractCone):
    """A product of `dim / 3` cones of R^3, each with a barrier of degree 3."""

    @property
    def degree(self) -> int:  # type: ignore[override]
        """Three for each block: the dimension."""
        return self.dim

    @abstractmethod
    def foot(self, v: Tensor) -> Foot:
        """The root search at blocks v (B, k, 3): the one part of all that follows that takes time."""

    @abstractmethod
    def dual_part(self, v: Tensor, foot: Foot) -> Tensor:
        """The mu = 0 projection z of blocks v (B, k, 3). Law: that of `project`."""

    @abstractmethod
    def nearest(self, v: Tensor, foot: Foot, tied: Tensor | None = None) -> Nearest:
        """The same with s and what derivatives need; blocks at a kink are tied (B, k). Law: that of `project`."""

    @abstractmethod
    def forms(self, s: Tensor) -> Forms:
        """The forms of the barrier at s (B, k, 3) in the interior of K."""

    @abstractmethod
    def forms_on_path(self, s: Tensor, v: Tensor, mu: Tensor) -> Forms:
        """The same at the prox s of v, where s + v = -mu phi'(s) gives small distances to the boundary without cancellation."""

    @abstractmethod
    def center(self, v: Tensor) -> Tensor:
        """e with -phi'(e) = e, broadcast against v (B, k, 3)."""

    @abstractmethod
    def kink(self, v: Tensor, foot: Foot) -> Tensor:
        """Distance of each block v (B, k, 3) to where two pieces of the mu = 0 projection meet, to first order: (B, k)."""

    @final
    def project(self, v: Tensor, mu: Barrier) -> Tensor:
        v = triples(v)
        if not isinstance(mu, Tensor):
            return self.dual_part(v, self.foot(v)).flatten(-2)
        s = self._prox(v, mu.unsqueeze(-1))
        z = -mu.unsqueeze(-1) * self.forms_on_path(s, v, mu.unsqueeze(-1)).gradient
        return torch.where(z.abs() < s.abs(), z, v + s).flatten(-2)

    @final
    def dproject(self, v: Tensor, mu: Barrier, at_kink: Tensor) -> Rotated:
        v = triples(v)
        if isinstance(mu, Tensor):
            _, values, Qt = self._spectrum(v, mu.unsqueeze(-1))[1:]
            return Rotated((values * values / (1.0 + values * values)).flatten(-2), Qt.mT)
        t = triples(at_kink)[..., :1]
        tied = ~torch.isnan(t)
        near = self.nearest(v, self.foot(v), tied.squeeze(-1))
        return Rotated(torch.where(tied, near.low + t * (near.high - near.low), near.d).flatten(-2), near.Q)

    @final
    def slope_in_mu(self, v: Tensor, mu: Tensor) -> Tensor:
        forms, U, values, Qt = self._spectrum(triples(v), mu.unsqueeze(-1))
        scaled = times(U.mT, forms.ones) * (values / (1.0 + values * values))
        return (times(Qt.mT, scaled) / mu.sqrt().unsqueeze(-1)).flatten(-2)

    @final
    def curvature_product(self, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
        v, a, w = triples(_Last.apply(v)), triples(a), triples(w)
        if isinstance(mu, Tensor):
            forms, U, values, Qt = self._spectrum(v, mu.unsqueeze(-1))
            N = (U * (values / (1.0 + values * values)).unsqueeze(-2)) @ Qt  # sqrt(mu) G M
            t = forms.third(times(N, a), times(N, w))
            return (-times(N.mT, t) / mu.sqrt().unsqueeze(-1)).flatten(-2)
        near = self.nearest(v, self.foot(v))
        c, e = near.Q[..., 2], near.e
        ca, cw, ea, ew = (dot(x, y) for x in (c, e) for y in (a, w))
        along_c = near.bend * (ca * ew + cw * ea) + near.twist * ca * cw
        return (along_c.unsqueeze(-1) * c + (near.bend * ca * cw).unsqueeze(-1) * e).flatten(-2)

    @final
    def equalize(self, sizes: Tensor) -> Tensor:
        return triples(sizes).amax(-1, keepdim=True).expand(*sizes.shape[:-1], -1, 3).flatten(-2)

    @final
    def kink_distance(self, v: Tensor) -> Tensor:
        v = triples(v)
        first = self.kink(v, self.foot(v)).unsqueeze(-1)
        return torch.cat([first, torch.full_like(first, torch.inf).expand(*first.shape[:-1], 2)], -1).flatten(-2)

    def _spectrum(self, v: Tensor, mu: Tensor) -> tuple[Forms, Tensor, Tensor, Tensor]:
        """The forms at the prox, and the singular values of sqrt(mu) G: U, values, Q'."""
        forms = self.forms_on_path(self._prox(v, mu), v, mu)
        G = mu.sqrt().unsqueeze(-1) * forms.G
        # NaN in v is told by `project`; LAPACK would raise for the whole batch
        return forms, *torch.linalg.svd(torch.where(torch.isfinite(G), G, 0.0), full_matrices=False)

    def _prox(self, v: Tensor, mu: Tensor) -> Tensor:
        """Prox of mu phi at -v, (B, k, 3)."""
        near, e = self.nearest(v, self.foot(v)), self.center(v)
        # phi(s + tau e) <= phi(tau e): tau minimizes tau^2 |e|^2 / 2 + tau z'e - 3 mu log tau, with |e|^2 = 3
        ze = dot(near.z, e).unsqueeze(-1)
        s = near.s + e * (6.0 * mu / (ze + torch.sqrt(ze * ze + 36.0 * mu)))
        full = torch.zeros_like(v[..., 0], dtype=torch.int64)
        for _ in range(_MAX_STEPS):
            forms = self.forms(s)
            G = mu.sqrt().unsqueeze(-1) * forms.G
            slope = s + v + mu * forms.gradient
            L, _ = torch.linalg.cholesky_ex(torch.eye(3, dtype=v.dtype, device=v.device) + G.mT @ G)
            step = -torch.cholesky_solve(slope.unsqueeze(-1), L).squeeze(-1)
            decrement = (-dot(step, slope) / mu.squeeze(-1)).clamp(min=0.0).sqrt()
            length = torch.where(decrement <= 0.25, 1.0, 1.0 / (1.0 + decrement))
            # where mu is below rounding of |v|^2 the step may be lost: stay at the last point
            full = torch.where(torch.isfinite(decrement), full, _FULL_STEPS)
            moves = full < _FULL_STEPS
            s = torch.where(moves.unsqueeze(-1), s + length.unsqueeze(-1) * step, s)
            full = full + (moves & (decrement <= 0.25))
            if bool((full >= _FULL_STEPS).all()):
                break
        return s


class _Last(Function):
    """The identity, which refuses to be differentiated: torch would go through the iterations of the root search."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor) -> Tensor:
        return v.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise UnsupportedError(_NO_MORE)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor) -> None:
        raise UnsupportedError(_NO_MORE)


def triples(w: Tensor) -> Tensor:
    """(..., 3 k) as (..., k, 3)."""
    return w.reshape(*w.shape[:-1], w.shape[-1] // 3, 3)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products along the last dimension."""
    return (x * y).sum(-1)


def times(M: Tensor, x: Tensor) -> Tensor:
    """M x for matrices (..., i, j) and vectors (..., j)."""
    return (M @ x.unsqueeze(-1)).squeeze(-1)


def landed(p: Tensor, rays: Rays, primal: Tensor, dual: Tensor) -> Foot:
    """The foot of -v = p (B, k, 3) on its rays, with the distances primal, dual (B, k) of `Foot`."""
    a = rays.a / rays.a.norm(dim=-1, keepdim=True)
    b = rays.b / rays.b.norm(dim=-1, keepdim=True)
    Q = torch.stack([a, b, rays.turn.unsqueeze(-1) * torch.linalg.cross(a, b)], -1)
    S, Z = dot(p, a).clamp(min=0.0), (-dot(p, b)).clamp(min=0.0)
    return Foot(Q, S, Z, rays.ta, rays.tb, rays.slope, primal, dual)


def along_rays(p: Tensor, foot: Foot) -> Nearest:
    """The projection of -p where its rays are known."""
    a, b = foot.Q[..., 0], foot.Q[..., 1]
    inside, polar, S, Z = foot.inside, foot.polar, foot.S, foot.Z
    W = S * foot.ta + Z * foot.tb
    W = torch.where(W > 0.0, W, 1.0)
    g = Z * foot.tb / W
    zero, one = torch.zeros_like(g), torch.ones_like(g)
    curved = torch.stack([zero, one, g], -1)
    d = torch.where(polar.unsqueeze(-1), 1.0, torch.where(inside.unsqueeze(-1), 0.0, curved))
    at_K = (S >= Z).unsqueeze(-1)
    bend = torch.where(inside | polar, 0.0, (foot.ta / W) * (foot.tb / W))
    return Nearest(
        s=torch.where(inside.unsqueeze(-1), p, torch.where(polar.unsqueeze(-1), 0.0, S.unsqueeze(-1) * a)),
        z=foot.z(-p),
        Q=foot.Q,
        d=d,
        low=torch.where(at_K, 0.0, curved),
        high=torch.where(at_K, curved, 1.0),
        bend=bend,
        twist=-bend * (S * (Z / W)) * foot.slope,
        e=S.unsqueeze(-1) * b + Z.unsqueeze(-1) * a,
    )


def root(f: Callable[[Tensor], tuple[Tensor, Tensor]], lo: Tensor, hi: Tensor, x: Tensor) -> Tensor:
    """Where a function that increases through zero in [lo, hi] vanishes: Newton from x, halving where that is slow.

    f(x), for x (3, ...) too, returns a number with the sign of the function, and Newton's step.  Without a sign change: the
    nearer end.  A step of 2^-30 is the last: the next one would be its square, times a curvature of order one.
    """
    values, steps = f(torch.stack([lo, hi, x]))
    at_lo, at_hi = values[0] >= 0.0, values[1] <= 0.0
    done = at_lo | at_hi
    value, step, last = values[2], steps[2], hi - lo
    x = torch.where(at_lo, lo, torch.where(at_hi, hi, x))
    for _ in range(_MAX_STEPS):
        lo, hi = torch.where(value <= 0.0, x, lo), torch.where(value >= 0.0, x, hi)
        newton, size = x + step, step.abs()
        good = (newton >= lo) & (newton <= hi) & (size <= 0.5 * last)
        new = torch.where(done, x, torch.where(good, newton, 0.5 * (lo + hi)))
        last = (new - x).abs()
        x = new
        ample = 1.0 + x.abs()
        done = done | (last <= torch.where(good, 2.0**-30 * ample.sqrt(), 2.0**-50 * ample))
        if bool(done.all()):
            break
        value, step = f(x)
    return x

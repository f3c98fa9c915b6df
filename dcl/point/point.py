"""A point (x, v) of a program at mu, and everything that follows from it. Each is computed once, when first needed.

    z = Pi_mu*(v),  s = z - v          F(x, v) = ( Px + q + A'z,  Ax + s - b )          K = dF/d(x, v), factored (`dcl.kkt`)

Its residuals are dcl's own measure of every answer.  For z = Pi_mu*(v) and s = z - v (so that s and z are in their cones by
construction); primal and dual: the largest over the rows, each relative to the terms that are added in it, so that neither a
far bound nor a large cost excuses an error elsewhere.  FLOOR = 1e-5 stands for terms that are rounding themselves, in the
units of `dcl.program.scaling`; see `dcl.point.truth.relaxed_residuals`.

    primal  |Ax + s - b|_i / (FLOOR + |A||x| + |s| + |b|)_i        dual  |Px + q + A'z|_j / (FLOOR + |P||x| + |q| + |A|'|z|)_j
    gap     |x'Px + q'x + b'z - mu nu| / (FLOOR + |x|'|P||x| + |q|'|x| + |b|'|z|)

Terms that cancel excuse too much where x or z is large: at |x| = 1e13 every program is "solved" up to the rounding of |P||x|,
an unbounded one too.  So the same three are also measured against what is left after cancelling (the net measure), and
the larger one counts where the net one is above NET_MATTERS,

    primal  |Ax + s - b|_i / (1 + |Ax|_max + |s_i| + |b_i|)        dual  |Px + q + A'z|_max / (1 + max(|Px|, |q|, |A'z|)_max)
    gap     |x'Px + q'x + b'z - mu nu| / (1 + max(|x'Px|, |q'x|, |b'z|))

and where the rounding of the uncancelled terms alone is above 1e-8 of these denominators, nothing is known: a residual
that is zero there is luck, and the rounding is what is reported.  A slack or a right-hand side excuses its own row only,
a bound of 1e10 nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dcl.cones.base import AbstractDerivative, Barrier, barrier_at
from dcl.cones.by_rows import dproject, project
from dcl.kkt import KKT, assemble
from dcl.point.ties import kinks
from dcl.program import ConeProgram, largest, magnitude, norm

OPTIMAL_TOLERANCE = 1e-8
NET_MATTERS = 1e-9
FLOOR = 1e-5
_EPSILON = torch.finfo(torch.float64).eps
# What has a row for each instance: where points are combined, the new one knows of these what all of them knew.
_KNOWN = ("z", "Px", "Ax", "ATz", "residuals")


@dataclass(frozen=True, eq=False)
class Point:
    """x (B, n), v (B, m) of a program at mu (0.0, or (B or 1, 1)).

    ties (B, m): the value of D at the ties of v, NaN elsewhere, where `dcl.point.basis` chose it; None: 1/2 at the kinks of
    `dcl.point.ties`.
    near: K factored at a point nearby, which is taken over where D is the same.
    """

    program: ConeProgram
    x: Tensor
    v: Tensor
    mu: Barrier = 0.0
    ties: Tensor | None = None
    near: KKT | None = None

    @cached_property
    def z(self) -> Tensor:
        """The multipliers, (B, m)."""
        return project(self.program.structure.cone, self.v, self.mu)

    @cached_property
    def s(self) -> Tensor:
        """The slacks, (B, m)."""
        return self.z - self.v

    @cached_property
    def Px(self) -> Tensor:
        """P x, (B, n)."""
        return self.program.Px(self.x)

    @cached_property
    def Ax(self) -> Tensor:
        """A x, (B, m)."""
        return self.program.Ax(self.x)

    @cached_property
    def ATz(self) -> Tensor:
        """A' z, (B, n)."""
        return self.program.ATz(self.z)

    @cached_property
    def stationarity(self) -> Tensor:
        """Px + q + A'z, (B, n): the first part of F."""
        return self.Px + self.program.q + self.ATz

    @cached_property
    def feasibility(self) -> Tensor:
        """Ax + s - b, (B, m): the second part of F."""
        return self.Ax + self.s - self.program.b

    @cached_property
    def size(self) -> Tensor:
        """|F|, (B,)."""
        return norm(self.stationarity, self.feasibility)

    @cached_property
    def absolute(self) -> ConeProgram:
        """The program with |P| and |A|."""
        return self.program.absolute()

    @cached_property
    def residuals(self) -> Tensor:
        """`check` with the usual floor, (B, 3)."""
        return self.check()

    @cached_property
    def at_kink(self) -> Tensor:
        """The value of D at the ties, NaN elsewhere, (B, m)."""
        return kinks(self.program, self.v, self.mu, self.x) if self.ties is None else self.ties

    @cached_property
    def D(self) -> AbstractDerivative:
        """dz/dv."""
        return dproject(self.program.structure.cone, self.v, self.mu, self.at_kink)

    @cached_property
    def kkt(self) -> KKT:
        """K, factored."""
        if self.near is not None and self.D.diagonal and torch.equal(self.D.d, self.near.D.d):
            return replace(self.near, v=self.v.detach())  # always so once the active set is found
        return assemble(self.program, self.v, self.D)

    def newton(self) -> tuple[Tensor, Tensor]:
        """Newton's step K^-1 (-F): dx (B, n), dv (B, m)."""
        dx, dv, _ = self.kkt.tangent(-self.stationarity, -self.feasibility)
        return dx, dv

    def moved(self, dx: Tensor, dv: Tensor) -> Point:
        """The point (x + dx, v + dv)."""
        near = vars(self).get("kkt", self.near)
        return _sharing(Point(self.program, self.x + dx, self.v + dv, self.mu, near=near), self)

    def rows(self, index: Tensor) -> Point:
        """The instances `index`, increasing."""
        if index.numel() == self.x.shape[0]:
            return self
        return _combined(self.program.rows(index), barrier_at(self.mu, index), lambda t: t[0][index], self)

    def with_rows(self, index: Tensor, part: Point) -> Point:
        """These points, but for the instances `index`, increasing, those of `part`."""
        if index.numel() == self.x.shape[0]:
            return part
        return _combined(self.program, self.mu, lambda t: t[0].index_copy(0, index, t[1]), self, part)

    def where(self, mask: Tensor, other: Point) -> Point:
        """The instances of this point where `mask` (B,) is true, those of another point of the same program elsewhere."""
        if bool(mask.all()):
            return self
        if not bool(mask.any()):
            return other
        rows = mask.unsqueeze(-1)
        return _combined(self.program, self.mu, lambda t: torch.where(rows, t[0], t[1]), self, other)

    def check(self, floor: float = FLOOR) -> Tensor:
        """Primal, dual and gap residual, (B, 3): row by row, or net where that is not small.

        A net residual below NET_MATTERS is what rounding leaves of large multipliers; the other measure says how good a point is.
        """
        by_row, net = self.measures(floor)
        return torch.where(net > NET_MATTERS, torch.maximum(by_row, net), by_row)

    def least_accurate_row(self) -> Tensor:
        """The row of A with the largest primal residual relative to its own terms, (B,); m must not be zero."""
        terms = self.absolute.Ax(self.x.abs()) + self.s.abs() + self.program.b.abs()
        return (self.feasibility.abs() / (FLOOR + terms)).nan_to_num(nan=torch.inf).argmax(-1)

    def measures(self, floor: float = FLOOR) -> tuple[Tensor, Tensor]:
        """The two measures of the header, row by row and net: primal, dual and gap residual, (B, 3) each."""
        x, z, q, b = self.x, self.z, self.program.q, self.program.b
        absolute, x_abs, z_abs = self.absolute, x.abs(), z.abs()
        Px_abs, own = absolute.Px(x_abs), self.s.abs() + b.abs()
        primal, primal_terms = self.feasibility.abs(), absolute.Ax(x_abs) + own
        dual, dual_terms = self.stationarity.abs(), Px_abs + q.abs() + absolute.ATz(z_abs)
        xPx, qx, bz = (self.Px * x).sum(-1), (q * x).sum(-1), (b * z).sum(-1)
        degree = self.program.structure.cone.degree
        gap = (xPx + qx + bz - (self.mu.squeeze(-1) * degree if isinstance(self.mu, Tensor) else self.mu)).abs()
        gap_terms = (Px_abs * x_abs).sum(-1) + (q * x).abs().sum(-1) + (b * z).abs().sum(-1)
        strict = primal / (floor + primal_terms), dual / (floor + dual_terms), gap / (floor + gap_terms)
        left = largest(magnitude(self.Px), magnitude(q), magnitude(self.ATz)).unsqueeze(-1)
        net = (
            _at_least_rounding(primal, primal_terms, 1.0 + magnitude(self.Ax).unsqueeze(-1) + own),
            _at_least_rounding(dual, dual_terms, 1.0 + left),
            _at_least_rounding(gap, gap_terms, 1.0 + largest(xPx.abs(), qx.abs(), bz.abs())),
        )
        columns = [(magnitude(p), magnitude(d), g) for p, d, g in (strict, net)]
        by_row, after_cancelling = (torch.stack(torch.broadcast_tensors(*column), -1) for column in columns)
        return by_row, after_cancelling


def _combined(program: ConeProgram, mu: Barrier, how: Callable[[tuple[Tensor, ...]], Tensor], *points: Point) -> Point:
    """The point whose tensors are how(those of the points), with what is known of it already."""
    ties = tuple(p.ties for p in points if p.ties is not None)
    x, v = how(tuple(p.x for p in points)), how(tuple(p.v for p in points))
    out = Point(program, x, v, mu, how(ties) if len(ties) == len(points) else None)
    known = [vars(p) for p in points]
    for name in _KNOWN:
        if all(name in one for one in known):
            vars(out)[name] = how(tuple(one[name] for one in known))
    return _sharing(out, *points)


def _sharing(out: Point, *points: Point) -> Point:
    """`out`, with |P| and |A| if they are at hand for its program."""
    for p in points:
        if p.program is out.program and "absolute" in vars(p):
            vars(out)["absolute"] = p.absolute
    return out


def worst(residuals: Tensor) -> Tensor:
    """The largest of (..., 3) residuals; inf where one is NaN."""
    return residuals.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(-1)


def _at_least_rounding(residual: Tensor, terms: Tensor, size: Tensor) -> Tensor:
    """Residual / size, or what rounding leaves of the terms if that alone misses the tolerance."""
    rounding = _EPSILON * terms
    return torch.where(rounding > OPTIMAL_TOLERANCE * size, torch.maximum(residual, rounding), residual) / size

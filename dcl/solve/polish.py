"""Semismooth Newton on F at mu = 0 from a solver's point: from 1e-8 to rounding in a step or two.

    K(x_k, v_k) (dx, dv) = -F(x_k, v_k)       accepted only where the residuals fall; never worse than the start

D is 1/2 at the kinks (`dcl.point.ties`) and a singular K gives the minimum-norm step.  A residual of 1e-16 still leaves an error
of 1e-16 times the condition in x: where K is ill-conditioned the last steps take F in extended precision.

Interior points of other cones than orthants end with eigenvalues of s and z that both are sqrt(1e-10) where strict
complementarity or uniqueness fails, and K is nearly singular without being so: there Newton's steps are too long.  F is the
residual of a monotone operator, so its proximal-point steps (Rockafellar 1976) are defined everywhere,

    F(x + dx, v + dv) + l (dx, -dz) = 0        linearized: `dcl.kkt` with a shift l, proportional to |F|

each of them kept if |F| falls.  With l = O(|F|) they are as fast as Newton's, also at solutions that are not unique.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.cones.base import TIE_TOLERANCE
from dcl.kkt import DenseFactor, factorize
from dcl.point import OPTIMAL_TOLERANCE, Point, worst
from dcl.point.sharp import sharp_step
from dcl.program import magnitude, norm

# Below this relative residual a point is as good as the solver can be asked to make it.
TARGET = 1e-13
# Above this a point is left to the next solver.  In programs with other cones than orthants and n + m above LARGE, where the
# factorization of a singular K takes seconds, what proximal steps have left above _HOPELESS_LARGE is too.
_HOPELESS, _HOPELESS_LARGE, LARGE = 1e-1, 1e-6, 500
# Steps in extended precision are taken where condition * (largest / smallest of |x| and the multipliers) exceeds this.
_DELICATE = 1e6
# The shift l is |F| times a factor that starts here, multiplied by these after a step that was fast or refused; fast: |F|
# falls to less than a tenth.
_FACTOR, _KEPT, _REFUSED, _FAST = 1.0, 0.1, 30.0, 0.1
_SMALLEST_SHIFT, _LARGEST_SHIFT = 1e-13, 1e-1
# So many refused or slow steps end the search; slow: |F| falls by less than half.
_STEPS, _PATIENCE, _SLOW = 30, 3, 0.5
# |F| below this, relative to the point, is rounding.
_ROUNDING = 1e-15


def polish(point: Point, steps: int = 10) -> Point:
    """Improve all B points of the exact program at once; points that are good enough or hopeless are left alone."""
    structure, hopeless = point.program.structure, _HOPELESS
    if not structure.cone.is_orthant:
        point = _approach(point)
        hopeless = _HOPELESS_LARGE if structure.n + structure.m > LARGE else _HOPELESS
    for _ in range(steps):
        now = worst(point.residuals)
        todo = (now > TARGET) & (now < hopeless)
        if not bool(todo.any()):
            break
        new = point.moved(*point.newton())
        better = todo & (worst(new.residuals) < now)
        if not bool(better.any()):
            break
        point = new.where(better, point)
        if not bool((worst(point.residuals) < 0.5 * now).any()):
            break
    # in extended precision P and A are dense: not for programs that are stored sparse because they are large
    if isinstance(point.kkt.factor, DenseFactor) and structure.cone.is_orthant:
        imbalance = point.kkt.conditioning.condition * _imbalance(point)
        delicate = (imbalance > _DELICATE) & (worst(point.residuals) < OPTIMAL_TOLERANCE)
        if bool(delicate.any()):
            return _sharpen(point, delicate)
    return point


def _approach(point: Point) -> Point:
    """The point after proximal steps on the instances above TARGET; never worse than the start."""
    now = worst(point.residuals)
    index = torch.nonzero((now > TARGET) & torch.isfinite(now)).squeeze(-1)
    if not index.numel():
        return point
    start = at = point.rows(index)
    nowhere = torch.full_like(at.v, torch.nan)
    factor, patience = torch.full_like(at.size, _FACTOR), torch.full_like(at.size, _PATIENCE)
    for _ in range(_STEPS):
        todo = (patience > 0.0) & (at.size > _ROUNDING * (1.0 + norm(at.x, at.v)))
        if not bool(todo.any()):
            break
        shift = (factor * at.size).clamp(_SMALLEST_SHIFT, _LARGEST_SHIFT).unsqueeze(-1)
        kkt = factorize(at.program, at.v, 0.0, nowhere, shift)
        dx, dv, _ = kkt.tangent(-at.stationarity, -at.feasibility)
        new = at.moved(dx, dv)
        kept = todo & (new.size < at.size)
        patience = torch.where(kept & (new.size < _SLOW * at.size), _PATIENCE, patience - 1.0)
        factor = torch.where(kept, torch.where(new.size < _FAST * at.size, _KEPT, 1.0), _REFUSED) * factor
        at = new.where(kept, at)
    return point.with_rows(index, at.where(worst(at.residuals) < worst(start.residuals), start))


def _imbalance(point: Point) -> Tensor:
    """Largest over smallest of |x| and the multipliers that are not zero: (B,). The smallest loses digits by this factor."""
    z = point.z.abs()
    sizes = torch.cat([magnitude(point.x).unsqueeze(-1), torch.where(z > TIE_TOLERANCE, z, torch.nan)], -1)
    return sizes.nan_to_num(nan=0.0).amax(-1) / sizes.nan_to_num(nan=torch.inf).amin(-1).clamp(
        min=TIE_TOLERANCE, max=1.0
    )


def _sharpen(point: Point, rows: Tensor) -> Point:
    """Newton steps with F in extended precision, on the instances where `rows` (B,) is true, as long as steps shrink."""
    program, kkt = point.program, point.kkt
    zeros, index, scaled = program.structure.cone.zeros, torch.nonzero(rows).squeeze(-1), kkt.conditioning.scaled
    last = torch.full_like(point.x[:, 0], torch.inf)
    for _ in range(4):
        x, v = point.x, point.v
        dx, dv = sharp_step(point, index)
        size = magnitude(dx) / (1.0 + magnitude(x))
        # where S is regular in its best units only, ordinary residuals may have left x without any digit
        shrinks = (size < 0.5 * last) & ((size < 1e-3) | scaled)
        # multipliers of equalities have no sign
        keeps = shrinks & ((v > 0.0) == (v + dv > 0.0))[:, zeros:].all(-1)
        x = torch.where(keeps.unsqueeze(-1), x + dx, x)
        v = torch.where(keeps.unsqueeze(-1), v + dv, v)
        point, last = Point(program, x, v, near=kkt), size
    return point

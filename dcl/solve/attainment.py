"""Is the minimum attained?  inf e^x, inf 1/x, separable logistic regression without a penalty have points that pass any check.

Such points run off as the tolerance falls: e^x is 1e-5 at x = -12 and 1e-16 at x = -37, and at both a primal and a dual
point agree to that much.  Where a minimum is attained, unique or not, points of interior-point methods converge, to
the center of the solutions.  So where the KKT matrix of a program with curved cones says that the point can move freely
(a flat direction, or a condition that is rounding), the program is solved again with a loose tolerance, and the slacks

    s = b - A x  of the curved cones with multipliers         loose: relative residuals of 1e-5

must be the same up to CLOSE of 1 + |s|.  Variables that nobody asked for may run off: a geometric program whose entries
tend to zero, in logarithms, has a right answer in all others.  Orthants do not need it: a linear or quadratic program that
is bounded has a solution (Frank and Wolfe 1956).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dcl.point import OPTIMAL_TOLERANCE, Point, worst
from dcl.point.truth import ROUNDED, relaxed_residuals
from dcl.program import magnitude
from dcl.solve.backend import Backend
from dcl.solve.certificates import descends
from dcl.solvers.choose import centering

LOOSE = 1e-5
CLOSE = 0.1
# A condition that leaves no digit.
_FREE = 1e13
# Multipliers below this, in the units of `dcl.program.scaling`, hold nothing.
_HOLDS = 1e-7


# What the caller sees of x (B, n), (B, k) in his own terms; None for x itself.
Seen = Callable[[Tensor], Tensor] | None


def runs_off(point: Point, loosely: Backend, seen: Seen) -> Tensor:
    """(B,) boolean: instances whose slacks run off as the tolerance falls.

    loosely: a backend with a loose tolerance.  seen: see `Seen`; something of it must run off too.
    """
    program, device, conditioning = point.program, point.v.device, point.kkt.conditioning
    off = torch.zeros(point.v.shape[0], dtype=torch.bool, device=device)
    if program.structure.cone.is_orthant:
        return off
    free = (conditioning.null_a > 0.0) | ~(conditioning.condition < _FREE)
    rows = np.flatnonzero(free.cpu().numpy())
    if not rows.size:
        return off
    x_loose = loosely.solve(program, rows).x
    index = torch.from_numpy(rows).to(device)
    part = point.rows(index)
    loose = part.program.b - part.program.Ax(x_loose)
    moved, start = torch.zeros_like(part.z[:, 0]), 0
    for block in program.structure.cone.blocks:
        stop = start + block.rows * block.count
        if not block.is_orthant:
            shape = (-1, block.count, block.rows)
            s, t, w = (u[:, start:stop].reshape(shape) for u in (part.s, loose, part.z))
            distance = _distance(s, t)
            held = magnitude(w) > _HOLDS
            moved = torch.maximum(moved, torch.where(held, distance, 0.0).amax(-1))
        start = stop
    if seen is not None:
        moved = torch.minimum(moved, _distance(seen(part.x), seen(x_loose)))
    # where the loose solve left no point nothing is known, and nothing is said
    return off.index_copy(0, index, moved > CLOSE)


def _distance(s: Tensor, t: Tensor) -> Tensor:
    """Of vectors (..., k), relative to 1 + the smaller one."""
    return magnitude(s - t) / (1.0 + torch.minimum(magnitude(s), magnitude(t)))


def judged(point: Point, time_limit: float | None, seen: Seen = None) -> Tensor:
    """The residuals (B, 3) by which the points are judged; infinite where they are on their way to infinity.

    That is where a minimum is not attained (see the header), and where a program whose solution is not unique has a direction
    of descent (`dcl.solve.certificates`) that its small residuals hide.
    """
    residuals = relaxed_residuals(point)
    good = worst(residuals) <= OPTIMAL_TOLERANCE
    if not bool(good.any()):
        return residuals
    off = torch.zeros_like(good)
    doubtful = good & (worst(point.residuals) > ROUNDED)
    if bool(doubtful.any()):
        for i in torch.nonzero(doubtful & (point.kkt.conditioning.null_a > 0)).flatten().tolist():
            one = point.program.rows(torch.tensor([i], device=off.device)).detach()
            off[i] = descends(one, centering(None, time_limit))
    if not point.program.structure.cone.is_orthant:
        off = off | runs_off(point, Backend(centering(LOOSE, time_limit, point.program.structure)), seen)
    return torch.where((good & off).unsqueeze(-1), torch.inf, residuals)

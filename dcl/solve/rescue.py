"""The last attempt for an instance that no solver has solved: a vertex near its best point."""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.point import OPTIMAL_TOLERANCE, Point, worst
from dcl.solve.attainment import judged
from dcl.solve.backend import Backend
from dcl.solve.crossover import SIZE_LIMIT, vertex
from dcl.solve.polish import polish
from dcl.solvers.choose import centering, vertex_solvers

# The tolerance of the interior point from which an active-set method starts.
_TIGHT = 1e-11


def order_of(point: Point, residuals: Tensor) -> Tensor:
    """(B,) by which the best point is kept: the residual of answers, and after them the net residual."""
    size = worst(residuals)
    if bool((size <= OPTIMAL_TOLERANCE).all()):
        return size
    return torch.where(size <= OPTIMAL_TOLERANCE, size, 1.0 + worst(point.measures()[1]))


def vertex_near(point: Point, time_limit: float | None) -> tuple[Point, Tensor] | None:
    """An answer and its residuals (1, 3), if `dcl.solve.crossover` finds one near a point of a program without curved cones."""
    structure = point.program.structure
    if not (structure.cone.is_orthant and structure.n + structure.m <= SIZE_LIMIT):
        return None
    one = point.program.detach()
    x = Backend(centering(_TIGHT, time_limit)).solve(one).x
    center = x if bool(torch.isfinite(x).all()) else point.x
    for solver in vertex_solvers(time_limit):
        found = vertex(one, center, Backend(solver))
        if found is not None:
            found = polish(found)
            measured = judged(found, time_limit)
            if float(worst(measured)) <= OPTIMAL_TOLERANCE:
                return found, measured
    return None

"""The last attempts for an instance that no solver has solved: its vertex by its smallest costs, or one near its best point.

Solvers stop where reduced costs are within 1e-10 or so of the largest cost.  In a linear program with costs of 1e-9 beside 5
the small ones decide which vertex it is, and where the large ones belong to entries of x that are zero, they are the value:

    minimize (f q)'x,   f = 1 / min |q_j|, q_j != 0,   a power of two:      x the same,   z = z' / f

A simplex method has multipliers to the rounding of their terms, whatever its tolerance, so that this one is for the small
costs then.  The vertex is polished and judged in the program's own units, as every answer.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dcl.point import OPTIMAL_TOLERANCE, Point, worst
from dcl.program import ConeProgram
from dcl.solve.attainment import judged
from dcl.solve.backend import Backend
from dcl.solve.crossover import SIZE_LIMIT, vertex
from dcl.solve.polish import polish
from dcl.solvers.choose import centering, vertex_solvers

# The smallest cost is another unit where the largest is so many times larger.
_APART = 1e3
# The tolerance of the interior point from which an active-set method starts.
_TIGHT = 1e-11


def order_of(point: Point, residuals: Tensor) -> Tensor:
    """(B,) by which the best point is kept: the residual of answers, and after them the net residual."""
    size = worst(residuals)
    if bool((size <= OPTIMAL_TOLERANCE).all()):
        return size
    return torch.where(size <= OPTIMAL_TOLERANCE, size, 1.0 + worst(point.measures()[1]))


def vertex_near(point: Point, time_limit: float | None) -> tuple[Point, Tensor] | None:
    """An answer and its residuals (1, 3) of a program without curved cones, None if there is none.

    It is the vertex of a linear program by its smallest costs, else what `dcl.solve.crossover` finds near the point.
    """
    structure = point.program.structure
    if not (structure.cone.is_orthant and structure.n + structure.m <= SIZE_LIMIT):
        return None
    one = point.program.detach()
    found = _by_small_costs(one, time_limit)
    if found is not None:
        return found
    x = Backend(centering(_TIGHT, time_limit)).solve(one).x
    center = x if bool(torch.isfinite(x).all()) else point.x
    for solver in vertex_solvers(time_limit):
        near = vertex(one, center, Backend(solver))
        found = None if near is None else _answer(near, time_limit)
        if found is not None:
            return found
    return None


def _by_small_costs(program: ConeProgram, time_limit: float | None) -> tuple[Point, Tensor] | None:
    """The vertex of a linear program whose costs are far apart, by the header."""
    size = program.q.abs()
    size = size[size > 0.0]
    if bool((program.P != 0.0).any()) or not size.numel() or float(size.max()) < _APART * float(size.min()):
        return None
    f = torch.exp2(-torch.floor(torch.log2(size.min())))
    for solver in vertex_solvers(time_limit):
        found = Backend(solver).solve(replace(program, q=f * program.q))
        if found.is_solved[0]:
            answer = _answer(Point(program, found.x, found.z / f - (program.b - program.Ax(found.x))), time_limit)
            if answer is not None:
                return answer
    return None


def _answer(point: Point, time_limit: float | None) -> tuple[Point, Tensor] | None:
    """The point, polished, and its residuals, if they are those of an answer."""
    point = polish(point)
    measured = judged(point, time_limit)
    return (point, measured) if float(worst(measured)) <= OPTIMAL_TOLERANCE else None

"""What is tried for an instance that no solver has solved: a vertex near its best point, or a certificate of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dcl.point import OPTIMAL_TOLERANCE, Point, worst
from dcl.program import ConeProgram
from dcl.program.pattern import DensePattern
from dcl.solve.attainment import judged
from dcl.solve.certificates import direction, multipliers
from dcl.solve.crossover import SIZE_LIMIT, vertex
from dcl.solve.polish import polish
from dcl.solvers.base import AbstractSolver, Iterates
from dcl.solvers.clarabel import Clarabel
from dcl.solvers.daqp import Daqp
from dcl.solvers.highs import Highs
from dcl.solvers.host import to_host
from dcl.status import Status

# Of the interior point from which an active-set method starts, and of the method, which may not end: seconds.
_TIGHT, _LOOSE, _PATIENCE = 1e-11, 1e-9, 2.0


def order_of(point: Point, residuals: Tensor) -> Tensor:
    """(B,) by which the best point is kept: the residual of answers, and after them the net residual."""
    size = worst(residuals)
    if bool((size <= OPTIMAL_TOLERANCE).all()):
        return size
    return torch.where(size <= OPTIMAL_TOLERANCE, size, 1.0 + worst(point.measures()[1]))


def vertex_near(point: Point, solvers: Sequence[AbstractSolver]) -> tuple[Point, Tensor] | None:
    """An answer and its residuals (1, 3), if `dcl.solve.crossover` finds one near a point of a program without curved cones."""
    structure = point.program.structure
    is_dense = isinstance(structure.A, DensePattern) and isinstance(structure.P, DensePattern)
    if not (structure.cone.is_orthant and is_dense and structure.n + structure.m <= SIZE_LIMIT):
        return None
    one, limit = point.program.detach(), solvers[0].time_limit
    host = to_host(one)
    out = Iterates.empty(1, host.n, host.m)
    Clarabel(eps=_TIGHT, time_limit=limit).solve(host, [0], out)
    center = torch.from_numpy(out.x).to(point.x.device) if np.isfinite(out.x).all() else point.x
    for solver in (Daqp(time_limit=limit), Highs(eps=_LOOSE, time_limit=limit or _PATIENCE)):
        found = vertex(one, center, solver)
        if found is not None:
            found = polish(found)
            measured = judged(found, limit)
            if float(worst(measured)) <= OPTIMAL_TOLERANCE:
                return found, measured
    return None


def proof_of(program: ConeProgram, i: int, solvers: Sequence[AbstractSolver]) -> tuple[Status, Tensor] | None:
    """The status and certificate (n + m,) of instance i if `dcl.solve.certificates` finds one."""
    one = program.rows(torch.tensor([i], device=program.q.device)).detach()
    solver = Clarabel(time_limit=solvers[0].time_limit)
    z = multipliers(one, solver)
    if z is not None:
        return Status.PRIMAL_INFEASIBLE, torch.cat([torch.full_like(one.q[0], torch.nan), z])
    x = direction(one, solver)
    return None if x is None else (Status.DUAL_INFEASIBLE, torch.cat([x, torch.full_like(one.b[0], torch.nan)]))

"""From an interior point to a vertex, where a quadratic or linear program is so degenerate that Newton's steps fail.

An interior point's active set is a guess where slack and multiplier are both 1e-7 in hundreds of rows.  An active-set method
decides it, if the program is strictly convex and near its solution; so it is given proximal-point steps (Rockafellar 1976)

    x_k+1 = argmin  1/2 x'Px + q'x + l/2 |x - x_k|^2   subject to   Ax + s = b,  s >= 0        x_0 the interior point

On polyhedra they end at a solution after finitely many; l falls from step to step.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dcl.point import Point, worst
from dcl.program import ConeProgram
from dcl.solvers.base import AbstractSolver, Claim, Iterates
from dcl.solvers.host import to_host

# l, for an objective of size one.  With a smaller one fewer steps are needed, but methods give up on some of them.
_PROXIMAL = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
# Of n + m: an active-set method takes a step for each row that it is wrong about, and K is singular, with eigenvalues to find.
SIZE_LIMIT = 3000


def vertex(program: ConeProgram, center: Tensor, solver: AbstractSolver) -> Point | None:
    """The best point after proximal steps from center (1, n), by its net residual; None if there is none.

    program: one dense instance of a linear or quadratic program.
    """
    eye = torch.eye(program.structure.n, dtype=center.dtype, device=center.device)
    best, least = None, torch.inf
    for shift in _PROXIMAL:
        near = replace(program, P=program.P + shift * eye, q=program.q - shift * center)
        host = to_host(near)
        out = Iterates.empty(1, host.n, host.m)
        solver.solve(host, [0], out)
        if out.claim[0] == Claim.TIME_LIMIT:
            break
        if out.claim[0] != Claim.SOLVED or not (np.isfinite(out.x).all() and np.isfinite(out.z).all()):
            continue
        center, z = (torch.from_numpy(t).to(center.device) for t in (out.x, out.z))
        point = Point(program, center, z - (program.b - program.Ax(center)))
        size = float(worst(point.measures()[1]))
        if size < least:
            best, least = point, size
    return best

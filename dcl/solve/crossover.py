"""From an interior point to a vertex, where a quadratic or linear program is so degenerate that Newton's steps fail.

An interior point's active set is a guess where slack and multiplier are both 1e-7 in hundreds of rows.  An active-set method
decides it, if the program is strictly convex and near its solution; so it is given proximal-point steps (Rockafellar 1976)

    x_k+1 = argmin  1/2 x'Px + q'x + l/2 |x - x_k|^2   subject to   Ax + s = b,  s >= 0        x_0 the interior point

On polyhedra they end at a solution after finitely many; l falls from step to step.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dcl.point import Point, worst
from dcl.program import ConeProgram
from dcl.program.pattern import SparsePattern
from dcl.solve.backend import Backend
from dcl.solvers.base import Claim

# l, for an objective of size one.  With a smaller one fewer steps are needed, but methods give up on some of them.
_PROXIMAL = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
# Of n + m: an active-set method takes a step for each row that it is wrong about, and K is singular, with eigenvalues to find.
SIZE_LIMIT = 3000


def vertex(program: ConeProgram, center: Tensor, backend: Backend) -> Point | None:
    """The best point after proximal steps from center (1, n), by its net residual; None if there is none.

    program: one instance of a linear or quadratic program.
    """
    convex, eye = _with_diagonal(program)
    best, least = None, torch.inf
    for shift in _PROXIMAL:
        near = replace(convex, P=convex.P + shift * eye, q=program.q - shift * center)
        found = backend.solve(near)
        if found.claim[0] == Claim.TIME_LIMIT:
            break
        if not found.is_solved[0]:
            continue
        center = found.x
        point = Point(program, center, found.z - (program.b - program.Ax(center)))
        size = float(worst(point.measures()[1]))
        if size < least:
            best, least = point, size
    return best


def _with_diagonal(program: ConeProgram) -> tuple[ConeProgram, Tensor]:
    """The same program with the diagonal in the pattern of P, and I on that pattern."""
    n, pattern = program.structure.n, program.structure.P
    if not isinstance(pattern, SparsePattern):
        return program, torch.eye(n, dtype=program.P.dtype, device=program.P.device)
    on = pattern.rows == pattern.cols
    there = torch.zeros(n, dtype=torch.bool, device="cpu").index_fill(0, pattern.rows[on], True)
    missing = torch.nonzero(~there).flatten()
    rows, cols = torch.cat([pattern.rows, missing]), torch.cat([pattern.cols, missing])
    structure = replace(program.structure, P=SparsePattern((n, n), rows, cols))
    P = torch.cat([program.P, program.P.new_zeros(program.P.shape[0], len(missing))], -1)
    return replace(program, structure=structure, P=P), (rows == cols).to(P)

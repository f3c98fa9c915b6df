"""Newton's step with F in extended precision: how far a point is from the solution, whatever units and condition are.

A residual is relative to the terms of its row, and the condition of S in one unit says nothing of residuals in another.  Where S
is regular only in its best units (`dcl.kkt.Conditioning`), the step K^-1 (-F) itself is the error of x and z up to its square, as
long as F has digits: those of extended precision, `dcl.kkt.extended`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.kkt.extended import residual
from dcl.point.point import Point
from dcl.program import magnitude


def sharp_step(point: Point, rows: Tensor) -> tuple[Tensor, Tensor]:
    """-K^-1 F at mu = 0: dx (B, n), dv (B, m), zero but for the instances `rows`, whose P and A are made dense; for orthants."""
    program, structure, x = point.program, point.program.structure, point.x
    P, A = (M.expand(x.shape[0], -1, -1)[rows] for M in (structure.P.dense(program.P), structure.A.dense(program.A)))
    M = torch.cat([torch.cat([P, A.mT], -1), torch.cat([A, A.new_zeros(len(rows), structure.m, structure.m)], -1)], -2)
    z = structure.cone.project(point.v, 0.0)
    right = torch.cat([-program.q.expand_as(x), program.b + (point.v - z)], -1)[rows]  # v - z is exact: -s or 0
    f = torch.zeros(*x.shape[:1], structure.n + structure.m, dtype=x.dtype, device=x.device)
    at = torch.cat([x, z], -1)[rows].unsqueeze(-1)
    f = f.index_copy(0, rows, residual(M, at, right.unsqueeze(-1)).squeeze(-1))
    dx, dv, _ = point.kkt.tangent(f[:, : structure.n], f[:, structure.n :])
    return dx, dv


def errors(point: Point) -> Tensor:
    """(B,) the step of the header relative to 1 + the point; 0 where S is regular in the units of its rows."""
    scaled = torch.nonzero(point.kkt.conditioning.scaled).squeeze(-1)
    if not scaled.numel():
        return torch.zeros_like(point.x[:, 0])
    dx, dv = sharp_step(point, scaled)
    in_x = magnitude(dx) / (1.0 + magnitude(point.x))
    return torch.maximum(in_x, magnitude(point.kkt.D.apply(dv)) / (1.0 + magnitude(point.z)))

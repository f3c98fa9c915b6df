"""Which inequalities of each row of a sweep are active: one column for each of their rows, one for each curved cone.

At mu = 0 the point of the normal map is v = z - s, and the multiplier is its projection on the dual cone, in the units of
`dcl.program.scaling`:

    row i of an orthant     v_i > 0               K a curved cone     |P(v_K)| > 0, zero as soon as s_K is inside of K

A multiplier that is rounding, or an interior-point method's last residual, projects to zero where the slack is inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dcl.cones.base import AbstractCone
from dcl.program import magnitude
from dcl.program.scaling import scaled
from dcl.programs.model import Model

_ZERO = 1e-8  # of a multiplier, absolute up to the largest of size one, then relative: the tolerance of the check


def columns(cone: AbstractCone) -> int:
    """How many columns: the rows of orthants, and the number of curved cones."""
    return sum(block.count * (block.size if block.is_orthant else 1) for block in cone.blocks if block.kind != "zero")


def curved_activity(model: Model, tensors: Sequence[Tensor], x: Tensor, z: Tensor) -> Tensor:
    """(B, columns), bool, at the points x (B, n) and z (B, m) for the parameters `tensors`, (B or none, *shape) each."""
    program = model.stated(tensors)[0].program.detach()
    _, units = scaled(program)
    v = units.scaled_dual(z) - (program.b - program.Ax(x)) * units.E
    cone = program.structure.cone
    multipliers = cone.project(v, 0.0)
    width = _ZERO * magnitude(multipliers).clamp(min=1.0).unsqueeze(-1)
    sizes, at = [], 0
    for block in cone.blocks:
        rows = block.rows * block.count
        if block.kind != "zero":
            each = 1 if block.is_orthant else block.rows
            sizes.append(multipliers[:, at : at + rows].reshape(len(multipliers), rows // each, each).norm(dim=-1))
        at += rows
    return torch.cat(sizes, -1) > width

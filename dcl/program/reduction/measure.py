"""How far a point is from a solution of the program as given, as the core measures it (dcl/core/residuals.hpp, `dcl.point`).

    primal  |Ax + s - b|_i / (floor + |A||x| + |s| + |b|)_i      dual  |Px + q + A'z|_j / (floor + |P||x| + |q| + |A|'|z|)_j
    gap     |x'Px + q'x + b'z| / (floor + |x|'|P||x| + |q|'|x| + |b|'|z|)        z's = 0 at mu = 0, mu times their number else

and net: relative to the largest of |Px|, |q|, |A'z|, and of |Ax|, |b| on the rows that hold with equality.  The floor is 1e-5 of
the largest entry of a row, and of the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.program import magnitude
from dcl.program.reduction.elimination import Eliminated

_FLOOR = 1e-5


@dataclass(frozen=True, eq=False)
class Measured:
    """r_x = -(Px + q + A'z) (B, n), s (B, m), r_z = b - Ax - s (B, m), Px (B, n); residuals: primal, dual, gap, net (B, 4)."""

    r_x: Tensor
    r_z: Tensor
    s: Tensor
    Px: Tensor
    residuals: Tensor

    @property
    def worst(self) -> Tensor:
        """The largest residual, (B,); NaN counts as infinite."""
        return self.residuals.amax(-1).nan_to_num(nan=torch.inf)


def measured(t: Eliminated, g: Tensor, h: Tensor, x: Tensor, z: Tensor, strong: Tensor, mu: Tensor | None) -> Measured:
    """The point x (B, n), z (B, m) for g = -q, h = b, in the order of the partition.

    strong: rows that hold with equality, (B or 1, m); the others have s >= 0, or s = mu / z for mu (B or 1,).
    """
    Px, ATz, Ax = t.products(x, z)
    P_sizes, A_sizes, Ax_sizes = t.sizes(x, z)
    slack = h - Ax
    s = torch.where(strong, 0.0, slack.clamp_min(0.0) if mu is None else mu.unsqueeze(-1) / z)
    r_x, r_z = g - Px - ATz, slack - s
    q, b, unit = g.abs(), h.abs(), t.row_sizes
    objective = torch.maximum(t.size_P, magnitude(g))
    objective = torch.where(objective > 0.0, objective, 1.0)
    dual = magnitude(r_x / (_FLOOR * objective.unsqueeze(-1) + P_sizes + q + A_sizes))
    primal = magnitude(r_z / (_FLOOR * unit + Ax_sizes + s + b))
    slope = ((Px - g) * x).sum(-1) + ((h - s) * z).sum(-1)
    terms = ((P_sizes + q) * x.abs()).sum(-1) + (b * z.abs()).sum(-1)
    largest = torch.maximum(magnitude(Px), torch.maximum(magnitude(g), magnitude(ATz)))
    held = torch.where(s == 0.0, torch.maximum(Ax.abs(), b) / unit, 0.0)
    net = torch.maximum(magnitude(r_x) / (objective + largest), magnitude(r_z / unit) / (1.0 + magnitude(held)))
    columns = (primal, dual, slope.abs() / (_FLOOR * objective + terms), net)
    return Measured(r_x, r_z, s, Px, torch.stack(torch.broadcast_tensors(*columns), -1))

"""Which rows sit at a kink of the mu = 0 projection: slack and multiplier zero up to rounding (the one place for this).

In the units of `dcl.program.scaling` a row counts as tied below TIE_TOLERANCE.  For rows of an orthant that is taken relative to
what the row acts on, wherever its terms are smaller than one: a multiplier of 1e-10 is not zero in a column whose other
terms are 1e-9 (an objective with one large entry elsewhere), nor is a slack of 1e-10 if x and b are 1e-9.

    multiplier z_i of row i  against  min_j (|Px| + |q| + |A|'|z|)_j / |A_ij|      slack s_i  against  max((|A||x| + |b|)_i, |x|)

Never below what rounding leaves of these terms, nor of the largest multiplier.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dcl.cones.base import TIE_ROUNDING, TIE_TOLERANCE, Barrier
from dcl.cones.by_rows import exact_instances
from dcl.program import ConeProgram, magnitude

# Terms below this are rounding themselves, for an objective of size one.
_FLOOR = 1e-5


def kinks(program: ConeProgram, v: Tensor, mu: Barrier, x: Tensor | None = None) -> Tensor:
    """The value of D at the kinks at v (B, m): 1/2 there, NaN elsewhere. Without x (B, n) no row is looked at closely."""
    nowhere = torch.full_like(v, torch.nan)
    exact = exact_instances(mu, v.shape[0])
    if exact is None or not v.shape[-1]:
        return nowhere
    distance = program.structure.cone.kink_distance(v)
    tied = (distance <= tie_width(program, v)) & exact.to(v.device).unsqueeze(-1)
    if x is not None:
        index = torch.nonzero(tied.any(-1)).squeeze(-1)
        if index.numel():
            width = _row_width(program.rows(index), x[index], v[index])
            tied = tied.index_copy(0, index, tied[index] & (distance[index] <= width))
    return torch.where(tied, 0.5, nowhere)


def tie_width(program: ConeProgram, v: Tensor) -> Tensor:
    """How large |v_i| may be at a kink, (B, m): v_i > 0 is a multiplier, v_i < 0 the negative of a slack."""
    largest = magnitude(v.clamp(min=0.0)).unsqueeze(-1)
    return (TIE_ROUNDING * torch.where(v > 0.0, largest, program.b.abs())).clamp(min=TIE_TOLERANCE)


def _row_width(program: ConeProgram, x: Tensor, v: Tensor) -> Tensor:
    """`tie_width` with the terms of each row of an orthant looked at, (B, m); inf for rows of other cones."""
    structure = program.structure
    absolute = replace(program, A=program.A.abs())
    z = structure.cone.project(v, 0.0).abs()
    columns = program.Px(x).abs() + program.q.abs() + absolute.ATz(z)
    dual = structure.A.row_minimum(absolute.A, columns)
    primal = absolute.Ax(x.abs()) + program.b.abs()
    size = magnitude(x).clamp(max=1.0).unsqueeze(-1)
    width = TIE_TOLERANCE * torch.where(v > 0.0, dual.clamp(_FLOOR, 1.0), torch.maximum(primal, size).clamp(max=1.0))
    # what rounding leaves of x where it is zero: stationarity is solved to the rounding of its terms, P and q up to size one
    noise = 0.1 * TIE_ROUNDING * magnitude(columns).clamp(min=1e-2).unsqueeze(-1)
    rounding = torch.where(
        v > 0.0, 0.1 * TIE_ROUNDING * magnitude(z).unsqueeze(-1), torch.maximum(TIE_ROUNDING * primal, noise)
    )
    blocks = structure.cone.blocks
    orthant = torch.cat([v.new_full((b.rows * b.count,), b.is_orthant, dtype=torch.bool) for b in blocks])
    return torch.where(orthant, torch.maximum(width, rounding), torch.inf)

"""The core's answer in the form of the careful lane, which then differentiates at this point without solving again."""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.cones.by_rows import exact_instances
from dcl.core import dense
from dcl.implicit import GAP, ITERATIONS, PRIMAL, SECONDS, STATUS, Known
from dcl.layers.lane import AbstractKept
from dcl.program import ConeProgram
from dcl.program.scaling import in_units
from dcl.status import Status


def known_of(kept: AbstractKept, program: ConeProgram, mu: Tensor | None, seconds: float = 0.0) -> Known:
    """x, v = z - s in the units of `dcl.program.scaling`, and a report; instances that are not certified have no derivative.

    program: as the careful lane states it, rows [A; G; -I (lb); I (ub)].  A multiplier of an orthant that is
    zero in the core is exactly so.
    mu (B or 1,): that of the call, zero or None for the exact point.  seconds: of the whole batch.
    """
    program, units, columns = in_units(program.detach(), 0.0 if mu is None else mu.unsqueeze(-1))
    x, z = kept.point()
    if columns is not None:
        x = x / columns
    zeros = program.structure.cone.zeros
    s = program.b - program.Ax(x)
    if program.structure.cone.is_orthant and mu is not None:
        # an infinite side, whose multiplier is zero in the core, reads 0'x + s = 1 here, and its multiplier is mu
        z[:, zeros:] = torch.where(z[:, zeros:] == 0.0, mu.unsqueeze(-1), z[:, zeros:])
    z = units.scaled_dual(z)
    v = z - s
    if program.structure.cone.is_orthant:
        exact = exact_instances(0.0 if mu is None else mu.unsqueeze(-1), x.shape[0])
        if exact is not None:
            v = torch.where(exact.unsqueeze(-1), torch.where(z > 0.0, z, -s), v)
    v[:, :zeros] = z[:, :zeros]
    report = torch.zeros(x.shape[0], GAP + 1, dtype=torch.float64, device="cpu")
    report[:, STATUS] = torch.where(
        kept.status == dense.Code.CERTIFIED, Status.OPTIMAL, Status.NUMERICAL_ERROR
    ).double()
    report[:, ITERATIONS], report[:, PRIMAL:] = kept.iterations, kept.residuals
    report[:, SECONDS] = seconds / x.shape[0]
    return Known(x, v, torch.full_like(v, torch.nan), report)

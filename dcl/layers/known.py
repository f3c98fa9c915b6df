"""The core's answer as what the careful lane knows of a solution, so that it differentiates there without solving again."""

from __future__ import annotations

import torch

from dcl.core import dense
from dcl.implicit import GAP, ITERATIONS, PRIMAL, SECONDS, STATUS, Known
from dcl.program import ConeProgram
from dcl.scaling import scaled
from dcl.status import Status


def known_of(answer: dense.Answer, program: ConeProgram, seconds: float = 0.0) -> Known:
    """x, v = z - s in the units of `dcl.scaling`, and a report; instances that are not certified have no derivative.

    program: as the careful lane states it, rows [A; G; -I (lb); I (ub)].  A multiplier that is zero in the core is exactly so.
    seconds: of the whole batch.
    """
    program, units = scaled(program.detach())
    z = units.scaled_dual(torch.cat([answer.y, answer.z, answer.z_lb, answer.z_ub], -1))
    s = program.b - program.Ax(answer.x)
    zeros = program.structure.cone.zeros
    on_path = bool((z[:, zeros:] > 0.0).all()) and bool((s[:, zeros:] > 0.0).all())
    v = z - s if on_path else torch.where(z > 0.0, z, -s)
    v[:, :zeros] = z[:, :zeros]
    report = torch.zeros(answer.x.shape[0], GAP + 1, dtype=torch.float64, device="cpu")
    report[:, STATUS] = torch.where(
        answer.status == dense.Code.CERTIFIED, Status.OPTIMAL, Status.NUMERICAL_ERROR
    ).double()
    report[:, ITERATIONS], report[:, PRIMAL:] = answer.iterations, answer.residuals
    report[:, SECONDS] = seconds / answer.x.shape[0]
    return Known(answer.x, v, torch.full_like(v, torch.nan), report)

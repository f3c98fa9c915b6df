"""The core's answer as what the careful lane knows of a solution, so that it differentiates there without solving again."""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.core import dense
from dcl.core.conic import ConicAnswer
from dcl.implicit import GAP, ITERATIONS, PRIMAL, SECONDS, STATUS, Known
from dcl.program import ConeProgram
from dcl.program.rows import Rows
from dcl.program.scaling import scaled
from dcl.status import Status


def known_of(
    answer: dense.Answer | ConicAnswer, program: ConeProgram, rows: Rows, mu: Tensor | None, seconds: float = 0.0
) -> Known:
    """x, v = z - s in the units of `dcl.program.scaling`, and a report; instances that are not certified have no derivative.

    program: as the careful lane states it, rows [A; G; -I (lb); I (ub)].  rows: the answer's are the caller's rows.
    A multiplier of an orthant that is zero in the core is exactly so.  mu (B or 1,): that of the call, None for the exact
    point.  seconds: of the whole batch.
    """
    program, units = scaled(program.detach())
    zeros = program.structure.cone.zeros
    s = program.b - program.Ax(answer.x)
    if isinstance(answer, ConicAnswer):
        v = units.scaled_dual(rows.to_canonical(torch.cat([answer.y, answer.z], -1))) - s
        return _known(answer, v, seconds)
    z = torch.cat([answer.y, answer.z, answer.z_lb, answer.z_ub], -1)
    if mu is None:
        z = units.scaled_dual(z)
        v = torch.where(z > 0.0, z, -s)
    else:
        # an infinite side, whose multiplier is zero in the core, reads 0'x + s = 1 here, and its multiplier is mu
        z[:, zeros:] = torch.where(z[:, zeros:] == 0.0, mu.unsqueeze(-1), z[:, zeros:])
        z = units.scaled_dual(z)
        v = z - s
    v[:, :zeros] = z[:, :zeros]
    return _known(answer, v, seconds)


def _known(answer: dense.Answer | ConicAnswer, v: Tensor, seconds: float) -> Known:
    """The point with v in the program's units, and the report."""
    report = torch.zeros(answer.x.shape[0], GAP + 1, dtype=torch.float64, device="cpu")
    report[:, STATUS] = torch.where(
        answer.status == dense.Code.CERTIFIED, Status.OPTIMAL, Status.NUMERICAL_ERROR
    ).double()
    report[:, ITERATIONS], report[:, PRIMAL:] = answer.iterations, answer.residuals
    report[:, SECONDS] = seconds / answer.x.shape[0]
    # the caller's own x shares memory with the answer
    return Known(answer.x.clone(), v, torch.full_like(v, torch.nan), report)

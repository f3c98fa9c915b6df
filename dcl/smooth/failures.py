"""The error for an argmin without a checked answer: what failed, the numbers, and the remedy."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from dcl.errors import (
    DivergedError,
    FlatError,
    LocallyInfeasibleError,
    NoMinimumError,
    NotStationaryError,
    SaddleError,
)
from dcl.outcome.messages import AbstractCallContext, others
from dcl.program import magnitude
from dcl.smooth.judge import Facts
from dcl.smooth.program import SmoothProgram, Theta
from dcl.status import Status

_ERRORS = {
    Status.NOT_STATIONARY: NotStationaryError,
    Status.RUNS_OFF: DivergedError,
    Status.FLAT: FlatError,
    Status.SADDLE: SaddleError,
    Status.LOCALLY_INFEASIBLE: LocallyInfeasibleError,
}
_SHOWN = 5


class AbstractSmoothContext(AbstractCallContext):
    """What the messages about a smooth program need besides."""

    @abstractmethod
    def check_start(self, program: SmoothProgram, start: Tensor, theta: Theta) -> None:
        """Raise InputError where a parameter is not finite, or f, c or their derivatives are not at start (B, n)."""


def raise_failures(context: AbstractCallContext, facts: Facts, x: Tensor, start: Tensor, sign: float) -> None:
    """Raise the NoMinimumError of the instances whose status is not OPTIMAL. sign: -1 where the objective is maximized."""
    failed = torch.nonzero(facts.status != Status.OPTIMAL).flatten().tolist()
    if not failed:
        return
    statuses = [Status(int(facts.status[i])) for i in failed]
    kinds = list(dict.fromkeys(statuses))
    lines = []
    for kind in kinds:
        those = [i for i, s in zip(failed, statuses, strict=True) if s == kind]
        lines.append(f"{kind.name}: {kind.message}")
        for i in those[:_SHOWN]:
            where = f"batch index {context.index(i)}: " if context.batch_shape else ""
            lines.append(f"  {where}{_numbers(facts, x, start, i, sign)}")
        if len(those) > _SHOWN:
            lines.append(f"  ... and {len(those) - _SHOWN} more")
    error = _ERRORS.get(kinds[0], NoMinimumError) if len(kinds) == 1 else NoMinimumError
    what = "argmin" if sign > 0.0 else "argmax"
    raise error(
        f"no {what} was found.\n  " + "\n  ".join(lines) + others(context, len(failed)),
        indices=[context.index(i) for i in failed],
        statuses=statuses,
        certificates=[None] * len(failed),
    )


def _numbers(facts: Facts, x: Tensor, start: Tensor, i: int, sign: float) -> str:
    largest = float(magnitude(x[i])) if x.shape[-1] else 0.0
    travelled = float(magnitude(x[i] - start[i])) if x.shape[-1] else 0.0
    point = f"y = {float(x[i, 0]):.6g}" if x.shape[-1] == 1 else f"max |y| = {largest:.4g}"
    newton = float(facts.step[i]) * (1.0 + largest)
    weakest, size = sign * float(facts.curvature[i]), float(facts.largest[i])
    text = (
        f"{point}, {travelled:.3g} from y0; |gradient| = {float(facts.gradient[i]):.2g}, Newton step = {newton:.2g}, "
        f"reduced Hessian: {'smallest' if sign > 0.0 else 'largest'} eigenvalue {weakest:.2g} of size up to {size:.2g}"
    )
    violation = float(facts.residuals[i, 0])
    return text if violation <= 1e-8 else f"{text}; constraints violated by {violation:.2g} (relative)"

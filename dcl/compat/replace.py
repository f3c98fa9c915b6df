"""The answers of a `dcl.QPLayer` with those of infeasible instances replaced by the closest feasible program's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcl.compat.closest import Data, closest
from dcl.errors import SolveError
from dcl.layers.qp import QPResult
from dcl.outcome.messages import where
from dcl.outcome.solution import Solution
from dcl.status import Status


@dataclass(frozen=True, eq=False)
class Replaced:
    """x (*batch, n), y (*batch, p), z (*batch, m) and the shifts s_e (*batch, p), s_i (*batch, m), zero where feasible.

    doubts: what makes the derivative of a replaced answer doubtful, in words; empty if nothing does or none is recorded.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    s_e: Tensor
    s_i: Tensor
    doubts: tuple[str, ...] = ()


def replace_infeasible(
    result: QPResult, solution: Solution, given: Sequence[Tensor | None], owner: Sequence[int]
) -> Replaced:
    """The answers, with (P, q, A, b, G, h) `given` to a layer with on_failure="nan"; owner: see `dcl.compat.closest`.

    Raises SolveError for instances that have no answer for another reason than infeasibility, and for those whose closest
    feasible program is unbounded.
    """
    status, batch, n = solution.status.reshape(-1), solution.status.shape, result.x.shape[-1]
    outputs = [result.x, result.y, result.z, torch.zeros_like(result.y), torch.zeros_like(result.z)]
    index = torch.nonzero(status == int(Status.PRIMAL_INFEASIBLE)).flatten()
    doubts: dict[str, None] = {}
    if index.numel():
        p, m = result.y.shape[-1], result.z.shape[-1]
        shapes = ((n, n), (n,), (p, n), (p,), (m, n), (m,))
        blocks = (result.x.new_zeros(size) if t is None else t for t, size in zip(given, shapes, strict=True))
        data = Data(
            *(
                t.to(torch.float64).expand(*batch, *size).reshape(len(status), *size)[index]
                for t, size in zip(blocks, shapes, strict=True)
            )
        )
        found = closest(data, torch.tensor(owner, device=index.device))
        status = status.index_copy(0, index, found.status)
        parts = (found.x, found.y, found.z, found.s_e, found.s_i)
        outputs = [
            t.reshape(len(status), t.shape[-1]).index_copy(0, index, part.to(t.dtype)).reshape(t.shape)
            for t, part in zip(outputs, parts, strict=True)
        ]
        if found.x.requires_grad:
            for i, why in found.doubts(data.A.requires_grad or data.C.requires_grad):
                doubts[why + where(_index(int(index[i]), batch))] = None
    _check(status, batch, set(index.tolist()))
    x, y, z, s_e, s_i = outputs
    return Replaced(x, y, z, s_e, s_i, tuple(doubts))


def _check(status: Tensor, batch: torch.Size, replaced: set[int]) -> None:
    """Raise SolveError if an instance has no answer; the `replaced` ones are infeasible."""
    failed = torch.nonzero(status != int(Status.OPTIMAL)).flatten().tolist()
    if not failed:
        return
    statuses = [Status(int(status[i])) for i in failed]
    lines = []
    for i, kind in zip(failed, statuses, strict=True):
        which = "the closest feasible program is " if i in replaced else ""
        lines.append(f"{which}{kind.name}{where(_index(i, batch))}: {kind.message}")
    raise SolveError(
        "no optimal solution.\n  " + "\n  ".join(lines),
        indices=[_index(i, batch) for i in failed],
        statuses=statuses,
        certificates=[None] * len(failed),
    )


def _index(i: int, batch: torch.Size) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(i, batch)) if batch else ()

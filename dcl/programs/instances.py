"""One instance of a `dcl.Solution`, and one instance repeated, as a place to start from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dcl.outcome.solution import Solution

_BY_INSTANCE = (
    "canonical_x", "z", "s", "value", "status", "primal_residual", "dual_residual", "gap", "iterations", "seconds", "solver",
)  # fmt: skip


def instance(solution: Solution, place: int) -> Solution:
    """The instance at `place` of the flattened batch, without batch dimensions."""
    lead, count = solution.status.ndim, solution.status.numel()

    def one(t: Tensor) -> Tensor:
        return t.reshape(count, *t.shape[lead:])[place]

    index = torch.tensor([place])
    mu = solution._mu
    columns = solution._columns
    certificate = None if solution.certificate is None else one(solution.certificate)
    rest: dict[str, Any] = {name: one(getattr(solution, name)) for name in _BY_INSTANCE}
    return replace(
        solution,
        outputs=tuple(one(t) for t in solution.outputs),
        certificate=certificate,
        _program=solution._program.rows(index).expanded(1),
        _v=solution._v[index],
        _mu=mu[index] if isinstance(mu, Tensor) and mu.shape[0] > 1 else mu,
        _columns=columns if columns is None or len(columns) == 1 else columns[index],
        known_degeneracy=None,
        **rest,
    )


def repeated(solution: Solution, place: int, count: int) -> Solution:
    """`count` times the point at `place` of the flattened batch, to start from; only x, z and s mean anything."""

    def one(t: Tensor) -> Tensor:
        return t.reshape(solution.status.numel(), t.shape[-1])[place].expand(count, -1)

    return replace(solution, canonical_x=one(solution.canonical_x), z=one(solution.z), s=one(solution.s))

"""The fast lane: a call of a layer as one autograd node around the compiled core, where nothing but the answer is asked for.

    layer -> merge the batch dimensions -> core: solve, certify -> outputs           backward: core's adjoint with the kept factor

The core certifies instance by instance (`dcl.core.dense`).  Instances that it does not certify go through the careful lane,
which alone speaks of failures and degenerate points; their rows replace those of the core.  Where more than first
derivatives in reverse mode is asked for, the careful lane differentiates at the point that the core has found.

A layer says with an `AbstractMap` how its tensors become a program of the core, and how the core's answer becomes its outputs.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.core import dense
from dcl.core.conic import ConicAnswer
from dcl.errors import InputError
from dcl.frontends.batching import Batching
from dcl.outcome.solution import Solution
from dcl.torch_modes import is_ordinary, is_plain

Grads = Sequence[Tensor | None]


Answer = dense.Answer | ConicAnswer


class Core(Protocol):
    """The functions of the core for one kind of program: `dcl.core.dense`, or a `dcl.core.conic.ConicCore`."""

    def solve(
        self,
        data: Mapping[str, Tensor],
        batch: int,
        *,
        mu: Tensor | None = None,
        start: Mapping[str, Tensor] | None = None,
        threads: int = 1,
    ) -> Any:
        """Solve and certify."""

    def adjoint(
        self,
        answer: Any,
        data: Mapping[str, Tensor],
        cotangents: Mapping[str, Tensor],
        wanted: Sequence[str],
        *,
        threads: int = 1,
    ) -> dict[str, Tensor]:
        """The vector-Jacobian product."""


class AbstractMap(ABC):
    """From the caller's tensors, merged to (B or 1, ...), to a program of the core, and back; each map beside its adjoint."""

    core: Core

    @abstractmethod
    def data(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        """The blocks of the core's `solve`. Raises InputError for what the core does not look at."""

    @abstractmethod
    def outputs(self, answer: Any, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The layer's outputs, (B, ...) each."""

    @abstractmethod
    def cotangents(self, grads: Grads) -> dict[str, Tensor]:
        """Adjoint of `outputs` in the answer: contiguous cotangents for the names of the core's OUTPUTS."""

    @abstractmethod
    def wanted(self, needed: Sequence[bool]) -> list[str]:
        """The blocks whose gradients are needed for those of the tensors that are `needed`."""

    @abstractmethod
    def gradients(self, blocks: Mapping[str, Tensor], grads: Grads, needed: Sequence[bool]) -> list[Tensor | None]:
        """Adjoint of `data` (and of what `outputs` reads of the tensors directly), (B or 1, ...) each."""


@dataclass(frozen=True, eq=False)
class Lane:
    """One layer's way through the core for arguments of given shapes. cores: dimensions of each that are no batch dimensions."""

    map: AbstractMap
    batch: Batching
    cores: tuple[int, ...]

    def merged(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors, detached, (B or 1, ...), contiguous."""
        return [self.batch.merge(t.detach(), core).contiguous() for t, core in zip(tensors, self.cores, strict=True)]

    def restored(self, g: Tensor, t: Tensor, core: int) -> Tensor:
        """The gradient (B or 1, ...) of the merged t as one of t: summed over what was broadcast."""
        rest = t.shape[t.ndim - core :]
        if g.shape[0] == 1:
            return g.reshape(t.shape)
        return g.reshape((*self.batch.shape, *rest)).sum_to_size(t.shape)


@dataclass(eq=False)
class FastCall:
    """One call.

    differentiable(tensors, answer): the outputs again, by the careful lane, at the core's point if it is given.
    start: x (B, n) and z (B, m) to start from.  answer: what the core found, and in how many seconds, once it was asked.
    """

    lane: Lane
    mu: Tensor | None
    threads: int
    differentiable: Callable[[Sequence[Tensor], Answer | None], tuple[Tensor, ...]]
    start: tuple[Tensor, Tensor] | None = None
    answer: Answer | None = None
    seconds: float = 0.0
    data: dict[str, Tensor] | None = None

    def outputs(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Ask the core."""
        lane = self.lane
        given = lane.merged(tensors)
        self.data = lane.map.data(given)
        began = time.perf_counter()
        start = None if self.start is None else _start(self.data, *self.start)
        self.answer = lane.map.core.solve(self.data, lane.batch.size, mu=self.mu, start=start, threads=self.threads)
        self.seconds = time.perf_counter() - began
        return tuple(lane.batch.restore(t) for t in lane.map.outputs(self.answer, given))


def started(warm_start: object, batch: Batching) -> tuple[Tensor, Tensor] | None:
    """x (B, n) and z (B, m) to start from, zero where there is no point; None if it is for the careful lane to refuse."""
    if not isinstance(warm_start, Solution) or not (is_ordinary(warm_start.x) and is_ordinary(warm_start.z)):
        return None
    x, z = (t.detach().reshape(-1, t.shape[-1]).nan_to_num() for t in (warm_start.x, warm_start.z))
    on_host = x.device.type == "cpu" and z.device.type == "cpu"
    return (x, z) if on_host and x.shape[0] == z.shape[0] == batch.size else None


def _start(data: Mapping[str, Tensor], x: Tensor, z: Tensor) -> dict[str, Tensor]:
    """x and z in the blocks of the core, rows [A; G; lb; ub]. Raises InputError, which the careful lane puts in words."""
    n, dtype = data["q"].shape[-1], data["q"].dtype
    p, m = (data[name].shape[-2] if name in data else 0 for name in ("A", "G"))
    sizes = [p, m, n if "lb" in data else 0, n if "ub" in data else 0]
    if x.shape[-1] != n or z.shape[-1] != sum(sizes):
        raise InputError("warm_start has other sizes", argument="warm_start")
    parts = dict(zip(("y", "z", "z_lb", "z_ub"), z.split(sizes, -1), strict=True)) | {"x": x}
    return {name: t.to(dtype).contiguous() for name, t in parts.items() if name != "y" and t.numel()}


def mu_in(mu: Tensor | None, batch: Batching) -> Tensor | float:
    """mu of a call, (B or 1,) or None for the exact point, as the caller would give it."""
    if mu is None:
        return 0.0
    return mu if mu.numel() == 1 else mu.reshape(batch.shape)


class Fast(Function):
    """The outputs of a call, differentiable. No transform of torch.func comes here: `setup_context` would cost 40 us."""

    @staticmethod
    def forward(ctx: Any, call: FastCall, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return call.outputs(tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call: FastCall = ctx.call
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        present = [g for g in grads if g is not None]
        if not present:
            return None, *[None] * len(tensors)
        if torch.is_grad_enabled() or not (is_plain() and all(map(is_ordinary, present))):
            return None, *_carefully(call, tensors, grads, needed)
        lane, answer = call.lane, call.answer
        assert answer is not None
        assert call.data is not None
        flat = [None if g is None else g.reshape((lane.batch.size, *g.shape[len(lane.batch.shape) :])) for g in grads]
        blocks = lane.map.core.adjoint(
            answer, call.data, lane.map.cotangents(flat), lane.map.wanted(needed), threads=call.threads
        )
        found = lane.map.gradients(blocks, flat, needed)
        return None, *(
            None if g is None else lane.restored(g, t, core).to(t.dtype)
            for g, t, core in zip(found, tensors, lane.cores, strict=True)
        )


def _carefully(call: FastCall, tensors: Sequence[Tensor], grads: Grads, needed: Sequence[bool]) -> list[Tensor | None]:
    """The same gradients as a graph that can be differentiated again."""
    assert call.answer is not None
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # aliases: one argument may be computed from another, or be the same tensor, and its hooks run where torch calls them
        inputs = [t.view_as(t) if n else t.detach() for t, n in zip(tensors, needed, strict=True)]
        # the outputs share memory with the answer, and the caller may have changed them in place
        untouched = all(t._version == 0 for t in (call.answer.x, call.answer.y, call.answer.z, call.answer.value))
        outputs = call.differentiable(inputs, call.answer if untouched else None)
        pairs = [(y, g) for y, g in zip(outputs, grads, strict=True) if g is not None and y.requires_grad]
        wanted = [t for t, n in zip(inputs, needed, strict=True) if n]
        found = iter(
            torch.autograd.grad(
                [y for y, _ in pairs], wanted, [g for _, g in pairs], create_graph=create, allow_unused=True
            )
            if pairs
            else [None] * len(wanted)
        )
    return [next(found) if n else None for n in needed]

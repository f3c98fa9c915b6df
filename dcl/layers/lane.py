"""The fast lane: a call of a layer as one autograd node around the compiled core, where nothing but the answer is asked for.

    layer -> the tensors as they are -> core: solve, certify -> outputs          backward: core's adjoint with the kept factor

The core certifies instance by instance (`dcl.core.dense`).  Instances that it does not certify go through the careful lane,
which alone speaks of failures and degenerate points; their rows replace those of the core.  Where more than first
derivatives in reverse mode is asked for, the careful lane differentiates at the point that the core has found.

What takes a microsecond a tensor (reshape, to, a view) is left out where it would change nothing: at n = 10 all of the core's
work takes 30, and torch's own bookkeeping 90.

A layer says with an `AbstractWay` how its tensors go through the core and back: `Direct`, by an `AbstractMap` that makes them a
program of the core and the core's answer its outputs, by a reduced program (`dcl.layers.reduced_lane`), or `ConicWay`.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.core import dense
from dcl.errors import InputError
from dcl.frontends.batching import Batching
from dcl.layers.vertex import Linear
from dcl.outcome.solution import Solution
from dcl.torch_modes import is_ordinary, is_plain

Grads = Sequence[Tensor | None]
# The core's work and memory grow with the square of the rows: above, DAQP is faster.
_MOST_ROWS = 1500


class AbstractMap(ABC):
    """From the caller's tensors to a program of the core, and back; each map beside its adjoint.

    The tensors (*lead, ...) are contiguous, with one or B instances in their leading dimensions.
    """

    @abstractmethod
    def data(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        """The blocks of the core's `solve`. Raises InputError for what the core does not look at.

        Law: their shapes and dtypes depend on those of the tensors only.
        """

    @abstractmethod
    def outputs(self, answer: Any, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The layer's outputs, (*batch, ...) each, in the caller's dtype. answer: a `dense.Answer`, or a `ConicAnswer`."""

    @abstractmethod
    def cotangents(self, grads: Grads) -> dict[str, Tensor]:
        """Adjoint of `outputs` in the answer: contiguous cotangents for the names of its OUTPUTS."""

    @abstractmethod
    def wanted(self, needed: Sequence[bool]) -> list[str]:
        """The blocks whose gradients are needed for those of the tensors that are `needed`."""

    @abstractmethod
    def gradients(self, blocks: Mapping[str, Tensor], grads: Grads, needed: Sequence[bool]) -> Sequence[Tensor | None]:
        """Adjoint of `data` (and of what `outputs` reads of the tensors directly), of as many numbers as the tensors have."""


class AbstractKept(Protocol):
    """What a call leaves, for the program as the careful lane states it; `dcl.core.dense.Kept` is one."""

    @property
    def left(self) -> int:
        """How many instances are not certified."""

    @property
    def status(self) -> Tensor:
        """`dcl.core.dense.Code` (B,) int8."""

    @property
    def iterations(self) -> Tensor:
        """Those of the solver (B,)."""

    @property
    def residuals(self) -> Tensor:
        """Primal, dual, gap (B, 3)."""

    @property
    def is_regular(self) -> bool:
        """May the careful lane differentiate at these points?"""

    def point(self) -> tuple[Tensor, Tensor]:
        """x (B, n) and z (B, rows), float64; the caller's to change."""


@dataclass(frozen=True, eq=False)
class Ask:
    """What is asked of the core.

    batch: dimensions.  mu (B or 1,), zero or None for the exact points.  start: x (B, n) and z (B, m) to start from.  keep: for a
    derivative or a `Solution`?
    """

    batch: tuple[int, ...]
    mu: Tensor | None
    start: tuple[Tensor, Tensor] | None
    threads: int
    keep: bool


class AbstractWay(ABC):
    """From the caller's tensors, as an `AbstractMap` takes them, through the core to the outputs, and back.

    mixes: may entries of mu be zero and others not?
    """

    mixes: ClassVar[bool] = True

    @abstractmethod
    def serves(self, needed: Sequence[bool]) -> bool:
        """Does `pull` give the gradients of the tensors that are `needed`?"""

    @abstractmethod
    def ask(self, given: Sequence[Tensor], ask: Ask) -> tuple[tuple[Tensor, ...], AbstractKept]:
        """The layer's outputs, (*batch, ...), in the caller's dtype. Raises InputError for what the core does not look at."""

    @abstractmethod
    def pull(self, kept: AbstractKept, grads: Grads, needed: Sequence[bool], threads: int) -> Sequence[Tensor | None]:
        """Adjoint of `ask` at what it kept, of as many numbers as the tensors have; None where not needed or zero."""


@dataclass(eq=False)
class Direct(AbstractWay):
    """The program as it is. frame: that of the core, from the first call on."""

    map: AbstractMap
    frame: dense.Frame | None = None

    def serves(self, needed: Sequence[bool]) -> bool:
        return True

    def ask(self, given: Sequence[Tensor], ask: Ask) -> tuple[tuple[Tensor, ...], AbstractKept]:
        data = self.map.data(given)
        start = None if ask.start is None else start_blocks(data, *ask.start)
        if self.frame is None:
            self.frame = dense.frame(data, ask.batch)
        answer = dense.solve_framed(self.frame, data, mu=ask.mu, start=start, threads=ask.threads, keep=ask.keep)
        return self.map.outputs(answer, given), answer.kept

    def pull(self, kept: AbstractKept, grads: Grads, needed: Sequence[bool], threads: int) -> Sequence[Tensor | None]:
        assert isinstance(kept, dense.Kept)
        blocks = kept.adjoint(self.map.cotangents(grads), self.map.wanted(needed), threads=threads)
        return self.map.gradients(blocks, grads, needed)


def direct(map: AbstractMap, rows: int) -> Direct | None:
    """The way by the map of a program with so many rows, None where these are too many."""
    return Direct(map) if rows <= _MOST_ROWS else None


@dataclass(frozen=True, eq=False)
class Lane:
    """One layer's way through the core for arguments of given shapes.

    cores: dimensions of each that are no batch dimensions.  spread: must it be repeated along some batch dimensions?
    linear: of a linear program at mu = 0, None for others.
    """

    way: AbstractWay
    batch: Batching
    cores: tuple[int, ...]
    spread: tuple[bool, ...]
    linear: Linear | None = None

    def merged(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors, detached, as an `AbstractMap` takes them."""
        return [
            t.detach() if t.is_contiguous() and not spread else self._copied(t.detach(), core)
            for t, spread, core in zip(tensors, self.spread, self.cores, strict=True)
        ]

    def _copied(self, t: Tensor, core: int) -> Tensor:
        return self.batch.merge(t, core).contiguous()

    def restored(self, g: Tensor, t: Tensor, core: int) -> Tensor:
        """The gradient of a merged tensor as one of t: summed over what was repeated."""
        if g.shape == t.shape:
            return g
        if g.numel() == t.numel():
            return g.reshape(t.shape)
        return g.reshape((*self.batch.shape, *t.shape[t.ndim - core :])).sum_to_size(t.shape)


def lane_of(way: AbstractWay, batch: Batching, tensors: Sequence[Tensor], cores: tuple[int, ...]) -> Lane:
    """The lane for tensors of such shapes."""
    leads = [tuple(t.shape[: t.ndim - core]) for t, core in zip(tensors, cores, strict=True)]
    return Lane(way, batch, cores, tuple(math.prod(lead) != 1 and lead != batch.shape for lead in leads))


@dataclass(eq=False)
class FastCall:
    """One call.

    differentiable(tensors, kept): the outputs again, by the careful lane, at the core's point.  keep: for a derivative or a
    `Solution`?  start: x (B, n) and z (B, m) to start from.  kept: what the core found, and in how many seconds, once it was
    asked; not the outputs themselves, whose graph holds on to the call.
    """

    lane: Lane
    mu: Tensor | None
    threads: int
    differentiable: Callable[[Sequence[Tensor], AbstractKept], tuple[Tensor, ...]]
    keep: bool
    start: tuple[Tensor, Tensor] | None = None
    kept: AbstractKept | None = None
    seconds: float = 0.0

    def outputs(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Ask the core."""
        lane = self.lane
        given = lane.merged(tensors)
        began = time.perf_counter()
        ask = Ask(lane.batch.shape, self.mu, self.start, self.threads, self.keep)
        outputs, self.kept = lane.way.ask(given, ask)
        self.seconds = time.perf_counter() - began
        return outputs


def started(warm_start: object, batch: Batching) -> tuple[Tensor, Tensor] | None:
    """x (B, n) and z (B, m) to start from, zero where there is no point; None if it is for the careful lane to refuse."""
    if not isinstance(warm_start, Solution) or not (is_ordinary(warm_start.canonical_x) and is_ordinary(warm_start.z)):
        return None
    x, z = (t.detach().reshape(-1, t.shape[-1]).nan_to_num() for t in (warm_start.canonical_x, warm_start.z))
    on_host = x.device.type == "cpu" and z.device.type == "cpu"
    return (x, z) if on_host and x.shape[0] == z.shape[0] == batch.size else None


def start_blocks(data: Mapping[str, Tensor], x: Tensor, z: Tensor) -> dict[str, Tensor]:
    """x and z in the blocks of the core, rows [A; G; lb; ub]. Raises InputError, which the careful lane puts in words."""
    n, dtype = data["q"].shape[-1], data["q"].dtype
    p, m = (data[name].shape[-2] if name in data else 0 for name in ("A", "G"))
    sizes = [p, m, n if "lb" in data else 0, n if "ub" in data else 0]
    if x.shape[-1] != n or z.shape[-1] != sum(sizes):
        raise InputError("warm_start has other sizes than this program", argument="warm_start")
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
        lane, kept = call.lane, call.kept
        assert kept is not None
        found = lane.way.pull(kept, grads, needed, call.threads)
        return None, *[
            g if g is None or g.shape == t.shape else lane.restored(g, t, core)
            for g, t, core in zip(found, tensors, lane.cores, strict=True)
        ]


def _carefully(call: FastCall, tensors: Sequence[Tensor], grads: Grads, needed: Sequence[bool]) -> list[Tensor | None]:
    """The same gradients as a graph that can be differentiated again."""
    assert call.kept is not None
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # aliases: one argument may be computed from another, or be the same tensor, and its hooks run where torch calls them
        inputs = [t.view_as(t) if n else t.detach() for t, n in zip(tensors, needed, strict=True)]
        outputs = call.differentiable(inputs, call.kept)
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

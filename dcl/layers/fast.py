"""A call of a layer through the compiled core. The careful lane takes what the core cannot do or does not certify.

the core takes      plain tensors of one dtype on the CPU; everything else is the careful lane's
of its answers      the certified ones stay, the rows of others are replaced by those of the careful lane
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dcl import core
from dcl.about import warn_of_slow_path
from dcl.errors import InputError
from dcl.frontends.batching import Batching
from dcl.layers.known import known_of
from dcl.layers.lane import AbstractKept, Fast, FastCall, Lane, lane_of, mu_in, started
from dcl.layers.verbose import tell_core
from dcl.layers.vertex import watch
from dcl.outcome.messages import Members
from dcl.outcome.solution import Solution
from dcl.torch_modes import is_ordinary, is_plain, is_traced

if TYPE_CHECKING:
    from dcl.layers.base import AbstractLayer

Arguments = Mapping[str, Tensor]
# Ways through the core, for each layer by the shapes of its arguments, at most _LANES of them: no call changes a layer.
_lanes: WeakKeyDictionary[AbstractLayer, dict[Any, Lane | None]] = WeakKeyDictionary()
_LANES = 64


def through_core(
    layer: AbstractLayer,
    arguments: Arguments,
    mu: float | Tensor | None,
    warm_start: Solution | bool | None,
    return_solution: bool,
) -> tuple[tuple[Tensor, ...], Solution | None] | None:
    """The outputs, and the `Solution` if it was asked for, by the compiled core; None where it does not serve."""
    if torch.compiler.is_compiling() or is_traced():
        return None
    tensors = tuple(arguments.values())
    if not all(isinstance(t, Tensor) for t in tensors):
        return None  # the careful lane names what is no tensor
    if return_solution and tensors and tensors[0].dtype != torch.float64:
        return None  # a Solution tells the point in double precision
    needed = [t.requires_grad for t in tensors]
    recorded = torch.is_grad_enabled() and any(needed)
    call = core_call(layer, arguments, mu, needed if recorded else (), recorded or return_solution, warm_start)
    if call is None or (recorded and any([t.is_inference() for t in tensors])):
        return None  # torch saves no inference tensor for a backward pass
    try:
        outputs = Fast.apply(call, *tensors) if recorded else call.outputs(tensors)
    except InputError:
        return None  # the careful lane names the place in the caller's batch
    tell_if_verbose(layer, call)
    assert call.kept is not None
    if return_solution and not call.kept.is_regular:
        return None
    if call.kept.left == 0:
        linear = call.lane.linear
        if linear is not None and recorded and layer._engine.tells_vertices:
            watch(layer._engine, linear, arguments, outputs, f"{layer._called or type(layer).__name__}(..., mu=0.1)")
        return outputs, _told(layer, arguments, outputs, call) if return_solution else None
    rest = None if return_solution else rest_of(arguments, call)
    if rest is None:
        return None
    options = {"solver_args": None, "warm_start": None, "mu": rest.mu}
    found, _ = layer._evaluate(rest.arguments, options, False, False, rest.members)
    return rest.put(outputs, found), None


def core_call(
    layer: AbstractLayer,
    arguments: Arguments,
    mu: float | Tensor | None,
    needed: Sequence[bool],
    keep: bool,
    warm_start: Solution | bool | None = None,
) -> FastCall | None:
    """A call for the core, which is not asked yet; None where it does not serve.

    needed: tensors whose gradients may be asked for, () for none.  keep: for a derivative or a `Solution`?
    """
    if not core.available:
        warn_of_slow_path()
        return None
    tensors = tuple(arguments.values())
    if not (is_plain() and all(map(is_ordinary, tensors))):
        return None
    exact = layer._engine.is_exact(mu)
    key = (exact, *[(name, t.shape, t.dtype, t.device) for name, t in arguments.items()])
    ways = _lanes.setdefault(layer, {})
    if key not in ways:
        if len(ways) >= _LANES:
            ways.clear()
        ways[key] = plan_lane(layer, arguments, exact)
    lane = ways[key]
    if lane is None:
        return None
    given = layer._engine.path(mu, lane.batch.shape)
    if given is None or (any(needed) and not lane.way.serves(needed)):
        return None
    if given[0] is not None and not (lane.way.mixes or bool(given[0].all())):
        return None
    start = None
    if warm_start is not None and not isinstance(warm_start, bool):
        start = started(warm_start, lane.batch)
        if start is None:
            return None
    differentiable = partial(_differentiable, layer, tuple(arguments), given[0])
    return FastCall(lane, given[0], torch.get_num_threads(), differentiable, keep, start)


def tell_if_verbose(layer: AbstractLayer, call: FastCall) -> None:
    """Say how a call went, where the caller wants to know."""
    if layer._engine.is_verbose:
        kept = call.kept
        assert kept is not None
        tell_core(kept.status, kept.residuals, kept.iterations, call.seconds)


def _told(layer: AbstractLayer, arguments: Arguments, outputs: tuple[Tensor, ...], call: FastCall) -> Solution:
    """The `Solution` of a call that the core has certified."""
    kept, plan = call.kept, layer._plan(arguments)
    assert kept is not None
    with torch.no_grad():
        stated = layer._state(arguments, plan)
        known = known_of(kept, stated.program, call.mu, call.seconds)
        mu = mu_in(call.mu, plan.batch)
        point = layer._engine.solve(
            stated.program,
            stated.given,
            stated.context,
            mu=mu,
            requested=layer._requested,
            moving=layer._moving,
            record=False,
            known=known,
        )
        value = layer._engine.finish(point, layer._value(stated, point), plan.batch)
        return layer._solution(point, outputs, value, plan)


def plan_lane(layer: AbstractLayer, arguments: Arguments, exact: bool) -> Lane | None:
    """Plan a way through the core for arguments of these shapes, dtypes and devices, None where there is none."""
    if not arguments:
        return None  # a program without parameters
    layer._look_at_shapes(arguments)
    plan = layer._plan(arguments)
    first = next(iter(arguments.values()))
    alike = all(t.dtype == first.dtype and t.device.type == "cpu" for t in arguments.values())
    if not alike or first.dtype not in (torch.float32, torch.float64) or plan.batch.size == 0:
        return None
    way = layer._way(arguments, plan, exact)
    cores = layer._cores()
    tensors, dims = tuple(arguments.values()), tuple(cores[name] for name in arguments)
    linear = layer._linear(arguments) if exact else None
    return None if way is None else replace(lane_of(way, plan.batch, tensors, dims), linear=linear)


@dataclass(frozen=True, eq=False)
class Rest:
    """The instances that the core has not certified, as a call of their own for the careful lane.

    rows: their places in the batch.  arguments, mu: of these.  cores: dimensions of each argument that are no batch dimensions.
    """

    batch: Batching
    rows: Tensor
    cores: Mapping[str, int]
    arguments: Arguments
    mu: float | Tensor
    members: Members

    def of(self, arguments: Arguments) -> dict[str, Tensor]:
        """The rows of these."""
        return {name: self._pick(t, self.cores[name]) for name, t in arguments.items()}

    def _pick(self, t: Tensor, core: int) -> Tensor:
        t = self.batch.merge(t, core)
        return t if t.shape[0] == 1 else t.index_select(0, self.rows)

    def rows_of(self, t: Tensor) -> Tensor:
        """The rows of an output, (*batch, ...)."""
        return self._flat(t).index_select(0, self.rows)

    def put(self, outputs: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs of the batch, with those of the rows in their places."""
        return tuple(
            self._flat(out).index_copy(0, self.rows, new).reshape(out.shape)
            for out, new in zip(outputs, found, strict=True)
        )

    def _flat(self, t: Tensor) -> Tensor:
        return t.reshape((self.batch.size, *t.shape[len(self.batch.shape) :]))


def rest_of(arguments: Arguments, call: FastCall) -> Rest | None:
    """What the core has not certified; None where that is all of the batch."""
    assert call.kept is not None
    rows, batch = torch.nonzero(call.kept.status).flatten(), call.lane.batch
    if rows.numel() == batch.size:
        return None
    cores = dict(zip(arguments, call.lane.cores, strict=True))
    mu = 0.0 if call.mu is None else call.mu if call.mu.numel() == 1 else call.mu.index_select(0, rows)
    rest = Rest(batch, rows, cores, {}, mu, Members(batch.shape, tuple(rows.tolist())))
    return replace(rest, arguments=rest.of(arguments))


def _differentiable(
    layer: AbstractLayer,
    names: tuple[str, ...],
    mu: Tensor | None,
    tensors: Sequence[Tensor],
    kept: AbstractKept,
) -> tuple[Tensor, ...]:
    """The outputs by the careful lane, at the point of the core if that is regular. mu: (B or 1,)."""
    arguments = dict(zip(names, tensors, strict=True))
    plan = layer._plan(arguments)
    stated = layer._state(arguments, plan)
    with torch.no_grad():
        known = known_of(kept, stated.program, mu) if kept.is_regular else None
    return layer._answered(stated, plan, mu=mu_in(mu, plan.batch), known=known)[0]

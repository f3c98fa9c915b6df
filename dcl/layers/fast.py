"""A call of a layer through the compiled core: is it one for the core, and the careful lane for what that does not certify.

the core takes      plain tensors of one dtype on the CPU; everything else is the careful lane's
of its answers      the certified ones stay, the rows of others are replaced by those of the careful lane
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dcl import core
from dcl.about import warn_of_slow_path
from dcl.errors import InputError
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
    if lane is None or (return_solution and tensors[0].dtype != torch.float64):
        return None  # a Solution tells the point in double precision
    given = layer._engine.path(mu, lane.batch.shape)
    if given is None:
        return None
    if given[0] is not None and not (lane.way.mixes or bool(given[0].all())):
        return None
    needed = [t.requires_grad for t in tensors]
    recorded = torch.is_grad_enabled() and any(needed)
    if recorded and not lane.way.serves(needed):
        return None
    if recorded and any([t.is_inference() for t in tensors]):
        return None  # torch saves none of these for a backward pass
    start = None
    if warm_start is not None and not isinstance(warm_start, bool):
        start = started(warm_start, lane.batch)
        if start is None:
            return None
    differentiable = partial(_differentiable, layer, tuple(arguments), given[0])
    keep = recorded or return_solution
    call = FastCall(lane, given[0], torch.get_num_threads(), differentiable, keep, start)
    try:
        outputs = Fast.apply(call, *tensors) if recorded else call.outputs(tensors)
    except InputError:
        return None  # the careful lane names the place in the caller's batch
    assert call.kept is not None
    if layer._engine.is_verbose:
        kept = call.kept
        tell_core(kept.status, kept.residuals, kept.iterations, call.seconds)
    if return_solution and not call.kept.is_regular:
        return None
    if call.kept.left == 0:
        if lane.linear is not None and recorded and layer._engine.tells_vertices:
            watch(layer._engine, lane.linear, arguments, outputs, f"{type(layer).__name__}(..., mu=0.1)")
        return outputs, _told(layer, arguments, outputs, call) if return_solution else None
    completed = None if return_solution else _completed(layer, arguments, outputs, call)
    return None if completed is None else (completed, None)


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


def _completed(
    layer: AbstractLayer, arguments: Arguments, outputs: tuple[Tensor, ...], call: FastCall
) -> tuple[Tensor, ...] | None:
    """The outputs with the rows that the core has not certified from the careful lane; None where that is all of them."""
    assert call.kept is not None
    rows, lane = torch.nonzero(call.kept.status).flatten(), call.lane
    batch = lane.batch
    if rows.numel() == batch.size:
        return None

    def pick(t: Tensor, core: int) -> Tensor:
        t = batch.merge(t, core)
        return t if t.shape[0] == 1 else t.index_select(0, rows)

    part = {name: pick(t, c) for (name, t), c in zip(arguments.items(), lane.cores, strict=True)}
    mu = 0.0 if call.mu is None else call.mu if call.mu.numel() == 1 else call.mu.index_select(0, rows)
    members = Members(batch.shape, tuple(rows.tolist()))
    found, _ = layer._evaluate(part, {"solver_args": None, "warm_start": None, "mu": mu}, False, False, members)
    return tuple(
        out.reshape((batch.size, *out.shape[len(batch.shape) :])).index_copy(0, rows, new).reshape(out.shape)
        for out, new in zip(outputs, found, strict=True)
    )


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

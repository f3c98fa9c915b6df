"""What the layers share: one call, from the caller's tensors by name to outputs with his batch dimensions, dtype and device.

A layer says what its arguments mean (`_plan`, `_state`) and how its outputs are read off the solution (`_outputs`); the rest
is here once: settings, the straight-through estimator, `torch.compile`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dcl import core
from dcl.about import warn_of_slow_path
from dcl.errors import InputError
from dcl.frontends.batching import Batching
from dcl.implicit import Known
from dcl.layers import compiled
from dcl.layers.engine import Engine, Point
from dcl.layers.known import known_of
from dcl.layers.lane import AbstractMap, Answer, Fast, FastCall, Lane, mu_in, started
from dcl.outcome.messages import AbstractBorder, Members
from dcl.outcome.solution import Solution
from dcl.point.degeneracy import Requested
from dcl.program import ConeProgram
from dcl.torch_modes import is_ordinary, is_plain, uncompiled

Arguments = Mapping[str, Tensor]
# Ways through the core, for each layer by the shapes of its arguments, at most _LANES of them: no call changes a layer.
_lanes: WeakKeyDictionary[AbstractLayer, dict[Any, Lane | None]] = WeakKeyDictionary()
_LANES = 64
# The core's work and memory grow with the square of the rows: above, DAQP is faster.
_MOST_ROWS = 1500


@dataclass(frozen=True)
class Plan:
    """What the shapes of the arguments say: batching; shapes of the outputs of one instance; variables n, rows m.

    detail: what the layer's own methods want to know besides.
    """

    batch: Batching
    outputs: tuple[tuple[int, ...], ...]
    n: int
    m: int
    detail: Any = None


@dataclass(frozen=True, eq=False)
class Stated:
    """A call on the waist: the program, its constant d (B or 1,), and the caller's tensors, (B or 1, ...), for the border."""

    program: ConeProgram
    d: Tensor | float
    border: AbstractBorder
    given: Sequence[Tensor]


class AbstractLayer(nn.Module):
    """A torch layer around a cone program; it has settings, but no parameters and no buffers."""

    _engine: Engine
    _requested: Requested | None = None

    @abstractmethod
    def _cores(self) -> Mapping[str, int]:
        """How many dimensions of each argument are no batch dimensions."""

    @abstractmethod
    def _plan(self, arguments: Arguments) -> Plan:
        """Look at shapes, dtypes and devices. Law: no value is looked at, so that a graph can be traced."""

    @abstractmethod
    def _state(self, arguments: Arguments, plan: Plan) -> Stated:
        """The program on the waist, in torch operations."""

    @abstractmethod
    def _outputs(self, stated: Stated, plan: Plan, point: Point) -> tuple[Tensor, ...]:
        """The outputs (B, ...), of the shapes in the plan."""

    @abstractmethod
    def _map(self, arguments: Arguments) -> AbstractMap | None:
        """How arguments of these shapes go through the compiled core; None where they do not."""

    def _value(self, stated: Stated, point: Point) -> Tensor:
        """The optimal value (B,)."""
        return stated.program.objective(point.x) + stated.d

    def _enroll(self, engine: Engine) -> None:
        """To be called at the end of `__init__`."""
        self._engine = engine
        self._handle = compiled.enroll(self)

    @final
    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)
        self._handle = compiled.enroll(self)

    @final
    def _call(
        self,
        arguments: Arguments,
        *,
        solver_args: Mapping[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        straight_through: bool | None = None,
        return_solution: bool = False,
    ) -> tuple[tuple[Tensor, ...], Solution | None]:
        """The outputs, (*batch, ...) each, and the `Solution` if it was asked for."""
        straight = self._engine.settings.straight_through if straight_through is None else straight_through
        if compiled.fits(solver_args, warm_start, mu, straight, return_solution):
            return compiled.call(self._handle, arguments, mu), None
        if self._engine.is_free and not (straight or solver_args):
            found = self._fast(arguments, mu, warm_start, return_solution)
            if found is not None:
                return found
        options = {"solver_args": solver_args, "warm_start": warm_start, "mu": mu}
        return self._evaluate(arguments, options, straight, return_solution)

    def _fast(
        self,
        arguments: Arguments,
        mu: float | Tensor | None,
        warm_start: Solution | bool | None,
        return_solution: bool,
    ) -> tuple[tuple[Tensor, ...], Solution | None] | None:
        """The outputs, and the `Solution` if it was asked for, by the compiled core; None where it does not serve."""
        if torch.compiler.is_compiling():
            return None
        if not core.available:
            warn_of_slow_path()
            return None
        tensors = tuple(arguments.values())
        if not (is_plain() and all(map(is_ordinary, tensors))):
            return None
        key = tuple([(name, t.shape, t.dtype, t.device) for name, t in arguments.items()])
        ways = _lanes.setdefault(self, {})
        if key not in ways:
            if len(ways) >= _LANES:
                ways.clear()
            ways[key] = self._lane(arguments)
        lane = ways[key]
        if lane is None or (return_solution and tensors[0].dtype != torch.float64):
            return None  # a Solution tells the point in double precision
        given = self._engine.path(mu, lane.batch.shape)
        if given is None:
            return None
        recorded = torch.is_grad_enabled() and any([t.requires_grad for t in tensors])
        if recorded and any([t.is_inference() for t in tensors]):
            return None  # torch saves none of these for a backward pass
        start = None
        if warm_start is not None and not isinstance(warm_start, bool):
            start = started(warm_start, lane.batch)
            if start is None:
                return None
        differentiable = partial(self._differentiable, tuple(arguments), given[0])
        call = FastCall(lane, given[0], torch.get_num_threads(), differentiable, start)
        try:
            outputs = Fast.apply(call, *tensors) if recorded else call.outputs(tensors)
        except InputError:
            return None  # the careful lane names the place in the caller's batch
        assert call.answer is not None
        if not bool(call.answer.status.any()):
            return outputs, self._told(arguments, outputs, call) if return_solution else None
        completed = None if return_solution else self._completed(arguments, outputs, call)
        return None if completed is None else (completed, None)

    def _told(self, arguments: Arguments, outputs: tuple[Tensor, ...], call: FastCall) -> Solution:
        """The `Solution` of a call that the core has certified."""
        answer, plan = call.answer, self._plan(arguments)
        assert answer is not None
        with torch.no_grad():
            stated = self._state(arguments, plan)
            known = known_of(answer, stated.program, stated.border.rows, call.mu, call.seconds)
            mu = mu_in(call.mu, plan.batch)
            point = self._engine.solve(
                stated.program, stated.given, stated.border, mu=mu, requested=self._requested, record=False, known=known
            )
            value = self._engine.finish(point, self._value(stated, point), plan.batch)
            return self._engine.solution(point, outputs, value, plan.batch)

    def _lane(self, arguments: Arguments) -> Lane | None:
        """Plan a way through the core for arguments of these shapes, dtypes and devices, None where there is none."""
        plan = self._plan(arguments)
        first = next(iter(arguments.values()))
        alike = all(t.dtype == first.dtype and t.device.type == "cpu" for t in arguments.values())
        if (
            not alike
            or first.dtype not in (torch.float32, torch.float64)
            or plan.batch.size == 0
            or plan.m > _MOST_ROWS
        ):
            return None
        way = self._map(arguments)
        cores = self._cores()
        return None if way is None else Lane(way, plan.batch, tuple(cores[name] for name in arguments))

    def _completed(
        self, arguments: Arguments, outputs: tuple[Tensor, ...], call: FastCall
    ) -> tuple[Tensor, ...] | None:
        """The outputs with the rows that the core has not certified from the careful lane; None where that is all of them."""
        assert call.answer is not None
        rows, lane = torch.nonzero(call.answer.status).flatten(), call.lane
        batch = lane.batch
        if rows.numel() == batch.size:
            return None

        def pick(t: Tensor, core: int) -> Tensor:
            t = batch.merge(t, core)
            return t if t.shape[0] == 1 else t.index_select(0, rows)

        part = {name: pick(t, c) for (name, t), c in zip(arguments.items(), lane.cores, strict=True)}
        mu = 0.0 if call.mu is None else call.mu if call.mu.numel() == 1 else call.mu.index_select(0, rows)
        members = Members(batch.shape, tuple(rows.tolist()))
        found, _ = self._evaluate(part, {"solver_args": None, "warm_start": None, "mu": mu}, False, False, members)
        return tuple(
            out.reshape((batch.size, *out.shape[len(batch.shape) :])).index_copy(0, rows, new).reshape(out.shape)
            for out, new in zip(outputs, found, strict=True)
        )

    def _differentiable(
        self, names: tuple[str, ...], mu: Tensor | None, tensors: Sequence[Tensor], answer: Answer | None
    ) -> tuple[Tensor, ...]:
        """The outputs by the careful lane, at the point of the core if its digits are those of float64. mu: (B or 1,)."""
        arguments = dict(zip(names, tensors, strict=True))
        plan = self._plan(arguments)
        stated, known = self._state(arguments, plan), None
        if answer is not None and answer.x.dtype == torch.float64:
            with torch.no_grad():
                known = known_of(answer, stated.program, stated.border.rows, mu)
        return self._answered(stated, plan, mu=mu_in(mu, plan.batch), known=known)[0]

    @uncompiled(compiled.UNFIT)
    def _evaluate(
        self,
        arguments: Arguments,
        options: dict[str, Any],
        straight: bool,
        return_solution: bool,
        members: Members | None = None,
    ) -> tuple[tuple[Tensor, ...], Solution | None]:
        plan = self._plan(arguments)
        if not straight:
            outputs, stated, point = self._solved(arguments, plan, members, **options)
        else:
            smooth, _, at = self._solved(arguments, plan, **options)
            if not isinstance(at.mu, Tensor):
                raise InputError("straight_through needs mu > 0: the gradient is that of x(mu)", argument="mu")
            with torch.no_grad():
                outputs, stated, point = self._solved(arguments, plan, **options | {"mu": 0.0})
            outputs = tuple(exact.detach() + (x - x.detach()) for exact, x in zip(outputs, smooth, strict=True))
        if not return_solution:
            return outputs, None
        value = self._engine.finish(point, self._value(stated, point), plan.batch)
        return outputs, self._engine.solution(point, outputs, value, plan.batch)

    def _solved(
        self, arguments: Arguments, plan: Plan, members: Members | None = None, **options: Any
    ) -> tuple[tuple[Tensor, ...], Stated, Point]:
        stated = self._state(arguments, plan)
        if members is not None:
            stated = replace(stated, border=replace(stated.border, members=members))
        outputs, point = self._answered(stated, plan, **options)
        return outputs, stated, point

    def _answered(self, stated: Stated, plan: Plan, **options: Any) -> tuple[tuple[Tensor, ...], Point]:
        """The outputs, (*batch, ...) each, and the point of a call that has been stated."""
        point = self._engine.solve(stated.program, stated.given, stated.border, requested=self._requested, **options)
        return tuple(self._engine.finish(point, t, plan.batch) for t in self._outputs(stated, plan, point)), point

    # what `dcl.layers.compiled` asks for

    @final
    def _shapes(self, arguments: Arguments) -> tuple[Batching, list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Batching, the shapes of the outputs, and those of what is `Known` of their solution."""
        plan = self._plan(arguments)
        batch = plan.batch
        return batch, [(*batch.shape, *core) for core in plan.outputs], Known.shapes(batch.size, plan.n, plan.m)

    @final
    def _with_known(
        self, arguments: Arguments, mu: float | Tensor | None, record: bool, known: Known | None
    ) -> tuple[tuple[Tensor, ...], Known]:
        """The outputs and what is known of their solution; nothing is solved if that is given."""
        outputs, _, point = self._solved(arguments, self._plan(arguments), mu=mu, record=record, known=known)
        return outputs, point.known

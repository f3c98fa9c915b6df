"""What the layers share: one call, from the caller's tensors by name to outputs with his batch dimensions, dtype and device.

A layer says what its arguments mean (`_plan`, `_state`) and how its outputs are read off the solution (`_outputs`); the rest
is here once: which of the three ways a call takes (a compiled graph, `dcl.layers.fast`, the careful lane), the careful lane,
the straight-through estimator.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from dcl.errors import InputError, ShapeWarning, level_of_caller
from dcl.frontends.batching import Batching, grid
from dcl.implicit import STATUS, Known
from dcl.layers import compiled, fast, past
from dcl.layers.barrier import barrier_tensor
from dcl.layers.engine import Engine, LayerPoint
from dcl.layers.lane import AbstractWay
from dcl.layers.vertex import Linear, watch
from dcl.outcome.messages import AbstractCallContext, Members
from dcl.outcome.solution import Solution
from dcl.point.asked import Moving, Requested
from dcl.program import ConeProgram
from dcl.status import GradientKind, Status
from dcl.torch_modes import check_no_trace, is_ordinary, is_plain, uncompiled

Arguments = Mapping[str, Tensor]


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
    """A call in canonical form: program, its constant d (B or 1,), and the caller's tensors, (B or 1, ...), for the context."""

    program: ConeProgram
    d: Tensor | float
    context: AbstractCallContext
    given: Sequence[Tensor]


class AbstractLayer(nn.Module):
    """A torch layer around a cone program; it has settings, but no parameters and no buffers."""

    _engine: Engine
    _requested: Requested | None = None
    _moving: Moving | None = None
    # the layer that the caller made, where it is not this one
    _called: str | None = None

    @abstractmethod
    def _cores(self) -> Mapping[str, int]:
        """How many dimensions of each argument are no batch dimensions."""

    @abstractmethod
    def _plan(self, arguments: Arguments) -> Plan:
        """Look at shapes, dtypes and devices. Law: no value is looked at, so that a graph can be traced."""

    @abstractmethod
    def _state(self, arguments: Arguments, plan: Plan) -> Stated:
        """The canonical program, in torch operations."""

    @abstractmethod
    def _outputs(self, stated: Stated, plan: Plan, point: LayerPoint) -> tuple[Tensor, ...]:
        """The outputs (B, ...), of the shapes in the plan."""

    @abstractmethod
    def _way(self, arguments: Arguments, plan: Plan, exact: bool) -> AbstractWay | None:
        """How arguments of these shapes go through the compiled core; None where they do not. exact: at mu = 0 for certain?"""

    @abstractmethod
    def _linear(self, arguments: Arguments) -> Linear | None:
        """What is to be known of a linear program; None for programs with a quadratic cost or curved cones."""

    def _value(self, stated: Stated, point: LayerPoint) -> Tensor:
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
        mu = barrier_tensor(mu)
        if compiled.fits(solver_args, warm_start, mu, straight, return_solution):
            # a graph knows of a tensor only what it is given: that of the layer has a gradient too
            own = self._engine.settings.mu if mu is None else mu
            return compiled.call(self._handle, arguments, own if isinstance(own, Tensor) else mu), None
        if self._engine.is_free and not (straight or solver_args):
            found = fast.through_core(self, arguments, mu, warm_start, return_solution)
            if found is not None:
                return found
        options = {"solver_args": solver_args, "warm_start": warm_start, "mu": mu}
        return self._evaluate(arguments, options, straight, return_solution)

    @uncompiled(compiled.UNFIT)
    def _evaluate(
        self,
        arguments: Arguments,
        options: dict[str, Any],
        straight: bool,
        return_solution: bool,
        members: Members | None = None,
    ) -> tuple[tuple[Tensor, ...], Solution | None]:
        check_no_trace()
        self._look_at_shapes(arguments)
        plan = self._plan(arguments)
        if not straight:
            outputs, stated, point = self._solved(arguments, plan, members, **options)
            if self._engine.tells_vertices:
                self._watch(arguments, outputs, point)
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
        return outputs, self._solution(point, outputs, value, plan)

    @property
    @abstractmethod
    def _names(self) -> tuple[str, ...]:
        """The names of the outputs, for `Solution`."""

    @property
    @abstractmethod
    def _has_own_x(self) -> bool:
        """Is x of the program what the caller calls x?"""

    @final
    def _solution(self, point: LayerPoint, outputs: Sequence[Tensor], value: Tensor, plan: Plan) -> Solution:
        """Everything known of the point."""
        return self._engine.solution(point, outputs, value, plan.batch, self._names, is_own_x=self._has_own_x)

    @abstractmethod
    def _shown(self, name: str) -> str:
        """What the caller calls the argument `name`."""

    @final
    def _look_at_shapes(self, arguments: Arguments) -> None:
        """Warn once per layer of batch dimensions that make a grid of programs, perhaps by mistake."""
        if self._engine.has_told_of_grid:
            return
        found = grid(arguments, self._cores())
        if found is not None:
            self._engine.has_told_of_grid = True
            column, other = (arguments[name] for name in found)
            k, meant = column.shape[0], (column.shape[0], *column.shape[2:])
            name, beside = map(self._shown, found)
            warnings.warn(
                f"{name} has shape {tuple(column.shape)} and {beside} has shape {tuple(other.shape)}. Batch dimensions "
                f"broadcast, so these are {k} x {k} programs. For {k} programs pass {name} with shape {meant}",
                ShapeWarning,
                stacklevel=level_of_caller(),
            )

    def _watch(self, arguments: Arguments, outputs: Sequence[Tensor], point: LayerPoint) -> None:
        """Say that nothing is learned at the vertex of a linear program, if these are vertices (`dcl.layers.vertex`)."""
        kinds = point.degeneracy
        if kinds is None or isinstance(point.mu, Tensor) or not (is_plain() and all(map(is_ordinary, outputs))):
            return
        optimal = point.report[:, STATUS] == int(Status.OPTIMAL)
        exact = bool(((kinds.kind == int(GradientKind.EXACT)) | ~optimal).all())
        linear = self._linear(arguments) if exact and bool(optimal.any()) else None
        if linear is not None:
            watch(self._engine, linear, arguments, outputs, f"{self._called or type(self).__name__}(..., mu=0.1)")

    def _solved(
        self, arguments: Arguments, plan: Plan, members: Members | None = None, **options: Any
    ) -> tuple[tuple[Tensor, ...], Stated, LayerPoint]:
        stated = self._state(arguments, plan)
        if members is not None:
            stated = replace(stated, context=replace(stated.context, members=members))
        outputs, point = self._answered(stated, plan, **options)
        return outputs, stated, point

    def _answered(self, stated: Stated, plan: Plan, **options: Any) -> tuple[tuple[Tensor, ...], LayerPoint]:
        """The outputs, (*batch, ...) each, and the point of a call that has been stated."""
        point = self._engine.solve(
            stated.program, stated.given, stated.context, requested=self._requested, moving=self._moving, **options
        )
        return tuple(self._engine.finish(point, t, plan.batch) for t in self._outputs(stated, plan, point)), point

    # what `dcl.layers.compiled` asks for

    @final
    def _shapes(self, arguments: Arguments) -> tuple[Batching, list[tuple[int, ...]]]:
        """Batching, and the shapes of the outputs."""
        plan = self._plan(arguments)
        return plan.batch, [(*plan.batch.shape, *core) for core in plan.outputs]

    @final
    def _remembered(
        self, arguments: Arguments, mu: float | Tensor | None, needed: Sequence[bool]
    ) -> tuple[tuple[Tensor, ...], past.Past]:
        """The outputs, and what the call leaves for a derivative; see `dcl.layers.past`."""
        return past.remembered(self, arguments, mu, needed)

    @final
    def _pulled(
        self,
        left: past.Past | None,
        arguments: Arguments,
        mu: float | Tensor | None,
        wanted: Sequence[str],
        grads: Sequence[Tensor],
    ) -> list[Tensor]:
        """The gradients of the arguments that are wanted."""
        return past.pulled(self, left, arguments, mu, wanted, grads)

    @final
    def _with_known(
        self,
        arguments: Arguments,
        mu: float | Tensor | None,
        record: bool,
        known: Known | None,
        members: Members | None = None,
    ) -> tuple[tuple[Tensor, ...], Known]:
        """The outputs by the careful lane and what is known of their solution; nothing is solved if that is given."""
        outputs, _, point = self._solved(arguments, self._plan(arguments), members, mu=mu, record=record, known=known)
        return outputs, point.known

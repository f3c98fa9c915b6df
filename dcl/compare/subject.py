"""One call of a layer, to be repeated with other barrier parameters, other data and another engine.

Protocol.  `compare_gradients` takes any callable that is called as

    layer(*tensors, mu=mu, return_solution=True)  ->  (result, solution)

result: a tensor, a tuple or a named tuple of tensors, differentiable in the tensors.  solution: a `dcl.Solution`, or what has
`primal_residual`, `dual_residual`, `gap`, `gradient_kind`, `condition` and `margin` (*batch).  mu = 0.0 is the exact solution.
The layers of dcl have an engine (`dcl.layers.engine`) besides, which solves their program: it is replaced in a copy of the
layer to change settings, to look at the program, or to solve and differentiate it by another package.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from dcl.errors import DegenerateWarning, InputError
from dcl.frontends import cone, matrix
from dcl.frontends.batching import Batching
from dcl.layers.argmin import ArgminLayer
from dcl.layers.cone import ConeLayer, ConeResult
from dcl.layers.cvxpy import CvxpyLayer
from dcl.layers.engine import Engine, Settings
from dcl.layers.qp import QPLayer, QPResult
from dcl.outcome.messages import AbstractCallContext
from dcl.outcome.solution import Solution
from dcl.program import ConeProgram

Result = Tensor | tuple[Tensor, ...]
Loss = Callable[[Any], Tensor]
Layer = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Answer:
    """What an outside engine returns for a program: x (B, n), z (B, m), s (B, m), differentiable in its data."""

    x: Tensor
    z: Tensor
    s: Tensor


@dataclass
class Spy:
    """An engine that notes what it is asked to solve; `other`, if given, solves and differentiates instead."""

    settings: Settings
    other: Callable[[ConeProgram], Answer] | None = None
    is_free: ClassVar[bool] = False  # nothing goes past it
    tells_vertices: ClassVar[bool] = False  # what is compared speaks for itself
    has_told_of_grid: ClassVar[bool] = True
    program: ConeProgram | None = field(default=None, init=False)
    context: AbstractCallContext | None = field(default=None, init=False)
    answer: Answer | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._engine = Engine(self.settings)

    def solve(self, program: ConeProgram, given: Sequence[Tensor], context: AbstractCallContext, **options: Any) -> Any:
        """As `Engine.solve`."""
        self.program, self.context = program, context
        if self.other is None:
            return self._engine.solve(program, given, context, **options)
        self.answer = self.other(program)
        return self.answer

    def finish(self, point: Any, t: Tensor, batch: Batching) -> Tensor:
        """As `Engine.finish`."""
        return batch.restore(t) if self.other is not None else self._engine.finish(point, t, batch)

    def solution(self, *parts: Any, is_own_x: bool = True) -> Solution:
        """As `Engine.solution`."""
        return self._engine.solution(*parts, is_own_x=is_own_x)


def has_engine(layer: object) -> bool:
    """Is it one of the layers with a cone program?"""
    return isinstance(layer, CvxpyLayer | QPLayer | ConeLayer)


def with_engine(
    layer: Layer, other: Callable[[ConeProgram], Answer] | None = None, **settings: str | bool
) -> tuple[Layer, Spy]:
    """A copy of a layer that has an engine, with these settings over its own, and the engine that it now has."""
    twin: Any = copy.copy(layer)
    spy = Spy(replace(twin._engine.settings, **settings), other)
    twin._engine = spy
    return twin, spy


def with_settings(layer: ArgminLayer, **settings: Any) -> ArgminLayer:
    """A copy of an ArgminLayer with these settings over its own."""
    twin = copy.copy(layer)
    twin._engine = Engine(replace(twin._engine.settings, **settings))
    return twin


def core_dimensions(layer: Layer, tensors: Sequence[Tensor | None]) -> list[int] | None:
    """How many dimensions of each argument are no batch dimensions; None if the layer is not one of dcl's."""
    if isinstance(layer, CvxpyLayer):
        return [len(domain.shape) for domain in layer._form.domains]
    if isinstance(layer, QPLayer):
        return list(matrix.CORE.values())[: len(tensors)]
    return list(cone.CORE.values()) if isinstance(layer, ConeLayer) else None


def names(layer: Layer, count: int) -> list[str]:
    """What the arguments are called."""
    if isinstance(layer, CvxpyLayer):
        return [domain.name for domain in layer._form.domains]
    if isinstance(layer, ArgminLayer):
        return ["y0", *(f"parameter {i}" for i in range(count - 1))]
    known: Mapping[str, int] = (
        matrix.CORE if isinstance(layer, QPLayer) else cone.CORE if isinstance(layer, ConeLayer) else {}
    )
    return (list(known) + [f"tensor {i}" for i in range(len(known), count)])[:count]


def bind(
    layer: Layer, tensors: Sequence[Tensor | None], named: Mapping[str, Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The tensors in the order of the call, those given by name in their places, None between. Raises InputError."""
    if not named:
        return tuple(tensors)
    kind = type(layer).__name__
    if not isinstance(layer, QPLayer | ConeLayer):
        raise InputError(
            f"{kind} takes its tensors by position only, got the keyword {next(iter(named))!r}",
            argument=next(iter(named)),
        )
    order = list(matrix.CORE if isinstance(layer, QPLayer) else cone.CORE)
    for name in named:
        if name not in order:
            raise InputError(f"{name!r} is not an argument of {kind}; its tensors: {', '.join(order)}", argument=name)
        if order.index(name) < len(tensors):
            raise InputError(f"{name} is given by position and by name", argument=name)
    last = max(order.index(name) for name in named)
    return (*tensors, *(named.get(name) for name in order[len(tensors) : last + 1]))


def called(layer: Layer, tensors: Sequence[Tensor | None], **options: Any) -> Any:
    """The layer's call with its tensors in order; a `QPLayer` takes those after q by name."""
    if not isinstance(layer, QPLayer):
        return layer(*tensors, **options)
    data: dict[str, Any] = dict(zip(matrix.CORE, tensors, strict=False))
    return layer(**data, **options)


def primal(result: Result) -> Tensor:
    """The entries whose gap is measured, flat: x of a matrix layer, else everything that the layer returns."""
    if isinstance(result, QPResult | ConeResult):
        return result.x.reshape(-1)
    return result.reshape(-1) if isinstance(result, Tensor) else torch.cat([t.reshape(-1) for t in result])


@dataclass(frozen=True, eq=False)
class Subject:
    """A layer and float64 leaves of the call's tensors; `wanted`: positions of those that the gradient is taken in."""

    layer: Layer
    tensors: tuple[Tensor | None, ...]
    wanted: tuple[int, ...]

    def __call__(self, mu: float) -> tuple[Result, Any]:
        """(result, solution) at mu."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateWarning)
            return called(self.layer, self.tensors, mu=mu, return_solution=True)  # type: ignore[no-any-return]

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that are differentiated."""
        return [t for i, t in enumerate(self.tensors) if t is not None and i in self.wanted]

    def gradient(self, scalar: Tensor) -> Tensor:
        """d scalar / d leaves, all in one vector."""
        found = torch.autograd.grad(scalar, self.leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])


def subject(layer: Layer, tensors: Sequence[Tensor | None]) -> Subject:
    """The call, ready to be repeated. The tensors that require a gradient are differentiated, all if none does."""
    for i, t in enumerate(tensors):
        if t is not None and not isinstance(t, Tensor):
            raise InputError(f"tensor {i} must be a torch.Tensor or None, got {type(t).__name__}")
    marked = [i for i, t in enumerate(tensors) if t is not None and t.requires_grad]
    first = int(isinstance(layer, ArgminLayer))  # its y0 is where the search starts
    wanted = tuple(
        marked or [i for i, t in enumerate(tensors) if i >= first and t is not None and t.dtype.is_floating_point]
    )
    leaves = [
        None if t is None else t.detach().to(torch.float64).clone().requires_grad_(i in wanted)
        for i, t in enumerate(tensors)
    ]
    if has_engine(layer):
        layer, _ = with_engine(layer, on_failure="raise", on_degenerate="ignore", straight_through=False)
    elif isinstance(layer, ArgminLayer):
        layer = with_settings(layer, on_failure="raise", on_degenerate="ignore")
    return Subject(layer, tuple(leaves), wanted)

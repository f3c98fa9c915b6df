"""Layers inside of `torch.compile`: one opaque operator solves, another differentiates, and neither is traced into.

    layer(handle, names, tensors, mu, record)             -> outputs, x, v, D at ties, report
    layer_backward(handle, names, tensors, mu, wanted, x, v, ties, report, grads)  -> gradients of the wanted tensors

K is factored again in the backward pass: operators exchange tensors only, and a layer is known to them by a number.  An
operator has no forward mode, torch 2.13 takes its derivative to be zero there without a word: `dcl.layers.base` does not
come here in forward mode or inside of transforms that differentiate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from dcl.implicit import Known
from dcl.implicit.folding import in_front
from dcl.outcome.solution import Solution
from dcl.torch_modes import is_differentiated, is_mapped

if TYPE_CHECKING:
    from dcl.layers.base import AbstractLayer

_layers: WeakValueDictionary[int, AbstractLayer] = WeakValueDictionary()
# a graph only has the number, and may be differentiated when the model that it came from is gone
_in_graphs: set[AbstractLayer] = set()
_numbers = itertools.count()
_KNOWN = len(Known._fields)
UNFIT = (
    "inside a compiled region a dcl layer takes no solver_args, warm_start, return_solution or straight_through, "
    "and no transform of torch.func that differentiates it: with fullgraph=False such calls run uncompiled"
)


def enroll(layer: AbstractLayer) -> int:
    """A number by which the operators find the layer as long as it lives."""
    number = next(_numbers)
    _layers[number] = layer
    return number


def fits(
    solver_args: Mapping[str, object] | None,
    warm_start: Solution | bool | None,
    mu: float | Tensor | None,
    straight_through: bool,
    return_solution: bool,
) -> bool:
    """Is a graph being traced, and does the operator take a call with these options?"""
    if not torch.compiler.is_compiling():
        return False
    if straight_through or return_solution or isinstance(warm_start, Solution) or solver_args is not None:
        return False
    return not is_differentiated()


def number_of_new(make: Callable[..., AbstractLayer], *settings: Any) -> int:
    """The number of the layer make(*settings), for a function that makes one in each call.

    In a compiled region the layer is made once, when the graph is traced, and is not traced itself.
    """
    layer = make(*settings)
    _in_graphs.add(layer)
    return layer._handle


# what torch.compiler.assume_constant_result does, without the import of the compiler
number_of_new._dynamo_marked_constant = True  # type: ignore[attr-defined]


def call(handle: int, arguments: Mapping[str, Tensor], mu: float | Tensor | None) -> tuple[Tensor, ...]:
    """The outputs of the layer; a tensor mu travels with the other tensors."""
    names, tensors = list(arguments), list(arguments.values())
    if isinstance(mu, Tensor):
        names, tensors, mu = [*names, "mu"], [*tensors, mu], None
    # inside of vmap tensors do not tell whether they are differentiated
    record = torch.is_grad_enabled() and (is_mapped() or any(t.requires_grad for t in tensors))
    return tuple(layer_op(handle, ",".join(names), tensors, mu, record)[:-_KNOWN])


def _split(handle: int, names: str, tensors: Sequence[Tensor], mu: float | None) -> tuple[Any, dict[str, Tensor], Any]:
    """The layer, its arguments by name, and mu."""
    arguments = dict(zip(names.split(","), tensors, strict=True))
    given = arguments.pop("mu", None)
    return _layers[int(handle)], arguments, mu if given is None else given


def _fresh(t: Tensor) -> Tensor:
    """The results of an operator share no memory with each other or with its arguments, and have the strides of the fakes."""
    return t.detach().clone(memory_format=torch.contiguous_format)


@torch.library.custom_op("dcl::layer", mutates_args=())
def layer_op(handle: int, names: str, tensors: Sequence[Tensor], mu: float | None, record: bool) -> list[Tensor]:
    """The outputs, and what is `Known` of the solution."""
    # torch hands over tensors that still say that they require a gradient
    layer, arguments, mu = _split(handle, names, [t.detach() for t in tensors], mu)
    outputs, known = layer._with_known(arguments, mu, record, None)
    return [_fresh(t) for t in (*outputs, *known)]


@layer_op.register_fake
def _(handle: int, names: str, tensors: Sequence[Tensor], mu: float | None, record: bool) -> list[Tensor]:
    layer, arguments, _ = _split(handle, names, tensors, mu)
    _in_graphs.add(layer)
    batch, outputs, known = layer._shapes(arguments)
    return [
        *(tensors[0].new_empty(shape, dtype=batch.dtype) for shape in outputs),
        *(tensors[0].new_empty(shape, dtype=torch.float64) for shape in known),
    ]


@torch.library.custom_op("dcl::layer_backward", mutates_args=())
def layer_backward_op(
    handle: int,
    names: str,
    tensors: Sequence[Tensor],
    mu: float | None,
    wanted: Sequence[int],
    known: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the wanted tensors, from the solution."""
    tensors, known, grads = ([t.detach() for t in part] for part in (tensors, known, grads))
    layer, arguments, mu = _split(handle, names, tensors, mu)
    keys = [names.split(",")[i] for i in wanted]

    def outputs(*values: Tensor) -> Any:
        moved = dict(zip(keys, values, strict=True))
        at = moved.pop("mu", mu)
        return layer._with_known({**arguments, **moved}, at, False, Known(*known))[0]

    # below the operator autograd is off; the transforms of torch.func are not
    pull = torch.func.vjp(outputs, *(tensors[i] for i in wanted))[1]
    return [_fresh(g) for g in pull(tuple(grads))]


@layer_backward_op.register_fake
def _(
    handle: int,
    names: str,
    tensors: Sequence[Tensor],
    mu: float | None,
    wanted: Sequence[int],
    known: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> list[Tensor]:
    return [torch.empty_like(tensors[i], memory_format=torch.contiguous_format) for i in wanted]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.handle, ctx.names, tensors, ctx.mu, _ = inputs
    ctx.count = len(tensors)
    ctx.save_for_backward(*tensors, *output[-_KNOWN:])


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    saved = list(ctx.saved_tensors)
    tensors, known = saved[: ctx.count], saved[ctx.count :]
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2]) if needed]
    given = [g.contiguous() for g in grads[:-_KNOWN]]
    found = layer_backward_op(ctx.handle, ctx.names, tensors, ctx.mu, wanted, known, given)
    out: list[Tensor | None] = [None] * ctx.count
    for i, g in zip(wanted, found, strict=True):
        out[i] = g
    return None, None, out, None, None


layer_op.register_autograd(_backward, setup_context=_setup_context)


@layer_op.register_vmap
def _(
    info: Any, in_dims: Any, handle: int, names: str, tensors: Sequence[Tensor], mu: float | None, record: bool
) -> tuple[list[Tensor], list[int]]:
    """A mapped dimension is one more batch dimension, in front of the others."""
    layer, arguments, _ = _split(handle, names, tensors, mu)
    dims = in_dims[2]
    logical = {
        name: t if dim is None else t.select(dim, 0) for (name, t), dim in zip(arguments.items(), dims, strict=False)
    }
    batch, outputs, _ = layer._shapes(logical)
    cores = layer._cores()
    moved = [
        in_front(t, dim, len(batch.shape) + (cores[name] if name != "mu" else 0))
        for name, t, dim in zip(names.split(","), tensors, dims, strict=True)
    ]
    found = layer_op(handle, names, moved, mu, record)
    x = [t.unflatten(0, (info.batch_size, batch.size)) for t in found[len(outputs) :]]
    return [*found[: len(outputs)], *x], [0] * len(found)

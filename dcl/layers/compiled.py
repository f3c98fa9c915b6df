"""Layers inside of `torch.compile`: one opaque operator solves, another differentiates, and neither is traced into.

    layer(handle, names, tensors, mu, needed)                          -> outputs, token
    layer_backward(handle, names, tensors, mu, wanted, token, grads)   -> gradients of the wanted tensors

Both go the ways of a call outside of a graph, the compiled core first (`dcl.layers.past`).  Operators exchange tensors only, so
a layer is known to them by a number, and the factors of a call by a tensor that holds them, its token.  An operator has no
forward mode, torch 2.13 takes its derivative to be zero there without a word: `dcl.layers.base` does not come here in forward
mode or inside of transforms that differentiate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from dcl.implicit.folding import in_front
from dcl.layers.barrier import in_batch
from dcl.layers.past import no_token, past_of, token
from dcl.outcome.solution import Solution
from dcl.torch_modes import is_differentiated, is_mapped

if TYPE_CHECKING:
    from dcl.layers.base import AbstractLayer

_layers: WeakValueDictionary[int, AbstractLayer] = WeakValueDictionary()
# a graph only has the number, and may be differentiated when the model that it came from is gone
_in_graphs: set[AbstractLayer] = set()
_numbers = itertools.count()
UNFIT = (
    "inside a compiled region a dcl layer takes no solver_args, warm_start, return_solution or straight_through, and it "
    "cannot be differentiated by torch.func there: with fullgraph=False such calls run uncompiled"
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
    recorded = torch.is_grad_enabled()
    needed = [recorded and (is_mapped() or t.requires_grad) for t in tensors]
    return tuple(layer_op(handle, ",".join(names), tensors, mu, needed)[:-1])


def _split(handle: int, names: str, tensors: Sequence[Tensor], mu: float | None) -> tuple[Any, dict[str, Tensor], Any]:
    """The layer, its arguments by name, and mu."""
    arguments = dict(zip(names.split(","), tensors, strict=True))
    given = arguments.pop("mu", None)
    return _layers[int(handle)], arguments, mu if given is None else given


def _own(found: Iterable[Tensor], given: Iterable[Tensor]) -> list[Tensor]:
    """The results of an operator share no memory with each other or with what is given, and have the strides of the fakes."""
    taken = {t.untyped_storage().data_ptr() for t in given}
    out = []
    for t in found:
        storage = t.untyped_storage()
        alone = storage.data_ptr() not in taken and storage.nbytes() == t.numel() * t.element_size()
        t = t.detach() if alone and t.is_contiguous() else t.detach().clone(memory_format=torch.contiguous_format)
        taken.add(t.untyped_storage().data_ptr())
        out.append(t)
    return out


@torch.library.custom_op("dcl::layer", mutates_args=())
def layer_op(
    handle: int, names: str, tensors: Sequence[Tensor], mu: float | None, needed: Sequence[bool]
) -> list[Tensor]:
    """The outputs, and the token of what the derivative in the tensors that are `needed` will ask for."""
    # torch hands over tensors that still say that they require a gradient
    layer, arguments, mu = _split(handle, names, [t.detach() for t in tensors], mu)
    outputs, past = layer._remembered(arguments, mu, needed)
    return [*_own(outputs, tensors), token(past) if any(needed) else no_token()]


@layer_op.register_fake
def _(handle: int, names: str, tensors: Sequence[Tensor], mu: float | None, needed: Sequence[bool]) -> list[Tensor]:
    layer, arguments, _ = _split(handle, names, tensors, mu)
    _in_graphs.add(layer)
    batch, outputs = layer._shapes(arguments)
    return [*(tensors[0].new_empty(shape, dtype=batch.dtype) for shape in outputs), no_token()]


@torch.library.custom_op("dcl::layer_backward", mutates_args=())
def layer_backward_op(
    handle: int,
    names: str,
    tensors: Sequence[Tensor],
    mu: float | None,
    wanted: Sequence[int],
    token: Tensor,
    grads: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the wanted tensors, from what the call has left."""
    tensors, grads = ([t.detach() for t in part] for part in (tensors, grads))
    layer, arguments, mu = _split(handle, names, tensors, mu)
    keys = [names.split(",")[i] for i in wanted]
    return _own(layer._pulled(past_of(token), arguments, mu, keys, grads), (*tensors, *grads))


@layer_backward_op.register_fake
def _(
    handle: int,
    names: str,
    tensors: Sequence[Tensor],
    mu: float | None,
    wanted: Sequence[int],
    token: Tensor,
    grads: Sequence[Tensor],
) -> list[Tensor]:
    return [torch.empty_like(tensors[i], memory_format=torch.contiguous_format) for i in wanted]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.handle, ctx.names, tensors, ctx.mu, _ = inputs
    ctx.save_for_backward(*tensors, output[-1])


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    *tensors, token = ctx.saved_tensors
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2]) if needed]
    given = [g.contiguous() for g in grads[:-1]]
    found = layer_backward_op(ctx.handle, ctx.names, tensors, ctx.mu, wanted, token, given)
    out: list[Tensor | None] = [None] * len(tensors)
    for i, g in zip(wanted, found, strict=True):
        out[i] = g
    return None, None, out, None, None


layer_op.register_autograd(_backward, setup_context=_setup_context)


@layer_op.register_vmap
def _(
    info: Any,
    in_dims: Any,
    handle: int,
    names: str,
    tensors: Sequence[Tensor],
    mu: float | None,
    needed: Sequence[bool],
) -> tuple[list[Tensor], list[int | None]]:
    """A mapped dimension is one more batch dimension, in front of the others."""
    layer, arguments, given = _split(handle, names, tensors, mu)
    dims = in_dims[2]
    logical = {
        name: t if dim is None else t.select(dim, 0) for (name, t), dim in zip(arguments.items(), dims, strict=False)
    }
    batch, outputs = layer._shapes(logical)
    if isinstance(given, Tensor):  # else a mapped dimension could pass for one that mu has
        in_batch(given if dims[-1] is None else given.select(dims[-1], 0), batch.shape)
    cores = layer._cores()
    moved = [
        in_front(t, dim, len(batch.shape) + (cores[name] if name != "mu" else 0))
        for name, t, dim in zip(names.split(","), tensors, dims, strict=True)
    ]
    return layer_op(handle, names, moved, mu, needed), [*[0] * len(outputs), None]

"""What torch is doing around a call: is a derivative recorded, may a value be looked at, is a graph being compiled?

torch.func wraps tensors once for each transform that is active; torch has no public way to ask what is inside, so the private
one is used here and nowhere else.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import Function, forward_ad
from torch.jit._trace import is_tracing
from torch.nn import Parameter

from dcl.errors import UnsupportedError

F = TypeVar("F", bound=Callable[..., Any])


def _layers(t: Tensor) -> Iterator[Tensor]:
    """t and the tensors that the transforms of torch.func have wrapped, outermost first."""
    yield t
    while _functorch.is_functorch_wrapped_tensor(t):
        t = _functorch.get_unwrapped(t)
        yield t


def is_readable(t: Tensor) -> bool:
    """May Python look at the values of t? Not inside of torch.func.vmap, where there is one for each instance."""
    return not any(_functorch.is_batchedtensor(inner) for inner in _layers(t))


def is_wrapped(t: Tensor) -> bool:
    """Does t belong to a transform of torch.func that is active?"""
    return bool(_functorch.is_functorch_wrapped_tensor(t))


def is_ordinary(t: Tensor) -> bool:
    """Is t a plain tensor, no subclass, and of no vmap or other transform of torch.func, the older vmap included?"""
    return type(t) in (Tensor, Parameter) and not (
        _functorch.is_functorch_wrapped_tensor(t) or _functorch.is_legacy_batchedtensor(t)
    )


def is_plain() -> bool:
    """Is torch doing nothing but computing, and recording for reverse mode? No transform, forward mode or mode of dispatch."""
    return (
        _functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
    )


def has_saved_tensor_hooks() -> bool:
    """Is there something, as activation checkpointing, that takes what a graph saves?"""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def first_instance(t: Tensor) -> Tensor:
    """One instance of t, detached, as a plain tensor outside of the transforms of torch.func that have wrapped it."""
    while _functorch.is_functorch_wrapped_tensor(t):
        dim = _functorch.maybe_get_bdim(t)
        t = _functorch.get_unwrapped(t)
        if dim >= 0:
            t = t.select(dim, 0)
    return t.detach()


def outside_of_transforms() -> AbstractContextManager[Any]:
    """A context in which torch computes as if no transform of torch.func were active."""
    return temporarily_clear_interpreter_stack()


def is_recorded(tensors: Iterable[Tensor]) -> bool:
    """Will a derivative be asked for, in reverse or in forward mode, by autograd or by a transform of torch.func?"""
    reverse, forward = torch.is_grad_enabled(), forward_ad._current_level >= 0
    for t in tensors:
        for inner in _layers(t):
            if reverse and inner.requires_grad:
                return True
            # forward mode works under no_grad too, and marks its tensors otherwise
            if forward and not _functorch.is_batchedtensor(inner) and forward_ad.unpack_dual(inner).tangent is not None:
                return True
    return False


@dataclass(frozen=True)
class _Mapped:
    """What a vmap rule is told."""

    batch_size: int
    randomness: str = "error"


def apply(function: type[Function], *args: Any) -> Any:
    """`function.apply(*args)`, by its vmap rule in the older vmap too, which does not ask for it.

    torch.autograd uses that one for `is_grads_batched=True` and for `vectorize=True`.
    """
    mapped = [isinstance(t, Tensor) and _functorch.is_legacy_batchedtensor(t) for t in args]
    if not any(mapped):
        return function.apply(*args)
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    bare = [
        torch._remove_batch_dim(t, level, 1, 0) if is_mapped else t for t, is_mapped in zip(args, mapped, strict=True)
    ]
    size = bare[mapped.index(True)].shape[0]
    out, dims = function.vmap(_Mapped(size), tuple(0 if is_mapped else None for is_mapped in mapped), *bare)

    def front(t: Tensor, dim: int) -> Tensor:
        # as_strided, which forward mode uses, wants it there in memory
        return torch._add_batch_dim(t.movedim(dim, 0).contiguous(), 0, level)

    return (
        front(out, dims) if isinstance(out, Tensor) else tuple(front(t, dim) for t, dim in zip(out, dims, strict=True))
    )


def is_differentiated() -> bool:
    """While a graph is traced: in forward mode, or inside of a transform of torch.func that differentiates?"""
    # the level is read by the traced code itself, which then is guarded against its change
    return forward_ad._current_level >= 0 or "Grad" in _transforms() or "Jvp" in _transforms()


def is_mapped() -> bool:
    """While a graph is traced: inside of torch.func.vmap?"""
    return "Vmap" in _transforms()


def _transforms() -> str:
    return ", ".join(i.key().name for i in _functorch.get_interpreter_stack() or ())


# what torch.compiler.assume_constant_result does, without the import; see `uncompiled`
_transforms._dynamo_marked_constant = True  # type: ignore[attr-defined]


def uncompiled(reason: str) -> Callable[[F], F]:
    """A decorator: `torch.compile` calls the function and does not trace into it; with fullgraph=True it tells the reason.

    As `torch.compiler.disable`, which imports the compiler: more than a second, for programs that may never compile.
    """

    def decorate(function: F) -> F:
        disabled: list[F] = []

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            if not disabled:
                disabled.append(torch.compiler.disable(function, reason=reason))
            return disabled[0](*args, **kwargs)

        call._torchdynamo_disable = True  # type: ignore[attr-defined]
        call._torchdynamo_disable_msg = reason  # type: ignore[attr-defined]
        return cast(F, call)

    return decorate


def is_traced() -> bool:
    """Is torch.jit.trace recording?"""
    return bool(is_tracing())


def check_no_trace() -> None:
    """Raise UnsupportedError inside of torch.jit.trace, which would record the answer as a constant: wrong for other inputs."""
    if is_tracing():
        raise UnsupportedError(
            "torch.jit.trace records only the torch operations of one call, and a layer's solver is not one: the traced module "
            "would return this answer for every input. Use torch.compile, which takes the layer as one operator, or trace the "
            "parts before and after the layer"
        )


def check_order(tensors: Iterable[Tensor]) -> None:
    """Raise UnsupportedError for forward mode over forward mode: torch 2.13 then drops terms of a custom rule, silently."""
    forward = {i.level() for i in _functorch.get_interpreter_stack() or () if i.key() == _functorch.TransformType.Jvp}
    if len(forward) < 2:
        return
    for t in tensors:
        if len(forward & {_functorch.maybe_get_level(inner) for inner in _layers(t)}) > 1:
            raise UnsupportedError(
                "forward mode over forward mode (jacfwd of jacfwd, jvp of jvp) would give a wrong second derivative: torch does "
                "not differentiate the forward rule of a custom function in forward mode; use torch.func.hessian or "
                "jacfwd(jacrev(f)), or jvp(grad(f))"
            )

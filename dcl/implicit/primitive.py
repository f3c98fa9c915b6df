"""What all autograd primitives of dcl share: quick calls, and no tracing by `torch.compile`."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from torch import Tensor
from torch.autograd import Function

from dcl.cones.base import Barrier
from dcl.torch_modes import uncompiled

F = TypeVar("F", bound=type[Function])
_whole = uncompiled("it solves or factors with code that is not a torch operation")


def primitive(function: F) -> F:
    """The same Function, never traced into, with the signature of `forward` computed once.

    torch binds the arguments by `inspect.signature` at every call: 30 us, a tenth of a small layer.  Where a compiled region
    falls back to plain Python, its tracer would try the solvers and the factorization line by line.
    """
    signature = inspect.signature(function.forward)
    for name in ("forward", "setup_context", "backward", "jvp", "vmap"):
        if name in vars(function):
            setattr(function, name, staticmethod(_whole(getattr(function, name))))
    function.forward.__signature__ = signature  # type: ignore[attr-defined]
    return function


def keep(ctx: Any, mu: Barrier, *tensors: Tensor) -> None:
    """Save the tensors and mu for both modes, so that a derivative of the derivative finds them in its graph."""
    saved = (*tensors, mu) if isinstance(mu, Tensor) else tensors
    ctx.save_for_backward(*saved)
    ctx.save_for_forward(*saved)
    ctx.exact = None if isinstance(mu, Tensor) else mu


def kept(ctx: Any) -> tuple[Any, ...]:
    """mu, and the tensors, of `keep`."""
    saved = ctx.saved_tensors
    return (saved[-1], *saved[:-1]) if ctx.exact is None else (ctx.exact, *saved)

"""What a user's function reaches besides its arguments: tensors whose gradient would be lost, and random layers.

A function of y and its parameters is evaluated on one instance, outside of any transform of torch.  The graph of the result is
then walked to its leaves: one that requires grad and is no argument has been reached through a closure, a global, a default,
an attribute.  It is named by looking through these places.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from dcl.errors import InputError
from dcl.torch_modes import is_wrapped

_DEPTH = 4
# Longer containers are data, not places where a network is kept.
_LONGEST = 1000
_LOWER = (torch.float32, torch.bfloat16, torch.float16)


def reached(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """(name, object) for every tensor and module that the function can reach by name."""
    yield from _inside("", function, _DEPTH, set())


def _inside(name: str, thing: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield name, thing
        return
    if isinstance(thing, nn.Module):
        yield name, thing
        yield from ((_dot(name, key), parameter) for key, parameter in thing.named_parameters())
    if depth:
        for key, value in _parts(thing):
            yield from _inside(_dot(name, key) if isinstance(key, str) else f"{name}[{key}]", value, depth - 1, seen)


def _parts(thing: Any) -> Iterator[tuple[str | int, Any]]:
    """What is directly inside of a function, a partial, a bound method, a module, a container or a callable object."""
    if inspect.ismethod(thing):
        yield "self", thing.__self__
        yield "", thing.__func__
    elif inspect.isfunction(thing):
        yield from _variables(thing)
        yield from (thing.__kwdefaults__ or {}).items()
        yield from enumerate(thing.__defaults__ or ())
    elif isinstance(thing, functools.partial):
        yield "", thing.func
        yield from enumerate(thing.args)
        yield from thing.keywords.items()
    elif isinstance(thing, Mapping):
        yield from islice(((key, value) for key, value in thing.items() if isinstance(key, str)), _LONGEST)
    elif isinstance(thing, (list, tuple)):
        yield from enumerate(thing[:_LONGEST])
    elif isinstance(thing, nn.Module) or (
        callable(thing) and not inspect.isclass(thing) and not inspect.isbuiltin(thing)
    ):
        yield from getattr(thing, "__dict__", {}).items()
        if not isinstance(thing, nn.Module):
            yield from _call_of(thing)


def _variables(function: Any) -> Iterator[tuple[str, Any]]:
    """The variables around a function that its code names."""
    try:
        variables = inspect.getclosurevars(function)
    except ValueError:  # one of them has no value yet
        return
    yield from variables.nonlocals.items()
    yield from ((key, value) for key, value in variables.globals.items() if not inspect.ismodule(value))


def _call_of(thing: Any) -> Iterator[tuple[str, Any]]:
    call = type(thing).__call__
    if inspect.isfunction(call):
        yield "", call


def _dot(name: str, key: str) -> str:
    return ".".join(part for part in (name, key) if part)


def works_in(call: Callable[..., Any], x: Tensor, theta: Sequence[Tensor]) -> torch.dtype | None:
    """The lower precision in which call(x, *theta), which has failed in float64, works; None if there is none."""
    for dtype in _LOWER:
        try:
            call(*(t.detach().to(dtype) if t.dtype.is_floating_point else t for t in (x, *theta)))
        except (RuntimeError, TypeError):
            continue
        return dtype
    return None


def check_layers(argument: str, function: Callable[..., Any], passed: Iterable[Tensor]) -> None:
    """Raise InputError for a dropout layer in training mode, and for a tensor of an outer transform, within reach.

    passed: the tensors that are no secret, such as the parameters of a module that is the function.
    """
    known = {id(t) for t in passed}
    for name, thing in reached(function):
        modules = thing.named_modules() if isinstance(thing, nn.Module) else ()
        for key, module in modules:
            if isinstance(module, _DropoutNd) and module.training and module.p > 0.0:
                raise InputError(
                    f"{argument} has dropout in training mode ({_dot(name, key) or type(module).__name__}): the function would "
                    "change at every evaluation; call .eval() on it",
                    argument=argument,
                )
        if isinstance(thing, Tensor) and id(thing) not in known and is_wrapped(thing):
            raise _lost(argument, f"the tensor {name!r}")


def check_graph(argument: str, function: Callable[..., Any], out: Tensor, passed: Sequence[Tensor]) -> None:
    """Raise InputError that names a tensor requiring grad that the graph of `out` reaches and that is not in `passed`."""
    known = {id(t) for t in passed}
    nodes, leaves, todo = set(), [], [out.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            leaves.append(leaf)
        todo.extend(parent for parent, _ in node.next_functions)
    if not leaves:
        return
    foreign = {id(leaf) for leaf in leaves}
    tensors = [(name, t) for name, t in reached(function) if isinstance(t, Tensor)]
    names = [name for name, t in tensors if id(t) in foreign or (t.grad_fn is not None and t.grad_fn in nodes)]
    shown = ", ".join(repr(name) for name in names[:4]) + (", ..." if len(names) > 4 else "")
    raise _lost(
        argument, f"tensors requiring grad, {shown}," if names else f"a tensor {tuple(leaves[0].shape)} requiring grad"
    )


def _lost(argument: str, what: str) -> InputError:
    return InputError(
        f"{argument} reaches {what} not passed to the layer: the gradient there would be lost. Pass it as a parameter, "
        f"{argument}(y, *params); pass a network as the {argument} itself, or its parameters with torch.func.functional_call; "
        "or detach it",
        argument=argument,
    )

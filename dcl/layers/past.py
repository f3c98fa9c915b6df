"""What a call inside a compiled graph keeps for its derivative, and the derivative computed from it.

    call        the compiled core for the instances that it certifies, the careful lane for the others        -> `Past`
    gradient    the core's adjoint with the kept factor, plus the careful lane's at the point that it has found

A graph of torch holds tensors and nothing else.  So a `Past` is held by the memory of a tensor, its token, and lives as long as
torch keeps that for the backward pass.  Where only a copy of the token arrives, the program is solved again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from dcl.errors import InputError
from dcl.implicit import Known
from dcl.layers.fast import Rest, core_call, rest_of, tell_if_verbose
from dcl.layers.lane import FastCall

if TYPE_CHECKING:
    from dcl.layers.base import AbstractLayer


@dataclass(frozen=True, eq=False)
class Past:
    """core: its call, None where the careful lane has answered all instances.  rest: the others, None where there are none.

    known: the careful lane's points, of the rest, or of all instances.
    """

    core: FastCall | None
    rest: Rest | None
    known: Known | None


# tokens: 0 stands for none
_numbers = itertools.count(1)
_pasts: WeakValueDictionary[int, Past] = WeakValueDictionary()


class _Holder(np.ndarray[Any, Any]):
    """The memory of a token."""

    past: Past


def token(past: Past) -> Tensor:
    """A tensor (1,) that holds the past."""
    number = next(_numbers)
    _pasts[number] = past
    holder = np.array([number], dtype=np.int64).view(_Holder)
    holder.past = past
    return torch.from_numpy(holder)


def no_token() -> Tensor:
    """That of a call which leaves nothing."""
    return torch.zeros((1,), dtype=torch.int64, device="cpu")


def past_of(token: Tensor) -> Past | None:
    """What the token holds; None for a copy of a token that is gone."""
    return _pasts.get(int(token))


def remembered(
    layer: AbstractLayer, arguments: Mapping[str, Tensor], mu: float | Tensor | None, needed: Sequence[bool]
) -> tuple[tuple[Tensor, ...], Past]:
    """The outputs of a call, and its past. needed: tensors, mu after the arguments, whose gradients may be asked for."""
    record = any(needed)
    # a solver that the caller has named is the one that runs; the derivative in mu is the careful lane's
    fits = layer._engine.is_free and not any(needed[len(arguments) :])
    call = core_call(layer, arguments, mu, needed[: len(arguments)], record) if fits else None
    if call is not None:
        tensors = tuple(arguments.values())
        # a graph may use memory again that its backward pass does not ask for; the core needs the data as they were
        tensors = tuple(t.clone(memory_format=torch.contiguous_format) for t in tensors) if record else tensors
        try:
            outputs = call.outputs(tensors)
        except InputError:  # the careful lane names the place in the caller's batch
            call = None
        else:
            tell_if_verbose(layer, call)
            assert call.kept is not None
            if call.kept.left == 0:
                return outputs, Past(call, None, None)
            rest = rest_of(arguments, call)
            if rest is not None:
                found, known = layer._with_known(rest.arguments, rest.mu, record, None, rest.members)
                return rest.put(outputs, found), Past(call, rest, known)
    outputs, known = layer._with_known(arguments, mu, record, None)
    return outputs, Past(None, None, known)


def pulled(
    layer: AbstractLayer,
    past: Past | None,
    arguments: Mapping[str, Tensor],
    mu: float | Tensor | None,
    wanted: Sequence[str],
    grads: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the arguments, or of mu, that are wanted, for those of the outputs."""
    call, rest, known = (None, None, None) if past is None else (past.core, past.rest, past.known)
    needed = [name in wanted for name in arguments]
    if call is not None and (not call.lane.way.serves(needed) or "mu" in wanted):
        call = rest = known = None
    found: list[Tensor | None] = [None] * len(wanted)
    if call is not None:
        assert call.kept is not None
        parts = call.lane.way.pull(call.kept, grads, needed, call.threads)
        tensors = zip(parts, arguments.values(), call.lane.cores, needed, strict=True)
        found = [None if g is None else call.lane.restored(g, t, core) for g, t, core, n in tensors if n]
    if call is not None and rest is None:
        return [torch.zeros_like(arguments[name]) if g is None else g for name, g in zip(wanted, found, strict=True)]

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        given: dict[str, Any] = {**arguments, **dict(zip(wanted, values, strict=True))}
        at = given.pop("mu", mu)
        if rest is None:
            return layer._with_known(given, at, known is None, known)[0]
        return layer._with_known(rest.of(given), rest.mu, False, known, rest.members)[0]

    # below an operator autograd is off; the transforms of torch.func are not
    pull = torch.func.vjp(outputs, *(mu if name == "mu" else arguments[name] for name in wanted))[1]
    more = pull(tuple(grads if rest is None else (rest.rows_of(g) for g in grads)))
    return [other if g is None else g + other for g, other in zip(found, more, strict=True)]

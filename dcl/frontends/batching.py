"""Batch dimensions, dtypes and devices of a call: any number of leading dimensions in, one flat batch inside.

Inside, every tensor is float64 with B or 1 in front (1: shared by the whole batch); what comes out has the caller's
batch dimensions, dtype and device again.  All of it is torch operations, so gradients of shared data are summed by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from dcl.errors import DtypeError, InputError


@dataclass(frozen=True)
class Batching:
    """The caller's batch shape (() for none), dtype and device."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> int:
        """Number of instances."""
        return math.prod(self.shape)

    def merge(self, t: Tensor, core: int) -> Tensor:
        """(*batch, *core dims) -> (B or 1, *core dims); `core` is the number of core dimensions."""
        lead, rest = t.shape[: t.ndim - core], t.shape[t.ndim - core :]
        if math.prod(lead) == 1:
            return t.reshape((1, *rest))
        if lead != self.shape:
            t = t.expand(*self.shape, *rest)
        return t.reshape((self.size, *rest))

    def restore(self, t: Tensor) -> Tensor:
        """(B, ...) -> (*batch, ...), in the caller's dtype."""
        return t.reshape((*self.shape, *t.shape[1:])).to(self.dtype)


def grid(arguments: Mapping[str, Tensor], cores: Mapping[str, int]) -> tuple[str, str] | None:
    """The names of two arguments with batch dimensions (k, 1) and (k,): they broadcast to k x k programs. None: there are none.

    As (4, 1) for a number beside (4, 3) for a vector, where (4,) was meant; a grid that is meant has (4, 1) beside (1, 5).
    """
    leads = {tuple(t.shape[: t.ndim - cores[name]]): name for name, t in arguments.items() if isinstance(t, Tensor)}
    for lead, name in leads.items():
        if len(lead) == 2 and lead[0] > 1 and lead[1] == 1 and lead[:1] in leads:
            return name, leads[lead[:1]]
    return None


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of both, by NumPy's rules. Raises ValueError. torch's own function first imports sympy, most of a second."""
    if not a or a == b:
        return b
    if not b:
        return a
    found = []
    for i, j in zip_longest(reversed(a), reversed(b), fillvalue=1):
        if i != j and i != 1 and j != 1:
            raise ValueError
        found.append(j if i == 1 else i)
    return tuple(reversed(found))


def batching(arguments: Iterable[tuple[str, Tensor, int]]) -> Batching:
    """Batch shape, dtype and device of the arguments: name, tensor, number of core dimensions. Names may repeat.

    Raises DtypeError for a tensor that is not real floating point, InputError for what is no dense tensor, has too few
    dimensions, a batch shape that does not broadcast against the others, or another device.
    """
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    for name, t, core in arguments:
        if not isinstance(t, Tensor):
            raise InputError(f"{name} must be a torch.Tensor, got {type(t).__name__}", argument=name)
        if not t.dtype.is_floating_point:
            raise DtypeError(f"{name} must be real floating point, got {t.dtype}", argument=name)
        if t.layout != torch.strided:
            raise InputError(f"{name} has layout {t.layout}: pass {name}.to_dense()", argument=name)
        if t.ndim < core:
            raise InputError(
                f"{name} must have at least {core} dimension(s), got shape {tuple(t.shape)}", argument=name
            )
        if device is not None and t.device != device:
            raise InputError(f"{name} is on {t.device}, but the arguments before it are on {device}", argument=name)
        lead = tuple(t.shape[: t.ndim - core])
        try:
            shape = _broadcast(shape, lead)
        except ValueError:
            raise InputError(
                f"Inconsistent batch sizes: {name} has batch shape {lead}, which does not broadcast against {shape} of the "
                "arguments before it",
                argument=name,
            ) from None
        dtype = t.dtype if dtype is None else torch.promote_types(dtype, t.dtype)
        device = t.device
    return Batching(shape, dtype or torch.get_default_dtype(), device or torch.device("cpu"))

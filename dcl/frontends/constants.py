"""NumPy arrays, pandas objects and numbers where a tensor is expected: constants of the tensors' dtype and device.

    layer(P, q)  with P a tensor in float32, q an array in float64   ->   q in float32, no gradient, answer in float32

A number stands for a 0-d tensor.  Without any tensor the constants are float64, and so is the answer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dcl.errors import DtypeError


class HasArray(Protocol):
    """What NumPy takes for an array: its own, pandas objects, tensors."""

    def __array__(self) -> Any: ...


TensorLike = Tensor | HasArray | float  # what a call takes, for type checkers


def as_tensors(arguments: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Mapping[str, Tensor]:
    """The arguments, all of them tensors; what is neither a tensor nor a constant is left for the caller to refuse.

    names: what the arguments are called in messages, where their keys are others.  Raises DtypeError for what is not real.
    """
    if all([isinstance(t, Tensor) for t in arguments.values()]):
        return arguments
    dtype, device = torch.float64, torch.device("cpu")
    given = [t for t in arguments.values() if isinstance(t, Tensor)]
    if given:
        device = given[0].device
        floating = [t.dtype for t in given if t.dtype.is_floating_point]
        for k, one in enumerate(floating):
            dtype = torch.promote_types(dtype, one) if k else one
    return {
        key: _constant(value, key if names is None else names[key], dtype, device) if _is_constant(value) else value
        for key, value in arguments.items()
    }


def _is_constant(value: object) -> bool:
    if isinstance(value, np.ndarray | Real):
        return True
    pandas = sys.modules.get("pandas")  # a pandas object is there only if pandas was imported
    return pandas is not None and isinstance(value, pandas.Series | pandas.DataFrame)


def _constant(value: Any, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    # not by NumPy, which no graph is traced through; larger integers are refused below
    if type(value) is float or (type(value) is int and abs(value) < 2**63):
        return torch.tensor(value, dtype=dtype, device=device)
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise DtypeError(f"{name} must be real numbers, got {array.dtype}", argument=name)
    return torch.as_tensor(np.array(array, dtype=np.float64), dtype=dtype, device=device)

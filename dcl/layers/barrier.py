"""The mu of a call: checked, and turned into one barrier parameter for each instance."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcl.cones.base import Barrier
from dcl.errors import DtypeError, InputError, UnsupportedError
from dcl.outcome.messages import check_barrier
from dcl.torch_modes import is_readable, is_recorded

_NO_MU = "mu requires a gradient, and ArgminLayer has no derivative with respect to mu: pass mu.detach()"


def barrier(mu: float | Tensor, batch_shape: tuple[int, ...]) -> Barrier:
    """Mu as the float 0.0 or a tensor (B or 1, 1) of numbers >= 0. Raises InputError for anything else."""
    check_mu(mu)
    if not isinstance(mu, Tensor):
        return torch.full((1, 1), mu, dtype=torch.float64, device="cpu") if mu > 0.0 else 0.0
    return in_batch(mu.to(torch.float64), batch_shape)


def in_batch(mu: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
    """Mu as (B or 1, 1), no value is looked at. Raises InputError where it does not broadcast to the batch."""
    if mu.numel() == 1:
        return mu.reshape(1, 1)
    try:
        return mu.expand(batch_shape).reshape(-1, 1)
    except RuntimeError:
        raise InputError(
            f"mu has shape {tuple(mu.shape)}, which does not broadcast to the batch {batch_shape}", argument="mu"
        ) from None


def check_path(mu: Tensor) -> None:
    """For a layer without the derivative in mu and without mu = 0 in some instances. Raises UnsupportedError, InputError."""
    if is_recorded([mu]):
        raise UnsupportedError(_NO_MU)
    if is_readable(mu) and not bool(mu.all()):
        raise InputError("ArgminLayer takes mu = 0 as a number only; as a tensor it must be positive", argument="mu")


def barrier_tensor(mu: Any) -> Any:
    """A NumPy array or a pandas Series as a tensor; everything else as it is."""
    is_array = isinstance(mu, np.ndarray) or type(mu).__name__ == "Series"
    return torch.as_tensor(np.array(mu, dtype=np.float64)) if is_array else mu


def check_mu(mu: object) -> None:
    """Raise InputError, DtypeError for what is no barrier parameter of any batch."""
    if isinstance(mu, Tensor):
        if mu.is_complex() or mu.dtype == torch.bool:
            raise DtypeError(f"mu must be real, got {mu.dtype}", argument="mu")
        if is_readable(mu):  # else when it is solved
            check_barrier(mu, lambda place: tuple(place))
    elif isinstance(mu, bool) or not isinstance(mu, Real):
        raise DtypeError(f"mu must be a number or a tensor, got {type(mu).__name__}", argument="mu")
    elif not 0.0 <= float(mu) < math.inf:
        raise InputError(f"mu is {mu}: it must be finite and not negative", argument="mu")

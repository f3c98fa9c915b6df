"""Programs with smooth terms in the compiled core: the quadratic model at their solutions (dcl/core/smooth.hpp).

    minimize 1/2 x'Px + q'x + sum_t lambda_t psi_t(u_t)    subject to   Ax = b,  Gx <= h,  lb <= x <= ub,     u = d - C'x

    RELATIVE  y log(y/z)  of u = (y, z)        EXP  y e^(x/y)  of u = (x, y)        LOG_SUM  log sum e^(u_k)

`newton` returns P and q of the model 1/2 x'Hx + g'x with the same constraints, whose minimizer is one more Newton step: the core
for quadratic programs (`dcl.core.dense`) takes that, and its factor serves the derivative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from dcl import core
from dcl.core import dense

_extension: Any = core.extension


class Kind(IntEnum):
    """The function psi of a term."""

    RELATIVE = 0
    EXP = 1
    LOG_SUM = 2


@dataclass(frozen=True, eq=False)
class Model:
    """P (B, n, n) and q (B, n) of the quadratic model, steps (B,).  converged (B,) bool: where it is false, P is I and q zero."""

    P: Tensor
    q: Tensor
    converged: Tensor
    steps: Tensor


def newton(
    data: Mapping[str, Tensor],
    batch: int,
    terms: Sequence[tuple[int, int]],
    tails: tuple[Tensor, Tensor, Tensor],
    *,
    start: Tensor | None = None,
    threads: int = 1,
) -> Model:
    """Newton's method from x = 0, or from `start` (batch or 1, n).

    data: as `dcl.core.dense.solve` takes them, float64.  terms: kind and size of each, in the order of u.  tails: C' (., k, n),
    d (., k), lambda (., terms) > 0; . is `batch` or 1.  Raises ValueError where a tensor is not contiguous or has another batch.
    """
    frame = dense.frame(data, (batch,))
    n = data["q"].shape[-1]
    P, q = (
        torch.empty(batch, n, n, dtype=torch.float64, device="cpu"),
        torch.empty(batch, n, dtype=torch.float64, device="cpu"),
    )
    converged = torch.empty(batch, dtype=torch.int8, device="cpu")
    steps = torch.empty(batch, dtype=torch.int32, device="cpu")
    pairs = [number for t in tails for number in _pair(t, batch)]
    _extension.smooth_solve(
        frame.sizes,
        terms,
        frame.addresses(data),
        pairs,
        (0, 0) if start is None else _pair(start, batch),
        [t.data_ptr() for t in (P, q, converged, steps)],
        threads,
    )
    return Model(P, q, converged != 0, steps)


def _pair(t: Tensor, batch: int) -> tuple[int, int]:
    """Address and stride. Raises ValueError where the core would read elsewhere."""
    if t.dtype != torch.float64 or t.shape[0] not in (1, batch) or not t.is_contiguous():
        raise ValueError(f"a tensor of the terms must be contiguous, float64, and have 1 or {batch} in front")
    return t.data_ptr(), 0 if t.shape[0] == 1 else t.numel() // batch

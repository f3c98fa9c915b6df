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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dcl import core
from dcl.core import dense

_extension: Any = core.extension
# Tails, a point, and noise: an address and a stride each.
_ARGUMENTS = 2 * (3 + 5 + 3)


class Kind(IntEnum):
    """The function psi of a term."""

    RELATIVE = 0
    EXP = 1
    LOG_SUM = 2


class Tails(NamedTuple):
    """C' (., k, n), d (., k), lambda (., terms) > 0, contiguous float64; . is the batch or 1."""

    C: Tensor
    d: Tensor
    weights: Tensor


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
    tails: Tails,
    *,
    start: Tensor | None = None,
    threads: int = 1,
) -> Model:
    """Newton's method from x = 0, or from `start` (batch or 1, n).

    data: as `dcl.core.dense.solve` takes them, float64.  terms: kind and size of each, in the order of u.

    Raises ValueError where a tensor is not contiguous or has another batch.
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


class Errors(NamedTuple):
    """Bounds (B,), of first order (dcl/core/smooth_error.hpp); infinity where K has no inverse.

    point: of x and multipliers, relative to 1 + the largest.  derivative: relative to the largest entry for one right-hand side.
    curvature: the relative change of a psi''.  inverse: of |S^-1| of the program as given (dcl/core/smooth_inverse.hpp); infinity
    unless units are given, and where a term is a log sum.
    """

    point: Tensor
    derivative: Tensor
    curvature: Tensor
    inverse: Tensor


class Units(NamedTuple):
    """alpha (terms,): entries of t in its row.  cones (., terms): units of the rows of their cones.  objective (., 1): its unit.

    Units are those of `dcl.program.scaling`; . is the batch or 1.
    """

    alpha: Tensor
    cones: Tensor
    objective: Tensor


def errors(
    data: Mapping[str, Tensor],
    terms: Sequence[tuple[int, int]],
    tails: Tails,
    point: Sequence[Tensor],
    noise: Sequence[Tensor] | None,
    units: Units | None,
    *,
    refined: float,
    threads: int = 1,
) -> Errors:
    """Bounds of the errors of solutions of such programs.

    point: x (B, n), and multipliers as in `dcl.core.dense.Answer`.  noise: what to add to the residuals of x (., n), of the rows
    of A and G (., p + m), and of u (., k); None: nothing.  units: those of all terms, of two tails each; None: `inverse` is not
    asked for.  refined: the residual of derivatives, relative to its terms.
    Raises ValueError where a tensor is not contiguous or has another batch.
    """
    batch = point[0].shape[0]
    frame = dense.frame(data, (batch,))
    out = torch.empty(batch, 4, dtype=torch.float64, device="cpu")
    given = [t.contiguous() for t in (*tails, *point, *(() if noise is None else noise))]
    pairs = [number for t in given for number in _pair(t, batch)]
    pairs += [0] * (_ARGUMENTS - len(pairs))
    scales = () if units is None else (units.cones.contiguous(), units.objective.contiguous())
    _extension.smooth_errors(
        frame.sizes,
        terms,
        frame.addresses(data),
        pairs,
        refined,
        0 if units is None else units.alpha.data_ptr(),
        [number for t in scales for number in _pair(t, batch)] or [0] * 4,
        out.data_ptr(),
        threads,
    )
    return Errors(*out.unbind(-1))


def _pair(t: Tensor, batch: int) -> tuple[int, int]:
    """Address and stride. Raises ValueError where the core would read elsewhere."""
    if t.dtype != torch.float64 or t.shape[0] not in (1, batch) or not t.is_contiguous():
        raise ValueError(f"a tensor of the terms must be contiguous, float64, and have 1 or {batch} in front")
    return t.data_ptr(), 0 if t.shape[0] == 1 else t.numel() // batch

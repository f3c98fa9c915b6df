"""Batches of dense quadratic and linear programs in the compiled core: solve, certify, and pull gradients back.

    minimize 1/2 x'Px + q'x   subject to   Ax = b (y),   Gx <= h (z),   lb <= x (z_lb),   x <= ub (z_ub)
    Px + q + A'y + G'z - z_lb + z_ub = 0,     z, z_lb, z_ub >= 0

Arguments are tensors (B or 1, ...) on the CPU, all float32 or all float64, by the names above; an absent block is missing
from the mapping.  What has 1 in front is shared by the batch: it is factored once, and its gradient is the sum over the batch.

`solve` returns for each instance a point and whether it is certified: residuals, condition and distance from ties are such
that the careful lane of dcl would call it OPTIMAL and EXACT.  What is not certified is zero, and its `Code` says why; it is not
a verdict about the program.  With mu the points are those of the central path.

`adjoint` is the vector-Jacobian product of the certified instances, zero for the others, with the factors kept in
`Answer.handle`; `solve_kkt` solves with the KKT matrix itself, for forward mode and higher derivatives.  The data must be
those of `solve`.  All release the interpreter's lock, may be called from several threads at once, and give the same numbers
whatever `threads` is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from dcl import core

BLOCKS = ("P", "q", "A", "b", "G", "h", "lb", "ub")
OUTPUTS = ("x", "y", "z", "z_lb", "z_ub", "value")
# None where `core.available` is false: then nothing here may be called.
_extension: Any = core.extension
# What a start consists of: y implies nothing about the active set.
_START = ("x", "z", "z_lb", "z_ub")


class Code(IntEnum):
    """What the core says of an instance; see certify.hpp for the limits."""

    CERTIFIED = 0
    NOT_FINITE = 1
    NOT_PSD = 2
    NOT_SOLVED = 3
    RESIDUAL = 4
    TIE = 5
    DEPENDENT = 6
    CONDITION = 7
    FAR = 8


@dataclass(frozen=True, eq=False)
class Answer:
    """The points and verdicts of a batch, and the core's handle for `adjoint`.

    x (B, n), y (B, p), z (B, m), z_lb and z_ub (B, n), or (B, 0) where the block is absent, value (B,): in the dtype of the
    data.  residuals (B, 3): primal, dual, gap as `dcl.point.Point.check` measures them, inf where not certified.  status (B,)
    int8: `Code`.  iterations (B,) int32.  condition (B,): estimate for the KKT matrix.  margin (B,): min |v_i|, in the units of
    `dcl.program.scaling`.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    z_lb: Tensor
    z_ub: Tensor
    value: Tensor
    residuals: Tensor
    status: Tensor
    iterations: Tensor
    condition: Tensor
    margin: Tensor
    handle: Any


def _sizes(data: Mapping[str, Tensor], batch: int) -> tuple[int, int, int, int]:
    p = data["A"].shape[-2] if "A" in data else 0
    m = data["G"].shape[-2] if "G" in data else 0
    return batch, data["q"].shape[-1], p, m


def _pairs(tensors: Mapping[str, Tensor], names: Sequence[str], batch: int, dtype: torch.dtype) -> list[int]:
    """Address and stride of each; absent and empty ones are (0, 0). Raises ValueError where the core would read elsewhere."""
    pairs: list[int] = []
    for name in names:
        t = tensors.get(name)
        if t is None or t.numel() == 0:
            pairs += (0, 0)
            continue
        size = t.shape[0]
        if t.dtype != dtype or (size != 1 and size != batch) or not t.is_contiguous():
            raise ValueError(f"{name} must be contiguous, {dtype}, and have 1 or {batch} in front")
        pairs += (t.data_ptr(), 0 if size == 1 else t.stride(0))
    return pairs


def solve(
    data: Mapping[str, Tensor],
    batch: int,
    *,
    mu: Tensor | None = None,
    start: Mapping[str, Tensor] | None = None,
    threads: int = 1,
) -> Answer:
    """Solve and certify the instances of a batch.

    data: contiguous, P (., n, n), q (., n), A (., p, n), b (., p), G (., m, n), h (., m), lb, ub (., n), . is `batch` or 1;
    only q must be there.  mu (batch or 1,) float64 > 0: the central path of the caller's program.  start: x (., n) and those
    of z, z_lb, z_ub whose blocks are there; the solver starts from the active set that they imply.

    Raises ValueError where a tensor has another dtype or batch, or is not contiguous.
    """
    sizes = _sizes(data, batch)
    _, n, p, m = sizes
    dtype = data["q"].dtype
    lower, upper = (n if name in data else 0 for name in ("lb", "ub"))
    shapes = ((batch, n), (batch, p), (batch, m), (batch, lower), (batch, upper), (batch,))
    x, y, z, z_lb, z_ub, value = (torch.empty(shape, dtype=dtype, device="cpu") for shape in shapes)
    residuals, status = (
        torch.empty(batch, 3, dtype=torch.float64, device="cpu"),
        torch.empty(batch, dtype=torch.int8, device="cpu"),
    )
    iterations = torch.empty(batch, dtype=torch.int32, device="cpu")
    condition, margin = (
        torch.empty(batch, dtype=torch.float64, device="cpu"),
        torch.empty(batch, dtype=torch.float64, device="cpu"),
    )
    written = (x, y, z, z_lb, z_ub, value, residuals, status, iterations, condition, margin)
    path = (0, 0) if mu is None else (mu.data_ptr(), 0 if mu.numel() == 1 else 1)
    handle = _extension.solve(
        sizes,
        dtype == torch.float32,
        _pairs(data, BLOCKS, batch, dtype),
        _pairs(start or {}, _START, batch, dtype),
        path,
        [t.data_ptr() for t in written],
        threads,
    )
    return Answer(*written, handle)


def adjoint(
    answer: Answer,
    data: Mapping[str, Tensor],
    cotangents: Mapping[str, Tensor],
    wanted: Sequence[str],
    *,
    threads: int = 1,
) -> dict[str, Tensor]:
    """Gradients of sum <cotangent, output> with respect to the `wanted` arguments, shaped as these.

    cotangents: contiguous, of the data's dtype, for any of x, y, z, z_lb, z_ub, value, with the shapes in `answer`.
    """
    batch, dtype = answer.x.shape[0], answer.x.dtype
    gradients = {name: torch.empty_like(data[name]) for name in wanted}
    _extension.adjoint(
        answer.handle,
        _sizes(data, batch),
        dtype == torch.float32,
        _pairs(data, BLOCKS, batch, dtype),
        _pairs(cotangents, OUTPUTS, batch, dtype),
        _pairs(gradients, BLOCKS, batch, dtype),
        threads,
    )
    return gradients


def solve_kkt(
    answer: Answer, data: Mapping[str, Tensor], r1: Tensor, r2: Tensor, *, adjoint: bool, threads: int = 1
) -> tuple[Tensor, Tensor]:
    """K^-1 (r1, r2), or K^-T (r1, r2), at the answer: the matrix K of `dcl.kkt` for v = z - s, in the caller's units.

    r1 (B, n), r2 (B, rows) float64, rows stacked as [A; G; -I (lb); I (ub)]; zero for instances that are not certified.
    """
    batch, dtype = answer.x.shape[0], answer.x.dtype
    first, second = r1.clone(memory_format=torch.contiguous_format), r2.clone(memory_format=torch.contiguous_format)
    _extension.solve_kkt(
        answer.handle,
        _sizes(data, batch),
        dtype == torch.float32,
        _pairs(data, BLOCKS, batch, dtype),
        adjoint,
        first.data_ptr(),
        second.data_ptr(),
        threads,
    )
    return first, second

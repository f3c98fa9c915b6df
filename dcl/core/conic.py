"""Batches of dense cone programs in the compiled core: solve, certify, and pull gradients back.

    minimize 1/2 x'Px + q'x   subject to   Ax + s = b,  s in K            dual z in K*,  Px + q + A'z = 0

K: zero, nonnegative, second-order and semidefinite cones, in this order (`dcl.cones.base.Block`).  Tensors are float64 on the
CPU, (B or 1, ...), contiguous, by the names P, q, A, b; P may be missing.  What has 1 in front is shared by the batch, and its
gradient is the sum over it.  What `dcl.core.dense` promises of certified instances, of threads and of the lock holds here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcl import core
from dcl.cones.base import Block

BLOCKS = ("P", "q", "A", "b")
OUTPUTS = ("x", "z", "s", "value")
_KINDS = {"zero": 0, "nonnegative": 1, "second_order": 2, "semidefinite": 3}
_extension: Any = core.extension


@dataclass(frozen=True, eq=False)
class ConicAnswer:
    """The points and verdicts of a batch, and the core's handle for `adjoint`.

    x (B, n), z (B, m), s (B, m), value (B,); v (B, m): z - s in the units of `dcl.program.scaling`.  residuals (B, 3), status (B,),
    iterations (B,), condition (B,), margin (B,): as in `dcl.core.dense.Answer`; margin: the smallest |eigenvalue| of v.
    """

    x: Tensor
    z: Tensor
    s: Tensor
    v: Tensor
    value: Tensor
    residuals: Tensor
    status: Tensor
    iterations: Tensor
    condition: Tensor
    margin: Tensor
    handle: Any


@dataclass(frozen=True)
class ConicCore:
    """The core for programs with one K. blocks: its kind, size and count, as the core counts them; rows: of all."""

    blocks: tuple[tuple[int, int, int], ...]
    rows: int

    def solve(
        self,
        data: Mapping[str, Tensor],
        batch: int,
        *,
        mu: Tensor | None = None,
        start: Mapping[str, Tensor] | None = None,
        threads: int = 1,
    ) -> ConicAnswer:
        """Solve and certify the instances of a batch.

        mu (batch or 1,) float64 >= 0: the central path.  start: x (batch, n) and z (batch, m) to start from.
        Raises ValueError where a tensor has another dtype or batch, or is not contiguous.
        """
        n = data["q"].shape[-1]
        shapes = ((batch, n), *[(batch, self.rows)] * 3, (batch,), (batch, 3))
        x, z, s, v, value, residuals = (torch.empty(shape, dtype=torch.float64, device="cpu") for shape in shapes)
        status = torch.empty(batch, dtype=torch.int8, device="cpu")
        iterations = torch.empty(batch, dtype=torch.int32, device="cpu")
        condition, margin = (torch.empty(batch, dtype=torch.float64, device="cpu") for _ in range(2))
        written = (x, z, s, v, value, residuals, status, iterations, condition, margin)
        handle = _extension.conic_solve(
            (batch, n),
            self.blocks,
            _pairs(data, BLOCKS, batch),
            _pairs(start or {}, ("x", "z"), batch),
            (0, 0) if mu is None else (mu.data_ptr(), 0 if mu.numel() == 1 else 1),
            [t.data_ptr() for t in written],
            threads,
        )
        return ConicAnswer(*written, handle)

    def adjoint(
        self,
        answer: ConicAnswer,
        data: Mapping[str, Tensor],
        cotangents: Mapping[str, Tensor],
        wanted: Sequence[str],
        *,
        threads: int = 1,
    ) -> dict[str, Tensor]:
        """Gradients of sum <cotangent, output> with respect to the `wanted` arguments, shaped as these; data: of `solve`."""
        batch = answer.x.shape[0]
        gradients = {name: torch.empty_like(data[name]) for name in wanted}
        _extension.conic_adjoint(
            answer.handle,
            (batch, data["q"].shape[-1]),
            self.blocks,
            _pairs(data, BLOCKS, batch),
            _pairs(cotangents, OUTPUTS, batch),
            _pairs(gradients, BLOCKS, batch),
            threads,
        )
        return gradients


def conic_core(blocks: Sequence[Block]) -> ConicCore | None:
    """The core for programs with the cones `blocks`, None where it does not have one of them."""
    if any(block.kind not in _KINDS for block in blocks):
        return None
    counted = tuple((_KINDS[block.kind], block.size, block.count) for block in blocks if block.rows * block.count)
    return ConicCore(counted, sum(block.rows * block.count for block in blocks))


def _pairs(tensors: Mapping[str, Tensor], names: Sequence[str], batch: int) -> list[int]:
    """Address and stride of each; absent and empty ones are (0, 0). Raises ValueError where the core would read elsewhere."""
    pairs: list[int] = []
    for name in names:
        t = tensors.get(name)
        if t is None or t.numel() == 0:
            pairs += (0, 0)
            continue
        size = t.shape[0]
        if t.dtype != torch.float64 or (size != 1 and size != batch) or not t.is_contiguous():
            raise ValueError(f"{name} must be contiguous, float64, and have 1 or {batch} in front")
        pairs += (t.data_ptr(), 0 if size == 1 else t.stride(0))
    return pairs

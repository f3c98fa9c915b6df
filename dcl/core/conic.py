"""Batches of dense cone programs in the compiled core: solve, certify, and pull gradients back.

    minimize 1/2 x'Px + q'x   subject to   Ax = b (y),   Gx + s = h,  s in K (z)         Px + q + A'y + G'z = 0,   z in K*

K: nonnegative, second-order, semidefinite, exponential and power cones, in the order of `dcl.program`.  Tensors are float64 on
the CPU, (B or 1, ...), contiguous, by the names P, q, A, b, G, h; an absent block is missing from the mapping.  What has 1 in
front is shared by the batch, and its gradient is the sum over it.  What `dcl.core.dense` promises of certified instances, of
threads and of the lock holds here too; there is no `solve_kkt`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dcl import core

BLOCKS = ("P", "q", "A", "b", "G", "h")
OUTPUTS = ("x", "y", "z", "s", "value")
_START = ("x", "y", "z")
_KINDS = {"zero": 0, "nonnegative": 1, "second_order": 2, "semidefinite": 3, "exponential": 5, "power": 6}
# The lower triangle of a semidefinite cone by columns, as SCS has it, instead of the upper one.
_LOWER = 4
# Most operations of one step, n^2 m: above, what the core would lose where it does not certify is too much.
_MOST_WORK = 4e8
_extension: Any = core.extension


class Block(Protocol):
    """What the core asks of a `dcl.cones.base.Block`: a kind by name, so many cones of a size and so many rows each.

    alphas: the exponents of power cones.
    """

    @property
    def kind(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def alphas(self) -> tuple[float, ...]: ...
    @property
    def rows(self) -> int: ...


@dataclass(frozen=True, eq=False)
class ConicAnswer:
    """The points and verdicts of a batch, and the core's handle for `adjoint`.

    x (B, n), y (B, zero rows), z and s (B, other rows), value (B,).  residuals (B, 3), status (B,), iterations (B,),
    condition (B,), margin (B,): as in `dcl.core.dense.Answer`; margin: the smallest |eigenvalue| of v = z - s.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    s: Tensor
    value: Tensor
    residuals: Tensor
    status: Tensor
    iterations: Tensor
    condition: Tensor
    margin: Tensor
    handle: Any


@dataclass(frozen=True)
class ConicCore:
    """The core for programs with one K.

    blocks: kind, size and count as the core counts them, exponents of power cones; zeros, rows: how many.
    """

    blocks: tuple[tuple[int, int, int, tuple[float, ...]], ...]
    zeros: int
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

        mu (batch or 1,) float64 >= 0: the central path.  start: x (., n), y (., zero rows) and z (., other rows) to start from.
        Raises ValueError where a tensor has another dtype or batch, or is not contiguous.
        """
        n, others = data["q"].shape[-1], (batch, self.rows - self.zeros)
        shapes = ((batch, n), (batch, self.zeros), others, others, (batch,), (batch, 3))
        x, y, z, s, value, residuals = (torch.empty(shape, dtype=torch.float64, device="cpu") for shape in shapes)
        status = torch.empty(batch, dtype=torch.int8, device="cpu")
        iterations = torch.empty(batch, dtype=torch.int32, device="cpu")
        condition, margin = (torch.empty(batch, dtype=torch.float64, device="cpu") for _ in range(2))
        written = (x, y, z, s, value, residuals, status, iterations, condition, margin)
        handle = _extension.conic_solve(
            (batch, n),
            self.blocks,
            _pairs(data, BLOCKS, batch),
            _pairs(start or {}, _START, batch),
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


def conic_core(blocks: Sequence[Block], n: int, *, lower: bool = False) -> ConicCore | None:
    """The core for programs with n variables and the cones `blocks`, None where it lacks one, or they are too large.

    lower: rows of semidefinite cones are the lower triangle by columns, not as in `dcl.cones.semidefinite`.
    """
    rows = sum(block.rows * block.count for block in blocks)
    if any(block.kind not in _KINDS for block in blocks) or n * n * rows > _MOST_WORK:
        return None
    kinds = _KINDS | ({"semidefinite": _LOWER} if lower else {})
    present = [block for block in blocks if block.rows * block.count]
    counted = tuple((kinds[block.kind], block.size, block.count, block.alphas) for block in present)
    zeros = sum(block.size for block in blocks if block.kind == "zero")
    return ConicCore(counted, zeros, rows)


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

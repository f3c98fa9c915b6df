"""Batches of dense quadratic and linear programs in the compiled core: solve, certify, and pull gradients back.

    minimize 1/2 x'Px + q'x   subject to   Ax = b (y),   Gx <= h (z),   lb <= x (z_lb),   x <= ub (z_ub)
    Px + q + A'y + G'z - z_lb + z_ub = 0,     z, z_lb, z_ub >= 0

Arguments are tensors (*lead, ...) on the CPU, all float32 or all float64, by the names above, with one or B instances in the
leading dimensions; an absent block is missing from the mapping.  What has one instance is shared by the batch: it is factored
once, and its gradient is the sum over the batch.

`solve` returns for each instance a point and whether it is certified: residuals, condition and distance from ties are such
that the careful lane of dcl would call it OPTIMAL and EXACT.  What is not certified is zero, and its `Code` says why; it is not
a verdict about the program.  With mu the points are those of the central path.

`adjoint` is the vector-Jacobian product of the certified instances, zero for the others, with the factors kept in
`Answer.kept`; `solve_kkt` solves with the KKT matrix itself, for forward mode and higher derivatives.  The data must be
those of `solve`.  All release the interpreter's lock, may be called from several threads at once, and give the same numbers
whatever `threads` is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dcl import core

BLOCKS = ("P", "q", "A", "b", "G", "h", "lb", "ub")
OUTPUTS = ("x", "y", "z", "z_lb", "z_ub", "value")
# None where `core.available` is false: then nothing here may be called.
_extension: Any = core.extension
# What a start consists of: y implies nothing about the active set.
_START = ("x", "z", "z_lb", "z_ub")
_NOWHERE = [0] * 8
# Dimensions of one instance of each block.
_CORE = {"P": 2, "q": 1, "A": 2, "b": 1, "G": 2, "h": 1, "lb": 1, "ub": 1}


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
class Frame:
    """What the shapes of a call say, made once for many calls.

    sizes: batch, n, p, m.  strides: by block, 0 where it is shared.  outputs: of the shapes of x, y, z, z_lb, z_ub, value,
    one number each: `empty_like` takes half of the time of `empty`.
    """

    sizes: tuple[int, int, int, int]
    dtype: torch.dtype
    strides: Mapping[str, int]
    outputs: tuple[Tensor, ...]

    def addresses(self, tensors: Mapping[str, Tensor]) -> list[int]:
        """Address and stride of each block; absent and empty ones are (0, 0). The tensors are as `frame` has seen them."""
        pairs: list[int] = []
        strides = self.strides
        for name in BLOCKS:
            if name in tensors and name in strides:
                pairs += (tensors[name].data_ptr(), strides[name])
            else:
                pairs += (0, 0)
        return pairs


class Kept(NamedTuple):
    """What a call leaves for its derivative, and its verdicts.  The tensors of `data` must stay as they were."""

    frame: Frame
    data: Mapping[str, Tensor]
    handle: Any

    @property
    def is_regular(self) -> bool:
        """May the careful lane differentiate at these points?"""
        return True

    @property
    def left(self) -> int:
        """How many instances are not certified."""
        return int(self.handle.left)

    @property
    def report(self) -> Tensor:
        """(B, 7) float64: the properties below, side by side."""
        report = torch.empty((self.frame.sizes[0], 7), dtype=torch.float64, device="cpu")
        self.handle.report(report.data_ptr())
        return report

    @property
    def residuals(self) -> Tensor:
        """Primal, dual, gap (B, 3) as `dcl.point.Point.check` measures them, inf where not certified."""
        return self.report[:, :3]

    @property
    def status(self) -> Tensor:
        """`Code` (B,) int8."""
        return self.report[:, 3].to(torch.int8)

    @property
    def iterations(self) -> Tensor:
        """Those of the solver (B,), int32."""
        return self.report[:, 4].to(torch.int32)

    @property
    def condition(self) -> Tensor:
        """Of the KKT matrix (B,): an upper bound where that says enough, else an estimate."""
        return self.report[:, 5]

    @property
    def margin(self) -> Tensor:
        """min |v_i| (B,), in the units of `dcl.program.scaling`."""
        return self.report[:, 6]

    def adjoint(
        self, cotangents: Mapping[str, Tensor], wanted: Sequence[str], *, threads: int = 1
    ) -> dict[str, Tensor]:
        """`adjoint` below."""
        known = self.frame
        gradients = {name: torch.empty_like(self.data[name]) for name in wanted}
        pairs: list[int] = []
        for name in OUTPUTS:
            t = cotangents.get(name)
            if t is None or t.numel() == 0:
                pairs += (0, 0)
                continue
            if t.dtype != known.dtype or not t.is_contiguous():
                raise ValueError(f"the cotangent of {name} must be contiguous and {known.dtype}")
            pairs += (t.data_ptr(), t.numel() // known.sizes[0])
        _extension.adjoint(
            self.handle,
            known.sizes,
            known.dtype is torch.float32,
            known.addresses(self.data),
            pairs,
            known.addresses(gradients),
            threads,
        )
        return gradients

    def point(self) -> tuple[Tensor, Tensor]:
        """x (B, n) and z (B, rows), float64, of the answer; rows [A; G; lb; ub]; zero where not certified."""
        sizes = self.frame.sizes[1], sum(t.shape[-1] for t in self.frame.outputs[1:-1])
        x, z = [torch.empty((self.frame.sizes[0], size), dtype=torch.float64, device="cpu") for size in sizes]
        self.handle.recall(x.data_ptr(), z.data_ptr())
        return x, z


class Answer(NamedTuple):
    """The points of a batch, in the dtype of the data.

    x (*batch, n), y (*batch, p), z (*batch, m), z_lb and z_ub (*batch, n), or (*batch, 0) where the block is absent, value
    (*batch).  kept: the verdicts, and what `adjoint` needs.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    z_lb: Tensor
    z_ub: Tensor
    value: Tensor
    kept: Kept

    @property
    def status(self) -> Tensor:
        """`Code` (B,) int8."""
        return self.kept.status

    @property
    def iterations(self) -> Tensor:
        """Those of the solver (B,), int32."""
        return self.kept.iterations


def frame(data: Mapping[str, Tensor], batch: Sequence[int]) -> Frame:
    """The frame of calls with such data, for answers with these batch dimensions.

    Raises ValueError where the core would read elsewhere.
    """
    size, q = math.prod(batch), data["q"]
    n = q.shape[-1]
    p, m = (data[name].shape[-2] if name in data else 0 for name in ("A", "G"))
    strides = {name: _stride(name, t, _CORE[name], size, q.dtype) for name, t in data.items() if t.numel()}
    widths = ((n,), (p,), (m,), *((n,) if name in data else (0,) for name in ("lb", "ub")), ())
    number = torch.empty((), dtype=q.dtype, device="cpu")
    return Frame((size, n, p, m), q.dtype, strides, tuple(number.expand((*batch, *width)) for width in widths))


def _stride(name: str, t: Tensor, core: int, batch: int, dtype: torch.dtype) -> int:
    """Numbers from one instance to the next, 0 if there is one for all. Raises ValueError; core: dimensions of an instance."""
    instances = math.prod(t.shape[: t.ndim - core])
    if t.dtype != dtype or instances not in (1, batch) or not t.is_contiguous():
        raise ValueError(f"{name} must be contiguous, {dtype}, and have 1 or {batch} in front")
    return 0 if instances == 1 else math.prod(t.shape[t.ndim - core :])


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
    return solve_framed(frame(data, (batch,)), data, mu=mu, start=start, threads=threads)


def solve_framed(
    known: Frame,
    data: Mapping[str, Tensor],
    *,
    mu: Tensor | None = None,
    start: Mapping[str, Tensor] | None = None,
    threads: int = 1,
    keep: bool = True,
) -> Answer:
    """`solve` for data of a known frame.

    keep: will a derivative be asked for?  If not, no factor is kept, and `adjoint` and `solve_kkt` raise ValueError.
    """
    dtype, batch = known.dtype, known.sizes[0]
    x, y, z, z_lb, z_ub, value = [torch.empty_like(t) for t in known.outputs]
    from_ = _NOWHERE
    if start is not None:
        from_ = []
        for name in _START:
            t = start.get(name)
            given = t is not None and t.numel() > 0
            from_ += (t.data_ptr(), _stride(name, t, 1, batch, dtype)) if t is not None and given else (0, 0)
    handle = _extension.solve(
        known.sizes,
        dtype is torch.float32,
        known.addresses(data),
        from_,
        (0, 0) if mu is None else (mu.data_ptr(), 0 if mu.numel() == 1 else 1),
        (x.data_ptr(), y.data_ptr(), z.data_ptr(), z_lb.data_ptr(), z_ub.data_ptr(), value.data_ptr()),
        keep,
        threads,
    )
    return Answer(x, y, z, z_lb, z_ub, value, Kept(known, data, handle))


class Cells(NamedTuple):
    """The cells of the solutions of programs with soft rows, and points to start from there (soft.hpp).

    beyond (B, m) bool: soft rows that are violated.  start: x (B, n), z (B, m), and z_lb, z_ub (B, n) where there are such
    bounds, of the cell's program.
    """

    beyond: Tensor
    start: dict[str, Tensor]


def find_cells(data: Mapping[str, Tensor], cap: Tensor, batch: int, *, threads: int = 1) -> Cells:
    """Where each row of G may be violated at the cost cap (batch or 1, m) float64, infinite for those that may not.

    data: as for `solve`, float64.  It is a guess, which `solve` has to confirm.
    """
    known = frame(data, (batch,))
    x, _, z, z_lb, z_ub, _ = [torch.empty_like(t) for t in known.outputs]
    beyond = torch.empty(z.shape, dtype=torch.bool, device="cpu")
    out = [t.data_ptr() for t in (x, z, z_lb, z_ub, beyond)]
    pair = (cap.data_ptr(), 0 if cap.shape[0] == 1 else cap.shape[-1])
    _extension.find_cells(known.sizes, known.addresses(data), pair, out, threads)
    start = {"x": x, "z": z, "z_lb": z_lb, "z_ub": z_ub}
    return Cells(beyond, {name: t for name, t in start.items() if t.numel()})


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
    kept = answer.kept._replace(frame=frame(data, answer.value.shape), data=data)
    return kept.adjoint(cotangents, wanted, threads=threads)


def solve_kkt(
    answer: Answer, data: Mapping[str, Tensor], r1: Tensor, r2: Tensor, *, adjoint: bool, threads: int = 1
) -> tuple[Tensor, Tensor]:
    """K^-1 (r1, r2), or K^-T (r1, r2), at the answer: the matrix K of `dcl.kkt` for v = z - s, in the caller's units.

    r1 (B, n), r2 (B, rows) float64, rows stacked as [A; G; -I (lb); I (ub)]; zero for instances that are not certified.
    """
    known, kept = frame(data, answer.value.shape), answer.kept
    first, second = r1.clone(memory_format=torch.contiguous_format), r2.clone(memory_format=torch.contiguous_format)
    _extension.solve_kkt(
        kept.handle,
        known.sizes,
        known.dtype is torch.float32,
        known.addresses(data),
        adjoint,
        first.data_ptr(),
        second.data_ptr(),
        threads,
    )
    return first, second

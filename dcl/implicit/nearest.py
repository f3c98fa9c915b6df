"""`dcl.program.convexity` for the P of a call, also where torch.func.vmap hides its values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.implicit.primitive import primitive
from dcl.program import ConeProgram
from dcl.program.convexity import excess
from dcl.program.pattern import DensePattern
from dcl.torch_modes import apply, is_readable


def lift(program: ConeProgram) -> Tensor | None:
    """E with P + E >= 0, (B or 1, n, n), a constant; None where P is positive semidefinite, or not stored as a full matrix."""
    if not isinstance(program.structure.P, DensePattern):
        return None
    P = program.P.detach()
    if is_readable(P):
        with torch.no_grad():
            return excess(P)
    return apply(Excess, P)  # type: ignore[no-any-return]


@primitive
class Excess(Function):
    """See `lift`; zero where there is nothing to lift."""

    @staticmethod
    def forward(P: Tensor) -> Tensor:
        E = excess(P)
        return torch.zeros_like(P) if E is None else E

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None

    @staticmethod
    def jvp(ctx: Any, tP: Tensor) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], P: Tensor) -> tuple[Tensor, int]:
        assert in_dims[0] is not None
        P = P.movedim(in_dims[0], 0)
        return Excess.apply(P.flatten(0, 1)).unflatten(0, P.shape[:2]), 0

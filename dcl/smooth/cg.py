"""H^-1 r by conjugate gradients on Hessian-vector products, as a differentiable function: for y too large for matrices.

    w = H(x, theta)^-1 r:     dw = H^-1 (dr - dH w)         gradient of <l, w>:   r~ = H^-1 l =: u,   (x, theta)~ = -d <u, H w>

Memory is that of a few vectors and of one evaluation of f; H must be positive definite (negative definite at a maximum is the
same thing for -f).  The residual that was reached is checked; a large one triggers a warning.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.errors import DegenerateWarning, level_of_caller
from dcl.implicit.folding import Fold
from dcl.implicit.primitive import primitive
from dcl.smooth.large import conjugate_gradients
from dcl.smooth.program import SmoothProgram, Theta
from dcl.torch_modes import apply

# Relative residuals: the target of CG, and the one above which it warns.
_TOLERANCE = 1e-12
_LIMIT = 1e-6


def cg_solve(program: SmoothProgram, x: Tensor, r: Tensor, theta: Theta) -> Tensor:
    """H(x, theta)^-1 r, (B, n)."""
    return apply(CgSolve, program, x, r, *theta)  # type: ignore[no-any-return]


@primitive
class CgSolve(Function):
    """See `cg_solve`."""

    @staticmethod
    def forward(program: SmoothProgram, x: Tensor, r: Tensor, *theta: Tensor) -> Tensor:
        z = x.new_zeros(x.shape[0], 0)
        out = conjugate_gradients(lambda w: program.hessian_product(x, z, w, theta), r, _TOLERANCE)
        bad = torch.nonzero(~(out.residual <= _LIMIT)).flatten().tolist()
        if bad:
            warnings.warn(
                f"conjugate gradients reached a relative residual of {float(out.residual.max()):.1e} after {out.steps} "
                f"products with the Hessian in instances {bad[:8]}: their gradients have few correct digits",
                DegenerateWarning,
                stacklevel=level_of_caller(),
            )
        return out.w

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.program, x, _, *theta = inputs
        ctx.save_for_backward(x, output, *theta)
        ctx.save_for_forward(x, output, *theta)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x, w, *theta = saved
        u = cg_solve(ctx.program, x, g, theta)
        needed = [k for k, needs in enumerate(ctx.needs_input_grad[3:]) if needs]
        grads: list[Tensor | None] = [None] * (1 + len(theta))
        if needed or ctx.needs_input_grad[1]:
            pull = torch.func.vjp(_product(ctx.program, w, theta, needed), x, *(theta[k] for k in needed))[1]
            for k, t in zip([0, *(k + 1 for k in needed)], pull(-u), strict=True):
                grads[k] = t
        return None, grads[0], u, *grads[1:]

    @staticmethod
    def jvp(ctx: Any, _p: None, tx: Tensor | None, tr: Tensor | None, *tangents: Tensor | None) -> Tensor:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x, w, *theta = saved
        r = torch.zeros_like(w) if tr is None else tr
        moving = [k for k, t in enumerate(tangents) if t is not None]
        if moving or tx is not None:
            pull = torch.func.vjp(_product(ctx.program, w, theta, moving), x, *(theta[k] for k in moving))[1]
            push = torch.func.vjp(pull, torch.zeros_like(w))[1]
            along = torch.zeros_like(x) if tx is None else tx
            r = r - push((along, *(tangents[k] for k in moving)))[0]
        return cg_solve(ctx.program, x, r, theta)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], program: SmoothProgram, x: Tensor, r: Tensor, *theta: Tensor
    ) -> tuple[Tensor, int]:
        B = x.shape[0] if in_dims[1] is None else x.movedim(in_dims[1], 0).shape[1]
        fold = Fold(info.batch_size, B)
        points = [fold.data(t, dim) for t, dim in zip((x, r), in_dims[1:3], strict=True)]
        x, r = (t.expand(fold.V * B, -1) for t in points)
        rest = [fold.data(t, dim) for t, dim in zip(theta, in_dims[3:], strict=True)]
        return fold.unfold(CgSolve.apply(program, x, r, *rest), 0), 0


def _product(program: SmoothProgram, w: Tensor, theta: list[Tensor], which: list[int]) -> Any:
    """(x, theta of positions `which`) -> H(x, theta) w."""
    z = w.new_zeros(w.shape[0], 0)

    def of(x: Tensor, *chosen: Tensor) -> Tensor:
        every = list(theta)
        for k, t in zip(which, chosen, strict=True):
            every[k] = t
        return program.hessian_product(x, z, w, every)

    return of

"""z = Pi_mu*(v) as a differentiable function, and its derivative D(v) w.

    dz = D dv          d(D w) = D dw + (curvature of w, dv)          gradient of <a, D(v) w> in v:  curvature of (a, w)

Closed: each rule uses these two and torch operations.  torch's own rules would take 0 or 1 at a kink instead of D's value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.cones.base import Barrier
from dcl.implicit.signature import signature_known
from dcl.program import Structure


def project(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor) -> Tensor:
    """z = Pi_mu*(v), (B, m), differentiable with D = at_kink (B, m) at the kinks."""
    return Project.apply(structure, mu, v, at_kink)  # type: ignore[no-any-return]


def dproduct(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor, w: Tensor) -> Tensor:
    """D(v) w, (..., B, m), differentiable in v and w."""
    return DProduct.apply(structure, mu, v, at_kink, w)  # type: ignore[no-any-return]


@signature_known
class Project(Function):
    """See `project`."""

    @staticmethod
    def forward(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor) -> Tensor:
        return structure.cone.project(v, mu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.structure, ctx.mu, v, at_kink = inputs
        ctx.save_for_backward(v, at_kink)
        ctx.save_for_forward(v, at_kink)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        v, at_kink = ctx.saved_tensors
        return None, None, dproduct(ctx.structure, ctx.mu, v, at_kink, g), None

    @staticmethod
    def jvp(ctx: Any, _s: None, _m: None, tv: Tensor, _at: None) -> Tensor:
        v, at_kink = ctx.saved_tensors
        return dproduct(ctx.structure, ctx.mu, v, at_kink, tv)


@signature_known
class DProduct(Function):
    """See `dproduct`."""

    @staticmethod
    def forward(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor, w: Tensor) -> Tensor:
        return structure.cone.dproject(v, mu, at_kink).apply(w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.structure, ctx.mu, v, at_kink, w = inputs
        ctx.save_for_backward(v, at_kink, w)
        ctx.save_for_forward(v, at_kink, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        v, at_kink, w = ctx.saved_tensors
        grad_v = None
        if ctx.needs_input_grad[2]:
            bend = ctx.structure.cone.curvature(v, ctx.mu, g, w)
            grad_v = bend if bend.ndim == v.ndim else bend.flatten(0, -3).sum(0)
        grad_w = dproduct(ctx.structure, ctx.mu, v, at_kink, g) if ctx.needs_input_grad[4] else None
        return None, None, grad_v, None, grad_w

    @staticmethod
    def jvp(ctx: Any, _s: None, _m: None, tv: Tensor | None, _at: None, tw: Tensor | None) -> Tensor:
        v, at_kink, w = ctx.saved_tensors
        out = torch.zeros_like(w) if tw is None else dproduct(ctx.structure, ctx.mu, v, at_kink, tw)
        return out if tv is None else out + ctx.structure.cone.curvature(v, ctx.mu, w, tv)

"""z = Pi_mu*(v) as a differentiable function, and its derivative D(v) w.

    dz = D dv          d(D w) = D dw + curvature_product(w, dv)          gradient of <a, D(v) w> in v:  curvature_product(a, w)

with curvature_product(a, w) = that of the cone, from the third derivative of a potential: symmetric in a, w and a third vector.
Closed: each rule uses these and torch operations.  torch's own rules would take 0 or 1 at a kink instead of D's value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.cones.base import Barrier
from dcl.implicit.folding import Fold, in_front, size_of_batch
from dcl.implicit.primitive import primitive
from dcl.program import Structure
from dcl.torch_modes import apply


def project(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor) -> Tensor:
    """z = Pi_mu*(v), (B, m), differentiable with D = at_kink (B, m) at the kinks."""
    return apply(Project, structure, mu, v, at_kink)  # type: ignore[no-any-return]


def dproduct(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor, w: Tensor) -> Tensor:
    """D(v) w, (..., B, m), differentiable in v and w."""
    return apply(DProduct, structure, mu, v, at_kink, w)  # type: ignore[no-any-return]


def curvature_product(structure: Structure, mu: Barrier, v: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """The derivative of <a, D(v) w> in v, (..., B, m), differentiable in a and w, and in v where the cone allows it."""
    return apply(CurvatureProduct, structure, mu, v, a, w)  # type: ignore[no-any-return]


@primitive
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

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor
    ) -> tuple[Tensor, int]:
        fold = Fold(info.batch_size, size_of_batch((v, at_kink), in_dims[2:]))
        mu, v, at_kink = fold.barrier(mu, in_dims[1]), fold.data(v, in_dims[2]), fold.data(at_kink, in_dims[3])
        return fold.unfold(project(structure, mu, v, at_kink), 0), 0


@primitive
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
            grad_v = sum_to(curvature_product(ctx.structure, ctx.mu, v, g, w), v)
        grad_w = dproduct(ctx.structure, ctx.mu, v, at_kink, g) if ctx.needs_input_grad[4] else None
        return None, None, grad_v, None, grad_w

    @staticmethod
    def jvp(ctx: Any, _s: None, _m: None, tv: Tensor | None, _at: None, tw: Tensor | None) -> Tensor:
        v, at_kink, w = ctx.saved_tensors
        out = torch.zeros_like(w) if tw is None else dproduct(ctx.structure, ctx.mu, v, at_kink, tw)
        return out if tv is None else out + curvature_product(ctx.structure, ctx.mu, v, w, tv)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        structure: Structure,
        mu: Barrier,
        v: Tensor,
        at_kink: Tensor,
        w: Tensor,
    ) -> tuple[Tensor, int]:
        if in_dims[1:4] == (None, None, None):
            return dproduct(structure, mu, v, at_kink, in_front(w, in_dims[4])), 0
        fold = Fold(info.batch_size, size_of_batch((v, at_kink), in_dims[2:4]))
        mu, v, at_kink = fold.barrier(mu, in_dims[1]), fold.data(v, in_dims[2]), fold.data(at_kink, in_dims[3])
        out = fold.unfold(dproduct(structure, mu, v, at_kink, fold.vectors(w, in_dims[4])), -2)
        return out, out.ndim - 3


@primitive
class CurvatureProduct(Function):
    """See `curvature_product`."""

    @staticmethod
    def forward(structure: Structure, mu: Barrier, v: Tensor, a: Tensor, w: Tensor) -> Tensor:
        return structure.cone.curvature_product(v, mu, a, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.structure, ctx.mu, v, a, w = inputs
        ctx.save_for_backward(v, a, w)
        ctx.save_for_forward(v, a, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        v, a, w = ctx.saved_tensors
        structure, mu = ctx.structure, ctx.mu
        grad_v = None
        if ctx.needs_input_grad[2]:
            grad_v = torch.func.vjp(lambda v: structure.cone.curvature_product(v, mu, a, w), v)[1](g)[0]
        grad_a = sum_to(curvature_product(structure, mu, v, g, w), a) if ctx.needs_input_grad[3] else None
        grad_w = sum_to(curvature_product(structure, mu, v, a, g), w) if ctx.needs_input_grad[4] else None
        return None, None, grad_v, grad_a, grad_w

    @staticmethod
    def jvp(ctx: Any, _s: None, _m: None, tv: Tensor | None, ta: Tensor | None, tw: Tensor | None) -> Tensor:
        v, a, w = ctx.saved_tensors
        structure, mu = ctx.structure, ctx.mu
        terms = []
        if tv is not None:
            terms.append(torch.func.jvp(lambda v: structure.cone.curvature_product(v, mu, a, w), (v,), (tv,))[1])
        if ta is not None:
            terms.append(curvature_product(structure, mu, v, ta, w))
        if tw is not None:
            terms.append(curvature_product(structure, mu, v, a, tw))
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], structure: Structure, mu: Barrier, v: Tensor, a: Tensor, w: Tensor
    ) -> tuple[Tensor, int]:
        _, mu_dim, v_dim, a_dim, w_dim = in_dims
        if mu_dim is None and v_dim is None:
            ndim = max(t.ndim - (dim is not None) for t, dim in ((a, a_dim), (w, w_dim)))
            return curvature_product(structure, mu, v, in_front(a, a_dim, ndim), in_front(w, w_dim, ndim)), 0
        fold = Fold(info.batch_size, size_of_batch((v,), (v_dim,)))
        mu, v = fold.barrier(mu, mu_dim), fold.data(v, v_dim)
        out = fold.unfold(curvature_product(structure, mu, v, fold.vectors(a, a_dim), fold.vectors(w, w_dim)), -2)
        return out, out.ndim - 3


def sum_to(t: Tensor, like: Tensor) -> Tensor:
    """t summed over the dimensions along which `like` was broadcast."""
    extra = t.ndim - like.ndim
    t = t.sum(tuple(range(extra))) if extra > 0 else t
    shared = [k for k, size in enumerate(like.shape) if size == 1 and t.shape[k] != 1]
    return t.sum(shared, keepdim=True) if shared else t

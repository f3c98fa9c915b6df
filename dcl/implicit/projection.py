"""z = Pi_mu*(v) as a differentiable function of v and mu, and its derivative D(v) w.

    dz = D dv + k dmu,  k = D s / mu (`slope_in_mu`)     d(D w) = D dw + C(w, dv - v dmu / (2 mu))     <a, C(w, t)> = <t, C(a, w)>

with C(a, w) = `curvature_product` of the cone, the gradient of <a, D(v) w> in v, from the third derivative of a potential:
symmetric in a, w and a third vector.  Since z(t v, t^2 mu) = t z(v, mu), D depends on v / sqrt(mu) alone, and k and C follow
from Euler's rule:

    dk = -(C(v, dv) + (k - C(v, v) / (2 mu)) dmu) / (2 mu)          dC/dmu = -(C + C'(v)[v]) / (2 mu)

Closed: each rule uses these and torch operations.  torch's own rules would take 0 or 1 at a kink instead of D's value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.cones import by_rows
from dcl.cones.base import Barrier
from dcl.implicit.folding import Fold, in_front, size_of_batch
from dcl.implicit.primitive import keep, kept, primitive
from dcl.program import Structure
from dcl.torch_modes import apply


def project(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor) -> Tensor:
    """z = Pi_mu*(v), (B, m), differentiable with D = at_kink (B, m) at the kinks."""
    return apply(Project, structure, mu, v, at_kink)  # type: ignore[no-any-return]


def slope_in_mu(structure: Structure, mu: Tensor, v: Tensor) -> Tensor:
    """k = dz/dmu at fixed v, (B, m), differentiable in v and mu > 0."""
    return apply(SlopeInMu, structure, mu, v)  # type: ignore[no-any-return]


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
        return by_rows.project(structure.cone, v, mu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.structure, mu, v, at_kink = inputs
        keep(ctx, mu, v, at_kink)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        mu, v, at_kink = kept(ctx)
        grad_mu = in_mu(g * slope_in_mu(ctx.structure, mu, v), mu) if ctx.needs_input_grad[1] else None
        grad_v = dproduct(ctx.structure, mu, v, at_kink, g) if ctx.needs_input_grad[2] else None
        return None, grad_mu, grad_v, None

    @staticmethod
    def jvp(ctx: Any, _s: None, tmu: Tensor | None, tv: Tensor | None, _at: None) -> Tensor:
        mu, v, at_kink = kept(ctx)
        out = torch.zeros_like(v) if tv is None else dproduct(ctx.structure, mu, v, at_kink, tv)
        return out if tmu is None else out + tmu * slope_in_mu(ctx.structure, mu, v)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor
    ) -> tuple[Tensor, int]:
        fold = Fold(info.batch_size, size_of_batch((v, at_kink), in_dims[2:]))
        mu, v, at_kink = fold.barrier(mu, in_dims[1]), fold.data(v, in_dims[2]), fold.data(at_kink, in_dims[3])
        return fold.unfold(project(structure, mu, v, at_kink), 0), 0


@primitive
class SlopeInMu(Function):
    """See `slope_in_mu`."""

    @staticmethod
    def forward(structure: Structure, mu: Tensor, v: Tensor) -> Tensor:
        return structure.cone.slope_in_mu(v, mu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.structure, mu, v = inputs
        keep(ctx, mu, v, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        mu, v, k = kept(ctx)
        bent = curvature_product(ctx.structure, mu, v, v, g) / (2.0 * mu)
        grad_mu = in_mu(v * bent / (2.0 * mu), mu) - in_mu(g * k / (2.0 * mu), mu) if ctx.needs_input_grad[1] else None
        return None, grad_mu, -sum_to(bent, v) if ctx.needs_input_grad[2] else None

    @staticmethod
    def jvp(ctx: Any, _s: None, tmu: Tensor | None, tv: Tensor | None) -> Tensor:
        mu, v, k = kept(ctx)
        out = torch.zeros_like(v)
        if tmu is not None:
            along = tmu * through_mu(v, mu)
            out, tv = -k * tmu / (2.0 * mu), along if tv is None else tv + along
        return out if tv is None else out - curvature_product(ctx.structure, mu, v, v, tv) / (2.0 * mu)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], structure: Structure, mu: Tensor, v: Tensor
    ) -> tuple[Tensor, int]:
        fold = Fold(info.batch_size, size_of_batch((mu, v), in_dims[1:]))
        v = fold.data(v, in_dims[2]).expand(fold.V * fold.B, -1)
        return fold.unfold(slope_in_mu(structure, fold.data(mu, in_dims[1]), v), 0), 0


@primitive
class DProduct(Function):
    """See `dproduct`."""

    @staticmethod
    def forward(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor, w: Tensor) -> Tensor:
        return by_rows.dproject(structure.cone, v, mu, at_kink).apply(w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.structure, mu, v, at_kink, w = inputs
        keep(ctx, mu, v, at_kink, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        mu, v, at_kink, w = kept(ctx)
        grad_mu = grad_v = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            curved = curvature_product(ctx.structure, mu, v, g, w)
            grad_mu = in_mu(curved * through_mu(v, mu), mu) if ctx.needs_input_grad[1] else None
            grad_v = sum_to(curved, v) if ctx.needs_input_grad[2] else None
        grad_w = dproduct(ctx.structure, mu, v, at_kink, g) if ctx.needs_input_grad[4] else None
        return None, grad_mu, grad_v, None, grad_w

    @staticmethod
    def jvp(ctx: Any, _s: None, tmu: Tensor | None, tv: Tensor | None, _at: None, tw: Tensor | None) -> Tensor:
        mu, v, at_kink, w = kept(ctx)
        out = torch.zeros_like(w) if tw is None else dproduct(ctx.structure, mu, v, at_kink, tw)
        if tmu is not None:
            along = tmu * through_mu(v, mu)
            tv = along if tv is None else tv + along
        return out if tv is None else out + curvature_product(ctx.structure, mu, v, w, tv)

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
        return by_rows.curvature_product(structure.cone, v, mu, a, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.structure, mu, v, a, w = inputs
        keep(ctx, mu, v, a, w, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        mu, v, a, w, C = kept(ctx)
        structure: Structure = ctx.structure
        grad_mu = grad_v = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:

            def of_v(at: Tensor) -> Tensor:
                return by_rows.curvature_product(structure.cone, at, mu, a, w)

            slope = torch.func.vjp(of_v, v)[1](g)[0]
            if ctx.needs_input_grad[1]:
                grad_mu = in_mu(slope * through_mu(v, mu), mu) - in_mu(g * C / (2.0 * mu), mu)
            grad_v = slope if ctx.needs_input_grad[2] else None
        grad_a = sum_to(curvature_product(structure, mu, v, g, w), a) if ctx.needs_input_grad[3] else None
        grad_w = sum_to(curvature_product(structure, mu, v, a, g), w) if ctx.needs_input_grad[4] else None
        return None, grad_mu, grad_v, grad_a, grad_w

    @staticmethod
    def jvp(ctx: Any, _s: None, tmu: Tensor | None, tv: Tensor | None, ta: Tensor | None, tw: Tensor | None) -> Tensor:
        mu, v, a, w, C = kept(ctx)
        structure: Structure = ctx.structure
        terms = []
        if tmu is not None:
            along = tmu * through_mu(v, mu)
            tv = along if tv is None else tv + along
            terms.append(-C * tmu / (2.0 * mu))
        if tv is not None:

            def of_v(at: Tensor) -> Tensor:
                return by_rows.curvature_product(structure.cone, at, mu, a, w)

            terms.append(torch.func.jvp(of_v, (v,), (tv,))[1])
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


def through_mu(v: Tensor, mu: Tensor) -> Tensor:
    """-v / (2 mu): D changes with mu as it does with v along this."""
    return -v / (2.0 * mu)


def in_mu(t: Tensor, mu: Tensor) -> Tensor:
    """Terms (..., B, m) of a gradient in mu, summed to its shape (B or 1, 1)."""
    return sum_to(t.sum(-1, keepdim=True), mu)

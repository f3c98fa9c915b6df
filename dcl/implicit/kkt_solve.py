"""K^-1 r and K^-T r as differentiable functions, for K of `dcl.kkt`.

    w = K^-1 r:    dw = K^-1 (dr - dK w)         K w = (P wx + A'(D wv),  A wx + (D - I) wv)
    -<l, dK w>:    P~ = -lx wx',   A~ = -((D wv) lx' + lv wx'),   v~ = -(curvature of (A lx + lv, wv)),   mu~ = -v'v~ / (2 mu)

For w = K^-T r the roles of l and w are exchanged.  One factor serves the solve and all its derivatives.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.cones.base import Barrier
from dcl.errors import DegenerateWarning, level_of_caller
from dcl.implicit.folding import Fold, size_of_batch
from dcl.implicit.primitive import keep, kept, primitive
from dcl.implicit.projection import curvature_product, dproduct, in_mu, sum_to, through_mu
from dcl.kkt import KKT, factorize
from dcl.program import ConeProgram, Structure
from dcl.torch_modes import apply

# A relative residual of a KKT solve above this triggers a warning.
_ACCURACY_LIMIT = 1e-6


def kkt_solve(
    structure: Structure,
    mu: Barrier,
    kkt: KKT | None,
    P: Tensor,
    A: Tensor,
    v: Tensor,
    at_kink: Tensor,
    r1: Tensor,
    r2: Tensor,
    *,
    adjoint: bool,
) -> tuple[Tensor, Tensor]:
    """K^-1 (r1, r2), or K^-T (r1, r2) if adjoint: (..., B, n) and (..., B, m).

    kkt: K factored for the same P, A and mu, if at hand; used where v is the point at which it was factored.
    """
    w1, w2, _ = apply(KktSolve, structure, mu, kkt, adjoint, P, A, v, at_kink, r1, r2)
    return w1, w2


@primitive
class KktSolve(Function):
    """See `kkt_solve`."""

    @staticmethod
    def forward(
        structure: Structure,
        mu: Barrier,
        kkt: KKT | None,
        adjoint: bool,
        P: Tensor,
        A: Tensor,
        v: Tensor,
        at_kink: Tensor,
        r1: Tensor,
        r2: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if kkt is None or not kkt.is_at(v):
            kkt = factorize(_program(structure, P, A, v), v, mu, at_kink)
        w1, w2, accuracy = kkt.adjoint(r1, r2) if adjoint else kkt.tangent(r1, r2)
        bad = ~(accuracy <= _ACCURACY_LIMIT)
        if bool(bad.any()):
            where = torch.nonzero(bad.reshape(-1, bad.shape[-1]).any(0)).flatten().tolist()
            warnings.warn(
                f"the KKT system was solved only to a relative residual of {float(accuracy[bad].max()):.1e} "
                f"in instances {where[:8]}: their gradients have few correct digits",
                DegenerateWarning,
                stacklevel=level_of_caller(),
            )
        return w1, w2, accuracy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        structure, mu, kkt, adjoint, P, A, v, at_kink, _, _ = inputs
        w1, w2, accuracy = output
        ctx.structure, ctx.kkt, ctx.adjoint = structure, kkt, adjoint
        ctx.mark_non_differentiable(accuracy)
        keep(ctx, mu, P, A, v, at_kink, w1, w2)

    @staticmethod
    def backward(ctx: Any, g1: Tensor, g2: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        mu, P, A, v, at_kink, w1, w2 = kept(ctx)
        structure: Structure = ctx.structure
        r1, r2 = kkt_solve(structure, mu, ctx.kkt, P, A, v, at_kink, g1, g2, adjoint=not ctx.adjoint)
        (l1, l2), (k1, k2) = ((w1, w2), (r1, r2)) if ctx.adjoint else ((r1, r2), (w1, w2))
        grad_mu = grad_P = grad_A = grad_v = None
        if ctx.needs_input_grad[4]:
            grad_P = -structure.P.outer(l1, k1, P.shape[0])
        if ctx.needs_input_grad[5]:
            Dk = dproduct(structure, mu, v, at_kink, k2)
            grad_A = -(structure.A.outer(Dk, l1, A.shape[0]) + structure.A.outer(l2, k1, A.shape[0]))
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[6]:
            curved = -curvature_product(structure, mu, v, structure.A.matvec(A, l1) + l2, k2)
            grad_mu = in_mu(curved * through_mu(v, mu), mu) if ctx.needs_input_grad[1] else None
            grad_v = sum_to(curved, v) if ctx.needs_input_grad[6] else None
        return None, grad_mu, None, None, grad_P, grad_A, grad_v, None, r1, r2

    @staticmethod
    def jvp(
        ctx: Any,
        _s: None,
        tmu: Tensor | None,
        _k: None,
        _a: None,
        tP: Tensor | None,
        tA: Tensor | None,
        tv: Tensor | None,
        _at: None,
        t1: Tensor | None,
        t2: Tensor | None,
    ) -> tuple[Tensor, Tensor, None]:
        mu, P, A, v, at_kink, w1, w2 = kept(ctx)
        structure: Structure = ctx.structure
        r1 = torch.zeros_like(w1) if t1 is None else t1
        r2 = torch.zeros_like(w2) if t2 is None else t2
        if tP is not None:
            r1 = r1 - structure.P.matvec(tP, w1)
        if tA is not None and ctx.adjoint:
            r1 = r1 - structure.A.rmatvec(tA, w2)
            r2 = r2 - dproduct(structure, mu, v, at_kink, structure.A.matvec(tA, w1))
        elif tA is not None:
            r1 = r1 - structure.A.rmatvec(tA, dproduct(structure, mu, v, at_kink, w2))
            r2 = r2 - structure.A.matvec(tA, w1)
        if tmu is not None:
            along = tmu * through_mu(v, mu)
            tv = along if tv is None else tv + along
        if tv is not None and ctx.adjoint:
            # the third derivative of the potential of `project` is symmetric: D'(v)[tv] w = curvature_product(w, tv)
            r2 = r2 - curvature_product(structure, mu, v, structure.A.matvec(A, w1) + w2, tv)
        elif tv is not None:
            curved = curvature_product(structure, mu, v, w2, tv)
            r1, r2 = r1 - structure.A.rmatvec(A, curved), r2 - curved
        out1, out2 = kkt_solve(structure, mu, ctx.kkt, P, A, v, at_kink, r1, r2, adjoint=ctx.adjoint)
        return out1, out2, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        structure: Structure,
        mu: Barrier,
        kkt: KKT | None,
        adjoint: bool,
        *tensors: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        P, A, v, at_kink, r1, r2 = tensors
        of_rhs = in_dims[8:]
        if in_dims[1] is None and in_dims[4:8] == (None, None, None, None):
            r1, r2 = (
                t.movedim(dim, 0) if dim is not None else t.expand(info.batch_size, *t.shape)
                for t, dim in zip((r1, r2), of_rhs, strict=True)
            )
            return KktSolve.apply(structure, mu, kkt, adjoint, P, A, v, at_kink, r1, r2), (0, 0, 0)
        fold = Fold(info.batch_size, size_of_batch((v, at_kink), in_dims[6:8]))
        data = (fold.data(t, dim) for t, dim in zip((P, A, v, at_kink), in_dims[4:8], strict=True))
        rhs = (fold.vectors(t, dim) for t, dim in zip((r1, r2), of_rhs, strict=True))
        w1, w2, accuracy = KktSolve.apply(structure, fold.barrier(mu, in_dims[1]), kkt, adjoint, *data, *rhs)
        return (fold.unfold(w1, -2), fold.unfold(w2, -2), fold.unfold(accuracy, -1)), (w1.ndim - 2,) * 3


def _program(structure: Structure, P: Tensor, A: Tensor, v: Tensor) -> ConeProgram:
    """A program with these matrices; K does not depend on q and b."""
    return ConeProgram(structure, P, P.new_zeros(1, structure.n), A, v.new_zeros(1, structure.m))

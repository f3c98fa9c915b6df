"""The two primitives, closed under differentiation: the solution of a program, and a solve with its KKT matrix.

    solve:      data -> (x, v) with F(x, v; data) = 0          d(x, v) = -K^-1 dF,   u = K^-T (gx, gv)
                q~ = -ux,   b~ = uv,   P~ = -ux x',   A~ = -(z ux' + uv x')         (F is bilinear in data and point)
    kkt_solve:  (P, A, v, r) -> w = K^-1 r  or  K^-T r          dw = K^-1 (dr - dK w)
                -<l, dK w> :   P~ = -lx wx',   A~ = -((D wv) lx' + lv wx'),   v~ = -(curvature of A lx + lv, wv)
    project:    v -> z, with derivative D;  its derivative is the curvature of the cone

Each rule uses only these primitives and torch operations, so derivatives of any order and mode compose; v is an ordinary
differentiable output.  The factor made in the forward pass of `solve` serves every later solve at the same point.
K is that of `dcl.kkt`; gradients are exact where `dcl.degeneracy` says so.  Failed instances have zero gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.border import AbstractBorder, raise_failures, report_degeneracy
from dcl.cones.base import Barrier
from dcl.degeneracy import Degeneracy, classify, resolve_kinks
from dcl.errors import DegenerateWarning
from dcl.kkt import KKT, derivative, factorize
from dcl.program import ConeProgram, Structure
from dcl.status import Status
from dcl.solve import answer
from dcl.solvers.base import AbstractSolver, Iterates

# A relative residual of a KKT solve above this is said aloud.
_ACCURACY_LIMIT = 1e-6

# Columns of the report that `solve` returns beside x and v.
STATUS, SOLVER, ITERATIONS, SECONDS, PRIMAL, DUAL, GAP = range(7)


@dataclass(eq=False)
class Call:
    """One call of a layer: what `solve` needs besides tensors, and what it leaves for the layer that made the call."""

    structure: Structure
    border: AbstractBorder
    solvers: tuple[AbstractSolver, ...]
    mu: Barrier
    on_failure: str
    on_degenerate: str
    record: bool
    threads: int | None = None
    start: Iterates | None = None
    kkt: KKT | None = field(default=None, init=False)
    certificate: Tensor | None = field(default=None, init=False)
    degeneracy: Degeneracy | None = field(default=None, init=False)
    has_warned: bool = field(default=False, init=False)


def solve(call: Call, program: ConeProgram, given: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (B, n), v (B, m), the value of D at the ties of v (B, m), and the report (B, 7) of the instances of `program`; differentiable in its data.

    given: the caller's own tensors, (B or 1, ...) each; only `call.border` looks at them, to name a bad input.
    Raises InputError (bad values), SolveError, DegenerateError as the settings in `call` say.
    """
    return Solve.apply(call, program.P, program.q, program.A, program.b, *given)  # type: ignore[no-any-return]


def project(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor) -> Tensor:
    """z = Pi_mu*(v), (B, m), differentiable with the D of `dcl.kkt.derivative`, ties included."""
    return Project.apply(structure, mu, v, at_kink)  # type: ignore[no-any-return]


class Solve(Function):
    """See `solve`."""

    @staticmethod
    def forward(
        call: Call, P: Tensor, q: Tensor, A: Tensor, b: Tensor, *given: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        program = ConeProgram(call.structure, P, q, A, b).detach()
        call.border.check(program, given)
        out = answer(program, call.mu, call.solvers, call.start, call.threads)
        report = torch.cat([torch.stack([out.status, out.solver, out.iterations, out.seconds], -1), out.residuals], -1)
        call.certificate = out.certificate
        if call.on_failure == "raise":
            raise_failures(call.border, out.status, out.residuals, out.certificate)
        at_kink = resolve_kinks(program, out.v, call.mu) if call.record else None
        if call.record:
            reusable = out.kkt is not None and at_kink is None
            call.kkt = out.kkt if reusable else factorize(program, out.v, call.mu, at_kink)
            call.degeneracy = classify(program, out.v, call.mu, call.kkt)
            if call.on_degenerate != "ignore":
                call.has_warned = report_degeneracy(call.border, call.on_degenerate, call.degeneracy, out.status)
        return out.x, out.v, torch.full_like(out.v, 0.5) if at_kink is None else at_kink, report

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, P, q, A, b = inputs[:5]
        x, v, at_kink, report = output
        ctx.call = call
        ctx.mark_non_differentiable(at_kink, report)
        ctx.save_for_backward(P, A, x, v, at_kink, report)
        ctx.save_for_forward(P, A, x, v, at_kink, report)
        ctx.q_batch, ctx.b_batch = q.shape[0], b.shape[0]

    @staticmethod
    def backward(ctx: Any, gx: Tensor, gv: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        P, A, x, v, at_kink, report = ctx.saved_tensors
        call: Call = ctx.call
        structure = call.structure
        _, need_P, need_q, need_A, need_b = ctx.needs_input_grad[:5]
        ok = (report[..., STATUS] == Status.OPTIMAL).unsqueeze(-1)
        gx, gv = torch.where(ok, gx, torch.zeros_like(gx)), torch.where(ok, gv, torch.zeros_like(gv))
        ux, uv = kkt_solve(structure, call.mu, call.kkt, P, A, v, at_kink, gx, gv, adjoint=True)
        grad_P = -structure.P.outer(ux, x, P.shape[0]) if need_P else None
        grad_A = None
        if need_A:
            z = project(structure, call.mu, v, at_kink)
            grad_A = -(structure.A.outer(z, ux, A.shape[0]) + structure.A.outer(uv, x, A.shape[0]))
        grad_q = -_fold(ux, ctx.q_batch) if need_q else None
        grad_b = _fold(uv, ctx.b_batch) if need_b else None
        return None, grad_P, grad_q, grad_A, grad_b, *[None] * (len(ctx.needs_input_grad) - 5)

    @staticmethod
    def jvp(
        ctx: Any, _c: None, tP: Tensor | None, tq: Tensor | None, tA: Tensor | None, tb: Tensor | None, *_given: None
    ) -> tuple[Tensor, Tensor, None, None]:
        P, A, x, v, at_kink, report = ctx.saved_tensors
        call: Call = ctx.call
        structure = call.structure
        r1, r2 = torch.zeros_like(x), torch.zeros_like(v)
        if tP is not None:
            r1 = r1 - structure.P.matvec(tP, x)
        if tq is not None:
            r1 = r1 - tq
        if tA is not None:
            r1 = r1 - structure.A.rmatvec(tA, project(structure, call.mu, v, at_kink))
            r2 = r2 - structure.A.matvec(tA, x)
        if tb is not None:
            r2 = r2 + tb
        ok = (report[..., STATUS] == Status.OPTIMAL).unsqueeze(-1)
        r1, r2 = torch.where(ok, r1, torch.zeros_like(r1)), torch.where(ok, r2, torch.zeros_like(r2))
        t_x, t_v = kkt_solve(structure, call.mu, call.kkt, P, A, v, at_kink, r1, r2, adjoint=False)
        return t_x, t_v, None, None


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
    """K^-1 (r1, r2), or K^-T (r1, r2) if adjoint: (..., B, n) and (..., B, m). `kkt`: K factored at v, if at hand."""
    w1, w2, _ = KktSolve.apply(structure, mu, kkt, adjoint, P, A, v, at_kink, r1, r2)
    return w1, w2


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
        if kkt is None:
            kkt = factorize(_program(structure, P, A, v), v, mu, at_kink)
        w1, w2, accuracy = kkt.adjoint(r1, r2) if adjoint else kkt.tangent(r1, r2)
        bad = ~(accuracy <= _ACCURACY_LIMIT)
        if bool(bad.any()):
            where = torch.nonzero(bad.reshape(-1, bad.shape[-1]).any(0)).flatten().tolist()
            warnings.warn(
                f"the KKT system was solved only to a relative residual of {float(accuracy.nan_to_num(nan=torch.inf, posinf=torch.inf).max()):.1e} "
                f"in instances {where[:8]}: their gradients have few correct digits",
                DegenerateWarning,
                stacklevel=2,
            )
        return w1, w2, accuracy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        structure, mu, kkt, adjoint, P, A, v, at_kink, _, _ = inputs
        w1, w2, accuracy = output
        ctx.structure, ctx.mu, ctx.kkt, ctx.adjoint = structure, mu, kkt, adjoint
        ctx.mark_non_differentiable(accuracy)
        ctx.save_for_backward(P, A, v, at_kink, w1, w2)
        ctx.save_for_forward(P, A, v, at_kink, w1, w2)

    @staticmethod
    def backward(ctx: Any, g1: Tensor, g2: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        P, A, v, at_kink, w1, w2 = ctx.saved_tensors
        structure: Structure = ctx.structure
        r1, r2 = kkt_solve(structure, ctx.mu, ctx.kkt, P, A, v, at_kink, g1, g2, adjoint=not ctx.adjoint)
        (l1, l2), (k1, k2) = ((w1, w2), (r1, r2)) if ctx.adjoint else ((r1, r2), (w1, w2))
        grad_P = grad_A = grad_v = None
        if ctx.needs_input_grad[4]:
            grad_P = -structure.P.outer(l1, k1, P.shape[0])
        if ctx.needs_input_grad[5]:
            Dk = dproduct(structure, ctx.mu, v, at_kink, k2)
            grad_A = -(structure.A.outer(Dk, l1, A.shape[0]) + structure.A.outer(l2, k1, A.shape[0]))
        if ctx.needs_input_grad[6]:
            bend = structure.cone.curvature(v, ctx.mu, structure.A.matvec(A, l1) + l2, k2)
            grad_v = -(bend if bend.ndim == v.ndim else bend.flatten(0, -3).sum(0))
        return None, None, None, None, grad_P, grad_A, grad_v, None, r1, r2

    @staticmethod
    def jvp(
        ctx: Any,
        _s: None,
        _m: None,
        _k: None,
        _a: None,
        tP: Tensor | None,
        tA: Tensor | None,
        tv: Tensor | None,
        _at: None,
        t1: Tensor | None,
        t2: Tensor | None,
    ) -> tuple[Tensor, Tensor, None]:
        P, A, v, at_kink, w1, w2 = ctx.saved_tensors
        structure: Structure = ctx.structure
        r1 = torch.zeros_like(w1) if t1 is None else t1
        r2 = torch.zeros_like(w2) if t2 is None else t2
        if tP is not None:
            r1 = r1 - structure.P.matvec(tP, w1)
        if tA is not None and ctx.adjoint:
            r1 = r1 - structure.A.rmatvec(tA, w2)
            r2 = r2 - dproduct(structure, ctx.mu, v, at_kink, structure.A.matvec(tA, w1))
        elif tA is not None:
            r1 = r1 - structure.A.rmatvec(tA, dproduct(structure, ctx.mu, v, at_kink, w2))
            r2 = r2 - structure.A.matvec(tA, w1)
        if tv is not None and ctx.adjoint:
            # the third derivative of the potential of `project` is symmetric: D'(v)[tv] w = curvature(w, tv)
            r2 = r2 - structure.cone.curvature(v, ctx.mu, structure.A.matvec(A, w1) + w2, tv)
        elif tv is not None:
            bend = structure.cone.curvature(v, ctx.mu, w2, tv)
            r1, r2 = r1 - structure.A.rmatvec(A, bend), r2 - bend
        out1, out2 = kkt_solve(structure, ctx.mu, ctx.kkt, P, A, v, at_kink, r1, r2, adjoint=ctx.adjoint)
        return out1, out2, None


def dproduct(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor, w: Tensor) -> Tensor:
    """D(v) w, (..., B, m), differentiable in v and w."""
    return DProduct.apply(structure, mu, v, at_kink, w)  # type: ignore[no-any-return]


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


class DProduct(Function):
    """See `dproduct`."""

    @staticmethod
    def forward(structure: Structure, mu: Barrier, v: Tensor, at_kink: Tensor, w: Tensor) -> Tensor:
        return derivative(structure, v, mu, at_kink).apply(w)

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


def _program(structure: Structure, P: Tensor, A: Tensor, v: Tensor) -> ConeProgram:
    """A program with these matrices; K does not depend on q and b."""
    return ConeProgram(structure, P, P.new_zeros(1, structure.n), A, v.new_zeros(1, structure.m))


def _fold(g: Tensor, batch: int) -> Tensor:
    """Sum over the batch where the datum is shared."""
    return g if g.shape[0] == batch else g.sum(0, keepdim=True)

"""The stationary point of a smooth program as a differentiable function of theta.

    theta -> (x, v) with F(x, v; theta) = 0          d(x, v) = -K^-1 dF/dtheta dtheta          (`dcl.smooth.program`)
    backward  u = K^-T (gx, gv),   theta~ = -d/dtheta <u, F(x, v; theta)>        jvp  (tx, tv) = -K^-1 (dF/dtheta ttheta)

K has P = H(x, z, theta) and A = J(x, theta) as differentiable functions, so that derivatives of any order compose.  How K is
inverted is a strategy: `kkt_solve` on the matrices, on the diagonal of H (section 6 of Gould et al. 2016, an approximation of
the gradient), or conjugate gradients on Hessian-vector products (`dcl.smooth.cg`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.cones.base import Barrier
from dcl.implicit.folding import Fold
from dcl.implicit.kkt_solve import kkt_solve
from dcl.implicit.primitive import primitive
from dcl.implicit.projection import project
from dcl.implicit.solve import STATUS
from dcl.kkt import KKT, factorize
from dcl.outcome.doubts import report_degeneracy
from dcl.point.degeneracy import Degeneracy, classify, resolved
from dcl.program import ConeProgram
from dcl.smooth.answer import Found, answer, methods
from dcl.smooth.cg import cg_solve
from dcl.smooth.failures import AbstractSmoothContext, raise_failures
from dcl.smooth.large import answer_large, method
from dcl.smooth.program import SmoothProgram, Theta
from dcl.smooth.quick import certified, degeneracy_of, found_of, pulled_back
from dcl.smooth.single import Certified
from dcl.smooth.start import Solver
from dcl.status import GradientKind, Status
from dcl.torch_modes import is_recorded


@dataclass(eq=False)
class SmoothOutcome:
    """What `smooth_solve` leaves, beside tensors, for the layer that made the call. P, A: of K, factored as kkt.

    quick: the answer of `dcl.smooth.single`, where that gave it.
    """

    found: Found | None = None
    quick: Certified | None = None
    kkt: KKT | None = None
    P: Tensor | None = None
    A: Tensor | None = None
    degeneracy: Degeneracy | None = None
    has_warned: bool = False


@dataclass(frozen=True, eq=False)
class SmoothCall:
    """One call of a layer: what `smooth_solve` needs besides tensors.

    record: will there be a derivative?  explain: is the kind of the derivative asked for all the same?
    warm: see `dcl.smooth.answer`.
    """

    program: SmoothProgram
    context: AbstractSmoothContext
    solver: Solver
    minimum: bool
    hessian: str
    linear_solve: str
    on_failure: str
    on_degenerate: str
    sign: float
    record: bool
    explain: bool = False
    warm: Tensor | None = None
    outcome: SmoothOutcome = field(default_factory=SmoothOutcome)

    @property
    def names(self) -> tuple[str, ...]:
        """The methods that the column SOLVER of the report counts."""
        if self.linear_solve == "cg":
            return (method(self.solver, minimum=self.minimum),)
        structure = self.program.structure
        return methods(self.solver, structure.n, structure.m, minimum=self.minimum, warm=self.warm is not None)

    def mapped(self, V: int) -> SmoothCall:
        """The same call for V times as many instances, a new batch dimension in front."""
        context = replace(self.context, batch_shape=(V, *self.context.batch_shape))
        warm = None if self.warm is None else self.warm.repeat(V, 1)
        return replace(self, context=context, warm=warm, outcome=SmoothOutcome())

    def inverse(
        self, mu: Barrier, x: Tensor, v: Tensor, at_kink: Tensor, theta: Theta, r1: Tensor, r2: Tensor, *, adjoint: bool
    ) -> tuple[Tensor, Tensor]:
        """K^-1 (r1, r2) or K^-T (r1, r2), differentiable in everything."""
        program, known = self.program, self.outcome
        structure = program.structure
        if self.linear_solve == "cg" and self.hessian == "exact":
            return cg_solve(program, x, r1, theta), r2
        P, A = known.P, known.A
        if P is None or A is None or P.shape[0] != x.shape[0] or is_recorded((x, v, *theta)):
            z = project(structure, mu, v, at_kink)
            P, A = self.matrix(x, z, theta), program.jacobian(x, theta)
        if self.linear_solve == "cg":
            return r1 / P, r2
        return kkt_solve(structure, mu, known.kkt, P, A, v, at_kink, r1, r2, adjoint=adjoint)

    def matrix(self, x: Tensor, z: Tensor, theta: Theta) -> Tensor:
        """P: H (B, n, n), or its diagonal, as a matrix or as a vector (B, n) with linear_solve="cg"."""
        if self.hessian == "exact":
            return self.program.hessian(x, z, theta)
        diagonal = self.program.hessian_diagonal(x, z, theta)
        return diagonal if self.linear_solve == "cg" else torch.diag_embed(diagonal)


def smooth_solve(call: SmoothCall, mu: Barrier, start: Tensor, theta: Theta) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (B, n), v (B, m), the value of D at the ties (B, m), the report (B, 7), from start (B, n); x, v differentiable in theta.

    Raises NoMinimumError (which instance, what it found), DegenerateError as the settings in `call` say.
    """
    return SmoothSolve.apply(call, mu, start, *theta)  # type: ignore[no-any-return]


@primitive
class SmoothSolve(Function):
    """See `smooth_solve`."""

    @staticmethod
    def forward(call: SmoothCall, mu: Barrier, start: Tensor, *theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        theta = tuple(t.detach() for t in theta)
        program, outcome = call.program, call.outcome
        clock = time.perf_counter()
        quick = certified(call, mu, start, theta)
        if quick is not None:
            return _certified(call, quick, theta, clock)
        call.context.check_start(program, start, theta)
        if call.linear_solve == "cg":
            x, report, outcome.degeneracy = _large(call, theta, start.detach())
            v = x.new_zeros(x.shape[0], 0)
            return x, v, v.clone(), report
        found = answer(program, theta, start.detach(), mu, call.solver, minimum=call.minimum, warm=call.warm)
        verdict, facts = found.verdict, found.verdict.facts
        outcome.found = found
        seconds = torch.full_like(found.steps, (time.perf_counter() - clock) / start.shape[0])
        columns = torch.stack([facts.status.to(start.dtype), found.solver.to(start.dtype), found.steps, seconds], -1)
        report = torch.cat([columns, facts.residuals], -1)
        if call.on_failure == "raise":
            raise_failures(call.context, facts, found.x, start, call.sign)
        x, v = found.x, found.v
        good = torch.isfinite(x).all(-1, keepdim=True) & torch.isfinite(v).all(-1, keepdim=True)
        x, v = torch.where(good, x, start), torch.where(good, v, 0.0)
        at_kink = torch.full_like(v, torch.nan)
        if call.record or call.explain:
            point = resolved(verdict.point)
            at_kink = verdict.at_kink(point.at_kink)
            outcome.degeneracy = classify(point, facts.residuals[:, :2].amax(-1))
            if call.record and call.on_degenerate != "ignore":
                outcome.has_warned = report_degeneracy(
                    call.context, call.on_degenerate, outcome.degeneracy, facts.status
                )
        if call.record:
            at, v_at = _where_solved(report, x, v, start)
            structure = program.structure
            if call.hessian == "exact" and bool((facts.status == Status.OPTIMAL).all()):
                outcome.P, outcome.A = verdict.matrices()
            else:
                outcome.P = call.matrix(at, structure.cone.project(v_at, mu), theta)
                outcome.A = program.jacobian(at, theta)
            local = ConeProgram(structure, outcome.P, torch.zeros_like(x), outcome.A, torch.zeros_like(v))
            outcome.kkt = factorize(local, v_at, mu, at_kink)
        return x, v, at_kink, report

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, mu, start, *theta = inputs
        x, v, at_kink, report = output
        ctx.call, ctx.mu = call, mu
        ctx.mark_non_differentiable(at_kink, report)
        ctx.save_for_backward(x, v, at_kink, report, start, *theta)
        ctx.save_for_forward(x, v, at_kink, report, start, *theta)

    @staticmethod
    def backward(ctx: Any, gx: Tensor, gv: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x, v, at_kink, report, start, *theta = saved
        call: SmoothCall = ctx.call
        needed = [k for k in range(len(theta)) if ctx.needs_input_grad[3 + k]]
        quick = call.outcome.quick
        pulled: Sequence[Tensor] | None = None
        if quick is not None:
            pulled = pulled_back(call.program, quick, gx, theta, needed)
        if pulled is None:
            x, v = _where_solved(report, x, v, start)
            gx, gv = _masked(report, gx), _masked(report, gv)
            ux, uv = call.inverse(ctx.mu, x, v, at_kink, theta, gx, gv, adjoint=True)
            pull = _pullback(call.program, ctx.mu, x, v, at_kink, theta, needed)
            pulled = pull(_masked(report, -ux), _masked(report, -uv))
        grads: list[Tensor | None] = [None] * len(theta)
        for k, t in zip(needed, pulled, strict=True):
            grads[k] = t
        return None, None, None, *grads

    @staticmethod
    def jvp(ctx: Any, _c: None, _m: None, _s: None, *tangents: Tensor | None) -> tuple[Tensor, Tensor, None, None]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x, v, at_kink, report, start, *theta = saved
        x, v = _where_solved(report, x, v, start)
        call: SmoothCall = ctx.call
        moving = [k for k, t in enumerate(tangents) if t is not None]
        pull = _pullback(call.program, ctx.mu, x, v, at_kink, theta, moving)
        # J t is the gradient of <J'u, t> in u: reverse mode only, which every torch function has
        push = torch.func.vjp(pull, torch.zeros_like(x), torch.zeros_like(v))[1]
        r1, r2 = push(tuple(t for t in tangents if t is not None))
        r1, r2 = _masked(report, -r1), _masked(report, -r2)
        t_x, t_v = call.inverse(ctx.mu, x, v, at_kink, theta, r1, r2, adjoint=False)
        return _masked(report, t_x), _masked(report, t_v), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], call: SmoothCall, mu: Barrier, start: Tensor, *theta: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        B = start.shape[0] if in_dims[2] is None else start.movedim(in_dims[2], 0).shape[1]
        fold = Fold(info.batch_size, B)
        mu = fold.barrier(mu, in_dims[1])
        start, *folded = (fold.data(t, dim) for t, dim in zip((start, *theta), in_dims[2:], strict=True))
        start = start.expand(fold.V * fold.B, -1)
        mapped = call.mapped(fold.V)
        out = SmoothSolve.apply(mapped, mu, start, *folded)
        call.outcome.has_warned = call.outcome.has_warned or mapped.outcome.has_warned
        return tuple(fold.unfold(t, 0) for t in out), (0, 0, 0, 0)


def _certified(call: SmoothCall, quick: Certified, theta: Theta, clock: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The results of `SmoothSolve` for an answer of `dcl.smooth.single`."""
    outcome = call.outcome
    x = torch.tensor(quick.x).unsqueeze(0)
    v = x.new_zeros(1, 0)
    outcome.quick, outcome.degeneracy = quick, degeneracy_of(quick)
    outcome.P, outcome.A = torch.from_numpy(quick.H).unsqueeze(0), x.new_zeros(1, 0, x.shape[-1])
    if call.explain:
        outcome.found = found_of(call.program, quick, theta)
    report = [float(Status.OPTIMAL), 0.0, quick.steps, time.perf_counter() - clock, *quick.residuals.tolist()]
    return x, v, v.clone(), x.new_tensor([report])


def _large(call: SmoothCall, theta: Theta, start: Tensor) -> tuple[Tensor, Tensor, Degeneracy]:
    """The answer without matrices: x, the report, and what conjugate gradients say about the Hessian."""
    clock = time.perf_counter()
    found = answer_large(call.program, theta, start, call.solver, minimum=call.minimum)
    if call.on_failure == "raise":
        raise_failures(call.context, found.facts, found.x, start, call.sign)
    facts = found.facts
    zero, seconds = torch.zeros_like(facts.step), (time.perf_counter() - clock) / start.shape[0]
    columns = facts.status.to(start.dtype), zero, found.steps, torch.full_like(zero, seconds)
    report = torch.cat([torch.stack(columns, -1), facts.residuals], -1)
    kind = torch.full_like(facts.status, int(GradientKind.EXACT))
    infinite, none = torch.full_like(zero, torch.inf), torch.full_like(facts.status, -1)
    rows = none.new_zeros((len(none), 0), dtype=torch.bool)
    return found.x, report, Degeneracy(kind, infinite, none, found.condition, rows, rows.any(-1))


def _pullback(
    program: SmoothProgram,
    mu: Barrier,
    x: Tensor,
    v: Tensor,
    at_kink: Tensor,
    theta: Sequence[Tensor],
    which: list[int],
) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """(ux, uv) -> the gradient of <(ux, uv), F(x, v; theta)> in the theta of positions `which`, differentiable."""
    z = project(program.structure, mu, v, at_kink)

    def of(*chosen: Tensor) -> tuple[Tensor, Tensor]:
        every = list(theta)
        for k, t in zip(which, chosen, strict=True):
            every[k] = t
        return program.residual(x, z, v, every)

    def pull(ux: Tensor, uv: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(of, *(theta[k] for k in which))[1]((ux, uv))  # type: ignore[no-any-return]

    return pull


def _where_solved(report: Tensor, x: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The point, and the start in its place for the instances that failed: everything is finite there, and unused."""
    ok = (report[..., STATUS] == Status.OPTIMAL).unsqueeze(-1)
    return torch.where(ok, x, start), torch.where(ok, v, torch.zeros_like(v))


def _masked(report: Tensor, t: Tensor) -> Tensor:
    """Zero for the instances that failed."""
    return torch.where((report[..., STATUS] == Status.OPTIMAL).unsqueeze(-1), t, torch.zeros_like(t))

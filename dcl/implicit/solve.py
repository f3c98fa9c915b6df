"""The solution of a program as a differentiable function of its data.

    data -> (x, v) with F(x, v; data) = 0          d(x, v) = -K^-1 dF,   u = K^-T (gx, gv)
    q~ = -ux,   b~ = uv,   P~ = -ux x',   A~ = -(z ux' + uv x')         (F is bilinear in the data and the point)
    mu~ = -k'(A ux + uv),   k = dz/dmu at fixed v, since dF/dmu = (A'k, k)

v is an ordinary differentiable output.  The factor made in the forward pass serves every later solve at the same point.
Gradients are exact where `dcl.point.degeneracy` says so; failed instances have zero gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from dcl.cones.base import Barrier
from dcl.cones.by_rows import exact_instances
from dcl.implicit.folding import Fold, size_of_batch
from dcl.implicit.kkt_solve import kkt_solve
from dcl.implicit.primitive import keep, kept, primitive
from dcl.implicit.projection import in_mu, project, slope_in_mu
from dcl.kkt import KKT
from dcl.outcome.doubts import report_degeneracy
from dcl.outcome.messages import AbstractCallContext, check_barrier, raise_failures
from dcl.point.asked import Moving, Requested
from dcl.point.degeneracy import Degeneracy, classify, resolved
from dcl.program import ConeProgram, Structure
from dcl.program.scaling import Units
from dcl.solve.backend import Backend
from dcl.solve.nearly_convex import checked
from dcl.solve.pipeline import answer
from dcl.solvers.base import AbstractSolver, Iterates
from dcl.status import Status

# Columns of the report that `solve` returns beside x and v.
STATUS, SOLVER, ITERATIONS, SECONDS, PRIMAL, DUAL, GAP = range(7)


@dataclass(eq=False)
class Outcome:
    """What `solve` leaves, beside tensors, for the layer that made the call."""

    kkt: KKT | None = None
    certificate: Tensor | None = None
    degeneracy: Degeneracy | None = None
    solvers: tuple[AbstractSolver, ...] = ()
    has_warned: bool = False


class Known(NamedTuple):
    """What `solve` returns: x (B, n), v (B, m), the value of D at the ties of v (B, m), the report (B, 7)."""

    x: Tensor
    v: Tensor
    at_kink: Tensor
    report: Tensor

    @staticmethod
    def shapes(batch: int, n: int, m: int) -> list[tuple[int, ...]]:
        """Their shapes."""
        return [(batch, n), (batch, m), (batch, m), (batch, GAP + 1)]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer: what `solve` needs besides tensors.

    choose(structure, P_is_zero): the solvers, in order.  start: made for this call, in the caller's units.
    known: the solution, where it only is to be differentiated.  moving: the data that may need a gradient.  moves_mu: may mu?
    """

    structure: Structure
    context: AbstractCallContext
    choose: Callable[[Structure, bool], tuple[AbstractSolver, ...]]
    on_failure: str
    on_degenerate: str
    record: bool
    requested: Requested | None = None
    threads: int | None = None
    start: Iterates | None = None
    known: Known | None = None
    moving: Moving | None = None
    moves_mu: bool = False
    outcome: Outcome = field(default_factory=Outcome)

    def mapped(self, V: int) -> Call:
        """The same call for V times as many instances, a new batch dimension in front."""
        return replace(
            self,
            context=replace(self.context, batch_shape=(V, *self.context.batch_shape)),
            start=None if self.start is None else self.start.repeated(V),
        )


def solve(
    call: Call, units: Units, mu: Barrier, lift: Tensor | None, program: ConeProgram, given: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Solve the instances of `program`; see `Known` for what is returned.

    x and v are differentiable in the data of the program and in mu > 0; units are constants.

    units: those of `program`.  lift: what `dcl.implicit.nearest` has added to P, (B or 1, n, n), or None.
    given: the caller's own tensors, (B or 1, ...) each; only `call.context` looks at them, to name a bad input.
    Raises InputError (bad values), SolveError, DegenerateError as the settings in `call` say.
    """
    return Solve.apply(call, units.c, units.E, mu, lift, program.P, program.q, program.A, program.b, *given)  # type: ignore[no-any-return]


@primitive
class Solve(Function):
    """See `solve`."""

    @staticmethod
    def forward(
        call: Call,
        c: Tensor,
        E: Tensor,
        mu: Barrier,
        lift: Tensor | None,
        P: Tensor,
        q: Tensor,
        A: Tensor,
        b: Tensor,
        *given: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if isinstance(mu, Tensor) and (call.moves_mu or call.known is None):
            check_barrier(mu / c, lambda place: call.context.index_in(mu, place[0]), moves=call.moves_mu)
        if call.known is not None:
            # as tensors of their own: what is returned gets a graph, which holds the call
            return Known(*(t.detach() for t in call.known))
        program = ConeProgram(call.structure, P, q, A, b).detach()
        call.context.check(program, given)
        outcome = call.outcome
        outcome.solvers = call.choose(call.structure, not bool(program.P.any()))
        units = Units(c, E)
        if call.start is not None:
            call.start.z[:] = units.scaled_dual(torch.from_numpy(call.start.z).to(c.device)).cpu().numpy()
        backends = [Backend(solver, call.threads) for solver in outcome.solvers]
        out = answer(program, mu, backends, call.start, call.context.seen)
        smallest = None
        if lift is not None:
            rounding = max((torch.finfo(t.dtype).eps for t in given if t.is_floating_point()), default=0.0)
            status, smallest = checked(out.point, out.status, out.residuals, out.certificate, lift, rounding)
            out, smallest = replace(out, status=status), smallest / c.squeeze(-1)
        rows = call.context.rows
        out = replace(out, certificate=rows.binding_certificate(out.certificate, b, given))
        report = torch.cat([torch.stack([out.status, out.solver, out.iterations, out.seconds], -1), out.residuals], -1)
        outcome.certificate = rows.certificate_to_user(units.certificate(out.certificate), b.shape[-1])
        if call.on_failure == "raise":
            weights = None if out.certificate is None else out.certificate[:, call.structure.n :]
            zero = exact_instances(mu, program.batch)
            on_path = zero is None or bool((~zero.to(out.status.device) & (out.status != Status.OPTIMAL)).any())
            eps = outcome.solvers[0].eps
            offending = out.point.least_accurate_row if b.shape[-1] else None
            raise_failures(
                call.context, out.status, out.residuals, outcome.certificate, weights, on_path, eps, offending, smallest
            )
        point, at_kink = out.point, torch.full_like(out.point.v, torch.nan)
        if call.record:
            point = resolved(point)
            outcome.kkt, at_kink = point.kkt, point.at_kink
            outcome.degeneracy = classify(point, out.residuals[:, :2].amax(-1), call.requested, call.moving)
            if call.on_degenerate != "ignore":
                outcome.has_warned = report_degeneracy(call.context, call.on_degenerate, outcome.degeneracy, out.status)
        return point.x, point.v, at_kink, report

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, _, _, mu, _, P, q, A, b = inputs[:9]
        x, v, at_kink, report = output
        ctx.call = call
        ctx.mark_non_differentiable(at_kink, report)
        keep(ctx, mu, P, A, x, v, at_kink, report)
        ctx.q_batch, ctx.b_batch = q.shape[0], b.shape[0]

    @staticmethod
    def backward(ctx: Any, gx: Tensor, gv: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        mu, P, A, x, v, at_kink, report = kept(ctx)
        call: Call = ctx.call
        structure = call.structure
        need_P, need_q, need_A, need_b = ctx.needs_input_grad[5:9]
        ok = (report[..., STATUS] == Status.OPTIMAL).unsqueeze(-1)
        gx, gv = torch.where(ok, gx, torch.zeros_like(gx)), torch.where(ok, gv, torch.zeros_like(gv))
        ux, uv = kkt_solve(structure, mu, call.outcome.kkt, P, A, v, at_kink, gx, gv, adjoint=True)
        grad_mu = None
        if ctx.needs_input_grad[3]:
            grad_mu = -in_mu(slope_in_mu(structure, mu, v) * (structure.A.matvec(A, ux) + uv), mu)
        grad_P = -structure.P.outer(ux, x, P.shape[0]) if need_P else None
        grad_A = None
        if need_A:
            z = project(structure, mu, v, at_kink)
            grad_A = -(structure.A.outer(z, ux, A.shape[0]) + structure.A.outer(uv, x, A.shape[0]))
        grad_q = -_fold(ux, ctx.q_batch) if need_q else None
        grad_b = _fold(uv, ctx.b_batch) if need_b else None
        return (
            None,
            None,
            None,
            grad_mu,
            None,
            grad_P,
            grad_q,
            grad_A,
            grad_b,
            *[None] * (len(ctx.needs_input_grad) - 9),
        )

    @staticmethod
    def jvp(
        ctx: Any,
        _call: None,
        _c: None,
        _E: None,
        tmu: Tensor | None,
        _lift: None,
        tP: Tensor | None,
        tq: Tensor | None,
        tA: Tensor | None,
        tb: Tensor | None,
        *_given: None,
    ) -> tuple[Tensor, Tensor, None, None]:
        mu, P, A, x, v, at_kink, report = kept(ctx)
        call: Call = ctx.call
        structure = call.structure
        r1, r2 = torch.zeros_like(x), torch.zeros_like(v)
        if tmu is not None:
            moved = tmu * slope_in_mu(structure, mu, v)
            r1, r2 = r1 - structure.A.rmatvec(A, moved), r2 - moved
        if tP is not None:
            r1 = r1 - structure.P.matvec(tP, x)
        if tq is not None:
            r1 = r1 - tq
        if tA is not None:
            r1 = r1 - structure.A.rmatvec(tA, project(structure, mu, v, at_kink))
            r2 = r2 - structure.A.matvec(tA, x)
        if tb is not None:
            r2 = r2 + tb
        ok = (report[..., STATUS] == Status.OPTIMAL).unsqueeze(-1)
        r1, r2 = torch.where(ok, r1, torch.zeros_like(r1)), torch.where(ok, r2, torch.zeros_like(r2))
        t_x, t_v = kkt_solve(structure, mu, call.outcome.kkt, P, A, v, at_kink, r1, r2, adjoint=False)
        return t_x, t_v, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        call: Call,
        c: Tensor,
        E: Tensor,
        mu: Barrier,
        lift: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        fold = Fold(info.batch_size, size_of_batch(tensors[:4], in_dims[5:9]))
        c, E, mu = fold.data(c, in_dims[1]), fold.data(E, in_dims[2]), fold.barrier(mu, in_dims[3])
        lift = None if lift is None else fold.data(lift, in_dims[4])
        folded = [fold.data(t, dim) for t, dim in zip(tensors, in_dims[5:], strict=True)]
        # q says how many instances there are
        folded[1] = folded[1].expand(fold.V * fold.B, -1)
        out = Solve.apply(call.mapped(fold.V), c, E, mu, lift, *folded)
        return tuple(fold.unfold(t, 0) for t in out), (0, 0, 0, 0)


def _fold(g: Tensor, batch: int) -> Tensor:
    """Sum over the batch where the datum is shared."""
    return g if g.shape[0] == batch else g.sum(0, keepdim=True)

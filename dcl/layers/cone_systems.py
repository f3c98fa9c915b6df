"""A reduced program with curved cones in the compiled core: as a cone program, or, with smooth terms, by its quadratic model.

minimize 1/2 x'Px + q'x + sum of lambda psi(d - Cx)       at the solution it has the derivative of a quadratic program, that of
minimize 1/2 x'Hx + g'x,   H = P + C'W C,   W = lambda psi''     with the same linear constraints (dcl/core/smooth.hpp)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.core import dense, smooth
from dcl.core.conic import ConicAnswer, ConicCore
from dcl.core.smooth import Kind
from dcl.layers.reduced_core import AbstractSystem, blocks, divided, to_rows
from dcl.layers.smooth_state import State, group_state, split
from dcl.program.reduction.elimination import Eliminated
from dcl.program.reduction.matrices import Full
from dcl.program.reduction.plan import Reduction
from dcl.program.reduction.terms import Terms


@dataclass(frozen=True, eq=False)
class Conic(AbstractSystem):
    """The program with its cones. slack (B, rows of curved cones): s there."""

    core: ConicCore
    answer: ConicAnswer
    data: dict[str, Tensor]
    x: Tensor
    w: Tensor
    at_cap: Tensor
    condition: Tensor
    status: Tensor
    iterations: Tensor
    slack: Tensor
    threads: int

    def solve(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        zeros = self.core.zeros
        cotangents = {"x": g.contiguous(), "y": h[:, :zeros].contiguous(), "z": h[:, zeros:].contiguous()}
        wanted = ["q", *(name for name in ("b", "h") if name in self.data)]
        found = self.core.adjoint(self.answer, self.data, cotangents, wanted, threads=self.threads)
        return -found["q"], torch.cat([found[name] for name in wanted[1:]], -1)


def conic(
    reduction: Reduction,
    t: Eliminated,
    g: Tensor,
    h: Tensor,
    batch: int,
    *,
    mu: Tensor | None,
    start: tuple[Tensor, Tensor] | None,
    threads: int,
) -> Conic:
    """Solve for q = -g (B or 1, |R|), b = h (B or 1, |K|). start: x and z to start from, in the order of the partition."""
    core = reduction.core
    assert core is not None
    zeros, others, curved, *_ = reduction.sizes
    data = {"P": t.P.contiguous(), "q": (-g).expand(batch, -1).contiguous()}
    sides = h.expand(batch, -1)
    if zeros:
        data |= {"A": t.A[:, :zeros].contiguous(), "b": sides[:, :zeros].contiguous()}
    data |= {"G": t.A[:, zeros:].contiguous(), "h": sides[:, zeros:].contiguous()}
    begin = None
    if start is not None:
        x, z = start
        taken = len(reduction.elimination.partition.J)
        rows = z[:, taken : taken + zeros + others + curved]
        begin = {"x": x[:, taken : taken + g.shape[-1]], "y": rows[:, :zeros], "z": rows[:, zeros:]}
        begin = {name: part.contiguous() for name, part in begin.items() if part.numel()}
    answer = core.solve(data, batch, mu=mu, start=begin, threads=threads)
    none = torch.zeros(batch, 0, dtype=torch.bool, device="cpu")
    w = torch.cat([answer.y, answer.z], -1)
    slack = answer.s[:, others:]
    return Conic(
        core, answer, data, answer.x, w, none, answer.condition, answer.status, answer.iterations, slack, threads
    )


# The residual up to which derivatives are refined, beside the terms of a row.
REFINED = 1e-14


@dataclass(frozen=True, eq=False)
class Smooth(AbstractSystem):
    """The program with smooth terms. data: its blocks without them.  tails: as `dcl.core.smooth` takes them.

    C (B or 1, k, |R|): A' of the tails; slack (B, k): s there.
    """

    reduction: Reduction
    data: dict[str, Tensor]
    tails: smooth.Tails
    answer: dense.Answer
    state: State
    C: Tensor
    x: Tensor
    w: Tensor
    at_cap: Tensor
    condition: Tensor
    status: Tensor
    iterations: Tensor
    slack: Tensor
    threads: int

    def solve(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.shifted(g, h, torch.zeros_like(self.slack))

    def shifted(self, g: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """(u, w) of  P u + A'w = g,  A u = h on the rows that hold, w = c + W (C u - h) on the tails."""
        inner = c - self.state.curvature(h.split(self.reduction.sizes, -1)[2])
        u, parts = divided(self.reduction, self.answer, g - Full(self.C).transposed(inner), h, threads=self.threads)
        tails = inner + self.state.curvature(Full(self.C).times(u))
        return u, to_rows(self.reduction, *parts, like=g, curved=tails)

    def errors(self, noise: tuple[Tensor, Tensor, Tensor] | None, cones: Tensor, objective: Tensor) -> smooth.Errors:
        """Bounds for the point and its derivative; noise: what to add to the residuals.

        cones (B or 1, cones), objective (B or 1, 1): the units of their rows and of the objective.
        """
        terms, answer = self.reduction.terms, self.answer
        assert terms is not None
        point = (answer.x, answer.y, answer.z, answer.z_lb, answer.z_ub)
        alpha = terms.alpha
        units = None if noise is not None or alpha is None else smooth.Units(alpha, cones, objective)
        return smooth.errors(
            self.data, terms.kinds, self.tails, point, noise, units, refined=REFINED, threads=self.threads
        )


def weights(terms: Terms, g: Tensor) -> list[Tensor]:
    """lambda of each group (B or 1, T), for g = -q of the variables of the terms."""
    found = split(g, [group.variables for group in terms.groups])
    signs = {Kind.RELATIVE: -1.0, Kind.EXP: 1.0, Kind.LOG_SUM: -1.0}
    return [signs[group.kind] * t[0] / group.alpha for group, t in zip(terms.groups, found, strict=True)]


def smoothed(
    reduction: Reduction,
    terms: Terms,
    t: Eliminated,
    g: Tensor,
    h: Tensor,
    costs: Tensor,
    batch: int,
    *,
    start: tuple[Tensor, Tensor] | None,
    threads: int,
) -> Smooth:
    """Solve for q = -g (B or 1, |R|), b = h (B or 1, |K|); costs: -q of the variables of the terms."""
    zeros, others, curved, *_ = reduction.sizes
    C = t.A[:, zeros + others :].contiguous()
    d = h[:, zeros + others : zeros + others + curved].contiguous()
    lam = weights(terms, costs)
    data = blocks(reduction, t, g, h, batch)
    taken, n = len(reduction.elimination.partition.J), g.shape[-1]
    begin = None if start is None else start[0][:, taken : taken + n].contiguous()
    tails = smooth.Tails(C, d, torch.cat(lam, -1).contiguous())
    model = smooth.newton(data, batch, terms.kinds, tails, start=begin, threads=threads)
    answer = dense.solve(data | {"P": model.P, "q": model.q}, batch, threads=threads)
    u = d - Full(C).times(answer.x)
    parts = u.split([group.shape[0] * group.shape[1] for group in terms.groups], -1)
    state = State(
        tuple(
            group_state(group, w, part.reshape(part.shape[0], *group.shape))
            for group, w, part in zip(terms.groups, lam, parts, strict=True)
        )
    )
    slack, multipliers = (t.expand(batch, -1) for t in state.tails())
    w = to_rows(reduction, answer.y, answer.z, answer.z_lb, answer.z_ub, like=answer.x, curved=multipliers)
    none = torch.zeros(batch, 0, dtype=torch.bool, device="cpu")
    condition = answer.kept.condition
    status = torch.where(model.converged, answer.status.to(torch.int32), int(dense.Code.NOT_SOLVED))
    status = torch.where((status == 0) & ~state.is_tight, int(dense.Code.TIE), status).to(torch.int8)
    steps = model.steps + answer.iterations
    return Smooth(reduction, data, tails, answer, state, C, answer.x, w, none, condition, status, steps, slack, threads)

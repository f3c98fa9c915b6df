"""The reduced program in the compiled core: as it is, or, where rows are soft, its dual, or the program of a cell.

`dcl.layers.cone_systems` has those with cones.

    minimize 1/2 x'Px + q'x   subject to   Ax + s = b       with multipliers w of the rows, and for P > 0

    minimize 1/2 w'N w + (b - a)'w   subject to   0 <= w <= cap (inequalities; cap infinite where a row is not soft)
    N = A P^-1 A',   a = -A P^-1 q,   x = -P^-1 (q + A'w),   b - a + N w = s

N is definite where there are no more rows than variables.  Else, or where P is not definite, an interior point finds the cell of
the solution (dcl/core/soft.hpp), whose program has soft rows that are violated with the other sign, and their cost in q:

    -A_i x <= -b_i,   q + cap_i A_i,   multiplier cap_i - w_i >= 0;      the solution if no other w_i is above its cap

In all the core's factor serves  P u + A'w = g,  A u - T w = h  on the rows that hold, w = 0 on the others (T = s / z).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcl.core import dense
from dcl.core.conic import ConicAnswer
from dcl.program.reduction.elimination import Eliminated
from dcl.program.reduction.matrices import Full
from dcl.program.reduction.plan import Cuts, Reduction

# Cells that are tried, and how far a multiplier is from its cap, in units of the objective (`clear` of dcl/core/certify.hpp).
_MOST_CELLS = 4
_CLEAR = 1e-7


class AbstractSystem(ABC):
    """The answer of the core, and its factor.

    status (B,) int8: its `Code`, or that of what it has not looked at.  iterations (B,): steps of the solver.
    x (B, |R|), w (B, |K|): the solution.  at_cap: soft rows whose multiplier is the cap, (B, soft rows).
    condition (B,): an estimate for what is solved with.
    """

    answer: dense.Answer | ConicAnswer
    status: Tensor
    iterations: Tensor
    x: Tensor
    w: Tensor
    at_cap: Tensor
    condition: Tensor

    @abstractmethod
    def solve(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """(u, w) of the header for g (B, |R|), h (B, |K|); a row at its cap does not hold."""


@dataclass(frozen=True, eq=False)
class Primal(AbstractSystem):
    """The program as it is."""

    reduction: Reduction
    answer: dense.Answer
    status: Tensor
    iterations: Tensor
    x: Tensor
    w: Tensor
    at_cap: Tensor
    condition: Tensor
    threads: int

    def solve(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        u, parts = divided(self.reduction, self.answer, g, h, threads=self.threads)
        return u, to_rows(self.reduction, *parts, like=g)


Parts = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def divided(reduction: Reduction, answer: dense.Answer, g: Tensor, h: Tensor, *, threads: int) -> tuple[Tensor, Parts]:
    """u of the header, and w of equalities, inequalities, lower and upper bounds."""
    cotangents = {"x": g.contiguous()} | of_rows(reduction, h, g.shape[-1])
    wanted = ["q", *(name for name in ("b", "h", "lb", "ub") if name in answer.kept.data)]
    found = answer.kept.adjoint(cotangents, wanted, threads=threads)
    signs = {"b": 1.0, "h": 1.0, "lb": -1.0, "ub": 1.0}
    y, z, z_lb, z_ub = (signs[name] * found[name] if name in found else None for name in signs)
    return -found["q"], (y, z, z_lb, z_ub)


@dataclass(frozen=True, eq=False)
class Celled(AbstractSystem):
    """The program of the solution's cell. sign: of the inequality rows there, (B, inequalities)."""

    cell: Primal
    sign: Tensor
    answer: dense.Answer
    status: Tensor
    iterations: Tensor
    x: Tensor
    w: Tensor
    at_cap: Tensor
    condition: Tensor

    def solve(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        u, w = self.cell.solve(g, _signed(self.cell.reduction, h, self.sign))
        return u, _signed(self.cell.reduction, w, self.sign)


@dataclass(frozen=True, eq=False)
class Dualized(AbstractSystem):
    """Its dual. holds: rows whose multiplier is at no bound, (B, |K|)."""

    t: Eliminated
    answer: dense.Answer
    status: Tensor
    iterations: Tensor
    x: Tensor
    w: Tensor
    at_cap: Tensor
    condition: Tensor
    holds: Tensor
    threads: int

    def solve(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        # u is a difference, whose terms are as large as P^-1 g: one step for the rows that hold
        u, w = self.once(g, h)
        du, dw = self.once(torch.zeros_like(u), h - _times_rows(self.t, u))
        return u + du, w + dw

    def once(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """`solve` without this step; h counts where rows hold."""
        right = _times(g, self.t.dual.V) - torch.where(self.holds, h, 0.0)
        found = self.answer.kept.adjoint({"x": right.contiguous()}, ["q"], threads=self.threads)
        w = torch.where(self.holds, -found["q"], 0.0)
        return _primal(self.t, g, w), w


def primal(
    reduction: Reduction,
    t: Eliminated,
    g: Tensor,
    h: Tensor,
    batch: int,
    *,
    mu: Tensor | None,
    start: tuple[Tensor, Tensor] | None,
    threads: int,
) -> Primal:
    """Solve for q = -g (B or 1, |R|), b = h (B or 1, |K|). start: x and z to start from, in the order of the partition."""
    data = blocks(reduction, t, g, h, batch)
    answer = dense.solve(data, batch, mu=mu, start=start_of(reduction, data, start), threads=threads)
    w = to_rows(reduction, answer.y, answer.z, answer.z_lb, answer.z_ub, like=answer.x)
    none = torch.zeros(batch, 0, dtype=torch.bool, device="cpu")
    condition = answer.kept.condition
    return Primal(reduction, answer, answer.status, answer.iterations, answer.x, w, none, condition, threads)


def celled(
    reduction: Reduction,
    t: Eliminated,
    cuts: Cuts,
    cap: Tensor,
    size: Tensor,
    g: Tensor,
    h: Tensor,
    batch: int,
    *,
    threads: int,
) -> Celled:
    """The same with soft rows, at mu = 0. cap: (B or 1, soft rows).  size (B or 1,): of the objective, a unit of multipliers."""
    data = blocks(reduction, t, g, h, batch)
    rows, G, right = cuts.rows - reduction.sizes[0], data["G"], data["h"]
    soft = cap.expand(batch, -1)
    caps = right.new_full(right.shape, torch.inf).index_copy_(1, rows, soft)
    beyond, start = dense.find_cells(data, caps, batch, threads=threads)
    for _ in range(_MOST_CELLS):
        sign = torch.where(beyond, -1.0, 1.0)
        cost = torch.where(beyond, caps, 0.0)
        of_cell = data | {"G": sign.unsqueeze(-1) * G, "h": sign * right, "q": data["q"] + Full(G).transposed(cost)}
        answer = dense.solve(of_cell, batch, start=start, threads=threads)
        crossed = answer.z > caps
        if not bool(crossed.any()):
            break
        beyond = beyond ^ crossed
        start = {"x": answer.x, "z": torch.where(crossed, 0.0, answer.z)} | {
            name: getattr(answer, name) for name in ("z_lb", "z_ub") if name in start
        }
    z = torch.where(beyond, caps - answer.z, answer.z)
    w = to_rows(reduction, answer.y, z, answer.z_lb, answer.z_ub, like=answer.x)
    at_cap = (beyond & (answer.z == 0.0)).index_select(1, rows)
    none = torch.zeros(batch, 0, dtype=torch.bool, device="cpu")
    # a multiplier is clear of its cap as it is of zero; the core has looked at zero only
    clear = (caps - answer.z).index_select(1, rows) * cuts.alpha.abs() >= _CLEAR * size.unsqueeze(-1)
    is_at_tie = ~clear.all(-1) & (answer.status == 0)
    status = torch.where(is_at_tie, int(dense.Code.TIE), answer.status).to(torch.int8)
    steps, condition = answer.iterations, answer.kept.condition
    cell = Primal(reduction, answer, status, steps, answer.x, w, none, condition, threads)
    return Celled(cell, sign, answer, status, steps, answer.x, w, at_cap, condition)


def _signed(reduction: Reduction, rows: Tensor, sign: Tensor) -> Tensor:
    """Numbers (B, |K|) of the rows, of the inequalities with their sign."""
    equalities, inequalities, *_ = reduction.sizes
    parts = rows.split([equalities, inequalities, rows.shape[-1] - equalities - inequalities], -1)
    return torch.cat([parts[0], sign * parts[1], parts[2]], -1)


def dualized(
    reduction: Reduction, t: Eliminated, cuts: Cuts, cap: Tensor, g: Tensor, h: Tensor, batch: int, *, threads: int
) -> Dualized:
    """The same with soft rows, at mu = 0. cap: (B or 1, soft rows)."""
    dual, equalities = t.dual, reduction.sizes[0]
    q = (h - _times(g, dual.V)).expand(batch, -1).contiguous()
    lower = torch.zeros_like(q)
    lower[:, :equalities] = -torch.inf
    upper = torch.full_like(q, torch.inf).index_copy_(1, cuts.rows, cap.expand(batch, -1))
    data = {"P": dual.N.contiguous(), "q": q, "lb": lower, "ub": upper}
    answer = dense.solve(data, batch, threads=threads)
    at_cap, at_zero = answer.z_ub > 0.0, answer.z_lb > 0.0
    w = torch.where(at_zero, 0.0, torch.where(at_cap, upper, answer.x))
    found = Dualized(
        t,
        answer,
        answer.status,
        answer.iterations,
        _primal(t, g, w),
        w,
        at_cap.index_select(1, cuts.rows),
        torch.maximum(answer.kept.condition, dual.condition),
        ~(at_cap | at_zero),
        threads,
    )
    # x is a difference: one step for the rows that hold, some of which say that it is zero
    dx, dw = found.once(torch.zeros_like(found.x), h - _times_rows(t, found.x))
    return replace(found, x=found.x + dx, w=w + dw)


def _times_rows(t: Eliminated, x: Tensor) -> Tensor:
    """A x of the reduced rows."""
    return x @ t.A[0].mT if t.A.shape[0] == 1 else (t.A @ x.unsqueeze(-1)).squeeze(-1)


def _times(g: Tensor, M: Tensor) -> Tensor:
    """M'g for matrices (B or 1, r, k)."""
    return g @ M[0] if M.shape[0] == 1 else (g.unsqueeze(-2) @ M).squeeze(-2)


def _primal(t: Eliminated, g: Tensor, w: Tensor) -> Tensor:
    """P^-1 (g - A'w)."""
    right = g - _times(w, t.A)
    L = t.dual.L
    if L.shape[0] == 1:
        return torch.cholesky_solve(right.mT, L[0]).mT
    return torch.cholesky_solve(right.unsqueeze(-1), L).squeeze(-1)


def of_rows(reduction: Reduction, sides: Tensor, n: int) -> dict[str, Tensor]:
    """Right-hand sides (B, |K|) of the rows of K, as cotangents for the core's multipliers."""
    lower, upper = reduction.lower, reduction.upper
    y, z, _, low, high = sides.split(reduction.sizes, -1)
    found = {"y": y.contiguous(), "z": z.contiguous()}
    if low.shape[-1]:
        found["z_lb"] = lower.of_rows(low, n)
    if high.shape[-1]:
        found["z_ub"] = upper.of_rows(high, n)
    return found


def to_rows(
    reduction: Reduction,
    y: Tensor | None,
    z: Tensor | None,
    z_lb: Tensor | None,
    z_ub: Tensor | None,
    *,
    like: Tensor,
    curved: Tensor | None = None,
) -> Tensor:
    """The multipliers (B, |K|) of the rows of K for those of the core's blocks and curved rows; None: there is none."""
    parts = [t for t in (y, z, curved) if t is not None]
    if z_lb is not None and z_lb.shape[-1]:
        parts.append(reduction.lower.to_rows(z_lb))
    if z_ub is not None and z_ub.shape[-1]:
        parts.append(reduction.upper.to_rows(z_ub))
    return torch.cat(parts, -1) if parts else like.new_zeros(like.shape[0], 0)


def blocks(reduction: Reduction, t: Eliminated, first: Tensor, sides: Tensor, batch: int) -> dict[str, Tensor]:
    """The blocks of `dcl.core.dense.solve` for the right-hand sides (-q', b'); vectors are never shared: see `Factored`."""
    n = first.shape[-1]
    data = {"q": (-first).expand(batch, -1).contiguous()}
    if not (t.blocks.P_JJ.is_zero and t.blocks.P_JR.is_zero and t.blocks.P_RR.is_zero):
        data["P"] = t.P.contiguous()
    b, h, _, low, high = sides.expand(batch, -1).split(reduction.sizes, -1)
    p = b.shape[-1]
    if p:
        data |= {"A": t.A[:, :p].contiguous(), "b": b.contiguous()}
    if h.shape[-1]:
        data |= {"G": t.A[:, p : p + h.shape[-1]].contiguous(), "h": h.contiguous()}
    if low.shape[-1]:
        data["lb"] = reduction.lower.bound(low, n, -torch.inf)
    if high.shape[-1]:
        data["ub"] = reduction.upper.bound(high, n, torch.inf)
    return data


def start_of(
    reduction: Reduction, data: Mapping[str, Tensor], start: tuple[Tensor, Tensor] | None
) -> dict[str, Tensor] | None:
    """The start in the blocks of the core."""
    if start is None:
        return None
    x, z = start
    taken, n = len(reduction.elimination.partition.J), data["q"].shape[-1]
    rows = z[:, taken : taken + sum(reduction.sizes)]
    parts = rows.split(reduction.sizes, -1)
    found = of_rows(reduction, rows, n) | {"x": x[:, taken:].contiguous()}
    for name, side, part in (("z_lb", reduction.lower, 3), ("z_ub", reduction.upper, 4)):
        if name in found:
            found[name] = side.of_multipliers(parts[part], n)
    return {name: t for name, t in found.items() if name != "y" and t.numel()}

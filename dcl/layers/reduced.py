"""A reduction at work: one call of the compiled core for the reduced program, and the solution of the program as given.

    theta -> blocks, E, P', A' -> core -> back to x, z -> measured on the program as given, refined there
    cotangents of x, z -> the adjoint system, by the core's factor of the reduced one, refined on the program as given

The core decides what is certified; here an instance loses that where its point misses the same measure on the program as given.
Vectors are in the order of the partition (`dcl.program.reduction.elimination`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.core import dense
from dcl.program.reduction.elimination import Eliminated
from dcl.program.reduction.measure import Measured, measured
from dcl.program.reduction.plan import Reduction

# Limits of dcl/core/certify.hpp.
_TARGET, _ACCURATE = 1e-13, 1e-11
# Above this condition of the reduced system, what its matrices have lost is won back on the program as given.
_CONDITION = 1e3
_MOST_STEPS = 3
# Multipliers of rows that define a variable are sums of others: below zero by rounding only.
_NEGATIVE = 1e-11


@dataclass(frozen=True, eq=False)
class Factored:
    """The core's factor of the reduced system, for right-hand sides of the one as given."""

    reduction: Reduction
    t: Eliminated
    data: Mapping[str, Tensor]
    answer: dense.Answer
    threads: int

    def solve(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, n), w (B, m):  P u + A'w = g,  A u - T w = h on the rows that hold, w = 0 on the others; T = s / z."""
        first, sides, e = self.t.right_side(g, h)
        cotangents = {"x": first.contiguous()} | of_rows(self.reduction, sides, first.shape[-1])
        wanted = ["q", *(name for name in ("b", "h", "lb", "ub") if name in self.data)]
        found = dense.adjoint(self.answer, self.data, cotangents, wanted, threads=self.threads)
        signs = {"b": 1.0, "h": 1.0, "lb": -1.0, "ub": 1.0}
        y, z, z_lb, z_ub = (signs[name] * found[name] if name in found else None for name in signs)
        return self.t.back(-found["q"], to_rows(self.reduction, y, z, z_lb, z_ub, first), e, g)


def of_rows(reduction: Reduction, sides: Tensor, n: int) -> dict[str, Tensor]:
    """Right-hand sides (B, |K|) of the rows of K, as cotangents for the core's multipliers."""
    lower, upper = reduction.lower, reduction.upper
    y, z, low, high = sides.split(reduction.sizes, -1)
    found = {"y": y.contiguous(), "z": z.contiguous()}
    if low.shape[-1]:
        found["z_lb"] = lower.of_rows(low, n)
    if high.shape[-1]:
        found["z_ub"] = upper.of_rows(high, n)
    return found


def to_rows(
    reduction: Reduction, y: Tensor | None, z: Tensor | None, z_lb: Tensor | None, z_ub: Tensor | None, like: Tensor
) -> Tensor:
    """The multipliers (B, |K|) of the rows of K for those of the core's blocks; None: there is none."""
    parts = [t for t in (y, z) if t is not None]
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
    b, h, low, high = sides.expand(batch, -1).split(reduction.sizes, -1)
    p = b.shape[-1]
    if p:
        data |= {"A": t.A[:, :p].contiguous(), "b": b.contiguous()}
    if h.shape[-1]:
        data |= {"G": t.A[:, p:].contiguous(), "h": h.contiguous()}
    if low.shape[-1]:
        data["lb"] = reduction.lower.bound(low, n, -torch.inf)
    if high.shape[-1]:
        data["ub"] = reduction.upper.bound(high, n, torch.inf)
    return data


@dataclass(frozen=True, eq=False)
class Solved:
    """A call's points of the program as given: x (B, n), z, s, and the rows that hold with equality, (B, m).

    status (B,) int8 as in `dcl.core.dense.Code`; mu: (B or 1,), None for the exact point.
    """

    factored: Factored
    x: Tensor
    z: Tensor
    measured: Measured
    strong: Tensor
    status: Tensor
    mu: Tensor | None

    @property
    def is_at_tie(self) -> bool:
        """Does an inequality row that defines a variable have no multiplier? Its variable could as well be elsewhere."""
        tight = self.factored.reduction.tight
        return bool((tight & (self.z.abs() <= _NEGATIVE * (1.0 + self.z.abs().amax(-1, keepdim=True)))).any())

    def adjoint(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The system of `Factored.solve`, refined on the program as given where digits may have been lost."""
        u, w = self.factored.solve(g, h)
        answer = self.factored.answer
        if not bool(answer.condition[self.status == 0].gt(_CONDITION).any()):
            return u, w
        T = 0.0 if self.mu is None else torch.where(self.strong, 0.0, self.measured.s / self.z)
        rows = self.strong if self.mu is None else torch.ones_like(self.strong)
        size = u.new_full((u.shape[0], 1), torch.inf)
        new_u, new_w = u, w
        for _ in range(_MOST_STEPS):
            Pu, ATw, Au = self.factored.t.products(new_u, new_w)
            r_x, r_z = g - Pu - ATw, torch.where(rows, h - Au + T * new_w, 0.0)
            now = torch.sqrt((r_x * r_x).sum(-1, keepdim=True) + (r_z * r_z).sum(-1, keepdim=True))
            falls = now < size
            u, w, size = torch.where(falls, new_u, u), torch.where(falls, new_w, w), torch.where(falls, now, size)
            if not bool((falls & (now > 0.0)).any()):
                break
            du, dw = self.factored.solve(r_x, r_z)
            new_u, new_w = u + du, w + dw
        return u, w


def solve(
    reduction: Reduction,
    thetas: Sequence[Tensor],
    batch: int,
    *,
    mu: Tensor | None,
    start: tuple[Tensor, Tensor] | None,
    threads: int,
) -> Solved:
    """Solve the programs for thetas[p] (B or 1, size_p). start: x (B, n) and z (B, m) in the order of the partition."""
    elimination = reduction.elimination
    t, sides = elimination.at(thetas), elimination.vectors(thetas)
    g, h = sides.split([elimination.n, sides.shape[-1] - elimination.n], -1)
    first, right, e = t.right_side(g, h)
    data = blocks(reduction, t, first, right, batch)
    answer = dense.solve(data, batch, mu=mu, start=_start(reduction, data, start), threads=threads)
    factored = Factored(reduction, t, data, answer, threads)
    rows = to_rows(reduction, answer.y, answer.z, answer.z_lb, answer.z_ub, answer.x)
    x, z = t.back(answer.x, rows, e, g)
    strong = _strong(reduction, z) if mu is None else reduction.equations.expand_as(z)
    found = measured(t, g, h, x, z, strong, mu)
    certified = answer.status == 0
    conditions, worst = answer.condition[certified], found.worst[certified]
    if bool(conditions.gt(_CONDITION).any()) or bool(worst.gt(_TARGET).any()):
        for _ in range(_MOST_STEPS):
            dx, dz = factored.solve(found.r_x, found.r_z)
            new_x, new_z = x + dx, z + dz
            after = measured(t, g, h, new_x, new_z, strong, mu)
            if not bool((after.worst < found.worst)[certified].any()):
                break
            falls = (after.worst < found.worst).unsqueeze(-1)
            x, z = torch.where(falls, new_x, x), torch.where(falls, new_z, z)
            found = measured(t, g, h, x, z, strong, mu)
            if not bool(found.worst[certified].gt(_TARGET).any()):
                break
    accurate = (found.worst <= _ACCURATE) & _signs_hold(reduction, z)
    status = torch.where(certified & ~accurate, int(dense.Code.RESIDUAL), answer.status).to(torch.int8)
    return Solved(factored, x, z, found, strong, status, mu)


def _strong(reduction: Reduction, z: Tensor) -> Tensor:
    """Rows that hold with equality at mu = 0: those that define a variable, equalities, and those with a multiplier."""
    return reduction.equations | (z != 0.0)


def _signs_hold(reduction: Reduction, z: Tensor) -> Tensor:
    """Are the multipliers of inequality rows that define a variable positive, (B,)?"""
    if not reduction.has_tight:
        return z.new_ones(z.shape[0], dtype=torch.bool)
    size = 1.0 + z.abs().amax(-1)
    return (torch.where(reduction.tight, z, 0.0) >= -_NEGATIVE * size.unsqueeze(-1)).all(-1)


def _start(
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
    for name, side, part in (("z_lb", reduction.lower, 2), ("z_ub", reduction.upper, 3)):
        if name in found:
            found[name] = side.of_multipliers(parts[part], n)
    return {name: t for name, t in found.items() if name != "y" and t.numel()}

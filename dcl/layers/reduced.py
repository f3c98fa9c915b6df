"""A reduction at work: one call of the compiled core for the reduced program, and the solution of the program as given.

    theta -> blocks, E, P', A' -> core -> back to x, z -> measured on the program as given, refined there
    cotangents of x, z -> the adjoint system, by the core's factor of the reduced one, refined on the program as given

The core decides what is certified; here an instance loses that where its point misses the same measure on the program as given.
Vectors are in the order of the partition (`dcl.program.reduction.elimination`), the variables and rows of smooth terms last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from dcl.core import dense
from dcl.layers.cone_systems import REFINED, Conic, Smooth, conic, smoothed
from dcl.layers.reduced_core import AbstractSystem, celled, dualized, primal
from dcl.layers.smooth_certify import is_accurate, rounding
from dcl.layers.smooth_condition import is_conditioned, units_of
from dcl.program.reduction.elimination import Eliminated
from dcl.program.reduction.matrices import Full
from dcl.program.reduction.measure import Measured, given
from dcl.program.reduction.plan import Reduction

# Residuals above the first (`Measured.worst`) are refined, and then not certified; the condition as in dcl/core/certify.hpp
# and conic_certify.hpp.
_ACCURATE, _CONDITIONED, _CONDITIONED_CONES = 1e-12, 1e9, 5e6
# Above this bound of the condition of the reduced system, what its matrices have lost is won back on the program as given.
_CONDITION = 1e5
_MOST_STEPS = 3
_SMALL_STEP = 1e-7
# Multipliers of rows that define a variable are sums of others: below zero by rounding only.
_NEGATIVE = 1e-11


@dataclass(frozen=True, eq=False)
class Factored:
    """The core's factor of the reduced system, for right-hand sides of the one as given."""

    reduction: Reduction
    t: Eliminated
    system: AbstractSystem

    def solve(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, n), w (B, m):  P u + A'w = g,  A u - T w = h on the rows that hold, w = 0 on the others; T = s / z.

        On the rows of curved cones T = D^-1 - I, and what it means where that is infinite.
        """
        if isinstance(self.system, Smooth):
            return self._with_terms(self.system, g, h)
        right, sides, e = self.t.right_side(g, h)
        cuts = self.reduction.cuts
        if cuts is None:
            return self.t.back(*self.system.solve(right, sides), e, g)
        # rows at their cap hold, by their t: then w_t follows from g_t
        fixed = torch.zeros_like(sides)
        fixed[:, cuts.rows] = torch.where(self.system.at_cap, g[:, cuts.pivots] / cuts.alpha, 0.0)
        u, w = self.system.solve(right - _transposed(self.t, fixed), sides)
        return self.completed(u, w + fixed, sides, e, g)

    def roughly(self, system: Smooth, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """`solve` without refinement, where terms are smooth."""
        return self._with_terms(system, g, h, refine=False)

    def _with_terms(self, system: Smooth, g: Tensor, h: Tensor, *, refine: bool = True) -> tuple[Tensor, Tensor]:
        """`solve` where variables and rows of smooth terms come last."""
        (g, g_terms), (h, h_terms) = parts(self.reduction, g, h)
        right, sides, e = self.t.right_side(g, h)
        c, known = system.state.shift(g_terms, h_terms)
        u, w = system.shifted(right, sides, c)
        x, z = self.t.back(u, w, e, g)
        if refine:
            x, z = self._refined(system, x, z, g)
            u = x[:, len(self.reduction.elimination.partition.J) :]
        ds = sides.split(self.reduction.sizes, -1)[2] - Full(system.C).times(u)
        u_terms, w_terms = system.state.derivative(known, g_terms, h_terms, ds)
        return torch.cat([x, u_terms], -1), torch.cat([z, w_terms], -1)

    def _refined(self, system: Smooth, x: Tensor, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Steps for P u + A'w = g: W (C u - h) of a steep term keeps few digits of a short u, its changes do."""
        new_x, new_z, size = x, z, torch.full_like(x[:, :1], torch.inf)
        for _ in range(_MOST_STEPS):
            Px, ATz, Ax = self.t.products(new_x, new_z)
            r_x = g - Px - ATz
            now = r_x.abs().amax(-1, keepdim=True)
            falls = now < 0.5 * size
            x, z, size = torch.where(falls, new_x, x), torch.where(falls, new_z, z), torch.where(falls, now, size)
            terms = torch.maximum(Px.abs().amax(-1, keepdim=True), ATz.abs().amax(-1, keepdim=True))
            if not bool((falls & (now > REFINED * terms.maximum(g.abs().amax(-1, keepdim=True)))).any()):
                break
            zero = torch.zeros_like(Ax)
            right, sides, e = self.t.right_side(r_x, zero)
            dx, dz = self.t.back(*system.solve(right, sides), e, r_x)
            new_x, new_z = x + dx, z + dz
        return x, z

    def completed(self, u: Tensor, w: Tensor, sides: Tensor, e: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The way back, where a row at its cap says what its t is. u (B, |R|), w (B, |K|)."""
        x, z = self.t.back(u, w, e, g)
        cuts, at_cap = self.reduction.cuts, self.system.at_cap
        if cuts is not None:
            general = Full(self.t.A)
            left = (sides[:, : general.shape[0]] - general.times(u))[:, cuts.rows] / cuts.alpha
            x[:, cuts.pivots] += torch.where(at_cap, left, 0.0)
            z[:, cuts.pivots] = torch.where(at_cap, 0.0, z[:, cuts.pivots])
        return x, z

    def strong(self, z: Tensor) -> Tensor:
        """Rows that hold with equality at mu = 0: those that define a variable, equalities, and those with a multiplier."""
        strong = self.reduction.equations | (z != 0.0)
        cuts = self.reduction.cuts
        if cuts is not None:
            strong[:, cuts.pivots] = ~self.system.at_cap
        return strong


def parts(reduction: Reduction, g: Tensor, h: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Those of variables and rows in front that are the elimination's, and those of the terms."""
    elimination = reduction.elimination
    (n, m), k, rows = reduction.before, elimination.n, len(elimination.partition.row_order)
    first, second = g.split([k, n - k], -1), h.split([rows, m - rows], -1)
    return (first[0], first[1]), (second[0], second[1])


def _transposed(t: Eliminated, w: Tensor) -> Tensor:
    """A''w of the reduced rows, without bounds."""
    general = Full(t.A)
    return general.transposed(w[:, : general.shape[0]])


@dataclass(frozen=True, eq=False)
class Solved:
    """A call's points of the program as given: x (B, n), z (B, m), and the rows that hold with equality, (B or 1, m).

    status (B,) int8 as in `dcl.core.dense.Code`; mu: (B or 1,), None for the exact point.  is_delicate: may digits be lost?
    """

    factored: Factored
    x: Tensor
    z: Tensor
    measured: Measured
    strong: Tensor
    status: Tensor
    mu: Tensor | None
    is_delicate: bool

    @property
    def is_at_tie(self) -> bool:
        """Does an inequality row that defines a variable have no multiplier? Its variable could as well be elsewhere."""
        tight = self.factored.reduction.tight & self.strong
        return bool((tight & (self.z.abs() <= _NEGATIVE * (1.0 + self.z.abs().amax(-1, keepdim=True)))).any())

    def adjoint(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The system of `Factored.solve`, refined on the program as given where digits may have been lost."""
        u, w = self.factored.solve(g, h)
        if not self.is_delicate:
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
    t, sides = elimination.at(thetas), elimination.vectors.numbers(thetas, threads)
    g, h = sides.split(reduction.before, -1)
    (g_left, g_terms), (h_left, h_terms) = parts(reduction, g, h)
    first, right, e = t.right_side(g_left, h_left)
    programs = given(reduction.P, reduction.A, thetas, g, h, reduction.cone)
    cuts, terms = reduction.cuts, reduction.terms
    if terms is not None:
        system: AbstractSystem = smoothed(
            reduction, terms, t, first, right, g_terms, batch, start=start, threads=threads
        )
    elif reduction.curved:
        system = conic(reduction, t, first, right, batch, mu=mu, start=start, threads=threads)
    elif cuts is None or mu is not None:
        system = primal(reduction, t, first, right, batch, mu=mu, start=start, threads=threads)
    else:
        cap = g[:, cuts.pivots] / cuts.alpha
        if cuts.in_dual:
            system = dualized(reduction, t, cuts, cap, first, right, batch, threads=threads)
        else:
            size = programs.objective
            system = celled(reduction, t, cuts, cap, size, first, right, batch, threads=threads)
    factored = Factored(reduction, t, system)
    x, z = factored.completed(system.x, system.w, right, e, g_left)
    slack = None
    if isinstance(system, Conic | Smooth):
        x, z, slack = _with_cones(reduction, system, x, z, h_terms)
    strong = factored.strong(z) if mu is None else reduction.equations.unsqueeze(0)
    found = programs.measure(x, z, strong, mu, threads, slack)
    status = system.status
    certified = status == 0
    # the refinement of derivatives below knows orthants only
    is_delicate = slack is None and bool((certified & (system.condition > _CONDITION)).any())
    if is_delicate or bool((certified & (found.worst > _ACCURATE)).any()):
        for _ in range(_MOST_STEPS):
            dx, dz = factored.solve(found.r_x, found.r_z)
            after = programs.measure(x + dx, z + dz, strong, mu, threads)
            falls = after.worst < found.worst
            if slack is not None:
                # z and s stay those of a cone's point up to the square of a step
                falls &= _relative(dx, x).maximum(_relative(dz, z)) <= _SMALL_STEP
            if not bool(falls[certified].any()):
                break
            x, z = _either(falls, x + dx, x), _either(falls, z + dz, z)
            found = Measured(
                *(_either(falls, getattr(after, f.name), getattr(found, f.name)) for f in fields(Measured))
            )
            if not bool((certified & (found.worst > _ACCURATE)).any()):
                break
    good = found.worst <= _ACCURATE
    if terms is not None and isinstance(system, Smooth):
        if bool((certified & good).any()):
            rows = reduction.order.rows[torch.from_numpy(terms.cones)]
            units = units_of(programs, rows)
            (r_x, _), (r_z, _) = parts(reduction, found.r_x, found.r_z)
            noise = rounding(system, t, (g_left, h_left), (r_x, r_z))
            errors = system.errors(noise, units.E[:, rows[:, 0]], units.c)
            good &= is_accurate(errors)
            holds = strong if reduction.cone is None else strong & (reduction.cone < 0)
            residual = found.residuals[:, :2].amax(-1)
            good &= is_conditioned(
                partial(factored.roughly, system), system.state, rows, programs, holds, units, residual, errors.inverse
            )
    else:
        good &= system.condition <= (_CONDITIONED if slack is None else _CONDITIONED_CONES)
    if reduction.has_tight:
        good &= _signs_hold(reduction, z)
    if not bool(good.all()):
        status = torch.where(certified & ~good, int(dense.Code.RESIDUAL), status).to(torch.int8)
    return Solved(factored, x, z, found, strong, status, mu, is_delicate)


def _with_cones(
    reduction: Reduction, system: Conic | Smooth, x: Tensor, z: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x and z of all variables and rows, and s, which counts on the rows of curved cones; h: of the rows of terms."""
    zeros, others, curved, *_ = reduction.sizes
    first = len(reduction.elimination.partition.J) + zeros + others
    slack = torch.zeros_like(z)
    slack[:, first : first + curved] = system.slack
    if not isinstance(system, Smooth):
        return x, z, slack
    variables, slacks, multipliers = system.state.point(h)
    batch = x.shape[0]
    return (
        torch.cat([x, variables.expand(batch, -1)], -1),
        torch.cat([z, multipliers.expand(batch, -1)], -1),
        torch.cat([slack, slacks.expand(batch, -1)], -1),
    )


def _relative(step: Tensor, point: Tensor) -> Tensor:
    """|step| / (1 + |point|), (B,)."""
    return step.abs().amax(-1) / (1.0 + point.abs().amax(-1))


def _either(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, other)


def _signs_hold(reduction: Reduction, z: Tensor) -> Tensor:
    """Are the multipliers of inequality rows that define a variable positive, or zero where that may be, (B,)?"""
    size = _NEGATIVE * (1.0 + z.abs().amax(-1, keepdim=True))
    least = torch.where(reduction.doubtful, size, -size)
    return (~reduction.tight | (z >= least)).all(-1)

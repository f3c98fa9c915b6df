"""From a start to a checked answer: search, finish with Newton's method on F, check. From a saddle, go downhill and repeat.

    warm       the caller's last solution, finished at once where it is near enough
    minimum    interior-point Newton (`dcl.smooth.newton`), or SciPy, or the caller's own point
    any        Newton on F from the start: the branch of stationary points that the start is on
    finish     F at the asked mu, to rounding: at mu = 0 this settles the active set

What is not solved then goes to the next method; a saddle is left along its direction of negative curvature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.cones.base import Barrier, barrier_at
from dcl.program import magnitude
from dcl.program.scaling import Units, scaled
from dcl.smooth.judge import Verdict, judge
from dcl.smooth.newton import MU_FIRST, MU_LAST, minimize
from dcl.smooth.program import SmoothProgram, Theta, rows
from dcl.smooth.start import SCIPY, Solver, scipy_start, user_start, with_multipliers
from dcl.smooth.stationary import solve_residual
from dcl.status import Status

FINISH = 30
# The last steps stay near, relative to 1 + |x|: they may not leave a descent for a saddle far away.
REACH = 0.3
_ANY = 200
_ESCAPES = 3
WARM = "warm start"
# A long step may leap over the valley that the start is in: where that ended nowhere, these are tried.
SHORT, _SHORT = "newton, short steps", 0.3
# Above this many variables a start by L-BFGS costs less than Newton's matrices far from the solution.
DENSE_LIMIT = 500
# Up to this many variables SciPy's SLSQP is asked where the first method failed.
_SECOND_OPINION = 100


@dataclass(frozen=True, eq=False)
class Found:
    """x (B, n), v (B, m) and the verdict; steps (B,) of Newton's method; solver (B,): position in `methods`."""

    x: Tensor
    v: Tensor
    verdict: Verdict
    steps: Tensor
    solver: Tensor


def answer(
    program: SmoothProgram,
    theta: Theta,
    start: Tensor,
    mu: Barrier,
    solver: Solver,
    *,
    minimum: bool,
    warm: Tensor | None = None,
) -> Found:
    """The best point found from start (B, n) for every instance.

    solver: "newton", a SciPy name, a callable, None: by size.  warm (B, n + 2 m): x, z and s of a program nearby.
    """
    _, units = scaled(program.local(start, _center(program, start), 0.0, theta))
    own, own_theta = program.in_units(theta, units.c, units.E)
    own_mu = units.barrier(mu)

    def finish(x: Tensor, v: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # in units of the point: a saturated f is 1e-9 of what it was at the start, and v = z - s would lose z in s
        part, at = rows(theta, index), barrier_at(mu, index)
        v = _in_units(program, v, barrier_at(own_mu, index), units, index, back=True)
        _, there = scaled(program.local(x, v, at, part))
        everything = torch.arange(x.shape[0], device=x.device)
        near_x, near_theta = program.in_units(part, there.c, there.E)
        v = _in_units(program, v, at, there, everything, back=False)
        near_mu = there.barrier(at)
        x, v, steps = solve_residual(near_x, near_theta, x, v, near_mu, FINISH, REACH)
        return x, _in_units(program, v, near_mu, there, everything, back=True), steps

    def near(name: str, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        part, none = rows(own_theta, index), torch.zeros_like(x[:, 0])
        if name == WARM and warm is not None:
            n, m = program.structure.n, program.structure.m
            x, z, s = torch.split(warm[index], [n, m, m], -1)
            E, c = (t if t.shape[0] == 1 else t[index] for t in (units.E, units.c))
            return x, z * (c / E) - s * E, none
        if callable(solver) and name == "user":
            x = user_start(solver, rows(theta, index), x)
        elif name in SCIPY:
            x = scipy_start(own, part, x, name)
        elif minimum:
            target = torch.zeros_like(x[:, :1]) + barrier_at(own_mu, index)
            at = minimize(own, part, x, target, _SHORT) if name == SHORT else minimize(own, part, x, target)
            return at.x, at.v, at.steps
        else:
            return _branch(own, part, x, barrier_at(own_mu, index))
        return x, with_multipliers(own, part, x), none

    def settled(name: str, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, v, steps = near(name, x, index)
        if (name in SCIPY or name == "user") and isinstance(own_mu, Tensor) and own.structure.cone.degree:
            # a point of the exact problem is no point of the barrier's domain: only a start
            at = minimize(own, rows(own_theta, index), x, torch.zeros_like(x[:, :1]) + barrier_at(own_mu, index))
            x, v, steps = at.x, at.v, at.steps
        x, v, more = finish(x, v, index)
        return x, v, steps + more

    names = methods(solver, start.shape[1], program.structure.m, minimum=minimum, warm=warm is not None)
    everything = torch.arange(start.shape[0], device=start.device)
    x, v, steps = settled(names[0], start, everything)
    verdict = judge(program, theta, x, v, mu, start, minimum=minimum)
    used = torch.zeros_like(everything)
    for k, name in enumerate(names[1:], 1):
        bad = torch.nonzero(verdict.facts.status != Status.OPTIMAL).squeeze(-1)
        if not bad.numel():
            break
        found = settled(name, start[bad], bad)
        fresh = judge(program, rows(theta, bad), found[0], found[1], barrier_at(mu, bad), start[bad], minimum=minimum)
        # what a warm start leaves is no verdict on the program
        better = torch.nonzero((fresh.facts.status == Status.OPTIMAL) | (names[k - 1] == WARM)).squeeze(-1)
        if better.numel():
            part = tuple(t[better] for t in found)
            x, v, steps, used = _replace(part, bad[better], x, v, steps, used, k)
            verdict = judge(program, theta, x, v, mu, start, minimum=minimum)
    newton = names.index("newton") if "newton" in names else 0
    for _ in range(_ESCAPES):
        saddle = torch.nonzero(verdict.facts.status == Status.SADDLE).squeeze(-1)
        if not saddle.numel() or "user" in names:
            break
        away = _downhill(program, rows(theta, saddle), x[saddle], v[saddle], verdict.direction[saddle])
        before = x[saddle]
        x, v, steps, used = _replace(settled("newton", away, saddle), saddle, x, v, steps, used, newton)
        verdict = judge(program, theta, x, v, mu, start, minimum=minimum)
        if bool((magnitude(x[saddle] - before) <= 1e-6 * (1.0 + magnitude(before))).all()):
            break
    return Found(x, v, verdict, steps, used)


def methods(solver: Solver, n: int, m: int, *, minimum: bool, warm: bool = False) -> tuple[str, ...]:
    """Names of the methods to try, in order, for n variables and m constraints."""
    if warm:
        return (WARM, *methods(solver, n, m, minimum=minimum))
    if callable(solver):
        return ("user",)
    if solver is not None:
        return (solver,)
    if not minimum:
        return ("newton",)
    if n > DENSE_LIMIT and not m:
        return ("l-bfgs-b", "newton")
    if not m:
        return ("newton", SHORT)
    return ("newton", "slsqp") if n <= _SECOND_OPINION else ("newton",)


def _replace(
    part: tuple[Tensor, ...], index: Tensor, x: Tensor, v: Tensor, steps: Tensor, used: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, v = x.index_copy(0, index, part[0]), v.index_copy(0, index, part[1])
    return x, v, steps.index_add(0, index, part[2]), used.index_fill(0, index, k)


def _in_units(program: SmoothProgram, v: Tensor, mu: Barrier, units: Units, index: Tensor, *, back: bool) -> Tensor:
    """v of the caller's program in the units of the instances `index`; back: the other way round. mu: in the units of v."""
    z = program.structure.cone.project(v, mu)
    E, c = (t if t.shape[0] == 1 else t[index] for t in (units.E, units.c))
    return z * (E / c) - (z - v) / E if back else z * (c / E) - (z - v) * E


def _center(program: SmoothProgram, x: Tensor) -> Tensor:
    return x.new_zeros(x.shape[0], program.structure.m)


def _branch(program: SmoothProgram, theta: Theta, x: Tensor, mu: Barrier) -> tuple[Tensor, Tensor, Tensor]:
    """Newton on F from x; with inequalities along mu from the center of the cone, down to MU_LAST."""
    v, steps = _center(program, x), torch.zeros_like(x[:, 0])
    if program.structure.cone.degree:
        p = program.structure.cone.zeros
        c = program.f_and_c(x, theta)[1][:, p:]
        slack = (-c).clamp(min=0.1)
        target = mu if isinstance(mu, Tensor) else x.new_full((1, 1), MU_LAST)
        now = target.clamp(min=MU_FIRST).expand(x.shape[0], 1)
        v = torch.cat([v[:, :p], now / slack - slack], -1)
        while True:
            x, v, more = solve_residual(program, theta, x, v, now, FINISH)
            steps = steps + more
            if bool((now <= target).all()):
                return x, v, steps
            now = (0.1 * now).maximum(target)
    x, v, more = solve_residual(program, theta, x, v, mu, _ANY)
    return x, v, steps + more


def _downhill(program: SmoothProgram, theta: Theta, x: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """x + t u or x - t u, whichever has the smaller Lagrangian, with the largest t of 1, 1/4, ... that lowers it."""
    z = program.structure.cone.project(v, 0.0)
    size = (1.0 + magnitude(x)).unsqueeze(-1)

    def value(x: Tensor) -> Tensor:
        f, c = program.f_and_c(x, theta)
        return (f + (z * c).sum(-1)).nan_to_num(nan=torch.inf)

    best, lowest, found = x + 1e-3 * size * u, value(x), torch.zeros_like(x[:, 0], dtype=torch.bool)
    for power in range(6):
        for sign in (1.0, -1.0):
            candidate = x + sign * 0.25**power * size * u
            there = value(candidate)
            take = ~found & (there < lowest)
            best, lowest = torch.where(take.unsqueeze(-1), candidate, best), torch.where(take, there, lowest)
        found = found | (lowest < value(x))
    return best

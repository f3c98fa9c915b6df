"""What a point is worth: stationary or not, a minimum, a saddle, or flat. Decided by Newton's step, never by |g| alone.

    stationary      |dx| <= 1e-8 (1 + |x|),  |dv| <= 1e-8 (1 + |v|)     for K (dx, dv) = -F
    minimum         the Hessian of L on the null space of the active rows is positive definite (with the barrier's at mu > 0)
    flat            it is singular to rounding, or changes by half of its smallest eigenvalue within ten times the Newton step,
                    the ball in which x is known (Kantorovich: H is to be the same number all over that ball)
    runs off        not stationary or flat, far from the start: the infimum is not attained

A gradient of 9e-13 where the Hessian is 6e-13 is a step of 1.4: that point is no minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.cones.base import Barrier, is_exact
from dcl.point import Point
from dcl.point.ties import kinks
from dcl.program import ConeProgram, magnitude
from dcl.program.scaling import Units, scaled
from dcl.smooth.program import SmoothProgram, Theta
from dcl.smooth.reduced import reduce
from dcl.status import Status

STATIONARY = 1e-8
FEASIBLE = 1e-6
# Where K is singular the residuals themselves are to be rounding, and multipliers (of rows of size one,
# relative to grad f) finite.
_ROUNDING = 1e-10
_UNBOUNDED = 1e6
# The rounding of the gradient may not move x by more, relative to 1 + |x|. It is not seen at x, where all digits may be lost
# alike: it is taken to be that of the gradient at the start, if that is near.
BLUR, UNIT = 1e-7, 2.0**-52
# Newton's method leaves 1e-17 in place of a zero: what is taken to be the size of such an entry.
_NOTHING = 1e-6
# Farther from the start than this, relative to 1 + |x0|, a point that is not stationary is said to run off.
RUN = 5.0
FAR = 1e10
# Rows with D above this count as active when the Hessian is reduced; the others enter with the weight D / (1 - D).
_ACTIVE = 0.9
_WRONG_WAY = -1e-10


@dataclass(frozen=True, eq=False)
class Facts:
    """Numbers about a point, per instance.

    status (B,): `dcl.Status` as integers.  residuals (B, 3): primal, dual, gap, as in `dcl.point` with a floor of one.
    step (B,): |dx| / (1 + |x|) of Newton's step.  gradient (B,): |grad_x L|.  curvature (B,): the smallest eigenvalue of the
    reduced Hessian.  largest (B,): the largest eigenvalue, by size.
    """

    status: Tensor
    residuals: Tensor
    step: Tensor
    gradient: Tensor
    curvature: Tensor
    largest: Tensor


@dataclass(frozen=True, eq=False)
class Verdict:
    """The facts, and what they were found with.

    direction (B, n): unit vector of the smallest eigenvalue of the reduced Hessian.  point: that of the quadratic program that
    agrees with this one there, in the units of `dcl.program.scaling`, and these units.
    """

    facts: Facts
    direction: Tensor
    point: Point
    units: Units

    def matrices(self) -> tuple[Tensor, Tensor]:
        """H (B, n, n) and J (B, m, n) in the caller's units: these are powers of two, so that nothing is rounded."""
        program = self.point.program
        return program.P / self.units.c.unsqueeze(-1), program.A / self.units.E.unsqueeze(-1)

    def at_kink(self, scaled: Tensor) -> Tensor:
        """D at the ties (B, m) in the caller's units: D / (1 - D) is dz / -ds, which has units."""
        ratio = scaled / (1.0 - scaled) * self.units.E**2 / self.units.c
        between = (scaled > 0.0) & (scaled < 1.0)
        return torch.where(between, ratio / (1.0 + ratio), scaled)


def judge(
    program: SmoothProgram, theta: Theta, x: Tensor, v: Tensor, mu: Barrier, start: Tensor, *, minimum: bool
) -> Verdict:
    """The verdict on x (B, n), v (B, m) found from start (B, n). minimum: is one required, or is any stationary point good?"""
    cone = program.structure.cone
    local = program.local(x, v, mu, theta)
    finite = _finite(local)
    safe = ConeProgram(local.structure, *(_where(finite, t) for t in (local.P, local.q, local.A, local.b)))
    local, units = scaled(safe)
    z = cone.project(v, mu)
    zs, ss, mus = units.scaled_dual(z), (z - v) * units.E, units.barrier(mu)
    vs = zs - ss
    at = Point(local, x, vs, mus, kinks(local, vs, mus, _seen(x)))
    kkt = at.kkt
    f1, f2 = _residual(local, x, zs, vs)
    dx, dv, _ = kkt.tangent(-f1, -f2)
    residuals = at.check(floor=1.0)
    curvature, smallest, largest, direction, weakest = _curvature(local, kkt.D.d, is_exact(mu))
    size = 1.0 + magnitude(x)
    reach = (10.0 * magnitude(dx)).maximum(1e-13 * size).minimum(STATIONARY * size).unsqueeze(-1)
    drift = _drift(program, theta, x + reach * weakest, z, local, units, weakest)
    if not bool(torch.isfinite(drift).all()):  # one of the two directions may lead out of a domain
        other = _drift(program, theta, x - reach * weakest, z, local, units, weakest)
        drift = torch.where(torch.isfinite(drift), drift, other)
    flat = (kkt.conditioning.null_a > 0) | (drift > 0.5 * smallest) | ~torch.isfinite(drift)
    # of a singular K the least-squares step is zero where F is not in its range
    off = residuals[:, 1] > FEASIBLE
    singular = flat | (kkt.conditioning.null_y > 0)
    # nor is a point a solution whose multipliers are beyond bounds: no constraint qualification holds there
    pull = magnitude(local.Px(x) + local.q) + _ROUNDING
    off = off | (singular & ((residuals[:, :2].amax(-1) > _ROUNDING) | (magnitude(zs) > _UNBOUNDED * pull)))
    # of a saturated f, a difference of terms of the size that they have at the start, rounding is left
    terms = magnitude(program.first(start, theta)[1]) * units.c.squeeze(-1)
    blur = UNIT * terms / smallest.clamp(min=1e-300, max=1.0)
    blurred = ~flat & (blur > BLUR * size) & (magnitude(x - start) <= RUN * size)
    step = torch.where(blurred, magnitude(dx).maximum(blur), magnitude(dx)) / size
    step = torch.where(off & singular, torch.inf, step)
    moving = off | ~((step <= STATIONARY) & (magnitude(dv) <= STATIONARY * (1.0 + magnitude(vs))))
    # a slack that is not its constraint's is an unfinished step, no violation
    moving = moving | (magnitude(f2) > FEASIBLE) | (residuals[:, 0] > FEASIBLE)
    broken = _violates(program, theta, x, units) & _violates(program, theta, start, units)
    ran = (magnitude(x - start) > RUN * (1.0 + magnitude(start))) | (magnitude(x) > FAR)
    status = torch.full_like(x[:, 0], int(Status.OPTIMAL), dtype=torch.int64)
    # the later cause is the graver one
    for cause, holds in (
        (Status.SADDLE, (curvature < _WRONG_WAY * largest) & minimum),
        (Status.FLAT, flat),
        (Status.NOT_STATIONARY, moving),
        (Status.RUNS_OFF, (flat | moving) & ran),
        (Status.LOCALLY_INFEASIBLE, broken),
        (Status.RUNS_OFF, ~finite | (magnitude(x) > FAR)),
    ):
        status = torch.where(holds, torch.full_like(status, int(cause)), status)
    gradient = magnitude(f1) / units.c.squeeze(-1)
    scale = 1.0 / units.c.squeeze(-1)
    facts = Facts(status, residuals, step, gradient, curvature * scale, largest * scale)
    return Verdict(facts, direction, at, units)


def _violates(program: SmoothProgram, theta: Theta, x: Tensor, units: Units) -> Tensor:
    """Is a constraint violated at x (B, n)?"""
    c, p = program.f_and_c(x, theta)[1] * units.E, program.structure.cone.zeros
    return magnitude(torch.cat([c[:, :p], c[:, p:].clamp(min=0.0)], -1)) > FEASIBLE


def _drift(
    program: SmoothProgram, theta: Theta, x: Tensor, z: Tensor, local: ConeProgram, units: Units, u: Tensor
) -> Tensor:
    """|(H(x) - H) u| in the units of `local`, whose P is H, (B,)."""
    change = program.hessian(x, z, theta) * units.c.unsqueeze(-1) - local.P
    return magnitude((change @ u.unsqueeze(-1)).squeeze(-1))


def _seen(x: Tensor) -> Tensor:
    """x (B, n) as `dcl.point.ties` is to see it: a slack that is the rounding of an x that is zero is zero."""
    return torch.where(x.abs() < _NOTHING, _NOTHING, x)


def _residual(local: ConeProgram, x: Tensor, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return local.Px(x) + local.q + local.ATz(z), local.Ax(x) - local.b + (z - v)


def _curvature(local: ConeProgram, d: Tensor, exact: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Smallest eigenvalue, smallest and largest in size (B,), of the reduced Hessian; the vectors of the first two (B, n)."""
    active = d > _ACTIVE
    weight = torch.where(active, 0.0, d / (1.0 - torch.where(active, 0.0, d)))
    # a tie is active here: a minimum needs no more than positive curvature along all active rows
    tie = (d == 0.5) & exact
    A = local.A * (active | tie).unsqueeze(-1)
    W = local.P + local.A.mT @ (torch.where(tie, 0.0, weight).unsqueeze(-1) * local.A)
    reduced = reduce(W, A)
    return (*reduced.spectrum(), reduced.weakest())


def _finite(local: ConeProgram) -> Tensor:
    finite = [torch.isfinite(t).flatten(1).all(-1) for t in (local.P, local.q, local.A, local.b)]
    return torch.stack(torch.broadcast_tensors(*finite)).all(0)


def _where(finite: Tensor, t: Tensor) -> Tensor:
    return torch.where(finite.view(-1, *[1] * (t.ndim - 1)), t, 0.0)

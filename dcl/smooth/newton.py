"""A batched primal-dual interior-point Newton method for minimize f subject to h = 0, g <= 0 (Nocedal and Wright, ch. 19).

    [[W, J_h'], [J_h, 0]] (dx, y+) = (-(grad f + J_g'(mu / s + Sigma (g + s))), -h),     Sigma = z / s,  W = H + J_g' Sigma J_g
    ds = -(g + s) - J_g dx,     dz = mu / s - z - Sigma ds

On the null space of J_h the eigenvalues of W are taken by size, so that dx descends where f is not convex.  A step keeps
s > 0 and z > 0 and lowers the merit  f - mu sum log s + nu (|h|_1 + |g + s|_1)  (Armijo; NaN, outside of a domain, counts
as no decrease).  mu falls to its target in stages.  Without inequalities and equalities this is a damped Newton method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.program import magnitude
from dcl.smooth.program import SmoothProgram, Theta, rows
from dcl.smooth.reduced import reduce

# Where the path ends if the target is 0: `dcl.smooth.stationary` does the rest.
MU_LAST = 1e-10
MU_FIRST = 0.1
STEPS = 300
HALVINGS = 24
_KEPT = 0.995
# A relative step below this is left to the last Newton steps on F.
SMALL = 1e-9
FAR = 1e12
# A gradient and a Hessian smaller than this, relative to the start's, are rounding.
NOISE = 1e-14
# The gradient of the Lagrangian at the end, relative to that of f.
_DUAL = 1e-3
# A slack is set to that of its constraint unless that is smaller by this factor.
_RESET = 0.1
# A step that has to be cut below this leads nowhere.
SHORTEST = 1e-7


@dataclass(eq=False)
class Iterate:
    """x (B, n), s and z (B, k), y (B, p), mu (B, 1); steps (B,) taken."""

    x: Tensor
    s: Tensor
    z: Tensor
    y: Tensor
    mu: Tensor
    steps: Tensor

    @property
    def v(self) -> Tensor:
        """v = z - s with the equalities in front, (B, m)."""
        return torch.cat([self.y, self.z - self.s], -1)

    def take(self, index: Tensor) -> Iterate:
        """The instances `index`."""
        return Iterate(*(t[index] for t in (self.x, self.s, self.z, self.y, self.mu, self.steps)))

    def put(self, index: Tensor, part: Iterate) -> None:
        """The inverse of `take`."""
        for name in ("x", "s", "z", "y", "mu", "steps"):
            getattr(self, name)[index] = getattr(part, name)


def minimize(program: SmoothProgram, theta: Theta, x: Tensor, target: Tensor, longest: float = 1e3) -> Iterate:
    """From x (B, n) to the central-path point at mu = target (B, 1), nearly; at MU_LAST where target is 0.

    longest: a longer step, relative to 1 + |x|, is cut: the quadratic model is not valid there.
    """
    p = program.structure.cone.zeros
    _, g, c, J = program.first(x, theta)
    slack = -c[:, p:]
    mu = torch.full_like(target, MU_FIRST).maximum(target) if slack.shape[-1] else target.clamp(min=MU_LAST)
    s = slack.clamp(min=0.1)
    z = mu / s
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[0], -1, -1)
    y = reduce(eye, J[:, :p]).multipliers(g + (J[:, p:].mT @ z.unsqueeze(-1)).squeeze(-1))
    state = Iterate(x.clone(), s, z, y, mu, x.new_zeros(x.shape[0]))
    todo = torch.arange(x.shape[0], device=x.device)
    for _ in range(STEPS):
        if not todo.numel():
            break
        part = state.take(todo)
        goes_on = _advance(program, rows(theta, todo), part, target[todo], longest)
        state.put(todo, part)
        todo = todo[goes_on]
    return state


def _advance(program: SmoothProgram, theta: Theta, at: Iterate, target: Tensor, longest: float) -> Tensor:
    """One step of all instances, in place; which of them (B,) are not done."""
    p = program.structure.cone.zeros
    f, g, c, J, H = program.second(at.x, torch.cat([at.y, at.z], -1), theta)
    finite = torch.isfinite(H).all(-1).all(-1) & torch.isfinite(g).all(-1) & torch.isfinite(J).all(-1).all(-1)
    H, J = (torch.where(finite[:, None, None], t, 0.0) for t in (H, J))
    g = torch.where(finite.unsqueeze(-1), g, 0.0)
    h, r, Jh, Jg = c[:, :p], c[:, p:] + at.s, J[:, :p], J[:, p:]
    size = magnitude(g).maximum(magnitude(H.flatten(1))).clamp(min=NOISE, max=1.0).unsqueeze(-1)
    target = torch.where(target > 0.0, target, MU_LAST * size)
    while True:
        error_of = torch.stack([
            magnitude(g + (J.mT @ torch.cat([at.y, at.z], -1).unsqueeze(-1)).squeeze(-1)),
            magnitude(h), magnitude(r), magnitude(at.s * at.z - at.mu),
        ])  # fmt: skip
        error = error_of.amax(0, keepdim=True).mT
        lower = (error <= 10.0 * at.mu) & (at.mu > target)
        if not bool(lower.any()):
            break
        at.mu = torch.where(lower, torch.minimum(0.2 * at.mu, at.mu**1.5).maximum(target), at.mu)
    sigma = at.z / at.s
    W = H + Jg.mT @ (sigma.unsqueeze(-1) * Jg)
    gradient = g + (Jg.mT @ (at.mu / at.s + sigma * r).unsqueeze(-1)).squeeze(-1)
    system = reduce(W, Jh)
    dx, curvature = system.step(gradient, -h)
    cut = (longest * (1.0 + magnitude(at.x)) / magnitude(dx).clamp(min=1e-300)).clamp(max=1.0).unsqueeze(-1)
    dx = cut * dx
    y = system.multipliers(gradient + (W @ dx.unsqueeze(-1)).squeeze(-1))
    ds = -cut * r - (Jg @ dx.unsqueeze(-1)).squeeze(-1)
    dz = at.mu / at.s - at.z - sigma * ds
    finite = finite & torch.isfinite(dx).all(-1) & torch.isfinite(ds).all(-1) & torch.isfinite(dz).all(-1)
    # without a feasible point nearby the multipliers grow without end
    finite = finite & (magnitude(torch.cat([at.y, at.z], -1)) < FAR)
    dx, ds, dz, y = (torch.where(finite.unsqueeze(-1), t, 0.0) for t in (dx, ds, dz, y))
    step, moved = _line_search(program, theta, at, f, g, h, r, dx, ds, curvature)
    at.x = at.x + step.unsqueeze(-1) * dx
    at.s = at.s + step.unsqueeze(-1) * ds
    # a slack larger than it needs to be lowers the merit when the constraint is evaluated anew
    if at.s.shape[-1]:
        at.s = _slack(at.s, -program.f_and_c(at.x, theta)[1][:, p:])
        at.z = at.z + _to_boundary(at.z, dz).unsqueeze(-1) * dz
        at.z = at.z.clamp(min=at.mu / at.s * 1e-10, max=at.mu / at.s * 1e10)
    at.y = torch.where(moved.unsqueeze(-1), y, at.y)
    at.steps = at.steps + 1.0
    full = magnitude(dx) / (1.0 + magnitude(at.x))
    final = ~(at.mu > target).squeeze(-1)
    done: Tensor = final & (full <= SMALL) & (magnitude(h) <= SMALL**0.5) & (magnitude(r) <= SMALL**0.5)
    if at.s.shape[-1]:
        # x may be right before the multipliers are: their sizes beside the slacks tell which rows are active
        dual, product = error_of[0].unsqueeze(-1) <= _DUAL * size, error_of[3].unsqueeze(-1) <= 10.0 * at.mu
        done = done & (dual & product).squeeze(-1)
    goes_on: Tensor = moved & finite & ~done & (magnitude(at.x) < FAR)
    return goes_on


def _slack(s: Tensor, slack: Tensor) -> Tensor:
    """s, or the constraint's own slack where that is not much smaller: r = 0, and a curved row costs the merit nothing."""
    return torch.where(slack >= _RESET * s, slack, s)


def _to_boundary(t: Tensor, dt: Tensor) -> Tensor:
    """The longest step up to 1 that keeps a two-hundredth of each entry of t > 0, (B,)."""
    if not t.shape[-1]:
        return t.new_ones(t.shape[0])
    ratio = torch.where(dt < 0.0, -_KEPT * t / torch.where(dt < 0.0, dt, -1.0), torch.inf)
    return ratio.amin(-1).clamp(max=1.0)


def _line_search(
    program: SmoothProgram, theta: Theta, at: Iterate, f: Tensor, g: Tensor, h: Tensor, r: Tensor, dx: Tensor, ds: Tensor,
    curvature: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The step (B,), 0 where none lowers the merit, and where there is one."""
    p = program.structure.cone.zeros
    mu = at.mu.squeeze(-1)
    violation = h.abs().sum(-1) + r.abs().sum(-1)
    slope = (g * dx).sum(-1) - mu * (ds / at.s).sum(-1)
    # nu makes dx a direction of descent of the merit
    nu = torch.where(
        violation > 0.0, (slope + 0.5 * curvature.clamp(min=0.0)) / (0.7 * violation.clamp(min=1e-300)), 0.0
    )
    nu = nu.clamp(min=0.0, max=1e12) + magnitude(torch.cat([at.y, at.z], -1)) + (magnitude(g) + mu).clamp(max=1.0)
    descent = slope - nu * violation

    def merit(f: Tensor, s: Tensor, violation: Tensor) -> Tensor:
        return f - mu * s.log().sum(-1) + nu * violation

    now = merit(f, at.s, violation)
    # rounding of the merit: close to the solution no decrease can be measured
    noise = 1e-14 * (f.abs() + mu * at.s.log().abs().sum(-1) + nu * violation)
    step = _to_boundary(at.s, ds)
    open_ = torch.isfinite(now)
    taken, outside = torch.zeros_like(step), torch.zeros_like(open_)
    for _ in range(HALVINGS):
        x, s = at.x + step.unsqueeze(-1) * dx, at.s + step.unsqueeze(-1) * ds
        f_new, c_new = program.f_and_c(x, theta)
        s = _slack(s, -c_new[:, p:])
        broken = c_new[:, :p].abs().sum(-1) + (c_new[:, p:] + s).abs().sum(-1)
        there = merit(f_new, s, broken)
        good = open_ & (there <= now + 1e-4 * step * descent.clamp(max=0.0) + noise)
        taken = torch.where(good, step, taken)
        open_ = open_ & ~good
        if not bool(open_.any()):
            break
        # a step out of a domain says nothing about how long it should be
        left = open_ & ~torch.isfinite(there)
        outside = outside | left
        step = torch.where(open_, torch.where(left, 0.1, 0.5) * step, step)
    return taken, (taken > SHORTEST) | (outside & (taken > 0.0))

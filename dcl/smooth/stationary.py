"""Newton's method on F itself: to rounding from a point nearby, and to any stationary point near the start.

    K(x_k, v_k) (dx, dv) = -F(x_k, v_k),     the step halved until |F| falls

At mu = 0 it is the semismooth Newton method: the sign of v is the active set, and once that is right it converges quadratically.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.cones.base import Barrier, barrier_at
from dcl.kkt import KKT, factorize
from dcl.point.ties import kinks
from dcl.program import ConeProgram, magnitude, norm
from dcl.smooth.program import SmoothProgram, Theta, rows

HALVINGS = 12
# A step below this, relative to |x| and |v|, is rounding.
ROUNDING = 1e-15


def factored(program: SmoothProgram, x: Tensor, v: Tensor, mu: Barrier, theta: Theta) -> tuple[ConeProgram, KKT]:
    """The quadratic program at (x, v), and its K."""
    local = program.local(x, v, mu, theta)
    return local, factorize(local, v, mu, kinks(local, v, mu, x))


def solve_residual(
    program: SmoothProgram, theta: Theta, x: Tensor, v: Tensor, mu: Barrier, steps: int, reach: float = torch.inf
) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, n), v (B, m) with a smaller |F| than those given, and the steps taken (B,).

    reach: a step of x longer than this, relative to 1 + |x|, is not taken: it would lead to another stationary point.
    """
    x, v, count = x.clone(), v.clone(), torch.zeros_like(x[:, 0])
    todo = torch.arange(x.shape[0], device=x.device)
    for _ in range(steps):
        if not todo.numel():
            break
        mu_k = barrier_at(mu, todo)
        x[todo], v[todo], goes_on = _step(program, rows(theta, todo), x[todo], v[todo], mu_k, reach)
        count[todo] += 1.0
        todo = todo[goes_on]
    return x, v, count


def _step(
    program: SmoothProgram, theta: Theta, x: Tensor, v: Tensor, mu: Barrier, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    cone = program.structure.cone
    f1, f2 = program.residual(x, cone.project(v, mu), v, theta)
    size = norm(f1, f2)
    local = program.local(x, v, mu, theta)
    finite = (
        torch.isfinite(local.P).flatten(1).all(-1) & torch.isfinite(local.A).flatten(1).all(-1) & torch.isfinite(size)
    )
    if not bool(finite.all()):
        return x, v, torch.zeros_like(finite)
    kkt = factorize(local, v, mu, kinks(local, v, mu, x))
    dx, dv, _ = kkt.tangent(-f1, -f2)
    step, open_ = torch.ones_like(size), torch.isfinite(dx).all(-1) & torch.isfinite(dv).all(-1) & (size > 0.0)
    open_ = open_ & (magnitude(dx) <= reach * (1.0 + magnitude(x)))
    moved = torch.zeros_like(open_)
    for _ in range(HALVINGS):
        x_new, v_new = x + step.unsqueeze(-1) * dx, v + step.unsqueeze(-1) * dv
        size_new = norm(*program.residual(x_new, cone.project(v_new, mu), v_new, theta))
        good = open_ & (size_new < (1.0 - 1e-4 * step) * size)
        x, v = torch.where(good.unsqueeze(-1), x_new, x), torch.where(good.unsqueeze(-1), v_new, v)
        # a shorter piece of a step that is rounding already changes nothing
        moved, open_ = moved | good, open_ & ~good & (step * magnitude(dx) > 1e-13 * (1.0 + magnitude(x)))
        if not bool(open_.any()):
            break
        step = torch.where(open_, 0.5 * step, step)
    small = (magnitude(dx) <= ROUNDING * magnitude(x)) & (magnitude(dv) <= ROUNDING * magnitude(v))
    return x, v, moved & ~small

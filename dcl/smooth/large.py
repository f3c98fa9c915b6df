"""y too large for matrices: truncated Newton with conjugate gradients on Hessian-vector products (Nocedal and Wright, ch. 7).

    H d = -g  by conjugate gradients, stopped early while far from the solution and at a direction of negative curvature

Memory is that of some vectors.  L-BFGS gets near first.  At the end the Newton step is solved for accurately and, from a random
right-hand side, the extreme eigenvalues that the Krylov space sees (Lanczos) say whether the point is a minimum, and flat or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.kkt import RANK_TOLERANCE
from dcl.program import magnitude
from dcl.smooth.judge import STATIONARY, Facts
from dcl.smooth.program import SmoothProgram, Theta
from dcl.smooth.start import SCIPY, Solver, scipy_start, user_start
from dcl.status import Status

_STEPS = 200
_PRODUCTS = 5000
_PROBE = 300
_HALVINGS = 30
_RUN = 5.0
_FAR = 1e10


@dataclass(frozen=True, eq=False)
class Krylov:
    """w (B, n) with H w = r up to residual (B,), relative; smallest and largest Ritz value (B,); bent (B, n).

    bent: a direction with d'Hd <= 0, zero where none was met.  steps: products with H.
    """

    w: Tensor
    residual: Tensor
    smallest: Tensor
    largest: Tensor
    bent: Tensor
    steps: int


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    r: Tensor,
    tolerance: float | Tensor,
    limit: int = _PRODUCTS,
    *,
    stop: bool = False,
) -> Krylov:
    """Conjugate gradients from zero for a batch of right-hand sides r (B, n). stop: at negative curvature, with w as it is."""
    w, residual, d = torch.zeros_like(r), r, r
    rho, size = (r * r).sum(-1), (r * r).sum(-1).sqrt().clamp(min=1e-300)
    bent, open_ = torch.zeros_like(r), rho > 0.0
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    steps = 0
    for _ in range(min(limit, 10 * r.shape[-1] + 10)):
        if not bool(open_.any()):
            break
        Hd = product(d)
        steps += 1
        curved = (d * Hd).sum(-1)
        wrong = open_ & (curved <= 0.0)
        bent = torch.where((wrong & (bent == 0.0).all(-1)).unsqueeze(-1), d, bent)
        if stop:
            open_ = open_ & ~wrong
        open_ = open_ & (curved != 0.0) & torch.isfinite(curved)
        alpha = torch.where(open_, rho / torch.where(curved != 0.0, curved, 1.0), 0.0)
        w, residual = w + alpha.unsqueeze(-1) * d, residual - alpha.unsqueeze(-1) * Hd
        new = (residual * residual).sum(-1)
        beta = torch.where(open_, new / torch.where(rho > 0.0, rho, 1.0), 0.0)
        alphas.append(torch.where(alpha != 0.0, alpha, torch.nan))
        betas.append(beta)
        d, rho = torch.where(open_.unsqueeze(-1), residual + beta.unsqueeze(-1) * d, d), torch.where(open_, new, rho)
        open_ = open_ & (new.sqrt() > tolerance * size)
    smallest, largest = _ritz(alphas, betas, r)
    # the residual itself, as rounding lets the recurrence drift away from it
    true = r - product(w) if steps else r
    return Krylov(w, torch.linalg.vector_norm(true, dim=-1) / size, smallest, largest, bent, steps)


def _ritz(alphas: list[Tensor], betas: list[Tensor], r: Tensor) -> tuple[Tensor, Tensor]:
    """Extreme eigenvalues of the Lanczos matrix of each instance, (B,); 1 where nothing was done."""
    smallest, largest = torch.ones_like(r[:, 0]), torch.ones_like(r[:, 0])
    if not alphas:
        return smallest, largest
    a, b = torch.stack(alphas, -1), torch.stack(betas, -1)
    for i in range(r.shape[0]):
        k = int((~torch.isnan(a[i])).cumprod(0).sum())
        if not k:
            continue
        ai, bi = a[i, :k], b[i, :k]
        diagonal = 1.0 / ai
        diagonal[1:] += bi[: k - 1] / ai[: k - 1]
        off = bi[: k - 1].clamp(min=0.0).sqrt() / ai[: k - 1].abs()
        values = torch.linalg.eigvalsh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
        smallest[i], largest[i] = values[0], values[-1]
    return smallest, largest


@dataclass(frozen=True, eq=False)
class FoundLarge:
    """x (B, n), steps (B,) of Newton's method, what is known of x, and the estimated condition of H (B,)."""

    x: Tensor
    steps: Tensor
    facts: Facts
    condition: Tensor


def method(solver: Solver, *, minimum: bool) -> str:
    """The name of the method that gets near."""
    return "user" if callable(solver) else solver or ("l-bfgs-b" if minimum else "newton")


def answer_large(
    program: SmoothProgram,
    theta: Theta,
    start: Tensor,
    solver: Solver,
    *,
    minimum: bool,
) -> FoundLarge:
    """A stationary point of f near start (B, n), without constraints and without matrices."""
    name = method(solver, minimum=minimum)
    x = start
    if callable(solver):
        x = user_start(solver, theta, start)
    elif name in SCIPY:
        x = scipy_start(program, theta, start, name)
    z, steps = start.new_zeros(start.shape[0], 0), torch.zeros_like(start[:, 0])
    for _ in range(_STEPS):
        x, moved = _step(program, theta, x, z, minimum=minimum)
        steps = steps + moved.to(steps.dtype)
        if not bool(moved.any()):
            break
    return _judged(program, theta, start, x, steps, minimum=minimum)


def _step(program: SmoothProgram, theta: Theta, x: Tensor, z: Tensor, *, minimum: bool) -> tuple[Tensor, Tensor]:
    """One truncated Newton step with a line search on f (on |g| where any stationary point is good), and who moved."""
    f, g, _, _ = program.first(x, theta)
    size = torch.linalg.vector_norm(g, dim=-1)
    forcing = size.sqrt().clamp(min=1e-10, max=0.1)
    out = conjugate_gradients(lambda w: program.hessian_product(x, z, w, theta), -g, forcing, stop=minimum)
    d = out.w
    if minimum:
        # where the first direction already bends down there is no step yet: go along it
        stuck = (d == 0.0).all(-1) & (out.bent != 0.0).any(-1)
        length = (1.0 + magnitude(x)) / magnitude(out.bent).clamp(min=1e-300)
        d = torch.where(stuck.unsqueeze(-1), length.unsqueeze(-1) * out.bent, d)
    slope, noise = (g * d).sum(-1), 1e-14 * f.abs()
    open_ = torch.isfinite(d).all(-1) & (magnitude(d) > 1e-15 * (1.0 + magnitude(x)))
    step, moved = torch.ones_like(f), torch.zeros_like(open_)
    for _ in range(_HALVINGS):
        x_new = x + step.unsqueeze(-1) * d
        f_new, g_new, _, _ = program.first(x_new, theta)
        falls = torch.linalg.vector_norm(g_new, dim=-1) < (1.0 - 1e-4 * step) * size
        lower = f_new <= f + 1e-4 * step * slope
        # where f no longer shows the difference, the gradient does
        good = open_ & ((lower | ((f_new <= f + noise) & falls)) if minimum else falls)
        x, moved, open_ = torch.where(good.unsqueeze(-1), x_new, x), moved | good, open_ & ~good
        if not bool(open_.any()):
            break
        step = torch.where(open_, 0.5 * step, step)
    return x, moved & (magnitude(x) < _FAR)


def _judged(
    program: SmoothProgram, theta: Theta, start: Tensor, x: Tensor, steps: Tensor, *, minimum: bool
) -> FoundLarge:
    z = start.new_zeros(start.shape[0], 0)
    _, g, _, _ = program.first(x, theta)

    def product(w: Tensor) -> Tensor:
        return program.hessian_product(x, z, w, theta)

    newton = conjugate_gradients(product, -g, 1e-8)
    generator = torch.Generator().manual_seed(x.shape[-1])
    probe = torch.randn(x.shape[-1], generator=generator, dtype=x.dtype).to(x.device).expand_as(x)
    seen = conjugate_gradients(product, probe, 1e-10, _PROBE)
    nothing = (product(probe) == 0.0).all(-1)
    smallest, largest = (torch.where(nothing, 0.0, t) for t in (seen.smallest, seen.largest))
    sizes = smallest.abs(), largest.abs()
    largest = torch.maximum(*sizes)
    step = magnitude(newton.w) / (1.0 + magnitude(x))
    step = torch.where((magnitude(g) > 0.0) & ~(newton.residual <= 1e-3), torch.inf, step)
    flat = torch.minimum(*sizes) <= RANK_TOLERANCE * largest
    # a CG that met no curvature of the other sign has seen all eigenvalues with one sign
    moving, ran = ~(step <= STATIONARY), magnitude(x - start) > _RUN * (1.0 + magnitude(start))
    status = torch.full_like(x[:, 0], int(Status.OPTIMAL), dtype=torch.int64)
    for cause, holds in (
        (Status.SADDLE, (smallest < 0.0) & minimum),
        (Status.FLAT, flat),
        (Status.NOT_STATIONARY, moving),
        (Status.RUNS_OFF, ((flat | moving) & ran) | (magnitude(x) > _FAR) | torch.isnan(step)),
    ):
        status = torch.where(holds, torch.full_like(status, int(cause)), status)
    zero = torch.zeros_like(step)
    condition = largest / torch.minimum(*sizes).clamp(min=1e-300)
    facts = Facts(status, torch.stack([zero, step, zero], -1), step, magnitude(g), smallest, largest)
    return FoundLarge(x, steps, facts, condition)

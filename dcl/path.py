"""The central path: damped Newton on F at mu > 0, from the exact solution or from the center of the cone.

    K(x_k, v_k) (dx, dv) = -F(x_k, v_k) =: (a, b),   (x, v) += step (dx, dv),   step halved until |F| falls by 1e-4 step of itself

F is smooth at mu > 0.  From the exact point a few steps do for small mu; where that stalls, v = 0 on the inequalities, that
is s = z at the center, is the start.  The path as such (its continuation in mu) is not needed for the point on it.

Far from the point steps need not be accurate.  On dense programs the first ones eliminate every inequality, since D < I
(rows in the coordinates of Q, W = D (I - D)^-1; rows e of the zero cones, G > 0 any diagonal):

    [[M, A_e'], [A_e, 0]] (dx, dv_e) = (a + A_i'W b_i + A_e'G b_e, b_e),     M = P + A_i'W A_i + A_e'G A_e,
    dv_i = (I - D)^-1 (A_i dx - b_i)

one Cholesky factorization of size n and one of the number of equalities.  W grows like 1/mu, so the last steps, and
the factor that the backward pass uses, are those of `dcl.kkt`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.cones.base import Barrier, barrier_at
from dcl.kkt import KKT, factorize, residual
from dcl.pattern import DensePattern
from dcl.polish import TARGET, Polished
from dcl.program import ConeProgram, magnitude, norm
from dcl.ties import kinks
from dcl.truth import PATH_TOLERANCE, absolutes, check, worst

_STEPS = 60
_HALVINGS = 40
# I - D is not taken to be smaller than this: beyond, rounding has decided it.
_SMALLEST = 1e-15
# A step that lowers |F| by less than this, a residual that is small by less, was one too many.
_WORTHWHILE = 0.5
# Up to here, relative to the goal, every step that lowers |F| counts.
_FAR = 1e5
# Below this relative residual a point that does not get much better is done: rounding is all that is left.
_ENOUGH = 1e-11


def follow(program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier) -> Polished:
    """The point of the central path at mu (B or 1, 1) for each instance, from the exact x (B, n), v (B, m)."""
    first = _newton(program, *_approach(program, x, v, mu), mu)
    lost = worst(first.residuals) > PATH_TOLERANCE
    if not bool(lost.any()):
        return first
    center = v.clone()
    center[:, program.structure.cone.zeros :] = 0.0
    second = _newton(program, *_approach(program, x, center, mu), mu)
    take = (lost & (worst(second.residuals) < worst(first.residuals))).unsqueeze(-1)
    x, v = torch.where(take, second.x, first.x), torch.where(take, second.v, first.v)
    residuals = torch.where(take, second.residuals, first.residuals)
    return Polished(x, v, residuals, factorize(program, v, mu, kinks(program, v, mu)))


def _newton(program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier) -> Polished:
    """Accurate steps on the instances above TARGET, as long as they help; K is factored at the last points."""
    absolute = absolutes(program)
    kkt, residuals = factorize(program, v, mu, kinks(program, v, mu)), check(program, x, v, mu, absolute)
    index = torch.nonzero(worst(residuals) > TARGET).squeeze(-1)
    if not index.numel():
        return Polished(x, v, residuals, kkt)
    everything = index.numel() == x.shape[0]
    part = program if everything else program.rows(index)
    x, v = x.clone(), v.clone()
    x[index], v[index] = _sharpened(part, x[index], v[index], barrier_at(mu, index), kkt if everything else None)
    return Polished(x, v, check(program, x, v, mu, absolute), factorize(program, v, mu, kinks(program, v, mu)))


def _sharpened(program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier, kkt: KKT | None) -> tuple[Tensor, Tensor]:
    """X and v after accurate steps; kkt: K at the start, if at hand."""
    f1, f2 = residual(program, x, v, mu)
    absolute = absolutes(program)
    residuals, size = check(program, x, v, mu, absolute), norm(f1, f2)
    before = torch.full_like(size, torch.inf)
    for _ in range(_STEPS):
        now = worst(residuals)
        rough = now > _ENOUGH
        todo = (rough | ((now > TARGET) & (now < _WORTHWHILE * before))) & torch.isfinite(size)
        before = now
        if not bool(todo.any()):
            break
        kkt = kkt or factorize(program, v, mu, kinks(program, v, mu))
        dx, dv, _ = kkt.tangent(-f1, -f2)
        x, v, f1, f2, size, moved = _damped(program, x, v, mu, dx, dv, f1, f2, size, todo, rough)
        if not bool(moved.any()):
            break
        residuals, kkt = check(program, x, v, mu, absolute), None
    return x, v


def _approach(program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier) -> tuple[Tensor, Tensor]:
    """Cheap steps, each on the instances that still move: a better start for `_newton`, with a smaller |F|."""
    if not (isinstance(program.structure.A, DensePattern) and isinstance(program.structure.P, DensePattern)):
        return x, v
    x, v = x.clone(), v.clone()
    f1, f2 = residual(program, x, v, mu)
    size = norm(f1, f2)
    goal = TARGET * (1.0 + magnitude(program.q) + magnitude(program.b))
    index = torch.nonzero(torch.isfinite(size) & (size > goal)).squeeze(-1)
    for _ in range(_STEPS):
        if not index.numel():
            break
        part = program if index.numel() == x.shape[0] else program.rows(index)
        mu_k = barrier_at(mu, index)
        now = x[index], v[index], f1[index], f2[index], size[index]
        dx, dv = _condensed_step(part, now[1], mu_k, now[2], now[3])
        todo = torch.isfinite(dx).all(-1) & torch.isfinite(dv).all(-1)
        *after, moved = _damped(part, *now[:2], mu_k, dx, dv, *now[2:], todo, todo)
        x[index], v[index], f1[index], f2[index], size[index] = after
        goal_k = goal.expand(x.shape[0])[index]
        far = moved & (after[4] > _FAR * goal_k)
        goes_on = (after[4] > goal_k) & (far | (after[4] < _WORTHWHILE * now[4]))
        index = index[goes_on]
    return x, v


def _condensed_step(program: ConeProgram, v: Tensor, mu: Barrier, f1: Tensor, f2: Tensor) -> tuple[Tensor, Tensor]:
    """(dx, dv) of the header, not finite where it cannot be had."""
    D = program.structure.cone.dproject(v, mu, kinks(program, v, mu))
    A, zeros = program.A.expand(v.shape[0], -1, -1), program.structure.cone.zeros
    b = -f2 if D.diagonal else D.to_eigen(-f2)
    if not D.diagonal:
        A = D.to_eigen(A.permute(2, 0, 1)).permute(1, 2, 0)
    Ae, Ai, be, bi = A[:, :zeros], A[:, zeros:], b[:, :zeros], b[:, zeros:]
    rest = (1.0 - D.d[:, zeros:]).clamp(min=_SMALLEST)
    W = D.d[:, zeros:] / rest
    M = program.P + Ai.mT @ (W.unsqueeze(-1) * Ai)
    r = -f1 + (Ai.mT @ (W * bi).unsqueeze(-1)).squeeze(-1)
    if zeros:
        size = M.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
        rows = (Ae * Ae).sum(-1)
        G = torch.where(size > 0.0, size, 1.0) / torch.where(rows > 0.0, rows, 1.0)
        M = M + Ae.mT @ (G.unsqueeze(-1) * Ae)
        r = r + (Ae.mT @ (G * be).unsqueeze(-1)).squeeze(-1)
    L, info = torch.linalg.cholesky_ex(M)
    t = torch.linalg.solve_triangular(L, r.unsqueeze(-1), upper=False)
    dve = be
    if zeros:
        U = torch.linalg.solve_triangular(L, Ae.mT, upper=False)
        L2, info2 = torch.linalg.cholesky_ex(U.mT @ U)
        info = info + info2
        y = torch.cholesky_solve(U.mT @ t - be.unsqueeze(-1), L2)
        t, dve = t - U @ y, y.squeeze(-1)
    dx = torch.linalg.solve_triangular(L.mT, t, upper=True).squeeze(-1)
    dvi = ((Ai @ dx.unsqueeze(-1)).squeeze(-1) - bi) / rest
    dv = torch.cat([dve, dvi], -1)
    dx = torch.where((info == 0).unsqueeze(-1), dx, torch.nan)
    return dx, dv if D.diagonal else D.from_eigen(dv)


def _damped(
    program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier, dx: Tensor, dv: Tensor, f1: Tensor, f2: Tensor, size: Tensor,
    todo: Tensor, patient: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """x, v, F and |F| after the longest of the steps 1, 1/2, 1/4, ... that lowers |F|, and which instances have moved.

    todo (B,): instances that move at all; patient (B,): those for which shorter steps than 1 are tried.
    """
    step, open_, moved = torch.ones_like(size), todo, torch.zeros_like(todo)
    for _ in range(_HALVINGS):
        x_new, v_new = x + step.unsqueeze(-1) * dx, v + step.unsqueeze(-1) * dv
        g1, g2 = residual(program, x_new, v_new, mu)
        size_new = norm(g1, g2)
        better = open_ & (size_new <= (1.0 - 1e-4 * step) * size)
        keep = better.unsqueeze(-1)
        x, v = torch.where(keep, x_new, x), torch.where(keep, v_new, v)
        f1, f2, size = torch.where(keep, g1, f1), torch.where(keep, g2, f2), torch.where(better, size_new, size)
        moved = moved | better
        open_ = open_ & ~better & patient
        if not bool(open_.any()):
            break
        step = torch.where(open_, 0.5 * step, step)
    return x, v, f1, f2, size, moved

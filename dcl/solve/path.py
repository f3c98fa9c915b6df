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

from dcl.cones.base import Barrier
from dcl.point import Point, worst
from dcl.point.truth import PATH_TOLERANCE
from dcl.program import magnitude
from dcl.program.pattern import DensePattern
from dcl.solve.polish import TARGET

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


def follow(exact: Point, mu: Barrier) -> Point:
    """The point of the central path at mu (B or 1, 1) for each instance, from the exact one."""
    program, x, v = exact.program, exact.x, exact.v
    first = _newton(_approach(Point(program, x, v, mu)))
    lost = worst(first.residuals) > PATH_TOLERANCE
    if not bool(lost.any()):
        return first
    center = v.clone()
    center[:, program.structure.cone.zeros :] = 0.0
    second = _newton(_approach(Point(program, x, center, mu)))
    return second.where(lost & (worst(second.residuals) < worst(first.residuals)), first)


def _newton(point: Point) -> Point:
    """Accurate steps on the instances above TARGET, as long as they help."""
    index = torch.nonzero(worst(point.residuals) > TARGET).squeeze(-1)
    return point.with_rows(index, _sharpened(point.rows(index))) if index.numel() else point


def _sharpened(point: Point) -> Point:
    before = torch.full_like(point.size, torch.inf)
    for _ in range(_STEPS):
        now = worst(point.residuals)
        rough = now > _ENOUGH
        todo = (rough | ((now > TARGET) & (now < _WORTHWHILE * before))) & torch.isfinite(point.size)
        before = now
        if not bool(todo.any()):
            break
        point, moved = _damped(point, *point.newton(), todo, rough)
        if not bool(moved.any()):
            break
    return point


def _approach(point: Point) -> Point:
    """Cheap steps, each on the instances that still move: a better start for `_newton`, with a smaller |F|."""
    program = point.program
    if not (isinstance(program.structure.A, DensePattern) and isinstance(program.structure.P, DensePattern)):
        return point
    goal = (TARGET * (1.0 + magnitude(program.q) + magnitude(program.b))).expand(point.x.shape[0])
    index = torch.nonzero(torch.isfinite(point.size) & (point.size > goal)).squeeze(-1)
    for _ in range(_STEPS):
        if not index.numel():
            break
        now = point.rows(index)
        dx, dv = _condensed_step(now)
        todo = torch.isfinite(dx).all(-1) & torch.isfinite(dv).all(-1)
        after, moved = _damped(now, dx, dv, todo, todo)
        point = point.with_rows(index, after)
        far = moved & (after.size > _FAR * goal[index])
        index = index[(after.size > goal[index]) & (far | (after.size < _WORTHWHILE * now.size))]
    return point


def _condensed_step(point: Point) -> tuple[Tensor, Tensor]:
    """(dx, dv) of the header, not finite where it cannot be had."""
    program, D, f1, f2 = point.program, point.D, point.stationarity, point.feasibility
    A, zeros = program.A.expand(point.v.shape[0], -1, -1), program.structure.cone.zeros
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


def _damped(point: Point, dx: Tensor, dv: Tensor, todo: Tensor, patient: Tensor) -> tuple[Point, Tensor]:
    """The point after the longest of the steps 1, 1/2, 1/4, ... that lowers |F|, and which instances have moved, (B,).

    todo (B,): instances that move at all; patient (B,): those for which shorter steps than 1 are tried.
    """
    start, step, open_, moved = point, torch.ones_like(point.size), todo, torch.zeros_like(todo)
    for _ in range(_HALVINGS):
        new = start.moved(step.unsqueeze(-1) * dx, step.unsqueeze(-1) * dv)
        better = open_ & (new.size <= (1.0 - 1e-4 * step) * start.size)
        point = new.where(better, point)
        moved = moved | better
        open_ = open_ & ~better & patient
        if not bool(open_.any()):
            break
        step = torch.where(open_, 0.5 * step, step)
    return point, moved

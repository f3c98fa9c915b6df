"""The central path: damped Newton on F at mu > 0, from the exact solution or from the center of the cone.

    K(x_k, v_k) (dx, dv) = -F(x_k, v_k),      (x, v) += step (dx, dv),   step halved until |F| falls by 1e-4 step of itself

F is smooth at mu > 0.  From the exact point a few steps do for small mu; where that stalls, v = 0 on the inequalities, that
is s = z at the center, is the start.  The path as such (its continuation in mu) is not needed for the point on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.kkt import factorize, residual
from dcl.polish import TARGET, Polished
from dcl.program import ConeProgram
from dcl.ties import kinks
from dcl.truth import OPTIMAL_TOLERANCE, absolutes, check, worst

_STEPS = 60
_HALVINGS = 40


def follow(program: ConeProgram, x: Tensor, v: Tensor, mu: Tensor) -> Polished:
    """The point of the central path at mu (B or 1, 1) for each instance, from the exact x (B, n), v (B, m)."""
    first = _newton(program, x, v, mu)
    lost = worst(first.residuals) > OPTIMAL_TOLERANCE
    if not bool(lost.any()):
        return first
    center = v.clone()
    center[:, program.structure.cone.zeros :] = 0.0
    second = _newton(program, x, center, mu)
    take = (lost & (worst(second.residuals) < worst(first.residuals))).unsqueeze(-1)
    x, v = torch.where(take, second.x, first.x), torch.where(take, second.v, first.v)
    residuals = torch.where(take, second.residuals, first.residuals)
    return Polished(x, v, residuals, factorize(program, v, mu, kinks(program, v, mu)))


def _newton(program: ConeProgram, x: Tensor, v: Tensor, mu: Tensor) -> Polished:
    kkt = factorize(program, v, mu, kinks(program, v, mu))
    f1, f2 = residual(program, x, v, mu)
    absolute = absolutes(program)
    residuals, size = check(program, x, v, mu, absolute), _norm(f1, f2)
    for _ in range(_STEPS):
        todo = (worst(residuals) > TARGET) & torch.isfinite(size)
        if not bool(todo.any()):
            break
        dx, dv, _ = kkt.tangent(-f1, -f2)
        step, open_ = torch.ones_like(size), todo
        for _ in range(_HALVINGS):
            x_new, v_new = x + step.unsqueeze(-1) * dx, v + step.unsqueeze(-1) * dv
            g1, g2 = residual(program, x_new, v_new, mu)
            size_new = _norm(g1, g2)
            better = open_ & (size_new <= (1.0 - 1e-4 * step) * size)
            keep = better.unsqueeze(-1)
            x, v = torch.where(keep, x_new, x), torch.where(keep, v_new, v)
            f1, f2, size = torch.where(keep, g1, f1), torch.where(keep, g2, f2), torch.where(better, size_new, size)
            open_ = open_ & ~better
            if not bool(open_.any()):
                break
            step = torch.where(open_, 0.5 * step, step)
        if bool((open_ | ~todo).all()):
            break
        residuals = check(program, x, v, mu, absolute)
        kkt = factorize(program, v, mu, kinks(program, v, mu))
    return Polished(x, v, residuals, kkt)


def _norm(f1: Tensor, f2: Tensor) -> Tensor:
    return torch.sqrt((f1 * f1).sum(-1) + (f2 * f2).sum(-1))

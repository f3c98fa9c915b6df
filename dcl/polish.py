"""Semismooth Newton on F from a solver's point: from 1e-8 to rounding in a step or two, and onto the path at mu > 0.

    K(x_k, v_k) (dx, dv) = -F(x_k, v_k)       accepted only where the residuals fall; never worse than the start

At mu = 0 the kinks' D is 1/2 (`dcl.kkt.tie`) and a singular K gives the minimum-norm step.  At mu > 0 the step is halved
until the residuals fall.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.cones.base import Barrier
from dcl.kkt import KKT, derivative, factorize, residual
from dcl.program import ConeProgram
from dcl.truth import check, worst

# Below this relative residual a point is as good as the solver can be asked to make it.
TARGET = 1e-13
# Above this a point is left to the next solver.
_HOPELESS = 1e-1


@dataclass(frozen=True, eq=False)
class Polished:
    """The point x (B, n), v (B, m); its residuals (B, 3); K factored at v where the last step left it valid."""

    x: Tensor
    v: Tensor
    residuals: Tensor
    kkt: KKT | None


def polish(program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier, steps: int = 10) -> Polished:
    """Improve all B points at once; points that are good enough or hopeless are left alone."""
    residuals = check(program, x, v, mu)
    damped = not (isinstance(mu, float) and mu == 0.0)
    kkt = None
    for _ in range(steps):
        now = worst(residuals)
        todo = (now > TARGET) & (torch.isfinite(now) if damped else now < _HOPELESS)
        if not bool(todo.any()):
            break
        kkt = factorize(program, v, mu)
        f1, f2 = residual(program, x, v, mu)
        dx, dv, _ = kkt.tangent(-f1, -f2)
        accepted, step = torch.zeros_like(todo), 1.0
        for _ in range(30 if damped else 1):
            x_new, v_new = x + step * dx, v + step * dv
            measured = check(program, x_new, v_new, mu)
            better = (todo & ~accepted & (worst(measured) < now)).unsqueeze(-1)
            x, v = torch.where(better, x_new, x), torch.where(better, v_new, v)
            residuals = torch.where(better, measured, residuals)
            accepted = accepted | better.squeeze(-1)
            if bool((accepted | ~todo).all()):
                break
            step *= 0.5
        if not bool((worst(residuals) < 0.5 * now).any()):
            break
    return Polished(x, v, residuals, kkt if kkt is not None and _unchanged(program, kkt, v, mu) else None)


def _unchanged(program: ConeProgram, kkt: KKT, v: Tensor, mu: Barrier) -> bool:
    """Whether D at v equals the one that K was factored with (always so once the active set is found)."""
    if not (isinstance(mu, float) and mu == 0.0):
        return False
    now = derivative(program.structure, v, mu)
    return now.diagonal and torch.equal(now.d, kkt.D.d)

"""Semismooth Newton on F from a solver's point: from 1e-8 to rounding in a step or two, and onto the path at mu > 0.

    K(x_k, v_k) (dx, dv) = -F(x_k, v_k)       accepted only where the residuals fall; never worse than the start

At mu = 0 D is 1/2 at the kinks (`dcl.kkt.kinks`) and a singular K gives the minimum-norm step.  At mu > 0 the step is
halved until the residuals fall.  A residual of 1e-16 still leaves an error of 1e-16 times the condition in x: where K is
ill-conditioned the last steps take F in extended precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.cones.base import Barrier
from dcl.factor.extended import residual as extended_residual
from dcl.kkt import KKT, TIE_TOLERANCE, factorize, is_exact, kinks, residual
from dcl.program import ConeProgram, magnitude
from dcl.truth import OPTIMAL_TOLERANCE, check, worst

# Below this relative residual a point is as good as the solver can be asked to make it.
TARGET = 1e-13
# Above this a point is left to the next solver.
_HOPELESS = 1e-1
# Steps in extended precision are taken where condition * (largest / smallest of |x| and the multipliers) exceeds this.
_DELICATE = 1e6


@dataclass(frozen=True, eq=False)
class Polished:
    """The point x (B, n), v (B, m); its residuals (B, 3); K factored there, with D = 1/2 at the kinks."""

    x: Tensor
    v: Tensor
    residuals: Tensor
    kkt: KKT


def polish(program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier, steps: int = 10) -> Polished:
    """Improve all B points at once; points that are good enough or hopeless are left alone."""
    residuals = check(program, x, v, mu)
    damped = not is_exact(mu)
    kkt = factorize(program, v, mu, kinks(program, v, mu))
    for _ in range(steps):
        now = worst(residuals)
        todo = (now > TARGET) & (torch.isfinite(now) if damped else now < _HOPELESS)
        if not bool(todo.any()):
            break
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
        if not bool(accepted.any()):
            break
        kkt = _refactored(program, v, mu, kkt)
        if not damped and not bool((worst(residuals) < 0.5 * now).any()):
            break
    delicate = (kkt.conditioning.condition * _imbalance(program, x, v) > _DELICATE) & (worst(residuals) < OPTIMAL_TOLERANCE)
    if not damped and bool(delicate.any()):
        x, v = _sharpen(program, x, v, kkt, delicate)
        residuals = check(program, x, v, mu)
    return Polished(x, v, residuals, kkt)


def _imbalance(program: ConeProgram, x: Tensor, v: Tensor) -> Tensor:
    """Largest over smallest of |x| and the multipliers that are not zero: (B,). The smallest loses digits by this factor."""
    z = program.structure.cone.project(v, 0.0).abs()
    sizes = torch.cat([magnitude(x).unsqueeze(-1), torch.where(z > TIE_TOLERANCE, z, torch.nan)], -1)
    return sizes.nan_to_num(nan=0.0).amax(-1) / sizes.nan_to_num(nan=torch.inf).amin(-1).clamp(min=TIE_TOLERANCE, max=1.0)


def _refactored(program: ConeProgram, v: Tensor, mu: Barrier, kkt: KKT) -> KKT:
    """K factored at v, which is `kkt` where D is the same (always so once the active set is found)."""
    at_kink = kinks(program, v, mu)
    D = program.structure.cone.dproject(v, mu, at_kink)
    same = D.diagonal and torch.equal(D.d, kkt.D.d)
    return kkt if same else factorize(program, v, mu, at_kink)


def _sharpen(program: ConeProgram, x: Tensor, v: Tensor, kkt: KKT, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Newton steps with F in extended precision, on the instances where `rows` (B,) is true, as long as steps shrink."""
    structure = program.structure
    P, A = structure.P.dense(program.P), structure.A.dense(program.A)
    index = torch.nonzero(rows).squeeze(-1)
    P, A = (M.expand(x.shape[0], -1, -1)[index] for M in (P, A))
    M = torch.cat([torch.cat([P, A.mT], -1), torch.cat([A, A.new_zeros(len(index), structure.m, structure.m)], -1)], -2)
    last = torch.full_like(x[:, 0], torch.inf)
    for _ in range(3):
        z = structure.cone.project(v, 0.0)
        right = torch.cat([-program.q.expand_as(x), program.b + (v - z)], -1)[index]  # v - z is exact: -s or 0
        f = torch.zeros(*x.shape[:1], structure.n + structure.m, dtype=x.dtype, device=x.device)
        point = torch.cat([x, z], -1)[index].unsqueeze(-1)
        f = f.index_copy(0, index, extended_residual(M, point, right.unsqueeze(-1)).squeeze(-1))
        dx, dv, _ = kkt.tangent(f[:, : structure.n], f[:, structure.n :])
        size = magnitude(dx) / (1.0 + magnitude(x))
        shrinks = (size < 0.5 * last) & (size < 1e-3)
        keeps = shrinks & ((v > 0.0) == (v + dv > 0.0)).all(-1)
        x = torch.where(keeps.unsqueeze(-1), x + dx, x)
        v = torch.where(keeps.unsqueeze(-1), v + dv, v)
        last = size
    return x, v

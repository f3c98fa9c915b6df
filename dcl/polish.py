"""Semismooth Newton on F at mu = 0 from a solver's point: from 1e-8 to rounding in a step or two.

    K(x_k, v_k) (dx, dv) = -F(x_k, v_k)       accepted only where the residuals fall; never worse than the start

D is 1/2 at the kinks (`dcl.ties`) and a singular K gives the minimum-norm step.  A residual of 1e-16 still leaves an error
of 1e-16 times the condition in x: where K is ill-conditioned the last steps take F in extended precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.factor import DenseFactor
from dcl.factor.extended import residual as extended_residual
from dcl.kkt import KKT, factorize, residual
from dcl.program import ConeProgram, magnitude
from dcl.ties import TIE_TOLERANCE, kinks
from dcl.truth import OPTIMAL_TOLERANCE, absolutes, check, worst

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


def polish(program: ConeProgram, x: Tensor, v: Tensor, steps: int = 10) -> Polished:
    """Improve all B points at once; points that are good enough or hopeless are left alone."""
    absolute = absolutes(program)
    residuals = check(program, x, v, 0.0, absolute)
    kkt = factorize(program, v, 0.0, kinks(program, v, 0.0, x))
    for _ in range(steps):
        now = worst(residuals)
        todo = (now > TARGET) & (now < _HOPELESS)
        if not bool(todo.any()):
            break
        f1, f2 = residual(program, x, v, 0.0)
        dx, dv, _ = kkt.tangent(-f1, -f2)
        measured = check(program, x + dx, v + dv, 0.0, absolute)
        better = (todo & (worst(measured) < now)).unsqueeze(-1)
        if not bool(better.any()):
            break
        x, v = torch.where(better, x + dx, x), torch.where(better, v + dv, v)
        residuals = torch.where(better, measured, residuals)
        kkt = _refactored(program, x, v, kkt)
        if not bool((worst(residuals) < 0.5 * now).any()):
            break
    delicate = (kkt.conditioning.condition * _imbalance(program, x, v) > _DELICATE) & (worst(residuals) < OPTIMAL_TOLERANCE)
    # in extended precision P and A are dense: not for programs that are stored sparse because they are large
    if isinstance(kkt.factor, DenseFactor) and program.structure.cone.is_orthant and bool(delicate.any()):
        x, v = _sharpen(program, x, v, kkt, delicate)
        residuals = check(program, x, v, 0.0, absolute)
    return Polished(x, v, residuals, kkt)


def _imbalance(program: ConeProgram, x: Tensor, v: Tensor) -> Tensor:
    """Largest over smallest of |x| and the multipliers that are not zero: (B,). The smallest loses digits by this factor."""
    z = program.structure.cone.project(v, 0.0).abs()
    sizes = torch.cat([magnitude(x).unsqueeze(-1), torch.where(z > TIE_TOLERANCE, z, torch.nan)], -1)
    return sizes.nan_to_num(nan=0.0).amax(-1) / sizes.nan_to_num(nan=torch.inf).amin(-1).clamp(min=TIE_TOLERANCE, max=1.0)


def _refactored(program: ConeProgram, x: Tensor, v: Tensor, kkt: KKT) -> KKT:
    """K factored at v, which is `kkt` where D is the same (always so once the active set is found)."""
    at_kink = kinks(program, v, 0.0, x)
    D = program.structure.cone.dproject(v, 0.0, at_kink)
    same = D.diagonal and torch.equal(D.d, kkt.D.d)
    return kkt if same else factorize(program, v, 0.0, at_kink)


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

"""Semismooth Newton on F at mu = 0 from a solver's point: from 1e-8 to rounding in a step or two.

    K(x_k, v_k) (dx, dv) = -F(x_k, v_k)       accepted only where the residuals fall; never worse than the start

D is 1/2 at the kinks (`dcl.ties`) and a singular K gives the minimum-norm step.  A residual of 1e-16 still leaves an error
of 1e-16 times the condition in x: where K is ill-conditioned the last steps take F in extended precision.

Interior points of other cones than orthants end with eigenvalues of s and z that both are sqrt(1e-10) where strict
complementarity or uniqueness fails, and K is nearly singular without being so: there Newton's steps are too long.  F is the
residual of a monotone operator, so its proximal-point steps (Rockafellar 1976) are defined everywhere,

    F(x + dx, v + dv) + l (dx, -dz) = 0        linearized: `dcl.kkt` with a shift l, proportional to |F|

each of them kept if |F| falls.  With l = O(|F|) they are as fast as Newton's, also at solutions that are not unique.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.cones.base import TIE_TOLERANCE
from dcl.factor import DenseFactor
from dcl.factor.extended import residual as extended_residual
from dcl.kkt import KKT, factorize, residual
from dcl.program import ConeProgram, magnitude, norm
from dcl.ties import kinks
from dcl.truth import OPTIMAL_TOLERANCE, absolutes, check, worst

# Below this relative residual a point is as good as the solver can be asked to make it.
TARGET = 1e-13
# Above this a point is left to the next solver.  In programs with other cones than orthants and n + m above _LARGE, where the
# factorization of a singular K takes seconds, what proximal steps have left above _HOPELESS_LARGE is too.
_HOPELESS, _HOPELESS_LARGE, _LARGE = 1e-1, 1e-6, 500
# Steps in extended precision are taken where condition * (largest / smallest of |x| and the multipliers) exceeds this.
_DELICATE = 1e6
# The shift l is |F| times a factor that starts here, multiplied by these after a step that was fast or refused; fast: |F|
# falls to less than a tenth.
_FACTOR, _KEPT, _REFUSED, _FAST = 1.0, 0.1, 30.0, 0.1
_SMALLEST_SHIFT, _LARGEST_SHIFT = 1e-13, 1e-1
# So many refused or slow steps end the search; slow: |F| falls by less than half.
_STEPS, _PATIENCE, _SLOW = 30, 3, 0.5
# |F| below this, relative to the point, is rounding.
_ROUNDING = 1e-15


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
    z = program.structure.cone.project(v, 0.0)
    residuals = check(program, x, v, 0.0, absolute, z=z)
    hopeless = _HOPELESS
    if not program.structure.cone.is_orthant:
        x, v, residuals = _approach(program, x, v, z, residuals, absolute)
        hopeless = _HOPELESS_LARGE if program.structure.n + program.structure.m > _LARGE else _HOPELESS
    kkt = factorize(program, v, 0.0, kinks(program, v, 0.0, x))
    for _ in range(steps):
        now = worst(residuals)
        todo = (now > TARGET) & (now < hopeless)
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
    # in extended precision P and A are dense: not for programs that are stored sparse because they are large
    if isinstance(kkt.factor, DenseFactor) and program.structure.cone.is_orthant:
        imbalance = kkt.conditioning.condition * _imbalance(program, x, v)
        delicate = (imbalance > _DELICATE) & (worst(residuals) < OPTIMAL_TOLERANCE)
        if bool(delicate.any()):
            x, v = _sharpen(program, x, v, kkt, delicate)
            residuals = check(program, x, v, 0.0, absolute)
    return Polished(x, v, residuals, kkt)


def _approach(
    program: ConeProgram, x: Tensor, v: Tensor, z: Tensor, residuals: Tensor, absolute: ConeProgram
) -> tuple[Tensor, Tensor, Tensor]:
    """X, v, residuals after proximal steps on the instances above TARGET; never worse than the start."""
    now = worst(residuals)
    index = torch.nonzero((now > TARGET) & torch.isfinite(now)).squeeze(-1)
    if not index.numel():
        return x, v, residuals
    part = program if index.numel() == x.shape[0] else program.rows(index)
    nowhere = torch.full_like(v[index], torch.nan)
    x_k, v_k, z_k = x[index], v[index], z[index]
    f1, f2 = residual(part, x_k, v_k, 0.0, z_k)
    size = norm(f1, f2)
    factor, patience = torch.full_like(size, _FACTOR), torch.full_like(size, _PATIENCE)
    for _ in range(_STEPS):
        rounding = _ROUNDING * (1.0 + norm(x_k, v_k))
        todo = (patience > 0.0) & (size > rounding)
        if not bool(todo.any()):
            break
        shift = (factor * size).clamp(_SMALLEST_SHIFT, _LARGEST_SHIFT).unsqueeze(-1)
        dx, dv, _ = factorize(part, v_k, 0.0, nowhere, shift).tangent(-f1, -f2)
        z_new = part.structure.cone.project(v_k + dv, 0.0)
        g1, g2 = residual(part, x_k + dx, v_k + dv, 0.0, z_new)
        after = norm(g1, g2)
        kept = todo & (after < size)
        patience = torch.where(kept & (after < _SLOW * size), _PATIENCE, patience - 1.0)
        factor = torch.where(kept, torch.where(after < _FAST * size, _KEPT, 1.0), _REFUSED) * factor
        keep = kept.unsqueeze(-1)
        x_k, v_k = torch.where(keep, x_k + dx, x_k), torch.where(keep, v_k + dv, v_k)
        z_k = torch.where(keep, z_new, z_k)
        f1, f2, size = torch.where(keep, g1, f1), torch.where(keep, g2, f2), torch.where(kept, after, size)
    absolute = absolute if part is program else absolute.rows(index)
    measured = check(part, x_k, v_k, 0.0, absolute, z=z_k)
    better = (worst(measured) < now[index]).unsqueeze(-1)
    return (
        x.index_copy(0, index, torch.where(better, x_k, x[index])),
        v.index_copy(0, index, torch.where(better, v_k, v[index])),
        residuals.index_copy(0, index, torch.where(better, measured, residuals[index])),
    )


def _imbalance(program: ConeProgram, x: Tensor, v: Tensor) -> Tensor:
    """Largest over smallest of |x| and the multipliers that are not zero: (B,). The smallest loses digits by this factor."""
    z = program.structure.cone.project(v, 0.0).abs()
    sizes = torch.cat([magnitude(x).unsqueeze(-1), torch.where(z > TIE_TOLERANCE, z, torch.nan)], -1)
    return sizes.nan_to_num(nan=0.0).amax(-1) / sizes.nan_to_num(nan=torch.inf).amin(-1).clamp(
        min=TIE_TOLERANCE, max=1.0
    )


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

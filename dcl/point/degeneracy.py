"""Whether the derivative at a solution can be trusted: one policy, applied once per solution, for all modules.

    ties       |v_i| (SOC, PSD: the eigenvalue) is zero up to rounding (`dcl.point.ties`): a kink of the projection, D = 1/2,
               or what `dcl.point.basis` chose -> WEAKLY_ACTIVE.  K is multi-affine in D, so the derivative returned is a convex
               combination of those of the active sets that nearby data make optimal.
    unsettled  Newton's next step would move v_i through zero, or nearly: the residual is small, but not beside v_i, and the
               active set is not known (q of 1e-10 beside a singular P of size one) -> WEAKLY_ACTIVE
    rank       the equilibrated S has relative singular values below 1e-10: minimum-norm derivative
               -> RANK_DEFICIENT (dependent active rows, multipliers not unique), NONUNIQUE (flat optimal face)
               Null vectors of S count only where they meet what is asked.  Dependent rows leave dx unique where
               S (dx, w) = (a, R b) is consistent: for every change of P and q (b = 0), and for changes of A, b with
               y'R (db - dA x) = 0 for each y with S (0, y) = 0, as where y is zero in the rows that change.  So where x alone
               is asked for, and these rows are constant, linear and quadratic programs are EXACT; of a curved cone D, and
               with it dx, depends on the multipliers found.  A flat direction counts in the entries of x that are asked for,
               and in those that data with a gradient multiply: q_j, P_ij, and A_ij in active rows.
               A tie whose row depends on those of positive multipliers (a row stated twice) is dependent, no kink of x: it
               stays active as long as they do.  It shows by K (0, dv) = (A_i, e_i) for some dv.
    condition  of S above 1e10, or so large that with the residual reached x may be off by 1e-6 -> ILL_CONDITIONED
               Where only the best units make S regular (`dcl.kkt.balance`), the condition is the one in these, up to 1e9:
               beyond, extended precision leaves less than eight digits.  Newton's step is the error of x and z, up to 1e-9.

The tolerances are stated in `dcl.point.ties`, `dcl.kkt.RANK_TOLERANCE` and CONDITION_LIMIT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dcl.cones.by_rows import exact_instances
from dcl.point import Point
from dcl.point.basis import kink_values
from dcl.point.sharp import errors
from dcl.point.ties import tie_width
from dcl.program import ConeProgram, magnitude
from dcl.status import GradientKind

CONDITION_LIMIT = 1e10
ERROR_LIMIT = 1e-6
# Where S is in its best units.
SCALED_LIMIT, STEP_LIMIT = 1e9, 1e-9
# A change of the requested entries below this, relative to all entries, is none.
_MOVES = 1e-9
# Above so many ties they are looked at together, by so many random combinations of the requested entries.
_MANY, _COMBINATIONS = 32, 3
# Entries of the right-hand sides that are solved for together.
_AT_ONCE = 1_000_000
# Newton's next step may change v_i by this factor.
_SETTLED = 0.5
# Above this residual it is always asked, else only where |v_i| is below the width of a tie.
_ROUNDED = 1e-13


@dataclass(frozen=True, eq=False)
class Degeneracy:
    """Per instance, all (B,).

    kind: `dcl.GradientKind` as an integer.  margin: strict-complementarity margin min_i |v_i|, in the units of
    `dcl.program.scaling`, inf without inequalities.  weakest: the row of A where that minimum is, of a cone that is no orthant
    the first, -1 without inequalities, and where all ties depend on other active rows.
    condition: 2-norm condition of the KKT matrix S (of its nonzero part where singular), estimated.
    dependent (B, m): the rows of A whose multipliers are not unique, where the kind is RANK_DEFICIENT; of a cone that is no
    orthant the first.  They are the support of the null space of S in the multipliers, and of A'(dz - e_i) = 0 where a tie i
    depends on others.  barrier_helps (B,): is one of them an inequality, whose multiplier mu > 0 determines?
    """

    kind: Tensor
    margin: Tensor
    weakest: Tensor
    condition: Tensor
    dependent: Tensor
    barrier_helps: Tensor


def resolved(point: Point) -> Point:
    """The point with the values of D at its ties with which it is differentiated."""
    program = point.program
    tied = (~torch.isnan(point.at_kink)).any(-1)
    # `dcl.point.basis` is about rows that do not see each other
    if not program.structure.cone.is_orthant or not bool(tied.any()):
        return point
    ties, zeros = point.at_kink.clone(), program.structure.cone.zeros
    for i in torch.nonzero(tied).flatten().tolist():
        one = program.rows(torch.tensor([i], device=ties.device))
        ties[i] = kink_values(one, point.v[i], ties[i], zeros)
    halves = bool((torch.isnan(ties) | (ties == 0.5)).all())
    return point if halves else replace(point, ties=ties, near=None)


class Requested(NamedTuple):
    """Boolean masks: entries of x (n,) and z (m,) that the caller asked for."""

    x: Tensor
    z: Tensor


Entries = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Moving:
    """The data that need a gradient: entries (i, j) of P and A, entries of q (n,) and of b (m,) by masks."""

    P: Entries
    q: Tensor
    A: Entries
    b: Tensor

    def restricted(self, P: bool, q: bool, A: bool, b: bool) -> Moving:
        """Only those of P, q, A, b that are true."""
        none = self.P[0].new_zeros(0), self.P[0].new_zeros(0)
        return Moving(self.P if P else none, self.q & q, self.A if A else none, self.b & b)

    def rows(self) -> Tensor:
        """The rows (m,) of A and b that change."""
        return self.b.index_fill(0, self.A[0], True)

    def columns(self, active: Tensor) -> Tensor:
        """The entries (B, n) of x that these data multiply, where the rows `active` (B, m) hold."""
        fixed = self.q.index_fill(0, self.P[0], True).index_fill(0, self.P[1], True)
        in_A = active[:, self.A[0].to(active.device)].to(torch.float64)
        count = in_A.new_zeros(len(active), len(fixed)).index_add(1, self.A[1].to(active.device), in_A)
        return fixed.to(active.device) | (count > 0.0)


def classify(
    point: Point, residual: Tensor, requested: Requested | None = None, moving: Moving | None = None
) -> Degeneracy:
    """The kind of derivative at a point, its ties resolved.

    residual (B,): the larger of the primal and dual residual at the point.  requested: what of x and z
    the caller asked for, None for all.  A tie or a flat direction that moves none of them is no cause: the epigraph
    variables that CVXPY adds are often not unique where x is.
    moving: the data that need a gradient, None for all.
    """
    program, v, at_kink, kkt = point.program, point.v, point.at_kink, point.kkt
    batch = v.shape[0]
    if v.shape[-1]:
        distance, weakest = program.structure.cone.kink_distance(v).min(-1)
        weakest = torch.where(torch.isinf(distance), torch.full_like(weakest, -1), weakest)
    else:
        distance = v.new_full((batch,), torch.inf)
        weakest = torch.full((batch,), -1, dtype=torch.int64, device=v.device)
    conditioning = kkt.conditioning
    condition = conditioning.condition
    suspects = ~torch.isnan(at_kink) | _unsettled(point, residual)
    tied, flat, dependent = suspects.any(-1), conditioning.null_a > 0, conditioning.null_y > 0
    undetermined = kkt.dependence > _MOVES if bool(dependent.any()) else torch.zeros_like(suspects)
    if requested is not None and moving is not None and program.structure.cone.is_orthant and bool(dependent.any()):
        dependent = (undetermined & (requested.z | moving.rows().to(v.device))).any(-1)
    if bool(tied.any()) and kkt.D.diagonal:
        effect, repeats, doubtful, others = _effect_of_ties(point, suspects, requested, moving)
        determined = (conditioning.null_a == 0).unsqueeze(-1)
        effect = torch.where(repeats & determined, 0.0, effect)
        moved = effect.amax(-1) > _MOVES
        only = (repeats & determined).any(-1) & ~moved
        weakest = torch.where(moved, effect.argmax(-1), torch.where(only, -1, weakest))
        dependent, tied = dependent | (only & (doubtful & determined).any(-1)), moved
        undetermined = undetermined | others
    if requested is not None and bool(flat.any()):
        asked = requested.x if moving is None else requested.x | moving.columns(kkt.D.d > 0.0)
        flat = ((conditioning.spread > _MOVES) & asked).any(-1)
    ill = torch.where(
        conditioning.scaled,
        ~(condition <= SCALED_LIMIT) | ~(errors(point) <= STEP_LIMIT),
        ~(condition <= CONDITION_LIMIT) | (condition * residual > ERROR_LIMIT),
    )
    kind = torch.full((batch,), int(GradientKind.EXACT), dtype=torch.int64, device=v.device)
    # the later cause is the graver one
    for cause, holds in (
        (GradientKind.ILL_CONDITIONED, ill),
        (GradientKind.WEAKLY_ACTIVE, tied),
        (GradientKind.RANK_DEFICIENT, dependent),
        (GradientKind.NONUNIQUE, flat),
    ):
        kind = torch.where(holds, torch.full_like(kind, int(cause)), kind)
    undetermined = undetermined & (kind == GradientKind.RANK_DEFICIENT).unsqueeze(-1)
    if bool(undetermined.any()):
        index = _first_rows(program, torch.arange(v.shape[-1], device=v.device)).expand_as(v)
        undetermined = torch.zeros_like(v).scatter_add(-1, index, undetermined.to(v.dtype)) > 0.0
    helps = undetermined[:, program.structure.cone.zeros :].any(-1)
    return Degeneracy(kind, distance, _first_rows(program, weakest), condition, undetermined, helps)


def _first_rows(program: ConeProgram, rows: Tensor) -> Tensor:
    """The first row of the cone of each of `rows` (k,): an eigenvalue has no row of its own; rows of orthants, and -1, stay."""
    first: list[int] = []
    for block in program.structure.cone.blocks:
        size = 1 if block.is_orthant else block.rows
        start = len(first)
        first += [start + k - k % size for k in range(block.rows * block.count)]
    table = torch.tensor([*first, -1], dtype=torch.int64).to(rows.device)
    return table[rows]


def _unsettled(point: Point, residual: Tensor) -> Tensor:
    """The rows of an orthant, (B, m), where Newton's next step changes v_i by half of it or more."""
    nowhere = torch.zeros_like(point.v, dtype=torch.bool)
    exact = exact_instances(point.mu, point.v.shape[0])
    if not point.program.structure.cone.is_orthant or exact is None or not point.v.shape[-1]:
        return nowhere
    distance = point.program.structure.cone.kink_distance(point.v)
    small = (distance <= tie_width(point.program, point.v)).any(-1)
    if not bool((small | (residual > _ROUNDED)).any()):
        return nowhere
    _, dv = point.newton()
    return (dv.abs() >= _SETTLED * distance) & exact.to(dv.device).unsqueeze(-1)


def _effect_of_ties(
    point: Point, tied: Tensor, requested: Requested | None, moving: Moving | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How much D at the rows `tied` changes the requested entries' derivative, relative; does it leave x alone; is it doubtful?

    (B, m) each.  Doubtful: a multiplier was asked for, or a row moves, of those that are dependent, A'(dz - e_i) = 0; which
    they are is the fourth.

    Another value of D_i adds a multiple of c = (A_i', e_i) e_i' to K, so a linear function E of the solution keeps its
    derivative E K^-1 if and only if E K^-1 c = 0; if that holds for each tie it holds for all values of D at all of them.
    Zero and false for rows without a tie.
    """
    kkt, (batch, m) = point.kkt, point.v.shape
    count = int(tied.sum(-1).max())
    if requested is not None and count > _MANY:
        effect, none = _effect_of_many(point, requested), torch.zeros_like(tied)
        return torch.where(tied, effect, 0.0), none, none, none
    rows = tied.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :count]
    effect, repeats, doubtful, others = torch.zeros_like(point.v), *(torch.zeros_like(tied) for _ in range(3))
    for columns in rows.T.split(max(1, _AT_ONCE // (batch * (m + point.x.shape[-1])))):
        e = effect.new_zeros(len(columns), batch, m).scatter(-1, columns.unsqueeze(-1), 1.0)
        dx, dv, _ = kkt.tangent(point.program.ATz(e), e)
        dz = kkt.D.apply(dv)
        moved = torch.cat([dx, dz] if requested is None else [dx[..., requested.x], dz[..., requested.z]], -1)
        size = torch.maximum(magnitude(dx), magnitude(dv)).clamp(min=torch.finfo(e.dtype).tiny)
        repeat = magnitude(dx) <= _MOVES * size
        part = dz - e
        is_tied = tied.gather(-1, columns.T).T
        others |= ((repeat & is_tied).unsqueeze(-1) & (part.abs() > _MOVES * size.unsqueeze(-1))).any(0)
        if requested is not None and moving is not None:
            part = part[..., requested.z | moving.rows().to(part.device)]
        effect = effect.scatter(-1, columns.T, (magnitude(moved) / size).T)
        repeats = repeats.scatter(-1, columns.T, repeat.T)
        doubtful = doubtful.scatter(-1, columns.T, (repeat & (magnitude(part) > _MOVES * size)).T)
    return torch.where(tied, effect, 0.0), repeats & tied, doubtful & tied, others


def _effect_of_many(point: Point, requested: Requested) -> Tensor:
    """`_effect_of_ties` of every row at once, (B, m): c' K^-T E'g for random g, which is zero only where E K^-1 c is."""
    kkt, generator = point.kkt, np.random.default_rng(point.v.shape[-1])
    gx, gz = (
        torch.from_numpy(generator.standard_normal((_COMBINATIONS, 1, len(mask)))).to(point.v) * mask.to(point.v)
        for mask in requested
    )
    gx, gz = gx.expand(-1, *point.x.shape), gz.expand(-1, *point.v.shape)
    ux, uv, _ = kkt.adjoint(gx, kkt.D.apply(gz))
    size = torch.maximum(magnitude(ux), magnitude(uv)).clamp(min=torch.finfo(ux.dtype).tiny)
    return ((point.program.Ax(ux) + uv).abs() / size.unsqueeze(-1)).amax(0)

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

import torch
from torch import Tensor

from dcl.cones.by_rows import exact_instances
from dcl.point import Point
from dcl.point.asked import Moving, Requested
from dcl.point.basis import kink_values
from dcl.point.effects import MOVES, active_rows, effect_of_ties, first_rows
from dcl.point.sharp import errors
from dcl.point.ties import tie_width
from dcl.status import GradientKind

CONDITION_LIMIT = 1e10
ERROR_LIMIT = 1e-6
# Where S is in its best units.
SCALED_LIMIT, STEP_LIMIT = 1e9, 1e-9
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
    undetermined = kkt.dependence > MOVES if bool(dependent.any()) else torch.zeros_like(suspects)
    if requested is not None and moving is not None and program.structure.cone.is_orthant and bool(dependent.any()):
        dependent = (undetermined & (requested.z | moving.rows().to(v.device))).any(-1)
    if bool(tied.any()):
        effect, repeats, doubtful, others = effect_of_ties(point, suspects, requested, moving)
        determined = (conditioning.null_a == 0).unsqueeze(-1)
        effect = torch.where(repeats & determined, 0.0, effect)
        moved = ~(effect.amax(-1) <= MOVES)
        only = (repeats & determined).any(-1) & ~moved
        weakest = torch.where(moved, effect.argmax(-1), torch.where(only, -1, weakest))
        dependent, tied = dependent | (only & (doubtful & determined).any(-1)), moved
        undetermined = undetermined | others
    if requested is not None and bool(flat.any()):
        asked = requested.x if moving is None else requested.x | moving.columns(active_rows(program, kkt.D.d))
        flat = ((conditioning.spread > MOVES) & asked).any(-1)
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
        index = first_rows(program, torch.arange(v.shape[-1], device=v.device)).expand_as(v)
        undetermined = torch.zeros_like(v).scatter_add(-1, index, undetermined.to(v.dtype)) > 0.0
    helps = undetermined[:, program.structure.cone.zeros :].any(-1)
    return Degeneracy(kind, distance, first_rows(program, weakest), condition, undetermined, helps)


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

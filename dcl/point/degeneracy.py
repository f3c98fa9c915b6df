"""What the derivative at a solution is worth: one policy, decided once per solution, asked by everybody.

    ties       |v_i| (SOC, PSD: the eigenvalue) is zero up to rounding (`dcl.point.ties`): a kink of the projection, D = 1/2,
               or what `dcl.point.basis` chose -> WEAKLY_ACTIVE.  K is multi-affine in D, so the derivative returned is a convex
               combination of those of the active sets that nearby data make optimal.
    unsettled  Newton's next step would move v_i through zero, or nearly: the residual is small, but not beside v_i, and the
               active set is not known (q of 1e-10 beside a singular P of size one) -> WEAKLY_ACTIVE
    rank       the equilibrated S has relative singular values below 1e-10: minimum-norm derivative
               -> RANK_DEFICIENT (dependent active rows, multipliers not unique), NONUNIQUE (flat optimal face)
               Dependent rows leave dx unique where S (dx, w) = (a, R b) is consistent: for every change of P and q (b = 0),
               and for changes of A, b with y'R (db - dA x) = 0 for each y with S (0, y) = 0.  So where x alone is asked
               for, and only P and q need a gradient, linear and quadratic programs are EXACT; of a curved cone D, and with
               it dx, depends on the multipliers found.
    condition  of S above 1e10, or so large that with the residual reached x may be off by 1e-6 -> ILL_CONDITIONED

The tolerances are stated in `dcl.point.ties`, `dcl.kkt.RANK_TOLERANCE` and CONDITION_LIMIT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcl.cones.base import is_exact
from dcl.point import Point
from dcl.point.basis import kink_values
from dcl.point.ties import tie_width
from dcl.program import ConeProgram, magnitude
from dcl.status import GradientKind

CONDITION_LIMIT = 1e10
ERROR_LIMIT = 1e-6
# A change of the requested entries below this, relative to all entries, is none.
_MOVES = 1e-9
# Newton's next step may change v_i by this factor.
_SETTLED = 0.5
# Above this residual it is always asked, else only where |v_i| is below the width of a tie.
_ROUNDED = 1e-13


@dataclass(frozen=True, eq=False)
class Degeneracy:
    """Per instance, all (B,).

    kind: `dcl.GradientKind` as an integer.  margin: strict-complementarity margin min_i |v_i|, in the units of
    `dcl.program.scaling`, inf without inequalities.  weakest: the row of A where that minimum is, of a cone that is no orthant
    the first, -1 without inequalities.
    condition: 2-norm condition of the KKT matrix S (of its nonzero part where singular), estimated.
    """

    kind: Tensor
    margin: Tensor
    weakest: Tensor
    condition: Tensor


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


Requested = tuple[Tensor, Tensor]


def classify(
    point: Point, residual: Tensor, requested: Requested | None = None, *, rows_move: bool = True
) -> Degeneracy:
    """The kind of derivative at a point, its ties resolved.

    residual (B,): the larger of the primal and dual residual at the point.  requested: which entries of x (n,) and z (m,)
    the caller asked for, None for all.  A tie or a flat direction that moves none of them is no cause: the epigraph
    variables that CVXPY adds are often not unique where x is.
    rows_move: does A or b need a gradient?  If not, and no multiplier was asked for, dependent linear rows are no cause.
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
    doubtful = ~torch.isnan(at_kink) | _unsettled(point, residual)
    tied, flat = doubtful.any(-1), conditioning.null_a > 0
    if requested is not None:
        if bool(flat.any()):
            flat = flat & (conditioning.spread[:, requested[0]] > _MOVES).any(-1)
        if bool(tied.any()) and kkt.D.diagonal:
            effect = _effect_of_ties(point, doubtful, requested)
            tied, weakest = effect.amax(-1) > _MOVES, torch.where(tied, effect.argmax(-1), weakest)
    dependent = conditioning.null_y > 0
    if requested is not None and not rows_move and program.structure.cone.is_orthant and not bool(requested[1].any()):
        dependent = torch.zeros_like(dependent)
    kind = torch.full((batch,), int(GradientKind.EXACT), dtype=torch.int64, device=v.device)
    # the later cause is the graver one
    for cause, holds in (
        (GradientKind.ILL_CONDITIONED, ~(condition <= CONDITION_LIMIT) | (condition * residual > ERROR_LIMIT)),
        (GradientKind.WEAKLY_ACTIVE, tied),
        (GradientKind.RANK_DEFICIENT, dependent),
        (GradientKind.NONUNIQUE, flat),
    ):
        kind = torch.where(holds, torch.full_like(kind, int(cause)), kind)
    return Degeneracy(kind, distance, _first_rows(program, weakest), condition)


def _first_rows(program: ConeProgram, rows: Tensor) -> Tensor:
    """The first row of the cone of each of `rows` (B,): an eigenvalue has no row of its own; rows of orthants, and -1, stay."""
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
    if not point.program.structure.cone.is_orthant or not is_exact(point.mu) or not point.v.shape[-1]:
        return nowhere
    distance = point.program.structure.cone.kink_distance(point.v)
    small = (distance <= tie_width(point.program, point.v)).any(-1)
    if not bool((small | (residual > _ROUNDED)).any()):
        return nowhere
    _, dv = point.newton()
    return dv.abs() >= _SETTLED * distance


def _effect_of_ties(point: Point, tied: Tensor, requested: Requested) -> Tensor:
    """How much D at each of the rows `tied` changes the requested entries' derivative, relative, (B, m); zero elsewhere.

    Another value of D_i adds a multiple of c = (A_i', e_i) e_i' to K, so a linear function E of the solution keeps its
    derivative E K^-1 if and only if E K^-1 c = 0; if that holds for each tie it holds for all values of D at all of them.
    """
    kkt = point.kkt
    count = int(tied.sum(-1).max())
    rows = tied.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :count]
    effect = torch.zeros_like(point.v)
    for column in rows.T:
        e = torch.zeros_like(point.v).scatter(-1, column.unsqueeze(-1), 1.0)
        dx, dv, _ = kkt.tangent(point.program.ATz(e), e)
        dz = kkt.D.apply(dv)
        moved = torch.cat([dx[:, requested[0]], dz[:, requested[1]]], -1)
        share = magnitude(moved) / torch.maximum(magnitude(dx), magnitude(dv)).clamp(min=torch.finfo(e.dtype).tiny)
        effect = effect.scatter(-1, column.unsqueeze(-1), share.unsqueeze(-1))
    return torch.where(tied, effect, 0.0)

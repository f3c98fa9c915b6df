"""What to do about a point: one sentence, by what is known of it."""

from __future__ import annotations

import math

from torch import Tensor

from dcl.compare.points import PointDiagnosis, listed
from dcl.program import ConeProgram, magnitude
from dcl.status import GradientKind, Status

# The mu that is advised at a kink moves x by about this, relative.
_ADVISED_MOVE = 1e-2


def suggested_mu(program: ConeProgram, x: Tensor) -> float:
    """A power of ten that moves x by about _ADVISED_MOVE: x(mu) - x ~ sqrt(mu / curvature) at a kink, mu / slope in an LP."""
    move = _ADVISED_MOVE * max(1.0, float(magnitude(x)))
    curvature = float(program.P.abs().max()) if program.P.numel() else 0.0
    mu = curvature * move**2 if curvature > 0.0 else float(magnitude(program.q).max()) * move
    return 10.0 ** round(math.log10(mu)) if mu > 0.0 else _ADVISED_MOVE


def advise(point: PointDiagnosis, mu: float) -> str:
    """The sentence; mu: what to use where a barrier helps."""
    smooth = f"use mu = {mu:.0e} for the gradient of a smooth path, or `dcl.compare_gradients` to choose"
    if point.status != Status.OPTIMAL:
        if point.conflict:
            return f"{listed(point.conflict)} cannot hold together: relax or penalize one of them"
        return point.status.message
    if point.unique_x is False:
        return f"x is not unique: add a small quadratic term, or {smooth} (its x is the center of the optimal face)"
    match point.gradient_kind:
        case GradientKind.WEAKLY_ACTIVE:
            names = listed(point.weakly_active) or str(point.weakest)
            many = len(point.weakly_active) > 1
            return f"{names} {'are' if many else 'is'} weakly active: the derivative is one-sided; {smooth}"
        case GradientKind.RANK_DEFICIENT:
            dependent = "some" if point.rank is None else f"{point.rows - point.rank} of {point.rows}"
            return (
                f"{dependent} active rows depend on the others, so multipliers are not unique: "
                "drop what is redundant if multipliers are used; x has one derivative as long as such rows move together"
            )
        case GradientKind.NONUNIQUE:
            return f"a flat direction of the optimal face moves what was asked for: add a small quadratic term, or {smooth}"
        case GradientKind.ILL_CONDITIONED:
            return f"the KKT system has condition {point.condition:.0e}: rescale the data, or {smooth}"
    if point.weakly_active:
        return f"the derivative is exact for what was asked, though {listed(point.weakly_active)} holds with multiplier zero"
    if point.margin < 1e-4:
        return (
            f"the derivative is exact for changes of the data below about {point.margin:.0e}: {point.weakest} is near"
        )
    return "the derivative is exact: nothing to do"

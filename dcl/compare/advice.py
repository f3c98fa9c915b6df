"""One sentence of advice about a point."""

from __future__ import annotations

from dcl.compare.points import PointDiagnosis, listed, take_mu
from dcl.status import GradientKind, Status

_EXISTS = "x(mu), mu > 0, exists only where a point satisfies all inequalities strictly and solutions are bounded"


def advise(point: PointDiagnosis, mu: float | None) -> str:
    """The sentence; mu: what to use where a barrier helps, None where x(mu) exists for no mu (or was not looked for: EXACT)."""
    none = (
        "" if mu is not None else "no barrier helps, since x(mu) was found for no mu: the constraints leave no interior"
    )
    if mu is None:
        smooth = none
    else:
        smooth = f"use mu = {mu:.0e} for the gradient of a smooth path (`dcl.compare_gradients` weighs other mu)"
    either = f"{'or ' if mu is not None else ''}{smooth}"
    if point.status == Status.NUMERICAL_ERROR and point.on_path:
        return f"{point.status.message}; {_EXISTS}"
    if point.status != Status.OPTIMAL:
        if point.conflict:
            return f"{listed(point.conflict)} cannot hold together: relax or penalize one of them"
        return point.status.message
    if point.unique_x is False:
        center = "" if mu is None else "; x(mu) tends to the center of the optimal face"
        return f"x is not unique: add a small quadratic term, {either}{center}"
    match point.gradient_kind:
        case GradientKind.WEAKLY_ACTIVE:
            names = listed(point.weakly_active) or str(point.weakest)
            many = len(point.weakly_active) > 1
            return f"{names} {'are' if many else 'is'} weakly active: the derivative is one-sided; {smooth}"
        case GradientKind.RANK_DEFICIENT:
            dependent = "some" if point.rank is None else f"{point.rows - point.rank} of {point.rows}"
            names = f" ({listed(point.dependent)})" if point.dependent else ""
            return (
                f"{dependent} active rows depend on the others{names}, so multipliers are not unique: "
                "drop what is redundant if multipliers are used; x has one derivative as long as such rows move together"
            ) + (f"; as long as they do it is {_zero(point, none)}" if point.zero_in else "")
        case GradientKind.NONUNIQUE:
            return (
                f"a flat direction of the optimal face moves what was asked for: add a small quadratic term, {either}"
            )
        case GradientKind.ILL_CONDITIONED:
            return f"the KKT system has condition {point.condition:.0e}: rescale the data, {either}"
    if point.on_path:
        return "the derivative of x(mu) is exact, and x(mu) is smooth in the data: nothing to do"
    if point.zero_in:
        return f"the derivative is exact, and {_zero(point, '')}"
    if point.weakly_active:
        return f"the derivative is exact for what was asked, though {listed(point.weakly_active)} holds with multiplier zero"
    if point.margin < 1e-4:
        return (
            f"the derivative is exact for changes of the data below about {point.margin:.0e}: {point.weakest} is near"
        )
    return "the derivative is exact: nothing to do"


def _zero(point: PointDiagnosis, none: str) -> str:
    """What a vertex means for the arguments that it does not move with. none: why no barrier helps, where none does."""
    it = "it" if len(point.zero_in) == 1 else "them"
    return f"zero in {listed(point.zero_in)}: x is a vertex that does not move with {it}; {none or take_mu(it)}"

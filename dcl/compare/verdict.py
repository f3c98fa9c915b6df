"""Which gradient to use here, decided by evidence: the kind of the point, finite differences, and what mu does to x.

exact and agrees with differences   mu = 0
exact and zero (a vertex)           a barrier gradient: the exact one is right and teaches nothing; mu from a start to an end
kink, or multipliers or x not unique, or differences that disagree        the largest mu with x(mu) near x
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dcl.compare.table import Row
from dcl.status import GradientKind

# Agreement with central differences, whose own error is some 1e-7; one-sided slopes that differ by more are a kink.
AGREES = 1e-5
KINK = 1e-3
# How far x(mu) may be from x, relative, where mu replaces a kink's gradient, and where it replaces a gradient of zero.
NEAR, WITHIN = 1e-2, 1e-1
# Training through a vertex starts with the largest mu tried that moves x by no more than half: where x(mu) is near the vertex
# only the constraints next to it have a gradient, where it is far x(mu) hardly depends on the data.
HALFWAY = 0.5


@dataclass(frozen=True)
class Evidence:
    """kinds and smallest margin over the batch; the exact row and the barrier rows, by falling mu.

    kink: by how much one-sided differences differ, relative.  slope: norm of the differences, 0.0 if they are zero.
    known: how many differences there are.  pathless: mu were tried, and x(mu) exists for none of them.
    still: arguments in which the exact gradient is zero and a barrier's is not, of several.
    """

    kinds: tuple[GradientKind, ...]
    margin: float
    exact: Row
    barrier: tuple[Row, ...]
    kink: float
    slope: float
    known: int
    pathless: bool = False
    still: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The sentence; the mu to use, 0.0 for the exact gradient; the barrier that comes second, None if none was tried.

    end: the mu to end a training with, that of its start if None.
    """

    text: str
    mu: float
    alternative: float | None
    end: float | None = None


def decide(evidence: Evidence) -> Verdict:
    """The verdict on this evidence."""
    exact, near = evidence.exact, _largest(evidence.barrier, NEAR)
    count = Counter(evidence.kinds)
    doubtful: dict[GradientKind, int] = {kind: n for kind, n in count.items() if kind != GradientKind.EXACT}
    agrees = evidence.known > 0 and evidence.slope > 0.0 and exact.error <= AGREES
    if not evidence.known:
        return _without_differences(evidence, doubtful, near)
    if not doubtful and agrees:
        text = (
            f"Use the exact gradient (mu = 0): every instance is {GradientKind.EXACT.name} and it agrees with central "
            f"differences to {exact.error:.0e}." + (_still(evidence) or _cost_of(near))
        )
        return Verdict(text, 0.0, _mu(near))
    if evidence.slope == 0.0 and exact.norm <= 1e-12 + 1e-9 * max((row.norm for row in evidence.barrier), default=0.0):
        return _vertex(evidence)
    if agrees and evidence.kink <= KINK:
        name, says = _worst(doubtful)
        text = (
            f"Use the exact gradient (mu = 0) for this loss: it agrees with central differences to {exact.error:.0e}, though "
            f"{_many(doubtful, evidence)} {name} ({says})." + _cost_of(near)
        )
        return Verdict(text, 0.0, _mu(near))
    if not doubtful and evidence.kink > KINK:
        text = (
            f"Use the exact gradient (mu = 0) for infinitesimal changes: the point is {GradientKind.EXACT.name}, but a change of "
            f"1e-5 in the data already crosses a kink (one-sided differences differ by {evidence.kink:.0%}; margin "
            f"{evidence.margin:.0e})." + _instead(near)
        )
        return Verdict(text, 0.0, _mu(near))
    if not doubtful:
        best = min((exact, *evidence.barrier), key=lambda row: row.error)
        text = (
            f"The exact gradient differs from central differences by {exact.error:.0e} at a point that counts as "
            f"{GradientKind.EXACT.name} (condition {exact.condition:.0e}): check the loss for kinks of its own, or rescale the "
            f"data. Nearest to the differences: {best.method}, mu = {best.mu:g} (error {best.error:.0e})."
        )
        return Verdict(text, best.mu or 0.0, _mu(near))
    return _degenerate(evidence, doubtful, near)


def _degenerate(evidence: Evidence, doubtful: dict[GradientKind, int], near: Row | None) -> Verdict:
    name, says = _worst(doubtful)
    exact = evidence.exact
    if evidence.kink > KINK:
        found = f"one-sided differences differ by {evidence.kink:.0%}"
    else:
        found = f"the exact row differs from central differences by {exact.error:.0e}"
    if near is None:
        instead = NO_PATH if evidence.pathless else "Try smaller mu."
        text = f"No gradient is right here: {_many(doubtful, evidence)} {name} ({says}), and {found}. {instead}"
        return Verdict(text, 0.0, None)
    smoothest = "it is the gradient of a smooth map whose x is"
    text = (
        f"Use the barrier with mu = {near.mu:g}: {_many(doubtful, evidence)} {name} ({says}), and {found}; {smoothest} "
        f"{near.gap:.0e} from the exact x. Or, to keep the exact x, straight-through with this mu (biased)."
    )
    return Verdict(text, near.mu or 0.0, near.mu)


def _vertex(evidence: Evidence) -> Verdict:
    end = _largest(evidence.barrier, WITHIN) or (evidence.barrier[-1] if evidence.barrier else None)
    first = _largest(evidence.barrier, HALFWAY) or end
    start = "The exact gradient is right, and zero: the solution is a vertex that does not move with small changes of the data."
    if evidence.pathless:
        return Verdict(f"{start} {NO_PATH}", 0.0, None)
    if first is None or end is None or not first.norm > 0.0:
        return Verdict(start + " A larger mu, or a quadratic term, gives one that is not.", 0.0, _mu(first))
    of_first = f"gradient of norm {first.norm:.0e}, x {first.gap:.0e} from the vertex"
    if first is end:
        lowering = f"use the barrier with mu = {first.mu:g} ({of_first}), and lower mu as training goes on."
    else:
        lowering = (
            f"use the barrier: start at mu = {first.mu:g} ({of_first}), lower it to {end.mu:g} while training (x "
            f"{end.gap:.0e} from the vertex)."
        )
    return Verdict(f"{start} To train through it {lowering}", first.mu or 0.0, first.mu, end.mu)


def _without_differences(evidence: Evidence, doubtful: dict[GradientKind, int], near: Row | None) -> Verdict:
    start = "There are no differences to compare with (no neighbor has a solution)"
    if doubtful:
        return _degenerate(evidence, doubtful, near)
    return Verdict(f"{start}; the point is EXACT, so use the exact gradient (mu = 0).", 0.0, _mu(near))


def _largest(rows: tuple[Row, ...], gap: float) -> Row | None:
    """The row with the largest mu whose x is within `gap`."""
    return next((row for row in rows if row.gap <= gap), None)


def _mu(row: Row | None) -> float | None:
    return None if row is None else row.mu


def _worst(doubtful: dict[GradientKind, int]) -> tuple[str, str]:
    kind = max(doubtful, key=lambda k: doubtful[k])
    return kind.name, _REASONS[kind]


def _many(doubtful: dict[GradientKind, int], evidence: Evidence) -> str:
    total = len(evidence.kinds)
    return "the point is" if total == 1 else f"{sum(doubtful.values())} of {total} instances are"


NO_PATH = (
    "There is no x(mu) for any mu tried: the constraints leave no interior, or solutions are unbounded; the exact gradient "
    "(mu = 0) is what there is."
)
_REASONS = {
    GradientKind.WEAKLY_ACTIVE: "a constraint holds with multiplier zero: the derivative is one-sided",
    GradientKind.RANK_DEFICIENT: "active constraints are dependent: multipliers are not unique",
    GradientKind.NONUNIQUE: "the optimal face is flat: x is not unique",
    GradientKind.ILL_CONDITIONED: "the KKT system is ill-conditioned",
}


def _cost_of(near: Row | None) -> str:
    if near is None:
        return ""
    return f" No barrier is needed: at mu = {near.mu:g} it would move x by {near.gap:.0e} and the gradient by {near.error:.0e}."


def _still(evidence: Evidence) -> str:
    end, names = _largest(evidence.barrier, WITHIN), ", ".join(evidence.still)
    if not names or end is None:
        return ""
    return (
        f" It is zero in {names}, with which x does not move: what is to be learned through {names} needs a barrier "
        f"(compare in {names} alone for its mu)."
    )


def _instead(near: Row | None) -> str:
    return (
        ""
        if near is None
        else f" Where steps are larger, mu = {near.mu:g} averages over the kink (x within {near.gap:.0e})."
    )

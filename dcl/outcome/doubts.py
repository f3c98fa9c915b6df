"""What is said of a derivative that is not unique or not accurate: the kind, the constraints that cause it, and what to do.

Rows are dependent where A'w = 0 for some w on the active rows: beside the multipliers z there are z + t w, and the rows that
are named are the support of all such w.  On the central path I - D > 0 on inequalities, which determines their multipliers:
there mu > 0 helps, and among equalities it does not.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from dcl.cones.base import TIE_TOLERANCE
from dcl.errors import DegenerateError, DegenerateWarning, level_of_caller
from dcl.outcome.messages import SHOWN, AbstractCallContext, subject, whom
from dcl.point.degeneracy import Degeneracy
from dcl.status import GradientKind, Status


def _weakest(context: AbstractCallContext, degeneracy: Degeneracy, those: list[int]) -> str:
    """The rows nearest to a tie in these instances, in words."""
    rows = dict.fromkeys(int(degeneracy.weakest[i]) for i in those)
    return ", ".join(context.describe_row(row) for row in list(rows)[:SHOWN])


def with_entries(context: AbstractCallContext, rows: list[int]) -> list[str]:
    """The caller's names of the rows; those of one constraint together, as in "constraint 1 (x >= 0), entries 0 and 2"."""
    entries: dict[str, list[str]] = {}
    for row in rows:
        name, _, place = context.describe_row(row).partition(", entry ")
        entries.setdefault(name, []).extend([place] if place else [])
    found = []
    for name, places in entries.items():
        shown = places[:SHOWN]
        if not places:
            found.append(name)
        elif len(places) == 1:
            found.append(f"{name}, entry {places[0]}")
        else:
            last = f" and {shown[-1]}" if len(shown) == len(places) else f", {shown[-1]}, ..."
            found.append(f"{name}, entries {', '.join(shown[:-1])}{last}")
    return found


def _dependent(context: AbstractCallContext, degeneracy: Degeneracy, those: list[int]) -> str:
    """Which rows are dependent in these instances, and what to do; nothing where they were not found one by one."""
    rows = torch.nonzero(degeneracy.dependent[those].any(0)).flatten().tolist()
    if not rows:
        return ""
    names = with_entries(context, rows)
    text = f"; dependent: {'; '.join(names[:SHOWN])}{'; ...' if len(names) > SHOWN else ''}. "
    text += "Drop one that follows from the others, if there is one"
    if not bool(degeneracy.barrier_helps[those].any()):
        return f"{text}; mu > 0 does not help, since these are equalities"
    return f"{text}; mu > 0 makes multipliers of inequalities unique, if a point satisfies all of them strictly"


_SILENCE_LAYER = 'shown once per layer; on_degenerate="ignore" silences it'


def report_degeneracy(
    context: AbstractCallContext, how: str, degeneracy: Degeneracy, status: Tensor, silence: str = _SILENCE_LAYER
) -> bool:
    """Warn or raise about optimal instances whose derivative is not EXACT; False if there are none.

    silence: how the caller can silence the warning; the last line of it, in parentheses.
    """
    doubtful = torch.nonzero((degeneracy.kind != GradientKind.EXACT) & (status == Status.OPTIMAL)).flatten().tolist()
    if not doubtful:
        return False
    kinds = [GradientKind(int(degeneracy.kind[i])) for i in doubtful]
    lines = []
    for kind in dict.fromkeys(kinds):
        those = [i for i, k in zip(doubtful, kinds, strict=True) if k == kind]
        line = f"{subject(context, kind.name, those, doubtful)}: {kind.message}"
        if kind == GradientKind.WEAKLY_ACTIVE:
            line += f"; weakly active: {_weakest(context, degeneracy, those)}"
        if kind == GradientKind.RANK_DEFICIENT:
            line += _dependent(context, degeneracy, those)
        tied = [i for i in those if float(degeneracy.margin[i]) <= TIE_TOLERANCE and int(degeneracy.weakest[i]) >= 0]
        if kind == GradientKind.RANK_DEFICIENT and tied:
            line += (
                f"; also weakly active, so x may have only one-sided derivatives: {_weakest(context, degeneracy, tied)}"
            )
        if kind == GradientKind.ILL_CONDITIONED:
            line += f"; condition {max(float(degeneracy.condition[i]) for i in those):.1e}"
        lines.append(line)
    message = (
        "the derivative is not unique or not accurate" + whom(context, " in ", doubtful) + ".\n  " + "\n  ".join(lines)
    )
    if how == "raise":
        raise DegenerateError(message, indices=[context.index(i) for i in doubtful])
    warnings.warn(
        f"{message}\n  ({silence})",
        DegenerateWarning,
        stacklevel=level_of_caller(),
    )
    return True

"""What a row of A is called in a message: the user's own constraint, an attribute, or the epigraph of an atom."""

from __future__ import annotations

import math
import re
from typing import Any

from cvxpy.constraints.constraint import Constraint
from cvxpy.constraints.nonpos import Inequality

from dcl.frontends.cvxpy.form import RowLabels

_LONGEST = 60


def shorten(text: str) -> str:
    """`text` on one line of at most 60 characters, with atoms as the user wrote them."""
    line = " ".join(text.split())
    # CVXPY prints sum(x) as Sum(x, None, False) and norm(x, 2) as PnormApprox(x, 2)
    for printed, short in ((", None, False)", ")"), ("Sum(", "sum("), ("Approx(", "("), ("Pnorm(", "norm(")):
        line = line.replace(printed, short)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def written(constraint: Constraint) -> str:
    """The constraint on one line, without its label, its variables first: CVXPY keeps x >= 0 as 0.0 <= x."""
    text = str(constraint)
    text = text.removeprefix(f"{constraint.label}: ") if constraint.label else text
    if isinstance(constraint, Inequality):
        smaller, larger = constraint.args
        if smaller.is_constant() and not larger.is_constant():
            text = f"{larger} >= {smaller}"
    return shorten(re.sub(r"(?<![\w.])(\d+)\.0(?![\w.])", r"\1", text))


def describe_constraint(index: int, constraint: Constraint) -> str:
    """As in "constraint 2 (budget: sum(x) == 1)": its position in problem.constraints, its label, its expression."""
    label = f"{shorten(constraint.label)}: " if constraint.label else ""
    return f"constraint {index} ({label}{written(constraint)})"


def row_labels(
    rows: list[Constraint], owners: dict[int, str], atoms: dict[int, Any], variables: dict[int, str]
) -> RowLabels:
    """Labels of the final constraints `rows`, in order.

    owners: id of a final constraint -> text of the user's one.  atoms: id -> the atom it is the epigraph of.
    variables: id of a canonical variable -> text for the user's one and its attributes.
    """
    starts, texts, shapes = [], [], []
    start = 0
    for constraint in rows:
        size = sum(arg.size for arg in constraint.args)
        starts.append(start)
        texts.append(_label(constraint, owners, atoms, variables))
        shapes.append(tuple(constraint.shape) if math.prod(constraint.shape) == size else (size,))
        start += size
    return RowLabels(tuple(starts), tuple(texts), tuple(shapes))


def _label(constraint: Constraint, owners: dict[int, str], atoms: dict[int, Any], variables: dict[int, str]) -> str:
    if constraint.id in owners:
        return owners[constraint.id]
    if constraint.id in atoms:
        return f"epigraph of {shorten(str(atoms[constraint.id]))}"
    names = [variables[variable.id] for variable in constraint.variables() if variable.id in variables]
    return names[0] if len(names) == 1 else f"constraint added by CVXPY ({written(constraint)})"

"""Numbers and tables as plain text, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_LONGEST = 8  # entries on one line
_NAMED = 8  # entries that are shown with their labels
_ROUNDING = 1e-12


def number(value: float, digits: int = 5) -> str:
    """As in "0.25", "-1.2e-07", "0": at most `digits` significant ones."""
    return "nan" if math.isnan(value) else f"{value + 0.0:.{digits}g}"


def entries(value: Any, digits: int = 5, floor: float = 0.0) -> list[str]:
    """The entries of an array, flat; what is rounding beside the largest one, or at most `floor`, is shown as 0."""
    flat = np.ravel(np.asarray(value, dtype=np.float64))
    largest = float(np.abs(flat[np.isfinite(flat)]).max(initial=0.0))
    floor = max(floor, _ROUNDING * largest)
    return [number(0.0 if abs(one) <= floor else one, digits) for one in flat.tolist()]


def array(value: Any, digits: int = 5, floor: float = 0.0) -> str:
    """An array on one line, row by row, with its ends where it is long; a number without brackets. floor: as in `entries`."""
    shape, shown = np.shape(value), entries(value, digits, floor)
    if not shape:
        return shown[0]
    if len(shown) > _LONGEST:
        shown = [*shown[:3], "...", *shown[-3:]]
    elif len(shape) == 2:
        rows = [" ".join(shown[k : k + shape[1]]) for k in range(0, len(shown), max(1, shape[1]))]
        return "[" + "; ".join(rows) + "]"
    return f"[{' '.join(shown)}]"


def labelled(value: Any, labels: Sequence[Any], digits: int = 5, floor: float = 0.0) -> str:
    """A short vector with the labels of its entries, as in "tea 0.2, wheat 0.3"; `array` where labels are only places."""
    if not labels or len(labels) > _NAMED or tuple(labels) == tuple(range(len(labels))):
        return array(value, digits, floor)
    shown = entries(value, digits, floor)
    return ", ".join(f"{label} {one}" for label, one in zip(labels, shown, strict=True))


def sizes(shape: Sequence[int]) -> str:
    """As in "3 x 2", "number"."""
    return " x ".join(map(str, shape)) or "number"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns under their heads and a rule; the first `left` columns are text, the others end at the same place."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(head), rule, *(line(row) for row in rows)])

"""The result of a comparison: rows that print as a table, as a data frame, as a figure, and a sentence at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dcl.status import GradientKind

if TYPE_CHECKING:
    import pandas as pd

_NAN = math.nan
# the columns that a narrow terminal leaves out, one after the other
_LESS = ("condition", "residual", "cosine", "forward", "backward")
_COLUMNS = ("method", "mu", "gap of x", "gradient", "error", "cosine", "residual", "condition", "forward", "backward")


@dataclass(frozen=True, eq=False)
class Row:
    """One way to the gradient; NaN where there is no such number.

    gap: of x to the exact x, relative.  norm: of the gradient.  error, cosine: against central differences, over the entries
    that were measured (error absolute where the reference is zero).  residual: of the row's own equations, relative.
    condition: of the KKT matrix.  forward_ms, backward_ms: one call.  note: why there is no number.  gradient: all entries.
    """

    method: str
    mu: float | None
    gap: float = _NAN
    norm: float = _NAN
    error: float = _NAN
    cosine: float = _NAN
    residual: float = _NAN
    condition: float = _NAN
    forward_ms: float = _NAN
    backward_ms: float = _NAN
    note: str = ""
    gradient: Tensor | None = None

    def with_residual(self, residual: float) -> Row:
        """The same row with its residual."""
        return replace(self, residual=residual)

    def cells(self) -> list[str]:
        """The text of each column."""
        mu = "" if self.mu is None else "0" if self.mu == 0.0 else f"{self.mu:.0e}"
        numbers = [self.gap, self.norm, self.error]
        cosine = "" if math.isnan(self.cosine) else f"{self.cosine:.4f}"
        times = ["" if math.isnan(t) else f"{t:.2f} ms" for t in (self.forward_ms, self.backward_ms)]
        return [self.method, mu, *map(_short, numbers), cosine, _short(self.residual), _short(self.condition), *times]


def _short(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.1e}" if number else "0"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare_gradients` found; `print` it.

    Attributes:
        rows: one for each way to the gradient, with `method`, `mu`, `gap` (of x to the exact x, relative), `norm` (of the
            gradient), `error` and `cosine` (against central differences), `residual`, `condition`, `forward_ms`,
            `backward_ms` (milliseconds a call), `note`, `gradient`; NaN where there is no such number.
        verdict: which gradient to use here, and why.
        recommended_mu: 0.0 for the exact one.
        mu_range: (start, end), the mu to train with first and last. At a vertex the exact gradient is zero; there start and
            end differ, and recommended_mu is the start, since training with the end value alone is slow. Otherwise both are
            recommended_mu.
        kinds: `dcl.GradientKind` of each instance.
        subject: what was compared, as one line.

    Example:
        >>> import torch, dcl
        >>> P, q, lb = torch.eye(2).double(), torch.tensor([-1.0, 3.0]).double(), torch.zeros(2).double()
        >>> found = dcl.compare_gradients(dcl.QPLayer(), P, q, lb=lb, mu=[1e-4], engines=[])
        >>> found.recommended_mu, found.row("exact").cosine > 0.999, found.row("barrier").error < 1e-2
        (0.0, True, True)
        >>> found.verdict.split(":")[0]
        'Use the exact gradient (mu = 0)'
    """

    rows: tuple[Row, ...]
    verdict: str
    recommended_mu: float
    kinds: tuple[GradientKind, ...]
    subject: str
    mu_range: tuple[float, float] = (0.0, 0.0)

    @property
    def relative(self) -> bool:
        """Are the errors relative? They are absolute where the differences are zero."""
        return not all(math.isnan(row.cosine) for row in self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def row(self, method: str, mu: float | None = None) -> Row:
        """The row of a method, at mu where it has several. Raises KeyError."""
        for row in self.rows:
            if row.method == method and (mu is None or row.mu == mu):
                return row
        raise KeyError(f"{method}, mu = {mu}" if mu is not None else method)

    def __str__(self) -> str:
        return text(self)

    __repr__ = __str__

    def _records(self) -> list[dict[str, Any]]:
        names = [f.name for f in fields(Row) if f.name != "gradient"]
        return [{name: getattr(row, name) for name in names} for row in self.rows]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame, with the names of `Row`'s entries as columns. Needs the extra "compare"."""
        import pandas as pd

        return pd.DataFrame.from_records(self._records())

    def to_csv(self, path: str | Path) -> None:
        """Write the rows; columns as in `to_frame`."""
        import csv

        records = self._records()
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)

    def plot(self, path: str | Path) -> None:
        """Draw gap of x, error of the gradient and time against mu, log-log. Needs the extra "compare"."""
        from dcl.compare.figure import draw

        draw(self, Path(path))


def text(found: Comparison, fitting: Callable[[list[list[str]], Iterable[int]], list[int]] | None = None) -> str:
    """The table, remarks, and the verdict.

    fitting: for a narrow terminal, which columns of these lines to keep, given those that may be dropped, in their order; what
    is dropped is named, and notes stand below the table.
    """
    columns = [name if found.relative or name != "error" else "error (absolute)" for name in _COLUMNS]
    # rows without numbers have a note instead of them
    full = [row for row in found.rows if not (row.note and math.isnan(row.gap))]
    cells = {id(row): row.cells() for row in full}
    heads = [columns, *cells.values()]
    kept = list(range(len(columns)))
    if fitting is not None:
        kept = fitting(heads, [columns.index(name) for name in _LESS])
    below = len(kept) < len(columns)
    noted = not below and any(row.note for row in full)
    names = max(len(line[0]) for line in [columns, *(row.cells() for row in found.rows)])
    widths = [names, *(max(len(line[k]) for line in heads) for k in kept[1:])]

    def line(of: list[str]) -> str:
        rest = [of[k].rjust(w) for k, w in zip(kept[1:], widths[1:], strict=True)]
        return "  ".join([of[0].ljust(names), *rest])

    lines = [found.subject, line(columns) + ("  note" if noted else ""), "-" * (sum(widths) + 2 * (len(widths) - 1))]
    for row in found.rows:
        if id(row) in cells:
            lines.append(line(cells[id(row)]) + (f"  {row.note}" if noted else ""))
        else:
            first, mu = row.cells()[:2]
            lines.append("  ".join([first.ljust(names), mu.rjust(widths[1]), row.note]))
    if below:
        lines += [f"{row.method}: {row.note}" for row in full if row.note]
        lines.append(
            f"left out: {', '.join(columns[k] for k in range(len(columns)) if k not in kept)} (--csv FILE has all)"
        )
    biased = [row for row in found.rows if row.method == "straight-through"]
    if biased and found.recommended_mu == 0.0:
        lines.append(
            f"straight-through: the exact x with the gradient of x({biased[0].mu:g}); here to compare, not to use"
        )
    return "\n".join([*(line.rstrip() for line in lines), "", found.verdict])

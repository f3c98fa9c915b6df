"""What the comparisons of layers print and write: a table for each work, a CSV file, what dcl did wrong."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contest import AbstractWork

# A relative error above these makes an answer wrong: it is marked and not ranked.
LIMIT_X, LIMIT_GRADIENT = 1e-4, 1e-2
LEFT_OUT = "left out"
_OF_LINE = ("repetitions", "ms", "ms_least", "ms_forward", "ms_backward", "error_x", "error_gradient")
_HEAD = f"{'ms':>10} {'forward':>10} {'backward':>10} {'ratio':>7} {'error x':>9} {'error grad':>10} {'calls':>6}"


@dataclass(frozen=True)
class Line:
    """One layer on one work: milliseconds an instance (medians; ms_least the shortest), largest relative errors.

    answers: False for torch's overhead, which is not judged.  trouble: why there is no time, or "".
    warned: the kinds of warnings that it gave.
    """

    work: AbstractWork
    layer: str
    is_dcl: bool
    answers: bool
    trouble: str
    warned: str
    repetitions: int
    ms: float
    ms_least: float
    ms_forward: float
    ms_backward: float
    error_x: float
    error_gradient: float

    @property
    def is_timed(self) -> bool:
        return not math.isnan(self.ms)

    @property
    def is_right(self) -> bool:
        """Whether it has answers, and none is wrong.  Without gradients, there is no error of theirs."""
        small = self.error_x <= LIMIT_X and not self.error_gradient > LIMIT_GRADIENT
        return self.answers and self.is_timed and small

    @property
    def verdict(self) -> str:
        """right, wrong, overhead, or what is in the way."""
        if not self.is_timed:
            return self.trouble
        if not self.answers:
            return "overhead"
        return "right" if self.is_right else "wrong"

    @property
    def is_dcl_at_fault(self) -> bool:
        """An answer of dcl's is wrong, or there is none though there was time for it."""
        return self.is_dcl and not self.is_right and not self.trouble.startswith(LEFT_OUT)


Done = tuple[AbstractWork, list[Line]]


def base(work: AbstractWork, lines: Sequence[Line]) -> Line | None:
    """What times are relative to: the fastest right layer that is not dcl's; for x(mu), dcl's exact one."""
    if work.central:
        return next((line for line in lines if line.is_right and "mu" not in line.layer), None)
    return min((line for line in lines if line.is_right and not line.is_dcl), key=lambda line: line.ms, default=None)


def ratio(line: Line, to: Line | None) -> float:
    """Time relative to the `base`; NaN where there is none, or the answer is not right."""
    return line.ms / to.ms if to is not None and line.is_right else math.nan


def table(work: AbstractWork, lines: Sequence[Line]) -> str:
    """The table of one work: torch's overhead, right answers by time, wrong ones, what has no time."""
    to = base(work, lines)
    order = {"overhead": 0, "right": 1, "wrong": 2}
    width = max(26, *(len(line.layer) for line in lines)) if lines else 26
    head = f"{'layer':{width}} {_HEAD}"
    out = [f"{work}; ms an instance", head, "-" * len(head)]
    for line in sorted(lines, key=lambda line: (order.get(line.verdict, 3), line.ms if line.is_timed else 0.0)):
        if not line.is_timed:
            out.append(f"{line.layer:{width}} {line.trouble}")
            continue
        relative = "wrong" if line.verdict == "wrong" else number(ratio(line, to), ".2f")
        out.append(
            f"{line.layer:{width}} {digits(line.ms):>10} {digits(line.ms_forward):>10} {digits(line.ms_backward):>10} "
            f"{relative:>7} {number(line.error_x, '.0e'):>9} {number(line.error_gradient, '.0e'):>10} "
            f"{line.repetitions:6d} {line.warned if line.is_dcl else ''}".rstrip()
        )
    return "\n".join(out)


def grid(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 2) -> str:
    """A table with a title; the first `texts` columns are text, to the left.  Empty without rows."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        " ".join(
            f"{cell:{'<' if k < texts else '>'}{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]
    return "\n".join([title, lines[0], "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def write_csv(path: Path, done: Sequence[Done]) -> None:
    """Every figure of every layer; empty where there is none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for place, (work, lines) in enumerate(done):
            if place == 0:
                writer.writerow([*work.columns, "what", "layer", "verdict", *_OF_LINE, "ratio", "warned"])
            to = base(work, lines)
            what = ("x(mu), " if work.central else "") + ("forward + backward" if work.backward else "forward")
            for line in lines:
                figures = [getattr(line, name) for name in _OF_LINE] + [ratio(line, to)]
                shown = ["" if math.isnan(figure) else figure for figure in figures]
                writer.writerow([*work.columns.values(), what, line.layer, line.verdict, *shown, line.warned])


def faults(done: Sequence[Done]) -> list[str]:
    """What dcl did wrong, a line each."""
    return [f"{work}: {line.layer}: {line.verdict}" for work, lines in done for line in lines if line.is_dcl_at_fault]


def number(value: float, form: str) -> str:
    """The formatted value; nothing for NaN."""
    return "" if math.isnan(value) else format(value, form)


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return number(value, f".{max(0, 2 - math.floor(math.log10(value)))}f") if value > 0.0 else ""

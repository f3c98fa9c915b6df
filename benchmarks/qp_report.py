"""What `how_fast_are_qp_layers.py` prints and writes: a table for each work, two summaries, a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qp_works import Work

# A relative error above these makes an answer wrong: it is marked and not ranked.
LIMIT_X, LIMIT_GRADIENT = 1e-4, 1e-2
LEFT_OUT = "left out"
_OF_WORK = ("family", "n", "m", "p", "batch", "threads", "what")
_OF_LINE = ("repetitions", "ms", "ms_least", "ms_forward", "ms_backward", "error_x", "error_gradient")
_HEAD = f"{'layer':26} {'ms':>10} {'forward':>10} {'backward':>10} {'ratio':>7} "
_HEAD += f"{'error x':>9} {'error grad':>10} {'calls':>6}"


@dataclass(frozen=True)
class Line:
    """One layer on one work: milliseconds an instance (medians; ms_least the shortest), largest relative errors.

    trouble: why there is no time, or "".  answers: False for torch's overhead, which is not judged.
    """

    work: Work
    layer: str
    is_dcl: bool
    answers: bool
    trouble: str
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


Done = tuple[Work, list[Line]]


def base(work: Work, lines: Sequence[Line]) -> Line | None:
    """What times are relative to: the fastest right layer that is not dcl's; for x(mu), dcl's exact one."""
    if work.central:
        return next((line for line in lines if line.is_right and "mu" not in line.layer), None)
    return min((line for line in lines if line.is_right and not line.is_dcl), key=lambda line: line.ms, default=None)


def ratio(line: Line, to: Line | None) -> float:
    """Time relative to the `base`; NaN where there is none, or the answer is not right."""
    return line.ms / to.ms if to is not None and line.is_right else math.nan


def table(work: Work, lines: Sequence[Line]) -> str:
    """The table of one work: torch's overhead, right answers by time, wrong ones, what has no time."""
    to = base(work, lines)
    order = {"overhead": 0, "right": 1, "wrong": 2}
    out = [f"{work}; ms an instance", _HEAD, "-" * len(_HEAD)]
    for line in sorted(lines, key=lambda line: (order.get(line.verdict, 3), line.ms if line.is_timed else 0.0)):
        if not line.is_timed:
            out.append(f"{line.layer:26} {line.trouble}")
            continue
        relative = "wrong" if line.verdict == "wrong" else _number(ratio(line, to), ".2f")
        out.append(
            f"{line.layer:26} {_digits(line.ms):>10} {_digits(line.ms_forward):>10} {_digits(line.ms_backward):>10} "
            f"{relative:>7} {_number(line.error_x, '.0e'):>9} {_number(line.error_gradient, '.0e'):>10} "
            f"{line.repetitions:6d}"
        )
    return "\n".join(out)


def ratios(done: Sequence[Done]) -> str:
    """Time of dcl's layers relative to the best right peer, that of x(mu) to the exact layer; columns are batches."""
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for work, lines in done:
        to = base(work, lines)
        for line in lines:
            if line.is_dcl and line is not to and (to is not None or not line.is_right):
                shown = _number(ratio(line, to), ".2f") or ("wrong" if line.is_timed else line.trouble.split(":")[0])
                cells.setdefault((work.subject, line.layer), {})[work.batch] = shown
    return _grid("time relative to the best right peer; that of x(mu) to the exact layer", cells)


def speedups(done: Sequence[Done]) -> str:
    """How many times faster each layer is with more threads, right answers only; columns are batches."""
    right = {(work, line.layer): line for work, lines in done for line in lines if line.is_right}
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for (work, layer), line in right.items():
        one = right.get((replace(work, threads=1), layer))
        if work.threads > 1 and one is not None:
            cells.setdefault((work.subject, layer), {})[work.batch] = f"{one.ms / line.ms:.2f}"
    return _grid("times faster than with one thread", cells)


def _grid(title: str, cells: dict[tuple[str, str], dict[int, str]]) -> str:
    """A table with a row for each subject and layer, a column for each batch; empty without cells."""
    if not cells:
        return ""
    batches = sorted({batch for row in cells.values() for batch in row})
    width = max(len(subject) for subject, _ in cells)
    head = f"{'':{width}} {'layer':26}" + "".join(f"{f'batch {batch}':>11}" for batch in batches)
    rows = [
        f"{subject:{width}} {layer:26}" + "".join(f"{row.get(batch, ''):>11}" for batch in batches)
        for (subject, layer), row in cells.items()
    ]
    return "\n".join([title, head, "-" * len(head), *rows])


def write_csv(path: Path, done: Sequence[Done]) -> None:
    """Every figure of every layer; empty where there is none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*_OF_WORK, "layer", "verdict", *_OF_LINE, "ratio"])
        for work, lines in done:
            to = base(work, lines)
            of_work = [work.family, work.shape.n, work.shape.m, work.shape.p, work.batch, work.threads]
            what = [("x(mu), " if work.central else "") + ("forward + backward" if work.backward else "forward")]
            for line in lines:
                figures = [getattr(line, name) for name in _OF_LINE] + [ratio(line, to)]
                shown = ["" if math.isnan(figure) else figure for figure in figures]
                writer.writerow([*of_work, *what, line.layer, line.verdict, *shown])


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return _number(value, f".{max(0, 2 - math.floor(math.log10(value)))}f") if value > 0.0 else ""

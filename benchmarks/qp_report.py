"""The two summaries of `how_fast_are_qp_layers.py`: times relative to the best peer, speed-up by threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lines import Line, base, grid, number, ratio
from qp_works import Work


def ratios(done: Sequence[tuple[Work, list[Line]]]) -> str:
    """Time of dcl's layers relative to the best right peer, that of x(mu) to the exact layer; columns are batches."""
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for work, lines in done:
        to = base(work, lines)
        for line in lines:
            if line.is_dcl and line is not to and (to is not None or not line.is_right):
                shown = number(ratio(line, to), ".2f") or ("wrong" if line.is_timed else line.trouble.split(":")[0])
                cells.setdefault((work.subject, line.layer), {})[work.batch] = shown
    return _by_batch("time relative to the best right peer; that of x(mu) to the exact layer", cells)


def speedups(done: Sequence[tuple[Work, list[Line]]]) -> str:
    """How many times faster each layer is with more threads, right answers only; columns are batches."""
    right = {(work, line.layer): line for work, lines in done for line in lines if line.is_right}
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for (work, layer), line in right.items():
        one = right.get((replace(work, threads=1), layer))
        if work.threads > 1 and one is not None:
            cells.setdefault((work.subject, layer), {})[work.batch] = f"{one.ms / line.ms:.2f}"
    return _by_batch("times faster than with one thread", cells)


def _by_batch(title: str, cells: dict[tuple[str, str], dict[int, str]]) -> str:
    """A row for each subject and layer, a column for each batch; empty without cells."""
    batches = sorted({batch for row in cells.values() for batch in row})
    heads = ["", "layer", *(f"batch {batch}" for batch in batches)]
    return grid(title, heads, [[*of, *(row.get(batch, "") for batch in batches)] for of, row in cells.items()])

"""The summaries of `how_fast_are_qp_layers.py`: times relative to the best peer, speed-up by threads, growth with n.

Growth: the least-squares line of log(time) on log(n).  Its slope a says that the time grows like n^a over these sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from lines import Line, base, grid, number, ratio
from qp_works import Work, shape_of_size

RANGES = ((2, 20), (50, 500))


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


def growth(done: Sequence[tuple[Work, list[Line]]]) -> str:
    """The exponent a of time ~ n^a for each layer and family of growing size, right answers only; columns are batches.

    The shortest repetition is taken, which other work on the machine disturbs least.  A range of n needs three sizes: a line
    through two points says nothing about its fit.
    """
    times: dict[tuple[str, str, int], dict[int, float]] = {}
    for work, lines in done:
        plain = work.threads == 1 and work.backward and not work.central
        if plain and work.shape == shape_of_size(work.family, work.shape.n):
            for line in lines:
                if line.is_right:
                    times.setdefault((work.family, line.layer, work.batch), {})[work.shape.n] = line.ms_least
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for (family, layer, batch), by_size in times.items():
        for least, most in RANGES:
            inside = [(n, ms) for n, ms in by_size.items() if least <= n <= most]
            if len(inside) >= 3:
                shown = f"{exponent(*zip(*inside, strict=True)):.2f}"
                cells.setdefault((f"{family}, n from {least} to {most}", layer), {})[batch] = shown
    return _by_batch("exponent a of time like n^a, a least-squares line in log-log", cells)


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The slope of the least-squares line of log(times) on log(sizes)."""
    x, y = np.log(sizes), np.log(times)
    return float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())


def _by_batch(title: str, cells: dict[tuple[str, str], dict[int, str]]) -> str:
    """A row for each subject and layer, a column for each batch; empty without cells."""
    batches = sorted({batch for row in cells.values() for batch in row})
    heads = ["", "layer", *(f"batch {batch}" for batch in batches)]
    return grid(title, heads, [[*of, *(row.get(batch, "") for batch in batches)] for of, row in cells.items()])

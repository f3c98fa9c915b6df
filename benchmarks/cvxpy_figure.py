"""The figure of `how_fast_are_cvxpy_layers.py`: time relative to the best right peer, a bar for each program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cvxpy_peers import DCL, PEERS, UNREDUCED
from cvxpy_works import Work
from lines import Line, base, digits, ratio
from matplotlib.figure import Figure

_FASTER, _SLOWER = "#2f7d6b", "#d9793b"
_MARKERS = ("|", "^", "v", ">", "X", "s", "D", "P")
_COLORS = ("0.15", "#1f5fa8", "#6aa5dd", "#3c3f8f", "#9c6b4f", "#c9a71b", "#7b52ab", "#b0307a")
_OTHERS = [peer.name for peer in PEERS if peer.name != DCL]
_MARKS = dict(zip(_OTHERS, zip(_MARKERS, _COLORS, strict=True), strict=True))
Results = Sequence[tuple[Work, list[Line]]]


def draw(done: Results) -> Figure:
    """One instance on the left, batches on the right; ratio 1 is the best right peer.

    Bars are dcl's, from 1 to the left where it is faster, to the right where it is slower.  Points are the peers' right
    answers, wrong ones have none.  Works without a right peer are left out.
    """
    panels = [
        [(work, lines) for work, lines in done if (work.batch == 1) == is_one and base(work, lines) is not None]
        for is_one in (True, False)
    ]
    rows = max(map(len, panels))
    figure = Figure(figsize=(14.0, 1.7 + 0.36 * rows), layout="constrained")
    if not rows:
        return figure
    figure.suptitle("forward + backward: time relative to the best peer with right answers", fontsize=12)
    handles: dict[str, Any] = {}
    both = figure.subplots(1, 2, sharex=True)
    for axes, panel, title in zip(both, panels, ("one instance", "a batch, its size behind the name"), strict=True):
        handles |= _panel(axes, panel)
        axes.set_title(title, loc="left", fontsize=11)
    ordered = {name: handles[name] for name in ("dcl, faster", "dcl, slower", *_MARKS) if name in handles}
    figure.legend(ordered.values(), ordered.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _panel(axes: Any, panel: Results) -> dict[str, Any]:
    """Draw one panel, the first work on top; the handles by name."""
    drawn: dict[str, Any] = {}
    for place, (work, lines) in enumerate(panel):
        for line in lines:
            value = ratio(line, base(work, lines))
            if line.layer == DCL:
                drawn |= _bar(axes, place, line, value)
            elif not math.isnan(value):
                marker, color = _MARKS[line.layer]
                size = 13 if line.layer == UNREDUCED else 5.5
                (drawn[line.layer],) = axes.plot(
                    value, place, marker, color=color, markersize=size, markeredgewidth=1.5 if marker == "|" else 0.0
                )
    axes.axvline(1.0, color="0.25", linewidth=1.0, zorder=3)
    axes.set(xscale="log", ylim=(len(panel) - 0.4, -0.6))
    axes.margins(x=0.18)
    names = [work.subject + ("" if work.batch == 1 else f"; {work.batch}") for work, _ in panel]
    axes.set_yticks(range(len(panel)), names, fontsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return drawn


def _bar(axes: Any, place: int, line: Line, value: float) -> dict[str, Any]:
    """dcl's bar with its milliseconds, or why there is none; the handle by name."""
    is_there = not math.isnan(value)
    axes.annotate(
        f"{digits(line.ms)} ms" if is_there else line.verdict.split(":")[0],
        (min(value, 1.0) if is_there else 1.0, place),
        (-5, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8,
        color="0.3",
    )
    if not is_there:
        return {}
    is_faster = value < 1.0
    bar = axes.barh(place, value - 1.0, left=1.0, height=0.6, color=_FASTER if is_faster else _SLOWER, zorder=2)
    return {"dcl, faster" if is_faster else "dcl, slower": bar}

"""The figure of a comparison: what a barrier parameter costs in x and in the gradient, and in time; log-log."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from dcl.compare.table import Comparison, Row

_FLOOR = 1e-17
_BLUE, _RED = "#1f5fa8", "#b5402a"
_OTHERS = {
    "diffcp dense": ("#2f7d4f", "-."),
    "diffcp lsqr": ("#c98a1b", (0, (6, 2))),
    "diffcp lpgd": ("#7b52ab", ":"),
}


def draw(comparison: Comparison, path: Path) -> None:
    """Write three panels to `path`."""
    barrier = [row for row in comparison.rows if row.method == "barrier" and not row.note]
    exact = comparison.row("exact")
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    figure.suptitle(comparison.subject, fontsize=10, wrap=True)
    gap, error, clock = figure.subplots(1, 3)
    _curve(gap, barrier, "gap", _BLUE)
    gap.set(title="solution", ylabel="|x(mu) - x| / |x|")
    _curve(error, barrier, "error", _BLUE)
    _level(error, exact.error, "exact", _RED)
    for row in comparison.rows:
        if row.method in _OTHERS:
            _level(error, row.error, row.method, *_OTHERS[row.method])
        elif row.method == "straight-through":
            _mark(error, row)
    error.set(
        title="gradient, against differences", ylabel="relative error" if comparison.relative else "absolute error"
    )
    _curve(clock, barrier, "forward_ms", _BLUE, "forward")
    _curve(clock, barrier, "backward_ms", "#6aa5dd", "backward")
    _level(clock, exact.forward_ms, "exact, forward", _RED)
    _level(clock, exact.backward_ms, "exact, backward", _RED, ":")
    clock.set(title="time of a call", ylabel="ms")
    start, end = comparison.mu_range
    for axes in (gap, error, clock):
        axes.set(xscale="log", yscale="log", xlabel="mu")
        axes.invert_xaxis()
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes is not clock and start > 0.0:
            _recommend(axes, start, "recommended mu" if end == start else "mu to start with")
            if end != start:
                _recommend(axes, end, "mu to end with", (0, (1, 4)))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _curve(axes: Any, rows: list[Row], entry: str, color: str, label: str = "barrier") -> None:
    values = [max(getattr(row, entry), _FLOOR) for row in rows]
    axes.plot([row.mu for row in rows], values, "o-", color=color, markersize=3.5, linewidth=1.3, label=label)


def _level(axes: Any, value: float, label: str, color: str, style: Any = "--") -> None:
    if not math.isnan(value):
        axes.axhline(max(value, _FLOOR), color=color, linestyle=style, linewidth=1.3, label=label)


def _mark(axes: Any, row: Row) -> None:
    if not math.isnan(row.error):
        axes.plot(
            [row.mu], [max(row.error, _FLOOR)], "D", color="0.15", markersize=7, fillstyle="none", label=row.method
        )


def _recommend(axes: Any, mu: float, label: str, style: Any = (0, (3, 3))) -> None:
    axes.axvline(mu, color="0.45", linewidth=1.0, linestyle=style, label=label)

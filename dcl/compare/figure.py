"""The figure of a comparison: what a barrier parameter costs in x and in the gradient, and in time; log-log."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from dcl.compare.table import Comparison, Row

_FLOOR = 1e-17
_BLUE, _RED, _GRAY = "#1f5fa8", "#b5402a", "0.35"
_STYLES = {"diffcp dense": "-.", "diffcp lsqr": (0, (6, 2)), "diffcp lpgd": ":"}


def draw(comparison: Comparison, path: Path) -> None:
    """Write three panels to `path`."""
    barrier = [row for row in comparison.rows if row.method == "barrier" and not row.note]
    exact = comparison.row("exact")
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    gap, error, clock = figure.subplots(1, 3)
    _curve(gap, barrier, "gap", _BLUE)
    gap.set(title="solution", ylabel="|x(mu) - x| / |x|")
    _curve(error, barrier, "error", _BLUE)
    _level(error, exact.error, "exact", _RED)
    for row in comparison.rows:
        if row.method.startswith("diffcp") and not math.isnan(row.error):
            _level(error, row.error, row.method, _GRAY, _STYLES[row.method])
    error.set(title="gradient, against differences", ylabel="relative error" if comparison.relative else "|error|")
    _curve(clock, barrier, "forward_ms", _BLUE, "forward")
    _curve(clock, barrier, "backward_ms", "#6aa5dd", "backward")
    _level(clock, exact.forward_ms, "exact, forward", _RED)
    _level(clock, exact.backward_ms, "exact, backward", _RED, ":")
    clock.set(title="time of a call", ylabel="ms")
    for axes in (gap, error, clock):
        axes.set(xscale="log", yscale="log", xlabel="mu")
        axes.invert_xaxis()
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes, place in ((error, "lower left"), (clock, "best")):
        axes.legend(loc=place, edgecolor="none", framealpha=0.85, fontsize=8)
    if comparison.recommended_mu > 0.0:
        for axes in (gap, error):
            axes.axvline(comparison.recommended_mu, color="0.6", linewidth=0.8, linestyle=(0, (2, 3)))
    figure.savefig(path, dpi=110)


def _curve(axes: Any, rows: list[Row], entry: str, color: str, label: str = "barrier") -> None:
    values = [max(getattr(row, entry), _FLOOR) for row in rows]
    axes.plot([row.mu for row in rows], values, "o-", color=color, markersize=3.5, linewidth=1.3, label=label)


def _level(axes: Any, value: float, label: str, color: str, style: Any = "--") -> None:
    if not math.isnan(value):
        axes.axhline(max(value, _FLOOR), color=color, linestyle=style, linewidth=1.1, label=label)

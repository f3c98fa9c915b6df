"""Pictures of solutions and sweeps: bars for one instance, paths for many, changes of the active constraints marked."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcl.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from dcl.programs.names import Entry
    from dcl.programs.results import Sweep
    from dcl.programs.solution import ProgramSolution

_COLORS = ("#1f5fa8", "#b5402a", "#3c8a4e", "#8a5fa8", "#c28a1a", "#4a4a4a", "#2a9d9d", "#c46a9b")
_NAMED = 8  # paths in the legend of a panel
_MARKS = 60  # changes of the active constraints that can still be told apart


def _figure(panels: int) -> tuple[Any, Any]:
    if find_spec("matplotlib") is None:
        raise UnsupportedError('matplotlib is not installed: pip install "dcl-layers[programs]"')
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.6 * panels + 0.4), layout="constrained")
    return figure, figure.subplots(panels, 1, squeeze=False)[:, 0]


def _finish(figure: Any, path: str | Path | None) -> Any:
    for axes in figure.axes:
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        suffix = Path(path).suffix[1:].lower()
        kinds = figure.canvas.get_supported_filetypes()
        if suffix not in kinds:
            raise InputError(f"{path}: unknown kind of picture; use .png, .pdf or .svg", argument="path")
        figure.savefig(path, dpi=120)
    return figure


def draw_solution(solution: ProgramSolution, path: str | Path | None) -> Any:
    """A panel for each variable: bars of its entries; of a batch, a path for each entry."""
    variables = solution.model.variables
    figure, panels = _figure(len(variables))
    for axes, entry, t in zip(panels, variables, solution.known.outputs, strict=False):
        values = t.reshape(-1, max(1, int(np.prod(entry.shape)))).numpy()
        if solution.batch:
            _paths(axes, np.arange(len(values)), values, solution.axes.names(entry))
            axes.set_xlabel("instance")
        else:
            labels = solution.axes.places(entry)
            axes.bar(np.arange(values.size), values[0], color=_COLORS[0], width=0.7)
            axes.axhline(0.0, color="0.4", linewidth=0.8)
            if 1 < values.size <= 30:
                axes.set_xticks(np.arange(values.size), labels)
        axes.set_ylabel(entry.name)
    return _finish(figure, path)


def draw_sweep(sweep: Sweep, variables: Sequence[Entry], path: str | Path | None) -> Any:
    """A panel for each variable, and one for the value, against the first swept number."""
    figure, panels = _figure(len(variables) + 1)
    name, along = sweep.index
    order = np.argsort(along, kind="stable")
    is_path = bool((np.diff(along) > 0).all() or (np.diff(along) < 0).all())
    x = along if is_path else along[order]
    logarithmic = is_path and len(x) > 2 and bool((x > 0).all()) and float(x.max() / x.min()) > 50.0
    for axes, one in zip(panels, variables, strict=False):
        array = sweep[one.name]
        values = array.reshape(len(array), -1)
        _paths(axes, x, values if is_path else values[order], sweep.axes.names(one))
        axes.set_ylabel(one.name)
    panels[-1].plot(x, sweep.value if is_path else sweep.value[order], color=_COLORS[0], linewidth=1.4)
    panels[-1].set_ylabel("optimal value")
    panels[-1].set_xlabel(name)
    changes = sweep.changes if is_path else np.zeros(0, np.int64)
    shown = changes if len(changes) <= _MARKS else changes[:0]
    failed = np.flatnonzero(~sweep.ok)
    for axes in panels:
        for row in shown:
            axes.axvline(0.5 * (x[row - 1] + x[row]), color="0.55", linewidth=0.7, linestyle=":", zorder=0)
        for first, last in _runs(failed) if is_path else []:
            axes.axvspan(x[first], x[last], color="#b5402a", alpha=0.12, linewidth=0)
        if logarithmic:
            axes.set_xscale("log")
    if is_path:
        marks = f"{len(changes)} changes of the active constraints" + (" (dotted)" if len(shown) else "")
        none = f"; {len(failed)} rows without a solution (shaded)" if len(failed) else ""
        panels[0].set_title(marks + none, fontsize=9, loc="left")
    return _finish(figure, path)


def _runs(places: Any) -> list[tuple[int, int]]:
    """First and last of each run of successive places."""
    if not len(places):
        return []
    return [(int(run[0]), int(run[-1])) for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)]


def _paths(axes: Any, x: Any, values: Any, labels: Sequence[str]) -> None:
    few = len(labels) <= _NAMED
    for k, label in enumerate(labels):
        color = _COLORS[k % len(_COLORS)] if few else "#1f5fa8"
        axes.plot(x, values[:, k], color=color, linewidth=1.3 if few else 0.7, alpha=1.0 if few else 0.6, label=label)
    if len(labels) > 1 and few:
        axes.legend(frameon=False, fontsize=8, ncols=2 if len(labels) > 4 else 1)

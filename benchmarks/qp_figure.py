"""The figure of `how_fast_are_qp_layers.py`: how time grows with n and with the batch, log-log, right answers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lines import Line
from matplotlib.figure import Figure
from qp_works import DATA, TITLES, Work, shape_of_size

MANY, ONE_SIZE = 128, 10
DRAWN = ("right", "overhead")
_STYLES = {
    "dcl.QPLayer": ("#b5402a", "o", "-"),
    "dcl.CvxpyLayer": ("#e08a5b", "s", (0, (4, 1.5))),
    "moreau.torch": ("#1f5fa8", "^", "-"),
    "moreau.torch, active set": ("#1f5fa8", "2", "-."),
    "proxsuite": ("#2f7d4f", "v", "-"),
    "qpth": ("#7b52ab", "D", "-"),
    "cvxpylayers + MOREAU": ("#6aa5dd", "<", "--"),
    "cvxpylayers, eps 1e-8": ("#8c8c3a", ">", "--"),
    "cvxpylayers, 1e-8, dense": ("#c9a71b", "P", "--"),
    "cvxpylayers, default": ("#9c6b4f", "X", "--"),
    "torch: an empty Function": ("0.55", "", ":"),
}


def draw(done: Sequence[tuple[Work, list[Line]]]) -> Figure:
    """One row for each family: against n at the smallest batch and at a large one, against the batch at one n.

    Only works of `shape_of_size`, one thread, forward + backward; an empty figure without any.
    """
    grown = [(work, lines) for work, lines in done if _is_grown(work)]
    families = [family for family in DATA if any(work.family == family for work, _ in grown)]
    figure = Figure(figsize=(12.5, 1.3 + 3.5 * len(families)), layout="constrained")
    if not families:
        return figure
    figure.suptitle("forward + backward, one thread: ms an instance, right answers only", fontsize=11)
    handles: dict[str, Any] = {}
    for row, family in zip(figure.subplots(len(families), 3, squeeze=False), families, strict=True):
        batches = sorted({work.batch for work, _ in grown if work.family == family})
        sizes = sorted({work.shape.n for work, _ in grown if work.family == family})
        many = max((batch for batch in batches if batch <= MANY), default=batches[0])
        n = min(sizes, key=lambda size: abs(size - ONE_SIZE))
        for axes, batch in zip(row, (batches[0], many), strict=False):
            points = [(work.shape.n, line) for work, lines in grown for line in lines if _at(work, family, batch=batch)]
            handles |= _curves(axes, points)
            axes.set(title=f"{TITLES[family]}, batch {batch}", xlabel="n")
        points = [(work.batch, line) for work, lines in grown for line in lines if _at(work, family, n=n)]
        handles |= _curves(row[2], points)
        row[2].set(title=f"{TITLES[family]}, n = {n}", xlabel="batch")
        row[0].set_ylabel("ms an instance")
    ordered = {name: handles[name] for name in _STYLES if name in handles}
    if ordered:
        figure.legend(ordered.values(), ordered.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def _is_grown(work: Work) -> bool:
    is_plain = work.threads == 1 and work.backward and not work.central
    return is_plain and work.shape == shape_of_size(work.family, work.shape.n)


def _at(work: Work, family: str, *, batch: int | None = None, n: int | None = None) -> bool:
    return work.family == family and batch in (None, work.batch) and n in (None, work.shape.n)


def _curves(axes: Any, points: Sequence[tuple[int, Line]]) -> dict[str, Any]:
    """Draw time against the first entries, a curve for each layer; the curves by name."""
    drawn = {}
    for name, (color, marker, style) in _STYLES.items():
        of_layer = sorted((at, line.ms) for at, line in points if line.layer == name and line.verdict in DRAWN)
        if of_layer:
            width = 2.2 if name.startswith("dcl") else 1.2
            (drawn[name],) = axes.plot(
                *zip(*of_layer, strict=True),
                color=color,
                marker=marker,
                linestyle=style,
                linewidth=width,
                markersize=4.5,
            )
    axes.set(xscale="log", yscale="log")
    ticks = sorted({at for at, _ in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn

"""The demo's figure: the error on held-out days for each method, and what the layer's model reads on the slips."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcl.demo.dispatch import Outcome

# distinguishable by color-blind readers, and by marker and dashes in print
_STYLES = (("#ababab", "s", ":"), ("#ff800e", "^", "-."), ("#c85200", "v", "--"), ("#006ba4", "o", "-"))


def draw(outcomes: dict[tuple[int, int], Outcome], path: Path) -> None:
    """Write the figure of the outcomes by (days, seed)."""
    figure = Figure(figsize=(11.0, 4.6), dpi=140, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1.0])
    _errors(left, outcomes)
    _readings(right, outcomes)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
    figure.savefig(path)


def _errors(axes: Axes, outcomes: dict[tuple[int, int], Outcome]) -> None:
    """A line through the mean of the seeds, a marker for each seed; the axis starts at zero."""
    days = sorted({d for d, _ in outcomes})
    for method, (color, marker, dashes) in zip(next(iter(outcomes.values())).errors, _STYLES, strict=True):
        by_days = [[o.errors[method] for (d, _), o in outcomes.items() if d == one] for one in days]
        axes.plot(
            days,
            [sum(c) / len(c) for c in by_days],
            color=color,
            linestyle=dashes,
            marker=marker,
            linewidth=2,
            label=method,
        )
        for one, cells in zip(days, by_days, strict=True):
            axes.plot([one] * len(cells), cells, marker, color=color, markersize=4, alpha=0.6)
    floor = sum(outcome.floor for outcome in outcomes.values()) / len(outcomes)
    axes.axhline(floor, color="black", linewidth=1.0, label="rule and digits known (rounding)")
    axes.set_xscale("log")
    axes.set_xticks(days, [str(one) for one in days])
    axes.minorticks_off()
    axes.set_ylim(0.0, None)
    axes.set_xlabel("past days to learn from")
    axes.set_ylabel("error of a shipment on held-out days (units, RMS)")
    axes.set_title("What will the dispatcher ship?", loc="left", fontsize=11)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 0.11), framealpha=0.9)


def _readings(axes: Axes, outcomes: dict[tuple[int, int], Outcome]) -> None:
    """For each digit the middle half and nine tenths of what was read, in the first run with most days."""
    most = max(days for days, _ in outcomes)
    outcome = next(o for (days, _), o in outcomes.items() if days == most)
    read = [outcome.readings[outcome.digits == digit].numpy() for digit in range(10)]
    axes.boxplot(
        read,
        positions=range(10),
        whis=(5, 95),
        showfliers=False,
        boxprops={"color": "#006ba4"},
        medianprops={"color": "#c85200", "linewidth": 2},
    )
    axes.plot([0, 9], [0, 9], color="black", linewidth=1.0, linestyle=":")
    axes.set_xlabel("digit that is written on a held-out slip")
    axes.set_ylabel("amount that the layer's model reads (units)")
    axes.set_title(f"What it learned to read in {most} days, without being told", loc="left", fontsize=11)

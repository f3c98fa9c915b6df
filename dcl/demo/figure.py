"""The demo's figure: how the validation loss falls while learning, and which penalties were learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from dcl.demo.regression import Outcome

_COLORS = ("#0b6e99", "#d1651f", "#5a8f29")
_GRAY = "#555555"
_DASHES = (0, (5, 3))


def draw(outcomes: dict[str, Outcome], error: Callable[[Tensor], Tensor], features: list[str], path: Path) -> None:
    """Write the figure of the outcomes, by name; `error` turns a mean square into the units of the target."""
    figure = Figure(figsize=(11.0, 4.8), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.25])
    _learning_curves(left, outcomes, error)
    _penalties(right, outcomes, features)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
    handles = [
        *(Line2D([], [], color=c, linewidth=5, label=name) for name, c in zip(outcomes, _COLORS, strict=False)),
        Line2D([], [], color=_GRAY, linewidth=2.2, marker="o", label="one penalty per feature, learned"),
        Line2D([], [], color=_GRAY, linewidth=1.3, linestyle=_DASHES, label="best single penalty"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.savefig(path)


def _learning_curves(axes: Axes, outcomes: dict[str, Outcome], error: Callable[[Tensor], Tensor]) -> None:
    """Error of the mean over the splits, after every step, and that of the best single penalty."""
    for outcome, color in zip(outcomes.values(), _COLORS, strict=False):
        axes.plot(error(outcome.curve.mean(-1)), color=color, linewidth=2.2)
        axes.axhline(float(error(outcome.single_loss.mean())), color=color, linewidth=1.3, linestyle=_DASHES)
    axes.margins(x=0.02)
    axes.set_xlabel("gradient step")
    axes.set_ylabel("cross-validation error (RMSE)")
    axes.set_title("Gradient descent through the argmin", loc="left", fontsize=11)


def _penalties(axes: Axes, outcomes: dict[str, Outcome], features: list[str]) -> None:
    """Median and middle half over the splits, a row for each feature and one for all shuffled columns together."""
    n = len(features)
    labels = list(features)
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    for k, (outcome, color) in enumerate(zip(outcomes.values(), _COLORS, strict=False)):
        rows = list(outcome.penalty[:, :n].unbind(-1))
        if outcome.penalty.shape[-1] > n:
            rows.append(outcome.penalty[:, n:].flatten())
            labels = [*features, "shuffled columns"]
        low, middle, high = torch.stack([row.quantile(quartiles) for row in rows], -1)
        place = torch.arange(len(rows)) + 0.26 * (k - (len(outcomes) - 1) / 2)
        axes.hlines(place, low, high, color=color, linewidth=3.5, alpha=0.35)
        axes.plot(middle, place, "o", color=color, markersize=6)
        axes.axvline(float(outcome.single.median()), color=color, linewidth=1.3, linestyle=_DASHES)
    axes.set_xscale("log")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("penalty (median and middle half of the splits)")
    axes.set_title("Penalty of each feature", loc="left", fontsize=11)

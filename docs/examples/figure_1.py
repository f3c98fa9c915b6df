"""Figure 1 of Gould et al. 2016: f(x, y) = x y^4 + 2 x^2 y^3 - 12 y^2, its slice at x = 1, its stationary points g(x), and g'(x).

The three branches are one batch, followed along x: the answer for one x is the start for the next (the report's footnote 2).

    python docs/examples/figure_1.py [FILE.png]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import dcl

FIRST, LAST, POINTS = 0.5, 3.0, 26
STARTS = (0.0, 3.2, -3.9)  # near the three stationary points at x = FIRST
COLORS = ("#666666", "#1f5fa8", "#b5402a")


def f(y: Tensor, x: Tensor) -> Tensor:
    """The report's example 3.2."""
    return x * y**4 + 2.0 * x**2 * y**3 - 12.0 * y**2


@dataclass(frozen=True, eq=False)
class Branches:
    """x (points,), the three stationary points g (points, 3), their derivatives (points, 3)."""

    x: Tensor
    g: Tensor
    slope: Tensor


def branches(points: int = POINTS) -> Branches:
    """All stationary points along x, and their derivatives."""
    layer = dcl.ArgminLayer(f, stationary="any", in_dims=(0, 0))
    grid = torch.linspace(FIRST, LAST, points, dtype=torch.float64)
    y = torch.tensor(STARTS, dtype=torch.float64)
    values, slopes = [], []
    for x0 in grid:
        x = x0.repeat(3).requires_grad_()
        y = layer(y, x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        y = y.detach()
        values.append(y)
        slopes.append(slope)
    return Branches(grid, torch.stack(values), torch.stack(slopes))


def main(path: Path) -> None:
    """Draw the four panels."""
    found = branches()
    figure = Figure(figsize=(8.4, 6.6), layout="constrained")
    surface = figure.add_subplot(2, 2, 1, projection="3d")
    slice_, value, gradient = (figure.add_subplot(2, 2, k) for k in (2, 3, 4))
    x, y = torch.meshgrid(torch.linspace(0.0, 2.0, 41).double(), torch.linspace(-4.0, 3.0, 71).double(), indexing="ij")
    surface.plot_surface(x, y, f(y, x), cmap="Blues", linewidth=0.1, edgecolor="0.5", rstride=2, cstride=3)
    surface.set(xlabel="x", ylabel="y", title="f(x, y)")
    surface.tick_params(labelsize=7)
    surface.view_init(28, -55)
    line = torch.linspace(-4.2, 2.8, 200).double()
    slice_.plot(line, f(line, torch.tensor(1.0).double()), color="0.2", linewidth=1.4)
    at = int((found.x - 1.0).abs().argmin())
    for k, (name, color) in enumerate(zip(("maximum", "minimum", "least minimum"), COLORS, strict=True)):
        point = found.g[at, k]
        slice_.plot(point, f(point, found.x[at]), "o", color=color, label=f"{name}, y = {float(point):.3f}")
        value.plot(found.x, found.g[:, k], color=color, linewidth=1.6)
        gradient.plot(found.x, found.slope[:, k], color=color, linewidth=1.6, label=name)
    slice_.set(xlabel="y", ylabel="f(1, y)", title="slice at x = 1")
    slice_.legend(frameon=False, fontsize=8)
    value.set(xlabel="x", ylabel="g(x)", title="stationary points")
    gradient.set(xlabel="x", ylabel="g'(x)", title="their derivatives")
    gradient.legend(frameon=False, fontsize=8)
    for axes in (slice_, value, gradient):
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=85)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("figure_1.png"), metavar="FILE.png")
    main(parser.parse_args().path)

"""Figure 3 of Gould et al. 2016: g(x) = argmin_{y >= 0} (x - y)^2, its log-barrier approximations g_t, and their gradients.

g_t(x) = argmin_y t (x - y)^2 - log(y)        is the point x(mu) of a layer with mu = 1/t

python docs/examples/figure_3.py [FILE.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cvxpy as cp
import torch
from matplotlib.figure import Figure
from torch import Tensor

import dcl

TS = (1.0, 10.0, 100.0)


def curve(x: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """g and g' at the points x (n,), at mu = 1/t or 0 for g itself."""
    y, point = cp.Variable(), cp.Parameter()
    layer = dcl.CvxpyLayer(
        cp.Problem(cp.Minimize(cp.square(point - y)), [y >= 0]), [point], [y], on_degenerate="ignore"
    )
    x = x.clone().requires_grad_()
    (g,) = layer(x, mu=mu)
    (slope,) = torch.autograd.grad(g.sum(), x)
    return g.detach(), slope


def main(path: Path) -> None:
    """Draw the figure."""
    x = torch.linspace(-1.0, 1.0, 200, dtype=torch.float64)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    value, gradient = figure.subplots(1, 2)
    shades = ("#9cc3e6", "#4a90c9", "#1f5fa8")
    for mu, color, label in [(1.0 / t, shade, f"t = {t:g}") for t, shade in zip(TS, shades, strict=True)] + [
        (0.0, "black", "exact")
    ]:
        g, slope = curve(x, mu)
        value.plot(x, g, color=color, label=label, linewidth=1.4)
        gradient.plot(x, slope, color=color, label=label, linewidth=1.4)
    value.set(xlabel="x", title="g(x) and g_t(x)")
    gradient.set(xlabel="x", title="gradients", ylim=(-0.05, 1.05))
    value.legend(frameon=False)
    for axes in (value, gradient):
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("figure_3.png"), metavar="FILE.png")
    main(parser.parse_args().path)

"""Figures 2 and 4 of Gould et al. 2016: the most likely point of a soft-max class, before and after a gradient step.

    x_i = argmax_x  a_i'x + b_i - log sum_j exp(a_j'x + b_j)              Figure 2
    the same subject to 1'x = 1                                            Figure 4
    theta <- theta - eta d(x_i)_1 / d theta

for ten random classes in the plane; every parameter takes the step, so that the point of class i moves to the left.  Not
every class has a most likely point: without constraints it exists where a_i lies inside of the convex hull of the others.

    python docs/examples/figures_2_and_4.py [FILE.png]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import dcl

CLASSES, STEP, SHOWN = 10, 0.3, 4
PLANE = (torch.ones(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Step:
    """For each class its parameters A (m, m, 2), b (m, m), the point x (m, 2) and the gradients of its first coordinate.

    A class without a most likely point has x NaN and zero gradients.
    """

    A: Tensor
    b: Tensor
    x: Tensor
    grad_A: Tensor
    grad_b: Tensor


def log_likelihood(x: Tensor, A: Tensor, b: Tensor, class_: Tensor) -> Tensor:
    """log l_i(x) with i as a row of the identity."""
    logits = A @ x + b
    return class_ @ logits - torch.logsumexp(logits, 0)


def parameters(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random A (m, 2) and b (m,)."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((CLASSES, 2), (CLASSES,)))  # type: ignore[return-value]


def most_likely(A: Tensor, b: Tensor, *, plane: bool) -> Step:
    """The points of all classes, each with parameters of its own: A (m, m, 2), b (m, m)."""
    layer = dcl.ArgminLayer(
        log_likelihood, PLANE if plane else None, maximize=True, in_dims=(0, 0, 0, 0), on_failure="nan"
    )
    A, b = A.clone().requires_grad_(), b.clone().requires_grad_()
    start = torch.full((CLASSES, 2), 0.5, dtype=torch.float64)
    x = layer(start, A, b, torch.eye(CLASSES, dtype=torch.float64))
    grad_A, grad_b = torch.autograd.grad(x[:, 0].nansum(), (A, b))
    return Step(A.detach(), b.detach(), x.detach(), grad_A, grad_b)


def before_and_after(*, plane: bool) -> tuple[Step, Step]:
    """The points for random parameters, and after one step of gradient descent on the first coordinate."""
    A, b = parameters()
    before = most_likely(A.expand(CLASSES, -1, -1), b.expand(CLASSES, -1), plane=plane)
    return before, most_likely(before.A - STEP * before.grad_A, before.b - STEP * before.grad_b, plane=plane)


def main(path: Path) -> None:
    """Draw the surfaces of one class, before (left) and after (right), free (top) and on the plane (bottom)."""
    grid = torch.linspace(-2.0, 2.0, 121, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
    figure = Figure(figsize=(7.6, 6.2), layout="compressed")
    for row, plane in zip(figure.subplots(2, 2), (False, True), strict=True):
        before, after = before_and_after(plane=plane)
        for axes, step, title in ((row[0], before, "before"), (row[1], after, "after the step")):
            likelihood = torch.softmax(points @ step.A[SHOWN].mT + step.b[SHOWN], -1)[..., SHOWN]
            filled = axes.contourf(grid, grid, likelihood, levels=torch.arange(0.0, 0.13, 0.01), cmap="Blues")
            figure.colorbar(filled, ax=axes, label="likelihood", format="%.2f")
            if plane:
                axes.plot(grid, 1.0 - grid, color="0.3", linewidth=1.0, label="1'x = 1")
            if step is after:
                axes.plot(*before.x[SHOWN], "o", mfc="none", mec="#b5402a", markersize=8, label="before")
            axes.plot(*step.x[SHOWN], "o", color="#b5402a", markersize=7, label="most likely point")
            axes.set(title=f"{title}: x_1 = {step.x[SHOWN, 0]:.3f}", aspect="equal", xlabel="x_1", ylabel="x_2")
            axes.set(xlim=(-2.0, 2.0), ylim=(-2.0, 2.0))
        row[1].legend(loc="lower left", fontsize=8, framealpha=0.9, edgecolor="none")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("figures_2_and_4.png"), metavar="FILE.png")
    main(parser.parse_args().path)

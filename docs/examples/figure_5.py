"""Figure 5 of Gould et al. 2016: the most likely point of a soft-max class in the unit ball, before and after a gradient step.

    x_i = argmax_{|x| <= 1}  a_i'x + b_i - log sum_j exp(a_j'x + b_j)         theta <- theta - eta d(x_i)_1 / d theta

for ten random classes in the plane; every parameter takes the step, so that the point of class i moves to the left.

    python docs/examples/figure_5.py [FILE.png]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cvxpy as cp
import torch
from matplotlib.figure import Figure
from torch import Tensor

import dcl

CLASSES, STEP, SHOWN = 10, 0.5, (3, 6)


@dataclass(frozen=True, eq=False)
class Step:
    """For each class its parameters A (m, m, 2), b (m, m), the point x (m, 2) and the gradients of its first coordinate."""

    A: Tensor
    b: Tensor
    x: Tensor
    grad_A: Tensor
    grad_b: Tensor


def layer() -> dcl.CvxpyLayer:
    """(A, b, a_i, b_i) -> x_i."""
    x = cp.Variable(2)
    A, b, a, shift = cp.Parameter((CLASSES, 2)), cp.Parameter(CLASSES), cp.Parameter(2), cp.Parameter()
    objective = cp.Maximize(a @ x + shift - cp.log_sum_exp(A @ x + b))
    return dcl.CvxpyLayer(cp.Problem(objective, [cp.SOC(cp.Constant(1.0), x)]), [A, b, a, shift], [x])


def parameters(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random A (m, 2) and b (m,)."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((CLASSES, 2), (CLASSES,)))  # type: ignore[return-value]


def most_likely(A: Tensor, b: Tensor, mu: float = 0.0) -> Step:
    """The points of all classes, each with parameters of its own: A (m, m, 2), b (m, m)."""
    A, b = A.clone().requires_grad_(), b.clone().requires_grad_()
    i = torch.arange(CLASSES)
    (x,) = layer()(A, b, A[i, i], b[i, i], mu=mu)
    grad_A, grad_b = torch.autograd.grad(x[:, 0].sum(), (A, b))
    return Step(A.detach(), b.detach(), x.detach(), grad_A, grad_b)


def surface(A: Tensor, b: Tensor, i: int, points: Tensor) -> Tensor:
    """The likelihood of class i at the points (..., 2)."""
    return torch.softmax(points @ A.mT + b, -1)[..., i]


def main(path: Path) -> None:
    """Draw the surfaces of two classes, before (left) and after (right)."""
    A, b = parameters()
    before = most_likely(A.expand(CLASSES, -1, -1), b.expand(CLASSES, -1))
    after = most_likely(before.A - STEP * before.grad_A, before.b - STEP * before.grad_b)
    grid = torch.linspace(-1.5, 1.5, 161, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
    angle = torch.linspace(0.0, 2.0 * torch.pi, 200)
    figure = Figure(figsize=(7.2, 7.0), layout="constrained")
    for row, i in zip(figure.subplots(len(SHOWN), 2), SHOWN, strict=True):
        for axes, step, title in ((row[0], before, "before"), (row[1], after, "after the step")):
            axes.contourf(grid, grid, surface(step.A[i], step.b[i], i, points), levels=14, cmap="Blues")
            axes.plot(angle.cos(), angle.sin(), color="0.3", linewidth=1.0)
            if step is after:
                axes.plot(
                    *before.x[i], "o", markerfacecolor="none", markeredgecolor="#b5402a", markersize=8, label="before"
                )
            axes.plot(*step.x[i], "o", color="#b5402a", markersize=7, label="most likely point")
            axes.set(
                title=f"class {i + 1}, {title}: x_1 = {step.x[i, 0]:.3f}", aspect="equal", xlabel="x_1", ylabel="x_2"
            )
        row[1].legend(loc="upper left" if i == SHOWN[0] else "lower left", fontsize=8, framealpha=0.9, edgecolor="none")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("figure_5.png"), metavar="FILE.png")
    main(parser.parse_args().path)

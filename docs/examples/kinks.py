"""At a kink: perturb it to a nearby differentiable point, or take the barrier?  (Gould et al. 2016, section 6.)

    x(theta) = argmin_{x >= 0} 1/2 x'Hx - theta'x          loss w'x,  w random

with theta such that of ten entries of x two are free, two are zero and six weakly zero (zero with a zero multiplier): 2^6
one-sided gradients meet there.  Compared are the gradient at theta + a random step (one, or the mean of several), the barrier's,
and that of the exact solution with the value 1/2 at ties.  Judged by the one-sided derivative of the loss along the negative
direction, an enumeration: its sign, and its size relative to the best of the 2^6 one-sided gradients.

    python docs/examples/kinks.py [FILE.png]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import dcl

F64 = {"dtype": torch.float64}
FREE, TIED, ZERO = [0, 1], [2, 3, 4, 5, 6, 7], [8, 9]  # the entries of x


def generator(seed: int) -> torch.Generator:
    """Random numbers of one measurement."""
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, eq=False)
class Kinks:
    """Share of descent directions and median rate, 1 for the steepest of the one-sided gradients, by the size of the remedy."""

    sizes: list[float]
    descent: dict[str, list[float]]
    rate: dict[str, list[float]]
    half: tuple[float, float]


def subsets(rows: list[int]) -> Iterator[list[int]]:
    """All of them."""
    for size in range(len(rows) + 1):
        yield from map(list, itertools.combinations(rows, size))


def slopes(H: Tensor, w: Tensor, d: Tensor) -> Tensor:
    """One-sided derivatives of w'x along d (..., trials, 10), enumerated.

    x' minimizes 1/2 x''H x' - d'x' with x' = 0 on the zero entries and x' >= 0 on the weakly zero ones.
    """
    best, derivative = torch.full(d.shape[:-1], torch.inf, **F64), torch.zeros(d.shape[:-1], **F64)
    for chosen in subsets(TIED):
        rows = [*FREE, *chosen]
        x = torch.zeros_like(d)
        x[..., rows] = torch.linalg.solve(H[:, rows][:, :, rows], d[..., rows].unsqueeze(-1)).squeeze(-1)
        value = -0.5 * (d * x).sum(-1)
        better = (x[..., chosen] >= 0.0).all(-1) & (value < best)
        best, derivative = torch.where(better, value, best), torch.where(better, (w * x).sum(-1), derivative)
    return derivative


def kinks(trials: int = 200, sizes: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)) -> Kinks:
    """Random programs at kinks, random losses; mu = size^2, so that both remedies move x by about `size`."""
    draws = generator(6)
    F = torch.randn(trials, 10, 10, generator=draws, **F64)
    H = F @ F.mT / 10.0 + 1e-3 * torch.eye(10, **F64)
    x, z = torch.zeros(trials, 10, **F64), torch.zeros(trials, 10, **F64)
    x[:, FREE] = 0.5 + torch.rand(trials, len(FREE), generator=draws, **F64)
    z[:, ZERO] = 0.5 + torch.rand(trials, len(ZERO), generator=draws, **F64)
    theta = (H @ x.unsqueeze(-1)).squeeze(-1) - z
    w = torch.randn(trials, 10, generator=draws, **F64)
    layer = dcl.QPLayer(on_degenerate="ignore")

    def gradient(at: Tensor, mu: float = 0.0) -> Tensor:
        at = at.clone().requires_grad_()
        found = layer(H, -at, lb=torch.zeros(10, **F64), mu=mu).x
        return torch.autograd.grad((w * found).sum(), at)[0]

    def rates(direction: Tensor) -> Tensor:
        return -slopes(H, w, -direction / direction.norm(dim=-1, keepdim=True))

    one_sided = torch.zeros(2 ** len(TIED), trials, 10, **F64)
    for g, chosen in zip(one_sided, subsets(TIED), strict=True):
        rows = [*FREE, *chosen]
        g[:, rows] = torch.linalg.solve(H[:, rows][:, :, rows], w[:, rows].unsqueeze(-1)).squeeze(-1)
    steepest = rates(one_sided).amax(0)

    def judged(direction: Tensor) -> tuple[float, float]:
        achieved = rates(direction)
        return float((achieved > 0.0).double().mean()), float((achieved / steepest).median())

    averaged = {"one perturbation": 1, "mean of 4 perturbations": 4, "mean of 32 perturbations": 32}
    descent: dict[str, list[float]] = {name: [] for name in (*averaged, "barrier")}
    rate: dict[str, list[float]] = {name: [] for name in descent}
    for size in sizes:
        moves = torch.randn(max(averaged.values()), trials, 10, generator=generator(7), **F64)
        moves *= size / moves.norm(dim=-1, keepdim=True)
        perturbed = gradient(theta + moves)
        found = {name: perturbed[:count].mean(0) for name, count in averaged.items()}
        for name, direction in (*found.items(), ("barrier", gradient(theta, size**2))):
            share, median = judged(direction)
            descent[name].append(share)
            rate[name].append(median)
    return Kinks(list(sizes), descent, rate, judged(gradient(theta)))


def main(path: Path, trials: int = 200) -> Kinks:
    """Measure, print the tables, draw the figure."""
    found = kinks(trials)
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    for axes, lines, half, name in (
        (figure.subplots(1, 2)[0], found.descent, found.half[0], "share of descent directions"),
        (figure.axes[1], found.rate, found.half[1], "rate of descent, relative (median)"),
    ):
        print(
            f"\n| {name}; size | {' | '.join(f'{size:.0e}' for size in found.sizes)} |\n|---|{'---|' * len(found.sizes)}"
        )
        for (label, row), color in zip(lines.items(), ("#9cc3e6", "#4a90c9", "#1f5fa8", "#b5402a"), strict=True):
            print(f"| {label} | {' | '.join(f'{value:.3f}' for value in row)} |")
            axes.semilogx(found.sizes, row, color=color, marker="o", markersize=3, linewidth=1.4, label=label)
        print(f"| exact, 1/2 at ties | {' | '.join([f'{half:.3f}'] * len(found.sizes))} |")
        axes.axhline(half, color="0.4", linestyle="--", linewidth=1.0, label="exact, 1/2 at ties")
        axes.set(xlabel="size: |step in theta|, or square root of mu", title=name, ylim=(0.5, 1.02))
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, dpi=100)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("kinks.png"), metavar="FILE.png")
    main(parser.parse_args().path)

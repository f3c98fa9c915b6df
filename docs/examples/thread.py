"""The scripts of the forum thread "How to estimate the gradient of an argmin loss", each with dcl, and what they look like.

    y(theta) = argmin_y f_theta(y),  f_theta a small tanh network;  d y / d theta for all of its parameters

- seed 2023, scalar y: there is a minimum, and the derivative is that of the thread;
- seed 456, scalar y: f falls without end, which is an error here; with y^2 / 16 there is a minimum;
- seed 123, y with three entries: the same, where the thread's formula gave 1e15.

    python docs/examples/thread.py [FILE.png]
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import dcl

# x_star of the thread for seed 123: where Adam was stopped on its way to infinity
STOPPED = torch.tensor([-10.2784, 9.1450, -8.9501], dtype=torch.float64)


class Network(nn.Module):
    """The thread's network of that seed in double precision, plus y'y / 16 if it is stabilized."""

    def __init__(self, seed: int, *, is_stabilized: bool) -> None:
        super().__init__()
        n, hidden, dtype = (3, 2, torch.float64) if seed == 123 else (1, 3, torch.float32)
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(n, hidden, dtype=dtype), nn.Tanh(), nn.Linear(hidden, 1, bias=False, dtype=dtype)
        ).double()
        self.n, self.stabilizer = n, 0.0625 if is_stabilized else 0.0

    def forward(self, y: Tensor) -> Tensor:
        """f of one y (n,)."""
        return self.layers(y).squeeze(-1) + self.stabilizer * y.square().sum()


@dataclass(frozen=True, eq=False)
class Found:
    """The argmin (n,), its derivative in the first Linear's weight (n, hidden, n); or why there is none."""

    y: Tensor | None
    slope: Tensor | None
    error: str


def script(seed: int, *, is_stabilized: bool) -> Found:
    """One script of the thread."""
    network = Network(seed, is_stabilized=is_stabilized)
    try:
        y = dcl.ArgminLayer(network)(torch.zeros(network.n, dtype=torch.float64))
    except dcl.DivergedError as error:
        return Found(None, None, str(error))
    weight = network.layers[0].weight
    slope = torch.stack([torch.autograd.grad(entry, weight, retain_graph=True)[0] for entry in y])
    return Found(y.detach(), slope, "")


def difference(seed: int, entry: tuple[int, int], step: float = 1e-4, *, is_stabilized: bool) -> Tensor:
    """The thread's check: the argmin again, with one weight moved to both sides."""
    network, ends = Network(seed, is_stabilized=is_stabilized), []
    for sign in (1.0, -1.0):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            moved.layers[0].weight[entry] += sign * step
        ends.append(dcl.ArgminLayer(moved)(torch.zeros(network.n, dtype=torch.float64)).detach())
    return (ends[0] - ends[1]) / (2.0 * step)


def main(path: Path) -> None:
    """Run all scripts, draw f for the three seeds (123: along its y, or towards where Adam was stopped)."""
    figure = Figure(figsize=(10.2, 3.4), layout="constrained")
    for axes, seed in zip(figure.subplots(1, 3), (2023, 456, 123), strict=True):
        for is_stabilized, color in ((False, "#b5402a"), (True, "#1f5fa8")):
            if seed == 2023 and is_stabilized:
                continue
            network, found = Network(seed, is_stabilized=is_stabilized), script(seed, is_stabilized=is_stabilized)
            name = "f + |y|^2 / 16" if is_stabilized else "f"
            print(f"\nseed {seed}, {name}")
            direction = torch.ones(1, dtype=torch.float64)
            if seed == 123:
                direction = STOPPED / STOPPED.norm() if found.y is None else found.y / found.y.norm()
            s = torch.linspace(-6.0, 16.0, 300, dtype=torch.float64) * (-1.0 if seed == 456 else 1.0)
            with torch.no_grad():
                values = torch.stack([network(one * direction) for one in s])
            axes.plot(
                s, values, color=color, linewidth=1.4, label=name if found.y is not None else f"{name}: no minimum"
            )
            if found.y is None or found.slope is None:
                print(found.error)
                continue
            at = float(found.y @ direction)
            axes.plot(at, float(network(found.y).detach()), "o", color=color)
            entry = (1, 0) if seed != 123 else (0, 0)
            print(f"y = {found.y.tolist()}\nderivative in weight{list(entry)}: {found.slope[:, *entry].tolist()}")
            print(f"differences:              {difference(seed, entry, is_stabilized=is_stabilized).tolist()}")
        axes.set(title=f"seed {seed}", xlabel="y" if seed != 123 else "distance from 0 towards y")
        axes.set_ylim(-1.6, 2.0)
        axes.legend(frameon=False, fontsize=8, loc="lower right" if seed == 456 else "center right")
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("objective")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("thread.png"), metavar="FILE.png")
    main(parser.parse_args().path)

"""A decision learned through a linear program: mu = 0 does not train, mu > 0 does, with mu lowered as training goes on.

Ten patients at a time, three visits to give (scikit-learn's diabetes data: ten features, disease progression after a year):

    visits = argmax c'x  subject to  sum x = 3,  0 <= x <= 1          c: progression as a linear model predicts it

The loss is the regret: the true progression that the best three patients have, less that of the three who were chosen, relative.
The linear program's solution is a vertex, which does not move with c: its exact gradient is zero almost everywhere, and gradient
descent stays where it is.  On the central path the solution moves, and the gradient points from decisions to the model.
Judged by exact decisions (mu = 0) in both cases, on patients that were trained on and on others.

    python docs/examples/decision_layer.py [FILE.png]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import cvxpy as cp
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from torch import Tensor

import dcl

GROUP, VISITS, GROUPS = 10, 3, 60
STEPS, RATE, FIRST_MU, LAST_MU = 80, 0.1, 1.0, 1e-2


@dataclass(frozen=True, eq=False)
class Groups:
    """Patients in groups: features (g, GROUP, 10), progression (g, GROUP), standardized."""

    features: Tensor
    progression: Tensor

    def regret(self, visits: Tensor) -> Tensor:
        """Mean over the groups of the progression missed by these visits (g, GROUP), relative to that of the best three."""
        best = self.progression.topk(VISITS, -1).values.sum(-1)
        return (1.0 - (visits * self.progression).sum(-1) / best).mean()


@dataclass(eq=False)
class Run:
    """Regret of the exact decisions before each step and at the end, on both parts; norms of the gradients."""

    train: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)


def load(seed: int = 0) -> tuple[Groups, Groups]:
    """Groups drawn from one half of the patients, and from the other."""
    data = load_diabetes()
    X, y = torch.from_numpy(data.data), torch.from_numpy(data.target)
    X = X / X.std(0)
    generator = torch.Generator().manual_seed(seed)
    halves = torch.randperm(len(y), generator=generator).chunk(2)
    parts = []
    for half in halves:
        picked = torch.stack([half[torch.randperm(len(half), generator=generator)[:GROUP]] for _ in range(GROUPS)])
        parts.append(Groups(X[picked], y[picked] / y.mean()))
    return parts[0], parts[1]


def decisions() -> dcl.CvxpyLayer:
    """Predicted progression (g, GROUP) -> visits (g, GROUP)."""
    x, c = cp.Variable(GROUP), cp.Parameter(GROUP)
    problem = cp.Problem(cp.Maximize(c @ x), [cp.sum(x) == VISITS, x >= 0, x <= 1])
    return dcl.CvxpyLayer(problem, [c], [x], on_degenerate="ignore")


def start(seed: int = 0) -> Tensor:
    """The model to begin with: random weights of the ten features."""
    return torch.randn(10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def annealed(step: int, steps: int) -> float:
    """mu of a step: from FIRST_MU down to LAST_MU, by a constant factor."""
    return FIRST_MU * (LAST_MU / FIRST_MU) ** (step / max(steps - 1, 1))


def learn(train: Groups, test: Groups, *, barrier: bool, steps: int = STEPS) -> Run:
    """Gradient descent on the regret, through x(mu) with mu annealed, or through the exact solution."""
    layer, run = decisions(), Run()
    weights = start().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=RATE)
    for step in range(steps + 1):
        with torch.no_grad():
            for part, curve in ((train, run.train), (test, run.test)):
                curve.append(float(part.regret(layer(part.features @ weights)[0])))
        if step == steps:
            return run
        mu = annealed(step, steps) if barrier else 0.0
        (visits,) = layer(train.features @ weights, mu=mu)
        optimizer.zero_grad()
        train.regret(visits).backward()
        run.gradients.append(float(weights.grad.norm()))  # type: ignore[union-attr]
        optimizer.step()
    raise AssertionError("unreachable")


def least_squares(train: Groups, test: Groups) -> tuple[float, float]:
    """Regret of the model that is fitted to the progression itself, without a thought of decisions: the usual two stages."""
    X, y = train.features.flatten(0, 1), train.progression.flatten()
    X = torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], -1)
    weights = torch.linalg.lstsq(X, y.unsqueeze(-1)).solution[:10, 0]
    layer = decisions()
    return tuple(float(part.regret(layer(part.features @ weights)[0])) for part in (train, test))  # type: ignore[return-value]


def draw(exact: Run, barrier: Run, fitted: tuple[float, float], path: Path) -> None:
    """Both learning curves."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    for axes, part, level in zip(figure.subplots(1, 2, sharey=True), ("train", "test"), fitted, strict=True):
        axes.plot(getattr(exact, part), color="#b5402a", label="exact gradient (mu = 0)")
        axes.plot(getattr(barrier, part), color="#1f5fa8", label=f"barrier, mu from {FIRST_MU:g} to {LAST_MU:g}")
        axes.axhline(level, color="0.4", linestyle="--", linewidth=1.0, label="least squares on the progression")
        axes.set(title=f"{part}ing patients" if part == "train" else "other patients", xlabel="step", ylim=(0.0, None))
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("regret of the exact decisions")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="center right")
    figure.savefig(path, dpi=100)


def main(path: Path, steps: int = STEPS) -> tuple[Run, Run, tuple[float, float]]:
    """Learn both ways, draw the curves, print the regrets."""
    train, test = load()
    exact, barrier = (learn(train, test, barrier=on, steps=steps) for on in (False, True))
    fitted = least_squares(train, test)
    print(f"{'regret':24}{'training':>10}{'others':>10}{'largest |gradient|':>22}")
    for name, run in (("exact gradient", exact), ("barrier, mu annealed", barrier)):
        print(f"{name:24}{run.train[-1]:10.3f}{run.test[-1]:10.3f}{max(run.gradients):22.1e}")
    print(f"{'least squares':24}{fitted[0]:10.3f}{fitted[1]:10.3f}")
    draw(exact, barrier, fitted, path)
    return exact, barrier, fitted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("decision_layer.png"), metavar="FILE.png")
    main(parser.parse_args().path)

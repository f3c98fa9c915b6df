"""Figure 6 of Gould et al. 2016: parameters of a soft-max classifier that put the most likely points of its classes on targets.

    minimize over theta   1/2 sum_i |x_i(theta) - t_i|^2                                                           eq. 81
    x_i(theta) = argmax_{|x| <= 1}  a_i'x + b_i - log sum_j exp(a_j'x + b_j)        theta = (a_j, b_j), j = 1, 2, 3

with targets t_i evenly spaced on the unit circle, where the optimal value is zero.  Gradient descent on theta (eq. 82, a fixed
step) through the exact solutions; the same through the log-barrier's (eq. 64), which cannot reach the circle; and, once, the
single-level form (eq. 3), in which the conditions of optimality of the lower problems are constraints of the upper one:

    minimize over theta, x, lambda   1/2 sum_i |x_i - t_i|^2
    subject to   a_i - sum_j l_j(x_i) a_j = 2 lambda_i x_i,   |x_i|^2 = 1,   lambda_i >= 0

The ball always binds: of three classes in the plane, none has its a_i inside of the hull of the others.  That is what makes
this form solvable: with complementarity, lambda_i (1 - |x_i|^2) = 0, instead, SLSQP and trust-constr stall at losses of 0.6
and more.

    python docs/examples/figure_6.py [FILE.png]
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

import dcl

CLASSES, ITERATIONS, RATE = 3, 100, 4.0
LAST_MU = 1e-2
ANGLES = 0.5 * math.pi + 2.0 * math.pi * torch.arange(CLASSES, dtype=torch.float64) / CLASSES
TARGETS = torch.stack([ANGLES.cos(), ANGLES.sin()], -1)
EYE = torch.eye(CLASSES, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Run:
    """The loss before each step and after the last; the points and parameters at the end."""

    loss: list[float]
    x: Tensor
    A: Tensor
    b: Tensor


def log_likelihood(x: Tensor, class_: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """log l_i(x), i as a row of the identity."""
    logits = A @ x + b
    return class_ @ logits - torch.logsumexp(logits, 0)


def ball(x: Tensor, class_: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """|x|^2 <= 1."""
    return x @ x - 1.0


def parameters(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random A (3, 2) and b (3,) to begin with."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((CLASSES, 2), (CLASSES,)))  # type: ignore[return-value]


def descend(iterations: int = ITERATIONS, mu: float = 0.0) -> Run:
    """Gradient descent on the classifier, through its most likely points at this mu."""
    layer = dcl.ArgminLayer(log_likelihood, inequality=ball, maximize=True, mu=mu, in_dims=(0, 0, None, None))
    A, b = (t.requires_grad_() for t in parameters())
    start, losses, solution = torch.zeros(CLASSES, 2, dtype=torch.float64), [], None
    for step in range(iterations + 1):
        x, solution = layer(start, EYE, A, b, warm_start=solution, return_solution=True)
        loss = 0.5 * (x - TARGETS).square().sum()
        losses.append(float(loss.detach()))
        if step < iterations:
            grad_A, grad_b = torch.autograd.grad(loss, (A, b))
            A, b = ((t - RATE * g).detach().requires_grad_() for t, g in ((A, grad_A), (b, grad_b)))
    return Run(losses, x.detach(), A.detach(), b.detach())


def unpack(u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A (3, 2), b (3,), x (3, 2), lambda (3,) of the single-level problem's variable."""
    A, b, x, multipliers = u.split([2 * CLASSES, CLASSES, 2 * CLASSES, CLASSES])
    return A.reshape(CLASSES, 2), b, x.reshape(CLASSES, 2), multipliers


def conditions(u: Tensor) -> Tensor:
    """Stationarity of the three lower problems, and the ball that binds: (9,), zero at the solution."""
    A, b, x, multipliers = unpack(u)
    likelihood = torch.softmax(x @ A.mT + b, -1)
    stationary = A - likelihood @ A - 2.0 * multipliers.unsqueeze(-1) * x
    return torch.cat([stationary.flatten(), 1.0 - x.square().sum(-1)])


def single_level() -> OptimizeResult:
    """The form (3) by SciPy's sequential quadratic programming, from the same parameters and their most likely points."""
    A, b = parameters()
    layer = dcl.ArgminLayer(log_likelihood, inequality=ball, maximize=True, in_dims=(0, 0, None, None))
    _, solution = layer(torch.zeros(CLASSES, 2, dtype=torch.float64), EYE, A, b, return_solution=True)
    start = torch.cat([A.flatten(), b, solution.x.flatten(), solution.z.flatten()])

    def value(function: object) -> object:
        return lambda u: function(torch.from_numpy(u)).numpy()  # type: ignore[operator]

    def slope(function: object) -> object:
        return lambda u: torch.func.jacrev(function)(torch.from_numpy(u)).numpy()  # type: ignore[type-var]

    def loss(u: Tensor) -> Tensor:
        return 0.5 * (unpack(u)[2] - TARGETS).square().sum()

    constraints = [
        {"type": kind, "fun": value(function), "jac": slope(function)}
        for kind, function in (("eq", conditions), ("ineq", lambda u: unpack(u)[3]))
    ]
    return minimize(
        value(loss),
        start.numpy(),
        jac=slope(loss),
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )


def main(path: Path, iterations: int = ITERATIONS) -> tuple[Run, Run, OptimizeResult]:
    """Draw the surfaces of the three classes at first (top) and at last (middle), and the learning curves."""
    exact, barrier, single = descend(iterations), descend(iterations, LAST_MU), single_level()
    reached = next(k for k, loss in enumerate(exact.loss) if loss < 1e-9)
    print(
        f"gradient descent, exact:      loss {exact.loss[-1]:.1e} after {iterations} steps, below 1e-9 from {reached}"
    )
    print(f"gradient descent, mu = {LAST_MU:g}:  loss {barrier.loss[-1]:.1e}")
    print(f"single level, SLSQP:          loss {single.fun:.1e} after {single.nit} iterations, {single.message}")
    grid = torch.linspace(-1.4, 1.4, 101, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
    circle = torch.linspace(0.0, 2.0 * torch.pi, 200)
    start = descend(0)
    figure = Figure(figsize=(8.2, 8.2), layout="constrained")
    axes = figure.subplot_mosaic([["a0", "a1", "a2"], ["b0", "b1", "b2"], ["c", "c", "c"]])
    for key, run, when in (("a", start, "initial"), ("b", exact, "final")):
        likelihoods = torch.softmax(points @ run.A.mT + run.b, -1)
        for i in range(CLASSES):
            ax = axes[f"{key}{i}"]
            filled = ax.contourf(grid, grid, likelihoods[..., i], levels=np.linspace(0.0, 1.0, 11), cmap="Blues")
            ax.plot(circle.cos(), circle.sin(), color="0.3", linewidth=1.0)
            ax.plot(*TARGETS[i], "x", color="black", markersize=9, label="target")
            ax.plot(*run.x[i], "o", color="#b5402a", markersize=6, label="most likely point", zorder=1.9)
            ax.set(title=f"{when}: class {i + 1}", aspect="equal", xlabel="x_1", ylabel="x_2")
        figure.colorbar(filled, ax=axes[f"{key}2"], label="likelihood")
    axes["a0"].legend(loc="lower left", fontsize=7, framealpha=0.9, edgecolor="none")
    axes["c"].semilogy(exact.loss, color="#1f5fa8", label="gradient descent, exact points")
    axes["c"].semilogy(barrier.loss, color="#b5402a", label=f"gradient descent, barrier, mu = {LAST_MU:g}")
    axes["c"].semilogy(
        single.nit, max(single.fun, 1e-18), "ks", label=f"single level, SLSQP: {single.fun:.0e} at its end"
    )
    axes["c"].axhline(1e-9, color="0.7", linewidth=0.8)
    axes["c"].set(title="learning curves", xlabel="iteration", ylabel="objective", ylim=(1e-19, 20.0))
    axes["c"].legend(frameon=False, fontsize=8, loc="lower center")
    axes["c"].spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=75)
    return exact, barrier, single


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("figure_6.png"), metavar="FILE.png")
    main(parser.parse_args().path)

"""Questions that Gould et al. 2016 left open (its section 6), measured: the tables of docs/open_questions.md and a figure.

The lower problem is logistic regression with a penalty for each feature, on scikit-learn's breast-cancer data
(569 cases, 30 features, standardized; every other case is for validation), unless another is stated:

    y(theta) = argmin_y f(y, theta),    f = mean log(1 + exp(-s_i x_i'y)) + 1/2 sum_k exp(theta_k) y_k^2,    s_i = 1 or -1

An upper-level loss with gradient w in y has the gradient  -M'u,  H u = w,  H = f_yy, M = f_y theta.  Directions are compared
by their cosine; a direction of descent has a positive one.

    python docs/examples/open_questions.py [FILE.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.func import grad, hessian, jacrev

import dcl

F64 = {"dtype": torch.float64}
START = -8.0  # log of every penalty to begin with


def generator(seed: int) -> torch.Generator:
    """Every measurement has its own."""
    return torch.Generator().manual_seed(seed)


def breast_cancer() -> tuple[Tensor, Tensor]:
    """s_i x_i for training and for validation, (285, 30) and (284, 30)."""
    data = load_breast_cancer()
    X = torch.from_numpy(data.data)
    X = (X - X.mean(0)) / X.std(0) * (2.0 * torch.from_numpy(data.target) - 1.0).unsqueeze(-1)
    return X[::2], X[1::2]


def logistic(y: Tensor, X: Tensor) -> Tensor:
    """Mean logistic loss of the weights y."""
    return torch.nn.functional.softplus(-(X @ y)).mean()


def objective(y: Tensor, theta: Tensor, X: Tensor) -> Tensor:
    """f of the lower problem."""
    return logistic(y, X) + 0.5 * (theta.exp() * y.square()).sum()


def second_derivatives(y: Tensor, theta: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """H and M at any y."""
    return hessian(objective)(y, theta, X), jacrev(grad(objective), argnums=1)(y, theta, X)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of a with the same row of b."""
    return torch.nn.functional.cosine_similarity(a, b, dim=-1, eps=0.0)


# Warm starts


@dataclass(frozen=True, eq=False)
class WarmStarts:
    """Mean iterations of an argmin against the length of a step in theta, by how it was started."""

    steps: list[float]
    free: dict[str, list[float]]
    constrained: dict[str, list[float]]


def warm_starts(steps: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0), length: int = 8) -> WarmStarts:
    """Random walks of theta: Newton's method without constraints, the interior-point method with y >= 0, of which some bind."""
    X, _ = breast_cancer()
    zero, one = torch.zeros(30, **F64), torch.ones(30, **F64)
    kinds = ("from zero", "from the last point", "from its prediction")
    layer = dcl.ArgminLayer(objective)
    bounded = dcl.ArgminLayer(objective, inequality=lambda y, theta, X: -y)
    free: dict[str, list[float]] = {kind: [] for kind in kinds}
    constrained: dict[str, list[float]] = {kind: [] for kind in ("from one", "from the last solution")}
    for step in steps:
        theta = torch.full((30,), START, **F64)
        y, last = layer(zero, theta, X), bounded.solve(one, theta, X)
        draws = generator(0)
        counts = dict.fromkeys((*free, *constrained), 0)
        for _ in range(length):
            move = torch.randn(30, generator=draws, **F64)
            move *= step / move.norm()
            H, M = second_derivatives(y, theta, X)
            starts = (zero, y, y - torch.linalg.solve(H, M @ move))
            theta = theta + move
            solutions = [layer.solve(start, theta, X) for start in starts]
            y = solutions[-1].x
            solutions.append(bounded.solve(one, theta, X))
            _, last = bounded(one, theta, X, warm_start=last, return_solution=True)
            for kind, solution in zip(counts, (*solutions, last), strict=True):
                counts[kind] += int(solution.iterations)
        for kind, total in counts.items():
            (free if kind in free else constrained)[kind].append(total / length)
    return WarmStarts(list(steps), free, constrained)


# Inexact inner solutions


def implicit_gradients(y: Tensor, theta: Tensor, X: Tensor, w: Tensor) -> Tensor:
    """-M' H^-1 w at any y, also one that is not optimal, for each row of w.

    ArgminLayer refuses a point that is not stationary.  But y is the exact argmin of f - r'y with r = f_y(y, theta) held fixed,
    and that function has the same H and M.
    """
    r = grad(objective)(y, theta, X)
    tilted = dcl.ArgminLayer(lambda y, theta, X, r: objective(y, theta, X) - r @ y)
    return w @ jacrev(lambda t: tilted(y, t, X, r))(theta)


@dataclass(frozen=True, eq=False)
class Inexact:
    """Cosine with the exact gradient where the inner problem was left at |f_y| = tolerance."""

    tolerances: list[float]
    median: list[float]
    least: list[float]
    validation: list[float]


def inexact(count: int = 200) -> Inexact:
    """Nesterov's gradient method on y, stopped at tolerances from 1e-1 to 1e-8: random losses, the validation loss at that y."""
    X, V = breast_cancer()
    theta, y = torch.full((30,), START, **F64), torch.zeros(30, **F64)
    w = torch.randn(count, 30, generator=generator(1), **F64)
    best = dcl.argmin(objective, y, theta, X)
    exact = implicit_gradients(best, theta, X, torch.cat([w, grad(logistic)(best, V).unsqueeze(0)]))
    rate = 1.0 / float(torch.linalg.eigvalsh(second_derivatives(y, theta, X)[0])[-1])
    tolerances = [float(10.0**-k) for k in np.arange(1.0, 8.5, 0.5)]
    found: list[Tensor] = []
    last, step = y, 0
    for tolerance in tolerances:
        while True:
            step += 1
            ahead = y + (step - 1.0) / (step + 2.0) * (y - last)
            r = theta.exp() * ahead - torch.sigmoid(-(X @ ahead)) @ X / len(X)  # f_y
            last, y = y, ahead - rate * r
            if float(r.norm()) <= tolerance:
                y = ahead
                break
        rows = torch.cat([w, grad(logistic)(y, V).unsqueeze(0)])
        found.append(cosines(implicit_gradients(y, theta, X, rows), exact))
    return Inexact(
        tolerances,
        [float(c[:-1].median()) for c in found],
        [float(c[:-1].min()) for c in found],
        [float(c[-1]) for c in found],
    )


# The diagonal of the Hessian


@dataclass(frozen=True, eq=False)
class Diagonal:
    """Median cosine and share of descent directions for random losses, by the Hessian's condition and by the size of theta."""

    conditions: list[float]
    median: dict[int, list[float]]
    descent: dict[int, list[float]]
    breast_cancer: tuple[float, float]


def random_quadratic(y: Tensor, theta: Tensor, H: Tensor, M: Tensor) -> Tensor:
    """1/2 y'Hy - y'M theta."""
    return 0.5 * (y @ H @ y) - y @ (M @ theta)


def diagonal(powers: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6), hessians: int = 10, count: int = 200) -> Diagonal:
    """hessian="diagonal" beside the exact gradient: random Hessians (30, 30) and M (30, size), and the breast-cancer data."""

    def measure(jacobian: Callable[[str], Tensor]) -> tuple[float, float]:
        w = torch.randn(count, 30, generator=generator(3), **F64)
        cosine = cosines(w @ jacobian("diagonal"), w @ jacobian("exact"))
        return float(cosine.median()), float((cosine > 0.0).double().mean())

    def quadratic(theta: Tensor, H: Tensor, M: Tensor, kind: str) -> Tensor:
        layer = dcl.ArgminLayer(random_quadratic, hessian=kind, in_dims=(0, None, 0, 0))
        return jacrev(lambda t: layer(torch.zeros(hessians, 30, **F64), t, H, M))(theta)

    def real(kind: str) -> Tensor:
        layer = dcl.ArgminLayer(objective, hessian=kind)
        return jacrev(partial(layer, torch.zeros(30, **F64)))(torch.full((30,), START, **F64), breast_cancer()[0])

    draws = generator(2)
    median: dict[int, list[float]] = {30: [], 3: []}
    descent: dict[int, list[float]] = {30: [], 3: []}
    for power in powers:
        eigenvalues = 10.0 ** -torch.linspace(0.0, power, 30, **F64)
        for size in median:
            Q = torch.linalg.qr(torch.randn(hessians, 30, 30, generator=draws, **F64))[0]
            M = torch.randn(hessians, 30, size, generator=draws, **F64)
            found = measure(partial(quadratic, torch.ones(size, **F64), (Q * eigenvalues) @ Q.mT, M))
            median[size].append(found[0])
            descent[size].append(found[1])
    return Diagonal([10.0**power for power in powers], median, descent, measure(real))


# Cheap descent directions

Solver = Callable[[Tensor, Tensor], Tensor]


def conjugate_gradients(H: Tensor, w: Tensor, count: int, scale: Tensor | None = None) -> Tensor:
    """`count` steps of conjugate gradients for H u = w, from zero; w (..., n), preconditioned by the diagonal `scale`."""
    inverse = torch.ones_like(H[0]) if scale is None else 1.0 / scale
    u, r = torch.zeros_like(w), w
    z = inverse * r
    p, rho = z, (r * z).sum(-1, keepdim=True)
    for _ in range(count):
        Hp = p @ H
        alpha = rho / (p * Hp).sum(-1, keepdim=True)
        u, r = u + alpha * p, r - alpha * Hp
        z = inverse * r
        rho, before = (r * z).sum(-1, keepdim=True), rho
        p = z + rho / before * p
    return u


def neumann(H: Tensor, w: Tensor, count: int) -> Tensor:
    """The first terms of the Neumann series of H^-1 w: what differentiating `count` last steps of gradient descent gives."""
    rate = 1.0 / torch.linalg.matrix_norm(H, 2)
    u = rate * w
    for _ in range(count):
        u = u + rate * (w - u @ H)
    return u


@dataclass(frozen=True, eq=False)
class Cheap:
    """Median cosine with the gradient, by Hessian-vector products; with the Hessian of another theta, by its distance."""

    counts: list[int]
    cosine: dict[str, list[float]]
    changes: list[float]
    stale: list[float]


def cheap(counts: tuple[int, ...] = (0, 1, 2, 3, 5, 8, 12, 20), count: int = 500) -> Cheap:
    """Approximations of H^-1 w in the gradient, for random losses."""
    X, _ = breast_cancer()
    theta = torch.full((30,), START, **F64)
    zero = torch.zeros(30, **F64)
    layer = dcl.ArgminLayer(objective)
    J = jacrev(partial(layer, zero))(theta, X)
    H, M = second_derivatives(layer(zero, theta, X), theta, X)
    w = torch.randn(count, 30, generator=generator(4), **F64)
    methods = {
        "conjugate gradients": lambda k: conjugate_gradients(H, w, k) if k else w,
        "the same, scaled by the diagonal": lambda k: conjugate_gradients(H, w, k, H.diag()) if k else w / H.diag(),
        "Neumann series": lambda k: neumann(H, w, k),
    }
    table = {name: [float(cosines(-solve(k) @ M, w @ J).median()) for k in counts] for name, solve in methods.items()}
    changes, stale = [0.1, 0.3, 1.0, 3.0, 10.0], []
    for change in changes:
        move = torch.randn(30, generator=generator(5), **F64)
        old = theta + change * move / move.norm()
        H_old, _ = second_derivatives(layer(zero, old, X), old, X)
        stale.append(float(cosines(-torch.linalg.solve(H_old, w, left=False) @ M, w @ J).median()))
    return Cheap(list(counts), table, changes, stale)


@dataclass(frozen=True, eq=False)
class Training:
    """Over the steps, by how the gradient was made: validation loss, cosine with the exact gradient, condition of H."""

    loss: dict[str, list[float]]
    cosine: dict[str, list[float]]
    condition: dict[str, list[float]]


def training(steps: int = 40, length: float = 1.0) -> Training:
    """Steps of one length on the penalties' logarithms, against each gradient, with exact inner solutions."""
    X, V = breast_cancer()
    ways: dict[str, Solver] = {
        "H^-1 (exact)": lambda H, w: torch.linalg.solve(H, w),
        "5 steps of conjugate gradients": lambda H, w: conjugate_gradients(H, w, 5),
        "diagonal": lambda H, w: w / H.diag(),
        "identity": lambda H, w: w / torch.linalg.matrix_norm(H, 2),
    }
    layer, found = dcl.ArgminLayer(objective), Training({}, {}, {})
    for name, solve in ways.items():
        theta, y = torch.full((30,), START, **F64), torch.zeros(30, **F64)
        loss, cosine, condition = (table.setdefault(name, []) for table in (found.loss, found.cosine, found.condition))
        for _ in range(steps + 1):
            y = layer(y, theta, X)
            H, M = second_derivatives(y, theta, X)
            w = grad(logistic)(y, V)
            direction = solve(H, w) @ M
            loss.append(float(logistic(y, V)))
            cosine.append(float(cosines(direction, torch.linalg.solve(H, w) @ M)))
            condition.append(float(torch.linalg.cond(H)))
            theta = theta + length * direction / direction.norm()
    return found


# The figure and the tables


def curves(axes: Axes, x: list[float], lines: dict[str, list[float]], **labels: object) -> None:
    """Lines of one panel."""
    for (name, y), color in zip(lines.items(), ("#1f5fa8", "#b5402a", "#2f8f5b", "#8a6fb0"), strict=False):
        axes.plot(x, y, color=color, marker="o", markersize=3, linewidth=1.3, label=name)
    axes.set(**labels)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def table(head: str, x: list[float], lines: dict[str, list[float]], digits: str = ".3f") -> None:
    """Print lines as a table in Markdown."""
    print(f"\n| {head} | {' | '.join(f'{value:g}' for value in x)} |\n|---|{'---|' * len(x)}")
    for name, y in lines.items():
        print(f"| {name} | {' | '.join(format(value, digits) for value in y)} |")


Found = tuple[WarmStarts, Inexact, Diagonal, Cheap, Training]


def main(path: Path, quick: bool = False) -> Found:
    """Measure everything, print the tables, draw the figure; quick: shorter walks, fewer Hessians, three steps of training."""
    figure = Figure(figsize=(11.0, 6.8), layout="constrained")
    axes = figure.subplots(2, 3).flat
    starts = warm_starts(length=2 if quick else 8)
    rows = starts.free | {f"y >= 0, {name}": row for name, row in starts.constrained.items()}
    table("iterations; step in theta", starts.steps, rows, ".1f")
    curves(axes[0], starts.steps, starts.free, title="warm starts", xlabel="length of the step in theta", xscale="log")
    axes[0].set(ylabel="iterations of Newton's method", ylim=(0.0, 18.0))
    left = inexact()
    lines = {
        "random losses, median": left.median,
        "random losses, least": left.least,
        "validation loss": left.validation,
    }
    table("cosine; norm of f_y", left.tolerances[::2], {name: row[::2] for name, row in lines.items()}, ".5f")
    lines = {name: [1.0 - c for c in row] for name, row in lines.items()}
    curves(
        axes[1], left.tolerances, lines, title="inexact inner solutions", xlabel="|f_y| where y was left", xscale="log"
    )
    axes[1].set(ylabel="1 - cosine of the gradient", yscale="log")
    diagonals = diagonal(hessians=2 if quick else 10)
    lines = {f"descent, {size} parameters": row for size, row in diagonals.descent.items()}
    lines |= {f"median cosine, {size} parameters": row for size, row in diagonals.median.items()}
    table("condition of H", diagonals.conditions, lines)
    print("breast cancer: median cosine {:.3f}, descent {:.3f}".format(*diagonals.breast_cancer))
    curves(axes[2], diagonals.conditions, lines, title="diagonal of the Hessian", xlabel="condition of H", xscale="log")
    axes[2].set(ylabel="share, cosine", ylim=(0.0, 1.05))
    products = cheap()
    table("median cosine; products", [float(count) for count in products.counts], products.cosine, ".4f")
    table("median cosine; change of theta", products.changes, {"H of the old theta": products.stale}, ".4f")
    lines = {name: [1.0 - c for c in row] for name, row in products.cosine.items()}
    curves(axes[3], [float(count) for count in products.counts], lines, title="cheap directions")
    axes[3].set(xlabel="Hessian-vector products", ylabel="1 - median cosine", yscale="log", ylim=(1e-14, 1.0))
    trained = training(steps=3 if quick else 40)
    print(
        "\n| gradient | least loss | last loss | first cosine | least cosine | last condition of H |\n|---|---|---|---|---|---|"
    )
    for name, loss in trained.loss.items():
        cosine, condition = trained.cosine[name], trained.condition[name][-1]
        print(f"| {name} | {min(loss):.4f} | {loss[-1]:.4f} | {cosine[0]:.2f} | {min(cosine):.2f} | {condition:.1e} |")
    curves(axes[4], list(map(float, range(len(next(iter(trained.loss.values())))))), {}, title="learning the penalties")
    for (name, row), color in zip(trained.loss.items(), ("#1f5fa8", "#b5402a", "#2f8f5b", "#8a6fb0"), strict=True):
        axes[4].plot(row, color=color, linewidth=1.3, label=name)
    axes[4].set(xlabel="step", ylabel="validation loss")
    curves(axes[5], products.changes, {"H of the old theta": [1.0 - c for c in products.stale]}, title="an old Hessian")
    axes[5].set(xlabel="change of theta", xscale="log", ylabel="1 - median cosine", yscale="log")
    for one in axes:
        one.legend(frameon=False, fontsize=7.5)
    figure.savefig(path, dpi=75)
    return starts, left, diagonals, products, trained


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("open_questions.png"), metavar="FILE.png")
    main(parser.parse_args().path)

"""Argmins whose gradients are known to 40 digits: the thread's networks, and penalties of a logistic regression.

A problem is y(theta) = argmin_y f(y, theta) and a fixed w; what is asked for is the gradient of w'y in theta.  The oracle is
mpmath: for the networks central differences of the minimizer itself in 60 digits, for the regression the implicit formula, solved
by refinement with residuals in 40 digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

Array = np.ndarray
Value = Callable[[Array], tuple[float, Array]]
LOG_PENALTY = -8.0


@dataclass(frozen=True, eq=False)
class Problem:
    """f as a torch function, its start and parameters; NumPy's f and gradient, and -M'H^-1 w at a point, written by hand."""

    name: str
    objective: Callable[..., Tensor]
    start: Tensor
    theta: tuple[Tensor, ...]
    w: Tensor
    value: Value
    by_hand: Callable[[Array], Array]
    oracle: Callable[[], tuple[Array, Array]]


def problems() -> list[Problem]:
    """The thread's seeds, stabilized where there is no minimum without, and the breast-cancer data."""
    return [
        network("thread, seed 2023", 2023, (1, 3), 0.0, torch.float32),
        network("thread, seed 456, with y^2 / 16", 456, (1, 3), 0.0625, torch.float32),
        network("thread, seed 123, with y'y / 16", 123, (3, 2), 0.0625, torch.float64),
        breast_cancer(),
    ]


def without_minimum() -> list[Problem]:
    """The thread's seeds that have none: f falls without end as tanh saturates.  Their oracle is not to be asked."""
    return [
        network("thread, seed 456", 456, (1, 3), 0.0, torch.float32),
        network("thread, seed 123", 123, (3, 2), 0.0, torch.float64),
    ]


def network(name: str, seed: int, sizes: tuple[int, int], stabilizer: float, dtype: torch.dtype) -> Problem:
    """f = v'tanh(W y + b) + stabilizer y'y, initialized as in the thread and cast to double."""
    n, hidden = sizes
    torch.manual_seed(seed)
    first, last = nn.Linear(n, hidden, dtype=dtype), nn.Linear(hidden, 1, bias=False, dtype=dtype)
    W, b, v = (t.detach().double() for t in (first.weight, first.bias, last.weight[0]))
    w = torch.linspace(1.0, 2.0, n, dtype=torch.float64)
    W0, b0, v0 = W.numpy(), b.numpy(), v.numpy()

    def objective(y: Tensor, W: Tensor, b: Tensor, v: Tensor) -> Tensor:
        return v @ torch.tanh(W @ y + b) + stabilizer * y.square().sum()

    def value(y: Array) -> tuple[float, Array]:
        t = np.tanh(W0 @ y + b0)
        return float(v0 @ t + stabilizer * y @ y), W0.T @ (v0 * (1.0 - t * t)) + 2.0 * stabilizer * y

    def by_hand(y: Array) -> Array:
        t = np.tanh(W0 @ y + b0)
        s = 1.0 - t * t
        bend = -2.0 * v0 * t * s
        u = np.linalg.solve((W0.T * bend) @ W0 + 2.0 * stabilizer * np.eye(n), w.numpy())
        Wu = W0 @ u
        in_W = -np.outer(v0 * s, u) - np.outer(bend * Wu, y)
        return np.concatenate([in_W.ravel(), -bend * Wu, -s * Wu])

    def minimizer(theta: list[mp.mpf], start: Array) -> list[mp.mpf]:
        def slope(*y: mp.mpf) -> list[mp.mpf]:
            out = [2 * mp.mpf(stabilizer) * entry for entry in y]
            for j in range(hidden):
                t = mp.tanh(sum(theta[j * n + k] * y[k] for k in range(n)) + theta[hidden * n + j])
                for k in range(n):
                    out[k] += theta[hidden * (n + 1) + j] * (1 - t * t) * theta[j * n + k]
            return out

        return list(mp.findroot(slope, [mp.mpf(float(entry)) for entry in start], tol=mp.mpf(10) ** -100))

    def oracle() -> tuple[Array, Array]:
        start = minimize(value, np.zeros(n), jac=True, method="BFGS", options={"gtol": 1e-9}).x
        with mp.workdps(60):
            theta = [mp.mpf(float(entry)) for entry in np.concatenate([W0.ravel(), b0, v0])]
            h, gradient = mp.mpf(10) ** -20, []
            for k in range(len(theta)):
                moved = [minimizer([t + s * h * (i == k) for i, t in enumerate(theta)], start) for s in (1, -1)]
                gradient.append(
                    sum(float(w[i]) * (p - m) for i, (p, m) in enumerate(zip(*moved, strict=True))) / (2 * h)
                )
            y = [float(entry) for entry in minimizer(theta, start)]
        return np.array(y), np.array([float(entry) for entry in gradient])

    return Problem(name, objective, torch.zeros(n).double(), (W, b, v), w, value, by_hand, oracle)


def breast_cancer() -> Problem:
    """Logistic regression with a penalty exp(theta_k) y_k^2 / 2 for each of 30 features, 569 cases, standardized."""
    data = load_breast_cancer()
    X = (data.data - data.data.mean(0)) / data.data.std(0) * (2.0 * data.target - 1.0)[:, None]
    theta = torch.full((30,), LOG_PENALTY, dtype=torch.float64)
    w = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, penalty = torch.from_numpy(X), np.exp(theta.numpy())

    def objective(y: Tensor, theta: Tensor) -> Tensor:
        return nn.functional.softplus(-(rows @ y)).mean() + 0.5 * (theta.exp() * y.square()).sum()

    def value(y: Array) -> tuple[float, Array]:
        margin = X @ y
        loss = np.logaddexp(0.0, -margin).mean() + 0.5 * (penalty * y) @ y
        return float(loss), -(X.T @ (1.0 / (1.0 + np.exp(margin)))) / len(X) + penalty * y

    def curvature(y: Array) -> Array:
        p = 1.0 / (1.0 + np.exp(X @ y))
        return np.asarray((X.T * (p * (1.0 - p))) @ X / len(X) + np.diag(penalty))

    def by_hand(y: Array) -> Array:
        return np.asarray(-np.linalg.solve(curvature(y), w.numpy()) * penalty * y)

    def oracle() -> tuple[Array, Array]:
        y0 = minimize(value, np.zeros(30), jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 2000}).x
        inverse = np.linalg.inv(curvature(y0))
        with mp.workdps(40):
            cases = [[mp.mpf(float(entry)) for entry in row] for row in X]
            weights = [mp.exp(mp.mpf(LOG_PENALTY))] * 30
            wanted = [mp.mpf(float(entry)) for entry in w]

            def transposed(coefficients: list[mp.mpf]) -> list[mp.mpf]:
                return [mp.fdot(coefficients, column) / len(cases) for column in zip(*cases, strict=True)]

            def refined(x: list[mp.mpf], residual: Callable[[list[mp.mpf]], list[mp.mpf]]) -> list[mp.mpf]:
                for _ in range(12):
                    r = residual(x)
                    step = inverse @ np.array([float(entry) for entry in r])
                    x = [entry - mp.mpf(float(d)) for entry, d in zip(x, step, strict=True)]
                    if max(abs(entry) for entry in r) < mp.mpf(10) ** -28:
                        break
                return x

            def slope(y: list[mp.mpf]) -> list[mp.mpf]:
                p = [1 / (1 + mp.exp(mp.fdot(row, y))) for row in cases]
                return [c * entry - g for c, entry, g in zip(weights, y, transposed(p), strict=True)]

            y = refined([mp.mpf(float(entry)) for entry in y0], slope)
            p = [1 / (1 + mp.exp(mp.fdot(row, y))) for row in cases]

            def linear(u: list[mp.mpf]) -> list[mp.mpf]:
                Xu = [q * (1 - q) * mp.fdot(row, u) for q, row in zip(p, cases, strict=True)]
                return [c * a + g - b for c, a, g, b in zip(weights, u, transposed(Xu), wanted, strict=True)]

            u = refined([mp.mpf(0)] * 30, linear)
            gradient = [float(-a * c * b) for a, c, b in zip(u, weights, y, strict=True)]
            return np.array([float(entry) for entry in y]), np.array(gradient)

    start = torch.zeros(30, dtype=torch.float64)
    return Problem("breast cancer, 30 penalties", objective, start, (theta,), w, value, by_hand, oracle)

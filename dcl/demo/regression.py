"""A bilevel program on the diabetes data: penalties chosen by gradient descent on the validation loss of an argmin.

    upper level   minimize over lambda   mean over folds k of  V_k(w_k)
    lower level   w_k = argmin 1/2 (w'P_k w - 2 c_k'w + sum_i exp(lambda_i) w_i^2)
                  subject to  sign_i w_i >= 0 where a sign is assumed,  sum_i sign_i w_i <= budget

V_k is the mean square error on the rows of fold k; P_k = X'X/m and c_k = X'y/m come from the other rows.  Both levels
see rows only through second moments, so a program has as many unknowns as features.  All folds of all outer splits are
one batch of one `dcl.CvxpyLayer`, and so is the grid of single penalties (all lambda_i equal).
An outer split keeps half of the patients for the test error and never shows them to either level.

Data: Efron, Hastie, Johnstone, Tibshirani (2004), Least angle regression, as shipped with scikit-learn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

import dcl

# Name, and the assumed sign of the weight (0: none): what is known to go with worse diabetes, and HDL, which protects.
FEATURES = {
    "age": 1,
    "sex": 0,
    "body mass index": 1,
    "blood pressure": 1,
    "total cholesterol": 1,
    "LDL": 1,
    "HDL": -1,
    "cholesterol / HDL": 1,
    "log triglycerides": 1,
    "glucose": 1,
}
BUDGET = 1.0  # standard deviations of the target for one standard deviation of every feature
SPLITS, FOLDS, REPEATS = 20, 5, 4
GRID = torch.logspace(-3, 1, 21, dtype=torch.float64)
LEARNING_RATE = 0.2


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of rows (X, y): P (*batch, n, n) = X'X/m, c (*batch, n) = X'y/m, d (*batch) = y'y/m."""

    P: Tensor
    c: Tensor
    d: Tensor

    def mean_square(self, w: Tensor) -> Tensor:
        """|Xw - y|^2 / m for w (*batch, n)."""
        return ((self.P @ w.unsqueeze(-1)).squeeze(-1) * w - 2.0 * self.c * w).sum(-1) + self.d


def _moments(X: Tensor, y: Tensor, x_mean: Tensor, y_mean: Tensor) -> Moments:
    X, y = X - x_mean, y - y_mean
    return Moments(X.mT @ X / len(y), X.mT @ y / len(y), y @ y / len(y))


def _stack(parts: list[Moments], *shape: int) -> Moments:
    fields = (torch.stack([getattr(part, name) for part in parts]) for name in ("P", "c", "d"))
    return Moments(*(t.reshape(*shape, *t.shape[1:]) for t in fields))


@dataclass(frozen=True, eq=False)
class Data:
    """Moments of the rows of every fold (splits, folds) and of both halves of every outer split (splits).

    signs (n,): assumed sign of each weight.  unit: one standard deviation of the target, in its own units.
    """

    signs: tuple[int, ...]
    unit: float
    fit: Moments
    validation: Moments
    train: Moments
    test: Moments

    def error(self, mean_square: Tensor) -> Tensor:
        """Root mean square error in the units of the target."""
        return self.unit * mean_square.sqrt()


def load(seed: int, shuffled: int, splits: int = SPLITS) -> Data:
    """The diabetes data with `shuffled` further copies of all features, whose rows are permuted: they carry nothing."""
    from sklearn.datasets import load_diabetes

    generator = torch.Generator().manual_seed(seed)
    X_all, y_all = (torch.as_tensor(part, dtype=torch.float64) for part in load_diabetes(return_X_y=True, scaled=False))
    rows = len(y_all)
    copies = [X_all[torch.randperm(rows, generator=generator)] for _ in range(shuffled)]
    X_all, unit = torch.cat([X_all, *copies], -1), y_all.std()
    fit, validation, train, test = [], [], [], []
    for _ in range(splits):
        first, second = torch.randperm(rows, generator=generator).tensor_split(2)
        # scales and means come from the training half alone, the mean of a fold from its fitting rows
        X = (X_all - X_all[first].mean(0)) / X_all[first].std(0)
        y = (y_all - y_all[first].mean()) / unit
        zero = torch.zeros((), dtype=torch.float64)
        train.append(_moments(X[first], y[first], zero, zero))
        test.append(_moments(X[second], y[second], zero, zero))
        for _ in range(REPEATS):
            parts = first[torch.randperm(len(first), generator=generator)].tensor_split(FOLDS)
            for k, part in enumerate(parts):
                rest = torch.cat([*parts[:k], *parts[k + 1 :]])
                means = X[rest].mean(0), y[rest].mean()
                fit.append(_moments(X[rest], y[rest], *means))
                validation.append(_moments(X[part], y[part], *means))
    folds = FOLDS * REPEATS
    return Data(
        signs=tuple(FEATURES.values()) * (1 + shuffled),
        unit=float(unit),
        fit=_stack(fit, splits, folds),
        validation=_stack(validation, splits, folds),
        train=_stack(train, splits),
        test=_stack(test, splits),
    )


def regression(signs: tuple[int, ...], budget: float = BUDGET) -> dcl.CvxpyLayer:
    """The lower level: (P, c, penalty) -> (w,)."""
    n, sign = len(signs), np.array(signs)
    known = np.flatnonzero(sign)
    w, c = cp.Variable(n, name="w"), cp.Parameter(n, name="c")
    P, penalty = cp.Parameter((n, n), PSD=True, name="P"), cp.Parameter(n, nonneg=True, name="penalty")
    objective = cp.quad_form(w, P) / 2 - c @ w + cp.sum(cp.multiply(penalty, cp.square(w))) / 2
    constraints = [cp.multiply(sign[known], w[known]) >= 0, sign @ w <= budget]
    problem = cp.Problem(cp.Minimize(objective), constraints)
    # among 16,000 argmins a tie may occur; for a step downhill the average of the one-sided derivatives will do
    return dcl.CvxpyLayer(problem, [P, c, penalty], [w], on_degenerate="ignore")


def weights(layer: dcl.CvxpyLayer, moments: Moments, penalty: Tensor) -> Tensor:
    """The lower level's solution for penalties (..., n) that broadcast against the batch of `moments`."""
    (w,) = layer(moments.P, moments.c, penalty)
    return w


def validation_loss(layer: dcl.CvxpyLayer, data: Data, log_penalty: Tensor) -> Tensor:
    """The upper level's objective of every split, for log_penalty (..., splits, n) -> (..., splits)."""
    w = weights(layer, data.fit, log_penalty.exp().unsqueeze(-2))
    return data.validation.mean_square(w).mean(-1)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was learned on one `Data`.

    single (splits,): best penalty of the grid.  single_loss (splits,): its validation loss.  penalty (splits, n): the
    learned ones.  curve (steps + 1, splits): validation loss while learning.  errors: test error (splits,) by method.
    """

    single: Tensor
    single_loss: Tensor
    penalty: Tensor
    curve: Tensor
    errors: dict[str, Tensor]
    solves: int
    seconds: float


def experiment(data: Data, steps: int, tick: Callable[[], object]) -> Outcome:
    """Choose one penalty on the grid, learn one per feature from there with Adam, test both; `tick` after each step."""
    start = time.perf_counter()
    layer = regression(data.signs)
    splits, folds = data.validation.d.shape
    n = len(data.signs)

    def test_error(penalty: Tensor) -> Tensor:
        return data.error(data.test.mean_square(weights(layer, data.train, penalty)))

    with torch.no_grad():
        grid_loss = validation_loss(layer, data, GRID.log().reshape(-1, 1, 1).expand(-1, splits, n))
        single_loss, best = grid_loss.min(0)
        single = GRID[best]
    log_penalty = single.log().unsqueeze(-1).repeat(1, n).requires_grad_()
    optimizer = torch.optim.Adam([log_penalty], lr=LEARNING_RATE)
    curve = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = validation_loss(layer, data, log_penalty)
        loss.sum().backward()
        optimizer.step()  # elementwise, so the splits do not see each other
        curve.append(loss.detach())
        tick()
    with torch.no_grad():
        curve.append(validation_loss(layer, data, log_penalty))
        penalty = log_penalty.exp()
        errors = {
            "no penalty": test_error(torch.zeros(n, dtype=torch.float64)),
            "best single penalty": test_error(single.unsqueeze(-1).expand(-1, n)),
            "one penalty per feature": test_error(penalty),
        }
    solves = splits * (folds * (len(GRID) + steps + 1) + len(errors))
    return Outcome(single, single_loss, penalty, torch.stack(curve), errors, solves, time.perf_counter() - start)

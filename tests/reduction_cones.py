"""Cone programs as people write them in CVXPY, small, with parameters drawn around a point where the solution is regular.

`terms`: their cones leave the program as smooth terms.
"""

from __future__ import annotations

from collections.abc import Callable

import cvxpy as cp
import numpy as np
from reduction_programs import BATCH, Case

N = 4


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal((BATCH, *shape))


def logistic(rng: np.random.Generator) -> Case:
    m = 12
    beta, X, weight = cp.Variable(N), cp.Parameter((m, N)), cp.Parameter(nonneg=True)
    signs = np.where(np.arange(m) % 2 == 0, 1.0, -1.0)
    loss = cp.sum(cp.logistic(-cp.multiply(signs, X @ beta)))
    values = [_draw(rng, m, N) + 0.3 * signs[:, None], 0.2 + rng.random(BATCH)]
    return Case(
        cp.Problem(cp.Minimize(loss + weight * cp.sum_squares(beta))), [X, weight], [beta], values, (N, 2 * m, 0)
    )


def logistic_in_a_box(rng: np.random.Generator) -> Case:
    """Bounds, an equality, and a weight on the loss that is a parameter."""
    X = np.random.default_rng(1).standard_normal((10, N))
    beta, y, weight = cp.Variable(N), cp.Parameter(N), cp.Parameter(nonneg=True)
    loss = weight * cp.sum(cp.logistic(X @ beta)) + 0.1 * cp.sum_squares(beta - y)
    values = [_draw(rng, N), 0.2 + rng.random(BATCH)]
    constraints = [cp.sum(beta) == 0.3, beta <= 0.4, beta >= -0.5]
    return Case(cp.Problem(cp.Minimize(loss), constraints), [y, weight], [beta], values, None)


def logistic_with_norm1(rng: np.random.Generator) -> Case:
    """Its epigraph variables have no curvature."""
    m = 12
    beta, X = cp.Variable(N), cp.Parameter((m, N))
    loss = cp.sum(cp.logistic(X @ beta)) + 0.4 * cp.norm1(beta - 0.7)
    return Case(cp.Problem(cp.Minimize(loss)), [X], [beta], [_draw(rng, m, N)], None)


def log_sum_exp(rng: np.random.Generator) -> Case:
    m = 7
    x, A, b, y = cp.Variable(N), cp.Parameter((m, N)), cp.Parameter(m), cp.Parameter(N)
    cost = 2.0 * cp.log_sum_exp(A @ x + b) + cp.sum_squares(x - y)
    return Case(
        cp.Problem(cp.Minimize(cost)), [A, b, y], [x], [_draw(rng, m, N), _draw(rng, m), _draw(rng, N)], (N, m, 0)
    )


def log_sums_of_two_sizes(rng: np.random.Generator) -> Case:
    x, A, y = cp.Variable(N), cp.Parameter((5, N)), cp.Parameter(N)
    cost = cp.log_sum_exp(A @ x) + cp.log_sum_exp(x[:3]) + cp.sum(cp.logistic(-x)) + cp.sum_squares(x - y)
    return Case(cp.Problem(cp.Minimize(cost), [cp.sum(x) == 1]), [A, y], [x], [_draw(rng, 5, N), _draw(rng, N)], None)


def entropy(rng: np.random.Generator) -> Case:
    x, c = cp.Variable(5), cp.Parameter(5)
    problem = cp.Problem(cp.Minimize(c @ x - cp.sum(cp.entr(x))), [cp.sum(x) == 1])
    return Case(problem, [c], [x], [_draw(rng, 5)], (5, 11, 0))


def entropy_with_bounds(rng: np.random.Generator) -> Case:
    x, c, G = cp.Variable(5), cp.Parameter(5), cp.Parameter((2, 5))
    constraints = [cp.sum(x) == 1, x <= 0.35, G @ x <= 0.4]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) - c @ x), constraints)
    return Case(problem, [c, G], [x], [_draw(rng, 5), 0.3 * _draw(rng, 2, 5)], None)


def kl_divergence(rng: np.random.Generator) -> Case:
    x, p, A = cp.Variable(5), cp.Parameter(5, pos=True), cp.Parameter((2, 5))
    constraints = [cp.sum(x) == 1, A @ x == A @ np.full(5, 0.2)]
    cost = cp.sum(cp.kl_div(x, p))
    return Case(
        cp.Problem(cp.Minimize(cost), constraints), [p, A], [x], [0.1 + rng.random((BATCH, 5)), _draw(rng, 2, 5)], None
    )


def kl_in_both(rng: np.random.Generator) -> Case:
    """Both arguments are variables."""
    x, y, p = cp.Variable(N), cp.Variable(N), cp.Parameter(N, pos=True)
    cost = cp.sum(cp.kl_div(x, y)) + cp.sum_squares(x - p) + cp.sum_squares(y - 2.0 * p)
    return Case(cp.Problem(cp.Minimize(cost)), [p], [x, y], [0.2 + rng.random((BATCH, N))], None)


def exponentials(rng: np.random.Generator) -> Case:
    x, A, y = cp.Variable(N), cp.Parameter((6, N)), cp.Parameter(N)
    cost = cp.sum(cp.exp(A @ x)) + cp.sum_squares(x - y)
    return Case(cp.Problem(cp.Minimize(cost), [x <= 1.0]), [A, y], [x], [_draw(rng, 6, N), _draw(rng, N)], None)


def log_utility(rng: np.random.Generator) -> Case:
    x, R = cp.Variable(N), cp.Parameter((6, N), pos=True)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.log(R @ x))), [cp.sum(x) == 1, x >= 0.02])
    return Case(problem, [R], [x], [0.5 + rng.random((BATCH, 6, N))], None)


def spectraplex(rng: np.random.Generator) -> Case:
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.trace(X) == 1])
    values = _draw(rng, 3, 3)
    return Case(problem, [C], [X], [values + values.swapaxes(-1, -2)], None)


def ball(rng: np.random.Generator) -> Case:
    x, A, c, d, y = cp.Variable(N), cp.Parameter((5, N)), cp.Parameter(5), cp.Parameter(), cp.Parameter(N)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [cp.norm(A @ x + c) <= d])
    values = [_draw(rng, 5, N), 0.1 * _draw(rng, 5), 1.0 + rng.random(BATCH), 3.0 * _draw(rng, N)]
    return Case(problem, [A, c, d, y], [x], values, None)


def norms(rng: np.random.Generator) -> Case:
    """norm2 and quad_over_lin with aliases of affine maps, and an alias of the user's."""
    x, u, A, y = cp.Variable(N), cp.Variable(3), cp.Parameter((3, N)), cp.Parameter(N)
    cost = cp.norm(u) + cp.quad_over_lin(x - 1.0, 2.0 + cp.sum(x)) + cp.sum_squares(x - y)
    return Case(
        cp.Problem(cp.Minimize(cost), [u == A @ x + 1.0]), [A, y], [x], [_draw(rng, 3, N), 0.3 * _draw(rng, N)], None
    )


def robust(rng: np.random.Generator) -> Case:
    """Linear rows beside second-order cones."""
    x, mu, F, y = cp.Variable(N), cp.Parameter(N), cp.Parameter((N, N)), cp.Parameter(N)
    constraints = [cp.norm(F @ x) <= mu @ x + 2.0, cp.sum(x) == 1, x >= -0.5]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y)), constraints)
    return Case(problem, [mu, F, y], [x], [_draw(rng, N), _draw(rng, N, N), _draw(rng, N)], None)


def two_kinds(rng: np.random.Generator) -> Case:
    """Exponential cones stay cones beside others."""
    x, A, y = cp.Variable(N), cp.Parameter((6, N)), cp.Parameter(N)
    cost = cp.sum(cp.logistic(A @ x)) + cp.norm(x) + cp.sum_squares(x - y)
    return Case(cp.Problem(cp.Minimize(cost)), [A, y], [x], [_draw(rng, 6, N), _draw(rng, N)], None)


def entropic_constraint(rng: np.random.Generator) -> Case:
    """A cone without a cost is no term."""
    x, c = cp.Variable(5), cp.Parameter(5)
    problem = cp.Problem(cp.Minimize(c @ x + cp.sum_squares(x)), [cp.sum(x) == 1, cp.sum(cp.entr(x)) >= 1.4])
    return Case(problem, [c], [x], [_draw(rng, 5)], None)


TERMS: dict[str, Callable[[np.random.Generator], Case]] = {
    make.__name__: make
    for make in (
        logistic,
        logistic_in_a_box,
        logistic_with_norm1,
        log_sum_exp,
        log_sums_of_two_sizes,
        entropy,
        entropy_with_bounds,
        kl_divergence,
        kl_in_both,
        exponentials,
        log_utility,
    )
}
CONES: dict[str, Callable[[np.random.Generator], Case]] = {
    make.__name__: make for make in (spectraplex, ball, norms, robust, two_kinds, entropic_constraint)
}

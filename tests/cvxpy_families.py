"""CVXPY problems with parameters, one a family: what a layer is tried on in several modules."""

import cvxpy as cp
import numpy as np
import torch


def param(*shape, value=None, **attributes):
    parameter = cp.Parameter(shape, **attributes)
    if value is not None:
        parameter.value = np.asarray(value)
    return parameter


def rng_of(seed=0):
    return np.random.default_rng(seed)


# Each family: (objective, constraints, variables), the parameters with values at which the problem is regular.


def linear_program():
    x, c, A, b = (
        cp.Variable(4),
        param(4, value=[1.0, -2, 0.5, 0.3]),
        param(3, 4, value=rng_of().normal(size=(3, 4))),
        param(3, value=[1.0, 1.1, 1.2]),
    )
    return cp.Minimize(c @ x), [A @ x <= b, x >= -1, x <= 2, cp.sum(x) == 1], [x]


def quadratic_program():
    x, q, h = cp.Variable(4), param(4, value=[-2.0, 1, -3, 0.5]), param(2, value=[0.7, 0.4])
    G = param(2, 4, value=rng_of(1).normal(size=(2, 4)))
    return cp.Minimize(0.5 * cp.sum_squares(x) + q @ x), [G @ x <= h, x[0] - x[1] == 0.3], [x]


def parametric_P():
    x, L = cp.Variable(3), rng_of(2).normal(size=(3, 3))
    Q, q = param(3, 3, PSD=True, value=L @ L.T + np.eye(3)), param(3, value=[-1.0, 2, -3])
    return cp.Minimize(cp.quad_form(x, Q) + q @ x), [cp.sum(x) <= 0.2, x >= -0.5], [x]


def least_squares():
    x, A, b = cp.Variable(3), param(6, 3, value=rng_of(3).normal(size=(6, 3))), param(6, value=rng_of(4).normal(size=6))
    return cp.Minimize(cp.sum_squares(A @ x - b)), [x >= -0.1], [x]


def lasso():
    x, lam = cp.Variable(4), param(value=0.4, nonneg=True)
    A, b = rng_of(5).normal(size=(7, 4)), param(7, value=rng_of(6).normal(size=7))
    return cp.Minimize(cp.sum_squares(A @ x - b) + lam * cp.norm1(x)), [], [x]


def absolute_deviations():
    x, b = cp.Variable(2), param(5, value=rng_of(7).normal(size=5))
    A = param(5, 2, value=rng_of(8).normal(size=(5, 2)))
    return cp.Minimize(cp.sum(cp.abs(A @ x - b)) + 0.1 * cp.sum_squares(x)), [], [x]


def huber():
    x, b = cp.Variable(2), param(6, value=3 * rng_of(9).normal(size=6))
    return cp.Minimize(cp.sum(cp.huber(rng_of(10).normal(size=(6, 2)) @ x - b, 0.5)) + cp.sum_squares(x)), [], [x]


def largest_entry():
    x, b = cp.Variable(3), param(4, value=rng_of(11).normal(size=4))
    return (
        cp.Minimize(cp.max(rng_of(12).normal(size=(4, 3)) @ x - b) + 0.5 * cp.sum_squares(x)),
        [cp.norm_inf(x) <= 0.6],
        [x],
    )


def maximize():
    x, mu, gamma = cp.Variable(4), param(4, value=[0.3, 0.9, 0.5, -0.1]), param(value=0.7, nonneg=True)
    return cp.Maximize(mu @ x - gamma * cp.sum_squares(x) + 3.0), [cp.sum(x) == 1, x >= 0], [x]


def shared_parameter():
    x, b, t = cp.Variable(4), param(4, value=[0.5, -1.0, 2.0, 0.1]), param(value=0.8)
    return cp.Minimize(cp.sum_squares(x - b) + t * cp.sum(x)), [x <= 2 * b + t, cp.sum(x) == cp.sum(b) - 1], [x]


def matrix_variable():
    # rows and columns differ in number and in weight: a transposed reading cannot pass
    X, B, C = (
        cp.Variable((2, 3)),
        param(2, 3, value=rng_of(13).normal(size=(2, 3))),
        param(3, 2, value=rng_of(14).normal(size=(3, 2))),
    )
    W = np.arange(1.0, 7.0).reshape(2, 3)
    return (
        cp.Minimize(cp.sum_squares(X - B) + cp.sum(cp.multiply(W, X)) + cp.sum(cp.multiply(C.T, X))),
        [cp.sum(X, axis=0) == np.array([1.0, 2.0, 3.0]), X @ np.array([1.0, 0.0, -1.0]) <= np.array([-1.0, 0.3])],
        [X],
    )


def product_of_matrices():
    X, A = cp.Variable((3, 2)), param(4, 3, value=rng_of(15).normal(size=(4, 3)))
    B = param(4, 2, value=rng_of(16).normal(size=(4, 2)))
    return cp.Minimize(cp.sum_squares(A @ X - B)), [X[0, :] <= -0.05, cp.sum(X[:, 1]) == 0.2], [X]


def symmetric_parameter_and_variable():
    X = cp.Variable((3, 3), symmetric=True)
    L = rng_of(17).normal(size=(3, 3))
    S, C = param(3, 3, symmetric=True, value=L + L.T), param(3, 3, value=rng_of(18).normal(size=(3, 3)))
    return cp.Minimize(cp.sum_squares(X - S) + cp.sum(cp.multiply(C, X))), [cp.trace(X) == 1, X[0, 1] >= 0.5], [X]


def total_variation():
    x, b, lam = cp.Variable(6), param(6, value=[0.1, 0.3, 1.7, 2.2, -1.0, 0.4]), param(value=0.3, nonneg=True)
    return cp.Minimize(cp.sum_squares(x - b) + lam * cp.norm1(cp.diff(x))), [], [x]


def two_variables_and_expressions():
    x, y, a, b = cp.Variable(2), cp.Variable(), param(value=1.5, pos=True), param(2, 2, value=[[1.0, 2], [-0.5, 1]])
    return (
        cp.Minimize(a * cp.square(y - 1) + cp.sum_squares(b @ x - y) + cp.pos(x[0])),
        [x + y <= 0.8, y >= 0.1],
        [y, x],
    )


def sums_of_largest():
    x, c = cp.Variable(5), param(5, value=[0.9, -0.2, 0.4, -1.0, 0.6])
    return cp.Minimize(cp.sum_largest(x, 2) + cp.sum_squares(x - c)), [cp.sum(x) >= 1.5], [x]


def fixed_by_bounds():
    x, low, high = cp.Variable(3), param(3, value=[-0.5, -0.4, -2.0]), param(value=0.6)
    return cp.Minimize(cp.sum_squares(x - np.array([-1.0, 1.0, 0.2]))), [x >= low, x <= high], [x]


FAMILIES = [
    linear_program, quadratic_program, parametric_P, least_squares, lasso, absolute_deviations, huber, largest_entry,
    maximize, shared_parameter, matrix_variable, product_of_matrices, symmetric_parameter_and_variable, total_variation,
    two_variables_and_expressions, sums_of_largest, fixed_by_bounds,
]  # fmt: skip


def build(family):
    """(problem, parameters, outputs: the variables and the duals of all constraints)."""
    objective, constraints, variables = family()
    problem = cp.Problem(objective, constraints)
    return problem, problem.parameters(), [*variables, *(c.dual_variables[0] for c in constraints)]


def chain(n):
    """Smoothing with a budget: sparse from some 150 variables on."""
    x, b, lam, c = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True), cp.Parameter(n - 1)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(x - b) + cp.sum_squares(cp.multiply(c, cp.diff(x))) + lam * cp.sum_squares(x)),
        [cp.diff(x) <= 0.5, cp.sum(x) == 1, x >= -1],
    )
    rng = rng_of(n)
    values = [rng.standard_normal((2, n)), np.array(0.7), rng.uniform(0.5, 1.5, (2, n - 1))]
    return problem, [b, lam, c], [x, problem.constraints[0].dual_variables[0]], [torch.tensor(v) for v in values]

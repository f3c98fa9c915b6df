"""Programs as people write them in CVXPY, small, with parameters drawn around a point where the solution is regular.

make(rng) -> problem, parameters, variables, batches of values for the parameters
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

BATCH = 4


@dataclass(frozen=True)
class Case:
    """One problem. after: variables, general rows, bounds of what the core solves at mu = 0; None: as it is."""

    problem: cp.Problem
    parameters: Sequence[cp.Parameter]
    variables: Sequence[cp.Variable]
    values: Sequence[np.ndarray]
    after: tuple[int, int, int] | None

    def tensors(self) -> list[Tensor]:
        return [torch.tensor(value, dtype=torch.float64) for value in self.values]


def ls_simplex(rng: np.random.Generator) -> Case:
    m, n = 20, 6
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [cp.sum(x) == 1, x >= 0])
    return Case(problem, [A, b], [x], [rng.standard_normal((BATCH, m, n)), rng.standard_normal((BATCH, m))], (n, 1, n))


def ridge(rng: np.random.Generator) -> Case:
    m, n = 12, 4
    x, A, b, weight = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + weight * cp.sum_squares(x)))
    values = [rng.standard_normal((BATCH, m, n)), rng.standard_normal((BATCH, m)), 0.1 + rng.random(BATCH)]
    return Case(problem, [A, b, weight], [x], values, (n, 0, 0))


def lasso(rng: np.random.Generator) -> Case:
    m, n = 20, 5
    x, A, b, weight = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(A @ x - b) + weight * cp.norm1(x)))
    values = [rng.standard_normal((BATCH, m, n)), rng.standard_normal((BATCH, m)), 2.0 + rng.random(BATCH)]
    return Case(problem, [A, b, weight], [x], values, (n, n, 0))


def wide_lasso(rng: np.random.Generator) -> Case:
    """P' is singular for all parameters."""
    m, n = 6, 9
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(A @ x - b) + 0.5 * cp.norm1(x)))
    return Case(problem, [A, b], [x], [rng.standard_normal((BATCH, m, n)), rng.standard_normal((BATCH, m))], (n, n, 0))


def tv(rng: np.random.Generator) -> Case:
    n = 12
    x, y = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y) + 0.7 * cp.norm1(cp.diff(x))))
    return Case(problem, [y], [x], [rng.standard_normal((BATCH, n)).cumsum(-1)], (n, n - 1, 0))


def huber_like(rng: np.random.Generator) -> Case:
    """Two-row epigraphs of other atoms, with bounds beside them."""
    n = 6
    x, y, c = cp.Variable(n), cp.Parameter(n), cp.Parameter(n)
    cost = cp.sum_squares(x - y) + cp.sum(cp.pos(x - c)) + cp.sum(cp.maximum(0.5 * x, -x + 0.25))
    return Case(
        cp.Problem(cp.Minimize(cost), [cp.sum(x) == 1]),
        [y, c],
        [x],
        [rng.standard_normal((BATCH, n)), rng.standard_normal((BATCH, n))],
        (n - 1, 2 * n, 0),
    )


def portfolio(rng: np.random.Generator) -> Case:
    n, k = 10, 3
    w, f, mean, F, d = cp.Variable(n), cp.Variable(k), cp.Parameter(n), cp.Parameter((k, n)), cp.Parameter(n)
    cost = mean @ w - cp.sum_squares(f) - cp.sum_squares(cp.multiply(d, w))
    problem = cp.Problem(cp.Maximize(cost), [f == F @ w, cp.sum(w) == 1, w >= 0])
    values = [
        0.1 * rng.standard_normal((BATCH, n)),
        0.5 * rng.standard_normal((BATCH, k, n)),
        0.3 + rng.random((BATCH, n)),
    ]
    return Case(problem, [mean, F, d], [w, f], values, (n, 1, n))


def _control(
    horizon: int, box: Callable[[cp.Expression], list[cp.Constraint]]
) -> tuple[cp.Problem, cp.Parameter, cp.Variable]:
    A = np.array([[1.0, 0.2, 0.0], [-0.1, 0.95, 0.3], [0.05, 0.0, 1.02]])
    B = np.array([[0.0, 0.3], [0.4, 0.0], [0.2, -0.3]])
    x, u, start = cp.Variable((horizon + 1, 3)), cp.Variable((horizon, 2)), cp.Parameter(3)
    dynamics = [x[t + 1] == A @ x[t] + B @ u[t] for t in range(horizon)]
    cost = cp.sum_squares(x) + 0.1 * cp.sum_squares(u)
    return cp.Problem(cp.Minimize(cost), [x[0] == start, *dynamics, *box(u)]), start, u


def mpc(rng: np.random.Generator) -> Case:
    problem, start, u = _control(10, lambda u: [u <= 1, u >= -1])
    return Case(problem, [start], [u], [2.0 * rng.standard_normal((BATCH, 3))], (20, 0, 40))


def mpc_with_abs(rng: np.random.Generator) -> Case:
    problem, start, u = _control(6, lambda u: [cp.abs(u) <= 1])
    return Case(problem, [start], [u], [2.0 * rng.standard_normal((BATCH, 3))], (12, 0, 24))


def mpc_with_states_bounded(rng: np.random.Generator) -> Case:
    """Bounded states stay, and so do the rows that would define them."""
    A, B = np.array([[1.0, 0.2], [-0.1, 0.95]]), np.array([[0.0], [0.4]])
    x, u, start = cp.Variable((6, 2)), cp.Variable((5, 1)), cp.Parameter(2)
    dynamics = [x[t + 1] == A @ x[t] + B @ u[t] for t in range(5)]
    cost = cp.sum_squares(x) + 0.1 * cp.sum_squares(u)
    problem = cp.Problem(cp.Minimize(cost), [x[0] == start, *dynamics, x[1:] <= 1.5, u <= 1, u >= -1])
    return Case(problem, [start], [u, x], [rng.uniform(-1.0, 1.0, (BATCH, 2))], None)


def svm(rng: np.random.Generator) -> Case:
    m, n = 16, 3
    labels = np.where(np.arange(m) % 2, 1.0, -1.0)
    w, offset, X = cp.Variable(n), cp.Variable(), cp.Parameter((m, n))
    hinge = cp.sum(cp.pos(1 - cp.multiply(labels, X @ w + offset)))
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(w) + hinge))
    return Case(problem, [X], [w], [rng.standard_normal((BATCH, m, n)) + 0.5 * labels[:, None]], (n + 1, m, 0))


def quantile(rng: np.random.Generator) -> Case:
    m, n = 16, 3
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    r = A @ x - b
    problem = cp.Problem(cp.Minimize(cp.sum(cp.maximum(0.3 * r, -0.7 * r)) + 0.05 * cp.sum_squares(x)))
    return Case(problem, [A, b], [x], [rng.standard_normal((BATCH, m, n)), rng.standard_normal((BATCH, m))], (n, m, 0))


def median(rng: np.random.Generator) -> Case:
    """Least absolute residuals, a linear program, with a bound on x beside it."""
    m, n = 15, 3
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(cp.norm1(A @ x - b)), [x <= 0.2, cp.sum(x) >= -1.0])
    return Case(
        problem, [A, b], [x], [rng.standard_normal((BATCH, m, n)), rng.standard_normal((BATCH, m))], (n, m + 1, n)
    )


def relu(rng: np.random.Generator) -> Case:
    """max(W x + b, 0), where a variable stands for W, since W x is a product of parameters."""
    n = 4
    y, V = cp.Variable(n), cp.Variable((n, n))
    W, x, b = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - V @ x - b)), [y >= 0, V == W])
    values = [rng.standard_normal((n, n)), rng.standard_normal((BATCH, n)), rng.standard_normal(n)]
    return Case(problem, [W, x, b], [y], values, (n, 0, n))


def flow(rng: np.random.Generator) -> Case:
    """A linear program on a graph, without the row that follows from the others."""
    x, c, b, N = _graph(6, 14)
    problem = cp.Problem(cp.Minimize(c @ x), [N[:-1] @ x == b, x >= 0, x <= 10.0])
    inside = 3.0 * rng.random((BATCH, 14))
    return Case(problem, [c, b], [x], [0.1 + rng.random((BATCH, 14)), inside @ N[:-1].T], (14, 5, 28))


def _graph(nodes: int, arcs: int) -> tuple[cp.Variable, cp.Parameter, cp.Parameter, np.ndarray]:
    draw = np.random.default_rng(1)
    N = np.zeros((nodes, arcs))
    for a in range(arcs):
        i, j = (a % nodes, (a + 1) % nodes) if a < nodes else draw.choice(nodes, 2, replace=False)
        N[i, a], N[j, a] = 1.0, -1.0
    return cp.Variable(arcs), cp.Parameter(arcs), cp.Parameter(nodes - 1), N


def flow_with_redundant_row(rng: np.random.Generator) -> Case:
    x, c, _, N = _graph(6, 14)
    supply = N @ (3.0 * np.random.default_rng(5).random(14))
    problem = cp.Problem(cp.Minimize(c @ x), [N @ x == supply, x >= 0, x <= 10.0])
    return Case(problem, [c], [x], [0.1 + rng.random((BATCH, 14))], (14, 5, 28))


def aliases(rng: np.random.Generator) -> Case:
    """Chains of definitions, with a parameter on the way, a shared one, and constants of other sizes."""
    x, y, z, p, scale = cp.Variable(4), cp.Variable(4), cp.Variable(4), cp.Parameter(4), cp.Parameter(nonneg=True)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(z) + scale * cp.sum_squares(y - 1)),
        [y == 2 * x + p, z == 0.25 * y - 3 * x + 1, x >= -1, cp.sum(y) <= 2],
    )
    return Case(problem, [p, scale], [x, y, z], [rng.standard_normal((BATCH, 4)), np.array(0.7)], None)


def mixture(rng: np.random.Generator) -> Case:
    """Terms and constraints drawn from a list, around a strongly convex cost."""
    n, m = 5, 4
    x, y, t = cp.Variable(n), cp.Variable(m), cp.Variable()
    p, A, b = cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
    C, c = rng.standard_normal((3, n)), rng.standard_normal(3)
    terms = [
        cp.norm1(x),
        cp.norm1(A @ x - b),
        cp.sum(cp.pos(x - p)),
        cp.sum(cp.maximum(C @ x - c, -0.5 * (C @ x))),
        cp.sum_squares(A @ x - b),
        2.0 * cp.sum_squares(y),
        cp.max(x),
        t,
    ]
    constraints = [
        [cp.abs(x) <= 2],
        [cp.sum(x) == 0.5],
        [x >= -1.5],
        [C @ x <= 3.0],
        [cp.norm_inf(x) <= 1.8],
        [cp.norm1(x) <= 4],
        [C[:2] @ x == [0.1, -0.2], C[0] @ x + C[1] @ x == -0.1],
    ]
    chosen = [terms[k] for k in rng.permutation(len(terms))[:4]]
    held = [c for k in rng.permutation(len(constraints))[:3] for c in constraints[k]]
    cost = cp.sum_squares(x - p) + 0.5 * cp.sum_squares(t - 1) + sum(chosen)
    problem = cp.Problem(cp.Minimize(cost), [y == A @ x - 2 * b, t >= C[0] @ x, *held])
    values = [rng.standard_normal((BATCH, n)), rng.standard_normal((BATCH, m, n)), rng.standard_normal((BATCH, m))]
    return Case(problem, [p, A, b], [x, y, t], values, None)


def soft_mixture(rng: np.random.Generator) -> Case:
    """Few enough epigraphs for the dual, of weights that a parameter sets, with other rows beside them."""
    n = 8
    x, t, p, A = cp.Variable(n), cp.Variable(), cp.Parameter(n), cp.Parameter((3, n))
    weight, c = cp.Parameter(nonneg=True), cp.Parameter(3)
    C = rng.standard_normal((3, n))
    terms = [
        cp.norm1(A @ x - c),
        weight * cp.sum(cp.pos(C @ x - 0.1)),
        cp.sum(cp.maximum(C @ x, -0.5 * (A @ x) + c)),
        weight * cp.abs(C[0] @ x - 0.3),
        0.5 * weight * cp.max(x[:2]),
    ]
    constraints = [[cp.sum(x) == 0.5], [C[1] @ x <= 1.0], [t >= C[2] @ x], []]
    chosen = [terms[k] for k in rng.permutation(len(terms))[:2]]
    held = [row for k in rng.permutation(len(constraints))[:2] for row in constraints[k]]
    cost = cp.sum_squares(x - p) + cp.square(t - 1) + cp.sum_squares(A @ x) + sum(chosen)
    problem = cp.Problem(cp.Minimize(cost), held)
    used = {q.id for q in problem.parameters()}
    draws = (
        (p, rng.standard_normal((BATCH, n))),
        (A, rng.standard_normal((BATCH, 3, n))),
        (weight, 0.2 + rng.random(BATCH)),
        (c, rng.standard_normal((BATCH, 3))),
    )
    parameters, values = zip(*((q, value) for q, value in draws if q.id in used), strict=True)
    return Case(problem, parameters, [x, t], values, None)


CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    make.__name__: make
    for make in (
        ls_simplex,
        ridge,
        lasso,
        wide_lasso,
        tv,
        huber_like,
        portfolio,
        mixture,
        soft_mixture,
        mpc,
        mpc_with_abs,
        mpc_with_states_bounded,
        svm,
        quantile,
        median,
        relu,
        flow,
        flow_with_redundant_row,
        aliases,
    )
}

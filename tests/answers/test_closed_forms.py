"""CvxpyLayer on problems whose solution and Jacobian have closed forms, singly and in a batch.

A family: the problem with its parameters and outputs, a draw of the parameters, and the closed form in torch, from which
autograd takes the Jacobian; spectral ones state it (Daleckii-Krein, perturbation theory), as does the implicit one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles.cones import smat, spectral_derivative, svec
from tolerances import NOT_TINY

import dcl

VALUE = 1e-7
GRADIENT = 1e-8  # measured: 1e-14, exponential and power cones included
BATCH = 4

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Family:
    """jacobian: for each output, for each parameter, (size of output, size of parameter); None: from autograd."""

    problem: Callable[[], tuple[cp.Problem, list[cp.Parameter], list[object]]]
    draw: Callable[[np.random.Generator], tuple[object, ...]]
    closed: Callable[..., tuple[torch.Tensor, ...]]
    jacobian: Callable[..., list[list[np.ndarray]]] | None = None


def objective_and(objective, constraints, parameters, *outputs):
    problem = cp.Problem(objective, constraints)
    return problem, parameters, [problem.objective, *outputs]


def half_squares(x, t):
    return 0.5 * cp.sum_squares(x - t)


# The Euclidean norm ball of radius r: a point outside or inside.


def norm_ball():
    x, t, r = cp.Variable(4), cp.Parameter(4), cp.Parameter(nonneg=True)
    return objective_and(cp.Minimize(half_squares(x, t)), [cp.norm(x) <= r], [t, r], x)


def norm_ball_closed(t, r):
    x = t * torch.clamp(r / t.norm(), max=1.0)
    return 0.5 * (x - t).square().sum(), x


def simplex():
    x, t, total = cp.Variable(5), cp.Parameter(5), cp.Parameter()
    return objective_and(cp.Minimize(half_squares(x, t)), [cp.sum(x) == total, x >= 0], [t, total], x)


def simplex_closed(t, total):
    ordered = t.sort(descending=True).values
    excess = (ordered.cumsum(0) - total) / torch.arange(1.0, 6.0, dtype=t.dtype)
    x = (t - excess[(ordered > excess).sum() - 1]).clamp(min=0.0)
    return 0.5 * (x - t).square().sum(), x


# The nearest PSD matrix to the symmetric part of T.


def semidefinite():
    X, T = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3))
    return cp.Problem(cp.Minimize(cp.sum_squares(X - T)), [X >> 0]), [T], [X]


def spectrum(rng, values):
    U, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return (U * values) @ U.T


def semidefinite_closed(T):
    values, U = torch.linalg.eigh(0.5 * (T + T.mT))
    return ((U * values.clamp(min=0.0)) @ U.mT,)


def columns(derivative, k):
    """Matrix of a linear map of k x k matrices that reads their symmetric part."""
    units = np.eye(k * k).reshape(k * k, k, k)
    return np.column_stack([np.ravel(derivative(0.5 * (e + e.T))) for e in units])


def semidefinite_jacobian(T):
    values, U = np.linalg.eigh(0.5 * (T + T.T))
    D = spectral_derivative(U, values, values > 0.0)
    return [[columns(lambda e: smat(D @ svec(e)), 3)]]


# min tr(CX), tr X = 1, X PSD: the least eigenvalue and its projector.


def trace_program():
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3))
    return objective_and(cp.Minimize(cp.trace(C @ X)), [X >> 0, cp.trace(X) == 1], [C], X)


def trace_program_closed(C):
    values, U = torch.linalg.eigh(0.5 * (C + C.mT))
    return values[0], torch.outer(U[:, 0], U[:, 0])


def trace_program_jacobian(C):
    values, U = np.linalg.eigh(0.5 * (C + C.T))
    u = U[:, 0]

    def turned(e):
        du = sum(U[:, j] * (U[:, j] @ e @ u) / (values[0] - values[j]) for j in (1, 2))
        return np.outer(du, u) + np.outer(u, du)

    return [[columns(lambda e: u @ e @ u, 3)], [columns(turned, 3)]]


def entropic_simplex():
    x, c = cp.Variable(4), cp.Parameter(4)
    return objective_and(cp.Minimize(c @ x - cp.sum(cp.entr(x))), [cp.sum(x) == 1], [c], x)


# max prod x_i^(w_i) within a budget, for prices p: x_i = w_i budget / p_i.

WEIGHTS = (0.2, 0.5, 0.3)


def geometric_mean():
    x, p, budget = cp.Variable(3), cp.Parameter(3, nonneg=True), cp.Parameter(nonneg=True)
    mean = cp.geo_mean(x, WEIGHTS, approx=False)
    return objective_and(cp.Maximize(mean), [p @ x <= budget], [p, budget], x)


def geometric_mean_closed(p, budget):
    w = torch.tensor(WEIGHTS, dtype=p.dtype)
    x = w * budget / p
    return (x**w).prod(), x


# min log sum exp x + |x - t|^2 / 2: x + softmax(x) = t.


def log_sum_exp():
    x, t = cp.Variable(4), cp.Parameter(4)
    return objective_and(cp.Minimize(cp.log_sum_exp(x) + half_squares(x, t)), [], [t], x)


def log_sum_exp_system(x):
    p = x.softmax(0)
    return p, torch.eye(len(x), dtype=x.dtype) + torch.diag(p) - torch.outer(p, p)


def log_sum_exp_closed(t):
    x = t.clone()
    for _ in range(30):
        p, slope = log_sum_exp_system(x)
        x = x - torch.linalg.solve(slope, x + p - t)
    return x.logsumexp(0) + 0.5 * (x - t).square().sum(), x


def log_sum_exp_jacobian(t):
    _, x = log_sum_exp_closed(torch.from_numpy(t))
    p, slope = log_sum_exp_system(x)
    return [[p.numpy()[None]], [np.linalg.inv(slope.numpy())]]  # of the value by the envelope theorem: t - x = p


def soft_threshold():
    x, t, level = cp.Variable(5), cp.Parameter(5), cp.Parameter(nonneg=True)
    return objective_and(cp.Minimize(half_squares(x, t) + level * cp.norm1(x)), [], [t, level], x)


def soft_threshold_closed(t, level):
    x = t.sign() * (t.abs() - level).clamp(min=0.0)
    return 0.5 * (x - t).square().sum() + level * x.abs().sum(), x


GROUPS = (slice(0, 2), slice(2, 5), slice(5, 8))


def group_threshold():
    x, t, level = cp.Variable(8), cp.Parameter(8), cp.Parameter(nonneg=True)
    norms = sum(cp.norm(x[g]) for g in GROUPS)
    return objective_and(cp.Minimize(half_squares(x, t) + level * norms), [], [t, level], x)


def group_threshold_closed(t, level):
    x = torch.cat([t[g] * (1.0 - level / t[g].norm()).clamp(min=0.0) for g in GROUPS])
    return 0.5 * (x - t).square().sum() + level * sum(x[g].norm() for g in GROUPS), x


def group_threshold_draw(rng):
    directions = [rng.standard_normal(g.stop - g.start) for g in GROUPS]
    sizes = rng.permutation([0.5, 1.7, 2.5])
    return np.concatenate([s * d / np.linalg.norm(d) for s, d in zip(sizes, directions, strict=True)]), 1.1


# min |x|^2 / y + cy with x = t: y = |t| / sqrt(c).


def quadratic_over_linear():
    x, y, t, c = cp.Variable(3), cp.Variable(), cp.Parameter(3), cp.Parameter(nonneg=True)
    return objective_and(cp.Minimize(cp.quad_over_lin(x, y) + c * y), [x == t], [t, c], y, x)


def quadratic_over_linear_closed(t, c):
    return 2.0 * c.sqrt() * t.norm(), t.norm() / c.sqrt(), t


# max c'x in the ball of radius r of the 3-norm, by Hoelder.


def p_norm_ball(approx):
    x, c, r = cp.Variable(4), cp.Parameter(4), cp.Parameter(nonneg=True)
    return objective_and(cp.Maximize(c @ x), [cp.pnorm(x, 3, approx=approx) <= r], [c, r], x)


def p_norm_ball_closed(c, r):
    dual = (c.abs() ** 1.5).sum() ** (2.0 / 3.0)
    return r * dual, r * c.sign() * (c.abs() / dual) ** 0.5


def away_from_zero(rng, n):
    return rng.uniform(0.3, 2.0, n) * rng.choice([-1.0, 1.0], n)


FAMILIES = {
    "norm ball, outside": Family(norm_ball, lambda rng: (3.0 + rng.random(4), 1.0 + rng.random()), norm_ball_closed),
    "norm ball, inside": Family(norm_ball, lambda rng: (0.3 * rng.random(4), 1.0 + rng.random()), norm_ball_closed),
    "simplex": Family(simplex, lambda rng: (rng.standard_normal(5), 1.0 + rng.random()), simplex_closed),
    "PSD projection": Family(
        semidefinite,
        lambda rng: (spectrum(rng, [-1.2, 0.5, 2.0]) + np.diag([0.1, 0.1], 1) - np.diag([0.1, 0.1], -1),),
        semidefinite_closed,
        jacobian=semidefinite_jacobian,
    ),
    "trace SDP": Family(
        trace_program,
        lambda rng: (spectrum(rng, [-1.0, 0.4, 1.5]),),
        trace_program_closed,
        jacobian=trace_program_jacobian,
    ),
    "entropic simplex": Family(
        entropic_simplex, lambda rng: (rng.standard_normal(4),), lambda c: (-(-c).logsumexp(0), (-c).softmax(0))
    ),
    "geometric mean": Family(
        geometric_mean, lambda rng: (rng.uniform(0.5, 2.0, 3), 1.0 + rng.random()), geometric_mean_closed
    ),
    "log-sum-exp prox": Family(
        log_sum_exp, lambda rng: (rng.standard_normal(4),), log_sum_exp_closed, log_sum_exp_jacobian
    ),
    "soft threshold": Family(
        soft_threshold, lambda rng: (rng.permutation([-1.7, -0.4, 0.2, 0.9, 2.0]), 0.6), soft_threshold_closed
    ),
    "group soft threshold": Family(group_threshold, group_threshold_draw, group_threshold_closed),
    "quadratic over linear": Family(
        quadratic_over_linear, lambda rng: (rng.standard_normal(3), 0.5 + rng.random()), quadratic_over_linear_closed
    ),
    "3-norm ball, power cones": Family(
        lambda: p_norm_ball(False),
        lambda rng: (away_from_zero(rng, 4), 1.0 + rng.random()),
        p_norm_ball_closed,
    ),
    "3-norm ball, second-order cones": Family(
        lambda: p_norm_ball(True), lambda rng: (away_from_zero(rng, 4), 1.0 + rng.random()), p_norm_ball_closed
    ),
}


def known(family, parameters):
    """(outputs, Jacobians) of one instance as arrays."""
    given = tuple(torch.as_tensor(p, dtype=torch.float64) for p in parameters)
    outputs = [t.numpy() for t in family.closed(*given)]
    if family.jacobian is not None:
        return outputs, family.jacobian(*[t.numpy() for t in given])
    rows = torch.autograd.functional.jacobian(family.closed, given)
    return outputs, [[J.reshape(t.size, -1).numpy() for J in row] for t, row in zip(outputs, rows, strict=True)]


def miss(computed, expected, scale):
    return float(np.linalg.norm(np.ravel(computed) - np.ravel(expected))) / scale


def check(family, instances, batched, rng):
    problem, parameters, outputs = family.problem()
    layer = dcl.CvxpyLayer(problem, parameters, outputs, on_degenerate="raise")
    stacked = [np.stack([np.asarray(p, dtype=np.float64) for p in group]) for group in zip(*instances, strict=True)]
    leaves = [torch.tensor(a if batched else a[0], requires_grad=True) for a in stacked]
    found = layer(*leaves)
    expected = [known(family, instance) for instance in instances]
    for k, t in enumerate(found):
        for i, (values, _) in enumerate(expected):
            computed = (t[i] if batched else t).detach().numpy()
            assert computed.shape == values[k].shape
            assert miss(computed, values[k], 1.0 + np.linalg.norm(values[k])) <= VALUE
    for k, t in enumerate(found):  # each output alone: a small one cannot hide behind a large one
        cotangent = rng.standard_normal(tuple(t.shape))
        grads = torch.autograd.grad(
            t, leaves, torch.from_numpy(cotangent), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for i, (_, jacobians) in enumerate(expected):
            c = np.ravel(cotangent[i] if batched else cotangent)
            for p, (g, J) in enumerate(zip(grads, jacobians[k], strict=True)):
                computed = (g[i] if batched else g).numpy()
                scale = np.linalg.norm(np.concatenate([np.ravel(c @ other) for other in jacobians[k]]))
                scale = max(scale, NOT_TINY * np.linalg.norm(c))  # zero where nothing moves
                assert miss(computed, c @ J, scale) <= GRADIENT, (k, p, i, computed, c @ J)


@pytest.mark.parametrize("name", FAMILIES)
def test_single(name):
    rng = np.random.default_rng(list(FAMILIES).index(name))
    check(FAMILIES[name], [FAMILIES[name].draw(rng)], False, rng)


@pytest.mark.parametrize("name", FAMILIES)
def test_batch(name):
    rng = np.random.default_rng(100 + list(FAMILIES).index(name))
    check(FAMILIES[name], [FAMILIES[name].draw(rng) for _ in range(BATCH)], True, rng)

"""A tie of a curved cone that moves nothing that was asked for is no kink; one that moves it always is."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch

import dcl

KIND = dcl.GradientKind


def found(layer, *data):
    """x, its Jacobian in the first of the data, and the kind."""
    first, *rest = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dcl.DegenerateWarning)
        (x, *_), solution = layer(first, *rest, return_solution=True)
    x = x.reshape(-1)
    J = torch.stack([torch.autograd.grad(t, first, retain_graph=True)[0].reshape(-1) for t in x])
    return x.detach().numpy(), J.numpy(), KIND(int(solution.gradient_kind))


def ball(reduce=True, extra=()):
    """The projection of p onto the ball of radius r."""
    x, p, r = cp.Variable(3, name="x"), cp.Parameter(3), cp.Parameter(nonneg=True)
    inside = cp.norm(x) <= r
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [inside])
    outputs = [x, *([inside.dual_variables[0]] if extra else [])]
    return dcl.CvxpyLayer(problem, [p, r], outputs, reduce=reduce, on_degenerate="ignore")


P = np.array([0.6, 0.8, 0.0])


@pytest.mark.parametrize("reduce", [True, False])
def test_the_epigraph_of_a_norm_is_no_kink_inside_of_the_ball(reduce):
    """|x| <= t <= r: x = p however t was found, and its derivative is the identity."""
    layer = ball(reduce)
    for slack in 10.0 ** np.arange(-8.0, -0.9):
        x, J, kind = found(layer, P, 1.0 + slack)
        np.testing.assert_allclose(x, P, atol=1e-12)
        np.testing.assert_allclose(J, np.eye(3), atol=1e-12)
        assert kind == KIND.EXACT, slack


def test_outside_of_the_ball_it_is_exact_too():
    for outside in 10.0 ** np.arange(-8.0, -1.9):
        radius = np.float64(1.0 - outside)
        _, J, kind = found(ball(), P, radius)
        np.testing.assert_allclose(J, radius * (np.eye(3) - np.outer(P, P)), atol=1e-8)
        assert kind == KIND.EXACT, outside


@pytest.mark.parametrize("slack", [0.0, 1e-10, -1e-10, 1e-12])
def test_on_the_sphere_it_is_a_kink(slack):
    assert found(ball(), P, 1.0 + slack)[2] == KIND.WEAKLY_ACTIVE


def test_a_multiplier_that_was_asked_for_counts():
    assert found(ball(extra=True), P, 1.0 + 1e-6)[2] == KIND.WEAKLY_ACTIVE


def test_a_batch_is_told_apart():
    layer = ball()
    radii = torch.tensor([2.0, 1.0 + 1e-6, 1.0, 0.5], dtype=torch.float64)
    _, solution = layer(torch.tensor(P).expand(4, 3).clone().requires_grad_(), radii, return_solution=True)
    assert solution.gradient_kind.tolist() == [KIND.EXACT, KIND.EXACT, KIND.WEAKLY_ACTIVE, KIND.EXACT]


def test_the_largest_eigenvalue():
    """The projection of a symmetric matrix onto lambda_max(X) <= r, r above its simple largest eigenvalue 2."""
    X, M, r = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3)), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - M)), [cp.lambda_max(X) <= r])
    layer = dcl.CvxpyLayer(problem, [M, r], [X], on_degenerate="ignore")
    U = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    A = U @ np.diag([2.0, 1.0, -1.0]) @ U.T
    for slack, expected in ((1e-2, KIND.EXACT), (1e-5, KIND.EXACT), (1e-7, KIND.EXACT), (0.0, KIND.WEAKLY_ACTIVE)):
        _, J, kind = found(layer, A, 2.0 + slack)
        assert kind == expected, slack
        if expected == KIND.EXACT:
            sym = np.random.default_rng(1).standard_normal((3, 3))
            sym += sym.T
            np.testing.assert_allclose(J @ sym.reshape(-1), sym.reshape(-1), atol=1e-9)
    twice = U @ np.diag([2.0, 2.0, -1.0]) @ U.T  # two ties turn into each other
    assert found(layer, twice, 2.0)[2] != KIND.EXACT


def test_where_multipliers_are_not_unique_it_counts():
    """The unit ball inside of a larger one that touches it at x: the derivative is that of the small ball, 1/2 across.

    With the large ball's multiplier it is 2/3, and the tie of the small one moves nothing.
    """
    x, p = cp.Variable(2), cp.Parameter(2)
    small, large = cp.norm(x) <= 1.0, cp.norm(x + np.array([1.0, 0.0])) <= 2.0
    for order in ([small, large], [large, small]):
        layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), order), [p], [x], on_degenerate="ignore")
        _, J, kind = found(layer, np.array([2.0, 0.0]))
        assert kind != KIND.EXACT or np.allclose(J, np.diag([0.0, 0.5]), atol=1e-6)


@pytest.mark.parametrize("norm", [cp.norm1, cp.norm_inf, cp.norm2])
def test_a_cost_of_the_epigraph_that_is_zero_and_moves_counts(norm):
    """|x - p|^2 + c t, |x| <= t <= 5: x shrinks with c > 0, and stays where c < 0."""
    x, t, p, c = cp.Variable(2), cp.Variable(), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + c * t), [norm(x) <= t, t <= 5])
    layer = dcl.CvxpyLayer(problem, [c, p], [x], on_degenerate="ignore")
    target = np.array([1.0, 0.5])
    assert found(layer, np.float64(0.0), target)[2] != KIND.EXACT
    still, shrunk = (found(layer, np.float64(c), target)[0] for c in (-1e-3, 1e-3))
    assert np.abs(still - target).max() < 1e-9
    assert np.abs(shrunk - target).max() > 1e-4
    # where the cost is no parameter, it is no kink
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [norm(x) <= t, t <= 5])
    _, J, kind = found(dcl.CvxpyLayer(problem, [p], [x], on_degenerate="ignore"), target)
    assert kind == KIND.EXACT
    np.testing.assert_allclose(J, np.eye(2), atol=1e-10)


def random_balls(rng):
    """Norms of affine terms below bounds: some active, some weakly, some with slack; and the solution's number of each."""
    n = int(rng.integers(2, 5))
    x0, x, p, r = rng.standard_normal(n), cp.Variable(n), cp.Parameter(n), cp.Parameter(3)
    constraints, target, bounds, kinds = [], x0.copy(), [], []
    for k in range(3):
        A, b = rng.standard_normal((int(rng.integers(2, 4)), n)), rng.standard_normal(1)
        value = A @ x0 - b
        size = np.linalg.norm(value)
        kind = rng.choice(["active", "weak", "near", "far"], p=[0.35, 0.15, 0.3, 0.2])
        if kind == "active":
            target = target + rng.uniform(0.5, 2.0) * A.T @ value / size
        bounds.append(size + {"active": 0.0, "weak": 0.0, "near": 1e-4, "far": 1.0}[kind])
        constraints.append(cp.norm(A @ x - b) <= r[k])
        kinds.append(kind)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints)
    return dcl.CvxpyLayer(problem, [p, r], [x], on_degenerate="ignore"), target, np.array(bounds), kinds


@pytest.mark.sample(6)
@pytest.mark.parametrize("seed", range(60))
def test_exact_means_that_both_one_sided_differences_agree(seed):
    """By one-sided differences that stay within the slacks; what is weakly active is a kink, and nothing else is.

    At a point where more than n constraints hold there may be no smooth path from it, or but one."""
    rng = np.random.default_rng(seed)
    layer, target, bounds, kinds = random_balls(rng)
    x, J, kind = found(layer, target, bounds)
    expected = [KIND.WEAKLY_ACTIVE, KIND.RANK_DEFICIENT] if "weak" in kinds else [KIND.EXACT]
    assert kind in expected or len(x) < kinds.count("active") + kinds.count("weak"), kinds
    if kind != KIND.EXACT:
        return
    d, step = rng.standard_normal(len(target)), 1e-6
    for sign in (-step, step):
        moved = found(layer, target + sign * d, bounds)[0]
        np.testing.assert_allclose((moved - x) / sign, J @ d, atol=2e-3, rtol=2e-3)

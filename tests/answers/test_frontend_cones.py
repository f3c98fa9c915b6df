"""CVXPY problems with second-order, semidefinite, exponential and power cones against polished points and differences."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles import polish

import dcl

SOLUTION, GRADIENT, VIOLATION = 1e-9, 1e-6, 1e-9
FIXED = np.random.default_rng(7).standard_normal((6, 6))
pytestmark = [
    pytest.mark.filterwarnings("ignore:The problem has an expression with dimension greater than 2:UserWarning"),
]


def P(*shape, **attributes):
    return cp.Parameter(shape, **attributes)


def norm_ball():
    x, b = cp.Variable(4), P(4)
    return cp.Minimize(cp.sum_squares(x - 3 * b)), [cp.norm(x) <= 1], [x]


def norm_objective():
    x, A, b = cp.Variable(3), P(5, 3), P(5)
    return cp.Minimize(cp.norm(A @ x - b)), [], [x]


def regularized_by_norms():
    x, b = cp.Variable((3, 2)), P(3, 2)
    return cp.Minimize(cp.sum_squares(x - b) + 0.1 * cp.sum(cp.norm(x, axis=0))), [], [x]


def mixed_norm():
    x, b = cp.Variable((3, 2)), P(3, 2)
    return cp.Minimize(cp.sum_squares(x - b)), [cp.mixed_norm(x, 2, 1) <= 1], [x]


def cones_by_columns():
    t, X, b = cp.Variable(3), cp.Variable((2, 3)), P(2, 3)
    return cp.Minimize(cp.sum(t) + cp.sum_squares(X - 3 * b)), [cp.SOC(t, X)], [t, X]


def cones_by_rows():
    t, X, b = cp.Variable(2), cp.Variable((2, 3)), P(2, 3)
    return cp.Maximize(-cp.sum(t) - cp.sum_squares(X - 3 * b)), [cp.SOC(t, X, axis=1)], [t, X]


def quadratic_constraint():
    x, c = cp.Variable(3), P(3)
    return cp.Minimize(c @ x), [cp.quad_form(x, np.diag([1.0, 2.0, 3.0])) <= 1 + 0.1 * cp.sum(x)], [x]


def quadratic_over_linear():
    x, y, b = cp.Variable(3), cp.Variable(), P(3)
    return cp.Minimize(cp.quad_over_lin(x - b, y) + y), [y <= 2, cp.sum(x) == 1], [x, y]


def inverse_of_positive():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Minimize(cp.sum(cp.inv_pos(x)) + (c + 0.5) @ x), [], [x]


def square_root():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Maximize(cp.sum(cp.sqrt(x)) - (c + 0.5) @ x), [], [x]


def geometric_mean():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Maximize(cp.geo_mean(x, [1, 2, 3])), [(c + 0.5) @ x <= 1], [x]


def geometric_mean_exactly():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Maximize(cp.geo_mean(x, [0.2, 0.3, 0.5], approx=False)), [(c + 0.5) @ x <= 1], [x]


def harmonic_mean():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Maximize(cp.harmonic_mean(x)), [(c + 0.5) @ x <= 1], [x]


def power_of_three_halves():
    x, b = cp.Variable(3), P(3)
    return cp.Minimize(cp.sum(cp.power(cp.abs(x - b), 1.5)) + cp.sum_squares(x)), [], [x]


def power_exactly():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Minimize(cp.sum(cp.power(x, 2.7, approx=False)) - (c + 0.5) @ x), [], [x]


def p_norm():
    x, b = cp.Variable(3), P(3)
    return cp.Minimize(cp.sum_squares(x - b)), [cp.pnorm(x, 3, approx=False) <= 0.5], [x]


def power_cones():
    x, y, z, c = cp.Variable((2, 2)), cp.Variable((2, 2)), cp.Variable((2, 2)), P(2, 2)
    alpha = np.array([[0.2, 0.5], [0.7, 0.4]])
    objective = cp.sum(cp.multiply(c + 3, z)) - cp.sum_squares(x) - cp.sum_squares(y)
    return cp.Maximize(objective), [cp.PowCone3D(x, y, z, alpha)], [x, y, z]


def power_cones_of_many():
    W, z, c = cp.Variable((5, 2)), cp.Variable(2), P(5, 2, nonneg=True)
    alpha = np.random.default_rng(3).uniform(0.1, 1.0, (5, 2))
    alpha /= alpha.sum(0)
    return cp.Maximize(cp.sum(z)), [cp.PowConeND(W, z, alpha), cp.sum(cp.multiply(c + 0.5, W), axis=0) <= 1], [W, z]


def power_cones_of_many_by_rows():
    W, z, c = cp.Variable((2, 3)), cp.Variable(2), P(2, 3, nonneg=True)
    alpha = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    budget = cp.sum(cp.multiply(c + 0.5, W), axis=1) <= 1
    return cp.Maximize(cp.sum(z)), [cp.PowConeND(W, z, alpha, axis=1), budget], [W, z]


def exponential():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Minimize(cp.sum(cp.exp(x)) - (c + 0.5) @ x), [x <= 1], [x]


def exponential_cones():
    x, z, c = cp.Variable((2, 3)), cp.Variable((2, 3)), P(2, 3)
    y = 1 + 0.1 * np.arange(6.0).reshape(2, 3)
    return cp.Minimize(cp.sum(z) + cp.sum_squares(x - c)), [cp.ExpCone(x, y, z)], [x, z]


def logarithm():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Maximize((c + 0.2) @ cp.log(x)), [cp.sum(x) == 1], [x]


def log_one_plus():
    x, c = cp.Variable(3), P(3, nonneg=True)
    return cp.Maximize(cp.sum(cp.log1p(x)) - (c + 0.2) @ x), [x >= 0], [x]


def entropy():
    x, c = cp.Variable(4), P(4)
    return cp.Maximize(c @ x + cp.sum(cp.entr(x))), [cp.sum(x) == 1], [x]


def divergence():
    x, y = cp.Variable(3), P(3, nonneg=True)
    return cp.Minimize(cp.sum(cp.kl_div(x, y + 0.3))), [cp.sum(x) == 1], [x]


def relative_entropy():
    x, y, c = cp.Variable(3), cp.Variable(3), P(3)
    return cp.Minimize(cp.sum(cp.rel_entr(x, y)) + c @ x + cp.sum_squares(y)), [cp.sum(x) == 1], [x, y]


def log_sum_exp():
    x, A, b = cp.Variable(3), P(4, 3), P(4)
    return cp.Minimize(cp.log_sum_exp(A @ x + b) + cp.sum_squares(x)), [], [x]


def logistic_regression():
    w, X = cp.Variable(3), P(6, 3)
    return cp.Minimize(cp.sum(cp.logistic(X @ w)) / 6 + 0.5 * cp.sum_squares(w)), [], [w]


def nearest_semidefinite():
    X, C = cp.Variable((3, 3), symmetric=True), P(3, 3)
    return cp.Minimize(cp.sum_squares(X - C)), [X >> 0], [X]


def below_a_matrix():
    X, C = cp.Variable((3, 3), symmetric=True), P(3, 3)
    return cp.Maximize(-cp.sum_squares(X - C)), [X << np.eye(3)], [X]


def batch_of_semidefinites():
    X, C = cp.Variable((2, 3, 3)), P(2, 3, 3)
    return cp.Minimize(cp.sum_squares(X - C)), [cp.PSD(X)], [X]


def semidefinite_variable():
    X, C = cp.Variable((3, 3), PSD=True), P(3, 3, symmetric=True)
    return cp.Minimize(cp.trace(C @ X) + 0.5 * cp.sum_squares(X)), [cp.trace(X) == 1], [X]


def trace_program():
    X, C = cp.Variable((3, 3), PSD=True), P(3, 3, symmetric=True)
    return cp.Minimize(cp.trace(C @ X)), [cp.trace(X) == 1], [X]


def largest_eigenvalue():
    x, c = cp.Variable(3), P(3)
    # CVXPY adds the rows A == A.T, which are 0 = 0 here
    A = cp.diag(x) + FIXED[:3, :3] + FIXED[:3, :3].T
    return cp.Minimize(cp.lambda_max(A) + cp.sum_squares(x - c)), [], [x]


def spectral_norm():
    X, C = cp.Variable((2, 3)), P(2, 3)
    return cp.Minimize(cp.sum_squares(X - C)), [cp.sigma_max(X) <= 0.5], [X]


def nuclear_norm():
    X, C = cp.Variable((2, 2)), P(2, 2)
    return cp.Minimize(cp.normNuc(X) + cp.sum_squares(X - 3 * C)), [], [X]


def log_determinant():
    X, C = cp.Variable((2, 2), symmetric=True), P(2, 2, PSD=True)
    return cp.Maximize(cp.log_det(X) - cp.trace((C + np.eye(2)) @ X)), [], [X]


def matrix_fraction():
    X, b = cp.Variable((2, 2), symmetric=True), P(2)
    return cp.Minimize(cp.matrix_frac(b + 1, X) + cp.trace(X)), [X[0, 1] == 0.1], [X]


def all_cones():
    x, X, c = cp.Variable(3), cp.Variable((2, 2), symmetric=True), P(3)
    constraints = [cp.norm(x) <= 2, X >> np.eye(2) * 0.1, cp.sum(cp.exp(x)) <= 5, cp.sum(x) == X[0, 1], X[0, 0] <= 2]
    return cp.Minimize(cp.sum_squares(x - 2 * c) + cp.trace(X) - cp.sqrt(X[1, 1])), constraints, [x, X]


FAMILIES = [
    norm_ball, norm_objective, regularized_by_norms, mixed_norm, cones_by_columns, cones_by_rows, quadratic_constraint,
    quadratic_over_linear, inverse_of_positive, square_root, geometric_mean, geometric_mean_exactly, harmonic_mean,
    power_of_three_halves, power_exactly, p_norm, power_cones, power_cones_of_many, power_cones_of_many_by_rows,
    exponential, exponential_cones, logarithm, log_one_plus, entropy, divergence, relative_entropy, log_sum_exp,
    logistic_regression, nearest_semidefinite, below_a_matrix, batch_of_semidefinites, semidefinite_variable,
    trace_program, largest_eigenvalue, spectral_norm, nuclear_norm, log_determinant, matrix_fraction, all_cones,
]  # fmt: skip
SLOW = FAMILIES[1::2]
families = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow if f in SLOW else ()) for f in FAMILIES], ids=lambda f: f.__name__
)


def draw(parameter, rng):
    value = rng.standard_normal(parameter.shape)
    if parameter.attributes["nonneg"]:
        return np.abs(value)
    if parameter.attributes["PSD"]:
        return value @ value.T
    return value + np.swapaxes(value, -1, -2) if parameter.attributes["symmetric"] else value


def build(family, seed=0):
    objective, constraints, variables = family()
    problem = cp.Problem(objective, constraints)
    parameters = problem.parameters()
    rng = np.random.default_rng(seed)
    values = [draw(parameter, rng) for parameter in parameters]
    return problem, parameters, variables, values


@pytest.mark.sample(4)
@families
def test_solution_duals_and_violation(family):
    problem, parameters, variables, values = build(family)
    duals = [dual for constraint in problem.constraints for dual in constraint.dual_variables]
    layer = dcl.CvxpyLayer(problem, parameters, [*variables, *duals], on_degenerate="ignore")
    solution = layer.solve(*map(torch.from_numpy, values))
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    polish.solve(problem)
    tolerance = SOLUTION * (1 + abs(problem.value))
    assert abs(float(solution.value) - problem.value) <= tolerance
    for variable, got in zip([*variables, *duals], solution.outputs, strict=True):
        wanted = np.asarray(variable.value).reshape(variable.shape, order="F")
        np.testing.assert_allclose(got.numpy(), wanted, atol=tolerance, rtol=SOLUTION, err_msg=str(variable))
    for variable, got in zip(variables, solution.outputs, strict=False):
        variable.project_and_assign(got.numpy())
        np.testing.assert_allclose(variable.value, got.numpy(), atol=VIOLATION)
    for constraint in problem.constraints:
        assert polish.violation(constraint) <= VIOLATION


@pytest.mark.slow
@families
def test_gradient_against_differences(family):
    problem, parameters, variables, values = build(family)
    duals = [dual for constraint in problem.constraints for dual in constraint.dual_variables]
    layer = dcl.CvxpyLayer(problem, parameters, [*variables, *duals], on_degenerate="raise")
    rng = np.random.default_rng(1)
    leaves = [torch.tensor(value, requires_grad=True) for value in values]
    outputs = layer(*leaves)
    weights = [torch.from_numpy(rng.standard_normal(tuple(out.shape))) for out in outputs]
    # a direction that stays in the declared domain, to either side
    directions = [draw(parameter, rng) for parameter in parameters]

    def loss(step):
        moved = (torch.from_numpy(v + step * d) for v, d in zip(values, directions, strict=True))
        with torch.no_grad():
            return sum(float((w * out).sum()) for w, out in zip(weights, layer(*moved), strict=True))

    total = sum((w * out).sum() for w, out in zip(weights, outputs, strict=True))
    grads = torch.autograd.grad(total, leaves)
    slope = sum(float((g * torch.from_numpy(d)).sum()) for g, d in zip(grads, directions, strict=True))
    h = 1e-4
    difference = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    size = sum(float((g * torch.from_numpy(d)).abs().sum()) for g, d in zip(grads, directions, strict=True))
    assert abs(slope - difference) <= GRADIENT * (1 + size)


def test_geometric_program_with_exponential_cones():
    x, y, a, b = (cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True), cp.Parameter(pos=True))
    problem = cp.Problem(cp.Minimize(x * y + a / x), [x**2 + y / x <= b, x * y >= 0.5, y >= 0.4])
    layer = dcl.CvxpyLayer(problem, [a, b], [x, y], gp=True)
    leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.3, 3.0)]
    (_, solution), out = layer(*leaves, return_solution=True), layer(*leaves)
    a.value, b.value = 1.3, 3.0
    polish.solve(problem, gp=True)
    np.testing.assert_allclose([t.item() for t in out], [x.value, y.value], atol=SOLUTION)
    assert abs(float(solution.value) - problem.value) <= SOLUTION
    torch.autograd.gradcheck(layer, leaves, eps=1e-5, atol=1e-6)


def test_softmax():
    x, c = cp.Variable(5), cp.Parameter(5)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Maximize(c @ x + cp.sum(cp.entr(x))), [cp.sum(x) == 1]), [c], [x])
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (got,) = layer(logits)
    wanted = torch.softmax(logits, -1)
    torch.testing.assert_close(got, wanted, atol=1e-9, rtol=0.0)
    w = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grads = (torch.autograd.grad((w * out).sum(), logits)[0] for out in (got, wanted))
    torch.testing.assert_close(*grads, atol=1e-8, rtol=0.0)


def test_weighted_geometric_mean():
    """Maximize prod x_i^a_i on c'x <= 1: x_i = a_i / c_i."""
    x, c = cp.Variable(3), cp.Parameter(3)
    a = np.array([0.2, 0.3, 0.5])
    problem = cp.Problem(cp.Maximize(cp.geo_mean(x, a, approx=False)), [c @ x <= 1])
    cost = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (got,) = dcl.CvxpyLayer(problem, [c], [x])(cost)
    torch.testing.assert_close(got, torch.from_numpy(a) / cost, atol=1e-8, rtol=0.0)
    jacobian = torch.stack([torch.autograd.grad(got[i], cost, retain_graph=True)[0] for i in range(3)])
    torch.testing.assert_close(jacobian, torch.diag(-torch.from_numpy(a) / cost.detach() ** 2), atol=1e-6, rtol=0.0)


def test_solver_without_the_cone_is_refused_when_the_layer_is_made():
    x, b = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x - b)), [])
    with pytest.raises(dcl.OptionError, match="DAQP has no second-order cones: use CLARABEL, SCS"):
        dcl.CvxpyLayer(problem, [b], [x], solver="DAQP")


def test_rows_of_cones_have_names():
    from dcl.frontends.cvxpy.canonicalize import canonicalize

    x, X = cp.Variable(3, name="x"), cp.Variable((2, 2), PSD=True, name="X")
    constraints = [cp.SOC(cp.sum(X), x), cp.ExpCone(x, np.ones(3), np.ones(3) * 2)]
    form = canonicalize(cp.Problem(cp.Minimize(cp.sum(x) + cp.trace(X)), constraints), [], [x])
    names = [form.describe_row(i) for i in range(form.structure.m)]
    assert names[0].startswith("constraint 0 (SOC(")
    assert sum(name.startswith("variable X (attribute PSD)") for name in names) == 3
    assert sum(name.startswith("constraint 1 (ExpCone(") for name in names) == 9

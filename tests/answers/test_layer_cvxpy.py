"""CvxpyLayer end to end: answers of problem.solve(), polished, gradients against its central differences; dense and sparse."""

import copy
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch
from cvxpy_families import (
    FAMILIES,
    build,
    chain,
    lasso,
    matrix_variable,
    param,
    parametric_P,
    quadratic_program,
    rng_of,
)
from oracles import polish

import dcl
from dcl.frontends.cvxpy import canonicalize
from dcl.program.pattern import SparsePattern

STEP = 1e-4


def solve(problem, outputs):
    polish.solve(problem)
    return [np.array(v.value, dtype=float) for v in outputs], float(problem.value)


def tensors(parameters, requires_grad=True):
    return [torch.tensor(np.array(p.value, dtype=float), requires_grad=requires_grad) for p in parameters]


def direction(parameter, rng):
    d = rng.standard_normal(parameter.shape)
    return d + d.T if parameter.attributes["symmetric"] or parameter.attributes["PSD"] else d


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_answers_are_those_of_problem_solve(family):
    problem, parameters, outputs = build(family)
    found, solution = dcl.CvxpyLayer(problem, parameters, outputs)(*tensors(parameters), return_solution=True)
    expected, value = solve(problem, outputs)
    for t, e in zip(found, expected, strict=True):
        assert tuple(t.shape) == e.shape
        np.testing.assert_allclose(t.detach(), e, rtol=1e-9, atol=1e-9)
    assert float(solution.value) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert solution.gradient_kind == dcl.GradientKind.EXACT
    assert float(solution.primal_residual) < 1e-11
    assert float(solution.dual_residual) < 1e-11


@pytest.mark.sample(3)
@pytest.mark.filterwarnings("ignore:the gradient with respect to:dcl.DegenerateWarning")  # of a linear program
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_gradients_are_those_of_central_differences(family):
    problem, parameters, outputs = build(family)
    leaves = tensors(parameters)
    found = dcl.CvxpyLayer(problem, parameters, outputs)(*leaves)
    rng = rng_of(42)
    values = [np.array(p.value, dtype=float) for p in parameters]
    gradients = {}
    for k, t in enumerate(found):
        weights = torch.tensor(rng.standard_normal(t.shape))
        gradients[k] = (
            weights,
            torch.autograd.grad(
                (weights * t).sum(), leaves, retain_graph=True, materialize_grads=True, allow_unused=True
            ),
        )
    for p, parameter in enumerate(parameters):
        d = direction(parameter, rng)
        sides = []
        for sign in (1, -1):
            parameter.value = values[p] + sign * STEP * d
            sides.append(solve(problem, outputs)[0])
        parameter.value = values[p]
        for k, (weights, grads) in gradients.items():
            difference = (weights.numpy() * (sides[0][k] - sides[1][k])).sum() / (2 * STEP)
            assert float((grads[p] * torch.tensor(d)).sum()) == pytest.approx(difference, rel=2e-5, abs=2e-6)


@pytest.mark.sample(3)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_value_is_differentiable_by_the_envelope_theorem(family):
    # dvalue/dtheta of the layer's own outputs, through the user's objective, against differences of the optimal value
    problem, parameters, outputs = build(family)
    values = [np.array(p.value, dtype=float) for p in parameters]
    layer = dcl.CvxpyLayer(problem, parameters, outputs)
    rng = rng_of(3)
    steps = [STEP * direction(p, rng) for p in parameters]
    up, down = (
        float(layer.solve(*(torch.tensor(v + sign * s) for v, s in zip(values, steps, strict=True))).value)
        for sign in (1, -1)
    )
    expected = []
    for sign in (1, -1):
        for p, v, s in zip(parameters, values, steps, strict=True):
            p.value = v + sign * s
        expected.append(solve(problem, outputs)[1])
    assert up - down == pytest.approx(expected[0] - expected[1], rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("sign", ["==", "<=", ">="])
@pytest.mark.parametrize("kind", [cp.Minimize, cp.Maximize])
def test_signs_of_duals_are_those_of_cvxpy(sign, kind):
    x, b = cp.Variable(2), param(value=0.5)
    target = np.array([2.0, -1.0])
    objective = cp.sum_squares(x - target) if kind is cp.Minimize else -cp.sum_squares(x - target)
    left = x[0] + 2 * x[1] if sign == "<=" else x[0] - x[1]
    constraint = {"==": left == b, "<=": left <= b - 2, ">=": -left >= b - 2}[sign]
    problem = cp.Problem(kind(objective), [constraint])
    dual = constraint.dual_variables[0]
    (found,) = dcl.CvxpyLayer(problem, [b], [dual])(torch.tensor(0.5, dtype=torch.float64))
    (expected,), _ = solve(problem, [dual])
    assert abs(float(expected)) > 0.1
    assert float(found) == pytest.approx(float(expected), rel=1e-7)


def test_an_asymmetric_value_of_a_PSD_parameter_has_a_symmetric_gradient():
    problem, parameters, outputs = build(parametric_P)
    Q, q = tensors(parameters) if parameters[0].shape == (3, 3) else reversed(tensors(parameters))
    layer = dcl.CvxpyLayer(problem, sorted(parameters, key=lambda p: -p.size), outputs[:1])
    skew = torch.tensor([[0.0, 1, 2], [-1, 0, 3], [-2, -3, 0]]).double()
    (x,), (same,) = layer(Q, q), layer(Q + 0.1 * skew, q)
    torch.testing.assert_close(x, same)
    (gradient,) = torch.autograd.grad(x[0], Q)
    torch.testing.assert_close(gradient, gradient.mT, rtol=1e-12, atol=1e-14)
    assert gradient.abs().max() > 1e-3


def test_the_order_of_parameters_and_variables_is_the_callers():
    problem, parameters, outputs = build(matrix_variable)
    values = dict(zip(parameters, tensors(parameters), strict=True))
    forward = dcl.CvxpyLayer(problem, parameters, outputs)(*values.values())
    turned = dcl.CvxpyLayer(problem, parameters[::-1], outputs[::-1])(*list(values.values())[::-1])
    torch.testing.assert_close(list(forward), list(turned)[::-1], rtol=0, atol=0)


# The user's objects, copies


def snapshot(problem):
    leaves = [*problem.parameters(), *problem.variables(), *(v for c in problem.constraints for v in c.dual_variables)]
    values = [None if leaf.value is None else np.array(leaf.value) for leaf in leaves]
    return str(problem), problem.value, problem.status, [c.id for c in problem.constraints], values


@pytest.mark.parametrize("solved", [True, False])
def test_the_users_objects_are_untouched(solved):
    problem, parameters, outputs = build(quadratic_program)
    if solved:
        solve(problem, outputs)
    before = snapshot(problem)
    values = tensors(parameters)
    if not solved:
        for parameter in parameters:
            parameter.value = None
        before = snapshot(problem)
    layer = dcl.CvxpyLayer(problem, parameters, outputs)
    layer(*values)[0].sum().backward()
    layer.solve(*values)
    after = snapshot(problem)
    assert before[:4] == after[:4]
    for a, b in zip(before[4], after[4], strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(parameter.value is None for parameter in parameters) or solved


def test_the_layer_keeps_nothing_of_cvxpy():
    problem, parameters, outputs = build(quadratic_program)
    values = tensors(parameters, requires_grad=False)
    layer = dcl.CvxpyLayer(problem, parameters, outputs)
    expected = layer(*values)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(*values), expected, rtol=0, atol=0)
    text = pickle.dumps(layer)
    assert b"cvxpy.expressions" not in text
    assert b"cvxpy.problems" not in text
    # later changes of the problem do not reach the layer
    parameters[0].value = 5.0 * np.array(parameters[0].value)
    torch.testing.assert_close(layer(*values), expected, rtol=0, atol=0)


def test_state_dict_and_modules():
    problem, parameters, outputs = build(lasso)
    layer = dcl.CvxpyLayer(problem, parameters, outputs)
    model = torch.nn.Sequential(torch.nn.Linear(2, 7), torch.nn.ReLU())
    assert not layer.state_dict()
    assert not list(layer.parameters())
    lam_first = parameters[0].shape == ()
    hidden, lam = model(torch.ones(5, 2)), torch.tensor(0.2)
    (x,) = layer(lam, hidden) if lam_first else layer(hidden, lam)
    x.square().sum().backward()
    assert x.dtype == torch.float32
    assert model[0].weight.grad.abs().max() > 0.0


def test_repr():
    x, A, b = cp.Variable(3, name="x"), cp.Parameter((4, 3), name="A"), cp.Parameter(4, name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [cp.norm(x) <= 1, cp.sum(x) == 1])
    layer = dcl.CvxpyLayer(problem, [A, b], [problem.objective, x], mu=0.1)
    assert repr(layer) == (
        "CvxpyLayer(parameters=[A (4, 3), b (4,)], outputs=[value, x (3,)], n=8, m=10, "
        "cones=[5 zero, 1 nonnegative, 1 second-order(4)], reduced=[n=3, m=5, bounds=0], solver=auto, mu=0.1)"
    )
    assert repr(dcl.QPLayer("DAQP", on_failure="nan")) == "QPLayer(solver=daqp, mu=0.0, on_failure=nan)"
    mixed = dcl.ConeLayer({"z": 2, "q": [3, 3, 4], "s": [2], "ep": 1}, dcl.solvers.Clarabel(), mu=torch.ones(2))
    assert repr(mixed) == (
        "ConeLayer(m=18, cones=[2 zero, 2 second-order(3), 1 second-order(4), 1 semidefinite(2), 1 exponential], "
        "solver=clarabel, mu=tensor (2,))"
    )


# Sparse storage


def layer_and_gradients(n, monkeypatch, *, sparse, mu=0.0):
    problem, parameters, outputs, values = chain(n)
    monkeypatch.setattr(canonicalize, "dense_storage", lambda *_: not sparse)
    layer = dcl.CvxpyLayer(problem, parameters, outputs, mu=mu)
    assert isinstance(layer._form.structure.A, SparsePattern) == sparse
    leaves = [v.clone().requires_grad_() for v in values]
    found, solution = layer(*leaves, return_solution=True)
    weights = torch.linspace(-1, 1, n, dtype=torch.float64)
    total = (weights * found[0]).sum() + (weights[:-1] * found[1]).sum()
    return found, solution, torch.autograd.grad(total, leaves)


@pytest.mark.parametrize("mu", [0.0, 0.01])
def test_sparse_is_dense(monkeypatch, mu):
    dense, first, expected = layer_and_gradients(20, monkeypatch, sparse=False, mu=mu)
    sparse, second, gradients = layer_and_gradients(20, monkeypatch, sparse=True, mu=mu)
    torch.testing.assert_close(sparse, dense, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradients, expected, rtol=1e-7, atol=1e-9)
    assert all(g.abs().max() > 1e-3 for g in gradients)
    torch.testing.assert_close(first.gradient_kind, second.gradient_kind)
    assert (first.gradient_kind == dcl.GradientKind.EXACT).all()


@pytest.mark.sample(2)
@pytest.mark.parametrize("mu", [0.0, 0.05])
def test_sparse_double_backward(monkeypatch, mu):
    monkeypatch.setattr(canonicalize, "dense_storage", lambda *_: False)
    problem, parameters, outputs, values = chain(4)
    layer = dcl.CvxpyLayer(problem, parameters, outputs, mu=mu)
    leaves = [v[0].clone().requires_grad_() if v.ndim else v.clone().requires_grad_() for v in values]
    assert torch.autograd.gradcheck(layer, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, leaves, fast_mode=True, atol=1e-4)


def test_a_program_that_is_sparse_by_the_rule():
    n = 300
    problem, parameters, outputs, values = chain(n)
    layer = dcl.CvxpyLayer(problem, parameters, outputs)
    assert isinstance(layer._form.structure.A, SparsePattern)
    leaves = [v.clone().requires_grad_() for v in values]
    found, solution = layer(*leaves, return_solution=True)
    assert solution.ok.all()
    weights = torch.tensor(rng_of(1).standard_normal(found[0].shape))
    gradients = torch.autograd.grad((weights * found[0]).sum(), leaves)
    assert (solution.gradient_kind == dcl.GradientKind.EXACT).all()
    rng = rng_of(2)
    steps = [1e-5 * torch.tensor(rng.standard_normal(v.shape)) for v in values]
    up, down = (layer.solve(*(v + sign * s for v, s in zip(values, steps, strict=True))).outputs[0] for sign in (1, -1))
    difference = float((weights * (up - down)).sum()) / 2
    found = sum(float((g * s).sum()) for g, s in zip(gradients, steps, strict=True))
    assert found == pytest.approx(difference, rel=1e-4)


def test_sparse_without_constraints(monkeypatch):
    monkeypatch.setattr(canonicalize, "dense_storage", lambda *_: False)
    x, q = cp.Variable(3), cp.Parameter(3)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, 2 * np.eye(3)) + q @ x)), [q], [x])
    value = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    (found,) = layer(value)
    torch.testing.assert_close(found, -value / 4)
    found[1].backward()
    np.testing.assert_allclose(value.grad, [0.0, -0.25, 0.0], atol=1e-14)


# Messages in the user's words


def test_degenerate_warning_names_the_constraint():
    x, b = cp.Variable(2, name="x"), cp.Parameter(2, name="b")
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [cp.sum(x) <= 5, x >= 0]), [b], [x])
    b_value = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    with pytest.warns(dcl.DegenerateWarning, match=r"constraint 1 .*x.*entry 1") as caught:
        layer(b_value)
    assert len(caught) == 1
    layer(b_value)  # once per layer: a second warning would be an error here


def test_infeasible_problem():
    x, b = cp.Variable(2), cp.Parameter()
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [cp.sum(x) == b, x <= 1]), [b], [x])
    with pytest.raises(dcl.SolveError) as caught:
        layer(torch.tensor([1.0, 3.0, 2.0]))
    assert caught.value.indices == [(1,)]
    assert caught.value.statuses == [dcl.Status.PRIMAL_INFEASIBLE]

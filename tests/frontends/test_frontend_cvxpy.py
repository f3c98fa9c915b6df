"""The CVXPY front end against CVXPY itself: the same data, solution and duals; the user's objects stay as they are."""

import copy
import pickle
import time

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from oracles import polish

import dcl
from dcl.errors import DppError, InputError, OptionError, UnsupportedError
from dcl.frontends.cvxpy import CanonicalForm
from dcl.frontends.cvxpy.canonicalize import canonicalize

C = np.random.default_rng(5).standard_normal((6, 6))
PSD = C @ C.T / 6 + np.eye(6)


def P(*shape, **attributes):
    return cp.Parameter(shape, **attributes)


def least_squares():
    x, A, b = cp.Variable(3), P(5, 3), P(5)
    return cp.Minimize(cp.sum_squares(A @ x - b)), [], [x]


def ridge_with_scalars():
    x, A, b, lam = cp.Variable(3), P(5, 3), P(5), P(nonneg=True)
    return cp.Minimize(cp.sum_squares(A @ x - b) + lam * cp.sum_squares(x) + 3), [], [x]


def lasso():
    x, b, lam = cp.Variable(4), P(6), P(nonneg=True)
    return cp.Minimize(0.5 * cp.sum_squares(C[:, :4] @ x - b) + lam * cp.norm1(x)), [], [x]


def linear_program():
    x, A, b, c = cp.Variable(4), P(3, 4), P(3), P(4)
    return cp.Minimize(c @ x), [A @ x <= b + 9, x >= -1, x <= 2, cp.sum(x) == 1], [x]


def shared_parameter():
    x, b = cp.Variable(4), P(4)
    return cp.Minimize(cp.sum_squares(x - b)), [x <= b + 1, cp.sum(x) == cp.sum(b)], [x]


def parametric_quadratic():
    x, Q, q = cp.Variable(4), P(4, 4, PSD=True), P(4)
    return cp.Minimize(0.5 * cp.quad_form(x, Q) + q @ x), [x >= -1, cp.sum(x) <= 1], [x]


def scaled_parametric_quadratic():
    x, y, Q = cp.Variable(3), cp.Variable(2), P(3, 3, PSD=True)
    return cp.Minimize(3 * cp.quad_form(x, Q) + cp.sum_squares(y - x[:2]) - cp.sum(y)), [x >= 1], [x, y]


def constant_quadratic():
    x, q = cp.Variable(6), P(6)
    return cp.Minimize(cp.quad_form(x, PSD) + q @ x), [cp.abs(x) <= 1], [x]


def concave_maximize():
    x, c = cp.Variable(3), P(3)
    return cp.Maximize(c @ x - cp.sum_squares(x) + 2), [x >= 0, cp.sum(x) == 1], [x]


def largest_entry():
    x, A, b = cp.Variable(3), P(4, 3), P(4)
    return cp.Minimize(cp.max(A @ x - b) + 0.1 * cp.sum_squares(x)), [cp.norm_inf(x) <= 2], [x]


def positive_part():
    x, b = cp.Variable(4), P(4)
    return cp.Minimize(cp.sum(cp.pos(x - b)) + cp.sum_squares(x)), [cp.neg(x) <= 1], [x]


def huber_loss():
    x, b = cp.Variable(4), P(4)
    return cp.Minimize(cp.sum(cp.huber(x - 3 * b, 0.5)) + cp.sum_squares(x)), [], [x]


def quadratic_over_constant():
    x, b = cp.Variable(4), P(4)
    return cp.Minimize(cp.quad_over_lin(x - b, 2.0)), [x >= 0], [x]


def sum_of_largest():
    x, b = cp.Variable(5), P(5)
    return cp.Minimize(cp.sum_largest(x, 2) + cp.sum_squares(x - b)), [], [x]


def total_variation():
    x, y, lam = cp.Variable(6), P(6), P(nonneg=True)
    return cp.Minimize(cp.sum_squares(x - y) + lam * cp.tv(x)), [], [x]


def bounded_variables():
    x, y, b = cp.Variable(3, nonneg=True), cp.Variable(3, bounds=[-1, np.array([1.0, 2.0, np.inf])]), P(3)
    return cp.Minimize(cp.sum_squares(x + y - 3 * b) + cp.sum_squares(y)), [x + y <= 2], [x, y]


def parametric_bounds():
    u = P(3, nonneg=True)
    x, b = cp.Variable(3, bounds=[0, u]), P(3)
    return cp.Minimize(cp.sum_squares(x - 2 * b)), [], [x]


def symmetric_variable():
    X, B = cp.Variable((3, 3), symmetric=True), P(3, 3)
    return cp.Minimize(cp.sum_squares(X - B)), [X[0, 1] == 1, X <= 2], [X]


def diagonal_variable():
    X, B = cp.Variable((3, 3), diag=True), P(3, 3)
    return cp.Minimize(cp.sum_squares(X - B)), [cp.trace(X) == 1], [X]


def sparse_variable():
    X, B = cp.Variable((2, 3), sparsity=[(0, 1, 1), (0, 1, 2)]), P(2, 3)
    return cp.Minimize(cp.sum_squares(X - B)), [cp.sum(X) == 1], [X]


def matrix_variable():
    X, A, B = cp.Variable((3, 2)), P(4, 3), P(4, 2)
    return cp.Minimize(cp.sum_squares(A @ X - B) + cp.sum_squares(X)), [X >= -0.5, cp.sum(X, axis=0) == 1], [X]


def transposed_parameters():
    x, A, B = cp.Variable(4), P(3, 2), P(2, 2)
    stacked = cp.hstack([cp.vstack([A, B]), cp.reshape(cp.vec(A.T, order="F")[:5], (5, 1), order="F")])
    return cp.Minimize(cp.sum_squares(x)), [stacked @ x[:3] <= 1, A.T @ x[1:] == 0.1], [x]


def kronecker():
    X, A = cp.Variable((2, 2)), P(4, 4)
    return cp.Minimize(cp.sum_squares(X - 1)), [cp.kron(np.array([[1.0, 2.0], [0.0, -1.0]]), X) <= A + 3], [X]


def structured_parameters():
    x, S, D, N = cp.Variable(3), P(3, 3, symmetric=True), P(3, 3, diag=True), P(3, 3, NSD=True)
    return cp.Minimize(cp.sum_squares(x) + cp.sum(x)), [S @ x <= 3, D @ x >= -2, N @ x <= 4], [x]


def scalars_and_broadcast():
    x, y, p, q = cp.Variable(3), cp.Variable(), P(), P()
    return cp.Minimize(cp.sum_squares(x - p) + cp.square(y) + q * y), [x <= y, y == 2 * q], [x, y]


def cone_constraints():
    x, b = cp.Variable(3), P(3)
    return cp.Maximize(-cp.sum_squares(x - b)), [cp.NonNeg(x - 0.2), cp.Zero(x[0] - x[1]), x <= 2], [x]


def three_dimensions():
    x, b = cp.Variable((2, 3, 2)), P(2, 3, 2)
    return cp.Minimize(cp.sum_squares(x - b)), [cp.sum(x, axis=2) <= 0.5, x[1, 0] == 0.2], [x]


def parameter_only_constraint():
    x, b = cp.Variable(2), P(2, nonneg=True)
    return cp.Minimize(cp.sum_squares(x - 1)), [b >= 0, x <= b], [x]


def unused_variable():
    x, y, b = cp.Variable(2), cp.Variable(2), P(2)
    return cp.Minimize(cp.sum_squares(x - b)), [y == x + 1], [x, y]


def no_parameters():
    x = cp.Variable(3)
    return cp.Minimize(cp.quad_form(x, PSD[:3, :3]) + cp.sum(x)), [x >= -0.1], [x]


def large_sparse():
    n = 300
    x, b, c = cp.Variable(n), P(n), P(n - 1)
    return cp.Minimize(cp.sum_squares(x - b)), [cp.multiply(c, cp.diff(x)) <= 0.5, x[0] == 1], [x]


FAMILIES = [
    least_squares,
    ridge_with_scalars,
    lasso,
    linear_program,
    shared_parameter,
    parametric_quadratic,
    scaled_parametric_quadratic,
    constant_quadratic,
    concave_maximize,
    largest_entry,
    positive_part,
    huber_loss,
    quadratic_over_constant,
    sum_of_largest,
    total_variation,
    bounded_variables,
    parametric_bounds,
    symmetric_variable,
    diagonal_variable,
    sparse_variable,
    matrix_variable,
    transposed_parameters,
    kronecker,
    structured_parameters,
    scalars_and_broadcast,
    cone_constraints,
    three_dimensions,
    parameter_only_constraint,
    unused_variable,
    no_parameters,
    large_sparse,
]


def build(family):
    """(problem, parameters, primal variables, all outputs: primal and dual variables)."""
    objective, constraints, variables = family()
    problem = cp.Problem(objective, constraints)
    return problem, problem.parameters(), variables, [*variables, *(c.dual_variables[0] for c in constraints)]


def draw(parameter, rng):
    """A value in the domain of `parameter`."""
    value = rng.standard_normal(parameter.shape)
    attributes = parameter.attributes
    if attributes["nonneg"] or attributes["pos"]:
        return np.abs(value) + 0.1
    if attributes["PSD"] or attributes["NSD"]:
        return (1 if attributes["PSD"] else -1) * (value @ value.T + np.eye(len(value)))
    if attributes["symmetric"]:
        return value + value.T
    return np.diag(np.diag(value)) if attributes["diag"] else value


def thetas_of(form: CanonicalForm, values):
    return [form.flatten(torch.as_tensor(np.array(value)), p) for p, value in enumerate(values)]


def matrices(form, values):
    """Dense P, q, A, b, d of one instance."""
    program, d = form.program(thetas_of(form, values))
    structure = form.structure
    P_, A_ = structure.P.dense(program.P), structure.A.dense(program.A)
    return [t[0].numpy() for t in (P_, program.q, A_, program.b, d)]


def solve(form, values):
    zero, nonnegative = form.structure.cone.cones
    cones = polish.Cone("zero", zero.dim), polish.Cone("nonnegative", nonnegative.dim)
    x, z = polish.by_clarabel(polish.Program(*matrices(form, values)[:4], cones))
    return torch.from_numpy(x).unsqueeze(0), torch.from_numpy(z).unsqueeze(0)


@pytest.mark.sample(3)
@pytest.mark.filterwarnings("ignore:Reading from a sparse CVXPY expression:RuntimeWarning")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_data_solution_and_duals_are_those_of_cvxpy(family):
    problem, parameters, _, wanted = build(family)
    form = canonicalize(problem, parameters, wanted)
    rng = np.random.default_rng(0)
    values = [draw(parameter, rng) for parameter in parameters]

    reference, reference_parameters, variables, _ = build(family)
    for parameter, value in zip(reference_parameters, values, strict=True):
        parameter.value = value
    data, _, inverse = reference.get_problem_data(cp.CLARABEL, canon_backend="SCIPY")
    P_, q, A_, b, d = matrices(form, values)
    assert np.allclose(A_, data["A"].toarray(), rtol=0, atol=1e-12)
    assert np.allclose(b, data["b"], rtol=0, atol=1e-12)
    assert np.allclose(q, data["c"], rtol=0, atol=1e-12)
    assert np.isclose(d, np.squeeze(inverse[-1]["offset"]), rtol=0, atol=1e-12)
    expected = data["P"].toarray() if "P" in data else np.zeros_like(P_)
    assert np.allclose(P_, expected, rtol=0, atol=1e-12)
    assert np.array_equal(P_, P_.T)

    polish.solve(reference, canon_backend="SCIPY")
    x, z = solve(form, values)
    results = form.extract(x, z)
    primal = [v.value_sparse.toarray() if v.sparse_idx is not None else v.value for v in variables]
    primal = [v.toarray() if sp.issparse(v) else v for v in primal]
    expected = [*primal, *(c.dual_value for c in reference.constraints)]
    for want, got in zip(expected, results, strict=True):
        assert tuple(got.shape[1:]) == np.shape(want)
        assert np.allclose(got[0].numpy(), want, rtol=1e-9, atol=1e-9)
    program, d = form.program(thetas_of(form, values))
    assert np.isclose(form.value(program, d, x).item(), reference.value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_maps_agree_with_their_transposes(family):
    problem, parameters, variables, _ = build(family)
    form = canonicalize(problem, parameters, variables)
    generator = torch.Generator().manual_seed(0)
    thetas = [torch.rand(3, p.size, generator=generator, dtype=torch.float64) for p in parameters]
    zeros = [torch.zeros_like(t).requires_grad_() for t in thetas]
    for affine in (form.map_P, form.map_q, form.map_A, form.map_b, form.map_d):
        linear = affine(thetas) - affine.offset
        y = torch.rand(linear.shape, generator=generator, dtype=torch.float64)
        if not affine.parameters:
            assert affine(thetas).shape == (1, affine.size)
            continue
        pulled = torch.autograd.grad(affine(zeros), zeros, y, allow_unused=True)
        inner = sum((t * g).sum() for t, g in zip(thetas, pulled, strict=True) if g is not None)
        assert torch.isclose((linear * y).sum(), inner, rtol=1e-12)


def test_batches_are_loops_and_shared_data_stay_shared():
    problem, parameters, variables, _ = build(linear_program)
    form = canonicalize(problem, parameters, variables)
    names = {parameter.id: p for p, parameter in enumerate(parameters)}
    rng = np.random.default_rng(1)
    values = [rng.standard_normal((4, *parameter.shape)) for parameter in parameters]
    batched, d = form.program(thetas_of(form, values))
    for i in range(4):
        single = matrices(form, [value[i] for value in values])
        assert np.array_equal(batched.A[i].numpy(), single[2])
        assert np.array_equal(batched.q[i].numpy(), single[1])
    shared = [value if p == names[problem.objective.parameters()[0].id] else value[0] for p, value in enumerate(values)]
    program, d = form.program(thetas_of(form, shared))
    assert [t.shape[0] for t in (program.P, program.q, program.A, program.b, d)] == [1, 4, 1, 1, 1]
    empty = [np.zeros((0, *parameter.shape)) for parameter in parameters]
    assert form.program(thetas_of(form, empty))[0].A.shape[0] == 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_maps_work_under_function_transforms():
    x, S, b = cp.Variable(3), cp.Parameter((3, 3), symmetric=True), cp.Parameter(3)
    form = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(x)), [S @ x <= b + 1]), [S, b], [x])

    def data(S, b):
        program, _ = form.program([form.flatten(S, 0), form.flatten(b, 1)])
        return program.A, program.b

    generator = torch.Generator().manual_seed(0)
    arguments = [torch.rand(5, *shape, generator=generator, dtype=torch.float64) for shape in ((3, 3), (3,))]
    for batched, mapped in zip(data(*arguments), torch.func.vmap(data)(*arguments), strict=True):
        assert torch.equal(batched, mapped.squeeze(1))
    forward, backward = (jac(data, argnums=(0, 1))(*arguments) for jac in (torch.func.jacfwd, torch.func.jacrev))
    for one, two in zip(forward, backward, strict=True):
        assert all(torch.equal(u, v) for u, v in zip(one, two, strict=True))
    compiled = torch.compile(data, fullgraph=True, backend="eager")(*arguments)
    assert all(torch.equal(u, v) for u, v in zip(compiled, data(*arguments), strict=True))


def test_geometric_program_with_a_parameter_in_an_exponent():
    x, y = cp.Variable(pos=True), cp.Variable(pos=True)
    a, e = cp.Parameter(pos=True), cp.Parameter()
    form = canonicalize(cp.Problem(cp.Minimize(x * y), [x**e >= a, y >= x]), [e, a], [x, y], gp=True)
    assert form.logs == (1,)
    x_, z_ = solve(form, [2.0, 9.0])
    assert np.allclose([t.item() for t in form.extract(x_, z_)], [3.0, 3.0])


def test_storage_follows_the_stated_rule():
    small, large = (canonicalize(*build(family)[:3]) for family in (least_squares, large_sparse))
    assert small.dense
    assert not large.dense
    assert large.structure.A.rows.shape[0] < 0.02 * large.structure.n * large.structure.m


def test_asymmetric_input_is_symmetrized():
    x, Q = cp.Variable(3), cp.Parameter((3, 3), PSD=True)
    form = canonicalize(cp.Problem(cp.Minimize(cp.quad_form(x, Q) - cp.sum(x))), [Q], [x])
    skew = np.array([[3.0, 1.0, 0.0], [0.5, 3.0, -1.0], [0.2, 0.0, 3.0]])
    assert np.allclose(matrices(form, [skew])[0], skew + skew.T)


def test_monomial_geometric_program():
    def family():
        x, y, a = cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True)
        return cp.Maximize(x * y), [x <= 2 * a, y <= 3 / a, x * y**2 <= 1], [x, y]

    problem, parameters, _, wanted = build(family)
    form = canonicalize(problem, parameters, wanted, gp=True)
    reference, reference_parameters, variables, _ = build(family)
    reference_parameters[0].value = 0.7
    polish.solve(reference, gp=True)
    x, z = solve(form, [0.7])
    for variable, got in zip(variables, form.extract(x, z), strict=False):
        assert np.isclose(got.item(), variable.value, rtol=1e-9)
    program, d = form.program(thetas_of(form, [0.7]))
    assert np.isclose(form.value(program, d, x).item(), reference.value, rtol=1e-9)
    with pytest.raises(InputError, match="declared domain"):
        form.check_domain(torch.tensor(0.0), 0)


def test_users_objects_are_untouched():
    problem, parameters, variables, wanted = build(parametric_quadratic)
    before = {key: copy.copy(value) for key, value in vars(problem).items()}
    attributes = [dict(leaf.attributes) for leaf in (*parameters, *variables)]
    canonicalize(problem, parameters, wanted)
    assert set(vars(problem)) == set(before)
    assert problem._cache.key is None
    assert problem._cache.param_prog is None
    assert problem.status is None
    assert problem.value is None
    assert all(leaf.value is None for leaf in (*parameters, *wanted))
    assert [dict(leaf.attributes) for leaf in (*parameters, *variables)] == attributes


def test_values_of_parameters_do_not_matter():
    problem, parameters, variables, _ = build(parametric_quadratic)
    rng = np.random.default_rng(2)
    for parameter in parameters:
        parameter.value = draw(parameter, rng)
    kept = [parameter.value.copy() for parameter in parameters]
    form, other = canonicalize(problem, parameters, variables), canonicalize(*build(parametric_quadratic)[:3])
    values = [draw(parameter, rng) for parameter in parameters]
    for one, two in zip(matrices(form, values), matrices(other, values), strict=True):
        assert np.array_equal(one, two)
    assert all(np.array_equal(p.value, value) for p, value in zip(parameters, kept, strict=True))


@pytest.mark.parametrize("duplicate", [lambda form: pickle.loads(pickle.dumps(form)), copy.deepcopy])
def test_form_is_free_of_cvxpy_objects(duplicate):
    problem, parameters, _, wanted = build(bounded_variables)
    form = canonicalize(problem, parameters, wanted)
    assert b"cvxpy.expressions" not in pickle.dumps(form)
    values = [draw(parameter, np.random.default_rng(3)) for parameter in parameters]
    for one, two in zip(matrices(form, values), matrices(duplicate(form), values), strict=True):
        assert np.array_equal(one, two)


def test_rows_carry_the_users_names():
    x, y, b = cp.Variable(2, name="x", nonneg=True), cp.Variable(2, name="y"), cp.Parameter(2, name="b")
    constraints = [cp.sum(x) == 1, (x + y <= b).set_label("budget")]
    form = canonicalize(cp.Problem(cp.Minimize(cp.sum(cp.abs(y)) + cp.sum_squares(x)), constraints), [b], [x])
    rows = [form.describe_row(i) for i in range(form.structure.m)]
    assert rows[0] == "constraint 0 (sum(x) == 1)"
    assert sum("epigraph of abs(y)" in row for row in rows) == 4
    assert "variable x (attribute nonneg), entry 1" in rows
    assert any(row.startswith("constraint 1 (budget: ") and row.endswith("entry 0") for row in rows)


x_, p_, q_ = cp.Variable(2, name="x"), cp.Parameter(2, name="p"), cp.Parameter(2, name="q")
s_, A_ = cp.Parameter(name="s"), cp.Parameter((2, 2), name="A")


@pytest.mark.parametrize(
    ("problem", "fragments"),
    [
        (cp.Problem(cp.Minimize(cp.sum_squares(x_)), [cp.multiply(p_, q_) @ x_ <= 1]), ["p", "q", "constraint 0"]),
        (cp.Problem(cp.Minimize(cp.sum(x_)), [x_ >= 0, x_[0] == s_**2]), ["s", "constraint 1", "Power(s, 2.0)"]),
        (cp.Problem(cp.Minimize(cp.sum_squares((s_ * A_) @ x_ - p_))), ["the objective", "Promote(s, (2, 2)) * A"]),
        (cp.Problem(cp.Minimize(cp.sum(x_)), [cp.sum_squares(x_) <= cp.exp(s_) * s_]), ["exp(s)"]),
        (
            cp.Problem(cp.Minimize(cp.sum(x_)), [cp.quad_form(x_, cp.Parameter((2, 2), PSD=True, name="Q")) <= 1]),
            ["QuadForm", "constraint 0"],
        ),
    ],
)
def test_problem_that_is_not_dpp_shows_the_expression(problem, fragments):
    with pytest.raises(DppError) as caught:
        canonicalize(problem, problem.parameters(), [x_])
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert "baked" not in str(caught.value)


Q_ = cp.Parameter((2, 2), PSD=True, name="Q")


@pytest.mark.parametrize(
    ("problem", "shown"),
    [
        (cp.Problem(cp.Minimize(cp.sum(x_)), [x_ >= 0, 2 * cp.quad_form(x_, Q_) <= 1]), "constraint 1"),
        (cp.Problem(cp.Minimize(cp.quad_form(x_ + p_, Q_))), "the objective: QuadForm(x + p, Q)"),
        # CVXPY calls these DPP, and reads the value of Q
        (cp.Problem(cp.Minimize(cp.exp(cp.quad_form(x_, Q_)))), "the objective: QuadForm(x, Q)"),
        (cp.Problem(cp.Maximize(cp.sum(x_) - cp.square(cp.quad_form(x_, Q_)))), "the objective: QuadForm(x, Q)"),
    ],
)
def test_a_parametric_quad_form_is_a_term_of_the_objective(problem, shown):
    with pytest.raises(DppError, match="only supported in the objective") as caught:
        canonicalize(problem, problem.parameters(), [x_])
    assert shown in str(caught.value)
    assert "silently zero" not in str(caught.value)  # the advice for other causes


def test_the_advice_for_a_parametric_quad_form_holds():
    """sum_squares(F x) with F'F = Q is x'Qx: the linear function c'x on the ellipsoid x'Qx <= 1 ends at -Q^-1 c / norm."""
    F, c = cp.Parameter((2, 2)), np.array([1.0, -2.0])
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(c @ x_), [cp.sum_squares(F @ x_) <= 1]), [F], [x_])
    Q = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    y = torch.linalg.solve(Q, torch.tensor(c))
    known = -y / torch.sqrt(y @ Q @ y)
    (found,) = layer(torch.linalg.cholesky(Q).mT)
    torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-9)
    for k in range(2):
        grads = [torch.autograd.grad(t[k], Q, retain_graph=True)[0] for t in (found, known)]
        torch.testing.assert_close(*(0.5 * (g + g.mT) for g in grads), rtol=1e-8, atol=1e-9)


def test_nonconvex_problem_shows_the_reason():
    with pytest.raises(InputError, match="not DCP") as caught:
        canonicalize(cp.Problem(cp.Minimize(cp.sqrt(x_[0]))), [], [x_])
    assert "power" in str(caught.value) or "sqrt" in str(caught.value) or "concave" in str(caught.value)


def test_parameters_and_variables_must_match():
    objective = cp.Minimize(cp.sum_squares(x_ - p_) + q_ @ x_)
    problem = cp.Problem(objective, [x_ >= 0])
    for parameters, name in [([p_], "q"), ([p_, q_, s_], "s"), ([p_, q_, p_], "p")]:
        with pytest.raises(InputError, match=f"exactly match.*{name}"):
            canonicalize(problem, parameters, [x_])
    with pytest.raises(InputError, match=r"must be a cvxpy\.Parameter"):
        canonicalize(problem, [p_, x_], [x_])
    with pytest.raises(InputError, match="neither a variable"):
        canonicalize(problem, [p_, q_], [cp.Variable(2)])
    with pytest.raises(InputError, match=r"must be a cvxpy\.Variable"):
        canonicalize(problem, [p_, q_], [p_])
    with pytest.raises(InputError, match=r"must be a cvxpy\.Problem"):
        canonicalize(objective, [p_, q_], [x_])
    with pytest.raises(InputError, match="no variables"):
        canonicalize(cp.Problem(cp.Minimize(cp.sum(p_))), [p_], [])
    with pytest.raises(OptionError, match="CPP, SCIPY"):
        canonicalize(problem, [p_, q_], [x_], canon_backend="FORTRAN")


@pytest.mark.parametrize(
    ("problem", "fragments"),
    [
        (cp.Problem(cp.Minimize(cp.sum(cp.Variable(2, boolean=True)))), ["boolean"]),
        (cp.Problem(cp.Minimize(cp.sum(cp.Variable(2, integer=[(0,)])))), ["integer"]),
        (cp.Problem(cp.Minimize(cp.abs(cp.Variable(complex=True)))), ["complex"]),
        (cp.Problem(cp.Minimize(cp.sum(cp.abs(x_ * 1j)))), ["complex"]),
        (cp.Problem(cp.Minimize(cp.sum(x_)), [cp.FiniteSet(x_[0], [1, 2])]), ["FiniteSet"]),
        (cp.Problem(cp.Minimize(s_ * x_[0]), [cp.constraints.RelEntrConeQuad(x_[0], x_[1], 1, 3, 3)]), ["approximate"]),
    ],
)
def test_unsupported_constructs_are_named(problem, fragments):
    with pytest.raises(UnsupportedError) as caught:
        canonicalize(problem, problem.parameters(), problem.variables())
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "bad"),
    [
        ({"nonneg": True}, [[1.0, 1.0], [1.0, -1e-3]]),
        ({"nonpos": True}, [[-1.0, 1e-3], [0.0, 0.0]]),
        ({"bounds": [-1, 1]}, [[0.0, 1.1], [0.0, 0.0]]),
        ({"PSD": True}, [[1.0, 2.0], [2.0, 1.0]]),
        ({"NSD": True}, [[1.0, 0.0], [0.0, -1.0]]),
        ({"diag": True}, [[1.0, 0.0], [1e-3, 1.0]]),
    ],
)
def test_values_outside_the_declared_domain(attributes, bad):
    x, p = cp.Variable(2), cp.Parameter((2, 2), name="p", **attributes)
    form = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(x)), [p @ x <= 1]), [p], [x])
    good = torch.zeros(2, 3, 2, 2)
    form.check_domain(good, 0)
    form.check_domain(good[:0], 0)
    good[1, 2] = torch.tensor(bad)
    with pytest.raises(InputError, match=f"parameter p .*{next(iter(attributes))}") as caught:
        form.check_domain(good, 0)
    assert caught.value.index == (1, 2)
    assert caught.value.argument == "p"


def test_float32_covariance_is_in_the_cone():
    x, Q = cp.Variable(20), cp.Parameter((20, 20), PSD=True)
    form = canonicalize(cp.Problem(cp.Minimize(cp.quad_form(x, Q) + cp.sum(x))), [Q], [x])
    factor = torch.randn(8, 20, 5, generator=torch.Generator().manual_seed(0))
    form.check_domain(100 * factor @ factor.mT, 0)


def test_build_time(capsys):
    n = 100
    x, A, b, q = cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + q @ x), [A @ x <= b, x >= 0])
    start = time.perf_counter()
    form = canonicalize(problem, [A, b, q], [x])
    with capsys.disabled():
        print(f"\ncanonicalize with a {n} x {n} parameter: {1e3 * (time.perf_counter() - start):.1f} ms")  # noqa: T201
    assert form.structure.m == 2 * n

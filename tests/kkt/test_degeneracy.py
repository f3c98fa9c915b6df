"""When a derivative counts as doubtful, what is said, and whom it names."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch

import dcl

SOLVERS = [None, "DAQP", "PIQP", "CLARABEL", "OSQP"]


def norm_below(bound):
    x, p = cp.Variable(3, name="x"), cp.Parameter(3, name="p")
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm1(x) <= bound]), p, x


@pytest.mark.parametrize("solver", SOLVERS)
def test_epigraph_variables_that_are_not_unique_are_no_cause(solver):
    problem, p, x = norm_below(100.0)
    value = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    layer = dcl.CvxpyLayer(problem, [p], [x], solver=solver, on_degenerate="raise")
    jacobian = torch.autograd.functional.jacobian(lambda t: layer(t)[0], value)
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_kink_of_the_requested_variable_is_a_cause(solver):
    # x = 0 is a corner of the projection of p onto the ball of norm1 exactly where an entry of the answer becomes zero
    problem, p, x = norm_below(1.0)
    value = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    layer = dcl.CvxpyLayer(problem, [p], [x], solver=solver, on_degenerate="raise")
    with pytest.raises(dcl.DegenerateError, match="WEAKLY_ACTIVE"):
        layer(value)


@pytest.mark.sample(3)
@pytest.mark.parametrize("seed", range(40))
def test_turnover_is_smooth_almost_everywhere(seed):
    """A portfolio with a turnover limit: flagged only where one-sided differences differ."""
    rng = np.random.default_rng(seed)
    w, mean = cp.Variable(4), cp.Parameter(4)
    cons = [cp.sum(w) == 1, w >= 0, cp.norm1(w - 0.25) <= 0.6]
    layer = dcl.CvxpyLayer(
        cp.Problem(cp.Maximize(mean @ w - cp.sum_squares(w)), cons), [mean], [w], on_degenerate="ignore"
    )
    value = torch.tensor(rng.normal(size=4), requires_grad=True)
    (out,), solution = layer(value, return_solution=True)
    step = 1e-6 * torch.tensor(rng.normal(size=4))
    ahead, behind = (layer(value.detach() + s * step)[0] for s in (1, -1))
    kink = float((ahead + behind - 2 * out.detach()).abs().max()) / 1e-6
    assert int(solution.gradient_kind) == dcl.GradientKind.EXACT or kink > 1e-6
    weights = torch.tensor(rng.normal(size=4))
    (gradient,) = torch.autograd.grad(out @ weights, value)
    if kink < 1e-6:
        assert float(gradient @ step) == pytest.approx(float((ahead - behind) @ weights) / 2, abs=1e-11)


def test_far_bounds_are_not_ties():
    # z = 1e-4 at the active bound, beside bounds of 1e12: strictly active, dx/dlb = 1
    lb, ub = torch.zeros(2, dtype=torch.float64, requires_grad=True), torch.full((2,), 1e12, dtype=torch.float64)
    q = torch.tensor([1e-4, -1.0], dtype=torch.float64)
    result, solution = dcl.solve_qp(torch.eye(2, dtype=torch.float64), q, lb=lb, ub=ub, return_solution=True)
    assert int(solution.gradient_kind) == dcl.GradientKind.EXACT
    (gradient,) = torch.autograd.grad(result.x[0], lb)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_the_warning_points_at_the_callers_line_and_names_the_constraint():
    x, p = cp.Variable(2, name="x"), cp.Parameter(2)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    value = torch.tensor([0.0, 1.0], requires_grad=True)
    with pytest.warns(dcl.DegenerateWarning, match=r"constraint 0 .*entry 0") as caught:
        layer(value)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(value)  # said once per layer


def test_infeasibility_names_the_constraints_in_conflict():
    x, b = cp.Variable(3, name="x"), cp.Parameter(name="b")
    cons = [x[0] <= x[1] + 5, cp.sum(x) == b, x >= 0]
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), cons), [b], [x])
    with pytest.raises(dcl.SolveError) as caught:
        layer(torch.tensor([1.0, -1.0]))
    message = str(caught.value)
    assert "1 of 2 instances (batch indices (1,))" in message
    conflict = message.split("in conflict: ")[1].split("\n")[0]
    assert "constraint 1" in conflict
    assert "constraint 2" in conflict


def test_the_objective_is_an_output_with_a_gradient():
    x, p = cp.Variable(2), cp.Parameter(2)
    for sense, sign in ((cp.Minimize, 1.0), (cp.Maximize, -1.0)):
        problem = cp.Problem(sense(sign * (cp.sum_squares(x - p) + 3.0)), [cp.sum(x) == 1])
        layer = dcl.CvxpyLayer(problem, [p], [problem.objective, x])
        value = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
        best, point = layer(value)
        # the projection onto the line is p - 2, at squared distance 8
        torch.testing.assert_close(point, value - 2.0)
        assert best.item() == pytest.approx(sign * 11.0, abs=1e-10)
        (gradient,) = torch.autograd.grad(best, value)
        torch.testing.assert_close(gradient, sign * torch.tensor([4.0, 4.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ([1.0, 1.0, 0.0, -1.0, 0.0, 0.5], r"row 0 of A \(second-order cone 0\)"),  # on its boundary: t - |u| = 0
        ([2.0, 1.0, 0.0, -1.0, 0.0, 0.0], r"row 3 of A \(semidefinite cone 0\)"),  # eigenvalues -1 and 0
    ],
)
def test_a_weakly_active_cone_is_named_by_its_first_row(target, name):
    """An eigenvalue has no row of its own. The layer is the projection onto the two cones."""
    q, eye = -torch.tensor(target, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    layer = dcl.ConeLayer({"q": [3], "s": [2]}, on_degenerate="raise")
    with pytest.raises(dcl.DegenerateError, match=name):
        layer(eye, q.requires_grad_(), -eye, torch.zeros(6, dtype=torch.float64))


def test_a_small_eigenvalue_beside_a_large_one_is_no_kink():
    # the projection of diag(1e6, -1e-4): x = diag(1e6, 0), dx_22/dm_22 = 0; the derivative at a kink would be 1/2
    for cones, target in (({"s": [2]}, [1e6, 0.0, -1e-4]), ({"q": [2]}, [5e5 - 5e-5, 5e5 + 5e-5])):
        q = -torch.tensor(target, dtype=torch.float64)
        eye = torch.eye(len(target), dtype=torch.float64)
        layer = dcl.ConeLayer(cones, on_degenerate="ignore")
        zero = torch.zeros(len(target), dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda t: layer(eye, t, -eye, zero).x, q)  # noqa: B023
        if "s" in cones:
            expected = -torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
        else:
            expected = -0.5 * torch.ones(2, 2, dtype=torch.float64)
        torch.testing.assert_close(jacobian, expected, rtol=0.0, atol=1e-6)


# What RANK_DEFICIENT says of x


def jacobians(call, *data):
    """d call / d each of the data, with the message of the warning."""
    leaves = [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in data]
    with pytest.warns(dcl.DegenerateWarning) as said:
        x = call(*leaves)
    rows = [torch.autograd.grad(x[k], leaves, retain_graph=True) for k in range(len(x))]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)], str(said[0].message)


def test_dependent_equalities_leave_x_alone():
    """The projection of -q onto {x_0 + x_1 = t}, stated by b = (t, 2t), rows (1, 1) and (2, 2)."""
    A = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]], dtype=torch.float64)
    layer = dcl.QPLayer()
    (dq, db), message = jacobians(
        lambda q, b: layer(torch.eye(3, dtype=torch.float64), q, A=A, b=b).x, [0.3, -1.0, 2.0], [1.0, 2.0]
    )
    assert "RANK_DEFICIENT" in message
    assert "the derivative of x is not affected: it is exact for every change of the objective" in message
    assert "weakly active" not in message
    half = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(dq, half - torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-10)
    # a consistent change of b: exact
    consistent = torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(db @ consistent, torch.tensor([0.5, 0.5, 0.0]).double(), rtol=0, atol=1e-10)


def test_dependent_inequalities_leave_x_alone():
    """A vertex of three rows in the plane, all three with positive multipliers: x is fixed, whatever q is near by."""
    G = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    P, layer = torch.eye(2, dtype=torch.float64), dcl.QPLayer()
    h = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)

    def at(q):
        return layer(P, q, G=G, h=h).x

    q = torch.tensor([-3.0, -3.5], dtype=torch.float64)
    for sign in (-1e-3, 1e-3):
        torch.testing.assert_close(at(q + sign), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    (dq,), message = jacobians(at, q.tolist())
    torch.testing.assert_close(dq, torch.zeros(2, 2, dtype=torch.float64), rtol=0, atol=1e-10)
    assert "RANK_DEFICIENT" in message or "WEAKLY_ACTIVE" in message


def test_dependent_rows_beside_a_tie():
    """x_0 = t twice and x_1 >= 0 at its kink: the tie is named too, since it moves x."""
    A = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    layer, b = dcl.QPLayer(), torch.ones(2, dtype=torch.float64)
    zero = torch.tensor([-torch.inf, 0.0], dtype=torch.float64)
    (dq,), message = jacobians(lambda q: layer(torch.eye(2).double(), q, A=A, b=b, lb=zero).x, [1.0, 0.0])
    assert "RANK_DEFICIENT" in message
    assert "also weakly active, so x may have only one-sided derivatives: lb[1]" in message
    torch.testing.assert_close(dq, torch.tensor([[0.0, 0.0], [0.0, -0.5]]).double(), rtol=0, atol=1e-10)


# The optimal value: its slopes are x and z, so it is as doubtful as those that belong to parameters


def value_layer(problem, parameters, extra=()):
    return dcl.CvxpyLayer(problem, parameters, [*extra, problem.objective], on_degenerate="raise")


def test_the_value_at_a_kink_of_a_linear_program():
    """-|c|_1: x is not unique where c has a zero."""
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = value_layer(cp.Problem(cp.Minimize(c @ x), [x >= -1, x <= 1]), [c])
    with pytest.raises(dcl.DegenerateError, match="NONUNIQUE"):
        layer(torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True))
    c0 = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(c0)[0], c0)
    torch.testing.assert_close(slope, -torch.sign(c0.detach()), rtol=0, atol=1e-12)


def test_the_value_where_multipliers_are_not_unique():
    """max(b): two multipliers share the slope where the entries are equal."""
    x, y, b = cp.Variable(), cp.Variable(), cp.Parameter(2)
    layer = value_layer(cp.Problem(cp.Minimize(x + cp.square(y)), [x >= b[0], x >= b[1]]), [b], [y])
    with pytest.raises(dcl.DegenerateError):
        layer(torch.ones(2, dtype=torch.float64, requires_grad=True))
    layer(torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True))


def test_the_value_does_not_mind_what_no_parameter_touches():
    """Epigraph variables that are not unique leave the value's slope alone."""
    problem, p, _ = norm_below(100.0)
    value = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value_layer(problem, [p])(value)[0], value)
    assert float(slope.abs().max()) < 1e-10


# A kink where x is zero but for rounding


def kink_at_zero_of_a_quadratic():
    """x = (t, t), minimize t^2 / 2 - d t over t <= 0 (twice): t = min(d, 0)."""
    P, A = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[-1.0, 1.0]])
    G = torch.tensor([[-2.0, 2.0], [1.0, 0.0]])
    q = torch.tensor([2.0, -2.0]).double().requires_grad_()
    return q, lambda layer: layer(
        P.double(), q, A=A.double(), b=torch.zeros(1).double(), G=G.double(), h=torch.tensor([1.0, 0.0]).double()
    )


def test_a_kink_at_zero_is_seen_in_spite_of_rounding():
    q, call = kink_at_zero_of_a_quadratic()
    with pytest.raises(dcl.DegenerateError, match="WEAKLY_ACTIVE"):
        call(dcl.QPLayer(on_degenerate="raise"))
    (gradient,) = torch.autograd.grad(call(dcl.QPLayer(on_degenerate="ignore")).x[0], q)
    assert -1.0 < float(gradient[0]) < 0.0


def test_a_kink_at_the_apex_of_a_cone_is_seen_in_spite_of_rounding():
    layer = dcl.ConeLayer({"l": 1, "q": [2]}, on_degenerate="raise")
    A = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
    b = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)  # x <= 0 and |x| <= 1, minimize x^2 / 2
    with pytest.raises(dcl.DegenerateError, match="WEAKLY_ACTIVE"):
        layer(torch.eye(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64, requires_grad=True), A, b)


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_whose_solution_is_zero(seed):
    """Homogeneous constraints, q in the polar of nothing: EXACT only where two-sided differences agree."""
    rng = np.random.default_rng(seed)
    R, A, G = (torch.tensor(rng.integers(-2, 3, shape).astype(float)) for shape in ((3, 3), (1, 3), (3, 3)))
    P, q = R @ R.mT + torch.eye(3).double(), torch.zeros(3).double()
    layer = dcl.QPLayer(on_degenerate="ignore")

    def x(q):
        return layer(P, q, A=A, b=torch.zeros(1).double(), G=G, h=torch.zeros(3).double(), return_solution=True)

    out, solution = x(q.clone().requires_grad_())
    step = 1e-5 * torch.tensor(rng.normal(size=3))
    ahead, behind = (x(s * step)[0].x for s in (1.0, -1.0))
    kink = float((ahead + behind - 2.0 * out.x.detach()).abs().max()) / 1e-5
    assert int(solution.gradient_kind) != dcl.GradientKind.EXACT or kink < 1e-6


def flow_layer(redundant, **settings):
    """Min-cost flow on a triangle, 0 -> 2: arcs (0, 1), (1, 2), (0, 2), capacities 1; all three balances, or two."""
    x, cost, supply = cp.Variable(3), cp.Parameter(3), cp.Parameter(3)
    balance = np.array([[1.0, 0.0, 1.0], [-1.0, 1.0, 0.0], [0.0, -1.0, -1.0]])[: 3 if redundant else 2]
    rows = [balance @ x == (supply if redundant else supply[:2]), x >= 0, x <= np.ones(3)]
    problem = cp.Problem(cp.Minimize(cost @ x + 0.5 * cp.sum_squares(x)), rows)
    return dcl.CvxpyLayer(problem, [cost, supply], [x], on_degenerate="raise", **settings)


def test_a_redundant_row_is_no_doubt_about_the_cost():
    cost = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64, requires_grad=True)
    supply = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    found, known = (
        torch.autograd.grad(flow_layer(redundant)(cost, supply)[0][0], cost)[0] for redundant in (True, False)
    )
    torch.testing.assert_close(found, known, rtol=0.0, atol=1e-10)
    # x = (t, t, 1 - t): t = (1 - c1 - c2 + c3) / 3 where no capacity binds
    torch.testing.assert_close(found, torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64) / 3, rtol=0.0, atol=1e-9)
    with pytest.raises(dcl.DegenerateError, match="RANK_DEFICIENT"):
        flow_layer(True)(cost, supply.requires_grad_())


# A row that is stated twice: the multipliers are not unique, x is as smooth as with one copy


@pytest.mark.parametrize("move", ["q", "all"])
def test_a_row_that_is_stated_twice(move):
    """x_0 <= 1 twice, the second time as 2 x_0 <= 2: x and its derivative in q are those of the program with one copy."""
    G, h = torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double(), torch.tensor([1.0, 2.0]).double()
    P, q = torch.eye(2).double(), torch.tensor([-3.0, 1.0], dtype=torch.float64, requires_grad=True)
    if move == "all":
        G.requires_grad_(), h.requires_grad_()
    with pytest.warns(dcl.DegenerateWarning, match="RANK_DEFICIENT") as said:
        x = dcl.QPLayer()(P, q, G=G, h=h).x
    assert "weakly active" not in str(said[0].message)
    dq = torch.stack([torch.autograd.grad(t, q, retain_graph=True)[0] for t in x])
    assert torch.equal(dq.round(decimals=12), torch.tensor([[0.0, 0.0], [0.0, -1.0]]).double())


def twice(first, second):
    x, q = cp.Variable(2), cp.Parameter(2)
    return x, q, cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + q @ x), [x <= first, x <= second, cp.sum(x) >= -9])


@pytest.mark.parametrize("kind", ["constant", "moving", "multiplier"])
def test_a_constant_row_that_is_stated_twice_is_no_cause(kind):
    """Of x in q, that is; where a copy moves by itself, x = min(u, w) has a kink, and its multiplier is one of many."""
    u, w = (cp.Parameter(2), cp.Parameter(2)) if kind == "moving" else (1.0, np.ones(2))
    x, q, problem = twice(u, w)
    sides = [u, w] if kind == "moving" else []
    outputs = [problem.constraints[0].dual_variables[0]] if kind == "multiplier" else []
    layer = dcl.CvxpyLayer(problem, [q, *sides], [x, *outputs], on_degenerate="raise")
    data = [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in ([-3.0, 1.0], [1.0, 5.0], [1.0, 5.0])]
    if kind != "constant":
        with pytest.raises(dcl.DegenerateError, match="RANK_DEFICIENT"):
            layer(*data[: 1 + len(sides)])
        return
    (g,) = torch.autograd.grad(layer(data[0])[0].sum(), data[0])
    assert g.tolist() == pytest.approx([0.0, -1.0], abs=1e-12)


def test_a_vertex_with_one_row_too_many():
    """The simplex with x <= 1: at e_0 the bound x_0 <= 1 follows from the others; a nearby q leaves x where it is."""
    x, q = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x), [cp.sum(x) == 1, x >= 0, x <= 1])
    layer = dcl.CvxpyLayer(problem, [q], [x], on_degenerate="raise")
    value = torch.tensor([-6.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    (y,), solution = layer(value, return_solution=True)
    assert int(solution.gradient_kind) == dcl.GradientKind.EXACT
    (g,) = torch.autograd.grad(y @ torch.arange(3).double(), value)
    assert float(g.abs().max()) < 1e-12
    for sign in (-1e-2, 1e-2):
        near = layer(value.detach() + sign * torch.tensor([1.0, 2.0, -3.0]).double())[0]
        assert near.tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-12)

"""`dcl.diagnose`: uniqueness, LICQ and activity against exact rationals; names, margins and advice where they are known."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import tensors
from oracles.exact import DEGENERATE, UNSOLVABLE, tiny

import dcl
from dcl import GradientKind, Status
from dcl.compare import diagnosis
from dcl.compare.points import Diagnosis, Sizes

ARGUMENTS = ("P", "q", "A", "b", "G", "h", "lb", "ub")


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def of_qp(**data):
    return dcl.diagnose(dcl.QPLayer(), *(data.get(name) for name in ARGUMENTS))


def test_sizes_before_and_after_the_reduction():
    """|x|_1 with 3 epigraph variables and 6 rows; the core has x and 3 soft rows.  At mu > 0 epigraphs stay."""
    x, y = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y) + cp.norm1(x)))
    point = torch.tensor([[2.0, -3.0, 0.1], [1.0, 2.0, 3.0]], dtype=torch.float64)
    layer = dcl.CvxpyLayer(problem, [y], [x])
    (n, m), after = layer._reductions.exact.before, layer._reductions.exact.after
    assert (n, m, after) == (9, 9, (3, 3, 0))
    found = dcl.diagnose(layer, point)
    assert found.sizes == Sizes(9, 9, after)
    assert "each of 9 variables, 9 rows; reduced to 3 variables, 3 rows, 0 bounds" in str(found)
    assert "size            9 variables, 9 rows; reduced to 3 variables" in str(dcl.diagnose(layer, point[0]))
    on_path = dcl.diagnose(layer, point, mu=0.1).sizes
    assert on_path.reduced == layer._reductions.on_path.after == (6, 6, 0)
    plain = dcl.diagnose(dcl.CvxpyLayer(problem, [y], [x], reduce=False), point)
    assert plain.sizes == Sizes(9, 9)
    assert "9 variables, 9 rows\n" in str(plain)


def test_sizes_of_matrix_layers_are_their_own():
    found = of_qp(P=torch.eye(2).double(), q=number([-1.0, 0.0]), lb=number([0.0, 0.0]))
    assert found.sizes == Sizes(2, 2)
    assert "size            2 variables, 2 rows" in str(found)


def portfolio():
    w, mean, limit = cp.Variable(3, name="w"), cp.Parameter(3, name="mean"), cp.Parameter(name="limit")
    constraints = [(cp.sum(w) == 1).set_label("budget"), w >= 0, (w[0] <= limit).set_label("cap")]
    return dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(w - mean)), constraints), [mean, limit], [w])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 45), marks=pytest.mark.slow)], ids=["few", "more"])
@pytest.mark.parametrize("kind", [None, *DEGENERATE])
def test_uniqueness_and_rank_in_exact_rationals(kind, seeds, monkeypatch):
    """Tiny programs of each kind of degeneracy, decided by enumeration of all active sets."""
    if len(seeds) > 5:
        # a mu for the advice takes up to nine calls of the layer, most of the time, and says nothing of what is compared
        monkeypatch.setattr(diagnosis, "nearby_mu", lambda layer, tensors, needed, count: [None] * count)
    wrong = []
    for seed in seeds:
        known = tiny(seed, kind)
        point = of_qp(**tensors(known.data, requires_grad=False))[0]
        nonunique = "nonunique" in known.degeneracies
        found = {"x": point.unique_x is (not nonunique)}
        if not nonunique:
            found["z"] = point.unique_z is known.multiplier_unique
            found["LICQ"] = point.licq is ("rank" not in known.degeneracies)
        wrong += [f"tiny({seed}, {kind!r}): {name}" for name, right in found.items() if not right]
    assert not wrong


@pytest.mark.parametrize("kind", UNSOLVABLE)
def test_failed_instances_are_explained_not_raised(kind):
    # a program with no point may have directions of unbounded decrease too: either certificate is right
    expected = {Status.DUAL_INFEASIBLE} | ({Status.PRIMAL_INFEASIBLE} if kind == "infeasible" else set())
    for seed in range(5):
        point = of_qp(**tensors(tiny(seed, kind).data, requires_grad=False))[0]
        assert point.status in expected
        assert point.gradient_kind is None
        assert not point.healthy
        assert bool(point.conflict) is (point.status == Status.PRIMAL_INFEASIBLE)
        assert point.advice in str(point)
        assert len(point.advice) > 20


def test_conflicts_and_active_constraints_have_the_names_that_the_user_gave():
    layer, mean = portfolio(), number([0.9, 0.2, -0.4])
    apart = dcl.diagnose(layer, mean, number(-0.5))[0]
    assert apart.status == Status.PRIMAL_INFEASIBLE
    assert {"constraint 2 (cap: w[0] <= limit)", "constraint 1 (w >= 0)"} <= set(apart.conflict)
    assert "cannot hold together" in apart.advice
    point = dcl.diagnose(layer, mean, number(0.6))[0]
    # w = (0.6, 0.4, 0): cap and w >= 0 are active, with multipliers 0.6 + nu and so on
    assert [name for name in point.active if "epigraph" not in name] == [
        "constraint 0 (budget: sum(w) == 1)",
        "constraint 1 (w >= 0)",
        "constraint 2 (cap: w[0] <= limit)",
    ]
    assert point.healthy
    assert point.licq
    assert (point.unique_x, point.unique_z) == (True, True)


def test_a_weakly_active_constraint_is_named_with_a_mu_to_use():
    # without the cap w = (0.7, 0.3, 0) up to rounding: the cap at 0.7 holds with multiplier zero
    point = dcl.diagnose(portfolio(), number([0.7, 0.3, -0.4]), number(0.7))[0]
    assert point.gradient_kind == GradientKind.WEAKLY_ACTIVE
    assert point.weakly_active == ("constraint 2 (cap: w[0] <= limit)",)
    assert point.advice.startswith(
        "constraint 2 (cap: w[0] <= limit) is weakly active: the derivative is one-sided; use mu = 1e-0"
    )
    assert "weakly active   constraint 2 (cap" in str(point)


@pytest.mark.parametrize("distance", [1e-3, 1e-6])
def test_margin_is_the_distance_to_the_kink(distance):
    """min (x - q)^2 / 2 over x >= 0: multiplier -q or slack q, in units in which q has size one at most."""
    for q in (distance, -distance):
        point = of_qp(P=torch.eye(2).double(), q=number([-q, -1.0]), lb=torch.zeros(2).double())[0]
        assert point.margin == pytest.approx(distance, rel=1e-9)
        assert point.weakest == "lb[0]"
        assert ("lb[0]" in point.active) is (q < 0.0)
        assert ("is near" in point.advice) is (distance < 1e-4)


def test_duplicated_rows():
    point = of_qp(
        P=torch.eye(2).double(), q=number([-1.0, -1.0]), G=number([[1.0, 0.0], [1.0, 0.0]]), h=number([0.0, 0.0])
    )[0]
    assert (point.rows, point.rank, point.licq) == (2, 1, False)
    assert (point.unique_x, point.unique_z) == (True, False)


def test_a_dual_degenerate_vertex_is_not_unique_though_its_kkt_matrix_is_regular():
    # min x_0 on [0, 1]^2: at a vertex x_1 is at a bound with multiplier zero, and may move along the face
    point = of_qp(q=number([1.0, 0.0]), lb=torch.zeros(2).double(), ub=torch.ones(2).double())[0]
    assert point.unique_x is False
    assert "not unique" in point.advice


def test_cones():
    """Second-order, semidefinite, exponential: solutions inside of a curved boundary are unique, by P = 0 and curvature."""
    x, c = cp.Variable(2), cp.Parameter(2)
    ball = dcl.CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [cp.SOC(cp.Constant(1.0), x)]), [c], [x])
    X, C = cp.Variable((2, 2), symmetric=True), cp.Parameter((2, 2), symmetric=True)
    simplex = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.trace(C @ X)), [X >> 0, cp.trace(X) == 1]), [C], [X])
    y, d = cp.Variable(2), cp.Parameter(2)
    entropy = dcl.CvxpyLayer(cp.Problem(cp.Maximize(d @ y + cp.sum(cp.entr(y))), [cp.sum(y) == 1]), [d], [y])
    cases = [(ball, number([3.0, 4.0])), (simplex, number([[1.0, 0.3], [0.3, 2.0]])), (entropy, number([0.3, 0.1]))]
    for layer, value in cases:
        point = dcl.diagnose(layer, value)[0]
        assert point.healthy
        assert (point.unique_x, point.licq) == (True, True)
    # min 0 over the ball: nothing is active, every x is optimal
    assert dcl.diagnose(ball, number([0.0, 0.0]))[0].unique_x is not True
    # trace(C X) with C = I: every X is optimal
    assert dcl.diagnose(simplex, torch.eye(2).double())[0].unique_x is not True


def test_a_batch_prints_a_summary_and_the_worst():
    mean = number([[0.9, 0.2, -0.4], [0.7, 0.3, -0.4], [0.9, 0.2, -0.4], [0.5, 0.4, 0.1]])
    limit = number([0.6, 0.7, -0.5, 0.9])
    found = dcl.diagnose(portfolio(), mean, limit)
    assert isinstance(found, Diagnosis)
    assert len(found) == 4
    assert [p.index for p in found.worst(2)] == [(2,), (1,)]
    text = str(found)
    assert text.startswith("4 instances: 3 OPTIMAL, 1 PRIMAL_INFEASIBLE; gradients: ")
    assert "instance (2,): PRIMAL_INFEASIBLE" in text
    assert "instance (0,)" not in text.split("the worst:")[1]
    single = dcl.diagnose(portfolio(), mean[1], limit[1])[0]
    assert found[1].margin == pytest.approx(single.margin, abs=1e-9)
    assert found[1].weakly_active == single.weakly_active
    assert "all of them are solved, with exact derivatives" in str(dcl.diagnose(portfolio(), mean[:1], limit[:1]))
    assert str(dcl.diagnose(portfolio(), mean[:0], limit[:0])) == "an empty batch"


def test_the_layer_is_left_as_it_was():
    layer = dcl.QPLayer(on_failure="raise", on_degenerate="raise")
    data = {"P": torch.eye(1).double(), "q": number([0.0]).requires_grad_(), "lb": number([0.0])}
    engine = layer._engine
    assert (
        dcl.diagnose(layer, *(data.get(name) for name in ARGUMENTS[:7]))[0].gradient_kind == GradientKind.WEAKLY_ACTIVE
    )
    assert layer._engine is engine
    with pytest.raises(dcl.DegenerateError):
        layer(**data)
    assert data["q"].grad is None


def test_at_mu_nothing_is_weakly_active():
    point = dcl.diagnose(
        dcl.QPLayer(), torch.eye(1).double(), number([0.0]), None, None, None, None, number([0.0]), mu=1e-4
    )[0]
    assert point.healthy
    assert point.weakly_active == point.active == ()  # x = 0.01 is inside
    assert "x(mu) is inside of all of them" in str(point)
    assert (point.unique_x, point.unique_z, point.rows, point.margin) == (True, True, 0, float("inf"))
    on_path = dcl.diagnose(portfolio(), number([0.9, 0.2, -0.4]), number(0.6), mu=1e-2)[0]
    assert [name for name in on_path.active if "epigraph" not in name] == ["constraint 0 (budget: sum(w) == 1)"]
    assert on_path.licq
    assert point.value == pytest.approx(0.5e-4, rel=1e-9)  # x = sqrt(mu)


def test_the_argmin_of_a_function():
    """Min |y - a|^2 over y_0 <= 1, y_0 + y_1 = a_0 + a_1 (which holds of itself): the constraint is weakly active at a_0 = 1."""
    layer = dcl.ArgminLayer(
        lambda y, a: (y - a).square().sum(),
        equality=lambda y, a: (y.sum() - a.sum()).reshape(1),
        inequality=lambda y, a: y[:1] - 1.0,
        in_dims=(None, 0),
    )
    found = dcl.diagnose(layer, torch.zeros(2).double(), number([[0.5, 2.0], [1.0, 2.0], [3.0, 0.0]]))
    kinds = [GradientKind.EXACT, GradientKind.WEAKLY_ACTIVE, GradientKind.EXACT]
    assert [p.gradient_kind for p in found.points] == kinds
    assert [p.weakly_active for p in found.points] == [(), ("inequality[0]",), ()]
    assert found[2].active == ("equality[0]", "inequality[0]")
    assert all(p.licq and p.unique_x and p.unique_z for p in found.points)
    with pytest.raises(dcl.InputError, match="cg"):
        dcl.diagnose(dcl.ArgminLayer(lambda y: y.square().sum(), linear_solve="cg"), torch.zeros(2).double())


@pytest.mark.slow
def test_a_function_without_minimum_is_explained():
    point = dcl.diagnose(dcl.ArgminLayer(lambda y, a: (a * y.exp()).sum()), torch.zeros(1).double(), number([1.0]))[0]
    assert point.status in (Status.RUNS_OFF, Status.FLAT)
    assert point.advice == point.status.message


def test_what_it_does_not_take():
    with pytest.raises(dcl.InputError, match="diagnose takes"):
        dcl.diagnose(torch.nn.Linear(1, 1), torch.zeros(1))


@pytest.mark.parametrize(("scale", "known"), [(1e-3, 1e-8), (1.0, 1e-5), (1e4, 1e-1)])
def test_advised_mu_is_the_largest_that_keeps_x_within_a_hundredth_and_that_of_the_comparison(scale, known):
    """At a kink x_0(mu) = sqrt(mu / scale), and x_1(mu) = 1 + mu / scale to first order: |x(mu) - x| <= 0.01 |x| = 0.01.

    scale 1: sqrt(1e-4) is 0.01, but x_1 moves too.
    """
    P, q, lb = scale * torch.eye(2).double(), scale * number([0.0, -1.0]), torch.zeros(2).double()
    advice = dcl.diagnose(dcl.QPLayer(), P, q, lb=lb)[0].advice
    mu = float(advice.split("use mu = ")[1].split()[0])
    assert mu == known
    found = dcl.compare_gradients(dcl.QPLayer(), P, q.requires_grad_(), lb=lb, engines=[], repeats=1)
    assert found.recommended_mu == mu


def simplex():
    x, c = cp.Variable(3), cp.Parameter(3, name="c")
    return dcl.CvxpyLayer(cp.Problem(cp.Maximize(c @ x), [x >= 0, cp.sum(x) <= 1]), [c], [x])


def test_a_vertex_that_teaches_nothing():
    """x = e_1 for every c near (1, 2, 1/2)."""
    point = dcl.diagnose(simplex(), number([1.0, 2.0, 0.5]))[0]
    assert point.healthy
    assert point.vertex
    assert point.zero_in == ("c",)
    assert point.advice.startswith("the derivative is exact, and zero in c: x is a vertex that does not move with it")
    assert "take mu > 0" in point.advice
    batch = str(dcl.diagnose(simplex(), number([[1.0, 2.0, 0.5], [3.0, 1.0, 0.0], [-1.0, -1.0, -2.0]])))
    assert "zero in c for 3 of 3 instances" in batch
    assert "nothing is learned through it at mu = 0" in batch


def test_only_the_arguments_that_a_vertex_does_not_move_with_are_named():
    """x = (h, 0) by x_0 <= h and x_1 >= lb_1: dx_0/dh = 1, dx_0/dG = -h x', dx_1/dlb_1 = 1; q, P and ub change nothing."""
    data = {"P": 0.1 * torch.eye(2).double(), "q": number([-1.0, 1.0]), "G": number([[1.0, 0.0]]), "h": number([0.5])}
    data |= {"lb": number([0.0, 0.0]), "ub": number([2.0, torch.inf])}
    assert of_qp(**data)[0].zero_in == ("P", "q", "ub")
    # data shared by a batch in which one instance is a vertex and one is not: x = (0.5, 0) and x = (0.2, 0)
    found = of_qp(**{**data, "q": number([[-1.0, 1.0], [-0.02, 1.0]])})
    assert [p.zero_in for p in found.points] == [("P", "q", "ub"), ()]
    assert [p.vertex for p in found.points] == [True, False]
    assert "zero in P, q, ub for 1 of 2 instances" in str(found)


def test_no_vertex():
    """A saturated projection does not move with its target; one inside of a face does; nor are ball and entropy vertices."""
    x, t = cp.Variable(2), cp.Parameter(2, name="t")
    box = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x <= 1]), [t], [x])
    found = dcl.diagnose(box, number([[2.0, 3.0], [2.0, 0.5], [0.1, 0.2]]))
    assert [p.zero_in for p in found.points] == [("t",), (), ()]
    ball = dcl.CvxpyLayer(cp.Problem(cp.Minimize(t @ x), [cp.SOC(cp.Constant(1.0), x)]), [t], [x])
    assert dcl.diagnose(ball, number([3.0, 4.0]))[0].vertex is False
    # the apex of a cone is one: x = 0 for every t inside of its dual
    y = cp.Variable(3)
    apex = dcl.CvxpyLayer(cp.Problem(cp.Minimize(y[2] + t @ y[:2]), [cp.SOC(y[2], y[:2])]), [t], [y])
    assert dcl.diagnose(apex, number([0.3, 0.2]))[0].zero_in == ("t",)


def test_a_vertex_of_a_function():
    """Min a'y over [0, 1]^2: the vertex (0, 1) for every a near (1, -2); y0 is no datum."""
    layer = dcl.ArgminLayer(lambda y, a: (a * y).sum(), inequality=lambda y, a: torch.cat([-y, y - 1.0]))
    point = dcl.diagnose(layer, torch.full((2,), 0.5).double(), number([1.0, -2.0]))[0]
    assert point.zero_in == ("parameter 0",)


def test_a_vertex_with_a_redundant_row():
    """x_0 = 1/2 given twice and x_1 >= 0: multipliers are not unique, and nothing is learned through q all the same."""
    data = {"q": number([-1.0, 1.0]), "A": number([[1.0, 0.0], [2.0, 0.0]]), "b": number([0.5, 1.0])}
    point = of_qp(**data, lb=torch.zeros(2).double())[0]
    assert point.gradient_kind == GradientKind.RANK_DEFICIENT
    assert point.zero_in == ("q",)
    assert "zero in q: x is a vertex that does not move with it" in point.advice


def test_without_an_interior_no_mu_is_advised_and_the_failure_is_explained():
    data = {"P": torch.eye(2).double(), "q": number([-1.0, -2.0]), "G": number([[1.0, 1.0]]), "h": number([0.0])}
    data |= {"lb": torch.zeros(2).double()}
    advice = of_qp(**data)[0].advice
    assert "use mu" not in advice
    assert "no interior" in advice
    asked = dcl.diagnose(dcl.QPLayer(), *(data.get(name) for name in ARGUMENTS), mu=0.01)[0]
    assert asked.status == Status.NUMERICAL_ERROR
    assert "exists only where a point satisfies all inequalities strictly" in asked.advice


def test_ties_that_do_not_matter_for_what_was_asked():
    """min |x - t|^2 with y <= 0 and y unconstrained otherwise but for y >= 0: y = 0, and x does not see it."""
    x, y, t = cp.Variable(2), cp.Variable(), cp.Parameter(2, name="t")
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - t) + cp.square(y)), [y >= 0]), [t], [x])
    found = dcl.diagnose(layer, number([[1.0, 2.0], [3.0, 4.0]]))
    assert all(p.healthy and p.weakly_active for p in found.points)
    assert "which does not matter for what was asked" in str(found)


@pytest.mark.slow
def test_large_programs_by_the_condition_of_the_kkt_matrix():
    """1,600 variables: x = max(t, 0) with one row given twice; beyond the size at which dense decompositions are made."""
    n = 1600
    x, t = cp.Variable(n), cp.Parameter(n)
    once = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0]), [t], [x])
    twice = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0, x[0] >= 0]), [t], [x])
    value = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], n) * 0.5)
    value[0] = -1.0
    point, doubled = (dcl.diagnose(layer, value)[0] for layer in (once, twice))
    assert (point.unique_x, point.unique_z, point.licq) == (True, True, True)
    assert point.rows - n == int((value < 0.0).sum())  # and n rows of t = x - target
    assert (doubled.unique_x, doubled.unique_z, doubled.licq) == (None, None, None)
    assert "unique          x not decided, multipliers not decided" in str(doubled)

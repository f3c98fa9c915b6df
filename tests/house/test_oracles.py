"""The oracles themselves: closed forms, finite differences, the KKT conditions, other people's solvers."""

from fractions import Fraction

import clarabel
import numpy as np
import pytest
from oracles.exact import DEGENERATE, UNSOLVABLE, analyze, in_hull, tiny
from oracles.real_data import COLLECTIONS, data_folder, load, names, reference, value_at
from oracles.regular import DATA, KINDS, MULTIPLIERS, SIZES, Regular, instance, rational
from scipy.optimize import linprog
from scipy.sparse import csc_array


def program(**data):
    return dict.fromkeys(DATA) | {name: np.asarray(value, float) for name, value in data.items()}


def plus(a, b, t=1.0):
    """a + t b over the blocks that both have."""
    return {name: None if a[name] is None else a[name] + t * b[name] for name in a}


def inner(a, b):
    return sum(float(np.sum(a[name] * b[name])) for name in b if a[name] is not None and b[name] is not None)


def random_like(values, rng):
    return {name: None if v is None else rng.standard_normal(np.shape(v)) for name, v in values.items()}


# Closed forms


def test_projection_on_a_box():
    c = np.array([2.0, -3.0, 0.5])
    box = program(P=np.eye(3), q=-c, lb=-np.ones(3), ub=np.ones(3))
    known = Regular(box, {"lb": np.array([1]), "ub": np.array([0])})
    assert known.margin == 0.5
    np.testing.assert_array_equal(known.solution["x"], [1, -1, 0.5])
    np.testing.assert_array_equal(known.solution["z_lb"], [0, 2, 0])
    np.testing.assert_array_equal(known.solution["z_ub"], [1, 0, 0])
    gradient = known.gradients({"x": np.array([5.0, 6.0, 7.0])})
    np.testing.assert_allclose(gradient["q"], [0, 0, -7], atol=1e-40)
    np.testing.assert_allclose(gradient["lb"], [0, 6, 0], atol=1e-40)
    np.testing.assert_allclose(gradient["ub"], [5, 0, 0], atol=1e-40)


def test_projection_on_a_halfspace():
    c, a, h = np.array([3.0, 1.0]), np.array([1.0, 2.0]), 1.0
    known = Regular(program(P=np.eye(2), q=-c, G=[a], h=[h]), {"G": np.array([0])})
    z = (a @ c - h) / (a @ a)
    np.testing.assert_allclose(known.solution["x"], c - z * a, rtol=1e-15)
    np.testing.assert_allclose(known.solution["z"], [z], rtol=1e-15)
    # z = (a'c - h) / a'a, so that dz/dG = (c - 2 z a) / a'a, and the value's derivative in h is -z.
    gradient = known.gradients({"z": np.ones(1)})
    np.testing.assert_allclose(gradient["G"], [(c - 2 * z * a) / (a @ a)], rtol=1e-14)
    np.testing.assert_allclose(gradient["q"], -a / (a @ a), rtol=1e-14)
    np.testing.assert_allclose(known.gradients({"value": 2.0})["h"], [-2 * z], rtol=1e-15)


def test_projection_on_the_simplex():
    c = np.array([0.6, 0.7, -5.0])
    simplex = program(P=np.eye(3), q=-c, A=np.ones((1, 3)), b=[1], lb=np.zeros(3))
    known = Regular(simplex, {"lb": np.array([2])})
    shift = (0.6 + 0.7 - 1) / 2
    np.testing.assert_allclose(known.solution["x"], [0.6 - shift, 0.7 - shift, 0], atol=1e-15)
    np.testing.assert_allclose(known.solution["y"], [shift], rtol=1e-15)
    support = np.diag([1.0, 1, 0]) - np.outer([1, 1, 0], [1, 1, 0]) / 2
    g = np.array([1.0, 3.0, 9.0])
    np.testing.assert_allclose(known.gradients({"x": g})["q"], -support @ g, atol=1e-15)


def test_min_norm_point():
    rng = np.random.default_rng(0)
    A, b, g = rng.standard_normal((2, 4)), rng.standard_normal(2), rng.standard_normal(4)
    known = Regular(program(P=np.eye(4), q=np.zeros(4), A=A, b=b), {})
    inverse = np.linalg.pinv(A)
    np.testing.assert_allclose(known.solution["x"], inverse @ b, rtol=1e-13)
    np.testing.assert_allclose(known.gradients({"x": g})["b"], inverse.T @ g, rtol=1e-13)


def test_lp_on_the_simplex():
    lp = program(q=[3, 1, 2], A=np.ones((1, 3)), b=[1], lb=np.zeros(3))
    known = Regular(lp, {"lb": np.array([0, 2])})
    np.testing.assert_array_equal(known.solution["x"], [0, 1, 0])
    np.testing.assert_array_equal(known.solution["z_lb"], [2, 0, 1])
    assert known.solution["value"] == 1
    np.testing.assert_allclose(known.gradients({"value": 1.0})["q"], [0, 1, 0], atol=1e-40)


# Random regular programs


@pytest.mark.sample(5)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_kkt_conditions_of_instances(kind, n):
    """They are sufficient: the program is convex.  The margin makes the solution unique and differentiable."""
    for seed, condition in enumerate([1.0, 1e8] if n < 100 else [1e8]):
        known = instance(kind, n, seed, condition)
        data, s = known.data, known.solution
        assert known.margin > 0.19
        assert known.condition < 2 * max(condition, 5e3)
        x, stationarity, scale = s["x"], data["q"].copy(), 1 + np.abs(data["q"]).max()
        if data["P"] is not None:
            np.testing.assert_array_equal(data["P"], data["P"].T)
            eigenvalues = np.linalg.eigvalsh(data["P"])
            assert eigenvalues[0] > (-1e-15 if kind == "qp_semidefinite" else 0) * max(1, eigenvalues[-1])
            stationarity += data["P"] @ x
        for name, block in MULTIPLIERS.items():
            if s[name] is not None:
                C = {"lb": -np.eye(n), "ub": np.eye(n)}.get(block, data[block])
                stationarity += C.T @ s[name]
                scale += np.abs(s[name]).max()
        assert np.abs(stationarity).max() < 1e-14 * scale * (1 + np.abs(x).max()) * n
        if data["A"] is not None:
            np.testing.assert_allclose(data["A"] @ x, data["b"], atol=1e-13)
        if data["G"] is not None:
            assert (data["h"] - data["G"] @ x).min() > -1e-13


def test_seeds_reproduce_and_differ():
    first, again, other = (instance("qp", 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.data["q"], again.data["q"])
    assert not np.array_equal(first.data["q"], other.data["q"])


@pytest.mark.parametrize("n", [2, 10, 30])
def test_lp_against_highs(n):
    known = instance("lp", n, 3, 1e3)
    d = known.data
    free = np.full(n, np.inf)
    lb, ub = (-free, free) if d["lb"] is None else (d["lb"], d["ub"])
    other = linprog(d["q"], d["G"], d["h"], d["A"], d["b"], np.stack([lb, ub], 1))
    assert other.status == 0
    np.testing.assert_allclose(other.x, known.solution["x"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.fun, known.solution["value"], rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "condition"), [(1, 1.0), (5, 1e4), (10, 1e10), (30, 1.0)])
def test_tangent_and_gradient_agree(kind, n, condition):
    known = instance(kind, n, 7, condition)
    rng = np.random.default_rng(n)
    cotangents = random_like(known.solution, rng)
    direction = random_like(known.data, rng) | {"P": rng.standard_normal((n, n))}
    left, right = inner(cotangents, known.tangent(direction)), inner(known.gradients(cotangents), direction)
    size = sum(np.abs(g).max() for g in known.gradients(cotangents).values() if g is not None and g.size)
    assert abs(left - right) < 1e-13 * size * n


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 5, 10])
def test_tangent_against_central_differences(kind, n):
    known = instance(kind, n, 11)
    direction = random_like(known.data, np.random.default_rng(n))
    if direction["P"] is not None:
        direction["P"] += direction["P"].T
    t = 1e-6
    ahead, behind = (Regular(plus(known.data, direction, step), known.active).solution for step in (t, -t))
    for name, derivative in known.tangent(direction).items():
        if derivative is not None:
            difference = (ahead[name] - behind[name]) / (2 * t)
            np.testing.assert_allclose(
                derivative, difference, rtol=1e-6, atol=1e-7 * (1 + np.abs(difference).max(initial=0))
            )


# Tiny programs, exactly


def test_weakly_active_bound():
    """min (x - 1)^2 / 2 with x <= 1: x(q) = min(-q, ub), so that the derivative in q is -1 or 0."""
    kink = analyze(program(P=[[1]], q=[-1], ub=[1]))
    assert kink.degeneracies == {"weakly_active"}
    assert kink.multiplier_unique
    assert sorted(float(c["q"][0]) for c in kink.candidates({"x": np.ones(1)})) == [-1, 0]
    between, outside = kink.candidates({"x": np.ones(1)})[0] | {"P": None}, {}
    between |= {"q": np.array([-0.25]), "ub": np.array([0.75])}
    outside = between | {"ub": np.array([0.8])}
    assert in_hull(between, kink.candidates({"x": np.ones(1)}), 1e-12)
    assert not in_hull(outside, kink.candidates({"x": np.ones(1)}), 1e-3)


def test_duplicated_row():
    """min x^2 / 2 - 2x with x <= 1 twice: the gradient in h is (1, 0) or (0, 1), the multipliers sum to 1."""
    twice = analyze(program(P=[[1]], q=[-2], G=[[1], [1]], h=[1, 1]))
    assert twice.degeneracies == {"rank"}
    assert not twice.multiplier_unique
    candidates = twice.candidates({"x": np.ones(1)})
    assert sorted(c["h"].tolist() for c in candidates) == [[0, 1], [1, 0]]
    half = {"q": np.zeros(1), "G": np.full((2, 1), -0.5), "h": np.full(2, 0.5)}
    assert in_hull(half, candidates, 1e-12)
    assert not in_hull(half | {"h": np.full(2, 0.4)}, candidates, 1e-3)


@pytest.mark.parametrize(
    ("data", "status", "degeneracies"),
    [
        (program(q=[1, 0], lb=[0, 0]), "optimal", {"nonunique"}),
        (program(q=[0]), "optimal", {"nonunique"}),
        (program(q=[0], G=[[1]], h=[-1]), "optimal", {"nonunique"}),
        (program(q=[1]), "unbounded", set()),
        (program(q=[0, 1], P=[[1, 0], [0, 0]]), "unbounded", set()),
        (program(q=[1, 1], G=[[1, 1], [-1, -1]], h=[0, -1]), "infeasible", set()),
        (program(q=[0], G=[[0]], h=[-1]), "infeasible", set()),
        (program(q=[-1, -1], G=[[1, 0], [0, 1], [1, 1]], h=[1, 1, 2]), "optimal", {"rank"}),
        (program(q=[1, 1], lb=[0, 0]), "optimal", set()),
        (program(P=np.eye(2), q=[0, 0], A=[[1, 1]], b=[0], lb=[0, -1]), "optimal", {"weakly_active"}),
    ],
)
def test_known_verdicts(data, status, degeneracies):
    verdict = analyze(data)
    assert (verdict.status, verdict.degeneracies) == (status, degeneracies)


def test_hull_of_a_triangle():
    corners = [{"q": np.array(c, float)} for c in ([0, 0], [4, 0], [0, 4], [4, 0], [1, 1])]
    inside = [[0, 0], [4, 0], [2, 2], [1, 2], [0.5, 0]]
    outside = [[-1e-6, 0], [2.00001, 2], [5, 0], [np.nan, 0]]
    assert [in_hull({"q": np.array(g)}, corners, 1e-9) for g in inside] == [True] * 5
    assert [in_hull({"q": np.array(g)}, corners, 1e-9) for g in outside] == [False] * 4


def as_fractions(data):
    return {
        name: None if v is None else np.vectorize(lambda t: Fraction(t) if np.isfinite(t) else t, otypes=[object])(v)
        for name, v in data.items()
    }


def direction_for(data, rng):
    """A change in small integers; that of P is positive semidefinite, so that the changed program is convex."""
    step = {name: None if v is None else rng.integers(-5, 6, np.shape(v)) for name, v in data.items()}
    if step["P"] is not None:
        step["P"] = step["P"].T @ step["P"]
    return step


@pytest.mark.sample(7)
@pytest.mark.parametrize("seed", range(60))
def test_regular_derivatives_against_exact_differences(seed):
    known = tiny(seed)
    step, t = direction_for(known.data, np.random.default_rng(seed)), Fraction(1, 10**9)
    moved = analyze(plus(as_fractions(known.data), step, t))
    assert moved.regular
    tangent = known.bases[0].tangent(step)
    cotangents = random_like(known.solution, np.random.default_rng(seed))
    gradient = known.candidates(cotangents)[0]
    np.testing.assert_allclose(inner(cotangents, tangent), inner(gradient, step), rtol=1e-12, atol=1e-11)
    change = (moved.bases[0].point - known.bases[0].point) * rational(1 / t)
    exact = known.bases[0].outputs(change)
    for name in ("x", "y", "z", "z_lb", "z_ub"):
        if exact[name] is not None:
            np.testing.assert_allclose(tangent[name], exact[name], rtol=1e-6, atol=1e-6)
    value = float((moved.value - known.value) * rational(1 / t))
    np.testing.assert_allclose(tangent["value"], value, rtol=1e-6, atol=1e-6)


@pytest.mark.sample(7)
@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", ["weakly_active", "redundant", "duplicate", "overdetermined"])
def test_one_sided_derivatives_are_among_the_candidates(kind, seed):
    known, rng = tiny(seed, kind), np.random.default_rng(seed)
    t = Fraction(1, 10**12)
    for _ in range(3):
        step = direction_for(known.data, rng)
        if kind != "weakly_active":  # where rows are dependent, x may jump when they are turned
            step |= {name: np.zeros_like(step[name]) for name in ("P", "A", "G") if step[name] is not None}
        moved = analyze(plus(as_fractions(known.data), step, t))
        if moved.status == "optimal" and "nonunique" not in moved.degeneracies:
            change = [float((b - a) / rational(t)) for a, b in zip(known.x, moved.x, strict=True)]
            misfit = [np.abs(base.tangent(step)["x"] - change).max() for base in known.bases]
            assert min(misfit) < 1e-5 * (1 + np.abs(change).max())


@pytest.mark.sample(7)
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", [None, *DEGENERATE, *UNSOLVABLE])
def test_verdicts_against_clarabel(kind, seed):
    known = tiny(seed, kind)
    d = known.data
    n = len(d["q"])
    blocks = [(d["A"], d["b"])] if d["A"] is not None else []
    blocks += [(d["G"], d["h"])]
    if d["lb"] is not None:
        blocks += [(-np.eye(n)[np.isfinite(d["lb"])], -d["lb"][np.isfinite(d["lb"])])]
        blocks += [(np.eye(n)[np.isfinite(d["ub"])], d["ub"][np.isfinite(d["ub"])])]
    C, side = np.vstack([c for c, _ in blocks]), np.concatenate([s for _, s in blocks])
    p = 0 if d["A"] is None else len(d["b"])
    cones = [clarabel.ZeroConeT(p), clarabel.NonnegativeConeT(len(side) - p)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    # An infeasible program may be dually infeasible too: that is hidden by a zero objective.
    q = d["q"] * (known.status != "infeasible")
    P = np.zeros((n, n)) if d["P"] is None or known.status == "infeasible" else d["P"]
    other = clarabel.DefaultSolver(csc_array(np.triu(P)), q, csc_array(C), side, cones, settings).solve()
    expected = {"optimal": "Solved", "infeasible": "PrimalInfeasible", "unbounded": "DualInfeasible"}
    assert str(other.status) == expected[known.status]
    if known.status == "optimal":
        assert abs(other.obj_val - float(known.value)) < 1e-6 * (1 + abs(float(known.value)))
        if "nonunique" not in known.degeneracies:
            np.testing.assert_allclose(other.x, [float(v) for v in known.x], atol=2e-3)


# Real problems


needs_data = pytest.mark.skipif(data_folder() is None, reason="no ../shared/data beside the repository, no DCL_DATA")


@needs_data
def test_collections_are_whole_and_well_formed():
    assert [len(names(collection)) for collection in COLLECTIONS] == [41, 20, 18, 11]
    for collection in COLLECTIONS:
        for name in names(collection):
            problem = load(collection, name)
            d, n = problem.data, problem.n
            assert d["q"].shape == (n,)
            assert np.isfinite(problem.constant)
            for matrix, side in (("A", "b"), ("G", "h")):
                if d[matrix] is not None:
                    assert d[matrix].shape == (*d[side].shape, n)
                    assert np.isfinite(d[matrix]).all()
                    assert np.isfinite(d[side]).all()
            for side in ("lb", "ub"):
                assert d[side] is None or d[side].shape == (n,)
            if d["P"] is not None:
                np.testing.assert_array_equal(d["P"], d["P"].T)


# Maros and Meszaros 1999, table 2; the readme of Netlib's lp/data
PUBLISHED = [
    ("maros_meszaros", "CVXQP1_M", 0.108751157e7),
    ("maros_meszaros", "DUAL4", 7.46090842e-1),
    ("maros_meszaros", "HS118", 6.64820450e2),
    ("maros_meszaros", "HS76", -4.68181818),
    ("maros_meszaros", "LOTSCHD", 2.39841590e3),
    ("maros_meszaros", "PRIMAL1", -3.50129662e-2),
    ("maros_meszaros", "QAFIRO", -1.59078179),
    ("maros_meszaros", "QSTAIR", 7.98545276e6),
    ("netlib_feasible", "adlittle", 2.2549496316e5),
    ("netlib_feasible", "kb2", -1.7499001299e3),
    ("netlib_feasible", "sc50a", -6.4575077059e1),
    ("netlib_feasible", "share1b", -7.6589318579e4),
    ("netlib_feasible", "stocfor1", -4.1131976219e4),
]


@needs_data
@pytest.mark.parametrize(("collection", "name", "value"), PUBLISHED)
def test_published_optima(collection, name, value):
    problem = load(collection, name)
    known = reference(problem)
    assert known.status == "optimal"
    assert abs(known.value + problem.constant - value) < 1e-6 * (1 + abs(value))
    assert abs(value_at(problem.data, known.x) - known.value) < 1e-12 * (1 + abs(value))


@needs_data
@pytest.mark.parametrize(
    ("collection", "name"), [("maros_meszaros", "HS118"), ("mpc", "LIPMWALK0"), ("netlib_feasible", "kb2")]
)
def test_certified_optima(collection, name):
    known = reference(load(collection, name))
    assert known.regular is not None
    assert known.regular.margin > 0


@needs_data
@pytest.mark.parametrize("name", names("netlib_infeasible"))
def test_infeasible_programs(name):
    assert reference(load("netlib_infeasible", name)).status == "infeasible"

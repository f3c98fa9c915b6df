"""The oracles themselves: closed forms, finite differences, the KKT conditions, other people's solvers."""

import numpy as np
import pytest
from oracles.regular import DATA, KINDS, MULTIPLIERS, SIZES, Regular, instance
from scipy.optimize import linprog


def program(**data):
    return dict.fromkeys(DATA) | {name: np.asarray(value, float) for name, value in data.items()}


def plus(a, b, t=1.0):
    """a + t b over the blocks that both have."""
    return {name: None if a[name] is None else a[name] + t * b[name] for name in a}


def inner(a, b):
    return sum(float(np.sum(a[name] * b[name])) for name in b if a[name] is not None)


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

"""No point for a program that has no solution: unbounded, infeasible, both, nearly so, and minima that are not attained."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles.no_solution import KINDS, STRUCTURES, possible, programs

import dcl
from dcl import Status
from dcl.solvers import Clarabel

CASES = [(kind, structure) for structure in STRUCTURES for kind in KINDS if possible(kind, structure)]
# An honest failure where neither a point nor a certificate can be had in float64: at most so many of unbounded programs.
NEEDLESS = 0.08


def tensor(a):
    return None if a is None else torch.from_numpy(np.asarray(a, dtype=float))


def solved(p, **settings):
    layer = dcl.ConeLayer(p.cones, on_failure="last", on_degenerate="ignore", **settings)
    return layer.solve(tensor(p.P), tensor(p.q), tensor(p.A), tensor(p.b))


def check(p):
    """The number of honest failures, after everything else has been checked."""
    solution = solved(p)
    optimal = solution.status.numpy() == Status.OPTIMAL
    if p.kind == "near":
        np.testing.assert_allclose(solution.value.numpy()[optimal], p.value[optimal], rtol=1e-6, atol=1e-9)
    else:
        assert not optimal.any(), f"{p.kind}: a point for instances {np.flatnonzero(optimal)}"
    known = np.isin(solution.status.numpy(), [Status.OPTIMAL, Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE])
    if p.kind == "near":
        known = optimal
    return int((~known).sum())


@pytest.mark.sample(5)
@pytest.mark.parametrize(("kind", "structure"), CASES)
def test_no_point_is_returned(kind, structure):
    failures = check(programs(kind, structure, 12, seed=1))
    assert failures <= 3, f"{failures} of 12 without an answer"


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES)
def test_no_point_is_returned_for_any_of_thousands(structure):
    failures = total = 0
    for kind in KINDS:
        if possible(kind, structure):
            for seed in range(5):
                failures += check(programs(kind, structure, 40, seed=100 + seed))
                total += 40
    assert failures <= NEEDLESS * total * (3 if structure == "mixed" else 1)


@pytest.mark.sample(4)
@pytest.mark.parametrize("structure", ["QP free", "QP zl", "SOC", "PSD", "exponential", "power"])
def test_no_point_of_the_central_path_either(structure):
    # x(mu) exists only where the program is bounded and strictly feasible
    assert not bool(solved(programs("unbounded", structure, 12, seed=2), mu=0.1).ok.any())


ISSUE = {
    "one inequality": (
        [[6.140000000000001, 18.42], [18.42, 55.26000000000001]], [3e-4, -1e-4], {"G": [[1.0, 3.0]], "h": [1.0]},
    ),
    "no constraints": ([[6.140000000000001, 1.842], [1.842, 0.5526000000000001]], [3e-5, -1e-4], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", ISSUE)
def test_a_quadratic_term_that_is_singular_up_to_rounding(name):
    P, q, rows = ISSUE[name]
    with pytest.raises(dcl.SolveError) as error:
        dcl.solve_qp(tensor(P), tensor(q), **{key: tensor(value) for key, value in rows.items()})
    assert error.value.statuses == [Status.DUAL_INFEASIBLE]
    d = error.value.certificates[0].numpy()  # checked here once more, by hand
    assert np.abs(np.array(P) @ d).max() <= 1e-7 * (np.abs(P) @ np.abs(d)).max()
    assert np.dot(q, d) < 0.0
    assert (np.array(rows.get("G", np.zeros((0, 2)))) @ d <= 1e-7 * np.abs(d).max()).all()


def test_a_factor_model_with_fewer_observations_than_assets():
    rng = np.random.default_rng(28)
    R, mean = rng.standard_normal((12, 20)), rng.standard_normal(20)
    layer = dcl.QPLayer(on_failure="nan", on_degenerate="ignore")
    solution = layer.solve(tensor(R.T @ R / 6), tensor(-mean), A=torch.ones(1, 20).double(), b=torch.ones(1).double())
    assert solution.status == Status.DUAL_INFEASIBLE


@pytest.mark.parametrize(("slope", "rows"), [(1e-2, 1), (1e-4, 2)])
def test_one_dependent_column(slope, rows):
    rng = np.random.default_rng(3)
    B, n = 60, 6
    R = rng.standard_normal((B, n, n))
    mix = rng.standard_normal((B, n - 1))
    R[:, :, -1] = np.einsum("bij,bj->bi", R[:, :, :-1], mix)
    d = np.concatenate([mix, -np.ones((B, 1))], 1)  # R d = 0 up to rounding
    G = rng.standard_normal((B, rows, n))
    G -= np.einsum("bi,bj->bij", np.einsum("bij,bj->bi", G, d), d) / (d * d).sum(1)[:, None, None]
    q = np.einsum("bij,bi->bj", R, rng.standard_normal((B, n))) - slope * d
    layer = dcl.QPLayer(on_failure="nan", on_degenerate="ignore")
    P = np.einsum("bij,bik->bjk", R, R)
    solution = layer.solve(tensor(P), tensor(q), G=tensor(G), h=tensor(np.ones((B, rows))))
    assert not bool(solution.ok.any())
    assert int((solution.status == Status.DUAL_INFEASIBLE).sum()) >= 0.9 * B


# Minima that are not attained.


def layer_of(objective, parameter, variable, constraints=()):
    problem = cp.Problem(cp.Minimize(objective), list(constraints))
    return dcl.CvxpyLayer(problem, [parameter], [variable], on_failure="last", on_degenerate="ignore")


def scalar(objective, constraints=lambda x: []):
    """The layer of one variable x and a factor a, and a = 1."""
    x, a = cp.Variable(), cp.Parameter(nonneg=True)
    return layer_of(objective(x, a), a, x, constraints(x)), torch.ones((), dtype=torch.float64)


def log_sum_exp():
    v, c = cp.Variable(3), cp.Parameter(3)
    return layer_of(cp.log_sum_exp(v + c), c, v, [v[0] >= 0]), torch.zeros(3).double()


def semidefinite():
    Y, a = cp.Variable((2, 2), symmetric=True), cp.Parameter(nonneg=True)
    return layer_of(a * Y[0, 0], a, Y, [Y[0, 1] == 1, Y >> 0]), torch.ones((), dtype=torch.float64)


def logistic(size):
    data = np.random.default_rng(0).standard_normal((20, 3))
    w, X, signs = cp.Variable(3), cp.Parameter((20, 3)), np.sign(data @ [1.0, -2.0, 0.5])
    return layer_of(cp.sum(cp.logistic(-cp.multiply(signs, X @ w))), X, w), torch.tensor(size * data)


AT_INFINITY = {
    "exp": lambda: scalar(lambda x, a: a * cp.exp(x)),
    "exp, bounded above": lambda: scalar(lambda x, a: a * cp.exp(x), lambda x: [x <= 5]),
    "1 / x": lambda: scalar(lambda x, a: a * cp.inv_pos(x)),
    "x^-1/2": lambda: scalar(lambda x, a: a * cp.power(x, -0.5)),
    "hyperbola": lambda: scalar(lambda x, a: a * cp.norm(cp.hstack([1, x])) - x),
    "log_sum_exp": log_sum_exp,
    "semidefinite": semidefinite,
    "separable logistic": lambda: logistic(1.0),
    "separable logistic, large data": lambda: logistic(1e3),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", AT_INFINITY)
def test_a_minimum_that_is_not_attained_is_no_answer(name):
    layer, value = AT_INFINITY[name]()
    assert layer.solve(value).status not in (Status.OPTIMAL, Status.PRIMAL_INFEASIBLE)


@pytest.mark.parametrize("penalty", [1e-2, 1e-6, 1e-10])
def test_a_small_penalty_makes_it_an_answer(penalty):
    # minimize log(1 + e^-w) + penalty w^2: 2 penalty w (1 + e^w) = 1, by bisection
    w, a = cp.Variable(), cp.Parameter()
    layer = layer_of(cp.logistic(-a * w) + penalty * cp.square(w), a, w)
    solution = layer.solve(torch.ones((), dtype=torch.float64))
    low, high = 0.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 2 * penalty * middle * (1 + np.exp(middle)) < 1 else (low, middle)
    assert solution.status == Status.OPTIMAL
    np.testing.assert_allclose(float(solution.outputs[0]), low, rtol=1e-6)


# The caller's tolerance is a hint.


def loose_problem(K, n):
    rng = np.random.default_rng(0)
    t, x, c = cp.Variable(), cp.Variable(n), cp.Parameter(n)
    base = rng.standard_normal((n, n))
    M = [base + 1e-3 * rng.standard_normal((n, n)) for _ in range(K)]
    q = [rng.standard_normal(n) for _ in range(K)]
    rows = [cp.sum_squares(M[i] @ (x + c)) + q[i] @ (x + c) <= t for i in range(K)] + [cp.abs(x) <= 0.1]
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(t + cp.sum_squares(x[:2])), rows), [c], [x], on_failure="nan")
    return layer, torch.tensor(3 * rng.standard_normal((8, n)))


@pytest.mark.sample(5)
@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize(("K", "n"), [(10, 4), (25, 8)])
def test_a_loose_tolerance_is_not_what_fails(K, n, eps):
    layer, c = loose_problem(K, n)
    tight, loose = layer.solve(c), layer.solve(c, solver_args={"eps": eps})
    assert bool(tight.ok.all())
    assert bool(loose.ok.all())
    torch.testing.assert_close(loose.outputs[0], tight.outputs[0], rtol=1e-7, atol=1e-8)


def test_the_message_names_the_tolerance_that_was_set(monkeypatch):
    monkeypatch.setattr("dcl.solve.pipeline.OPTIMAL_TOLERANCE", 1e-30)  # nothing passes
    P, q = torch.eye(2).double(), torch.ones(2).double()
    G, h = torch.tensor([[1.0, 0.3]]).double(), -torch.ones(1).double() / 3
    monkeypatch.setattr("dcl.solve.rescue.OPTIMAL_TOLERANCE", 1e-30)
    monkeypatch.setattr("dcl.solve.pipeline.ROUNDED", 1e-30)
    with pytest.raises(dcl.SolveError, match=r"eps=0\.001"):
        dcl.solve_qp(P, q, G=G, h=h, solver=Clarabel(eps=1e-3))


def test_the_message_names_the_row_that_is_missed(monkeypatch):
    # nobody repairs the point of a solver that violates x1 + x2 <= 1 by a thousandth, and nothing else is asked
    monkeypatch.setattr("dcl.solve.pipeline.polish", lambda point, steps=0: point)
    monkeypatch.setattr("dcl.layers.engine.Choice.order", lambda self, *_, **__: (self.solver,))

    def lies(self, program, rows, out, start=None, stop=None):
        for i in rows:
            out.x[i], out.z[i], out.claim[i] = 0.5005, 0.0, 0

    monkeypatch.setattr(Clarabel, "solve", lies)
    G, h = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]).double(), torch.tensor([5.0, 1.0, 5.0]).double()
    with pytest.raises(dcl.SolveError, match=r"the row that is violated most: G\[1\]"):
        dcl.solve_qp(torch.eye(2).double(), -0.5005 * torch.ones(2).double(), G=G, h=h, solver="CLARABEL")

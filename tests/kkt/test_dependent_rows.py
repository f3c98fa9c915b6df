"""Which constraints RANK_DEFICIENT names, in the caller's names, and the remedy that it tells."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import sympy
import torch

import dcl

EYE = torch.eye(3, dtype=torch.float64)


def number(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def said(call):
    with pytest.warns(dcl.DegenerateWarning) as told:
        call()
    return str(told[0].message)


def test_rows_of_matrices():
    A, b = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [2.0, 2.0, 2.0]]).double(), number(1.0, 0.2, 2.0)
    text = said(lambda: dcl.QPLayer()(EYE, number(-1.0, -2.0, -3.0), A=A, b=b))
    assert "dependent: A[0]; A[2]. Drop one" in text
    assert "mu > 0 does not help" in text


def test_constraints_of_a_problem_and_of_a_program():
    x, p, t = cp.Variable(3, name="x"), cp.Parameter(3, name="p"), cp.Parameter(name="t")
    total, again = cp.sum(x) == t, 2 * cp.sum(x) <= 2 * t
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, total, again])
    names = "dependent: constraint 1 (sum(x) == t); constraint 2 (2 * sum(x) <= 2 * t). Drop one"
    for reduce in (True, False):
        layer = dcl.CvxpyLayer(problem, [p, t], [x], reduce=reduce)
        text = said(lambda: layer(number(0.3, 0.5, 0.9), torch.ones((), requires_grad=True).double()))  # noqa: B023
        assert names in text
        assert "mu > 0 makes multipliers of inequalities unique, if" in text
    solution = dcl.ParametricProgram(problem).solve(p=[0.3, 0.5, 0.9], t=1.0)
    assert names in said(lambda: solution.jacobian(x, wrt=t))


def test_entries_of_one_constraint_are_named_together():
    """A vertex of three rows in the plane of x_0 and x_1, and a fourth row that is active too."""
    x, p, h = cp.Variable(3, name="x"), cp.Parameter(3), cp.Parameter(4)
    G = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [G @ x <= h]), [p, h], [x])
    text = said(lambda: layer(number(0.9, 1.3, 2.0), number(0.5, 1.0, 0.5, 1.0)))
    assert ", entries 0, 2 and 3. Drop one" in text


def test_a_batch_names_those_of_its_instances():
    G, h = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).double(), number(1.0, 1.0, 1.0)
    q = torch.tensor([[-3.0, -3.0, 0.0], [0.0, -3.0, 0.0]], dtype=torch.float64)
    text = said(lambda: dcl.QPLayer()(EYE, q, G=G, h=h))
    assert "in 1 of 2 instances (batch indices (0,))" in text
    assert "dependent: G[0]; G[1]. " in text


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_they_are_those_without_which_the_rank_is_the_same(seed, sparse):
    """Of equalities of small integers: row i is in the support of {w: A'w = 0} where A without it has the same rank."""
    rng = np.random.default_rng(seed)
    free, n = rng.integers(-2, 3, (3, 6)), 6
    A = np.concatenate([free, rng.integers(-1, 2, (2, 2)) @ free[:2], rng.integers(-2, 3, (1, n))])
    A = A[rng.permutation(len(A))]
    rank = sympy.Matrix(A).rank()
    expected = [i for i in range(len(A)) if sympy.Matrix(np.delete(A, i, 0)).rank() == rank]
    b = torch.from_numpy(A @ rng.standard_normal(n)).requires_grad_()
    eye, rows = torch.eye(n, dtype=torch.float64), torch.from_numpy(A).double()
    layer = dcl.QPLayer(on_degenerate="ignore")
    P, M = (eye.to_sparse(), rows.to_sparse()) if sparse else (eye, rows)
    _, solution = layer(P, torch.zeros(n).double(), A=M, b=b, return_solution=True)
    assert 0 < len(expected) < len(A)
    assert torch.nonzero(solution._degeneracy.dependent[0]).flatten().tolist() == expected


def test_diagnose_names_them():
    A, b = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]).double(), torch.tensor([0.5, 1.0, 1.0]).double()
    layer = dcl.QPLayer()
    point = dcl.diagnose(layer, torch.eye(2).double(), torch.ones(2).double(), A=A, b=b)[0]
    assert point.dependent == ("A[0]", "A[2]")
    assert "1 of 3 active rows depend on the others (A[0], A[2])" in point.advice


def test_a_second_order_cone_is_named_once():
    """x in the ball of radius 1 twice: the multipliers of the two cones can be exchanged."""
    x, p = cp.Variable(2, name="x"), cp.Parameter(2)
    balls = [cp.norm(x) <= 1, cp.norm(2 * x) <= 2]
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), balls), [p], [x, balls[0].dual_variables[0]])
    text = said(lambda: layer(number(2.0, 1.0)))
    assert "RANK_DEFICIENT" in text
    assert text.count("constraint 0 (") == 1


def test_an_exact_derivative_names_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, solution = dcl.QPLayer()(EYE, number(-1.5, -2.0, 3.0), G=EYE, h=number(1.0, 1.0, 1.0), return_solution=True)
    assert not bool(solution._degeneracy.dependent.any())

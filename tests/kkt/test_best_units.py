"""Programs whose KKT system is well-conditioned in its best units only, against 60 digits."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles.least_squares import KINDS, draw, solution, with_condition

import dcl
from dcl.kkt.balance import balanced

EXACT = int(dcl.GradientKind.EXACT)


def layer_of(kind, m, n, weight, scale=1.0, **options):
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    objective, constraints = cp.sum_squares(A @ x - b), []
    if kind == "ridge":
        objective += weight * cp.sum_squares(x)
    if kind == "lasso":
        objective += weight * cp.norm1(x)
    if kind == "simplex":
        constraints = [x >= 0, cp.sum(x) == 1]
    problem = cp.Problem(cp.Minimize(scale * objective), constraints)
    return dcl.CvxpyLayer(problem, [A, b], [x], on_failure="nan", on_degenerate="ignore", **options)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def measured(programs, scale=1.0, **options):
    """Of each program: the kind, and the relative errors of x and of the gradients in A and b; None where there is no answer."""
    one = programs[0]
    layer = layer_of(one.kind, *one.A.shape, one.weight, scale, **options)
    A, b = (torch.tensor(np.stack(t)).requires_grad_() for t in ([p.A for p in programs], [p.b for p in programs]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an instance that fails is one of the results
        (x,), answer = layer(A, b, return_solution=True)
    (x * torch.tensor(np.stack([p.c for p in programs]))).nansum().backward()
    out = []
    for i, program in enumerate(programs):
        if int(answer.status[i]) != int(dcl.Status.OPTIMAL):
            out.append(None)
            continue
        known = solution(program)
        found = x[i].detach().numpy(), A.grad[i].numpy(), b.grad[i].numpy()
        out.append((int(answer.gradient_kind[i]), *(relative(*pair) for pair in zip(found, known, strict=True))))
    return out


def drawn(seed, kind, count, condition, residual, m=16, n=6):
    rng = np.random.default_rng(seed)
    first = draw(rng, kind, m, n, condition, residual)
    others = [draw(rng, kind, m, n, condition, residual) for _ in range(count - 1)]
    return [first, *others]


@pytest.mark.sample(8)
@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("residual", [1e-3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_of_1e6_costs_no_digits(kind, residual, count, reduce):
    for found in measured(drawn(0, kind, count, 1e6, residual), reduce=reduce):
        assert found is not None
        assert found[0] == EXACT
        assert max(found[1:]) < 1e-8


# beyond, the rounding of the data moves the solution to another support
REACH = {"lasso": 1e9, "simplex": 1e11}
CONDITIONS = [(k, c) for k in KINDS for c in (1e4, 1e5, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12) if c <= REACH.get(k, c)]


@pytest.mark.sample(6)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("kind", "condition"), CONDITIONS)
def test_what_is_called_exact_is_right(kind, condition, seed):
    rng = np.random.default_rng(seed)
    programs = drawn(seed, kind, 3, condition, 10.0 ** rng.uniform(-6, 0))
    for found in measured(programs, reduce=bool(seed % 2)):
        if found is None or found[0] != EXACT:
            assert condition >= 1e9, "an honest failure, but only where eight digits cannot be had"
        else:
            assert max(found[1:]) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(100, 10), (150, 20)])
def test_larger_programs(kind, size):
    for found in measured(drawn(1, kind, 2, 1e6, 1e-2, *size)):
        assert found is not None
        assert found[0] == EXACT
        assert max(found[1:]) < 1e-8


@pytest.mark.sample(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("condition", [1e3, 1e6, 1e8])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_the_unit_of_the_objective_is_no_matter(kind, condition, scale):
    programs = drawn(2, kind, 2, condition, 1e-2)
    one, other = measured(programs), measured(programs, scale=scale)
    assert [t and t[0] for t in one] == [t and t[0] for t in other] == [EXACT] * 2
    # both are compared with the same 60 digits
    assert max(max(t[1:]) for t in other) < 1e-8


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e9])
def test_no_unit_changes_the_condition_in_the_best_ones(condition):
    """That of A, for |A x - b|^2: it is one over the distance to a singular A, entry by entry, up to a factor."""
    rng = np.random.default_rng(0)
    m, n = 12, 5
    A = with_condition(rng, m, n, condition)
    S = np.zeros((n + 2 * m, n + 2 * m))
    S[n : n + m, n : n + m] = 2.0 * np.eye(m)
    S[n + m :, : n + m] = np.hstack([A, -np.eye(m)])
    S = np.tril(S) + np.tril(S, -1).T
    conditions = []
    for _ in range(6):
        units = 10.0 ** rng.uniform(-4, 4, len(S)) if conditions else np.ones(len(S))
        scaled = torch.tensor(units[:, None] * S * units)[None]
        E, values, V = balanced(scaled, scaled.abs().amax(-1).rsqrt())
        rebuilt = (V * values.unsqueeze(-2)) @ V.mT
        torch.testing.assert_close(
            rebuilt, E.unsqueeze(-1) * scaled * E.unsqueeze(-2), rtol=0, atol=1e-13 * float(values.abs().max())
        )
        conditions.append(float(values.abs().max() / values.abs().min()))
    assert max(conditions) < 30 * condition
    assert max(conditions) < 4 * min(conditions)


def test_a_row_that_is_stated_twice_stays_dependent():
    S = torch.tensor([[2.0, 0.0, 1.0, 1.0], [0.0, 3.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]).double()
    _, values, _ = balanced(S[None], torch.ones(1, 4).double())
    assert float(values.abs().min()) <= 1e-14 * float(values.abs().max())


def test_multipliers_far_from_unique_in_one_unit_are_so_in_all():
    # rows that differ by 1e-13 of their size are dependent, by 1e-6 they are not
    for difference, kind in ((1e-13, dcl.GradientKind.RANK_DEFICIENT), (1e-6, dcl.GradientKind.EXACT)):
        P = torch.eye(3).double()
        q = torch.tensor([-1.0, -2.0, -3.0]).double().requires_grad_()
        A = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0 + difference]]).double().requires_grad_()
        _, answer = dcl.solve_qp(P, q, A=A, b=torch.ones(2).double(), return_solution=True, on_degenerate="ignore")
        assert int(answer.gradient_kind) == int(kind)

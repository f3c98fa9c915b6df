"""x(mu) in boxes from 1e-10 to 1e-4 wide: right, EXACT, and not refused (`dcl.program.columns`).

Oracles: the closed form of one variable in a box; Newton's method in 40 digits for variables that are coupled.  Measured: points
to 3e-16 of the width, gradients to 9e-13, where the box is at zero; with its corner at 1, what the digits of the bounds leave.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from mpmath import mp, mpf

import dcl
from dcl.program.columns import narrow_columns
from dcl.status import GradientKind

F64 = {"dtype": torch.float64}
WIDTHS = [1e-10, 1e-8, 1e-7, 1e-6, 1e-4]
MUS = [1e-1, 1e-3, 1e-6]


def box(mu: torch.Tensor, q: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """argmin qx - mu log(x) - mu log(w - x)."""
    r = torch.sqrt((q * w) ** 2 + 4.0 * mu * mu)
    return w * 2.0 * mu / (q * w + 2.0 * mu + r)


def layers():
    """Functions of mu, q (B, 1) and w (B, 1): x of min qx over 0 <= x <= w, and the Solution."""
    x, q, w = cp.Variable(1), cp.Parameter(1), cp.Parameter(1)
    y = cp.Variable(200)
    small = cp.Problem(cp.Minimize(q @ x), [x >= 0, x <= w])
    sparse = cp.Problem(cp.Minimize(q @ x + cp.sum_squares(y[1:] - y[:-1])), [x >= 0, x <= w, y[0] == 1, y >= -2])
    one, zero = torch.ones(1, 1, **F64), torch.zeros(1, **F64)
    qp, cone = dcl.QPLayer(), dcl.ConeLayer({"l": 2})
    cvx, large = (dcl.CvxpyLayer(problem, [q, w], [x], reduce=False) for problem in (small, sparse))
    A = torch.cat([-one, one])
    both = {"return_solution": True}
    return {
        "qp": lambda mu, q, w: qp(None, q, lb=zero, ub=w, mu=mu, **both),
        "cone": lambda mu, q, w: cone(None, q, A, torch.cat([zero.expand_as(w), w], -1), mu=mu, **both),
        "cvxpy": lambda mu, q, w: cvx(q, w, mu=mu, **both),
        "sparse": lambda mu, q, w: large(q, w, mu=mu, **both),
    }


@pytest.mark.parametrize("name", ["qp", "cone", "cvxpy", pytest.param("sparse", marks=pytest.mark.slow)])
def test_one_variable_against_its_closed_form(name):
    # beside other costs of size one the exact solver, from whose point the path begins, does not see a slope of 1e-10
    widths = WIDTHS[1:] if name == "sparse" else WIDTHS
    cases = [(mu, w, q) for mu in MUS for w in widths for q in (-1.0, 0.3)]
    mu, w, q = (torch.tensor(column, **F64).unsqueeze(-1).requires_grad_() for column in zip(*cases, strict=True))
    found, solution = layers()[name](mu.squeeze(-1), q, w)
    x = found[0]
    assert bool(solution.ok.all())
    assert bool((solution.gradient_kind == GradientKind.EXACT).all())
    known = box(mu, q, w)
    np.testing.assert_allclose((x / w).detach().numpy(), (known / w).detach().numpy(), rtol=0, atol=1e-10)
    for leaf in (w, q, mu):
        a, b = (torch.autograd.grad(t.sum(), leaf, retain_graph=True)[0].numpy() for t in (x, known))
        size = (known / leaf).abs().detach().numpy()  # of a slope; where x is near the middle those in q and mu cancel
        np.testing.assert_array_less(np.abs(a - b), 1e-9 * np.abs(b) + 1e-10 * size)


def in_high_precision(P, q, lb, ub, mu):
    """(x - lb) / (ub - lb), and the gradient of sum(x) in q, by Newton's method down the path in 40 digits."""
    with mp.workdps(40):
        n = len(q)
        P, q = mp.matrix(P.tolist()), mp.matrix([mpf(float(t)) for t in q])
        lb, ub = ([mpf(float(t)) for t in side] for side in (lb, ub))
        x, at = mp.matrix([(a + b) / 2 for a, b in zip(lb, ub, strict=True)]), mpf(1000)
        while True:
            for _ in range(100):
                g, H = P * x + q, P.copy()
                for i in range(n):
                    g[i] += at / (ub[i] - x[i]) - at / (x[i] - lb[i])
                    H[i, i] += at / (ub[i] - x[i]) ** 2 + at / (x[i] - lb[i]) ** 2
                d = mp.lu_solve(H, -g)
                decrement = mp.sqrt(abs((d.T * H * d)[0]) / at)
                x = x + d * (1 / (1 + decrement) if decrement > 0.25 else 1)
                if decrement < mpf(10) ** -18:
                    break
            if at <= mu:
                u = mp.lu_solve(H, mp.matrix([mpf(1)] * n))
                inside = [(x[i] - lb[i]) / (ub[i] - lb[i]) for i in range(n)]
                return np.array([float(t) for t in inside]), np.array([-float(t) for t in u])
            at = max(mpf(mu), at / 8)


@pytest.mark.sample(3)
@pytest.mark.parametrize("corner", [0.0, 1.0])
@pytest.mark.parametrize("w", WIDTHS)
def test_coupled_variables_against_high_precision(w, corner):
    rng = np.random.default_rng(0)
    B = rng.standard_normal((3, 3))
    P, q = B @ B.T + 0.1 * np.eye(3), rng.standard_normal(3)
    lb = corner - 0.3 * w * np.ones(3)
    ub = lb + w * (1.0 + rng.random(3))
    # the bounds themselves have the digits eps / w
    digits = 2e-10 + 1e-15 * corner / w
    for mu in MUS:
        if corner and w < 1e-8:
            continue  # six digits of the box are left: honest failures
        leaf = torch.tensor(q, requires_grad=True)
        result, solution = dcl.QPLayer()(
            torch.tensor(P), leaf, lb=torch.tensor(lb), ub=torch.tensor(ub), mu=mu, return_solution=True
        )
        assert int(solution.gradient_kind) == GradientKind.EXACT
        inside, gradient = in_high_precision(P, q, lb, ub, mu)
        found = (result.x.detach().numpy() - lb) / (ub - lb)
        np.testing.assert_allclose(found, inside, rtol=0, atol=digits)
        (g,) = torch.autograd.grad(result.x.sum(), leaf)
        np.testing.assert_allclose(g.numpy(), gradient, rtol=0, atol=30 * digits * np.abs(gradient).max())


def test_second_derivatives_mixed_mu_and_warm_start():
    w, q = torch.tensor([[1e-8, 1e-7]], **F64), torch.tensor([[0.5, -1.0]] * 3, **F64)
    mu, layer = torch.tensor([0.0, 1e-2, 1e-5], **F64), dcl.QPLayer()

    def call(q, mu, **options):
        return layer(None, q, lb=torch.zeros(2, **F64), ub=w, mu=mu, **options)

    result, solution = call(q, mu, return_solution=True)
    known = torch.where(
        mu.unsqueeze(-1) > 0.0, box(mu.unsqueeze(-1).clamp(min=1e-30), q, w), torch.tensor([0.0, 1e-7], **F64)
    )
    torch.testing.assert_close(result.x / w, known / w, rtol=0, atol=1e-12)
    again = call(q, mu, warm_start=solution).x
    torch.testing.assert_close(again / w, known / w, rtol=0, atol=1e-12)
    for i in (1, 2):
        found, exact = (
            torch.func.hessian(lambda t, f=f: (f(t) / w).sum())(q[i])
            for f in (lambda t, i=i: call(t, mu[i]).x, lambda t, i=i: box(mu[i], t, w[0]))
        )
        torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-9 * float(exact.abs().max()))
    (told,) = dcl.diagnose(layer, None, q[1], lb=torch.zeros(2, **F64), ub=w[0], mu=1e-2).points
    assert told.gradient_kind == GradientKind.EXACT


def test_usual_programs_have_no_units_of_columns():
    zero, one = torch.zeros(1, 2, **F64), torch.ones(1, 2, **F64)
    layer = dcl.QPLayer()
    for ub, mu, there in ((one, 0.1, False), (1e-6 * one, 0.0, False), (1e-6 * one, 0.1, True)):
        _, solution = layer(None, one, lb=zero, ub=ub, mu=mu, return_solution=True)
        assert (solution._columns is not None) == there
    assert narrow_columns(solution._program, torch.ones(1, 1, **F64)) is None  # in its units the box has width one

"""straight_through: the exact solution forward, the derivative of x(mu) backward, in every mode; and what mu itself may not."""

import cvxpy as cp
import pytest
import torch
from tolerances import IDENTITY, ROUNDING

import dcl

F64 = {"dtype": torch.float64}
func = torch.func


def layers(mu, **settings):
    """Functions of q whose x is relu(-q), and the layers: minimize |x|^2 / 2 + q'x over x >= 0."""
    x, q = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + q @ x), [x >= 0])
    qp, cone, cvx = (
        dcl.QPLayer(mu=mu, **settings),
        dcl.ConeLayer({"l": 3}, mu=mu, **settings),
        dcl.CvxpyLayer(problem, [q], [x], mu=mu, **settings),
    )
    eye, zero = torch.eye(3, **F64), torch.zeros(3, **F64)
    return {
        "qp": lambda q, **options: qp(eye, q, lb=zero, **options),
        "cone": lambda q, **options: cone(eye, q, -eye, zero, **options),
        "cvxpy": lambda q, **options: cvx(q, **options),
    }


def slope(q, mu):
    """dx/dq of x(mu) = (-q + sqrt(q^2 + 4 mu)) / 2."""
    return 0.5 * (q / torch.sqrt(q * q + 4.0 * mu) - 1.0)


q = torch.tensor([[-1.0, 2.0, 0.5], [0.1, -0.2, -3.0]], **F64)
each = pytest.mark.parametrize("name", ["qp", "cone", "cvxpy"])


@each
def test_exact_value_and_derivative_of_the_path(name):
    mu = 0.1
    for f in (
        layers(mu, straight_through=True)[name],
        lambda t: layers(0.0)[name](t, mu=mu, straight_through=True),
        lambda t: layers(0.0)[name](t, mu=torch.full((2,), mu, **F64), straight_through=True),
    ):
        leaf = q.clone().requires_grad_()
        x = f(leaf)[0]
        torch.testing.assert_close(x, torch.relu(-q), rtol=0, atol=ROUNDING)
        (gradient,) = torch.autograd.grad(x.sum(), leaf)
        torch.testing.assert_close(gradient, slope(q, mu), rtol=0, atol=IDENTITY)
    one = layers(mu, straight_through=True)[name]
    J = func.vmap(func.jacfwd(lambda t: one(t)[0]))(q)
    torch.testing.assert_close(J, torch.diag_embed(slope(q, mu)), rtol=0, atol=IDENTITY)


@each
def test_for_one_call_or_not(name):
    f = layers(0.1, straight_through=True)[name]
    root = torch.sqrt(q * q + 0.4)
    torch.testing.assert_close(f(q, straight_through=False)[0], 0.5 * (root - q), rtol=0, atol=IDENTITY)
    result, solution = f(q, return_solution=True)
    torch.testing.assert_close(solution.outputs[0], result[0], rtol=0, atol=0)
    assert solution._mu == 0.0  # the point returned is the exact one
    assert bool(solution.ok.all())


@each
def test_without_mu_is_an_error(name):
    with pytest.raises(dcl.InputError, match="straight_through needs mu > 0"):
        layers(0.0, straight_through=True)[name](q)


def test_failed_instances_stay_failed():
    layer = dcl.QPLayer(mu=0.1, straight_through=True, on_failure="nan")
    eye, h = torch.eye(1, **F64), torch.tensor([[1.0, 1.0], [1.0, -2.0]], **F64, requires_grad=True)
    x = layer(eye, torch.tensor([-3.0], **F64), G=torch.cat([eye, -eye]), h=h).x
    assert float(x[0].detach()) == 1.0
    assert bool(x[1].isnan())
    (gradient,) = torch.autograd.grad(x.nansum(), h)
    assert not gradient[1].any()
    assert float(gradient[0, 0]) > 0.5


@pytest.mark.sample(5)
@each
@pytest.mark.parametrize("how", ["leaf", "grad", "jvp", "vmap of grad"])
def test_the_derivative_in_mu_is_that_of_the_path(name, how):
    f = layers(0.0)[name]
    mu = torch.tensor([0.1, 0.2], **F64)

    def total(mu):
        return f(q, mu=mu, straight_through=True)[0].sum()

    known = (1.0 / torch.sqrt(q * q + 4.0 * mu.unsqueeze(-1))).sum(-1)
    calls = {
        "leaf": lambda: torch.autograd.grad(total(leaf), leaf)[0],
        "grad": lambda: func.grad(total)(mu),
        "jvp": lambda: torch.stack([func.jvp(total, (mu,), (e,))[1] for e in torch.eye(2, **F64)]),
        "vmap of grad": lambda: func.vmap(func.grad(total))(mu.expand(3, 2))[1],
    }
    leaf = mu.clone().requires_grad_()
    torch.testing.assert_close(calls[how](), known, rtol=1e-12, atol=1e-13)

"""y of 100,000 entries: conjugate gradients on Hessian-vector products, against closed forms, in bounded memory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch
from torch import Tensor

import dcl


def chain(y: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """sum 1/2 y^2 + w/4 y^4 - a y + 1/2 sum (y_{i+1} - y_i)^2: a tridiagonal Hessian that is not diagonal."""
    return (0.5 * y.square() + 0.25 * w * y.pow(4) - a * y).sum() + 0.5 * (y[1:] - y[:-1]).square().sum()


def chain_by_scipy(a: np.ndarray, w: float, by: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The minimizer, and the gradient of by'y in a and w, by Newton's method with SciPy's sparse LU."""
    n = len(a)
    D = sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
    y = np.zeros(n)
    for _ in range(60):
        g = y + w * y**3 - a + D.T @ (D @ y)
        H = sp.csc_array(sp.diags_array(1.0 + 3.0 * w * y**2) + D.T @ D)
        y = y - spla.spsolve(H, g)
    u = spla.spsolve(H, by)
    return y, u, float(-u @ y**3)


@pytest.mark.parametrize("n", [300, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_long_chain(n: int) -> None:
    rng = np.random.default_rng(0)
    a0, by = 3.0 * rng.standard_normal(n), rng.standard_normal(n)
    a, w = torch.from_numpy(a0).requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y, solution = dcl.argmin(chain, torch.zeros(n).double(), a, w, linear_solve="cg", return_solution=True)
    known, in_a, in_w = chain_by_scipy(a0, 0.5, by)
    np.testing.assert_allclose(y.detach(), known, atol=1e-11)
    found_a, found_w = torch.autograd.grad(y @ torch.from_numpy(by), (a, w))
    np.testing.assert_allclose(found_a, in_a, atol=1e-9)
    np.testing.assert_allclose(found_w, in_w, rtol=1e-9)
    assert solution.ok.all()
    # a matrix of n x n numbers would take 80 GB
    assert 1.0 <= float(solution.condition) < 100.0


@pytest.mark.slow
def test_transforms_and_second_derivatives() -> None:
    n = 6
    a, w = torch.linspace(-2.0, 3.0, n).double(), torch.tensor(0.5).double()

    def by(linear_solve: str | None):
        return lambda a, w: dcl.argmin(chain, torch.zeros(n).double(), a, w, linear_solve=linear_solve)

    for transform in (torch.func.jacrev, lambda f, argnums: torch.func.jacrev(torch.func.jacrev(f, argnums), argnums)):
        for argnums in (0, 1):
            np.testing.assert_allclose(
                transform(by("cg"), argnums=argnums)(a, w), transform(by(None), argnums=argnums)(a, w), atol=1e-9
            )
    np.testing.assert_allclose(torch.func.jacfwd(by("cg"))(a, w), torch.func.jacfwd(by(None))(a, w), atol=1e-10)
    x = a.clone().requires_grad_()
    both = [
        torch.autograd.grad(by(way)(x, w), x, torch.eye(n).double(), is_grads_batched=True)[0] for way in ("cg", None)
    ]
    np.testing.assert_allclose(*both, atol=1e-10)
    many = torch.stack([a, 2.0 * a])
    np.testing.assert_allclose(
        torch.func.vmap(by("cg"), (0, None))(many, w), torch.func.vmap(by(None), (0, None))(many, w), atol=1e-11
    )
    batched = dcl.ArgminLayer(chain, linear_solve="cg", in_dims=(None, 0, None))
    np.testing.assert_allclose(
        batched(torch.zeros(n).double(), many, w), torch.func.vmap(by(None), (0, None))(many, w), atol=1e-11
    )


@pytest.mark.slow
def test_the_status_of_conjugate_gradients_is_read() -> None:
    """Eigenvalues from 1 to 1e14: CG stalls, and says so instead of returning its last iterate as the gradient."""
    scales = torch.logspace(0.0, 14.0, 200).double()
    a = torch.ones(200).double().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dcl.DegenerateWarning)
        y, solution = dcl.argmin(
            lambda y, a: 0.5 * (scales * (y - a).square()).sum(), torch.ones(200).double(), a, linear_solve="cg",
            return_solution=True, on_failure="last",
        )  # fmt: skip
    if solution.ok:
        with pytest.warns(dcl.DegenerateWarning, match="conjugate gradients reached a relative residual"):
            torch.autograd.grad(y.sum(), a)
    else:
        assert solution.status == dcl.Status.FLAT


def test_a_saddle_a_valley_and_the_diagonal() -> None:
    layer = dict(linear_solve="cg", solver="newton")
    with pytest.raises(dcl.DivergedError):
        dcl.argmin(lambda y: y[:1].square().sum() - y[1:].square().sum(), torch.ones(50).double(), **layer)
    with pytest.raises(dcl.FlatError):
        dcl.argmin(lambda y: (y[0] - y[1:]).sum() ** 2 + y[0] ** 2, torch.ones(50).double(), **layer)
    found = dcl.argmin(lambda y: (y.square() - 1.0).square().sum(), torch.zeros(50).double() + 1e-9, **layer)
    np.testing.assert_allclose(found.abs(), np.ones(50), atol=1e-12)
    saddle = dcl.argmin(
        lambda y: (y.square() - 1.0).square().sum(), torch.full((5,), 0.1).double(), linear_solve="cg", stationary="any"
    )
    np.testing.assert_allclose(saddle, np.zeros(5), atol=1e-12)
    a = torch.linspace(-2.0, 3.0, 80).double().requires_grad_()
    w = torch.tensor(0.5).double()
    y = dcl.argmin(chain, torch.zeros(80).double(), a, w, linear_solve="cg", hessian="diagonal")
    (gradient,) = torch.autograd.grad(y.sum(), a)
    ends = torch.full((80,), 2.0).double()
    ends[[0, -1]] = 1.0
    np.testing.assert_allclose(gradient, 1.0 / (1.0 + 1.5 * y.detach() ** 2 + ends), atol=1e-12)


@pytest.mark.slow
def test_dense_newton_after_l_bfgs() -> None:
    n = 600
    a = torch.linspace(-2.0, 3.0, n).double().requires_grad_()
    w = torch.tensor(0.5).double()
    y, solution = dcl.argmin(chain, torch.zeros(n).double(), a, w, return_solution=True)
    known, in_a, _ = chain_by_scipy(a.detach().numpy(), 0.5, np.ones(n))
    assert solution.solvers[solution.solver] == "l-bfgs-b"
    np.testing.assert_allclose(y.detach(), known, atol=1e-12)
    np.testing.assert_allclose(torch.autograd.grad(y.sum(), a)[0], in_a, atol=1e-11)

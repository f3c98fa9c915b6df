"""One instance without constraints: the quick way agrees with the careful one where it certifies, and leaves it the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dcl
from dcl.smooth import solve
from dcl.smooth.evaluation import Evaluation
from dcl.smooth.single import Certified, single

Problem = tuple[Callable[..., Tensor], Tensor, tuple[Tensor, ...]]


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed: int, n: int, size: float = 1.0) -> Problem:
    """Many valleys: the search passes saddles, and Hessians that are not positive definite."""

    def f(y: Tensor, W: Tensor, b: Tensor, v: Tensor) -> Tensor:
        return size * (v @ torch.tanh(W @ y + b) + y.square().sum() / 16.0)

    return f, torch.zeros(n).double(), (randn(seed, 5, n), randn(seed + 1, 5), randn(seed + 2, 5))


def quadratic(seed: int, n: int) -> Problem:
    def f(y: Tensor, R: Tensor, b: Tensor) -> Tensor:
        return 0.5 * (R @ y).square().sum() + 0.5 * y.square().sum() - b @ y

    return f, randn(seed, n), (randn(seed + 1, n, n), randn(seed + 2, n))


def logistic(seed: int, n: int) -> Problem:
    X = randn(seed, 40, n)

    def f(y: Tensor, penalty: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-(X @ y)).mean() + 0.5 * (penalty.exp() * y.square()).sum()

    return f, torch.zeros(n).double(), (randn(seed + 1, n),)


def valley(seed: int, n: int) -> Problem:
    """Rosenbrock's, from a start on the other side."""

    def f(y: Tensor, a: Tensor) -> Tensor:
        return (a - y[0]).square() + 10.0 * (y[1] - y[0].square()).square()

    return f, torch.tensor([-1.2, 1.0]).double(), (1.0 + 0.1 * randn(seed, 1)[0],)


def domain(seed: int, n: int) -> Problem:
    """The first full steps leave the domain of the logarithm."""

    def f(y: Tensor, c: Tensor) -> Tensor:
        return c.exp() @ y - y.log().sum()

    return f, torch.full((n,), 10.0).double(), (randn(seed, n),)


FAMILIES = (
    [(network, n) for n in (1, 2, 3, 7)]
    + [(quadratic, n) for n in (1, 4, 30)]
    + [(logistic, n) for n in (2, 9)]
    + [(valley, 2), (domain, 3)]
)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Certified | None]:
    """What the quick way said, call by call."""
    found: list[Certified | None] = []
    own = solve.certified

    def certified(*args: Any) -> Certified | None:
        found.append(own(*args))
        return found[-1]

    monkeypatch.setattr(solve, "certified", certified)
    return found


def solved(problem: Problem) -> tuple[np.ndarray, list[np.ndarray], dcl.Solution]:
    f, start, theta = problem
    leaves = [t.clone().requires_grad_() for t in theta]
    y, solution = dcl.argmin(f, start, *leaves, return_solution=True)
    w = torch.linspace(1.0, 2.0, len(start), dtype=torch.float64)
    return y.detach().numpy(), [g.numpy() for g in torch.autograd.grad(w @ y, leaves)], solution


@pytest.mark.sample(4)
@pytest.mark.parametrize(("family", "n"), FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_both_ways_agree(
    family: Callable[[int, int], Problem],
    n: int,
    seed: int,
    answers: list[Certified | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Certified implies that the careful way says OPTIMAL and EXACT, at the same point, with the same gradient."""
    problem = family(10 * seed, n)
    y, gradient, solution = solved(problem)
    assert answers[-1] is not None
    monkeypatch.setattr(solve, "certified", lambda *args: None)
    y_careful, gradient_careful, careful = solved(problem)
    np.testing.assert_allclose(y, y_careful, rtol=1e-10, atol=1e-11)
    for a, b in zip(gradient, gradient_careful, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())
    for one in (solution, careful):
        assert int(one.status) == dcl.Status.OPTIMAL
        assert int(one.gradient_kind) == dcl.GradientKind.EXACT
    assert [one.solvers[int(one.solver)] for one in (solution, careful)] == ["newton", "newton"]
    assert max(float(solution.primal_residual), float(solution.dual_residual), float(solution.gap)) <= 1e-12
    assert float(solution.condition) == pytest.approx(float(careful.condition), rel=20.0)
    np.testing.assert_allclose(solution.value, careful.value, rtol=1e-12, atol=1e-12)


def test_gradient_by_closed_form(answers: list[Certified | None]) -> None:
    """For 1/2 y'(R'R + I) y - b'y:  dy/db = (R'R + I)^-1, here of a y that is differentiated twice."""
    f, start, (R, b) = quadratic(5, 6)
    b.requires_grad_()
    y = dcl.argmin(f, start, R, b)
    inverse = np.linalg.inv(R.numpy().T @ R.numpy() + np.eye(6))
    first = torch.autograd.grad(y.sum(), b, retain_graph=True)[0]
    second = torch.autograd.grad(y.sum(), b)[0]
    assert len(answers) == 1
    assert answers[0] is not None
    np.testing.assert_allclose(first, inverse.sum(0), rtol=1e-12)
    assert torch.equal(first, second)


def flat(y: Tensor, a: Tensor) -> Tensor:
    return (y - a).pow(4).sum()


def saddle(y: Tensor, a: Tensor) -> Tensor:
    return a[0] * y[0].square() - y[1].square() + y[1].pow(4)


def kink(y: Tensor, a: Tensor) -> Tensor:
    return (y - a).abs().sum() + 1e-3 * y.square().sum()


def falling(y: Tensor, a: Tensor) -> Tensor:
    return torch.tanh(y - a).sum()


def unseen(y: Tensor, a: Tensor) -> Tensor:
    """y_1 + y_2 alone is seen."""
    return (y.sum() - a.sum()).square()


def linear(y: Tensor, a: Tensor) -> Tensor:
    return y @ a


def ill(y: Tensor, a: Tensor) -> Tensor:
    return (y[0] - a[0]).square() + 1e-9 * (y[1] - a[1]).square()


@pytest.mark.parametrize("f", [flat, saddle, kink, falling, unseen, linear, ill])
def test_doubts_are_left_to_the_careful_way(f: Callable[..., Tensor]) -> None:
    """Nothing is certified; which error or flag it is says test_argmin_failures.py."""
    a = torch.tensor([0.7, 0.3]).double()
    start = np.zeros(2)  # for `saddle` the stationary point itself, with a gradient of zero
    with torch.enable_grad():
        assert single(lambda x, a: f(x, a), start, [a]) is None


def test_not_a_number_is_left_to_the_careful_way() -> None:
    with torch.enable_grad():
        assert single(lambda x: x.log().sum() + x.square().sum(), np.array([-1.0]), []) is None
    with pytest.raises(dcl.InputError, match="outside the domain"):
        dcl.argmin(lambda y: y.log().sum() + y.square().sum(), torch.tensor([-1.0]).double())
    with pytest.raises(dcl.InputError, match=r"params\[0\]\[1\] is nan"):
        dcl.argmin(lambda y, a: (y - a[0]).square().sum(), torch.zeros(1).double(), torch.tensor([1.0, torch.nan]))


def test_a_blurred_gradient_is_left_to_the_careful_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of terms of 3e14 at the start rounding may be left at the minimum, though the Newton step there is small."""

    def f(x: Tensor) -> Tensor:
        return (0.5 * x.square() + torch.exp(-30.0 * x)).sum()

    with torch.enable_grad():
        assert single(f, np.array([-1.0]), []) is None
        monkeypatch.setattr("dcl.smooth.judge.BLUR", np.inf)
        found = single(f, np.array([-1.0]), [])
    assert found is not None
    assert found.x[0] == pytest.approx(30.0 * np.exp(-30.0 * found.x[0]), rel=1e-13)


def test_a_hessian_that_changes_is_left_to_the_careful_way() -> None:
    """In the ball in which x is known the second derivative is to be the same number: here 1e-5 + 1e22 x^2, known to 1e-13."""

    def f(x: Tensor) -> Tensor:
        return (0.5e-5 * x.square() + 1e22 * x.pow(4) / 12.0).sum()

    with torch.enable_grad():
        assert single(f, np.array([0.0]), []) is None
        assert single(lambda x: (0.5e-5 * x.square()).sum(), np.array([0.0]), []) is not None


class Cube(torch.autograd.Function):
    """x^3, whose backward pass hides from torch that it depends on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * torch.from_numpy(3.0 * ctx.x.numpy() ** 2)


def test_a_function_with_its_own_backward_pass_is_left_to_the_careful_way() -> None:
    """Its Hessian would be 2 for 2 + 6 y, and the gradient at y = 1 four times too large, without a word."""
    with torch.enable_grad():
        assert single(lambda x: (Cube.apply(x) + x.square() - 5.0 * x).sum(), np.array([0.5]), []) is None
        found = single(lambda x: (x**3 + x.square() - 5.0 * x).sum(), np.array([0.5]), [])
    assert found is not None
    np.testing.assert_allclose([found.x[0], found.H[0, 0]], [1.0, 8.0], rtol=1e-14)
    a = torch.tensor([5.0]).double().requires_grad_()
    with pytest.raises(dcl.InputError, match=r"torch\.func"):
        dcl.argmin(lambda y, a: (Cube.apply(y) + y.square() - a * y).sum(), torch.tensor([0.5]).double(), a)


def test_derivatives_of_a_function_that_is_partly_constant() -> None:
    """Branches without a graph, and linear ones, have derivatives of zero."""
    with torch.enable_grad():
        constant = Evaluation(lambda x: torch.tensor(2.0), np.ones(2), [])
        assert (constant.f, constant.g.tolist(), constant.H.tolist()) == (2.0, [0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]])
        straight = Evaluation(lambda x, a: a @ x, np.ones(2), [torch.tensor([3.0, 4.0]).double()])
        assert (straight.f, straight.g.tolist(), straight.product(np.ones(2)).tolist()) == (7.0, [3.0, 4.0], [0.0, 0.0])


@pytest.mark.parametrize("n", [2, 8])
def test_hessian_by_rows_and_at_once(n: int) -> None:
    """Of v'exp(W x): W' diag(v exp(W x)) W; H u is its product with u."""
    W, v, x, u = randn(n, 4, n), randn(n + 1, 4), randn(n + 2, n).numpy(), randn(n + 3, n).numpy()
    with torch.enable_grad():
        at = Evaluation(lambda x, W: v @ torch.exp(W @ x), x, [W])
        H = W.numpy().T @ np.diag(v.numpy() * np.exp(W.numpy() @ x)) @ W.numpy()
        np.testing.assert_allclose(at.H, H, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(at.product(u), H @ u, rtol=1e-12, atol=1e-12)


def test_where_the_quick_way_is_not_asked(answers: list[Certified | None]) -> None:
    """Batches, constraints, other methods, hooks on what graphs save: all of these are answered the careful way."""
    f, start, theta = quadratic(0, 2)
    dcl.argmin(f, start, *theta)
    assert answers.pop() is not None
    many = {"in_dims": (0, None, None)}
    dcl.argmin(f, torch.zeros(2, 2).double(), *theta, **many)
    dcl.argmin(f, start, *theta, inequality=lambda y, *theta: y - 10.0)
    dcl.argmin(f, start, *theta, solver="BFGS")
    dcl.argmin(f, start, *theta, mu=0.1)
    dcl.argmin(f, start, *theta, stationary="any")
    dcl.argmin(f, start, *theta, hessian="diagonal")
    assert answers == [None] * 6

"""The results of Gould et al. 2016 (On differentiating parameterized argmin and argmax problems), each against its closed form.

The right-hand sides are written here in NumPy from the report's formulas, corrected where docs/errata.md says so; the corrections
themselves are held to finite differences of NumPy functions, which know nothing of dcl.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

import dcl

TOLERANCE = 1e-8
Array = np.ndarray


def tensor(value: Any, requires_grad: bool = True) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=requires_grad)


def jacobian(y: Tensor, *inputs: Tensor) -> list[Array]:
    """dy/dinput for each input, by reverse mode: (entries of y, *shape of the input)."""
    rows = [torch.autograd.grad(entry, inputs, retain_graph=True) for entry in y.reshape(-1)]
    return [np.stack([row[k].numpy() for row in rows]) for k in range(len(inputs))]


def differences(function: Callable[[Array], Array], at: Array, step: float = 1e-3) -> Array:
    """Central differences of order six, (*shape of the result, *shape of at)."""
    at = np.asarray(at, dtype=np.float64)
    out = []
    for index in np.ndindex(at.shape):
        e = np.zeros_like(at)
        e[index] = step
        terms = [w * (function(at + k * e) - function(at - k * e)) for k, w in ((1, 45.0), (2, -9.0), (3, 1.0))]
        out.append(sum(terms) / (60.0 * step))
    return np.moveaxis(np.stack(out), 0, -1).reshape(*np.shape(out[0]), *at.shape)


def close(computed: Any, known: Any, tolerance: float = TOLERANCE) -> bool:
    known = np.asarray(known)
    return bool(np.abs(np.asarray(computed) - known).max() <= tolerance * (1.0 + np.abs(known).max()))


# 3.1: the mean


def squares(y: Tensor, x: Tensor) -> Tensor:
    """f(x, y) = sum_i (h_i(x) - y)^2 with h_i(x) = sin(i x), i = 1 ... 5."""
    return (torch.sin(torch.arange(1.0, 6.0, dtype=torch.float64) * x) - y).square().sum()


def test_lemma_3_1_on_the_scalar_mean() -> None:
    x, i = tensor(0.7), np.arange(1.0, 6.0)
    y = dcl.argmin(squares, tensor(0.0, False), x)
    assert close(y.item(), np.sin(0.7 * i).mean())
    assert close(jacobian(y, x)[0], np.mean(i * np.cos(0.7 * i)))  # eq. 18


# 3.2: three stationary points


def quartic(y: Tensor, x: Tensor) -> Tensor:
    return x * y**4 + 2.0 * x**2 * y**3 - 12.0 * y**2


@pytest.mark.sample(4)
@pytest.mark.parametrize("branch", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("x0", [0.3, 1.0, 2.5])
def test_equations_23_and_24_on_every_branch(branch: float, x0: float) -> None:
    known = branch and (-3.0 * x0**2 + branch * np.sqrt(9.0 * x0**4 + 96.0 * x0)) / (4.0 * x0)
    x = tensor(x0)
    y = dcl.argmin(quartic, tensor(known + 0.05, False), x, stationary="any")
    assert close(y.item(), known)
    slope = -(known**3 + 3.0 * x0 * known**2) / (3.0 * x0 * known**2 + 3.0 * x0**2 * known - 6.0)
    assert close(jacobian(y, x)[0], slope)


@pytest.mark.slow
def test_one_minimum_and_a_branch_followed_along_a_path() -> None:
    layer = dcl.ArgminLayer(quartic, stationary="any")
    y = tensor(1.8, False)
    for x0 in np.linspace(1.0, 3.0, 41):  # footnote 2: the last answer is the next start
        y = layer(y, tensor(x0)).detach()
        assert close(y.item(), (-3.0 * x0**2 + np.sqrt(9.0 * x0**4 + 96.0 * x0)) / (4.0 * x0))
    # from the maximum itself a minimum is found
    assert abs(dcl.argmin(quartic, tensor(0.0, False), tensor(1.0)).item()) > 1.0


# 3.3, 4.4: the most likely feature of a softmax classifier

RNG = np.random.default_rng(5)
CLASSES, N, WHICH = 10, 2, 0
A0 = RNG.normal(size=(CLASSES, N))
A0[WHICH] = A0[1:].mean(0) + 0.1  # inside of the hull of the others, so that there is a maximum
B0 = 0.3 * RNG.normal(size=CLASSES)


def log_likelihood(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    return A[WHICH] @ x + b[WHICH] - torch.logsumexp(A @ x + b, 0)


def softmax_parts(x: Array) -> tuple[Array, Array, Array]:
    """l (classes,), a_bar (n,), H (n, n) of eq. 26 and 30."""
    logits = A0 @ x + B0
    likelihood = np.exp(logits - logits.max())
    likelihood /= likelihood.sum()
    mean = likelihood @ A0
    return likelihood, mean, np.outer(mean, mean) - (likelihood[:, None] * A0).T @ A0


def in_a_and_b(x: Array, inverse: Array, exact_at_i: bool = True) -> tuple[Array, Array]:
    """inverse (n, n) times the right-hand sides of eq. 33, 34: (n, classes, n) and (n, classes).

    exact_at_i: the entry j = i as printed, which needs a_i = a_bar; else the form for all j.
    """
    likelihood, mean, _ = softmax_parts(x)
    in_a = np.einsum("j,k,jn->njk", likelihood, x, A0 - mean) + np.einsum("j,nk->njk", likelihood, np.eye(N))
    in_b = np.einsum("j,jn->nj", likelihood, A0 - mean)
    if exact_at_i:
        in_a[:, WHICH], in_b[:, WHICH] = (likelihood[WHICH] - 1.0) * np.eye(N), 0.0
    else:
        in_a[:, WHICH] -= np.eye(N)
    return np.einsum("nm,mjk->njk", inverse, in_a), inverse @ in_b


def softmax(**settings: Any) -> tuple[Array, Array, Array]:
    A, b = tensor(A0), tensor(B0)
    x = dcl.argmin(log_likelihood, torch.zeros(N).double(), A, b, maximize=True, **settings)
    return (x.detach().numpy(), *jacobian(x, A, b))


def test_equations_33_and_34() -> None:
    x, in_a, in_b = softmax()
    _, mean, H = softmax_parts(x)
    assert close(A0[WHICH], mean)  # eq. 29 at the maximum
    known = in_a_and_b(x, np.linalg.inv(H))
    assert close(in_a, known[0])
    assert close(in_b, known[1])


@pytest.mark.parametrize("as_pair", [True, False])
def test_equations_74_and_75(as_pair: bool) -> None:
    pair = (torch.ones(1, N).double(), torch.ones(1).double())
    x, in_a, in_b = softmax(equality=pair if as_pair else lambda x, A, b: x.sum() - 1.0)
    assert abs(x.sum() - 1.0) < 1e-12
    H = softmax_parts(x)[2]
    inverse, one = np.linalg.inv(H), np.ones(N)
    dagger = inverse - np.outer(inverse @ one, inverse @ one) / (one @ inverse @ one)
    known = in_a_and_b(x, dagger)
    assert close(in_a, known[0])
    assert close(in_b, known[1])
    assert close(dagger @ one, 0.0)
    assert close(in_a.sum(0), 0.0)  # the gradient stays in the null space


# 3.4: monotone maps


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("map_", "maximize"),
    [(torch.exp, False), (lambda f: torch.log(f), False), (lambda f: -1.0 / f, False), (lambda f: -torch.exp(f), True)],
    ids=["exp", "log", "increasing", "decreasing"],
)
def test_lemma_3_4(map_: Callable[[Tensor], Tensor], maximize: bool) -> None:
    def f(y: Tensor, x: Tensor) -> Tensor:
        return 0.5 + (y - torch.sin(x)).square().sum() + (y * x).square().sum() + 0.1 * y.pow(4).sum()

    start = tensor([0.1, -0.2], False)
    x, same = tensor([0.4, -0.8]), tensor([0.4, -0.8])
    plain = dcl.argmin(f, start, x)
    mapped = dcl.argmin(lambda y, x: map_(f(y, x)), start, same, maximize=maximize)
    assert close(mapped.detach(), plain.detach())
    assert close(jacobian(mapped, same)[0], jacobian(plain, x)[0])
    y, x0 = plain.detach().numpy(), x.detach().numpy()
    # f_yy and f_xy by hand: both diagonal
    f_yy = 2.0 + 2.0 * x0**2 + 1.2 * y**2
    f_xy = -2.0 * np.cos(x0) + 4.0 * x0 * y
    assert close(jacobian(mapped, same)[0], np.diag(-f_xy / f_yy))


# 4.1: lemmas 4.1 and 4.2

EQ_A = RNG.normal(size=(2, 5))
EQ_B = RNG.normal(size=2)


def bowl(y: Tensor, x: Tensor) -> Tensor:
    return (
        0.25 * y.pow(4) + y.square() * torch.exp(x) - y * torch.sin(x * torch.arange(5.0).double())
    ).sum() + y.sum() ** 2


def test_lemmas_4_1_and_4_2_agree_with_the_layer() -> None:
    x = tensor(0.6)
    pair = (torch.from_numpy(EQ_A), torch.from_numpy(EQ_B))
    y = dcl.argmin(bowl, torch.zeros(5).double(), x, equality=pair)
    at, i = y.detach().numpy(), np.arange(5.0)
    assert close(EQ_A @ at, EQ_B, 1e-12)
    H = np.diag(3.0 * at**2 + 2.0 * np.exp(0.6)) + 2.0
    f_xy = 2.0 * at * np.exp(0.6) - i * np.cos(0.6 * i)
    F = np.linalg.svd(EQ_A)[2][2:].T
    first = -F @ np.linalg.solve(F.T @ H @ F, F.T @ f_xy)
    inverse = np.linalg.inv(H)
    middle = inverse @ EQ_A.T @ np.linalg.inv(EQ_A @ inverse @ EQ_A.T) @ EQ_A @ inverse
    assert close(first, (middle - inverse) @ f_xy)
    assert close(jacobian(y, x)[0], first)


def test_gradients_in_a_and_b_of_the_equalities() -> None:
    A, b = tensor(EQ_A), tensor(EQ_B)
    y = dcl.argmin(lambda y: 0.5 * y.square().sum(), torch.zeros(5).double(), equality=(A, b))
    pseudo = np.linalg.pinv(EQ_A)  # the least-norm point A^+ b
    assert close(y.detach(), pseudo @ EQ_B)
    in_a, in_b = jacobian(y, A, b)
    assert close(in_b, pseudo)
    assert close(in_a, differences(lambda M: np.linalg.pinv(M) @ EQ_B, EQ_A))


# 4.2, 4.3: the barrier


@pytest.mark.sample(4)
@pytest.mark.parametrize("t", [0.5, 10.0, 1e4])
@pytest.mark.parametrize("x0", [0.9, -0.6])
def test_equation_71(x0: float, t: float) -> None:
    x, i = tensor(x0), np.arange(1.0, 6.0)
    y = dcl.argmin(squares, tensor(1.0, False), x, inequality=lambda y, x: -y, mu=1.0 / t)
    S, dS, m = np.sin(x0 * i).sum(), (i * np.cos(x0 * i)).sum(), 5.0
    root = np.sqrt(t * t * S * S + 2.0 * t * m)
    known = (
        (t * S + root) / (2.0 * t * m) if S > 0.0 else 1.0 / (root - t * S)
    )  # the positive root, without cancellation
    assert close(y.item(), known)
    assert close(jacobian(y, x)[0], 2.0 * t * dS / (2.0 * t * m + 1.0 / known**2))


@pytest.mark.parametrize("x0", [0.9, -0.6])
def test_equation_72_is_the_limit(x0: float) -> None:
    x, i = tensor(x0), np.arange(1.0, 6.0)
    y = dcl.argmin(squares, tensor(1.0, False), x, inequality=lambda y, x: -y)
    binds = np.sin(x0 * i).mean() <= 0.0
    assert close(y.item(), max(0.0, np.sin(x0 * i).mean()))
    assert close(jacobian(y, x)[0], 0.0 if binds else np.mean(i * np.cos(x0 * i)))


def constraints(y: Array, x: float) -> tuple[Array, Array, Array, Array]:
    """f_1 = |y|^2 + x y_2 - 2 and f_2 = exp(x y_1) - 2: values, gradients in y, Hessians, d/dx of the gradients."""
    e = np.exp(x * y[0])
    values = np.array([y @ y + x * y[1] - 2.0, e - 2.0])
    gradients = np.array([[2.0 * y[0], 2.0 * y[1] + x], [x * e, 0.0]])
    hessians = np.array([2.0 * np.eye(2), [[x * x * e, 0.0], [0.0, 0.0]]])
    mixed = np.array([[0.0, 1.0], [e + x * y[0] * e, 0.0]])
    return values, gradients, hessians, mixed


@pytest.mark.parametrize("t", [1.0, 50.0])
def test_equation_64_with_constraints_that_depend_on_x(t: float) -> None:
    def f0(y: Tensor, x: Tensor) -> Tensor:
        return (y[0] - 3.0 * x) ** 2 + (y[1] - x) ** 2 + y[0] * y[1]

    def inequality(y: Tensor, x: Tensor) -> Tensor:
        return torch.stack([y.square().sum() + x * y[1] - 2.0, torch.exp(x * y[0]) - 2.0])

    x = tensor(0.8)
    y = dcl.argmin(f0, torch.zeros(2).double(), x, inequality=inequality, mu=1.0 / t)
    at = y.detach().numpy()
    values, gradients, hessians, mixed = constraints(at, 0.8)
    in_x = np.array([at[1], at[0] * np.exp(0.8 * at[0])])
    # phi = sum log(-f_i) and its derivatives, with the signs of docs/errata.md
    phi_y = (gradients / values[:, None]).sum(0)
    phi_yy = (hessians / values[:, None, None]).sum(0) - np.einsum("i,ij,ik->jk", values**-2.0, gradients, gradients)
    phi_xy = (mixed / values[:, None]).sum(0) - ((in_x / values**2)[:, None] * gradients).sum(0)
    f_y = np.array([2.0 * (at[0] - 2.4) + at[1], 2.0 * (at[1] - 0.8) + at[0]])
    assert close(t * f_y - phi_y, 0.0)  # stationary for eq. 61
    known = -np.linalg.solve(t * np.array([[2.0, 1.0], [1.0, 2.0]]) - phi_yy, t * np.array([-6.0, -2.0]) - phi_xy)
    assert close(jacobian(y, x)[0], known)


def test_errata_of_equations_62_and_63() -> None:
    y = np.array([0.3, -0.4])
    values, gradients, hessians, _ = constraints(y, 0.8)
    measured_1 = differences(lambda y: np.log(-constraints(y, 0.8)[0]).sum(), y)
    measured_2 = differences(lambda y: (constraints(y, 0.8)[1] / constraints(y, 0.8)[0][:, None]).sum(0), y)
    right_1 = (gradients / values[:, None]).sum(0)
    outer = np.einsum("i,ij,ik->jk", values**-2.0, gradients, gradients)
    right_2 = -outer + (hessians / values[:, None, None]).sum(0)
    assert close(right_1, measured_1)
    assert close(right_2, measured_2)
    # as printed
    assert not close(-right_1, measured_1, 1e-2)
    assert not close(-right_2, measured_2, 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("t", [2.0, 100.0])
def test_errata_of_equations_78_to_80(t: float) -> None:
    scaled = 6.0 * A0  # far enough that the ball binds

    def in_the_ball(A: Tensor, b: Tensor) -> Tensor:
        return dcl.argmin(
            lambda x, A, b: A[1] @ x + b[1] - torch.logsumexp(A @ x + b, 0),
            torch.zeros(N).double(), A, b, maximize=True, inequality=lambda x, A, b: x @ x - 1.0, mu=1.0 / t,
        )  # fmt: skip

    A, b = tensor(scaled), tensor(B0)
    x = in_the_ball(A, b)
    at = x.detach().numpy()
    logits = scaled @ at + B0
    likelihood = np.exp(logits - logits.max())
    likelihood /= likelihood.sum()
    mean = likelihood @ scaled
    H = np.outer(mean, mean) - (likelihood[:, None] * scaled).T @ scaled
    d = 1.0 - at @ at
    hess_phi = -4.0 * np.outer(at, at) / d**2 - 2.0 * np.eye(N) / d
    assert close(hess_phi, differences(lambda x: -2.0 * x / (1.0 - x @ x), at, 1e-2 * d))
    assert close(t * (scaled[1] - mean), 2.0 * at / d)  # stationary for t log l + log(1 - |x|^2), a_1 != a_bar
    inverse = t * np.linalg.inv(t * H + hess_phi)
    in_a = np.einsum("j,k,jn->njk", likelihood, at, scaled - mean) + np.einsum("j,nk->njk", likelihood, np.eye(N))
    in_a[:, 1] -= np.eye(N)
    known_a = np.einsum("nm,mjk->njk", inverse, in_a)
    known_b = inverse @ np.einsum("j,jn->nj", likelihood, scaled - mean)
    computed = jacobian(x, A, b)
    assert close(computed[0], known_a)
    assert close(computed[1], known_b)
    # finite differences of the solution of eq. 61 by NumPy's own Newton iteration
    assert close(known_a, differences(lambda A: barrier_newton(A, B0, at, t), scaled, 2e-3), 1e-7)
    assert close(known_b, differences(lambda b: barrier_newton(scaled, b, at, t), B0, 2e-3), 1e-7)
    # as printed the case i = j is (l_i - 1) e_k and 0, and eq. 80 has other signs
    assert np.abs(known_b[:, 1]).max() > 1e-6
    assert not close(inverse @ in_a[:, 1], inverse * (likelihood[1] - 1.0), 1e-6)


def barrier_newton(A: Array, b: Array, x: Array, t: float) -> Array:
    """argmax t log l_1(x) + log(1 - |x|^2) from x nearby, by damped Newton steps."""
    for _ in range(40):
        logits = A @ x + b
        likelihood = np.exp(logits - logits.max())
        likelihood /= likelihood.sum()
        mean, d = likelihood @ A, 1.0 - x @ x
        g = t * (A[1] - mean) - 2.0 * x / d
        H = (
            t * (np.outer(mean, mean) - (likelihood[:, None] * A).T @ A)
            - 4.0 * np.outer(x, x) / d**2
            - 2.0 * np.eye(N) / d
        )
        step = -np.linalg.solve(H, g)
        while (x + step) @ (x + step) >= 1.0:
            step = 0.5 * step
        x = x + step
    return x


# CVXPY says the same


def cvxpy_softmax(constraints: Callable[[cp.Variable], list[Any]]) -> tuple[Tensor, list[Tensor]]:
    x, A, b, a, c = cp.Variable(N), cp.Parameter((CLASSES, N)), cp.Parameter(CLASSES), cp.Parameter(N), cp.Parameter()
    problem = cp.Problem(cp.Maximize(a @ x + c - cp.log_sum_exp(A @ x + b)), constraints(x))
    layer = dcl.CvxpyLayer(problem, parameters=[A, b, a, c], variables=[x])
    values = [tensor(A0), tensor(B0)]
    (out,) = layer(*values, values[0][WHICH], values[1][WHICH])
    return out, values


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        (lambda x: [], {}),
        (lambda x: [cp.sum(x) == 1], {"equality": lambda x, A, b: x.sum() - 1.0}),
        (lambda x: [cp.norm(x - 1.0) <= 0.5], {"inequality": lambda x, A, b: (x - 1.0).square().sum() - 0.25}),
        (lambda x: [x[0] >= 0.75], {"inequality": lambda x, A, b: 0.75 - x[0]}),
    ],
    ids=["free", "plane", "ball", "bounds"],
)
def test_cvxpy_layer_and_argmin_layer_agree(written: Callable[..., Any], settings: dict[str, Any]) -> None:
    theirs, values = cvxpy_softmax(written)
    A, b = tensor(A0), tensor(B0)
    ours = dcl.argmin(log_likelihood, torch.full((N,), 0.5).double(), A, b, maximize=True, **settings)
    assert close(ours.detach(), theirs.detach())
    for mine, other in zip(jacobian(ours, A, b), jacobian(theirs, *values), strict=True):
        assert np.abs(mine).max() > 1e-3
        assert close(mine, other)


@pytest.mark.parametrize("mu", [0.0, 0.05])
def test_cvxpy_layer_and_argmin_layer_agree_on_the_mean(mu: float) -> None:
    y, h = cp.Variable(2), cp.Parameter((4, 2))
    problem = cp.Problem(cp.Minimize(sum(cp.sum_squares(h[i] - y) for i in range(4))), [y >= 0])
    data = RNG.normal(size=(4, 2)) + np.array([1.0, -1.0])
    theirs_in, ours_in = tensor(data), tensor(data)
    (theirs,) = dcl.CvxpyLayer(problem, parameters=[h], variables=[y], mu=mu)(theirs_in)
    ours = dcl.argmin(
        lambda y, h: (h - y).square().sum(), torch.ones(2).double(), ours_in, inequality=lambda y, h: -y, mu=mu
    )
    assert close(ours.detach(), theirs.detach())
    assert close(jacobian(ours, ours_in)[0], jacobian(theirs, theirs_in)[0])

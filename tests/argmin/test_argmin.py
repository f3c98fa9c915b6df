"""ArgminLayer: solutions, derivatives of every order and mode, batches, modules. Oracles: closed forms, differences."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import dcl

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def tensor(value: Any, requires_grad: bool = False) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=requires_grad)


def cubic(y: Tensor, a: Tensor) -> Tensor:
    """Minimized where y + 4 y^3 = a, entry by entry."""
    return (0.5 * y.square() + y.pow(4) - a * y).sum()


def root(a: np.ndarray) -> np.ndarray:
    """The real root of 4 y^3 + y = a, by Cardano."""
    p, q = 0.25, -np.asarray(a) / 4.0
    d = np.sqrt(q * q / 4.0 + p**3 / 27.0)
    return np.asarray(np.cbrt(-q / 2.0 + d) + np.cbrt(-q / 2.0 - d))


A0 = tensor([3.0, -0.4])
START = torch.zeros(2).double()


def solve(a: Tensor) -> Tensor:
    return dcl.argmin(cubic, START, a)


def slope(a: Tensor) -> np.ndarray:
    return np.diag(1.0 / (1.0 + 12.0 * root(a.numpy()) ** 2))


def bend(a: Tensor) -> np.ndarray:
    """d^2 y / da^2 = -24 y / (1 + 12 y^2)^3."""
    y = root(a.numpy())
    return -24.0 * y / (1.0 + 12.0 * y**2) ** 3


def test_solution_and_gradient() -> None:
    a = A0.clone().requires_grad_()
    y, solution = dcl.argmin(cubic, START, a, return_solution=True)
    np.testing.assert_allclose(y.detach(), root(A0.numpy()), atol=1e-13)
    np.testing.assert_allclose(
        torch.stack([torch.autograd.grad(t, a, retain_graph=True)[0] for t in y]), slope(A0), atol=1e-13
    )
    assert solution.ok.all()
    assert solution.gradient_kind == dcl.GradientKind.EXACT
    assert solution.solvers[solution.solver] == "newton"
    np.testing.assert_allclose(solution.value, cubic(y, a).item())
    np.testing.assert_allclose(solution.condition, (1 + 12 * y[0] ** 2).item() / (1 + 12 * y[1] ** 2).item(), rtol=0.5)


@pytest.mark.parametrize("mode", [jacrev, jacfwd])
def test_jacobians(mode: Any) -> None:
    np.testing.assert_allclose(mode(solve)(A0), slope(A0), atol=1e-12)


@pytest.mark.parametrize(
    "second", [hessian, lambda f: jacrev(jacrev(f)), lambda f: jacrev(grad(f)), lambda f: jacfwd(grad(f))]
)
def test_second_derivatives(second: Any) -> None:
    np.testing.assert_allclose(second(lambda a: solve(a).sum())(A0), np.diag(bend(A0)), atol=1e-11)


def test_third_derivative() -> None:
    y = root(A0.numpy())
    # d/da of the above: dy/da (-24 (1 + 12 y^2) + 1728 y^2) / (1 + 12 y^2)^4
    third = (-24.0 * (1.0 + 12.0 * y**2) + 1728.0 * y**2) / (1.0 + 12.0 * y**2) ** 5
    found = grad(lambda a: grad(lambda b: grad(lambda c: solve(c).sum())(b).sum())(a).sum())(A0)
    np.testing.assert_allclose(found, third, rtol=1e-9)


def test_vmap_is_a_loop() -> None:
    many = torch.stack([A0, 2.0 * A0, A0 - 5.0])
    np.testing.assert_allclose(vmap(solve)(many), root(many.numpy()), atol=1e-12)
    np.testing.assert_allclose(vmap(jacrev(solve))(many), np.stack([slope(a) for a in many]), atol=1e-12)
    np.testing.assert_allclose(vmap(jacfwd(solve))(many), np.stack([slope(a) for a in many]), atol=1e-12)
    nested = vmap(vmap(solve))(many.reshape(3, 1, 2))
    np.testing.assert_allclose(nested.reshape(3, 2), root(many.numpy()), atol=1e-12)
    starts = vmap(lambda y0: dcl.argmin(cubic, y0, A0))(many)
    np.testing.assert_allclose(starts, np.broadcast_to(root(A0.numpy()), (3, 2)), atol=1e-12)


def constrained(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (y - a).square().sum() + 0.1 * y[0] * y[1] * b + 0.05 * y.pow(4).sum()


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.05])
def test_gradcheck_with_constraints_that_move(mu: float) -> None:
    layer = dcl.ArgminLayer(
        constrained, equality=lambda y, a, b: y.sum() - torch.sin(b),
        inequality=lambda y, a, b: torch.stack([y.square().sum() - 3.0 * b, y[0] - a[2] - 9.0]), mu=mu,
    )  # fmt: skip
    inputs = (tensor([3.0, -1.0, 1.0], True), tensor(1.0, True))
    call = lambda a, b: layer(torch.zeros(3).double(), a, b)  # noqa: E731
    _, solution = layer(torch.zeros(3).double(), *inputs, return_solution=True)
    assert (solution.z[1] > 0.1) & (solution.s[1] <= mu / 0.1)  # the ball binds, the bound does not
    assert solution.z[2] <= mu
    assert gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.05])
def test_forward_over_reverse_with_constraints(mu: float) -> None:
    def y(a: Tensor) -> Tensor:
        return dcl.argmin(
            constrained,
            torch.zeros(3).double(),
            a,
            tensor(1.0),
            inequality=lambda y, a, b: y.square().sum() - 3.0,
            mu=mu,
        )

    a, e = tensor([3.0, -1.0, 1.0]), 1e-5
    jacobian = jacrev(y)(a)
    np.testing.assert_allclose(jacfwd(y)(a), jacobian, atol=1e-11)
    step = torch.eye(3).double() * e
    by_differences = torch.stack([(jacrev(y)(a + d) - jacrev(y)(a - d)) / (2.0 * e) for d in step], -1)
    for second in (jacfwd(jacrev(y))(a), jacrev(jacrev(y))(a)):
        np.testing.assert_allclose(second, by_differences, atol=1e-8)


def test_batch_is_a_loop_and_shared_parameters_sum() -> None:
    rng = torch.Generator().manual_seed(1)
    a = torch.randn(2, 3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    w = tensor(0.7, True)
    layer = dcl.ArgminLayer(
        lambda y, a, w: (y - a).square().sum() + w * y.pow(4).sum(),
        inequality=lambda y, a, w: -y,
        in_dims=(0, 0, None),
        batch_dims=2,
    )
    y, solution = layer(torch.ones(2, 3, 4).double(), a, w, return_solution=True)
    assert y.shape == (2, 3, 4)
    assert solution.status.shape == (2, 3)
    single = dcl.ArgminLayer(lambda y, a, w: (y - a).square().sum() + w * y.pow(4).sum(), inequality=lambda y, a, w: -y)
    loop = torch.stack([torch.stack([single(torch.ones(4).double(), one, w) for one in row]) for row in a])
    np.testing.assert_allclose(y.detach(), loop.detach(), atol=1e-12)
    weights = torch.randn(2, 3, 4, generator=rng, dtype=torch.float64)
    for mine, other in zip(
        torch.autograd.grad((y * weights).sum(), (a, w)),
        torch.autograd.grad((loop * weights).sum(), (a, w)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, other, atol=1e-12)


def test_mu_for_each_instance() -> None:
    mu, a = tensor([0.1, 1.0, 2.0]), tensor([-1.0, 0.5, 2.0], True)
    layer = dcl.ArgminLayer(lambda y, a: 0.5 * (y - a) ** 2, inequality=lambda y, a: -y, in_dims=(0, 0))
    y = layer(torch.ones(3).double(), a, mu=mu)
    b = a.detach()
    np.testing.assert_allclose(y.detach(), (b + (b * b + 4.0 * mu).sqrt()) / 2.0, atol=1e-12)
    (gradient,) = torch.autograd.grad(y.sum(), a)
    np.testing.assert_allclose(gradient, (1.0 + b / (b * b + 4.0 * mu).sqrt()) / 2.0, atol=1e-12)


def test_structures_in_y_and_parameters() -> None:
    def objective(y: dict[str, Any], params: dict[str, Any], scale: float) -> Tensor:
        first, (second, third) = y["u"], y["v"]
        return scale * (
            (first - params["a"]).square().sum()
            + (second - params["list"][0]).square().sum()
            + (third + first.sum()) ** 2
        )

    y0 = {"u": torch.zeros(2, 2).double(), "v": (torch.zeros(3).double(), torch.zeros(()).double())}
    params = {"a": torch.arange(4.0).double().reshape(2, 2).requires_grad_(), "list": [tensor([1.0, 2.0, 3.0], True)]}
    y, solution = dcl.argmin(objective, y0, params, 2.0, return_solution=True)
    np.testing.assert_allclose(y["u"].detach(), params["a"].detach(), atol=1e-12)
    np.testing.assert_allclose(y["v"][1].item(), -6.0)
    assert [t.shape for t in solution.outputs] == [(2, 2), (3,), ()]
    (gradient,) = torch.autograd.grad(y["v"][1], params["a"])
    np.testing.assert_allclose(gradient, -np.ones((2, 2)), atol=1e-12)
    assert type(dcl.argmin(lambda y: (y[0] - 1.0).square().sum() + y[1] ** 2, [torch.zeros(2), torch.ones(())])) is list


@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.float32), (torch.float32, torch.float64), (torch.bfloat16, torch.float32)]
)
def test_dtype_out_is_the_widest_in(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    a = A0.clone().to(dtypes[1]).requires_grad_()
    y = dcl.argmin(cubic, START.to(dtypes[0]), a)
    assert y.dtype == torch.promote_types(*dtypes)
    np.testing.assert_allclose(y.detach().double(), root(a.detach().double().numpy()), atol=1e-6)
    assert torch.autograd.grad(y.sum(), a)[0].dtype == dtypes[1]


def test_integers_and_flags_are_handed_through() -> None:
    index = torch.tensor([1, 0])
    y = dcl.argmin(lambda y, a, index, power: (y - a[index]).square().sum() * power, START, A0, index, 3)
    np.testing.assert_allclose(y, A0[index])


class Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
        self.register_buffer("shift", torch.tensor([1.0, -1.0]))

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return 0.5 * y @ self.weight @ y - (x + self.shift) @ y


def test_a_module_is_differentiated_in_its_parameters() -> None:
    module = Quadratic()
    layer = dcl.ArgminLayer(module)
    assert [name for name, _ in layer.named_parameters()] == ["objective.weight"]
    y = layer(START, A0)
    W, r = module.weight.detach().double().numpy(), A0.numpy() + np.array([1.0, -1.0])
    np.testing.assert_allclose(y.detach(), np.linalg.solve(W, r), atol=1e-12)
    y[0].backward()
    u = np.linalg.inv(W)[0]
    sym = -0.5 * (np.outer(u, y.detach()) + np.outer(y.detach(), u))  # 1/2 y'Wy sees the symmetric part of W only
    np.testing.assert_allclose(module.weight.grad, sym, rtol=1e-6)
    assert module.weight.dtype == torch.float32


def test_functional_call_reaches_the_parameters_of_the_module() -> None:
    layer = dcl.ArgminLayer(Quadratic().double())

    def of(weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"objective.weight": weight}, (START, A0))

    W, r = layer.objective.weight.detach(), A0 + tensor([1.0, -1.0])
    inverse = torch.linalg.inv(W)
    y = inverse @ r
    known = -0.5 * (torch.einsum("ij,k->ijk", inverse, y) + torch.einsum("ik,j->ijk", inverse, y))
    np.testing.assert_allclose(jacrev(of)(W), known, atol=1e-12)
    np.testing.assert_allclose(vmap(of)(torch.stack([W, 2.0 * W])), torch.stack([y, 0.5 * y]), atol=1e-12)


def test_copies_and_pickles() -> None:
    for layer in (
        copy.deepcopy(dcl.ArgminLayer(Quadratic())),
        pickle.loads(pickle.dumps(dcl.ArgminLayer(Quadratic()))),
    ):
        assert layer(START, A0).shape == (2,)


@pytest.mark.parametrize("solver", ["newton", "L-BFGS-B", "BFGS", "CG", "Newton-CG", "SLSQP", "trust-constr"])
def test_every_solver_ends_at_the_same_point(solver: str) -> None:
    a = A0.clone().requires_grad_()
    y, solution = dcl.argmin(cubic, START, a, solver=solver, return_solution=True)
    np.testing.assert_allclose(y.detach(), root(A0.numpy()), atol=1e-13)
    assert solution.solvers[solution.solver] == solver.lower()
    np.testing.assert_allclose(torch.autograd.grad(y[0], a)[0], slope(A0)[0], atol=1e-12)


def test_a_users_own_solver_is_refined_and_checked() -> None:
    def adam(y0: Tensor, a: Tensor) -> Tensor:
        y = y0.clone().requires_grad_()
        optimizer = torch.optim.Adam([y], lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            cubic(y, a.detach()).backward()
            optimizer.step()
        assert (y.detach() - torch.from_numpy(root(a.detach().numpy()))).abs().max() > 1e-9
        return y.detach()

    a = torch.stack([A0, A0 + 1.0]).requires_grad_()
    layer = dcl.ArgminLayer(cubic, solver=adam, in_dims=(0, 0))
    y = layer(torch.zeros(2, 2).double(), a)
    np.testing.assert_allclose(y.detach(), root(a.detach().numpy()), atol=1e-13)
    with pytest.raises(dcl.NotStationaryError):
        dcl.argmin(lambda y: y.square().sum(), START + 1.0, solver=lambda y0: y0 + 4.0)


def test_maximize() -> None:
    a = A0.clone().requires_grad_()
    y, solution = dcl.argmin(lambda y, a: -cubic(y, a), START, a, maximize=True, return_solution=True)
    np.testing.assert_allclose(y.detach(), root(A0.numpy()), atol=1e-13)
    np.testing.assert_allclose(solution.value, -cubic(y, a).item())
    np.testing.assert_allclose(torch.autograd.grad(y[1], a)[0], slope(A0)[1], atol=1e-12)


def test_diagonal_hessian_is_the_documented_approximation() -> None:
    """-diag(H)^-1 in place of -H^-1: not the derivative, but a descent direction here (section 6 of the report)."""
    M = tensor([[3.0, 1.0, 0.5], [1.0, 2.0, -0.3], [0.5, -0.3, 1.5]])
    a = tensor([1.0, -2.0, 0.5], True)
    f = lambda y, a: 0.5 * y @ M @ y - a @ y  # noqa: E731
    exact, rough = (dcl.argmin(f, torch.zeros(3).double(), a, hessian=h) for h in ("exact", "diagonal"))
    np.testing.assert_allclose(rough.detach(), exact.detach(), atol=1e-13)
    by, weights = torch.tensor([1.0, 2.0, -1.0]).double(), torch.diag(1.0 / M.diagonal())
    (gradient,) = torch.autograd.grad(rough @ by, a)
    np.testing.assert_allclose(gradient, weights @ by, atol=1e-13)
    assert gradient @ torch.autograd.grad(exact @ by, a)[0] > 0.0


def test_no_grad_and_solve() -> None:
    layer = dcl.ArgminLayer(cubic)
    with torch.no_grad():
        assert not layer(START, A0.clone().requires_grad_()).requires_grad
    with torch.inference_mode():
        np.testing.assert_allclose(layer(START + 0.0, 1.0 * A0), root(A0.numpy()), atol=1e-13)
    solution = layer.solve(START, A0)
    np.testing.assert_allclose(solution.x, root(A0.numpy()), atol=1e-13)
    assert solution.gradient_kind == dcl.GradientKind.EXACT


def test_forward_over_forward_is_refused() -> None:
    with pytest.raises(dcl.UnsupportedError, match="jacfwd"):
        jacfwd(jacfwd(lambda a: solve(a).sum()))(A0)


@pytest.mark.slow
def test_solutions_under_vmap_and_compile() -> None:
    many = torch.stack([A0, 2.0 * A0, A0 - 5.0])
    layer = dcl.ArgminLayer(cubic, inequality=lambda y, a: y - 0.6)
    y, solution = vmap(lambda a: layer(START, a, return_solution=True))(many)
    assert solution.ok.shape == (3,)
    np.testing.assert_allclose(y, np.minimum(root(many.numpy()), 0.6), atol=1e-12)
    loop = [layer(START, a, return_solution=True)[1] for a in many]
    np.testing.assert_allclose(solution.z, torch.stack([one.z for one in loop]), atol=1e-10)
    assert solution.gradient_kind.tolist() == [0, 0, 0]
    compiled = torch.compile(lambda a: 2.0 * layer(START, a), backend="eager")
    np.testing.assert_allclose(compiled(A0), 2.0 * y[0], atol=1e-12)


@pytest.mark.slow
def test_an_argmin_inside_of_an_argmin() -> None:
    """Third derivatives of the inner function, since the outer Newton method needs the Hessian of the inner solution."""

    def outer(y: Tensor, a: Tensor) -> Tensor:
        return (dcl.argmin(cubic, START, y) - a).square().sum() + 0.1 * y.square().sum()

    a = tensor([0.3, -0.2], True)
    y = dcl.argmin(outer, START, a)
    # with z the inner solution, y = z + 4 z^3 and 2 (z - a) / (1 + 12 z^2) + 0.2 y = 0
    z = root(y.detach().numpy())
    np.testing.assert_allclose(
        2.0 * (z - a.detach().numpy()) / (1.0 + 12.0 * z**2) + 0.2 * (z + 4.0 * z**3), 0.0, atol=1e-12
    )
    # a(z) = z + 0.1 (1 + 12 z^2) (z + 4 z^3): dy/da = y'(z) / a'(z)
    slope = 1.0 + 12.0 * z**2
    in_a = slope / (1.0 + 0.1 * (24.0 * z * (z + 4.0 * z**3) + slope**2))
    np.testing.assert_allclose(torch.autograd.grad(y[0], a, retain_graph=True)[0], [in_a[0], 0.0], atol=1e-11)
    np.testing.assert_allclose(torch.autograd.grad(y[1], a)[0], [0.0, in_a[1]], atol=1e-11)

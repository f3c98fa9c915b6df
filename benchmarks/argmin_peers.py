"""The ways to differentiate an argmin that are timed: each returns y and the gradient of w'y in all of theta, flat.

The inner solver of a way that has none of its own is stated in its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from argmin_problems import Array, Problem
from machine import version
from scipy.optimize import minimize
from torch import Tensor

Way = Callable[[Problem], tuple[Array, Array]]


@dataclass(frozen=True)
class Peer:
    """A way, its name in the table and the distribution it needs."""

    name: str
    way: Way
    needs: str = "torch"

    def is_missing(self) -> bool:
        """Whether its distribution is not installed."""
        return version(self.needs) is None


def gradient(y: Tensor, problem: Problem, theta: tuple[Tensor, ...]) -> tuple[Array, Array]:
    """y, and the gradient of w'y by autograd."""
    parts = torch.autograd.grad(problem.w @ y, theta)
    return y.detach().numpy(), torch.cat([part.flatten() for part in parts]).numpy()


def recorded(problem: Problem) -> tuple[Tensor, ...]:
    """Copies of theta that require gradients."""
    return tuple(t.clone().requires_grad_() for t in problem.theta)


def dcl_layer(problem: Problem, **settings: str) -> tuple[Array, Array]:
    """As a user writes it: all checks on."""
    import dcl

    theta = recorded(problem)
    return gradient(dcl.argmin(problem.objective, problem.start, *theta, **settings), problem, theta)


def by_hand(problem: Problem) -> tuple[Array, Array]:
    """SciPy's BFGS with NumPy's gradient, then -M'H^-1 w with derivatives written by hand."""
    y = minimize(
        problem.value, problem.start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000}
    ).x
    return y, problem.by_hand(y)


def lbfgs(objective: Callable[..., Tensor], start: Tensor, *theta: Tensor) -> Tensor:
    """The minimizer by torch's L-BFGS with its Wolfe line search."""
    fixed = [t.detach() for t in theta]
    with torch.enable_grad():
        y = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [y], max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-16, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            loss = objective(y, *fixed)
            (y.grad,) = torch.autograd.grad(loss, y)
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return y.detach()


def adam(objective: Callable[..., Tensor], start: Tensor, *theta: Tensor, steps: int) -> Tensor:
    """The minimizer by Adam at the thread's rate, 0.5."""
    fixed = [t.detach() for t in theta]
    with torch.enable_grad():
        y = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([y], lr=0.5)
        for _ in range(steps):
            (y.grad,) = torch.autograd.grad(objective(y, *fixed), y)
            optimizer.step()
    return y.detach()


def torchopt_implicit(problem: Problem, solver: Callable[..., Tensor]) -> tuple[Array, Array]:
    """torchopt's implicit differentiation with its default linear solver, conjugate gradients on the normal equations."""
    from torchopt.diff.implicit import custom_root

    theta = recorded(problem)
    optimality = torch.func.grad(problem.objective)
    argnums = tuple(range(1, len(theta) + 1))
    solved = custom_root(optimality, argnums=argnums)(lambda y, *theta: solver(problem.objective, y, *theta))
    return gradient(solved(problem.start.clone(), *theta), problem, theta)


def unrolled_adam(problem: Problem, steps: int, rate: float = 0.5) -> tuple[Array, Array]:
    """Adam with its steps recorded, and autograd through all of them."""
    theta = recorded(problem)
    y = problem.start.clone().requires_grad_()
    m, v = torch.zeros_like(y), torch.zeros_like(y)
    for k in range(1, steps + 1):
        (g,) = torch.autograd.grad(problem.objective(y, *theta), y, create_graph=True)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        # sqrt at zero has no derivative: the floor is below what Adam's own 1e-8 lets through
        y = y - rate * (m / (1.0 - 0.9**k)) / (torch.sqrt(v / (1.0 - 0.999**k) + 1e-30) + 1e-8)
    return gradient(y, problem, theta)


DCL = "dcl.argmin"
PEERS = (
    Peer(DCL, dcl_layer, "dcl"),
    Peer('dcl.argmin, linear_solve="cg"', partial(dcl_layer, linear_solve="cg"), "dcl"),
    Peer("torchopt, torch's L-BFGS", partial(torchopt_implicit, solver=lbfgs), "torchopt"),
    Peer("torchopt, 1000 steps of Adam", partial(torchopt_implicit, solver=partial(adam, steps=1000)), "torchopt"),
    Peer("SciPy + gradient by hand", by_hand, "scipy"),
    Peer("unrolled Adam, 350 steps", partial(unrolled_adam, steps=350)),
    Peer("unrolled Adam, 2000 steps", partial(unrolled_adam, steps=2000)),
)


def error(found: Array, known: Array) -> float:
    """Relative, in the 2-norm."""
    return float(np.linalg.norm(found - known) / np.linalg.norm(known))

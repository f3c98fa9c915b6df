"""One layer of each kind with its solution in closed form, and a model that trains through it.

**A new front end is one more entry of KNOWN**: how to make a layer, how to draw its arguments, and x in closed form.
test_front_end_laws.py, test_transforms.py, test_module_life.py, test_parallel.py and test_compile.py do the rest.

    quadratic  minimize 1/2 x'Px + q'x  subject to  Ax = b, Gx <= h  with the first row of G active, the others not:
               [[P, M'], [M, 0]] (x, y) = (-q, r),   M = [A; G_1],  r = [b; h_1]
    ball       minimize 1/2 |x - p|^2  subject to  |x + c| <= r < |p + c|:      x = r (p + c) / |p + c| - c

Torch differentiates the closed forms in every mode; dcl has no part in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import torch
from torch import Tensor, nn

import dcl

N = 3
F64 = {"dtype": torch.float64}


@dataclass(frozen=True)
class Known:
    """make: a new layer, whose first output is x.  draw: its arguments for a seed.  exact: x in closed form.

    varies: the arguments in which `exact` is the solution; point: the one that a model predicts.
    """

    make: Callable[..., nn.Module]
    draw: Callable[..., tuple[Tensor, ...]]
    exact: Callable[..., Tensor]
    varies: tuple[int, ...]
    point: int

    def leaves(self, seed: int = 0, *batch: int) -> tuple[Tensor, ...]:
        """The arguments; those that vary require gradients."""
        data = self.draw(seed, *batch)
        return tuple(t.requires_grad_(i in self.varies) for i, t in enumerate(data))


def _quadratic(seed: int, *batch: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, **F64)

    L, A, G, x = normal(N, N), normal(1, N), normal(3, N), normal(*batch, N)
    y, z = normal(*batch, 1), 0.5 + torch.rand((*batch, 1), generator=g, **F64)
    slack = torch.cat([torch.zeros((*batch, 1), **F64), 0.5 + torch.rand((*batch, 2), generator=g, **F64)], -1)
    P = L @ L.mT + torch.eye(N, **F64)
    return P, -(x @ P + y @ A + z @ G[:1]), A, x @ A.mT, G, x @ G.mT + slack


def exact_qp(P: Tensor, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
    """x (*batch, n) for matrices without, vectors with batch dimensions."""
    M, r = torch.cat([A, G[:1]]), torch.cat([b, h[..., :1]], -1)
    P = 0.5 * (P + P.mT)
    K = torch.cat([torch.cat([P, M.mT], 1), torch.cat([M, M.new_zeros(len(M), len(M))], 1)])
    lead = torch.broadcast_shapes(q.shape[:-1], r.shape[:-1])
    right = torch.cat([-q.expand(*lead, -1), r.expand(*lead, -1)], -1)
    return (right @ torch.linalg.inv(K))[..., : q.shape[-1]]


def _qp_as_cvxpy(seed: int, *batch: int) -> tuple[Tensor, ...]:
    P, q, *rest = _quadratic(seed, *batch)
    # with P = I as the problem has it: q moves by (P - I) x so that x stays the solution
    x = exact_qp(P, q, *rest)
    return (q + x @ P - x, *rest)


def _exact_cvxpy(q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
    return exact_qp(torch.eye(N, **F64).to(q), q, A, b, G, h)


def make_cvxpy(**settings: object) -> dcl.CvxpyLayer:
    """minimize 1/2 |x|^2 + q'x  subject to  Ax = b, Gx <= h; x, the multipliers and the value."""
    x, q, A, b = cp.Variable(N, name="x"), cp.Parameter(N), cp.Parameter((1, N)), cp.Parameter(1)
    G, h = cp.Parameter((3, N)), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + q @ x), [A @ x == b, G @ x <= h])
    outputs = [x, *(c.dual_variables[0] for c in problem.constraints), problem.objective]
    return dcl.CvxpyLayer(problem, [q, A, b, G, h], outputs, **settings)


def make_cone(**settings: object) -> dcl.ConeLayer:
    """The second-order cone of the ball."""
    return dcl.ConeLayer({"q": [N + 1]}, **settings)


def _ball(seed: int, *batch: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    p, c = (torch.randn((*batch, N), generator=g, **F64) for _ in range(2))
    p = p + 2.0 * (p + c) / torch.linalg.vector_norm(p + c, dim=-1, keepdim=True)  # well outside
    radius = 0.5 + torch.rand((*batch, 1), generator=g, **F64)
    A = torch.cat([torch.zeros(1, N, **F64), -torch.eye(N, **F64)])
    return torch.eye(N, **F64), -p, A, torch.cat([radius, c], -1)


def _exact_ball(P: Tensor, q: Tensor, A: Tensor, b: Tensor) -> Tensor:
    r, c = b[..., :1], b[..., 1:]
    return r * (c - q) / torch.linalg.vector_norm(c - q, dim=-1, keepdim=True) - c


class QPByPosition(dcl.QPLayer):
    """A QPLayer that takes its tensors in the order of `exact_qp`, as the other layers and transforms of torch do."""

    def forward(self, P, q, A=None, b=None, G=None, h=None, **options):
        return super().forward(P, q, A=A, b=b, G=G, h=h, **options)

    def solve(self, P, q, A=None, b=None, G=None, h=None, **options):
        """As `forward`, without gradients."""
        return super().solve(P, q, A=A, b=b, G=G, h=h, **options)


KNOWN = {
    "CvxpyLayer": Known(make_cvxpy, _qp_as_cvxpy, _exact_cvxpy, (0, 1, 2, 3, 4), 0),
    "QPLayer": Known(QPByPosition, _quadratic, exact_qp, (0, 1, 2, 3, 4, 5), 1),
    "ConeLayer": Known(make_cone, _ball, _exact_ball, (1, 3), 1),
}


class Model(nn.Module):
    """Features (*batch, 2) -> x (*batch, n): a linear layer predicts a part of the data of a known program."""

    def __init__(self, name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.name = name
        self.linear, self.layer = nn.Linear(2, N, dtype=dtype), KNOWN[name].make()
        with torch.no_grad():
            self.linear.weight.copy_(0.1 * torch.randn((N, 2), generator=torch.Generator().manual_seed(seed), **F64))
            self.linear.bias.fill_(0.01)
        data = KNOWN[name].draw(seed)
        self.count = len(data)
        for i, t in enumerate(data):
            self.register_buffer(f"data_{i}", t.to(dtype))

    def data(self, features: Tensor) -> list[Tensor]:
        """The arguments of the layer."""
        point = KNOWN[self.name].point
        fixed = [self.get_buffer(f"data_{i}") for i in range(self.count)]
        return [t + self.linear(features) if i == point else t for i, t in enumerate(fixed)]

    def forward(self, features: Tensor) -> Tensor:
        """The layer's answer."""
        x: Tensor = self.layer(*self.data(features))[0]
        return x

    def exact(self, features: Tensor) -> Tensor:
        """The same in closed form."""
        return KNOWN[self.name].exact(*self.data(features))


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of the loss, for the parameters of the model."""
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))

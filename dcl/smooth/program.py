"""The canonical form for torch functions: a SmoothProgram has the KKT matrix of the ConeProgram with P = H and A = J.

    minimize f(x, theta)   subject to   c(x, theta) + s = 0,   s in K = zero x nonnegative       (c = (h, g): h = 0, g <= 0)
    L(x, z) = f + z'c        F(x, v; theta) = (grad_x L(x, z),  c + z - v),    z = Pi_mu*(v),  s = z - v
    dF/d(x, v) = [[H, J'D], [J, D - I]],     H = Hessian of L in x,   J = dc/dx

mu > 0 is the point of the log-barrier (Gould et al. 2016, eq. 61 with t = 1/mu).  The quadratic program that agrees with f and
c up to second order at a point, P = H, q = grad f - H x, A = J, b = J x - c, has the same F there and the same K: ties,
factors and degeneracy are decided on it (`local`).

f and c are functions of ONE instance, batched by torch.func.vmap.  theta: tensors with B or 1 in front (1: shared).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jacrev, vjp, vmap
from torch.utils._pytree import tree_map

from dcl.cones.base import Barrier
from dcl.program import ConeProgram, Structure, symmetric
from dcl.smooth.evaluation import jacobian, pulled
from dcl.torch_modes import has_saved_tensor_hooks, is_ordinary, is_plain, is_recorded

Theta = Sequence[Tensor]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class SmoothProgram:
    """f (x (n,), *theta) -> (), c (x (n,), *theta) -> (m,), of one instance; structure: dense, with the cone of c."""

    structure: Structure
    f: Callable[..., Tensor]
    c: Callable[..., Tensor]

    def _lagrangian(self, x: Tensor, z: Tensor, *theta: Tensor) -> Tensor:
        f = self.f(x, *theta)
        return f + (z * self.c(x, *theta)).sum() if self.structure.m else f

    def f_and_c(self, x: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """f (B,) and c (B, m)."""
        return _each(lambda x, *theta: (self.f(x, *theta), self.c(x, *theta)), (x,), theta)

    def first(self, x: Tensor, theta: Theta, *, transformed: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """f (B,), its gradient (B, n), c (B, m) and J (B, m, n); transformed: by torch.func for one instance too."""
        if not transformed and _is_direct((x, *theta)):
            f, g, c, J, _ = self._directly(x, None, theta)
            return f, g, c, J

        def one(x: Tensor, *theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            g, f = grad_and_value(self.f)(x, *theta)
            if not self.structure.m:
                return f, g, x.new_zeros(0), x.new_zeros(0, x.shape[0])
            J, c = jacrev(lambda x: (self.c(x, *theta),) * 2, has_aux=True)(x)
            return f, g, c, J

        return _each(one, (x,), theta)

    def second(self, x: Tensor, z: Tensor, theta: Theta) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `first` gives, and H (B, n, n), symmetric: f and c are evaluated once."""

        def one(x: Tensor, z: Tensor, *theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
            def slope(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
                g, f = grad_and_value(self.f)(x, *theta)
                if not self.structure.m:
                    return g, (f, g, x.new_zeros(0), x.new_zeros(0, x.shape[0]))
                found = vjp(lambda x: self.c(x, *theta), x)
                c, pull = found[0], found[1]
                J = vmap(lambda e: pull(e)[0])(torch.eye(self.structure.m, dtype=x.dtype, device=x.device))
                return g + pull(z)[0], (f, g, c, J)

            H, rest = jacrev(slope, has_aux=True)(x)
            return H, rest

        if _is_direct((x, z, *theta)):
            return self._directly(x, z, theta)
        H, (f, g, c, J) = _each(one, (x, z), theta)
        return f, g, c, J, symmetric(H)

    def _directly(self, x: Tensor, z: Tensor | None, theta: Theta) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`second` of one instance by `dcl.smooth.evaluation`; without z the Hessian is left out, (1, 0, 0)."""
        with torch.enable_grad():
            leaf, single = x.detach()[0].clone().requires_grad_(), [t.detach()[0] for t in theta]
            f, c = self.f(leaf, *single), self.c(leaf, *single)
            slope, J = pulled(f, leaf, again=z is not None), jacobian(c, leaf)
            g, H = slope.detach(), x.new_zeros(0, 0)
            if z is not None:
                slope = slope + pulled(c, leaf, z.detach()[0], again=True) if self.structure.m else slope
                H = symmetric(jacobian(slope, leaf))
        f, c = f.detach(), c.detach()
        return f.unsqueeze(0), g.unsqueeze(0), c.unsqueeze(0), J.unsqueeze(0), H.unsqueeze(0)

    def hessian(self, x: Tensor, z: Tensor, theta: Theta) -> Tensor:
        """H (B, n, n), symmetric."""
        H: Tensor = _each(jacrev(grad(self._lagrangian)), (x, z), theta)
        return symmetric(H)

    def hessian_product(self, x: Tensor, z: Tensor, w: Tensor, theta: Theta) -> Tensor:
        """H w (B, n) for w (B, n), without H."""

        def one(x: Tensor, z: Tensor, w: Tensor, *theta: Tensor) -> Tensor:
            out: Tensor = vjp(lambda x: grad(self._lagrangian)(x, z, *theta), x)[1](w)[0]
            return out

        return _each(one, (x, z, w), theta)

    def hessian_diagonal(self, x: Tensor, z: Tensor, theta: Theta, chunk: int = 64) -> Tensor:
        """The diagonal of H (B, n): n products with H, `chunk` at a time."""
        n = x.shape[-1]
        parts = []
        for start in range(0, n, chunk):
            rows = torch.arange(start, min(start + chunk, n), device=x.device)
            units = torch.nn.functional.one_hot(rows, n).to(x.dtype)
            H = vmap(lambda e: self.hessian_product(x, z, e.expand_as(x), theta))(units)
            parts.append(H.gather(-1, rows.view(-1, 1, 1).expand(-1, x.shape[0], 1)).squeeze(-1))
        return torch.cat(parts).mT

    def jacobian(self, x: Tensor, theta: Theta) -> Tensor:
        """J (B, m, n)."""
        if not self.structure.m:
            return x.new_zeros(x.shape[0], 0, x.shape[1])
        J: Tensor = _each(jacrev(self.c), (x,), theta)
        return J

    def residual(self, x: Tensor, z: Tensor, v: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """F: (B, n) and (B, m)."""
        if _is_direct((x, z, v, *theta)):
            with torch.enable_grad():
                leaf, single = x.detach()[0].clone().requires_grad_(), [t.detach()[0] for t in theta]
                f, c = self.f(leaf, *single), self.c(leaf, *single)
                slope = pulled(f, leaf) + (pulled(c, leaf, z.detach()[0]) if self.structure.m else 0.0)
            return slope.unsqueeze(0), c.detach().unsqueeze(0) + (z - v)

        def one(x: Tensor, z: Tensor, v: Tensor, *theta: Tensor) -> tuple[Tensor, Tensor]:
            return grad(self._lagrangian)(x, z, *theta), self.c(x, *theta) + (z - v)

        return _each(one, (x, z, v), theta)

    def local(self, x: Tensor, v: Tensor, mu: Barrier, theta: Theta) -> ConeProgram:
        """The quadratic program of the header at (x, v)."""
        z = self.structure.cone.project(v, mu)
        _, g, c, J, H = self.second(x, z, theta)
        # q carries the gradient of f alone: A'z is added by the program itself
        q = g - (H @ x.unsqueeze(-1)).squeeze(-1)
        return ConeProgram(self.structure, H, q, J, (J @ x.unsqueeze(-1)).squeeze(-1) - c)

    def in_units(self, theta: Theta, c: Tensor, E: Tensor) -> tuple[SmoothProgram, tuple[Tensor, ...]]:
        """c f subject to E c(x), in the units of `dcl.program.scaling`: a program with c (B or 1, 1), E (B or 1, m) in theta."""
        program = SmoothProgram(
            self.structure,
            lambda x, c, E, *theta: c.squeeze(-1) * self.f(x, *theta),
            lambda x, c, E, *theta: E * self.c(x, *theta),
        )
        return program, (c, E, *theta)


def _is_direct(tensors: Sequence[Tensor]) -> bool:
    """Is there one instance, of which no derivative is recorded, and no transform? Then torch.func only costs time."""
    return (
        tensors[0].shape[0] == 1
        and is_plain()
        and not has_saved_tensor_hooks()
        and not is_recorded(tensors)
        and all(map(is_ordinary, tensors))
    )


def rows(theta: Theta, index: Tensor) -> tuple[Tensor, ...]:
    """The instances `index` of theta."""
    return tuple(t if t.shape[0] == 1 else t.index_select(0, index) for t in theta)


def _each(function: Callable[..., T], points: tuple[Tensor, ...], theta: Theta) -> T:
    """function(*points, *theta) of every instance; a single one is not mapped, which is quicker."""
    if points[0].shape[0] == 1:
        out = function(*(t.squeeze(0) for t in (*points, *theta)))
        single: T = tree_map(lambda t: t.unsqueeze(0), out)
        return single
    shared = [t.shape[0] == 1 for t in theta]
    arguments = [t.squeeze(0) if s else t for t, s in zip(theta, shared, strict=True)]
    dims = (*[0] * len(points), *[None if s else 0 for s in shared])
    mapped: T = vmap(function, in_dims=dims)(*points, *arguments)
    return mapped

"""f of one instance at one point, as NumPy's arrays: value, gradient and Hessian from one graph, each when first asked for.

    f = f(x, *theta)          g = df/dx          H = dg/dx, row by row, or H u for one u          <u, g> in theta

`torch.autograd` without torch.func: a transform costs more than a small function and its derivatives (docs/argmin.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

# Up to this many variables the rows of H come one by one: mapping a backward pass costs as much as some of them.
_ROW_BY_ROW = 3


class Evaluation:
    """f (x (n,), *theta) -> () at x; theta: of one instance. To be used while gradients are recorded."""

    def __init__(self, f: Callable[..., Tensor], x: Array, theta: Sequence[Tensor]) -> None:
        self.x = x
        # a copy: what the function keeps of its argument does not change with x
        self._x = torch.from_numpy(x.copy()).requires_grad_()
        self._value = f(self._x, *theta)

    @cached_property
    def f(self) -> float:
        """The value."""
        return float(self._value.detach())

    @cached_property
    def _slope(self) -> Tensor:
        if not self._value.requires_grad:
            return torch.zeros_like(self._x)
        (g,) = torch.autograd.grad(self._value, self._x, create_graph=True, allow_unused=True)
        return torch.zeros_like(self._x) if g is None else g

    @cached_property
    def g(self) -> Array:
        """The gradient, (n,)."""
        return np.asarray(self._slope.detach().numpy(), dtype=np.float64)

    def product(self, u: Array) -> Array:
        """H u for u (n,), without H."""
        return np.asarray(self._pulled(torch.from_numpy(u)).numpy(), dtype=np.float64)

    @cached_property
    def H(self) -> Array:
        """The Hessian (n, n), symmetric."""
        n = len(self.x)
        eye = torch.eye(n, dtype=self._x.dtype)
        rows = torch.stack([self._pulled(e) for e in eye]) if n <= _ROW_BY_ROW else torch.func.vmap(self._pulled)(eye)
        H: Array = np.asarray(rows.numpy(), dtype=np.float64)
        return 0.5 * H + 0.5 * H.T

    def _pulled(self, u: Tensor) -> Tensor:
        if not self._slope.requires_grad:
            return torch.zeros_like(u)
        (out,) = torch.autograd.grad(self._slope, self._x, u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if out is None else out

    def pulled_back(self, u: Tensor, theta: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of <u, g> in those tensors `theta` of the function that require one, for u (n,)."""
        found = (
            torch.autograd.grad(self._slope, theta, u, allow_unused=True)
            if theta and self._slope.requires_grad
            else [None] * len(theta)
        )
        return [torch.zeros_like(t) if g is None else g for t, g in zip(theta, found, strict=True)]

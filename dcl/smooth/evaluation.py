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
from torch.autograd.function import BackwardCFunction

Array = NDArray[np.float64]

# Up to this many rows of a Jacobian come one by one: mapping a backward pass costs as much as some of them.
_ROW_BY_ROW = 3


def pulled(out: Tensor, x: Tensor, u: Tensor | None = None, *, again: bool = False) -> Tensor:
    """The gradient of <u, out> in x, zero where there is no graph between them; again: it is to be differentiated itself."""
    if not out.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(out, x, u, create_graph=again, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def jacobian(out: Tensor, x: Tensor) -> Tensor:
    """d out / dx, (m, n), for out (m,), x (n,)."""
    m = out.shape[0]
    if not m:
        return x.new_zeros(0, x.shape[0])
    eye = torch.eye(m, dtype=out.dtype, device=out.device)
    if m <= _ROW_BY_ROW:
        return torch.stack([pulled(out, x, e) for e in eye])
    rows: Tensor = torch.func.vmap(lambda e: pulled(out, x, e))(eye)
    return rows


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

    @property
    def is_of_operations(self) -> bool:
        """Is the graph one of torch's own operations, which know all of their derivatives?

        The backward pass of a custom Function may be no function of its input in the graph (NumPy, detach): H would be wrong.
        torch.func refuses most of these.
        """
        todo, seen = [self._value.grad_fn], set()
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            if isinstance(node, BackwardCFunction):
                return False
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
        return True

    @cached_property
    def _slope(self) -> Tensor:
        return pulled(self._value, self._x, again=True)

    @cached_property
    def g(self) -> Array:
        """The gradient, (n,)."""
        return np.asarray(self._slope.detach().numpy(), dtype=np.float64)

    def product(self, u: Array) -> Array:
        """H u for u (n,), without H."""
        return np.asarray(pulled(self._slope, self._x, torch.from_numpy(u)).numpy(), dtype=np.float64)

    @cached_property
    def H(self) -> Array:
        """The Hessian (n, n), symmetric."""
        H: Array = np.asarray(jacobian(self._slope, self._x).numpy(), dtype=np.float64)
        return 0.5 * H + 0.5 * H.T

    def pulled_back(self, u: Tensor, theta: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of <u, g> in those tensors `theta` of the function that require one, for u (n,)."""
        if not theta or not self._slope.requires_grad:
            return [torch.zeros_like(t) for t in theta]
        found = torch.autograd.grad(self._slope, theta, u, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for t, g in zip(theta, found, strict=True)]

"""Two measurements at a point: in which arguments its derivative is zero, and which mu keeps x(mu) near x.

zero_in     the derivative of w'x, w random, in each argument: a derivative that is not zero has w'dx = 0 with probability zero
nearby_mu   the largest mu of MUS with |x(mu) - x| <= NEAR |x|, the mu that `compare_gradients` recommends at a kink
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from dcl.compare.subject import Layer, called, core_dimensions, names, primal
from dcl.compare.verdict import NEAR
from dcl.errors import DegenerateWarning, SolveError
from dcl.layers.argmin import ArgminLayer
from dcl.layers.cone import ConeResult
from dcl.layers.qp import QPResult
from dcl.status import Status

MUS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
# An x of this length is zero: its gaps are absolute.
NOTHING = 1e-9
# What rounding leaves of a derivative that is zero, times |argument| and relative to |x|, both one at least.
_ROUNDING = 1e-11


def zero_in(layer: Layer, tensors: Sequence[Tensor | None], batch_shape: tuple[int, ...]) -> list[tuple[str, ...]]:
    """For each instance the arguments in which the derivative of x is zero; at a vertex, where rounding is far from it.

    layer: with settings under which nothing is raised.  Of a layer that is not known to broadcast, over all instances.
    """
    cores, count = core_dimensions(layer, tensors), math.prod(batch_shape)
    start = int(isinstance(layer, ArgminLayer))  # its y0 is where the search starts
    leaves: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        for i, t in enumerate(tensors):
            if i >= start and isinstance(t, Tensor) and t.dtype.is_floating_point:
                # shared data have one derivative for each instance
                shape = t.shape if cores is None else (*batch_shape, *t.shape[t.ndim - cores[i] :])
                leaves[i] = t.detach().expand(shape).clone().requires_grad_()
        x = primal(called(layer, [leaves.get(i, t) for i, t in enumerate(tensors)], mu=0.0))
        w = torch.randn(x.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(
            x.device, x.dtype
        )
        slopes = torch.autograd.grad(w @ x, list(leaves.values()), allow_unused=True, materialize_grads=True)
    size = max(1.0, float(x.detach().nan_to_num().abs().max())) if x.numel() else 1.0
    labels = names(layer, len(tensors))
    found: list[list[str]] = [[] for _ in range(count)]
    for (i, leaf), slope in zip(leaves.items(), slopes, strict=True):
        by_instance = slope.reshape(1, -1).expand(count, -1) if cores is None else slope.reshape(count, -1)
        if not by_instance.shape[1]:
            continue
        terms = leaf.detach().nan_to_num(posinf=0.0, neginf=0.0).abs().max().clamp(min=1.0)
        rounding = _ROUNDING * size
        for k in torch.nonzero(by_instance.abs().amax(-1) * terms <= rounding).flatten().tolist():
            found[k].append(labels[i])
    return [tuple(of_one) for of_one in found]


def nearby_mu(layer: Layer, tensors: Sequence[Tensor | None], needed: Sequence[int], count: int) -> list[float | None]:
    """For each of `count` instances, the largest mu with x(mu) within NEAR of x; None where there is none, or not `needed`.

    layer: with settings under which nothing is raised.
    """
    chosen: list[float | None] = [None] * count
    open_ = set(needed)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        exact = _x(layer, tensors, 0.0, count)
        for mu in MUS:
            if not open_:
                break
            moved = _x(layer, tensors, mu, count)
            if exact is None or moved is None:
                continue
            length = exact[0].norm(dim=-1)
            gap = (moved[0] - exact[0]).norm(dim=-1) / torch.where(length > NOTHING, length, 1.0)
            for i in [i for i in sorted(open_) if bool(moved[1][i]) and float(gap[i]) <= NEAR]:
                chosen[i] = mu
                open_.remove(i)
    return chosen


def _x(layer: Layer, tensors: Sequence[Tensor | None], mu: float, count: int) -> tuple[Tensor, Tensor] | None:
    """What the layer returns at mu, one row an instance, and which of them are solved; None where the call fails."""
    try:
        result, solution = called(layer, tensors, mu=mu, return_solution=True)
    except SolveError:
        return None
    if isinstance(result, QPResult | ConeResult):
        result = result.x
    parts = [result] if isinstance(result, Tensor) else list(result)
    rows = torch.cat([t.detach().to(torch.float64).reshape(count, -1) for t in parts], -1)
    return rows.nan_to_num(), solution.status.reshape(-1) == Status.OPTIMAL

"""Where `dcl.smooth.single` answers in place of `dcl.smooth.answer`, and its answer as tensors, with the backward pass.

    u = H^-1 gx,   theta~ = -d/dtheta <u, grad_x f(x; theta)>          one graph of f, no transform of torch.func

Only for one instance, at mu = 0, on the CPU, by the default method, and while torch does nothing but compute and record for
reverse mode: transforms, forward mode and derivatives of derivatives take the careful way, from the same point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dcl.cones.base import Barrier, is_exact
from dcl.point import Point
from dcl.point.degeneracy import Degeneracy
from dcl.program.scaling import scaled
from dcl.smooth.answer import DENSE_LIMIT, Found
from dcl.smooth.evaluation import Evaluation
from dcl.smooth.judge import Facts, Verdict
from dcl.smooth.program import SmoothProgram, Theta
from dcl.smooth.single import Certified, single
from dcl.status import GradientKind, Status
from dcl.torch_modes import has_saved_tensor_hooks, is_ordinary, is_plain

if TYPE_CHECKING:
    from dcl.smooth.solve import SmoothCall

# Of a solve with H in the backward pass: above it the careful way says how far it came.
_ACCURACY = 1e-12


def certified(call: SmoothCall, mu: Barrier, start: Tensor, theta: Theta) -> Certified | None:
    """The answer for the only instance of start (1, n); None where the careful way is to look for it."""
    structure = call.program.structure
    if (
        start.shape[0] != 1
        or structure.m
        or not 0 < structure.n <= DENSE_LIMIT
        or not call.minimum
        or call.solver not in (None, "newton")
        or call.hessian != "exact"
        or call.linear_solve != "direct"
        or call.warm is not None
        or not is_exact(mu)
        or not _is_usual((start, *theta))
        or not all(bool(torch.isfinite(t).all()) for t in (start, *theta))
    ):
        return None
    with torch.enable_grad():
        return single(call.program.f, start[0].numpy().copy(), [t.detach()[0] for t in theta])


def _is_usual(tensors: Sequence[Tensor]) -> bool:
    usual = is_plain() and not has_saved_tensor_hooks()
    return usual and all(is_ordinary(t) and t.device.type == "cpu" for t in tensors)


def degeneracy_of(found: Certified) -> Degeneracy:
    """An exact derivative, without rows that could be weakly active."""
    condition = torch.tensor([found.condition], dtype=torch.float64)
    kind = torch.tensor([int(GradientKind.EXACT)])
    none = torch.zeros(1, 0, dtype=torch.bool)
    return Degeneracy(kind, torch.full_like(condition, torch.inf), torch.tensor([-1]), condition, none, none.any(-1))


def found_of(program: SmoothProgram, found: Certified, theta: Theta) -> Found:
    """The answer as `dcl.smooth.answer` gives it, with the quadratic program at the point."""
    x = torch.tensor(found.x).unsqueeze(0)
    v = x.new_zeros(1, 0)
    local, units = scaled(program.local(x, v, 0.0, theta))
    residuals = torch.from_numpy(found.residuals).unsqueeze(0)
    status = torch.tensor([int(Status.OPTIMAL)])
    numbers = x.new_tensor([[found.step], [found.gradient], [found.curvature], [found.largest], [found.steps]])
    step, gradient, curvature, largest, steps = numbers.unbind()
    facts = Facts(status, residuals, step, gradient, curvature, largest)
    verdict = Verdict(facts, torch.from_numpy(found.direction).unsqueeze(0), Point(local, x, v), units)
    return Found(x, v, verdict, steps, torch.zeros_like(status))


def pulled_back(
    program: SmoothProgram, found: Certified, gx: Tensor, theta: Sequence[Tensor], needed: Sequence[int]
) -> list[Tensor] | None:
    """The gradient (1, ...) in the theta of positions `needed` for that of x, gx (1, n); None: to be found the careful way."""
    if torch.is_grad_enabled() or not _is_usual((gx, *theta)):
        return None
    u, accuracy = found.solve(np.asarray(gx[0].numpy(), dtype=np.float64))
    if not accuracy <= _ACCURACY:
        return None
    with torch.enable_grad():
        single = [t.detach()[0] for t in theta]
        chosen = [single[k].requires_grad_() for k in needed]
        pulled = Evaluation(program.f, found.x, single).pulled_back(torch.from_numpy(-u), chosen)
    return [t.unsqueeze(0) for t in pulled]

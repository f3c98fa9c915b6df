"""Which numbers of an answer are certain: what is below is rounding, and is shown as 0.

In the units of `dcl.program.scaling`, with e = max(1e-14, the largest residual) and sizes |.| of largest entries,

    dx      e max(|b|, |q| / |P|, |x|),  since x is made of b and q; e where all are zero
    dz      e max(|q|, |Px|) + |P| dx
    dvalue  e (|x'Px| / 2 + |q'x|) + |q| dx + |P| dx^2 / 2

A value is 5e-29 where x, which should be zero, is 1e-14.  Numbers in files and arrays stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dcl.outcome.solution import Solution
from dcl.program import magnitude
from dcl.program.scaling import scaled
from dcl.programs.model import Model
from dcl.programs.names import Array

_ROUNDING = 1e-14


class Certain(NamedTuple):
    """outputs: variables, then multipliers, (*shape) each, with 0 for what is rounding.  value: the optimal value, so too.

    slope: what counts as zero in a gradient of the value, whose entries are x, z and their products.
    """

    outputs: list[Array]
    value: float
    slope: float


def certain(model: Model, tensors: Sequence[Tensor], known: Solution) -> Certain:
    """What is certain of the answer of one instance.

    Numbers are left as they are for mu > 0, where nothing is zero, and for geometric programs, whose answers are powers.
    """
    form = model.form
    found = [np.array(t.numpy()) for t in known.outputs[: len(model.variables) + len(model.duals)]]
    value = float(known.value)
    if form.gp or form.logs or isinstance(known._mu, Tensor) or not bool(known.ok):
        return Certain(found, value, 0.0)
    program, units = scaled(model.stated(tensors)[0].program.detach())
    x = known.canonical_x.reshape(1, -1)
    e = max(_ROUNDING, *(float(t) for t in (known.primal_residual, known.dual_residual, known.gap)))
    b = torch.where(torch.isfinite(program.b), program.b, 0.0)
    size_P = float(program.P.abs().amax()) if program.P.numel() else 0.0
    size_q, size_b, Px = float(magnitude(program.q)), float(magnitude(b)), program.Px(x)
    dx = e * max(size_b, size_q / size_P if size_P else 0.0, float(magnitude(x)))
    dx = dx or e
    dz = e * max(size_q, float(magnitude(Px))) + size_P * dx
    terms = 0.5 * float((x * Px).sum().abs()) + float((x * program.q).sum().abs())
    dvalue = (e * terms + size_q * dx + 0.5 * size_P * dx * dx) / float(units.c)
    of_x, of_z = torch.full_like(x, dx), units.dual(torch.full_like(known.z.reshape(1, -1), dz))
    for array, output in zip(found, form.outputs, strict=False):
        array[np.abs(array) <= output(of_x, of_z)[0].abs().numpy()] = 0.0
    slope = min(dx, dz / float(units.c))
    return Certain(found, 0.0 if abs(value) <= dvalue else value, slope)

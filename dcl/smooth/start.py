"""Near a solution by other means: SciPy's minimizers, and a user's own solver; then multipliers that fit the point.

SciPy works on one instance at a time, on the host, with exact gradients from torch.  What comes back is only a start: dcl's
own Newton steps and checks follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import NonlinearConstraint, OptimizeResult, nnls
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from dcl.errors import InputError
from dcl.smooth.program import SmoothProgram, Theta, rows

# SciPy's names, in lower case, and whether the method takes constraints.
SCIPY = {"l-bfgs-b": False, "bfgs": False, "cg": False, "newton-cg": False, "slsqp": True, "trust-constr": True}
# An inequality this close to zero at a start is taken as active there.
_CLOSE = 1e-5

Array = NDArray[np.float64]
# A name of SciPy's or "newton", a function (x (n,), *theta of one instance) -> (n,), or None: by size.
Solver = str | Callable[..., Tensor] | None


def user_start(solver: Callable[..., Tensor], theta: Theta, x: Tensor) -> Tensor:
    """What the caller's function makes of each instance of x (B, n)."""
    with torch.enable_grad():  # it may differentiate
        found = [solver(x[i], *(t[i if t.shape[0] > 1 else 0] for t in theta)) for i in range(x.shape[0])]
    out = torch.stack(found).detach().to(x)
    if not bool(torch.isfinite(out).all()):
        raise InputError("solver returned a y with an entry that is not finite", argument="solver")
    return out


def scipy_start(program: SmoothProgram, theta: Theta, x: Tensor, method: str) -> Tensor:
    """Where SciPy's `method` ends from x (B, n); x itself where that is not finite."""
    out = x.clone()
    for i in range(x.shape[0]):
        index = torch.tensor([i], device=x.device)
        found = torch.from_numpy(_one(program, rows(theta, index), x[i], method)).to(x)
        if bool(torch.isfinite(found).all()):
            out[i] = found
    return out


def _one(program: SmoothProgram, theta: Theta, x0: Tensor, method: str) -> Array:
    p = program.structure.cone.zeros
    last: dict[str, Any] = {}

    def first(x: Array) -> tuple[Array, ...]:
        if "x" not in last or not np.array_equal(last["x"], x):
            f, g, c, J = program.first(torch.from_numpy(np.array(x)).to(x0).unsqueeze(0), theta)
            last["x"], last["out"] = np.array(x), tuple(t[0].cpu().numpy() for t in (f, g, c, J))
        return last["out"]  # type: ignore[no-any-return]

    def objective(x: Array) -> tuple[float, Array]:
        f, g = first(x)[:2]
        return (float(f), g) if np.isfinite(f) else (1e300, np.zeros_like(x))

    constraints: list[Any] = []
    m = program.structure.m
    if m and method == "slsqp":
        for kind, part, sign in (("eq", slice(0, p), 1.0), ("ineq", slice(p, m), -1.0)):
            if range(m)[part]:
                constraints.append({
                    "type": kind,
                    "fun": lambda x, part=part, sign=sign: sign * first(x)[2][part],
                    "jac": lambda x, part=part, sign=sign: sign * first(x)[3][part],
                })  # fmt: skip
    elif m:
        lower = np.concatenate([np.zeros(p), np.full(m - p, -np.inf)])
        constraints.append(NonlinearConstraint(lambda x: first(x)[2], lower, np.zeros(m), jac=lambda x: first(x)[3]))
    options = {"maxiter": 300} | (
        {"ftol": 1e-12} if method == "slsqp" else {"xtol": 1e-10} if method == "newton-cg" else {"gtol": 1e-9}
    )
    result: OptimizeResult = scipy_minimize(
        objective, x0.cpu().numpy(), jac=True, method=method, constraints=constraints, options=options
    )
    return np.asarray(result.x, dtype=np.float64)


def with_multipliers(program: SmoothProgram, theta: Theta, x: Tensor) -> Tensor:
    """v (B, m) at x (B, n): multipliers of least |grad_x L| with z >= 0 on the rows that are active, slacks on the others."""
    _, g, c, J = program.first(x, theta)
    p, v = program.structure.cone.zeros, c.clone()
    size = 1.0 + J.abs().amax(-1) if J.shape[-1] and J.shape[-2] else torch.ones_like(c)
    for i in range(x.shape[0]):
        active = c[i] >= -_CLOSE * size[i] * (1.0 + x[i].abs().max())
        active[:p] = True
        index = torch.nonzero(active).squeeze(-1).cpu().numpy()
        A, gradient = J[i].cpu().numpy()[index], g[i].cpu().numpy()
        # SciPy 1.17's NNLS crashes on a matrix without columns
        if not len(index) or not np.isfinite(A).all() or not np.isfinite(gradient).all():
            continue
        # an equality's multiplier has both signs
        z, _ = nnls(np.concatenate([A, -A[:p]]).T, -gradient, maxiter=30 * (1 + len(index) + p))
        z[:p] -= z[len(index) :]
        z = z[: len(index)]
        values = v[i].cpu().numpy().copy()
        used = (z > 0.0) | (index < p)
        values[index[used]] = z[used]
        values[index[~used]] = np.minimum(values[index[~used]], 0.0)
        v[i] = torch.from_numpy(values).to(v)
    return v

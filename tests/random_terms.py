"""Random programs with smooth terms, with data and weights of any size, for the contract of the lanes.

Some are regular, some have ties, flat directions, or no solution: what the core certifies must be what the careful lane says.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
from reduction_programs import Case

ATOMS = ("logistic", "log_sum_exp", "entr", "kl_div", "kl_both", "exp", "log", "rel_entr")
BATCH = 3


def program(seed: int) -> Case:
    """Weights of 1e-4 .. 1e4, parameters of size 1e-3 .. 1e3 for an odd seed, of size one for an even one."""
    rng = np.random.default_rng(seed)
    wild = seed % 2
    n, m = int(rng.integers(2, 6)), int(rng.integers(2, 8))
    x = cp.Variable(n)
    parameters: list[cp.Parameter] = []
    values: list[np.ndarray] = []
    is_whole = rng.random() < 0.25
    is_collinear = rng.random() < 0.15

    def data(*shape: int, nonneg: bool = False) -> cp.Parameter:
        p = cp.Parameter(shape, nonneg=nonneg)
        size = 10.0 ** rng.uniform(-3, 3) if wild and rng.random() < 0.5 else 1.0
        t = rng.integers(-2, 3, (BATCH, *shape)).astype(float) if is_whole else rng.standard_normal((BATCH, *shape))
        if is_collinear and len(shape) == 2 and shape[1] > 1:
            t[..., 1] = t[..., 0]
        if rng.random() < 0.1:
            t = t * np.array([1.0, 1e3, 1e-3]).reshape(BATCH, *[1] * len(shape))
        parameters.append(p)
        values.append(np.abs(t) * size + 1e-3 * size if nonneg else t * size)
        return p

    def weight() -> cp.Parameter:
        p = cp.Parameter(nonneg=True)
        t = 10.0 ** rng.uniform(-4, 4, BATCH) if wild else rng.uniform(0.2, 2.0, BATCH)
        if rng.random() < 0.05:
            t[0] = 0.0
        parameters.append(p)
        values.append(t)
        return p

    def term(kind: str) -> cp.Expression:
        match kind:
            case "logistic":
                return cp.sum(cp.logistic(data(m, n) @ x))
            case "log_sum_exp":
                return cp.log_sum_exp(data(m, n) @ x + (data(m) if rng.random() < 0.5 else 0.0))
            case "entr":
                return -cp.sum(cp.entr(x))
            case "kl_div":
                return cp.sum(cp.kl_div(x, data(n, nonneg=True)))
            case "kl_both":
                return cp.sum(cp.kl_div(x, data(n, n, nonneg=True) @ x + 0.1))
            case "rel_entr":
                return cp.sum(cp.rel_entr(1.0, x))
            case "exp":
                return cp.sum(cp.exp(x)) if rng.random() < 0.5 else cp.sum(cp.exp(data(m, n) @ x))
            case _:
                return -cp.sum(cp.log(data(m, n, nonneg=True) @ x)) if rng.random() < 0.5 else -cp.sum(cp.log(x))

    kinds = [str(k) for k in rng.choice(ATOMS, int(rng.integers(1, 3)), replace=False)]
    cost: cp.Expression = cp.Constant(0.0)
    for kind in kinds:
        one, scale = term(kind), rng.random()
        if scale < 0.3:  # a product of parameters is not DPP
            one = 10.0 ** rng.uniform(-4, 4) * one if one.parameters() else weight() * one
        cost += one
    if rng.random() < 0.6:
        cost += data(n) @ x
    if rng.random() < 0.4:
        if rng.random() < 0.5:
            cost += weight() * cp.sum_squares(x - 0.5)
        else:
            cost += float(10.0 ** rng.uniform(-6, 2)) * cp.sum_squares(x - (data(n) if rng.random() < 0.5 else 0.0))
    if rng.random() < 0.2:
        cost += 0.5 * cp.norm1(x - 0.3)
    constraints = []
    if rng.random() < 0.4:
        constraints.append(cp.sum(x) == 1)
    if rng.random() < 0.3:
        constraints.append(x <= (data(n, nonneg=True) if rng.random() < 0.5 else 2.0))
    if rng.random() < 0.3:
        constraints.append(x >= (0.0 if rng.random() < 0.5 else -1.0))
    if rng.random() < 0.2:
        constraints.append(data(2, n) @ x <= data(2, nonneg=True))
    if not parameters:
        cost += data(n) @ x
    return Case(cp.Problem(cp.Minimize(cost), constraints), parameters, [x], values, None)

"""A constant inf in a CVXPY problem binds nothing, as in a QPLayer, or is refused with the name of its constraint."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import dcl
from dcl import core

Q = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
INF = np.array([np.inf, 1.0, np.inf])


def projection(rows):
    """(layer for x and the multipliers of the first constraint of rows(x), the problem's x)."""
    x, q = cp.Variable(3), cp.Parameter(3)
    constraints = rows(x)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - q)), constraints)
    return dcl.CvxpyLayer(problem, [q], [x, constraints[0].dual_variables[0]])


ROWS = {
    "all": (lambda x: [x <= np.inf, x >= 0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]),
    "some": (lambda x: [x <= INF, x >= 0], [1.0, 1.0, 0.0], [0.0, 2.0, 0.0]),
    "below": (lambda x: [x >= -INF, x <= 5], [1.0, 2.0, -3.0], [0.0, 0.0, 0.0]),
    "scaled": (lambda x: [2 * x <= INF, x >= 0], [1.0, 0.5, 0.0], [0.0, 1.5, 0.0]),
    "norm": (lambda x: [x <= INF, cp.norm(x) <= np.inf], [1.0, 1.0, -3.0], [0.0, 2.0, 0.0]),
}


@pytest.mark.parametrize("lane", ["core", "torch"])
@pytest.mark.parametrize("kind", ROWS)
def test_rows_that_bind_nothing(kind, lane, monkeypatch):
    rows, known, multipliers = ROWS[kind]
    if lane == "torch":
        monkeypatch.setattr(core, "available", False)
        monkeypatch.setattr("dcl.layers.fast.warn_of_slow_path", lambda: None)
    layer = projection(rows)
    q = Q.clone().requires_grad_()
    x, z = layer(q)
    assert x.tolist() == pytest.approx(known, abs=1e-8)
    assert z.tolist() == pytest.approx(multipliers, abs=1e-8)
    (g,) = torch.autograd.grad(x.sum(), q)
    assert g.tolist() == pytest.approx([float(k == t) for k, t in zip(known, Q.tolist(), strict=True)], abs=1e-8)


def test_on_the_central_path():
    """No barrier, no multiplier: x = q where nothing binds, 2 (x - q) + mu / (1 - x) = 0 elsewhere."""
    x, z = projection(lambda x: [x <= INF])(Q, mu=0.1)
    assert x[[0, 2]].tolist() == pytest.approx([1.0, -3.0], abs=1e-9)
    assert float(2 * (x[1] - 2) + 0.1 / (1 - x[1])) == pytest.approx(0.0, abs=1e-8)
    assert z.tolist() == pytest.approx([0.0, float(0.1 / (1 - x[1])), 0.0], abs=1e-8)


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (lambda x: [x >= 0, x <= -np.inf], "constraint 1"),
        (lambda x: [x >= np.inf], "constraint 0"),
        (lambda x: [x <= 1, x == INF], "constraint 1"),
    ],
)
def test_what_no_point_satisfies_is_named(rows, name):
    with pytest.raises(dcl.InputError, match=f"{name} .*inf.* no point satisfies"):
        projection(rows)

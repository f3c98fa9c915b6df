"""What new users stumble over: arguments in another package's order, arrays beside tensors, names, lists, what is printed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
import torch

import dcl

F64 = {"dtype": torch.float64}
P, Q = torch.eye(2, **F64), torch.tensor([-1.0, -3.0], **F64)
G, H = torch.ones(1, 2, **F64), torch.ones(1, **F64)


@pytest.mark.parametrize("call", [dcl.solve_qp, dcl.QPLayer(), dcl.QPLayer().solve], ids=["solve_qp", "layer", "solve"])
def test_what_comes_after_q_is_given_by_name(call: Any) -> None:
    """qpsolvers and qpth have G, h there: read as A, b that would be another program, silently."""
    with pytest.raises(
        dcl.InputError, match=r"everything after them by name, got 2 more.*\(P, q, G=G, h=h.*qpsolvers and qpth"
    ):
        call(P, Q, G, H)
    with pytest.raises(dcl.InputError, match="by name"):
        call(P, Q, None, None, G, H)
    call(P, Q, G=G, h=H)


CONSTANTS: dict[str, Any] = {
    "NumPy": lambda t: t.numpy(),
    "NumPy, single precision": lambda t: t.numpy().astype(np.float32),
    "NumPy, integers": lambda t: t.numpy().astype(int),
    "pandas": lambda t: pd.Series(t.numpy()) if t.ndim == 1 else pd.DataFrame(t.numpy()),
}


@pytest.mark.parametrize("make", CONSTANTS.values(), ids=CONSTANTS)
def test_arrays_are_constants_beside_tensors(make: Any) -> None:
    q = Q.clone().requires_grad_()
    known = dcl.QPLayer()(P, q, G=G, h=H)
    found = dcl.QPLayer()(make(P), q, G=make(G), h=make(H), lb=-5, ub=np.float64(5.0))
    torch.testing.assert_close(found.x, known.x, rtol=0.0, atol=1e-12)
    expected, gradient = (torch.autograd.grad(result.x[0], q)[0] for result in (known, found))
    torch.testing.assert_close(gradient, expected, rtol=0.0, atol=1e-12)
    by_function = dcl.solve_qp(make(P), make(Q), G=make(G), h=make(H))
    torch.testing.assert_close(by_function.x, known.x.detach(), rtol=0.0, atol=1e-12)
    cone = dcl.ConeLayer({"l": 1})(make(P), q, make(G), make(H))
    torch.testing.assert_close(cone.x, known.x, rtol=0.0, atol=1e-9)


def test_constants_take_the_dtype_of_the_tensors() -> None:
    result = dcl.QPLayer()(P.numpy(), Q.float().requires_grad_(), G=G.numpy(), h=H.numpy())
    assert result.x.dtype == torch.float32
    assert dcl.solve_qp(P.numpy(), Q.numpy()).x.dtype == torch.float64


def test_numbers_are_bounds_of_all_entries() -> None:
    bound = torch.tensor(0.25, **F64, requires_grad=True)
    for lb, ub in ((-0.25, 0.25), (-torch.tensor(0.25, **F64), torch.tensor(0.25, **F64)), (-bound, bound)):
        x = dcl.QPLayer()(P, Q, lb=lb, ub=ub).x
        torch.testing.assert_close(x.detach(), torch.tensor([0.25, 0.25], **F64), rtol=0.0, atol=1e-12)
    assert float(torch.autograd.grad(x.sum(), bound)[0]) == pytest.approx(2.0)
    batch = dcl.QPLayer()(P, Q.expand(3, 2), lb=0)
    assert batch.z_lb.shape == (3, 2)


@pytest.mark.parametrize("mu", [np.float64(0.1), np.float32(0.1), np.array(0.1), torch.tensor(0.1), pd.Series([0.1])])
def test_mu_is_any_number(mu: Any) -> None:
    known = dcl.QPLayer()(P, Q, lb=0, mu=0.1).x
    torch.testing.assert_close(dcl.QPLayer()(P, Q, lb=0, mu=mu).x, known, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(dcl.QPLayer(mu=mu)(P, Q, lb=0).x, known, rtol=1e-6, atol=1e-6)
    many = dcl.QPLayer()(P, Q.expand(2, 2), lb=0, mu=np.array([0.1, 0.2])).x
    torch.testing.assert_close(many[0], known, rtol=1e-6, atol=1e-6)


def test_what_is_no_number_is_named() -> None:
    with pytest.raises(dcl.DtypeError, match="G must be real numbers, got complex128"):
        dcl.QPLayer()(P, Q, G=G.numpy() * 1j, h=H)
    with pytest.raises(dcl.DtypeError, match="h must be real numbers, got bool"):
        dcl.QPLayer()(P, Q, G=G, h=np.array([True]))
    with pytest.raises(dcl.InputError, match=r"q must be a torch\.Tensor, got list"):
        dcl.QPLayer()(P, [1.0, 2.0])


def layer_of(**settings: Any) -> tuple[dcl.CvxpyLayer, cp.Parameter]:
    x, t, s = cp.Variable(2, name="x"), cp.Parameter(2, name="t"), cp.Parameter(name="s")
    return dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [cp.sum(x) == s]), [t, s], [x], **settings), t


def test_parameters_by_name() -> None:
    layer, _ = layer_of()
    t, s = torch.tensor([1.0, 2.0], **F64, requires_grad=True), torch.tensor(1.0, **F64)
    (known,) = layer(t, s)
    for call in (
        lambda: layer(t=t, s=s),
        lambda: layer(s=s, t=t),
        lambda: layer(t, s=1.0),
        lambda: layer(t, s=np.array(1.0)),
    ):
        (found,) = call()
        torch.testing.assert_close(found, known, rtol=0.0, atol=0.0)
    assert torch.equal(layer.solve(s=s, t=t).outputs[0], known.detach())
    with pytest.raises(dcl.InputError, match="'u' is no parameter of the layer; its parameters: t, s"):
        layer(t=t, u=s)
    with pytest.raises(dcl.InputError, match="t is given by position and by name"):
        layer(t, t=t)
    with pytest.raises(dcl.InputError, match="s is missing"):
        layer(t=t)


def test_a_parameter_instead_of_a_list() -> None:
    x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)))
    with pytest.raises(dcl.InputError, match=r"parameters must be a list: pass a list, \[t\]"):
        dcl.CvxpyLayer(problem, t, [x])
    with pytest.raises(dcl.InputError, match=r"variables must be a list with at least one entry: pass a list, \[x\]"):
        dcl.CvxpyLayer(problem, [t], x)
    with pytest.raises(dcl.InputError, match=r"variables must be a list with at least one entry, as in \[x\]"):
        dcl.CvxpyLayer(problem, [t], [])


def test_an_argmin_layer_has_a_repr() -> None:
    def cost(y: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return (y - a).square().sum()

    assert "objective=cost, solver=auto, mu=0.0" in repr(dcl.ArgminLayer(cost))
    shown = repr(dcl.ArgminLayer(cost, inequality=lambda y, a: y, maximize=True, mu=0.1, on_failure="nan"))
    assert "inequality=<lambda>, maximize=True, solver=auto, mu=0.1, on_failure=nan" in shown
    module = repr(dcl.ArgminLayer(torch.nn.Linear(2, 1)))
    assert "Linear(in_features=2" in module


def test_dir_shows_the_public_names() -> None:
    """In a new process: importing modules of dcl sets their names on the package."""
    code = """
import sys
import dcl
assert not {"torch", "cvxpy", "clarabel", "scs", "osqp", "numpy"} & set(sys.modules), sorted(sys.modules)
assert dir(dcl) == sorted([*dcl.__all__, "__version__"])
dcl.QPLayer, dcl.compare_gradients, dcl.info()
assert dir(dcl) == sorted([*dcl.__all__, "__version__"])
assert all(getattr(dcl, name) is getattr(dcl, name) for name in dcl.__all__)
assert "cvxpy" not in sys.modules, "a QPLayer needs no CVXPY"
try:
    dcl.nonsense
except AttributeError as error:
    assert str(error) == "module 'dcl' has no attribute 'nonsense'"
else:
    raise AssertionError
from dcl import *
assert CvxpyLayer is dcl.CvxpyLayer
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.returncode == 0

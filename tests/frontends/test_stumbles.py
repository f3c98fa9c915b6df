"""What new users stumble over: arguments in another package's order, arrays beside tensors, names, lists, what is printed."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
import torch

import dcl
import dcl.compat.qpth
from dcl import core
from dcl.cli.main import main

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
    with pytest.raises(dcl.InputError, match="'u' is not a parameter of the layer; its parameters: t, s"):
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


@pytest.mark.slow
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


SIMPLEX = {"A": torch.ones(1, 3, **F64), "b": torch.ones(1, **F64), "lb": 0.0}
COSTS = torch.tensor([1.0, 2.0, 3.0], **F64)


def matrix_lp(**settings: Any) -> Any:
    layer = dcl.QPLayer(**settings)
    return lambda c: layer(None, c, **SIMPLEX).x


def zero_matrix_lp(**settings: Any) -> Any:
    layer = dcl.QPLayer(**settings)
    return lambda c: layer(torch.zeros(3, 3, **F64), c, **SIMPLEX).x


def cone_lp(**settings: Any) -> Any:
    layer = dcl.ConeLayer({"z": 1, "l": 3}, **settings)
    A, b = torch.cat([torch.ones(1, 3), -torch.eye(3)]).double(), torch.tensor([1.0, 0.0, 0.0, 0.0], **F64)
    return lambda c: layer(None, c, A, b).x


def cvxpy_lp(**settings: Any) -> Any:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x >= 0]), [c], [x], **settings)
    return lambda c: layer(c)[0]


LPS = {"QPLayer": matrix_lp, "QPLayer, P = 0": zero_matrix_lp, "ConeLayer": cone_lp, "CvxpyLayer": cvxpy_lp}


@pytest.mark.parametrize("solver", [None, "clarabel"])
@pytest.mark.parametrize("make", LPS.values(), ids=LPS)
def test_a_linear_program_at_a_vertex_says_that_nothing_is_learned(make: Any, solver: str | None) -> None:
    c = COSTS.clone().requires_grad_()
    solve = make(solver=solver)
    loss = (solve(c) - 0.2).square().sum()
    with pytest.warns(dcl.DegenerateWarning, match=r"(?s)is exact, but zero with respect to the cost.*mu=0\.1") as told:
        loss.backward()
    assert [warning.filename for warning in told] == [__file__]
    torch.testing.assert_close(c.grad, torch.zeros(3, **F64), rtol=0.0, atol=1e-12)
    (solve(c) - 0.2).square().sum().backward()  # said once
    (make(solver=solver, on_degenerate="ignore")(c) - 0.2).square().sum().backward()
    c.grad = None
    (make(solver=solver, mu=0.1)(c) - 0.2).square().sum().backward()
    assert c.grad is not None
    assert float(c.grad.abs().max()) > 0.1  # the remedy


def test_no_word_where_a_linear_program_teaches_something() -> None:
    """The value and multipliers move with the costs; x moves with the other data, and with a P that is not zero."""
    c, layer = COSTS.clone().requires_grad_(), dcl.QPLayer()
    result = layer(None, c, **SIMPLEX)
    (gradient,) = torch.autograd.grad(result.value, c)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0, 0.0], **F64))
    torch.autograd.grad(layer(None, c, **SIMPLEX).y.sum(), c)
    b = torch.ones(1, **F64, requires_grad=True)
    (moved,) = torch.autograd.grad(layer(None, COSTS, **SIMPLEX | {"b": b}).x.sum(), b)
    assert float(moved) == pytest.approx(1.0)
    zeros = torch.zeros(3, 3, **F64)
    with pytest.warns(dcl.DegenerateWarning, match="gradient with respect to q is zero"):
        layer(zeros, c, **SIMPLEX).x[0].backward()
    quadratic = dcl.QPLayer()
    quadratic(zeros, c, **SIMPLEX)  # the way is planned for P = 0
    quadratic(2.0 * torch.eye(3, **F64), c, **SIMPLEX).x[0].backward()
    x, t, s = cp.Variable(2, name="x"), cp.Parameter(name="t"), cp.Parameter(2, name="s")
    both = dcl.CvxpyLayer(cp.Problem(cp.Minimize(t * cp.sum(x) + s @ x), [x >= 1 + t]), [t, s], [x])
    t_ = torch.tensor(0.5, **F64, requires_grad=True)  # a cost that is a side too
    (moved,) = torch.autograd.grad(both(t_, torch.ones(2, **F64))[0].sum(), t_)
    assert float(moved) == pytest.approx(2.0)


WEIGHTS = torch.tensor([[2.0, 1.0], [1.0, 3.0]])  # globals in single and half precision
HALF = WEIGHTS.bfloat16()


def test_a_function_that_is_in_single_precision_says_what_to_do() -> None:
    weights, network, y0, a = WEIGHTS.clone(), torch.nn.Linear(2, 2), torch.zeros(2), torch.ones(2)
    functions: dict[str, Any] = {
        "'weights'": lambda y, a: (weights @ y - a).square().sum(),
        "'WEIGHTS'": lambda y, a: torch.addmv(a, WEIGHTS, y).square().sum(),
        "'network.weight', 'network.bias'": lambda y, a: (network(y) - a).square().sum(),
        "makes or loads tensors": lambda y, a: (torch.eye(2) @ y - a).square().sum(),
    }
    for names, function in functions.items():
        for settings in ({}, {"in_dims": (0, 0)}):
            lead = (3,) if settings else ()
            with pytest.raises(
                dcl.InputError, match=rf"objective works in float32 only: .*{names}.*or convert"
            ) as caught:
                dcl.argmin(function, y0.expand(*lead, 2), a.expand(*lead, 2), **settings)
            assert "addmv" not in str(caught.value)
            assert caught.value.__suppress_context__
    with pytest.raises(dcl.InputError, match=r"inequality works in float32 only.*inequality\(y, \*params\)"):
        dcl.argmin(lambda y, a: (y - a).square().sum(), y0, a, inequality=lambda y, a: weights @ y - 1.0)
    with pytest.raises(dcl.InputError, match="objective works in bfloat16 only"):
        dcl.argmin(lambda y, a: (HALF @ y - a).square().sum(), y0, a)
    with pytest.raises(dcl.InputError, match=r"fails on one instance: .*size"):  # another cause: torch's own words
        dcl.argmin(lambda y, a: (torch.ones(3, 3).double() @ y - a).square().sum(), y0, a)


def test_the_remedies_of_single_precision_work() -> None:
    known = torch.linalg.solve(WEIGHTS.double(), torch.ones(2).double())
    passed = dcl.argmin(lambda y, a, w: (w @ y - a).square().sum(), torch.zeros(2), torch.ones(2), WEIGHTS)
    assert passed.dtype == torch.float32
    torch.testing.assert_close(passed.double(), known, rtol=1e-6, atol=1e-6)
    doubled = WEIGHTS.double()
    found = dcl.argmin(lambda y, a: (doubled @ y - a).square().sum(), torch.zeros(2).double(), torch.ones(2))
    torch.testing.assert_close(found, known, rtol=0.0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("solver", [None, "clarabel"])
def test_tracing_is_a_clear_error(solver: str | None) -> None:
    """A traced layer returned the answer of its example for every input."""
    layer, _ = layer_of(solver=solver)
    t, s = torch.ones(2, **F64), torch.ones((), **F64)
    argmin = dcl.ArgminLayer(lambda y, a: (y - a).square().sum())
    cone = dcl.ConeLayer({"l": 1}, solver=solver)
    for module, inputs in (
        (layer, (t, s)),
        (torch.nn.Sequential(torch.nn.Linear(2, 2).double(), dcl.ArgminLayer(lambda y: (y - 1).square().sum())), (t,)),
        (dcl.QPLayer(solver), (P, Q)),
        (cone, (P, Q, G, H)),
        (argmin, (torch.zeros(2, **F64), t)),
    ):
        with pytest.raises(dcl.UnsupportedError, match=r"torch\.jit\.trace records .*Use torch\.compile"):
            torch.jit.trace(module, inputs)


def test_valid_names_are_those_of_solvers() -> None:
    with pytest.raises(dcl.OptionError, match="unknown solver 'GUROBI'; valid names: ") as caught:
        dcl.QPLayer("GUROBI")
    names = str(caught.value).split("valid names: ")[1].split(", or an object")[0].split(", ")
    assert names == ["DAQP", "PIQP", "OSQP", "CLARABEL", "SCS", "HIGHS", "SCHUR"]
    for alias in ("DIFFCP", "moreau", "CUCLARABEL"):  # still understood
        dcl.QPLayer(alias)


def test_unknown_arguments_are_told_the_valid_ones() -> None:
    """Python's own error names the wrong argument and no right one."""
    x = cp.Variable(2, name="x")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)))
    data = r"valid: P, q, A, b, G, h, lb, ub, "
    calls: list[tuple[Any, str]] = [
        (
            lambda: dcl.QPLayer()(P, Q, lower=0),
            rf"layer has no argument 'lower' \(did you mean lb\?\); {data}solver_args",
        ),
        (
            lambda: dcl.QPLayer().solve(P, Q, ubb=0),
            rf"layer\.solve has no argument 'ubb' \(did you mean ub\?\); {data}",
        ),
        (
            lambda: dcl.solve_qp(P, Q, A_ub=G, b_ub=H),
            rf"solve_qp has no argument 'A_ub', 'b_ub' .*mean G\?\); {data}solver",
        ),
        (
            lambda: dcl.QPLayer(eps=1e-9),
            r"QPLayer has no argument 'eps'; valid: solver, .*as solver_args=\{\.\.\.\}",
        ),
        (
            lambda: dcl.ConeLayer({"l": 1}, on_fail="nan"),
            r"ConeLayer has no .*\(did you mean on_failure\?\); valid: cones",
        ),
        (
            lambda: dcl.ConeLayer({"l": 1})(P, Q, G, H, lb=0),
            "layer has no argument 'lb'; valid: P, q, A, b, solver_args",
        ),
        (lambda: dcl.CvxpyLayer(problem, [], [x], params=1), "CvxpyLayer has no .*mean parameters.*valid: problem"),
        (lambda: dcl.ArgminLayer(lambda y: y.sum(), ineq=1), "ArgminLayer has no argument 'ineq'; valid: objective"),
        (lambda: dcl.argmin(lambda y: y.sum(), Q, eps=1), "ArgminLayer has no argument 'eps'"),
        (lambda: dcl.ParametricProgram(problem, solvers="x"), r"ParametricProgram has .*\(did you mean solver\?\)"),
    ]
    for call, words in calls:
        with pytest.raises(dcl.OptionError, match=words):
            call()


def test_a_product_of_parameters_is_told_what_to_write() -> None:
    w, gamma = cp.Variable(2, name="w"), cp.Parameter(nonneg=True, name="gamma")
    m, Sigma = cp.Parameter(2, name="m"), cp.Parameter((2, 2), PSD=True, name="Sigma")

    def said(cost: Any, *constraints: Any) -> str:
        problem = cp.Problem(cp.Minimize(cost), [cp.sum(w) == 1, *constraints])
        with pytest.raises(dcl.DppError) as caught:
            dcl.CvxpyLayer(problem, problem.parameters(), [w])
        return str(caught.value).rsplit("Here: ", 1)[1] if "Here: " in str(caught.value) else ""

    risk = cp.quad_form(w, Sigma)
    product = (
        r"take one parameter for the product, Q = cp.Parameter((2, 2), PSD=True); write cp.quad_form(w, Q), and pass "
    )
    for cost, passed in (
        (gamma * risk - m @ w, "gamma * Sigma"),
        (gamma / 2 * risk, "(gamma / 2.0) * Sigma"),
        (risk / gamma, "Sigma / gamma"),
    ):
        text = said(cost)
        assert product + passed + ", computed in torch, for Q" in text
        assert "give gamma the shape (batch, 1, 1)" in text
    assert "write 0.5 * cp.quad_form(w, Q)" in said(gamma * (0.5 * risk))
    for cost in (gamma * (m @ w), (gamma * m) @ w):
        assert "take one parameter of shape (2,), and pass gamma * m, computed in torch." in said(cost)
    way = "take a new variable, y = cp.Variable((2,)), with the constraint y == w + -m, and write y in its place."
    assert way in said(gamma * cp.sum_squares(w - m))
    assert way in said(cp.sum(w), gamma * cp.norm1(w - m) <= 1)
    assert said(gamma * (risk + cp.sum_squares(w))) == ""  # no word where none is known
    assert said(cp.sum(w), gamma * risk <= 1) == ""  # a quad_form with a parameter is for the objective


def test_the_remedy_for_gamma_quad_form_is_exact() -> None:
    """Against the closed form of min gamma w'Sw on sum(w) = 1 with -m'w, with gradients of both factors."""
    w, Q, m = cp.Variable(2, name="w"), cp.Parameter((2, 2), PSD=True, name="Q"), cp.Parameter(2, name="m")
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(w, Q) - m @ w), [cp.sum(w) == 1]), [Q, m], [w])
    gamma = torch.tensor([0.5, 2.0], **F64, requires_grad=True)
    Sigma = torch.tensor([[2.0, 0.5], [0.5, 1.0]], **F64, requires_grad=True)
    mean = torch.tensor([0.3, -0.2], **F64)
    (found,) = layer(gamma[:, None, None] * Sigma, mean)
    one = torch.ones(2, **F64)
    inverse = torch.linalg.inv(2.0 * gamma[:, None, None] * Sigma)
    price = (one @ inverse @ mean - 1.0) / (one @ inverse @ one)
    known = (inverse @ (mean - price[:, None] * one).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, known, rtol=0.0, atol=1e-10)
    for a, b in zip(*(torch.autograd.grad(x[:, 0].sum(), [gamma, Sigma]) for x in (found, known)), strict=True):
        torch.testing.assert_close(a, 0.5 * (b + b.mT) if b.ndim == 2 else b, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("solver", [None, "clarabel"])
def test_a_column_beside_a_batch_is_told_to_be_a_grid(solver: str | None) -> None:
    layer, _ = layer_of(solver=solver)
    t, s = torch.ones(4, 2, **F64), torch.ones(4, 1, **F64)
    words = (
        r"s has shape \(4, 1\) and t has shape \(4, 2\)\. .* 4 x 4 programs\. For 4 programs pass s with shape \(4,\)"
    )
    with pytest.warns(dcl.ShapeWarning, match=words) as told:
        (x,) = layer(t, s)
    assert [warning.filename for warning in told] == [__file__]
    assert x.shape == (4, 4, 2)
    layer(t, s)  # said once
    layer(t[:3], s[:3])
    for other in (s[:, 0], torch.ones(1, 1, **F64), torch.ones(5, 1, 1, **F64)):  # no grid, or one that is meant
        layer_of(solver=solver)[0](t, other)
    with pytest.warns(
        dcl.ShapeWarning, match=r"q has shape \(4, 1, 2\) and h has shape \(4, 1\).* pass q with shape \(4, 2\)"
    ):
        result = dcl.QPLayer(solver)(P, Q.expand(4, 1, 2), G=G, h=H.expand(4, 1))
    assert result.x.shape == (4, 4, 2)


@pytest.mark.parametrize("solver", [None, "daqp", "osqp", "clarabel", "scs"])
def test_verbose_says_how_a_call_went(solver: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    layer = dcl.QPLayer(solver, verbose=True)
    layer(P, Q.expand(3, 2), G=G, h=H)
    out = capfd.readouterr().out
    name = "compiled core" if solver is None and core.available else solver.upper() if solver else "DAQP"
    line = rf"dcl: 3 instances: solved by {name} 3; OPTIMAL 3; relative residuals: primal \S+, dual \S+, gap \S+; \S+ iterations"
    assert re.search(line, out), out
    dcl.QPLayer(solver)(P, Q, G=G, h=H)
    assert capfd.readouterr().out == ""
    dcl.QPLayer(solver)(P, Q, G=G, h=H, solver_args={"verbose": True})
    assert "dcl: 1 instance: solved by " in capfd.readouterr().out


def test_verbose_says_who_answered_what(capfd: pytest.CaptureFixture[str]) -> None:
    """An infeasible instance among two, for a program that HiGHS takes: its status is in the line of the careful lane."""
    h = torch.tensor([[1.0], [-1.0]], **F64)
    dcl.QPLayer(verbose=True, on_failure="nan")(None, torch.ones(2, **F64), G=G, h=h, lb=0)
    out = capfd.readouterr().out
    assert "PRIMAL_INFEASIBLE 1" in out
    assert "OPTIMAL 1" in out
    dcl.QPLayer("highs", verbose=True)(None, torch.ones(2, **F64), G=G, h=H, lb=0)
    out = capfd.readouterr().out
    assert "HiGHS" in out
    assert "solved by HIGHS 1; OPTIMAL 1" in out


def redundant_qp() -> None:
    dcl.QPLayer()(P, Q.clone().requires_grad_(), A=torch.ones(2, 2, **F64), b=torch.ones(2, **F64).requires_grad_())


def flat_argmin() -> None:
    a = torch.zeros((), **F64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dcl.smooth.cg._LIMIT", -1.0)
        y = dcl.argmin(lambda y, a: (y - a).square().sum(), torch.zeros(2, **F64), a, linear_solve="cg")
        y.sum().backward()


def inaccurate_qp() -> None:
    q = Q.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["dcl.implicit.kkt_solve"], "_ACCURACY_LIMIT", -1.0)
        dcl.QPLayer("clarabel")(P, q, G=G, h=H).x.sum().backward()


def degenerate_sweep() -> None:
    x, t = cp.Variable(name="x"), cp.Parameter(name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.square(x - t)), [x >= 0]))
    program.sweep({"t": [-1.0, 0.0, 1.0]}, gradient={x: 1.0}, progress=False)


def degenerate_jacobian() -> None:
    x, t = cp.Variable(name="x"), cp.Parameter(name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.square(x - t)), [x >= 0]))
    program.solve(t=0.0).jacobian(x, wrt=t)


def ignored_option() -> None:
    dcl.QPLayer("SCS", solver_args={"use_indirect": True})


def ignored_option_of_qpth() -> None:
    dcl.compat.qpth.QPFunction(maxIter=7)


def older_name() -> None:
    dcl.RunsOffError  # noqa: B018


WARNINGS = [redundant_qp, flat_argmin, inaccurate_qp, degenerate_sweep, degenerate_jacobian, ignored_option]
WARNINGS += [ignored_option_of_qpth, older_name]


@pytest.mark.parametrize("function", WARNINGS, ids=lambda function: function.__name__)
def test_warnings_point_at_the_users_line(function: Any) -> None:
    """Of forward, backward, programs and adapters; those of vertices and of grids are looked at in their own tests."""
    code = function.__code__
    lines = range(code.co_firstlineno, code.co_firstlineno + 12)
    with pytest.warns() as told:
        function()
    assert told
    for warning in told:
        assert warning.filename == __file__, (warning.filename, str(warning.message))
        assert warning.lineno in lines


def test_a_variable_for_the_gradient_of_a_sweep_is_told_what_to_pass() -> None:
    x, t = cp.Variable(name="x"), cp.Parameter(name="t")
    program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.square(x - t)), [x >= 0]))
    with pytest.raises(dcl.InputError, match=r'gradient must be "value", or a dict \{variable: weights\}'):
        program.sweep({"t": [1.0, 2.0]}, gradient=x, progress=False)


def test_a_solution_has_the_variables_by_name() -> None:
    x, y, t = cp.Variable(2, name="x"), cp.Variable(name="y"), cp.Parameter(2, name="t")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t) + cp.abs(y - 3)), [cp.sum(x) == 1])
    layer = dcl.CvxpyLayer(problem, [t], [y, x, problem.objective])
    solution = layer.solve(torch.tensor([0.5, 0.5], **F64))
    assert solution.names == ("y", "x", "value")
    torch.testing.assert_close(solution["x"], torch.tensor([0.5, 0.5], **F64), rtol=0.0, atol=1e-9)
    assert float(solution["y"]) == pytest.approx(3.0)
    with pytest.raises(dcl.InputError, match=r"the solution has no 'w'; it has y, x, value"):
        solution["w"]
    assert len(solution.canonical_x) > 3  # with the epigraph of abs, and what sum_squares adds
    with pytest.warns(
        DeprecationWarning, match=r"Solution\.x is deprecated: use solution\[\"name\"\].*canonical_x"
    ) as told:
        assert solution.x is solution.canonical_x
    assert told[0].filename == __file__
    for name in ("program", "v", "mu"):
        with pytest.warns(DeprecationWarning, match=rf"Solution\.{name} is deprecated: .*in dcl's units"):
            getattr(solution, name)
    twins = [cp.Variable(name="x"), cp.Variable(name="x")]
    both = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(cp.hstack(twins) - t))), [t], twins)
    found = both.solve(torch.tensor([1.0, 2.0], **F64))
    assert found.names == ("x (1)", "x (2)")
    assert float(found["x (2)"]) == pytest.approx(2.0)


def test_solutions_of_matrices_and_functions_have_x_of_their_own() -> None:
    qp = dcl.QPLayer().solve(P, Q, G=G, h=H)
    assert qp.names == dcl.QPResult._fields
    assert qp["z"] is qp.outputs[2]
    torch.testing.assert_close(qp.x, qp["x"])
    cone = dcl.ConeLayer({"l": 1}).solve(P, Q, G, H)
    assert cone.names == ("x", "z", "s")
    torch.testing.assert_close(cone.x, cone["x"])
    argmin = dcl.ArgminLayer(lambda y: (y["a"] - 1).square().sum() + (y["b"] - 2).square())
    start = {"a": torch.zeros(2, **F64), "b": torch.zeros((), **F64)}
    assert argmin.solve(start).names == ("y (tensor 0)", "y (tensor 1)")
    torch.testing.assert_close(argmin.solve(start).x, torch.tensor([1.0, 1.0, 2.0], **F64))


def test_a_solution_shows_its_values() -> None:
    shown = repr(dcl.QPLayer().solve(P, Q, G=G, h=H)).splitlines()
    assert re.fullmatch(r"Solution\(1 OPTIMAL \(worst residual \S+\)\)", shown[0])
    assert shown[1:] == ["  x = [-0.5, 1.5]", "  z = [1.5]", "  value = -2.75"]
    many = repr(dcl.QPLayer().solve(P, Q.expand(50, 2)))
    assert "  x (50, 2) = [[1., 3.], [1., 3.], ..., [1., 3.], [1., 3.]]" in many
    layer, _ = layer_of()
    text = repr(layer.solve(torch.tensor([0.5, 0.5], **F64), 1.0))
    assert re.search(r"  x = \[0\.5, 0\.5\]\n  value = -?0\.$", text)


COMPARED = """
import cvxpy as cp
x, t, s = cp.Variable(2, name="x"), cp.Parameter(2, name="t"), cp.Parameter(name="s")
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [cp.sum(x) == s])
parameters, variables = [t, s], [x]
"""


def test_compare_takes_values_as_a_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "program.py"
    for values in ('{"s": 1.0, "t": [0.2, 0.5]}', "{s: 1.0, t: [0.2, 0.5]}", "[[0.2, 0.5], 1.0]"):
        file.write_text(COMPARED + f"values = {values}\n", encoding="utf-8")
        assert main(["compare", str(file), "--mu", "1e-3"]) == 0
        assert "gradient in t, s: 3 entries" in capsys.readouterr().out
    for values, words in (
        ('{"s": 1.0}', "values has s; the parameters are t, s"),
        ("[1.0]", "values must be a list of 2, or a dict with parameters or names as keys"),
        ("1 / 0", f"{file}, line 6: ZeroDivisionError: division by zero"),
    ):
        file.write_text(COMPARED + f"values = {values}\n", encoding="utf-8")
        assert main(["compare", str(file)]) == 2
        assert words in capsys.readouterr().err


def test_points_of_a_sweep_are_named_in_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "program.py"
    file.write_text(COMPARED + "t.value, s.value = [0.2, 0.5], 1.0\n", encoding="utf-8")
    assert main(["sweep", str(file), "--over", "s=1:2"]) == 2
    assert "--over s=1:2: give START:STOP:COUNT" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sweep", str(file), "--over", "s"])
    assert "must be NAME=POINTS, as in gamma=0:1:50, not 's'" in capsys.readouterr().err


EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_example_scripts_have_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code == 0
    printed = capsys.readouterr()
    assert "FILE.png" in printed.out
    assert printed.err == ""

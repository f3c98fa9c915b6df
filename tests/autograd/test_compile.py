"""`torch.compile` of models with a layer in them: equal to plain Python, whole graphs, no warnings; or an error that says why.

Closed forms: the projection onto a box (clamp), onto a ball, and the simplex (checked by its own optimality).
"""

from __future__ import annotations

import copy
import gc
import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cvxpy as cp
import pytest
import torch
from tolerances import IDENTITY, ROUNDING
from torch import Tensor, nn
from torch.autograd import forward_ad

import dcl
from dcl import core
from dcl.layers import past
from dcl.layers.engine import Engine

F64 = {"dtype": torch.float64}
func = torch.func


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        # of torch's own tracer, when it is first used
        warnings.filterwarnings("ignore", message="`torch.jit.script", category=DeprecationWarning)
        # of its jacrev, for any function that has no whole graph
        warnings.filterwarnings(
            "ignore", message="The .grad attribute of a Tensor that is not a leaf", category=UserWarning
        )
        yield
    torch._dynamo.reset()


class Box(nn.Module):
    """linear, then the projection onto [-1, 1]^3."""

    def __init__(self, layer: dcl.QPLayer | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.layer = nn.Linear(2, 3, **F64), layer or dcl.QPLayer()

    def forward(self, t: Tensor) -> Tensor:
        one = torch.ones(3, **F64)
        return self.layer(torch.eye(3, **F64), -3.0 * torch.sin(self.linear(t)), lb=-one, ub=one).x

    def known(self, t: Tensor) -> Tensor:
        return (3.0 * torch.sin(self.linear(t))).clamp(-1.0, 1.0)


def cvxpy_ball() -> nn.Module:
    x, c, r = cp.Variable(3), cp.Parameter(3), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= r])
    return dcl.CvxpyLayer(problem, [c, r], [x, problem.objective])


def ball(c: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    outside = (c.norm(dim=-1) - r).clamp(min=0.0)
    return c - c * (outside / c.norm(dim=-1)).unsqueeze(-1), outside**2


def close(got: Any, want: Any, tol: float = IDENTITY) -> None:
    got, want = ((t,) if isinstance(t, Tensor) else t for t in (got, want))
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert float((a - b).detach().abs().max()) <= tol * (1.0 + float(b.detach().abs().max()))


def gradients(out: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out**2).sum(), leaves)


@pytest.mark.parametrize("fullgraph", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "backend", ["aot_eager", *(pytest.param(b, marks=pytest.mark.slow) for b in ("eager", "inductor"))]
)
def test_a_model_with_a_layer(fullgraph: bool, backend: str) -> None:
    model = Box()
    compiled = torch.compile(model, fullgraph=fullgraph, backend=backend)
    leaves = list(model.parameters())
    for size in (4, 4, 7):  # the second size makes torch trace with a symbolic one
        t = torch.randn(size, 2, **F64)
        close(compiled(t), model.known(t), ROUNDING)
        close(gradients(compiled(t), leaves), gradients(model.known(t), leaves))
    with torch.no_grad():
        close(compiled(t), model.known(t), ROUNDING)


@pytest.mark.slow
def test_cvxpy_layer_in_a_whole_graph() -> None:
    layer = cvxpy_ball()
    compiled = torch.compile(lambda c, r: layer(2.0 * c, r), fullgraph=True, backend="aot_eager")
    c, r = torch.randn(5, 3, **F64, requires_grad=True), torch.tensor(0.5, **F64, requires_grad=True)
    close(compiled(c, r), ball(2.0 * c, r))
    for k in range(2):
        close(gradients(compiled(c, r)[k], [c, r]), gradients(ball(2.0 * c, r)[k], [c, r]))
    single = c.detach().to(torch.float32)
    close(compiled(single, r.detach().to(torch.float32)), ball(2.0 * single, r.detach().to(torch.float32)), 1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_matrices_come_out_as_torch_lays_them_out(backend: str) -> None:
    """CVXPY is column-major: what the operator returns and its gradients must have the strides that were promised."""
    X, C = cp.Variable((2, 3)), cp.Parameter((2, 3))
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >= -1, X <= 1]), [C], [X])
    c = torch.randn(4, 3, 2, **F64).mT.requires_grad_()
    compiled = torch.compile(lambda c: torch.sin(layer(2.0 * c)[0]), fullgraph=True, backend=backend)
    known = torch.sin((2.0 * c).clamp(-1.0, 1.0))
    close(compiled(c), known)
    close(gradients(compiled(c), [c]), gradients(known, [c]))


def test_cone_layer_in_a_whole_graph() -> None:
    layer = dcl.ConeLayer({"q": [4]})
    A = torch.cat([torch.zeros(1, 3, **F64), -torch.eye(3, **F64)])

    def f(c: Tensor, r: Tensor) -> Tensor:
        return layer(torch.eye(3, **F64), -c, A, torch.cat([r.reshape(1), torch.zeros(3, **F64)])).x

    c, r = torch.randn(3, **F64, requires_grad=True), torch.tensor(0.5, **F64, requires_grad=True)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    close(compiled(c, r), ball(c, r)[0])
    close(gradients(compiled(c, r), [c, r]), gradients(ball(c, r)[0], [c, r]))


@pytest.mark.parametrize("mu", [0.3, torch.tensor([0.1, 0.2, 0.3, 0.4], **F64)], ids=["number", "tensor"])
def test_barrier_in_a_whole_graph(mu: float | Tensor) -> None:
    layer, eye = dcl.QPLayer(), torch.eye(3, **F64)

    def f(q: Tensor) -> Tensor:
        return layer(eye, q, lb=torch.zeros(3, **F64), mu=mu).x

    # x - mu / x + q = 0
    q = torch.randn(4, 3, **F64, requires_grad=True)
    m = mu.unsqueeze(-1) if isinstance(mu, Tensor) else mu
    known = 0.5 * (-q + torch.sqrt(q * q + 4.0 * m))
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    close(compiled(q), known)
    close(gradients(compiled(q), [q]), gradients(known, [q]))


SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a solver by name": {"solver": "clarabel", "solver_args": {"eps": 1e-9}},
    "a solver object": {"solver": dcl.solvers.Clarabel(eps=1e-9)},
    "policies": {"on_failure": "nan", "on_degenerate": "ignore"},
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", SETTINGS)
def test_solve_qp_in_a_whole_graph(name: str) -> None:
    """It makes its layer in each call: once, when the graph is traced."""
    one, eye = torch.ones(3, **F64), torch.eye(3, **F64)
    compiled = torch.compile(
        lambda q: dcl.solve_qp(eye, 2.0 * q, lb=-one, ub=one, **SETTINGS[name]).x, fullgraph=True, backend="aot_eager"
    )
    for size in (4, 7):
        q = torch.randn(size, 3, **F64, requires_grad=True)
        known = (-2.0 * q).clamp(-1.0, 1.0)
        close(compiled(q), known)
        close(gradients(compiled(q), [q]), gradients(known, [q]))


@pytest.mark.parametrize("mu", [0.3, torch.tensor([0.1, 0.2, 0.3, 0.4], **F64)], ids=["number", "tensor"])
def test_solve_qp_with_a_barrier_in_a_whole_graph(mu: float | Tensor) -> None:
    q, eye = torch.randn(4, 3, **F64, requires_grad=True), torch.eye(3, **F64)
    m = mu.unsqueeze(-1) if isinstance(mu, Tensor) else mu
    known = 0.5 * (-q + torch.sqrt(q * q + 4.0 * m))  # x - mu / x + q = 0
    compiled = torch.compile(
        lambda q: dcl.solve_qp(eye, q, lb=torch.zeros(3, **F64), mu=mu).x, fullgraph=True, backend="aot_eager"
    )
    close(compiled(q), known)
    close(gradients(compiled(q), [q]), gradients(known, [q]))


@pytest.mark.slow
def test_solve_qp_tells_what_no_graph_holds() -> None:
    q, eye, zero = torch.tensor([0.5, -1.0], **F64, requires_grad=True), torch.eye(2, **F64), torch.zeros(2, **F64)

    def f(q: Tensor) -> Tensor:
        result, solution = dcl.solve_qp(eye, q, lb=zero, return_solution=True)
        return result.x * solution.ok

    close(torch.compile(f, backend="aot_eager")(q), torch.relu(-q))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a dcl layer takes"):
        torch.compile(f, fullgraph=True, backend="aot_eager")(q)
    torch._dynamo.reset()
    compiled = torch.compile(func.grad(lambda q: (dcl.solve_qp(eye, q, lb=zero).x ** 3).sum()), backend="aot_eager")
    close(compiled(q.detach()), func.grad(lambda q: (torch.relu(-q) ** 3).sum())(q.detach()))
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match="q must be real floating point"):
        torch.compile(lambda q: dcl.solve_qp(eye, q).x, fullgraph=True, backend="aot_eager")(torch.ones(2).long())


@pytest.mark.slow
def test_layers_that_share_code_are_not_confused() -> None:
    """Two layers, and a copy of one after it is gone."""
    tight, loose = Box(dcl.QPLayer(mu=1e-3)), Box(dcl.QPLayer())
    t = torch.randn(4, 2, **F64)
    for model in (tight, loose, tight):
        close(torch.compile(model, fullgraph=True, backend="aot_eager")(t), model(t), ROUNDING)
    twin = copy.deepcopy(tight)
    del tight, model
    close(torch.compile(twin, fullgraph=True, backend="aot_eager")(t), twin(t), ROUNDING)


def test_errors_and_warnings_come_through() -> None:
    layer = dcl.QPLayer()
    one = torch.ones(2, **F64)
    compiled = torch.compile(
        lambda q, lb: layer(torch.eye(2, **F64), q, lb=lb, ub=one).x, fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(dcl.InputError, match=r"q\[1\] is nan at batch index \(2,\)"):
        compiled(torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, torch.nan]], **F64), -one)
    with pytest.raises(dcl.SolveError, match="PRIMAL_INFEASIBLE"):
        compiled(one, 2.0 * one)
    with pytest.warns(dcl.DegenerateWarning, match="WEAKLY_ACTIVE"):
        compiled(torch.tensor([1.0, 0.3], **F64, requires_grad=True), -one)
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match="lb has shape"):
        compiled(one, -torch.ones(3, **F64))


def test_vmap_inside_of_a_whole_graph() -> None:
    layer = cvxpy_ball()
    c, r = torch.randn(5, 3, **F64, requires_grad=True), torch.rand(2, **F64)

    def f(c: Tensor, r: Tensor) -> Tensor:
        return func.vmap(lambda one: layer(one, r)[0])(c)  # (5, 2, 3)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    known = ball(c.unsqueeze(1), r)[0]
    close(compiled(c, r), known)
    close(gradients(compiled(c, r), [c]), gradients(known, [c]))


def loss(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda c: (layer(c, torch.tensor(0.5, **F64))[0] ** 3).sum()


def known_loss(c: Tensor) -> Tensor:
    return (ball(c, torch.tensor(0.5, **F64))[0] ** 3).sum()


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "grad": func.grad,
    "vmap of grad": lambda f: lambda c: func.vmap(func.grad(f))(c.repeat(2, 1)),
    "jvp": lambda f: lambda c: func.jvp(f, (c,), (torch.ones_like(c),))[1],
    "jacrev": func.jacrev,
    "jacfwd": func.jacfwd,
    "hessian": func.hessian,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("grad", "jvp") else pytest.mark.slow) for name in TRANSFORMS]
)
def test_transforms_inside_of_a_compiled_region(name: str) -> None:
    """Right, outside of the graph; with fullgraph=True torch says that there is no whole graph, and dcl says why."""
    f, transform, c = loss(cvxpy_ball()), TRANSFORMS[name], torch.tensor([1.0, -2.0, 0.5], **F64)
    close(torch.compile(transform(f), backend="aot_eager")(c), transform(known_loss)(c))
    torch._dynamo.reset()  # it remembers code that has no whole graph
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a dcl layer takes"):
        torch.compile(transform(f), fullgraph=True, backend="aot_eager")(c)


@pytest.mark.parametrize("name", ["grad", "jvp", "vmap of grad"])
def test_transforms_of_a_compiled_function(name: str) -> None:
    c = torch.tensor([1.0, -2.0, 0.5], **F64)
    compiled = torch.compile(loss(cvxpy_ball()), backend="aot_eager")
    close(TRANSFORMS[name](compiled)(c), TRANSFORMS[name](known_loss)(c))


def test_forward_mode_is_never_silently_zero() -> None:
    c = torch.tensor([1.0, -2.0, 0.5], **F64)
    tangent = torch.tensor([0.3, 0.2, -1.0], **F64)
    want = func.jvp(known_loss, (c,), (tangent,))[1]
    for fullgraph, called_before in itertools.product((False, True), (False, True)):
        torch._dynamo.reset()
        compiled = torch.compile(loss(cvxpy_ball()), fullgraph=fullgraph, backend="aot_eager")
        if called_before:
            close(compiled(c), known_loss(c))
        with forward_ad.dual_level():
            if not fullgraph:
                close(forward_ad.unpack_dual(compiled(forward_ad.make_dual(c, tangent))).tangent, want)
                continue
            with pytest.raises(torch._dynamo.exc.Unsupported, match="a dcl layer takes"):
                compiled(forward_ad.make_dual(c, tangent))


def test_double_backward_of_a_compiled_region_is_an_error() -> None:
    c = torch.tensor([1.0, -2.0, 0.5], **F64, requires_grad=True)
    compiled = torch.compile(loss(cvxpy_ball()), fullgraph=True, backend="aot_eager")
    (g,) = torch.autograd.grad(compiled(c), c, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(g.sum(), c)
    (g,) = torch.autograd.grad(torch.compile(loss(cvxpy_ball()), backend="eager")(c), c, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(g.sum(), c)


@pytest.mark.slow
def test_options_that_no_graph_holds_run_uncompiled() -> None:
    layer, c, r = cvxpy_ball(), torch.tensor([1.0, -2.0, 0.5], **F64), torch.tensor(0.5, **F64)
    for options in ({"return_solution": True}, {"solver_args": {"eps": 1e-9}}, {"mu": 0.1, "straight_through": True}):

        def f(c: Tensor, options: dict[str, Any] = options) -> Any:
            out = layer(c, r, **options)
            return out[0][0] if "return_solution" in options else out[0]

        close(torch.compile(f, backend="aot_eager")(c), ball(c, r)[0])
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="a dcl layer takes"):
            torch.compile(f, fullgraph=True, backend="aot_eager")(c)


@pytest.mark.slow
def test_the_compiler_is_imported_by_those_who_compile() -> None:
    """It takes more than a second."""
    code = "import dcl, sys, torch; dcl.solve_qp(None, torch.ones(1), lb=torch.ones(1)); print('torch._dynamo' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"


def test_mu_that_requires_a_gradient_gets_it() -> None:
    layer, mu, q = dcl.QPLayer(), torch.tensor(0.1, **F64, requires_grad=True), torch.ones(2, **F64)

    def call(q: torch.Tensor) -> torch.Tensor:
        return layer(None, q, lb=-torch.ones(2, **F64), ub=torch.ones(2, **F64), mu=mu).x.sum()

    (found,) = torch.autograd.grad(torch.compile(call, backend="aot_eager", fullgraph=True)(q), mu)
    torch.testing.assert_close(found, torch.autograd.grad(call(q), mu)[0], rtol=1e-12, atol=1e-13)


@pytest.mark.slow
def test_numbers_as_bounds_in_a_whole_graph() -> None:
    layer, q = dcl.QPLayer(), torch.tensor([0.5, -0.5, -3.0], **F64)
    call = torch.compile(
        lambda q, ub: layer(torch.eye(3, **F64), q, lb=0, ub=ub).x, fullgraph=True, backend="aot_eager"
    )
    for ub in (1.0, 0.25, 2.0):
        torch.testing.assert_close(call(q, ub), (-q).clamp(0.0, ub), rtol=1e-12, atol=1e-13)


@pytest.mark.slow
def test_mu_inside_of_vmap_has_the_shape_of_one_call() -> None:
    layer, q = dcl.QPLayer(), torch.linspace(-1.0, 1.0, 12, **F64).reshape(3, 4, 1)

    def call(q: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
        return layer(torch.eye(1, **F64), q, lb=torch.zeros(1, **F64), mu=mu).x

    one = torch.compile(lambda q, mu: torch.func.vmap(call)(q, mu), backend="aot_eager", fullgraph=True)
    for mu in (torch.tensor([0.1, 0.2, 0.3], **F64), torch.linspace(0.1, 1.2, 12, **F64).reshape(3, 4)):
        at = mu.reshape(3, -1, 1)
        torch.testing.assert_close(one(q, mu), 0.5 * (-q + torch.sqrt(q * q + 4.0 * at)), rtol=1e-9, atol=1e-12)
    shared = torch.compile(lambda q, mu: torch.func.vmap(lambda q: call(q, mu))(q), backend="aot_eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match="mu has shape"):
        shared(q[:, 0], torch.full((3,), 0.1, **F64))


def test_mu_of_the_layer_that_requires_a_gradient_gets_it() -> None:
    mu, q = torch.tensor([0.1, 0.2], **F64, requires_grad=True), torch.tensor([[1.0], [-0.5]], **F64)
    layer = dcl.QPLayer(mu=mu)

    def call(q: torch.Tensor) -> torch.Tensor:
        return layer(torch.eye(1, **F64), q, lb=torch.zeros(1, **F64)).x.sum()

    (found,) = torch.autograd.grad(torch.compile(call, backend="aot_eager", fullgraph=True)(q), mu)
    # x - mu / x + q = 0
    torch.testing.assert_close(found, 1.0 / torch.sqrt(q[:, 0].square() + 4.0 * mu.detach()), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_no_doubt_where_no_derivative_is_asked_for() -> None:
    layer = dcl.QPLayer(on_degenerate="raise")
    compiled = torch.compile(
        lambda q: layer(torch.eye(2, **F64), q, lb=torch.zeros(2, **F64)).x, fullgraph=True, backend="aot_eager"
    )
    q = torch.tensor([0.0, -1.0], **F64)
    close(compiled(q), torch.relu(-q), ROUNDING)
    with pytest.raises(dcl.DegenerateError):
        compiled(q.requires_grad_())


@pytest.mark.slow
def test_an_argmin_layer_runs_beside_the_graph() -> None:
    layer = dcl.ArgminLayer(lambda y, a: ((y - a) ** 2).sum(), inequality=lambda y, a: y - 1.0)
    a = torch.tensor([0.3, 3.0], **F64, requires_grad=True)

    def f(a: Tensor) -> Tensor:
        return layer(torch.zeros(2, **F64), 2.0 * a)

    close(torch.compile(f, backend="aot_eager")(a), (2.0 * a).clamp(max=1.0), 1e-8)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="ArgminLayer is not part of a compiled graph"):
        torch.compile(f, fullgraph=True, backend="aot_eager")(a)


needs_core = pytest.mark.skipif(not core.available, reason=f"no compiled core: {core.reason}")


def simplex(v: Tensor) -> Tensor:
    """The projection onto {x >= 0, sum(x) = 1} (Held, Wolfe, Crowder 1974)."""
    ordered = v.sort(-1, descending=True).values
    places = torch.arange(1, v.shape[-1] + 1, **F64)
    excess = (ordered.cumsum(-1) - 1.0) / places
    last = (ordered > excess).sum(-1, keepdim=True) - 1
    return (v - excess.gather(-1, last)).clamp(min=0.0)


def cvxpy_simplex() -> Callable[[Tensor], Tensor]:
    """Its way is a reduced program: the residual and its sum of two parameters are taken out."""
    x, c, d = cp.Variable(4), cp.Parameter(4), cp.Parameter(4)
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - (c + d))), [x >= 0, cp.sum(x) == 1]), [c, d], [x])
    return lambda c: layer(c, 0.5 * c)[0]


def qp_simplex() -> Callable[[Tensor], Tensor]:
    layer, one = dcl.QPLayer(), torch.ones(1, 4, **F64)
    return lambda c: layer(torch.eye(4, **F64), -1.5 * c, A=one, b=torch.ones(1, **F64), lb=torch.zeros(4, **F64)).x


def qp_simplex_with_rows() -> Callable[[Tensor], Tensor]:
    layer, one = dcl.QPLayer(mu=0.0), torch.ones(1, 4, **F64)
    G, zero = -torch.eye(4, **F64), torch.zeros(4, **F64)
    return lambda c: layer(torch.eye(4, **F64), -1.5 * c, A=one, b=torch.ones(1, **F64), G=G, h=zero).x


@pytest.mark.sample(3)
@needs_core
@pytest.mark.parametrize("fullgraph", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "backend", ["aot_eager", *(pytest.param(b, marks=pytest.mark.slow) for b in ("eager", "inductor"))]
)
@pytest.mark.parametrize("make", [cvxpy_simplex, qp_simplex, qp_simplex_with_rows])
def test_the_core_alone_answers_in_a_graph(make: Any, backend: str, fullgraph: bool, monkeypatch: Any) -> None:
    def careful(*_: Any, **__: Any) -> None:
        raise AssertionError("the careful lane was asked")

    monkeypatch.setattr(Engine, "solve", careful)
    f = make()
    compiled = torch.compile(lambda c: torch.sin(f(torch.cos(c))), fullgraph=fullgraph, backend=backend)
    for size in (4, 9):
        c = torch.randn(size, 4, **F64, requires_grad=True)
        known = torch.sin(simplex(1.5 * torch.cos(c)))
        close(compiled(c), known)
        close(gradients(compiled(c), [c]), gradients(known, [c]))
        with torch.no_grad():
            close(compiled(c), known)


@needs_core
def test_in_a_graph_the_careful_lane_answers_what_the_core_leaves(monkeypatch: Any) -> None:
    """The second of three instances is at a tie, where the derivative of the clamp is one half."""
    batches, solve = [], Engine.solve

    def careful(self: Any, program: Any, *args: Any, **options: Any) -> Any:
        batches.append(program.batch)
        return solve(self, program, *args, **options)

    monkeypatch.setattr(Engine, "solve", careful)
    layer, one = dcl.QPLayer(on_degenerate="ignore"), torch.ones(2, **F64)
    compiled = torch.compile(
        lambda q, scale: layer(torch.eye(2, **F64), scale * q, lb=-one, ub=one).x, fullgraph=True, backend="aot_eager"
    )
    q = torch.tensor([[0.5, 3.0], [1.0, 0.2], [-0.4, -0.3]], **F64, requires_grad=True)
    scale = torch.tensor(1.0, **F64, requires_grad=True)
    x = compiled(q, scale)
    close(x, (-q).clamp(-1.0, 1.0))
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], **F64)
    slope = torch.tensor([[-1.0, 0.0], [-0.5, -1.0], [-1.0, -1.0]], **F64)
    found = torch.autograd.grad((weights * x).sum(), [q, scale])
    close(found, (weights * slope, (weights * slope * q.detach()).sum()))
    assert batches == [1, 1]  # forward, and the derivative at its point


@pytest.mark.slow
@needs_core
def test_what_a_graph_keeps_goes_with_it() -> None:
    f = torch.compile(qp_simplex(), fullgraph=True, backend="aot_eager")
    gc.collect()
    before = len(past._pasts)
    c = torch.randn(3, 4, **F64, requires_grad=True)
    x = f(c)
    assert len(past._pasts) == before + 1
    x.sum().backward()
    del x
    gc.collect()
    assert len(past._pasts) == before
    with torch.no_grad():
        f(c)
    assert len(past._pasts) == before


@needs_core
def test_a_copy_of_what_a_graph_keeps_is_solved_again() -> None:
    """As where saved tensors are moved away from the device and back."""
    f = torch.compile(qp_simplex(), fullgraph=True, backend="aot_eager")
    c = torch.randn(3, 4, **F64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        x = f(c)
    close(gradients(x, [c]), gradients(simplex(1.5 * c), [c]))


@needs_core
def test_the_core_keeps_its_data_where_a_graph_uses_their_memory_again() -> None:
    layer, g = dcl.QPLayer(), torch.tensor([[1.0, 2.0, 3.0]], **F64)
    P, q = torch.diag(torch.tensor([2.0, 4.0, 5.0], **F64)), torch.tensor([[1.0, -3.0, 2.0]], **F64)
    found = torch.ops.dcl.layer(layer._handle, "P,q", [P, q], None, [True, True])
    kept = [P.clone(), q.clone()]
    P.zero_()
    q.fill_(torch.nan)
    grads = [g, *(torch.zeros_like(t) for t in found[1:-1])]
    (dq,) = torch.ops.dcl.layer_backward(layer._handle, "P,q", kept, None, [1], found[-1], grads)
    close(dq, -g / torch.tensor([2.0, 4.0, 5.0], **F64))

"""Bad inputs: a typed error that names argument and batch index, before any solver runs; never a wrong answer."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import cvxpy as cp
import numpy as np
import pytest
import torch

import dcl
from dcl.frontends.batching import batching
from dcl.solvers import AbstractSolver, Clarabel, Daqp, Osqp, Piqp

NAN, INF = float("nan"), float("inf")
N, ROWS, EQUALITIES = 3, 2, 1


@dataclass(frozen=True, kw_only=True)
class Forbidden(AbstractSolver):
    """A solver that must not be reached."""

    name: ClassVar[str] = "FORBIDDEN"
    releases_gil: ClassVar[bool] = False
    warm_starts: ClassVar[bool] = False
    gives_certificates: ClassVar[bool] = False
    gives_basic_duals: ClassVar[bool] = False
    limits_time: ClassVar[bool] = True

    def solve(self, program, rows, out, start=None, stop=None):
        raise AssertionError("a solver ran on bad input")


LAYERS = {failure: dcl.QPLayer(Forbidden(), on_failure=failure) for failure in ("raise", "nan", "last")}


def qp(batch=()):
    """A regular program: every argument with these batch dimensions."""
    rng = np.random.default_rng(1)
    data = {
        "P": np.eye(N) + 0.1,
        "q": rng.standard_normal(N),
        "A": np.ones((EQUALITIES, N)),
        "b": np.ones(EQUALITIES),
        "G": rng.standard_normal((ROWS, N)),
        "h": np.full(ROWS, 4.0),
        "lb": np.full(N, -5.0),
        "ub": np.full(N, 6.0),
    }
    return {name: torch.tensor(value).expand(*batch, *value.shape).clone() for name, value in data.items()}


def refused(error, argument, index, call, *args, **kwargs):
    """The error that the call raises, after a look at what it says."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert caught.value.argument == argument
    assert caught.value.index == index
    assert argument in str(caught.value)
    if index:
        assert str(index) in str(caught.value)
    return caught.value


ARGUMENTS = ["P", "q", "A", "b", "G", "h", "lb", "ub"]
LEGAL = {("h", INF), ("ub", INF), ("lb", -INF)}
NOT_FINITE = [(name, value) for name in ARGUMENTS for value in (NAN, INF, -INF) if (name, value) not in LEGAL]
PLACES = [((), ()), ((4,), (0,)), ((4,), (3,)), ((2, 3), (1, 2))]
each_argument = pytest.mark.parametrize("name", ARGUMENTS)
each_place = pytest.mark.parametrize(("batch", "index"), PLACES, ids=lambda shape: "x".join(map(str, shape)) or "none")


# QPLayer: values


@pytest.mark.sample(5)
@each_place
@pytest.mark.parametrize(("name", "value"), NOT_FINITE)
def test_values_that_are_not_finite(name, value, batch, index):
    data = qp(batch)
    data[name][(*index, *[-1] * (data[name].ndim - len(batch)))] = value
    error = refused(dcl.InputError, name, index, LAYERS["raise"], **data)
    assert str(value) in str(error)


@pytest.mark.parametrize("failure", ["nan", "last"])
@each_argument
def test_nan_is_an_error_whatever_on_failure_says(name, failure):
    data = qp((2,))
    data[name][1].view(-1)[0] = NAN
    refused(dcl.InputError, name, (1,), LAYERS[failure], **data)


@each_argument
def test_shared_bad_values_have_no_batch_index(name):
    data = qp((2,))
    data[name] = data[name][0]
    data[name].view(-1)[-1] = NAN
    refused(dcl.InputError, name, (), LAYERS["raise"], **data)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize(("name", "value"), sorted(LEGAL))
def test_infinite_bounds_bind_nothing(name, value, batch):
    data = qp(batch)
    data[name][..., 0] = value
    absent = qp(batch)
    absent[name][..., 0] = np.copysign(50.0, value)  # not active: solutions are below 6
    leaf = data[name].requires_grad_()
    result = dcl.QPLayer()(**data)
    torch.testing.assert_close(result, dcl.QPLayer()(**absent), rtol=1e-10, atol=1e-10)
    result.x.sum().backward()
    assert (leaf.grad[..., 0] == 0.0).all()
    multiplier = {"h": result.z, "lb": result.z_lb, "ub": result.z_ub}[name]
    assert (multiplier[..., 0] == 0.0).all()


NOT_CONVEX = {
    "negative": -np.eye(N),
    "one negative eigenvalue": np.diag([1.0, 2.0, -1e-6]),
    "zero diagonal": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "symmetric part": np.array([[1.0, 9, 0], [0, 1, 0], [0, 0, 1]]),
    "tiny": -1e-200 * np.eye(N),
}


@each_place
@pytest.mark.parametrize("kind", NOT_CONVEX)
def test_P_that_is_not_positive_semidefinite(kind, batch, index):
    data = qp(batch)
    data["P"][index] = torch.tensor(NOT_CONVEX[kind])
    error = refused(dcl.InputError, "P", index, LAYERS["raise"], **data)
    assert "positive semidefinite" in str(error)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_rounding_is_not_indefiniteness(dtype):
    L = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    P = L @ L.T  # rank 3, eigenvalues below zero by rounding
    q, bound = torch.linspace(-1, 1, 8, dtype=dtype), torch.ones(8, dtype=dtype)
    x, exact = dcl.QPLayer()(P, q, lb=-bound, ub=bound).x, P.double()
    assert float(torch.linalg.eigvalsh(exact)[0]) < 0.0
    x = x.double()
    moved = (x - (exact @ x + q.double())).clamp(-1.0, 1.0)
    assert float((moved - x).abs().max()) < 100 * torch.finfo(dtype).eps


# QPLayer: shapes, types


# (argument, its shape, the argument that is named): where rows or columns differ, the later one does not fit
WRONG_SHAPES = [
    ("P", (N, N + 1), "P"), ("P", (N + 1, N + 1), "P"), ("P", (N,), "P"), ("P", (), "P"), ("P", (0, 0), "P"),
    ("q", (), "q"), ("q", (0,), "q"), ("q", (N + 1,), "P"), ("q", (N, 1), "P"),
    ("A", (), "A"), ("A", (N,), "A"), ("A", (EQUALITIES, N - 1), "A"), ("A", (EQUALITIES + 1, N), "b"), ("A", (0, N), "b"),
    ("b", (), "b"), ("b", (EQUALITIES + 1,), "b"), ("b", (0,), "b"),
    ("G", (N, ROWS), "G"), ("G", (ROWS, N + 1), "G"), ("G", (ROWS,), "G"), ("G", (ROWS + 1, N), "h"), ("G", (0, N), "h"),
    ("h", (), "h"), ("h", (ROWS + 1,), "h"), ("h", (ROWS, 1), "h"), ("h", (1,), "h"), ("h", (0,), "h"),
    ("lb", (1,), "lb"), ("lb", (N + 1,), "lb"), ("lb", (0,), "lb"),
    ("ub", (1,), "ub"), ("ub", (N + 1,), "ub"), ("ub", (N, 1), "ub"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "named"), WRONG_SHAPES)
def test_wrong_shapes(name, shape, named):
    data = qp()
    data[name] = torch.ones(shape, dtype=torch.float64)
    refused(dcl.InputError, named, (), LAYERS["raise"], **data)


@each_argument
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex128], ids=str)
def test_wrong_dtypes(name, dtype):
    data = qp((2,))
    data[name] = data[name].to(dtype)
    error = refused(dcl.DtypeError, name, (), LAYERS["raise"], **data)
    assert isinstance(error, TypeError)
    assert str(dtype) in str(error)


@each_argument
@pytest.mark.parametrize("make", [torch.Tensor.tolist, str], ids=["list", "str"])
def test_not_tensors(name, make):
    data = qp()
    data[name] = make(data[name])
    error = refused(dcl.InputError, name, (), LAYERS["raise"], **data)
    assert type(data[name]).__name__ in str(error)


@pytest.mark.parametrize("name", ["q", "b", "h", "lb", "ub"])
def test_sparse_vectors(name):
    data = qp()
    data[name] = data[name].to_sparse()
    assert "to_dense" in str(refused(dcl.InputError, name, (), LAYERS["raise"], **data))


@each_argument
@pytest.mark.parametrize("batch", [(3,), (2, 3), (0,)], ids=str)
def test_inconsistent_batches(name, batch):
    data = {k: v if k == name else v.expand(2, *v.shape) for k, v in qp().items()}
    data[name] = data[name].expand(*batch, *data[name].shape)
    first = "q" if name == "P" else name  # P comes first: what does not fit is the one after it
    assert "batch shape" in str(refused(dcl.InputError, first, (), LAYERS["raise"], **data))


@pytest.mark.parametrize("name", ["A", "b", "G", "h"])
def test_half_of_a_pair(name):
    data = qp()
    del data[name]
    assert "missing" in str(refused(dcl.InputError, name, (), LAYERS["raise"], **data))


def test_q_is_needed():
    refused(dcl.InputError, "q", (), LAYERS["raise"], torch.eye(2).double(), None)


# Options


def _solve(**settings):
    return dcl.QPLayer(**settings)(**qp())


OPTIONS = [
    ({"solver": "GUROBI"}, dcl.OptionError, "solver", "DAQP"),
    ({"solver": ""}, dcl.OptionError, "solver", "OSQP"),
    ({"solver": Clarabel}, dcl.OptionError, "solver", "CLARABEL"),
    ({"solver_args": {"epss": 1e-9}}, dcl.OptionError, "solver_args", "max_iters"),
    ({"solver": "osqp", "solver_args": {"alpha": 1.6}}, dcl.OptionError, "solver_args", "rho"),
    ({"solver_args": ["eps"]}, dcl.OptionError, "solver_args", "dict"),
    ({"solver_args": {"eps": 0.0}}, dcl.OptionError, "eps", "positive"),
    ({"solver_args": {"eps": NAN}}, dcl.OptionError, "eps", "positive"),
    ({"solver_args": {"max_iters": 2.5}}, dcl.OptionError, "max_iters", "integer"),
    ({"solver": "PIQP", "solver_args": {"time_limit": 1.0}}, dcl.OptionError, "time_limit", "PIQP"),
    ({"on_failure": "ignore"}, dcl.InputError, "on_failure", "nan"),
    ({"on_failure": None}, dcl.InputError, "on_failure", "last"),
    ({"on_degenerate": "nan"}, dcl.InputError, "on_degenerate", "warn"),
    ({"mu": -1e-3}, dcl.InputError, "mu", "negative"),
    ({"mu": NAN}, dcl.InputError, "mu", "nan"),
    ({"mu": INF}, dcl.InputError, "mu", "inf"),
    ({"mu": "small"}, dcl.DtypeError, "mu", "str"),
    ({"mu": True}, dcl.DtypeError, "mu", "bool"),
    ({"mu": torch.tensor(-1.0)}, dcl.InputError, "mu", "positive"),
    ({"mu": torch.tensor([0.0, -1.0])}, dcl.InputError, "mu", "positive or zero"),
    ({"mu": torch.tensor(NAN)}, dcl.InputError, "mu", "nan"),
    ({"mu": torch.tensor(1j)}, dcl.DtypeError, "mu", "complex"),
    ({"mu": torch.tensor(True)}, dcl.DtypeError, "mu", "bool"),
]


@pytest.mark.parametrize(("settings", "error", "argument", "words"), OPTIONS, ids=lambda v: str(v)[:40])
def test_options_of_a_layer(settings, error, argument, words):
    with pytest.raises(error, match=words) as caught:
        dcl.QPLayer(**settings)
    assert caught.value.argument == argument
    x, b = cp.Variable(2), cp.Parameter(2)
    with pytest.raises(error, match=words) as caught:
        dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b))), [b], [x], **settings)
    assert caught.value.argument == argument


PER_CALL = [(s, *rest) for s, *rest in OPTIONS if set(s) <= {"solver_args", "mu"}]


@pytest.mark.parametrize(("settings", "error", "argument", "words"), PER_CALL, ids=lambda v: str(v)[:40])
def test_options_of_a_call(settings, error, argument, words):
    with pytest.raises(error, match=words) as caught:
        dcl.QPLayer()(**qp(), **settings)
    assert caught.value.argument == argument


@pytest.mark.parametrize("shape", [(2,), (3, 2), (6,), (1, 2, 3), (0,)], ids=str)
def test_mu_that_does_not_fit_the_batch(shape):
    refused(dcl.InputError, "mu", (), LAYERS["raise"], **qp((2, 3)), mu=torch.full(shape, 0.1))


def test_mu_names_the_instance():
    mu = torch.full((2, 3), 0.1)
    mu[1, 0] = -0.1
    refused(dcl.InputError, "mu", (1, 0), LAYERS["raise"], **qp((2, 3)), mu=mu)


def _warm_starts():
    good = dcl.QPLayer().solve(**qp((2,)))
    other_n = dcl.QPLayer().solve(None, torch.ones(2, 2), lb=torch.zeros(2), ub=torch.ones(2))
    return [good, other_n, dcl.QPLayer().solve(**qp()), good.x, 3.0, "yes", {"x": good.x}]


def test_warm_starts_that_do_not_fit():
    good, *bad = _warm_starts()
    torch.testing.assert_close(dcl.QPLayer()(**qp((2,)), warm_start=good).x, good.outputs[0])
    for start in bad:
        refused(dcl.InputError, "warm_start", (), LAYERS["raise"], **qp((2,)), warm_start=start)


# CvxpyLayer


X = cp.Variable(N, name="x")
LEFT, RIGHT = cp.Parameter((4, N), name="left"), cp.Parameter(4, name="right")
WEIGHT, QUADRATIC = cp.Parameter(nonneg=True, name="weight"), cp.Parameter((N, N), PSD=True, name="quadratic")
TOP = cp.Parameter(N, name="top", pos=True)
PARAMETERS = [LEFT, RIGHT, WEIGHT, QUADRATIC, TOP]
NAMES = [parameter.name() for parameter in PARAMETERS]
PROBLEM = cp.Problem(
    cp.Minimize(cp.sum_squares(LEFT @ X - RIGHT) + WEIGHT * cp.norm1(X) + cp.quad_form(X, QUADRATIC)), [X <= TOP]
)
LAYER = dcl.CvxpyLayer(PROBLEM, PARAMETERS, [X], solver=Forbidden())
each_parameter = pytest.mark.parametrize("name", NAMES)


def values(batch=()):
    rng = np.random.default_rng(2)
    data = [rng.standard_normal((4, N)), rng.standard_normal(4), np.array(0.3), np.eye(N), np.full(N, 2.0)]
    return {k: torch.tensor(v).expand((*batch, *v.shape)).clone() for k, v in zip(NAMES, data, strict=True)}


def test_the_values_are_good():
    layer = dcl.CvxpyLayer(PROBLEM, PARAMETERS, [X])
    assert torch.isfinite(layer(*values((2,)).values())[0]).all()


@pytest.mark.sample(7)
@each_place
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@each_parameter
def test_parameters_that_are_not_finite(name, value, batch, index):
    data = values(batch)
    data[name][(*index, *[-1] * (data[name].ndim - len(batch)))] = value
    assert str(value) in str(refused(dcl.InputError, name, index, LAYER, *data.values()))


@each_place
@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", -0.1), ("top", -1.0), ("quadratic", -1.0), ("quadratic", [[1.0, 9, 0], [9, 1, 0], [0, 0, 1]])],
    ids=lambda v: str(v)[:9],
)
def test_parameters_outside_of_their_domain(name, value, batch, index):
    data = values(batch)
    bad = torch.tensor(value, dtype=torch.float64)
    data[name][index] = bad if bad.ndim else bad * torch.ones_like(values()[name])
    assert "domain" in str(refused(dcl.InputError, name, index, LAYER, *data.values()))


@each_parameter
@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64], ids=str)
def test_parameters_of_a_wrong_dtype(name, dtype):
    data = values()
    data[name] = data[name].to(dtype)
    assert str(dtype) in str(refused(dcl.DtypeError, name, (), LAYER, *data.values()))


@each_parameter
def test_parameters_that_are_not_tensors(name):
    for make in (lambda t: [t.tolist()], str):
        data = values()
        data[name] = make(data[name])
        refused(dcl.InputError, name, (), LAYER, *data.values())
    data[name] = values()[name].to_sparse()
    refused(dcl.InputError, name, (), LAYER, *data.values())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("left", (N, 4)), ("left", (4, N + 1)), ("left", (4,)), ("left", ()), ("left", (0, N)),
        ("right", ()), ("right", (5,)), ("right", (4, 1)), ("right", (1,)), ("right", (0,)),
        ("quadratic", (N,)), ("quadratic", (N, 1)), ("top", (1,)), ("top", (2, 1)),
    ],
)  # fmt: skip
def test_parameters_of_a_wrong_shape(name, shape):
    data = values()
    data[name] = torch.ones(shape, dtype=torch.float64)
    refused(dcl.InputError, name, (), LAYER, *data.values())


@each_parameter
def test_parameters_of_another_batch(name):
    data = values((2,))
    data[name] = values((3,))[name]
    first = "right" if name == "left" else name
    assert "batch shape" in str(refused(dcl.InputError, first, (), LAYER, *data.values()))


@pytest.mark.parametrize("count", [0, 4, 6])
def test_number_of_parameters(count):
    given = [*values().values(), torch.ones(())][:count]
    with pytest.raises(dcl.InputError, match=r"takes 5 tensors \(left, right, weight, quadratic, top\)"):
        LAYER(*given)


# What only a solver can find


each_solver = pytest.mark.parametrize("solver", [None, "DAQP", "PIQP", "OSQP", "CLARABEL"])
INFEASIBLE = {"lb": [2.0, 0, 0], "ub": [1.0, 9, 9]}


@each_solver
@each_place
def test_one_infeasible_instance(solver, batch, index):
    data = qp(batch)
    for name, value in INFEASIBLE.items():
        data[name][index] = torch.tensor(value, dtype=torch.float64)
    with pytest.raises(dcl.SolveError) as caught:
        dcl.QPLayer(solver)(**data)
    assert caught.value.indices == [index]
    assert caught.value.statuses == [dcl.Status.PRIMAL_INFEASIBLE]
    if index:
        assert str(index) in str(caught.value)


@each_solver
@each_place
def test_one_unbounded_instance(solver, batch, index):
    data = qp(batch)
    data["P"][index] = 0.0
    data["q"][index] = torch.tensor([1.0, -1.0, 0.0])
    data["lb"][index], data["ub"][index] = -INF, INF
    data["G"][index], data["h"][index] = 0.0, 1.0
    with pytest.raises(dcl.SolveError) as caught:
        dcl.QPLayer(solver)(**data)
    assert caught.value.indices == [index]
    assert caught.value.statuses == [dcl.Status.DUAL_INFEASIBLE]


# Huge and tiny numbers: right, or said to be wrong


@pytest.mark.parametrize("scale", [1e-300, 1e-100, 1e-30, 1e-12, 1e12, 1e30, 1e100, 1e300])
@pytest.mark.parametrize("name", ["P", "q", "G", "h"])
def test_extreme_numbers_are_solved_or_refused(name, scale):
    data = {k: v for k, v in qp().items() if k in "PqGh"}
    data[name] = data[name] * scale
    leaves = {k: v.requires_grad_() for k, v in data.items()}
    try:
        result, solution = dcl.QPLayer(on_degenerate="ignore")(**leaves, return_solution=True)
    except dcl.SolveError:
        return
    P, q, G, h = (data[k].detach().numpy() for k in "PqGh")
    x, z = result.x.detach().numpy(), result.z.detach().numpy()
    terms = [np.abs(P @ x).max(), np.abs(q).max(), np.abs(G.T @ z).max()]
    assert np.abs(P @ x + q + G.T @ z).max() <= 1e-7 * max(1.0, *terms)
    assert (z >= 0.0).all()
    assert (G @ x - h <= 1e-7 * np.maximum(1.0, np.abs(G) @ np.abs(x) + np.abs(h))).all()
    result.x.sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves.values())
    assert solution.ok


# Nothing of the caller's is written to


@pytest.mark.parametrize("solver", [Daqp(), Piqp(), Osqp(), Clarabel()], ids=lambda s: s.name)
@pytest.mark.parametrize("mu", [0.0, 0.01])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_inputs_are_not_modified(solver, mu, batch):
    data = {k: v.requires_grad_() for k, v in qp(batch).items()}
    data["h"].data[..., 0] = INF
    before = {k: v.detach().clone() for k, v in data.items()}
    versions = {k: v._version for k, v in data.items()}
    options = {"eps": 1e-9}
    result, solution = dcl.QPLayer(solver, options, mu=mu)(**data, return_solution=True)
    sum(t.sum() for t in result).backward()
    assert (solution.gradient_kind == dcl.GradientKind.EXACT).all()
    for name, t in data.items():
        assert torch.equal(t, before[name])
        assert t._version == versions[name]
    assert options == {"eps": 1e-9}


def test_batch_shapes_broadcast_as_those_of_torch():
    shapes = [(), (1,), (3,), (0,), (2, 3), (2, 1), (1, 3), (4, 1, 3), (1, 1), (2, 2)]
    for a, b in product(shapes, shapes):
        given = [(name, torch.zeros(*shape, 2), 1) for name, shape in (("q", a), ("h", b))]
        try:
            expected = tuple(torch.broadcast_shapes(a, b))
        except RuntimeError:
            with pytest.raises(dcl.InputError, match="does not broadcast"):
                batching(given)
        else:
            assert batching(given).shape == expected

"""Solutions and gradients of regular programs against an oracle in 57 digits: 1,000 instances, 108 of them quick.

Every output (x, y, z, z_lb, z_ub, value) is differentiated with respect to every datum, for random cotangents.
Conditions of the KKT matrix run from 1 to 1e8; `tolerances` says how the error is measured.
"""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import draw, gradients, solve, tensors, wrong
from oracles.regular import KINDS, SIZES, Regular, instance
from tolerances import REGULAR
from torch.autograd import forward_ad

import dcl

# torch's forward mode imports parts of torch that warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

CONDITIONS = (1.0, 1e4, 1e8, 1e2, 1e6, 1e1, 1e3, 1e5, 1e7)
QUICK, ALL = range(3), range(3, 28)
SOLVERS = ("DAQP", "PIQP", "OSQP", "CLARABEL")


def known_program(kind: str, n: int, seed: int) -> Regular:
    return instance(kind, n, seed, CONDITIONS[seed % len(CONDITIONS)])


def label(kind: str, n: int, seed: int, known: Regular) -> str:
    return f"instance({kind!r}, {n}, {seed}, {CONDITIONS[seed % len(CONDITIONS)]:.0e}), condition {known.condition:.0e}"


def program_of(known: Regular, seed: int) -> dict:
    """Its data; every other LP is given with the matrix P = 0 instead of None, so that P has a gradient."""
    data = dict(known.data)
    if data["P"] is None and seed % 2:
        data["P"] = np.zeros((known.n, known.n))
    return data


def mistakes(kind: str, n: int, seed: int, **settings) -> list[str]:
    """What is wrong with the answer to one instance, [] if nothing is."""
    known = known_program(kind, n, seed)
    leaves, outputs, solution = solve(program_of(known, seed), **settings)
    found = [f"outputs: {text}" for text in wrong(outputs, known.solution, REGULAR)]
    if solution.gradient_kind != dcl.GradientKind.EXACT:
        found.append(f"flagged {dcl.GradientKind(int(solution.gradient_kind)).name}")
    for name, cotangent in draw(outputs, np.random.default_rng(seed)).items():
        exact = known.gradients({name: cotangent})
        found += [
            f"gradient of {name}: {t}" for t in wrong(gradients(leaves, outputs, {name: cotangent}), exact, REGULAR)
        ]
    return [f"{label(kind, n, seed, known)}: {text}" for text in found]


@pytest.mark.sample(4)
@pytest.mark.parametrize("n", [pytest.param(n, marks=[] if n < 100 else pytest.mark.slow) for n in SIZES])
@pytest.mark.parametrize("kind", KINDS)
def test_solution_and_gradients(kind, n):
    assert not [text for seed in QUICK for text in mistakes(kind, n, seed)]


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_solution_and_gradients_of_all(kind, n):
    assert not [text for seed in ALL for text in mistakes(kind, n, seed)]


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_solver_gives_the_same(kind, solver):
    """Polishing makes the solver's tolerance irrelevant."""
    cases = [(n, seed) for n in (1, 2, 5, 10, 30) for seed in (0, 1)]
    assert not [text for n, seed in cases for text in mistakes(kind, n, seed, solver=solver)]


# Forward mode


def tangents_of(known: Regular, data: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(a.shape) for name, a in data.items() if a is not None}


def push_dual(data: dict, direction: dict) -> dict[str, torch.Tensor]:
    """Derivative of every output by dual numbers."""
    leaves = tensors(data, requires_grad=False)
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(t, torch.from_numpy(direction[name])) for name, t in leaves.items()}
        result = dcl.solve_qp(**({"P": None} | duals), on_degenerate="ignore")
        moved = {name: forward_ad.unpack_dual(t).tangent for name, t in result._asdict().items()}
    return {name: t for name, t in moved.items() if t is not None}


def push_func(data: dict, direction: dict) -> dict[str, torch.Tensor]:
    """The same by torch.func.jvp."""
    leaves = tensors(data, requires_grad=False)

    def f(given):
        return dcl.solve_qp(**({"P": None} | given), on_degenerate="ignore")._asdict()

    _, moved = torch.func.jvp(f, (leaves,), ({name: torch.from_numpy(direction[name]) for name in leaves},))
    return moved


@pytest.mark.sample(7)
@pytest.mark.parametrize("push", [push_dual, push_func])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode(kind, n, push):
    found = []
    for seed in QUICK if n < 100 else QUICK[1:2]:
        known = known_program(kind, n, seed)
        data = program_of(known, seed)
        direction = tangents_of(known, data, np.random.default_rng(seed))
        moved, exact = push(data, direction), known.tangent(direction)
        present = {name: t for name, t in moved.items() if exact[name] is not None}
        assert present
        found += [f"{label(kind, n, seed, known)}: {text}" for text in wrong(present, exact, REGULAR)]
    assert not found


# torch's own checks, first and second order


def small(kind: str, n: int):
    """A function of the data, and its arguments; infinite bounds become far ones, because every entry is moved.

    Semidefinite P is M'M, which stays semidefinite when M is moved.
    """
    known = instance(kind, n, 5)
    leaves = tensors(
        {k: np.clip(v, -50, 50) if k in ("lb", "ub") and v is not None else v for k, v in known.data.items()}
    )
    if kind == "qp_semidefinite":
        values, vectors = np.linalg.eigh(known.data["P"])
        kept = values > 1e-12
        assert kept.sum() < n
        leaves["P"] = torch.tensor((vectors[:, kept] * np.sqrt(values[kept])).T, requires_grad=True)
    names = list(leaves)

    def f(*given):
        data = {"P": None} | dict(zip(names, given, strict=True))
        if kind == "qp_semidefinite":
            data["P"] = data["P"].mT @ data["P"]
        result = dcl.solve_qp(**data, on_degenerate="ignore")
        return tuple(t for t in result if t.numel())

    return f, tuple(leaves.values())


quick_for_some = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ("qp", "lp") else pytest.mark.slow) for kind in KINDS]
)


@quick_for_some
def test_gradcheck(kind):
    assert torch.autograd.gradcheck(*small(kind, 3), check_forward_ad=True)


@pytest.mark.sample(2)
@quick_for_some
def test_gradgradcheck(kind):
    assert torch.autograd.gradgradcheck(*small(kind, 2), check_fwd_over_rev=True)


# The same programs written in CVXPY


def as_layer(data: dict) -> tuple[dcl.CvxpyLayer, list[str], list[str]]:
    """The layer, the names of its parameters in the order of the call, and of its outputs."""
    n = len(data["q"])
    x = cp.Variable(n)
    parameters = {
        name: cp.Parameter(np.shape(a), PSD=True) if name == "P" else cp.Parameter(np.shape(a))
        for name, a in data.items()
        if a is not None
    }
    objective = parameters["q"] @ x
    if "P" in parameters:
        objective = objective + cp.quad_form(x, parameters["P"]) / 2
    rows = {}
    if "A" in parameters:
        rows["y"] = parameters["A"] @ x == parameters["b"]
    if "G" in parameters:
        rows["z"] = parameters["G"] @ x <= parameters["h"]
    if "lb" in parameters:
        rows["z_lb"], rows["z_ub"] = x >= parameters["lb"], x <= parameters["ub"]
    duals = [constraint.dual_variables[0] for constraint in rows.values()]
    problem = cp.Problem(cp.Minimize(objective), list(rows.values()))
    layer = dcl.CvxpyLayer(problem, list(parameters.values()), [x, *duals], on_degenerate="ignore")
    return layer, list(parameters), ["x", *rows]


@pytest.mark.sample(5)
@pytest.mark.parametrize("n", [1, 2, 5, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_cvxpy_layer(kind, n):
    known = instance(kind, n, 1, 1e3)
    data = dict(known.data)
    for name in ("lb", "ub"):  # CVXPY takes no infinite parameter
        if data[name] is not None:
            data[name] = np.clip(data[name], -50.0, 50.0)
    known = Regular(data, known.active)
    assert known.margin > 0.1
    layer, parameters, names = as_layer(data)
    leaves = {name: torch.tensor(data[name], requires_grad=True) for name in parameters}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = dict(zip(names, layer(*leaves.values()), strict=True))
    assert not wrong(outputs, known.solution, REGULAR)
    for name, cotangent in draw(outputs, np.random.default_rng(n)).items():
        exact = known.gradients({name: cotangent})
        assert not wrong(gradients(leaves, outputs, {name: cotangent}), exact, REGULAR)

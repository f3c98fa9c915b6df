"""Failed instances: what `on_failure` does, certificates checked in NumPy, solvers that lie, limits, Ctrl-C."""

import os
import re
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import cvxpy as cp
import numpy as np
import pytest
import torch

import dcl
from dcl.solve.polish import polish
from dcl.solvers import AbstractSolver, Claim, Clarabel, Daqp, Osqp
from dcl.status import Status

GOOD, INFEASIBLE, UNBOUNDED = 0, 1, 2
KINDS = [GOOD, INFEASIBLE, GOOD, UNBOUNDED, GOOD]
FAILED = [1, 3]
OUTPUTS = dcl.QPResult._fields
DATA = ["P", "q", "A", "b", "G", "h", "lb", "ub"]


def mixed(kinds=KINDS, *, shared=()):
    """Five programs in R^3, two of which have no solution; the data named in `shared` are those of a good one."""
    rng = np.random.default_rng(4)
    rows = []
    for kind in kinds:
        one = {
            "P": np.diag([*rng.uniform(1.0, 2.0, 2), 0.0]),
            "q": rng.standard_normal(3) - (2.0 if kind == UNBOUNDED else 0.0),
            "A": np.array([[1.0, 1.0, 0.0]]),
            "b": np.array([0.5]),
            "G": np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
            * (np.array([1.0, 1.0, 0.0]) if kind == UNBOUNDED else 1.0),
            "h": np.array([0.3, 0.9]),
            "lb": np.array([-2.0, -2.0, -2.0]),
            "ub": np.array([2.0, 2.0, np.inf if kind == UNBOUNDED else 2.0]),
        }
        if kind == INFEASIBLE:
            one["b"] = np.array([9.0])
        rows.append(one)
    stacked = {k: torch.tensor(np.stack([row[k] for row in rows])) for k in DATA}
    return {k: (v[0] if k in shared else v).clone() for k, v in stacked.items()}


def leaves(data):
    return {k: v.clone().requires_grad_() for k, v in data.items()}


def pick(data, rows):
    """The instances `rows`; shared data as they are."""
    core = {"P": 2, "A": 2, "G": 2}
    return {k: v[rows] if v.ndim > core.get(k, 1) else v for k, v in data.items()}


# raise


@pytest.mark.parametrize("batch", [(5,), (1, 5), (5, 1)], ids=str)
def test_the_exception_says_which_instances_failed_and_proves_it(batch):
    data = mixed()
    reshaped = {k: v.reshape(*batch, *v.shape[1:]) for k, v in data.items()}
    with pytest.raises(dcl.SolveError) as caught:
        dcl.QPLayer()(**reshaped)
    error = caught.value
    assert error.indices == [tuple(int(k) for k in np.unravel_index(i, batch)) for i in FAILED]
    assert error.statuses == [Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE]
    assert "2 of 5" in str(error)
    assert all(str(index) in str(error) for index in error.indices)
    check_primal_certificate(data, 1, error.certificates[0].numpy())
    check_dual_certificate(data, 3, error.certificates[1].numpy())


def waist(data, i):
    """P, q, A, b of `dcl.program` for instance i."""
    P, q, A, b, G, h, lb, ub = (data[k][i].numpy() for k in DATA)
    eye = np.eye(3)
    M, side = np.vstack([A, G, -eye, eye]), np.concatenate([b, h, -lb, ub])
    free = np.isinf(side)
    return P, q, np.where(free[:, None], 0.0, M), np.where(free, 1.0, side)


def check_primal_certificate(data, i, z):
    """Farkas: z >= 0 on the inequalities, A'z = 0, b'z < 0."""
    _, _, A, b = waist(data, i)
    assert z.shape == b.shape
    z = z / abs(b @ z)  # its length means nothing
    assert (z[1:] >= 0.0).all()
    assert np.abs(A.T @ z).max() < 1e-6
    assert b @ z == pytest.approx(-1.0)


def check_dual_certificate(data, i, x):
    """A direction: Px = 0, Ax = 0 on the equality and <= 0 on the others, q'x < 0."""
    P, q, A, _ = waist(data, i)
    x = x / abs(q @ x)
    assert np.abs(P @ x).max() < 1e-6
    assert abs(A[0] @ x) < 1e-6
    assert (A[1:] @ x < 1e-6).all()
    assert q @ x == pytest.approx(-1.0)


def test_certificates_of_the_solution():
    data = mixed()
    solution = dcl.QPLayer(on_failure="nan").solve(**data)
    assert solution.status.tolist() == [0, Status.PRIMAL_INFEASIBLE, 0, Status.DUAL_INFEASIBLE, 0]
    x, z = solution.certificate.numpy()[:, :3], solution.certificate.numpy()[:, 3:]
    check_primal_certificate(data, 1, z[1])
    check_dual_certificate(data, 3, x[3])
    assert np.isnan(x[1]).all()
    assert np.isnan(z[3]).all()
    assert np.isnan(solution.certificate[[0, 2, 4]].numpy()).all()
    assert solution.ok.tolist() == [True, False, True, False, True]


COORDINATES = {
    "zero row": ({"G": [[0.0, 0, 0], [1, 1, 1]], "h": [-1.0, 2]}, Status.PRIMAL_INFEASIBLE),
    "zero row of A": ({"A": [[0.0, 0, 0], [1, 1, 1]], "b": [1.0, 2]}, Status.PRIMAL_INFEASIBLE),
    "free variable": ({"lb": [0.0, 0, -np.inf]}, Status.DUAL_INFEASIBLE),
    "bounds": ({"lb": [0.0, 0, 3], "ub": [1.0, 1, 2]}, Status.PRIMAL_INFEASIBLE),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("solver", [None, "CLARABEL", "OSQP", "DAQP", "PIQP"])
@pytest.mark.parametrize("kind", COORDINATES)
def test_certificates_in_which_nothing_cancels(kind, solver):
    # what should vanish is rounding next to zero, not next to large terms
    extra, status = COORDINATES[kind]
    data = {"P": np.diag([1.0, 2.0, 0.0]), "q": [0.3, -1.0, 0.7]} | extra
    data = {k: torch.tensor(v, dtype=torch.float64) for k, v in data.items()}
    assert dcl.QPLayer(solver, on_failure="last").solve(**data).status == status


# nan and last

SHARED = [(), ("P", "A"), ("A", "h", "lb"), ("lb",)]
LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": torch.Tensor.sum,
    "square": lambda t: (t * t).sum(),
    "nan_to_num": lambda t: t.nan_to_num().sum(),
    "infinite weight": lambda t: (t * torch.where(torch.isnan(t.detach()), torch.inf, 1.0)).sum(),
}


def gradients(layer, data, loss):
    given = leaves(data)
    result = layer(**given)
    total = sum(loss(t) for t in result)
    found = torch.autograd.grad(total, list(given.values()), materialize_grads=True, allow_unused=True)
    return result, dict(zip(given, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("shared", SHARED, ids=str)
@pytest.mark.parametrize("loss", ["sum", "nan_to_num"])
@pytest.mark.parametrize("mu", [0.0, 0.01])
def test_the_other_rows_are_as_without_the_failed_ones(shared, loss, mu):
    data = mixed(shared=shared)
    good = [i for i, kind in enumerate(KINDS) if kind == GOOD]
    result, found = gradients(dcl.QPLayer(on_failure="nan", mu=mu), data, LOSSES[loss])
    alone, expected = gradients(dcl.QPLayer(mu=mu), pick(data, good), LOSSES[loss])
    for name in OUTPUTS:
        t = getattr(result, name)
        assert torch.isnan(t[FAILED]).all()
        torch.testing.assert_close(t[good], getattr(alone, name), rtol=1e-10, atol=1e-11)
    for name, gradient in found.items():
        kept = gradient if name in shared else gradient[good]
        torch.testing.assert_close(kept, expected[name], rtol=1e-9, atol=1e-10)
        assert float(expected[name].abs().max()) > 1e-3 or name in ("ub", "lb")


@pytest.mark.sample(3)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("failure", ["nan", "last"])
@pytest.mark.parametrize("shared", SHARED, ids=str)
def test_failed_rows_have_exactly_zero_gradient(loss, failure, shared):
    data = mixed(shared=shared)
    _, found = gradients(dcl.QPLayer(on_failure=failure), data, LOSSES[loss])
    for name, gradient in found.items():
        if name not in shared:
            assert (gradient[FAILED] == 0.0).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("failure", ["nan", "last"])
def test_a_batch_of_failures_only(failure):
    data = mixed([INFEASIBLE, UNBOUNDED])
    result, found = gradients(dcl.QPLayer(on_failure=failure), data, torch.Tensor.sum)
    assert all(torch.isnan(t).all() if failure == "nan" else torch.isfinite(t).all() for t in result)
    assert all((gradient == 0.0).all() for gradient in found.values())


def test_an_unbatched_failure():
    data = {k: v[1] for k, v in mixed().items()}
    result, found = gradients(dcl.QPLayer(on_failure="nan"), data, torch.Tensor.sum)
    assert torch.isnan(result.x).all()
    assert result.x.shape == (3,)
    assert all((gradient == 0.0).all() for gradient in found.values())
    with pytest.raises(dcl.SolveError) as caught:
        dcl.QPLayer()(**data)
    assert caught.value.indices == [()]


def test_last_returns_what_the_limit_left():
    data = {k: v for k, v in mixed([GOOD] * 3).items() if k in ("P", "q", "G", "h")}
    layer = dcl.QPLayer(Osqp(max_iters=3, polishing=False), on_failure="last")
    given = leaves(data)
    result, solution = layer(**given, return_solution=True)
    assert solution.status.tolist() == [Status.MAX_ITERATIONS] * 3
    assert torch.isfinite(result.x).all()
    assert torch.equal(result.x, solution.outputs[0])
    sum(t.sum() for t in result).backward()
    assert all((leaf.grad == 0.0).all() for leaf in given.values())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own, in jvp
def test_tangents_of_failed_rows_are_zero():
    data = mixed()
    q = data.pop("q")
    layer = dcl.QPLayer(on_failure="last", mu=0.05)
    _, tangent = torch.func.jvp(lambda t: layer(q=t, **data).x, (q,), (torch.ones_like(q) + torch.arange(3.0),))
    assert (tangent[FAILED] == 0.0).all()
    assert (tangent[[0, 2, 4]].abs().amax(-1) > 1e-3).all()


def test_second_derivatives_of_failed_rows_are_zero():
    data = leaves(mixed())
    x = dcl.QPLayer(on_failure="nan", mu=0.05)(**data).x
    (first,) = torch.autograd.grad(
        x[[0, 2, 4]].square().sum() + x[FAILED].nan_to_num().sum(), data["q"], create_graph=True
    )
    (second,) = torch.autograd.grad(first.square().sum(), data["q"])
    assert (second[FAILED] == 0.0).all()
    assert (second[[0, 2, 4]].abs().amax(-1) > 1e-6).all()


def test_cvxpy_layer():
    x, b, low = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= low, cp.sum(x) <= 1])
    b_value = torch.tensor([[0.9, 0.6], [0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    low_value = torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
    (out,), solution = dcl.CvxpyLayer(problem, [b, low], [x], on_failure="nan")(
        b_value, low_value, return_solution=True
    )
    np.testing.assert_allclose(out.detach(), [[0.65, 0.35], [np.nan, np.nan]], atol=1e-9)
    assert torch.isnan(solution.value).tolist() == [False, True]
    out[:, 0].sum().backward()
    np.testing.assert_allclose(b_value.grad, [[0.5, -0.5], [0, 0]], atol=1e-9)
    assert low_value.grad.tolist() == [0.0, 0.0]


# Solvers that lie


@dataclass(frozen=True, kw_only=True)
class Fake(AbstractSolver):
    """Writes what it likes."""

    lie: Callable[[int, np.ndarray, np.ndarray], Claim]

    name: ClassVar[str] = "FAKE"
    releases_gil: ClassVar[bool] = False
    warm_starts: ClassVar[bool] = False
    gives_certificates: ClassVar[bool] = True
    gives_basic_duals: ClassVar[bool] = False
    limits_time: ClassVar[bool] = True

    def solve(self, program, rows, out, start=None, stop=None):
        for i in rows:
            out.claim[i] = self.lie(i, out.x[i], out.z[i])


def fill(x_value, z_value, claim):
    def lie(i, x, z):
        x[:], z[:] = x_value, z_value
        return claim

    return lie


LIES = {
    "wrong point": fill(1.0, 2.0, Claim.SOLVED),
    "feasible but not optimal": fill(0.0, 0.0, Claim.SOLVED),
    "huge point": fill(1e200, -1e200, Claim.SOLVED),
    "nan": fill(np.nan, np.nan, Claim.SOLVED),
    "nan in z": fill(0.0, np.nan, Claim.SOLVED),
    "infinity": fill(np.inf, -np.inf, Claim.SOLVED),
    "infeasible": fill(1.0, 1.0, Claim.PRIMAL_INFEASIBLE),
    "infeasible, no certificate": fill(np.nan, np.nan, Claim.PRIMAL_INFEASIBLE),
    "infeasible, zero certificate": fill(0.0, 0.0, Claim.PRIMAL_INFEASIBLE),
    "infeasible, infinite certificate": fill(np.inf, np.inf, Claim.PRIMAL_INFEASIBLE),
    "unbounded": fill(1.0, 1.0, Claim.DUAL_INFEASIBLE),
    "unbounded, no certificate": fill(np.nan, np.nan, Claim.DUAL_INFEASIBLE),
    "unbounded, zero certificate": fill(0.0, 0.0, Claim.DUAL_INFEASIBLE),
    "limits that nobody set": fill(3.0, 3.0, Claim.MAX_ITERATIONS),
    "failed": fill(3.0, 3.0, Claim.FAILED),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_out_and_the_next_solver_asked(lie):
    data = mixed([GOOD] * 4)
    result, solution = dcl.QPLayer(Fake(lie=LIES[lie]))(**data, return_solution=True)
    honest, _ = dcl.QPLayer("DAQP")(**data, return_solution=True)
    torch.testing.assert_close(result, honest, rtol=1e-9, atol=1e-10)
    assert solution.ok.all()
    assert solution.solvers[0] == "FAKE"


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_without_a_next_solver_is_reported(lie, monkeypatch):
    monkeypatch.setattr("dcl.layers.engine.Choice.order", lambda self, *_, **__: (self.solver,), raising=True)
    data = mixed([GOOD] * 2)
    data["P"] *= 0.0  # one polishing step must not be able to repair it
    solution = dcl.QPLayer(Fake(lie=LIES[lie]), on_failure="nan").solve(**data)
    honest = dcl.QPLayer(Clarabel(), on_failure="nan").solve(**data)
    assert solution.status.tolist() == [Status.NUMERICAL_ERROR] * 2 or torch.allclose(
        solution.outputs[5], honest.outputs[5], rtol=1e-8
    )


@pytest.mark.parametrize("lie", ["wrong point", "infeasible", "unbounded", "nan"])
def test_lies_about_infeasible_programs(lie):
    data = mixed([INFEASIBLE, UNBOUNDED])
    solution = dcl.QPLayer(Fake(lie=LIES[lie]), on_failure="nan").solve(**data)
    assert solution.status.tolist() == [Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE]


@dataclass(frozen=True, kw_only=True)
class MostlyHonest(Fake):
    """DAQP, but for instance 2, of which it says that it has no solution."""

    def solve(self, program, rows, out, start=None, stop=None):
        Daqp().solve(program, rows, out, start, stop)
        out.z[2], out.claim[2] = 1.0, Claim.PRIMAL_INFEASIBLE


def test_a_lie_in_one_instance():
    data = mixed([GOOD] * 4)
    given, other = leaves(data), leaves(data)
    result, solution = dcl.QPLayer(MostlyHonest(lie=fill(0.0, 0.0, Claim.FAILED)))(**given, return_solution=True)
    honest = dcl.QPLayer("DAQP")(**other)
    assert [solution.solvers[k] for k in solution.solver] == ["FAKE", "FAKE", "CLARABEL", "FAKE"]
    torch.testing.assert_close(result, honest, rtol=1e-10, atol=1e-11)
    for outputs in (result, honest):
        sum(t.square().sum() for t in outputs).backward()
    for name in given:
        torch.testing.assert_close(given[name].grad, other[name].grad, rtol=1e-9, atol=1e-10)
        assert given[name].grad[2].any() or name in ("lb", "ub")


@pytest.mark.parametrize(
    ("error", "status"), [(1e-10, Status.OPTIMAL), (1e-6, Status.INACCURATE), (1e-3, Status.NUMERICAL_ERROR)]
)
@pytest.mark.parametrize("at", ["x", "z"])
def test_optimal_means_1e_8_measured_by_dcl(error, status, at, monkeypatch):
    # min x^2/2 - x  s.t.  x <= 1/2:  x = z = 1/2; nobody repairs the point, nobody else is asked
    monkeypatch.setattr("dcl.solve.pipeline.polish", partial(polish, steps=0))
    monkeypatch.setattr("dcl.layers.engine.Choice.order", lambda self, *_, **__: (self.solver,))
    one = torch.ones(1, dtype=torch.float64)

    def lie(i, x, z):
        x[:], z[:] = 0.5, 0.5
        (x if at == "x" else z)[:] += error
        return Claim.SOLVED

    data = {"P": one.reshape(1, 1), "q": -one, "G": one.reshape(1, 1), "h": 0.5 * one}
    assert dcl.QPLayer(Fake(lie=lie), on_failure="nan").solve(**data).status == status


def test_an_almost_right_certificate_does_not_count():
    # x >= 1 and x <= 1 + 1e-5 has a solution; z = (1, 1) is within 1e-5 of a proof that it has none
    G, h = torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([-1.0, 1.0 + 1e-5]).double()
    lie = fill(np.nan, 1.0, Claim.PRIMAL_INFEASIBLE)
    solution = dcl.QPLayer(Fake(lie=lie)).solve(None, torch.ones(1).double(), G=G, h=h)
    assert solution.ok
    assert float(solution.x) == pytest.approx(1.0, abs=1e-9)


# Limits


@pytest.mark.parametrize("solver", ["DAQP", "PIQP", "OSQP", "CLARABEL", None])
def test_max_iters_is_where_it_stops(solver):
    n = 30
    rng = np.random.default_rng(0)
    L = torch.tensor(rng.standard_normal((n, n)))
    data = {
        "P": L @ L.T,
        "q": torch.tensor(rng.standard_normal(n)),
        "lb": -0.01 * torch.ones(n),
        "ub": 0.01 * torch.ones(n),
    }
    data = {k: v.double() for k, v in data.items()}
    with pytest.raises(dcl.SolveError) as caught:
        dcl.QPLayer(solver, {"max_iters": 1})(**data)
    assert caught.value.statuses == [Status.MAX_ITERATIONS]
    assert "max_iters" in str(caught.value)
    x = dcl.QPLayer(solver)(**data).x
    torch.testing.assert_close(x, (x - data["P"] @ x - data["q"]).clamp(-0.01, 0.01), rtol=0, atol=1e-9)


@pytest.mark.parametrize("claim", [Claim.MAX_ITERATIONS, Claim.TIME_LIMIT])
def test_a_limit_counts_only_if_it_was_set(claim):
    data = mixed([GOOD])
    status = {Claim.MAX_ITERATIONS: Status.MAX_ITERATIONS, Claim.TIME_LIMIT: Status.TIME_LIMIT}[claim]
    options = {"max_iters": 5} if claim == Claim.MAX_ITERATIONS else {"time_limit": 5.0}
    lie = fill(1e3, 1e3, claim)
    assert dcl.QPLayer(Fake(lie=lie), on_failure="nan").solve(**data).ok.all()
    solution = dcl.QPLayer(Fake(lie=lie), options, on_failure="nan").solve(**data)
    assert solution.status.tolist() == [status]
    assert dcl.QPLayer(Fake(lie=lie), on_failure="nan").solve(**data, solver_args=options).status.tolist() == [status]


def test_time_limit_ends_a_long_solve():
    n = 150
    rng = np.random.default_rng(0)
    L, G = torch.tensor(rng.standard_normal((n, n))), torch.tensor(rng.standard_normal((n, n)))
    with pytest.raises(dcl.SolveError) as caught:
        dcl.QPLayer(Clarabel(time_limit=0.01))(L @ L.T, torch.ones(n).double(), G=G, h=torch.ones(n).double() * 0.1)
    assert caught.value.statuses == [Status.TIME_LIMIT]
    assert "time_limit" in str(caught.value)


# Ctrl-C


@pytest.mark.parametrize("failure", ["raise", "nan", "last"])
@pytest.mark.parametrize("record", [True, False])
def test_an_interrupt_inside_of_a_solver_comes_out(failure, record):
    def lie(i, x, z):
        raise KeyboardInterrupt

    data = leaves(mixed([GOOD])) if record else mixed([GOOD])
    layer = dcl.QPLayer(Fake(lie=lie), on_failure=failure)
    with pytest.raises(KeyboardInterrupt):
        layer(**data)


@contextmanager
def ctrl_c_in(solver, monkeypatch):
    """SIGINT to this process 0.1 s after the solver has begun, unless the block has ended.

    Not before: Python drops an interrupt that arrives in a callback of the garbage collector, of which torch has many.
    """
    begun, ended, solve = threading.Event(), threading.Event(), type(solver).solve

    def announced(*args, **kwargs):
        begun.set()
        solve(*args, **kwargs)

    def interrupt():
        begun.wait()
        if not ended.wait(0.1):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(type(solver), "solve", announced)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        begun.set()
        thread.join()
        monkeypatch.undo()


# One instance that takes long, and many that do not.
LONG = {"CLARABEL": (Clarabel(eps=1e-14), 450, 1), "OSQP": (Osqp(eps=1e-14, polishing=False), 60, 3000)}


@pytest.mark.parametrize("solver", LONG)
def test_ctrl_c_in_a_long_solve(solver, monkeypatch):
    solver, n, batch = LONG[solver]
    rng = np.random.default_rng(0)
    L, G = torch.tensor(rng.standard_normal((n, n))), torch.tensor(rng.standard_normal((n, n)))
    q = torch.tensor(rng.standard_normal((batch, n)))
    torch.broadcast_shapes((1,), (2,))  # imports sympy when it is first called: interrupted there, torch stays broken
    with pytest.raises(KeyboardInterrupt), ctrl_c_in(solver, monkeypatch):
        dcl.QPLayer(solver)(L @ L.T, q, G=G, h=torch.ones(n).double() * 0.1)
    small = mixed([GOOD])
    torch.testing.assert_close(dcl.QPLayer(Clarabel())(**small).x, dcl.QPLayer(Daqp())(**small).x)


def test_repr_tells_the_failed_instances_apart():
    layer, A = dcl.QPLayer(on_failure="nan"), torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    _, solution = layer(torch.eye(2).double(), torch.zeros(2).double(), A=A, b=b, return_solution=True)
    assert re.fullmatch(
        r"Solution\(1 OPTIMAL \(worst residual \d\.\de[-+]\d\d\), 1 PRIMAL_INFEASIBLE\)", repr(solution).splitlines()[0]
    )


@pytest.mark.parametrize("good", [0, 1])
def test_other_instances_are_spoken_of_where_there_are_some(good):
    A = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[good, 1.0], [0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(dcl.SolveError) as error:
        dcl.QPLayer()(torch.eye(2).double(), torch.zeros(2).double(), A=A, b=b)
    assert ("returns the other instances" in str(error.value)) == bool(good)

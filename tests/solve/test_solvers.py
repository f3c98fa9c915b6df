"""Laws of every solver (its claims are right in the signs of dcl.program, measured in NumPy), the rule, the pool."""

import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from dcl.cones.orthant import Nonnegative
from dcl.errors import CompatibilityWarning, OptionError
from dcl.program import Structure
from dcl.program.pattern import DensePattern, pattern_of
from dcl.solvers import AbstractSolver, Claim, Clarabel, Daqp, HostProgram, Iterates, Osqp, Piqp, Scs
from dcl.solvers import pool as pool_module
from dcl.solvers.choose import Choice, after_claims, configure, solver_order
from dcl.solvers.pool import run

SOLVERS = [Daqp(), Piqp(), Osqp(), Clarabel(), Scs()]
TOLERANCE = {"DAQP": 1e-7, "PIQP": 1e-6, "OSQP": 1e-6, "CLARABEL": 1e-6, "SCS": 1e-5}
NAMES = [solver.name for solver in SOLVERS]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
INF = np.inf


def program(P, q, A, b, zeros, batch=None):
    """A HostProgram from arrays that may lack the batch dimension (then they are shared)."""
    P, q, A, b = (np.asarray(a, dtype=float) for a in (P, q, A, b))
    P, A = (M if M.ndim == 3 else M[None] for M in (P, A))
    q, b = (u if u.ndim == 2 else u[None] for u in (q, b))
    size = batch or max(len(P), len(q), len(A), len(b))
    return HostProgram(n=q.shape[1], m=b.shape[1], zeros=zeros, batch=size, P=P, q=q, A=A, b=b)


def built(batch, n, m, p, *, lp=False, seed=0):
    """Random programs with p zero rows and m others, their solutions chosen first, and (x, z)."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((batch, p + m, n))
    x = rng.standard_normal((batch, n))
    z = rng.standard_normal((batch, p + m))
    slack = rng.uniform(0.5, 1.5, (batch, p + m))
    slack[:, :p] = 0.0
    active = min(n - p, m) if lp else min(n // 2, m)
    slack[:, p : p + active] = 0.0
    z[:, p : p + active] = rng.uniform(0.5, 1.5, (batch, active))
    z[:, p + active :] = 0.0
    b = np.einsum("bij,bj->bi", A, x) + slack
    L = rng.standard_normal((batch, n, n))
    P = np.zeros((batch, n, n)) if lp else L @ L.transpose(0, 2, 1) / n + 0.1 * np.eye(n)
    q = -np.einsum("bij,bj->bi", P, x) - np.einsum("bij,bi->bj", A, z)
    return program(P, q, A, b, p), x, z


def sparse(dense_program):
    """The same program on a sparse pattern."""
    P_index, A_index = (np.nonzero((M != 0).any(0)) for M in (dense_program.P, dense_program.A))
    return HostProgram(
        n=dense_program.n,
        m=dense_program.m,
        zeros=dense_program.zeros,
        batch=dense_program.batch,
        P=dense_program.P[:, *P_index],
        q=dense_program.q,
        A=dense_program.A[:, *A_index],
        b=dense_program.b,
        P_index=P_index,
        A_index=A_index,
    )


def solved(solver, prog, rows=None):
    out = Iterates.empty(prog.batch, prog.n, prog.m)
    solver.solve(prog, range(prog.batch) if rows is None else rows, out)
    return out


def kkt_error(prog, out, i):
    """Largest violation of the KKT conditions by instance i."""
    P, A, q, b = (t[0] if len(t) == 1 else t[i] for t in (prog.P, prog.A, prog.q, prog.b))
    x, z, p = out.x[i], out.z[i], prog.zeros
    s = b - A @ x
    parts = [P @ x + q + A.T @ z, s[:p], np.minimum(s[p:], 0), np.minimum(z[p:], 0), [x @ P @ x + q @ x + b @ z]]
    return max(np.abs(part).max(initial=0.0) for part in parts)


PROGRAMS = {
    "qp": lambda: built(3, 6, 8, 2),
    "lp": lambda: built(3, 6, 12, 2, lp=True),
    "inequalities only": lambda: built(2, 5, 7, 0),
    "equalities only": lambda: built(2, 5, 0, 2),
    "square equalities": lambda: built(2, 3, 0, 3),
    "unconstrained": lambda: built(2, 4, 0, 0),
    "one variable": lambda: built(2, 1, 2, 0),
}


@pytest.mark.sample(3)
@each_solver
@pytest.mark.parametrize("pattern", ["dense", "sparse"])
@pytest.mark.parametrize("kind", PROGRAMS)
def test_claim_solved_is_the_solution_in_the_signs_of_dcl(solver, pattern, kind):
    prog, x, z = PROGRAMS[kind]()
    out = solved(solver, sparse(prog) if pattern == "sparse" else prog)
    np.testing.assert_array_equal(out.claim, Claim.SOLVED)
    for i in range(prog.batch):
        assert kkt_error(prog, out, i) < TOLERANCE[solver.name]
    # the program has one primal and one dual solution, both away from zero: a flipped sign cannot pass
    np.testing.assert_allclose(out.x, x, atol=1e-4)
    np.testing.assert_allclose(out.z, z, atol=1e-4)
    assert (out.seconds > 0).all()


@each_solver
def test_signs_on_a_program_done_by_hand(solver):
    # min 1/2 |x|^2 + x1 + x2  s.t.  x1 = 3, x2 <= -2:  x = (3, -2), z = (-4, 1)
    out = solved(solver, program(np.eye(2), [1, 1], np.eye(2), [3, -2], 1))
    np.testing.assert_allclose(out.x[0], [3, -2], atol=1e-6)
    np.testing.assert_allclose(out.z[0], [-4, 1], atol=1e-6)


@each_solver
@pytest.mark.parametrize("pattern", ["dense", "sparse"])
def test_rows_of_zeros(solver, pattern):
    # rows 0 and 2 are 0'x = 0 and 0'x <= 1, as neutralized rows are; nothing is active
    A = [[0, 0], [1, 1], [0, 0], [1, 0]]
    prog = program(np.diag([1.0, 2.0]), [1, -2], A, [0, 0, 1, 5], 2)
    out = solved(solver, sparse(prog) if pattern == "sparse" else prog)
    assert out.claim[0] == Claim.SOLVED
    assert kkt_error(prog, out, 0) < TOLERANCE[solver.name]
    np.testing.assert_allclose(out.x[0], [-1, 1], atol=1e-6)
    np.testing.assert_allclose(out.z[0, 2:], 0, atol=1e-6)


@each_solver
def test_nothing_active_and_nothing_printed(solver, capfd):
    prog = program(np.eye(2), [1, -1], np.eye(2), [10, 10], 0)
    out = solved(solver, prog)
    assert kkt_error(prog, out, 0) < TOLERANCE[solver.name]
    solved(solver, program(np.eye(2), [1, -1], np.zeros((0, 2)), np.zeros(0), 0))
    assert capfd.readouterr() == ("", "")


@pytest.mark.sample(3)
@each_solver
@pytest.mark.parametrize("shared", ["P", "q", "A", "b", "PqAb"])
@pytest.mark.parametrize("pattern", ["dense", "sparse"])
def test_shared_data_and_rows(solver, shared, pattern):
    prog, _, _ = built(4, 5, 6, 1, seed=3)
    # b of instance 0 with A of another may be infeasible: the equality alone and far bounds are not
    data = {"P": prog.P, "q": prog.q, "A": prog.A, "b": np.hstack([prog.b[:, :1], np.full((4, 6), 50.0)])}
    expanded = {k: np.repeat(v[:1], 4, axis=0) if k in shared else v for k, v in data.items()}
    compact = {k: v[:1] if k in shared else v for k, v in data.items()}
    first, second = (program(**d, zeros=1, batch=4) for d in (expanded, compact))
    if pattern == "sparse":
        first, second = sparse(first), sparse(second)
    a, b = solved(solver, first), solved(solver, second, rows=[3, 1])
    np.testing.assert_array_equal(a.claim, Claim.SOLVED)
    np.testing.assert_array_equal(b.claim[[1, 3]], Claim.SOLVED)
    np.testing.assert_array_equal(a.x[[1, 3]], b.x[[1, 3]])
    np.testing.assert_array_equal(a.z[[1, 3]], b.z[[1, 3]])
    assert np.isnan(b.x[[0, 2]]).all()
    assert np.isnan(b.z[[0, 2]]).all()
    np.testing.assert_array_equal(b.claim[[0, 2]], Claim.FAILED)


INFEASIBLE = {
    "two half spaces": ([[1, 0], [-1, 0]], [-1, -1], 0),
    "equality against bound": ([[1, 1], [1, 0], [0, 1]], [3, 1, 1], 1),
    "two equalities": ([[1, 1], [2, 2]], [1, 3], 2),
    "zero row": ([[0, 0], [1, 0]], [-1, 2], 0),
}


@each_solver
@pytest.mark.parametrize("kind", INFEASIBLE)
def test_infeasible(solver, kind):
    A, b, zeros = INFEASIBLE[kind]
    prog = program(np.eye(2), [1, 2], A, b, zeros)
    out = solved(solver, prog)
    assert out.claim[0] != Claim.SOLVED
    if solver.gives_certificates:
        assert out.claim[0] == Claim.PRIMAL_INFEASIBLE
        z = out.z[0] / np.abs(out.z[0]).max()
        assert (z[zeros:] > -1e-7).all()
        assert np.abs(np.transpose(A) @ z).max() < 1e-6
        assert np.dot(b, z) < -1e-2
    else:
        assert np.isnan(out.z[0]).all() or out.claim[0] == Claim.MAX_ITERATIONS


@each_solver
@pytest.mark.parametrize("P", [np.zeros((2, 2)), np.diag([0.0, 1.0])], ids=["lp", "qp"])
def test_unbounded(solver, P):
    # x1 -> +infinity: -x1 <= 1
    prog = program(P, [-1, 1], [[-1, 0], [0, -1]], [1, 2], 0)
    out = solved(solver, prog)
    assert out.claim[0] != Claim.SOLVED
    if solver.gives_certificates:
        assert out.claim[0] == Claim.DUAL_INFEASIBLE
        x = out.x[0] / np.abs(out.x[0]).max()
        assert x[0] == pytest.approx(1)
        assert np.abs(P @ x).max() < 1e-6
        assert (-prog.A[0] @ x > -1e-6).all()
    else:
        assert np.isnan(out.x[0]).all() or out.claim[0] == Claim.MAX_ITERATIONS


@each_solver
def test_a_bad_instance_fails_alone(solver):
    prog, x, _ = built(3, 4, 5, 1)
    P = prog.P.copy()
    P[1] = -np.eye(4)
    prog = program(P, prog.q, prog.A, prog.b, 1)
    out = solved(solver, prog)
    np.testing.assert_array_equal(out.claim[[0, 2]], Claim.SOLVED)
    np.testing.assert_allclose(out.x[[0, 2]], x[[0, 2]], atol=1e-5)
    if solver.name in ("DAQP", "OSQP"):  # the two that see it
        assert out.claim[1] == Claim.FAILED
        assert np.isnan(out.x[1]).all()


@each_solver
def test_max_iters_is_honored(solver):
    prog, _, _ = built(2, 10, 20, 3)
    out = solved(type(solver)(max_iters=1), prog)
    np.testing.assert_array_equal(out.claim, Claim.MAX_ITERATIONS)
    assert (out.iterations <= 2).all()


@each_solver
def test_time_limit_is_honored_or_refused(solver):
    if not solver.limits_time:
        with pytest.raises(OptionError, match="time_limit"):
            type(solver)(time_limit=1.0)
        return
    prog, _, _ = built(1, 60, 120, 10)
    assert solved(type(solver)(time_limit=1e-7), prog).claim[0] == Claim.TIME_LIMIT
    assert solved(type(solver)(time_limit=100.0), prog).claim[0] == Claim.SOLVED


@pytest.mark.parametrize("solver", [Piqp, Osqp, Clarabel, Scs], ids=NAMES[1:])
def test_eps_is_honored(solver):
    prog, x, _ = built(5, 10, 20, 3)
    options = {"polishing": False} if solver is Osqp else {}
    loose, tight = (solved(solver(eps=eps, **options), prog) for eps in (1e-2, 1e-9))
    assert np.abs(tight.x - x).max() < 1e-6 < np.abs(loose.x - x).max()
    assert (loose.iterations < tight.iterations).any()


def test_clarabel_takes_tol_for_eps():
    prog, _, _ = built(3, 10, 20, 3)
    np.testing.assert_array_equal(solved(Clarabel(tol=1e-3), prog).x, solved(Clarabel(eps=1e-3), prog).x)
    with pytest.raises(OptionError, match="tol"):
        Clarabel(tol=1e-3, eps=1e-4)


@each_solver
@pytest.mark.parametrize("options", [{"eps": 0.0}, {"eps": np.nan}, {"max_iters": 2.5}, {"max_iters": 0}, {"eps": "a"}])
def test_bad_option_values(solver, options):
    with pytest.raises(OptionError, match=next(iter(options))):
        type(solver)(**options)


@each_solver
def test_unknown_option_lists_the_valid_ones(solver):
    with pytest.raises(OptionError, match="max_iters") as error:
        type(solver).configured({"epsilon": 1e-3})
    assert "'epsilon'" in str(error.value)


@each_solver
@pytest.mark.parametrize("pattern", ["dense", "sparse"])
def test_inputs_are_not_modified_and_may_be_read_only(solver, pattern):
    prog, x, _ = built(2, 5, 6, 1)
    if pattern == "sparse":
        prog = sparse(prog)
    arrays = (prog.P, prog.q, prog.A, prog.b)
    copies = [a.copy() for a in arrays]
    solved(solver, prog)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
        array.flags.writeable = False
    np.testing.assert_allclose(solved(solver, prog).x, x, atol=1e-5)


@each_solver
def test_warm_start(solver):
    prog, x, z = built(2, 10, 20, 3)
    cold = solved(solver, prog)
    start = Iterates.empty(2, 10, 23)
    start.x[:], start.z[:] = x, z
    start.z[1] = np.nan  # not a point: to be ignored
    warm = Iterates.empty(2, 10, 23)
    solver.solve(prog, range(2), warm, start)
    np.testing.assert_array_equal(warm.claim, Claim.SOLVED)
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-6)
    if solver.warm_starts:
        assert warm.iterations[0] < cold.iterations[0]
    assert warm.iterations[1] == cold.iterations[1]


@each_solver
def test_pickle(solver):
    configured = type(solver)(eps=1e-8, max_iters=77)
    assert pickle.loads(pickle.dumps(configured)) == configured


# The rule


def structure(n, m, *, dense=True):
    def pattern(rows, cols):
        return DensePattern((rows, cols)) if dense else pattern_of(np.arange(1), np.arange(1), (rows, cols))

    return Structure(pattern(n, n), pattern(m, n), Nonnegative(m))


def names(solvers):
    return [solver.name for solver in solvers]


@pytest.mark.parametrize(
    ("n", "m", "dense", "lp", "expected"),
    [
        (10, 15, True, False, ["DAQP", "PIQP", "CLARABEL", "OSQP"]),
        (10, 15, False, True, ["DAQP", "PIQP", "CLARABEL", "OSQP"]),
        (100, 270, True, True, ["PIQP", "CLARABEL", "DAQP", "OSQP"]),
        (600, 600, True, False, ["PIQP", "CLARABEL", "DAQP", "OSQP"]),
        (1000, 1000, False, False, ["PIQP", "CLARABEL", "OSQP"]),
        (1000, 1000, False, True, ["HIGHS", "CLARABEL", "PIQP", "OSQP"]),
    ],
)
def test_rule(n, m, dense, lp, expected):
    assert names(solver_order(structure(n, m, dense=dense), lp, None)) == expected


def test_a_chosen_solver_goes_first_and_only_limit_and_verbose_go_on():
    chosen = Osqp(eps=1e-3, max_iters=5, verbose=True)
    first, *rest = solver_order(structure(5, 5), False, chosen)
    assert first is chosen
    assert rest == [Daqp(verbose=True), Piqp(verbose=True), Clarabel(verbose=True)]
    limited = solver_order(structure(5, 5), False, Osqp(time_limit=2.0))
    assert limited == (Osqp(time_limit=2.0), Daqp(time_limit=2.0), Clarabel(time_limit=2.0))


def test_options_without_a_solver_go_to_the_first_of_the_rule():
    choice = configure(None, {"eps": 1e-4, "max_iter": 9, "time_limit": 3.0})
    assert choice.order(structure(5, 5), False) == (
        Daqp(eps=1e-4, max_iters=9, time_limit=3.0),
        Clarabel(time_limit=3.0),
        Osqp(time_limit=3.0),
    )
    assert choice.order(structure(600, 600), False)[0] == Clarabel(eps=1e-4, max_iters=9, time_limit=3.0)


def test_a_claim_of_infeasibility_goes_to_a_solver_with_certificates():
    _, *rest = solver_order(structure(5, 5), False, None)
    assert names(after_claims(rest, np.array([Claim.PRIMAL_INFEASIBLE], dtype=np.int8))) == ["CLARABEL", "OSQP", "PIQP"]
    assert names(after_claims(rest, np.array([Claim.DUAL_INFEASIBLE], dtype=np.int8))) == ["CLARABEL", "OSQP", "PIQP"]
    assert names(after_claims(rest, np.array([Claim.FAILED], dtype=np.int8))) == ["PIQP", "CLARABEL", "OSQP"]


@pytest.mark.parametrize(
    ("solver", "args", "expected"),
    [
        ("clarabel", {"tol": 1e-8}, Choice(Clarabel(tol=1e-8))),
        ("OSQP", {"rho": 1.0}, Choice(Osqp(rho=1.0))),
        (Piqp(eps=1e-8), {"max_iters": 7}, Choice(Piqp(eps=1e-8, max_iters=7))),
        ("CUCLARABEL", None, Choice(Clarabel())),
        ("DIFFCP", None, Choice()),
        ("Moreau", {"eps": 1e-8}, Choice(options={"eps": 1e-8})),
        (None, {"solve_method": "Clarabel"}, Choice(Clarabel())),
        (None, {"solve_method": "SCS", "n_jobs_forward": 3}, Choice(threads=3)),
        ("DIFFCP", {"solve_method": "ECOS", "n_jobs_forward": -1}, Choice()),
        # tolerances of others: the smallest; an option of the solver's own stays what it is
        ("MOREAU", {"tol": 1e-9}, Choice(options={"eps": 1e-9})),
        ("DIFFCP", {"eps_abs": 1e-7, "eps_rel": 1e-9, "eps": 1e-8}, Choice(options={"eps": 1e-9})),
        (None, {"solve_method": "ECOS", "abstol": 1e-7, "reltol": None}, Choice(options={"eps": 1e-7})),
        ("MOREAU", {"tol": 1e-6, "ipm_settings": {"tol_gap_rel": 1e-8}}, Choice(options={"eps": 1e-8})),
        (
            "MOREAU",
            {"active_set_settings": {"primal_tol": 1e-8, "iter_limit": 9}},
            Choice(options={"max_iters": 9, "eps": 1e-8}),
        ),
        ("MPAX", {"iteration_limit": 7, "eps_abs": 1e-6}, Choice(options={"max_iters": 7, "eps": 1e-6})),
        ("SCS", {"time_limit_secs": 2.0, "eps_rel": 1e-6}, Choice(Scs(eps=1e-6, time_limit=2.0))),
        ("CUCLARABEL", {"tol_gap_abs": 1e-7, "tol_feas": 1e-8}, Choice(Clarabel(eps=1e-8))),
        ("CLARABEL", {"tol": 1e-7}, Choice(Clarabel(tol=1e-7))),
        (Osqp(), {"eps_abs": 1e-7, "rho": 1.0}, Choice(Osqp(eps=1e-7, rho=1.0))),
        ("DAQP", {"dual_tol": 1e-9}, Choice(Daqp(dual_tol=1e-9))),
    ],
)
def test_configure(solver, args, expected):
    assert configure(solver, args) == expected


@pytest.mark.parametrize(
    ("solver", "args", "over", "expected"),
    [
        (None, {"eps": 1e-9, "max_iters": 7}, {"eps": 1e-4}, Choice(options={"eps": 1e-4, "max_iters": 7})),
        # the call comes first in another spelling too, and with a looser tolerance
        ("MOREAU", {"max_iters": 7}, {"max_iter": 9}, Choice(options={"max_iters": 9})),
        ("MOREAU", {"tol": 1e-9}, {"ipm_settings": {"tol_feas": 1e-4}}, Choice(options={"eps": 1e-4})),
        (None, {"solve_method": "ECOS"}, {"solve_method": "Clarabel"}, Choice(Clarabel())),
        (None, {"n_jobs_forward": 2}, {"n_jobs_forward": -1}, Choice()),
    ],
)
def test_configure_for_one_call(solver, args, over, expected):
    assert configure(solver, args, over) == expected


@pytest.mark.parametrize(
    ("solver", "args", "words"),
    [
        ("GUROBI", None, "DAQP"),
        ("GUROBI", None, "CLARABEL"),
        (3, None, "OSQP"),
        (None, {"rho": 1.0}, "max_iters"),
        (None, {"eps": -1.0}, "eps"),
        ("DAQP", {"rho": 1.0}, "dual_tol"),
        (Daqp(), {"rho": 1.0}, "dual_tol"),
        ("OSQP", {"solve_method": "ECOS"}, "different"),
        ("OSQP", {"max_iter": 3, "max_iters": 4}, "synonym"),
        ("PIQP", {"time_limit": 1.0}, "time_limit"),
        (None, {"n_jobs_forward": 0}, "n_jobs_forward"),
    ],
)
def test_configure_refuses(solver, args, words):
    with pytest.raises(OptionError, match=words):
        configure(solver, args)


def test_configure_warns_once_of_what_it_ignores():
    with pytest.warns(CompatibilityWarning, match="acceleration_lookback.*mode") as caught:
        configure(None, {"acceleration_lookback": 0, "mode": "lsqr", "n_jobs_backward": 1})
    assert len(caught) == 1


# The pool


@pytest.fixture
def two_workers(monkeypatch):
    """Two workers and a pool that everything goes to, whatever machine this is."""
    monkeypatch.setattr(pool_module, "_cores", lambda: 2)
    monkeypatch.setattr(pool_module, "_POOL_FROM", 0.0)


@pytest.mark.usefixtures("two_workers")
@each_solver
@pytest.mark.parametrize("pattern", ["dense", "sparse"])
def test_pool_is_serial_bit_for_bit(solver, pattern):
    prog, _, _ = built(23, 8, 10, 2)
    if pattern == "sparse":
        prog = sparse(prog)
    serial, pooled = (Iterates.empty(23, 8, 12) for _ in range(2))
    rows = np.delete(np.arange(23), [0, 7])
    run(solver, prog, rows, serial, threads=1)
    run(solver, prog, rows, pooled, threads=2)
    for field in ("x", "z", "claim", "iterations"):
        np.testing.assert_array_equal(getattr(serial, field), getattr(pooled, field))
    assert np.isnan(pooled.x[[0, 7]]).all()
    np.testing.assert_array_equal(pooled.claim[rows], Claim.SOLVED)


def test_no_rows():
    prog, _, _ = built(2, 3, 4, 0)
    for solver in SOLVERS:
        out = Iterates.empty(2, 3, 4)
        run(solver, prog, [], out)
        assert np.isnan(out.x).all()


@dataclass(frozen=True, kw_only=True)
class Fake(AbstractSolver):
    """Takes 10 ms an instance and notes who did it; on instance `bad` it raises."""

    bad: int = -1
    error: type[BaseException] = KeyboardInterrupt

    name: ClassVar[str] = "FAKE"
    releases_gil: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = False
    gives_certificates: ClassVar[bool] = False
    limits_time: ClassVar[bool] = False

    def solve(self, program, rows, out, start=None, stop=None):
        for i in rows:
            if stop is not None and stop.is_set():
                return
            out.iterations[i] = threading.get_ident()
            if i == self.bad:
                raise self.error
            time.sleep(0.01)
            out.claim[i] = Claim.SOLVED


@pytest.mark.sample(2)
@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_a_solver_raises_in_a_worker_comes_out(error):
    prog, _, _ = built(40, 2, 2, 0)
    out = Iterates.empty(40, 2, 2)
    with pytest.raises(error):
        run(Fake(bad=9, error=error), prog, range(40), out, threads=2)
    assert out.iterations[9] != threading.get_ident()
    done = out.claim.copy()
    assert (done != Claim.SOLVED).sum() > 10  # the others stopped
    time.sleep(0.05)
    np.testing.assert_array_equal(out.claim, done)  # and nobody is still at work
    run(Fake(), prog, range(40), out, threads=2)  # and the pool is alive
    np.testing.assert_array_equal(out.claim, Claim.SOLVED)


@pytest.mark.usefixtures("two_workers")
def test_threads_bounds_the_workers():
    prog, _, _ = built(20, 2, 2, 0)
    out = Iterates.empty(20, 2, 2)
    run(Fake(), prog, range(20), out, threads=1)
    assert set(out.iterations) == {threading.get_ident()}
    run(Fake(), prog, range(20), out, threads=2)
    assert len(set(out.iterations[1:])) == 2


@pytest.mark.usefixtures("two_workers")
def test_ctrl_c_in_the_main_thread():
    prog, _, _ = built(200, 2, 2, 0)
    out = Iterates.empty(200, 2, 2)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run(Fake(), prog, range(200), out, threads=2)
    timer.join()
    assert time.perf_counter() - began < 0.6
    done = out.claim.copy()
    assert 0 < (done == Claim.SOLVED).sum() < 100
    time.sleep(0.05)
    np.testing.assert_array_equal(out.claim, done)


def test_ctrl_c_in_a_large_program_does_not_wait_for_its_end():
    rng = np.random.default_rng(0)
    L = rng.standard_normal((500, 500))
    prog = program(L @ L.T, np.ones(500), rng.standard_normal((500, 500)), np.ones(500), 0)
    out = Iterates.empty(1, 500, 500)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(Clarabel(eps=1e-14), prog, [0], out)
    timer.join()
    assert out.claim[0] != Claim.SOLVED


@pytest.mark.parametrize("kind", [Osqp, Scs], ids=["OSQP", "SCS"])
def test_ctrl_c_in_a_solver_that_takes_it_and_after_it_in_threads(kind):
    prog, _, _ = built(6, 20, 40, 0)
    out = Iterates.empty(6, 20, 40)
    threads = [threading.Thread(target=run, args=(solver(), prog, range(6), out)) for solver in (Osqp, Scs, kind, kind)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(KeyboardInterrupt):  # the handler is still Python's
        signal.raise_signal(signal.SIGINT)
    slow, _, _ = built(50, 60, 120, 0, lp=True)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(kind(eps=1e-14, max_iters=10**7), slow, range(50), Iterates.empty(50, 60, 120))
    timer.join()


@pytest.mark.usefixtures("two_workers")
@each_solver
def test_eight_callers_at_once(solver):
    prog, _, _ = built(16, 8, 10, 2)
    expected = solved(solver, prog)
    outs = [Iterates.empty(16, 8, 12) for _ in range(8)]
    threads = [threading.Thread(target=run, args=(solver, prog, range(16), out, None, 2)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    for out in outs:
        np.testing.assert_array_equal(out.x, expected.x)
        np.testing.assert_array_equal(out.z, expected.z)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("solver", [Clarabel(), Osqp(), Scs()], ids=["CLARABEL", "OSQP", "SCS"])
def test_after_fork(solver):
    prog, _, _ = built(16, 8, 10, 2)
    before, after = (Iterates.empty(16, 8, 12) for _ in range(2))
    run(solver, prog, range(16), before, threads=2)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout has a handler of its own
        signal.alarm(10)  # a hang ends the child by a signal
        try:
            run(solver, prog, range(16), after, threads=2)
        finally:  # never back into the test runner
            os._exit(0 if np.array_equal(before.x, after.x) else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0

"""Laws of every solver of `solver_cases.SOLVERS`: what it claims is right in the signs of dcl.program, measured in NumPy."""

import pickle
import threading

import numpy as np
import pytest
from solver_cases import BY_PHASE, FOLLOWS_EPS, SOLVERS, TOLERANCE, UNSOUND, built, kkt_error, program, solved, sparse

from dcl.errors import OptionError
from dcl.solvers import Claim, Iterates
from dcl.solvers import pool as pool_module
from dcl.solvers.pool import run

each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=TOLERANCE)


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
    if solver.name in UNSOUND:
        pytest.skip(UNSOUND[solver.name])
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
    assert (out.iterations <= 2).all() or solver.name in BY_PHASE


@each_solver
def test_time_limit_is_honored_or_refused(solver):
    if not solver.limits_time:
        with pytest.raises(OptionError, match="time_limit"):
            type(solver)(time_limit=1.0)
        return
    prog, _, _ = built(1, 60, 120, 10)
    assert solved(type(solver)(time_limit=1e-7), prog).claim[0] == Claim.TIME_LIMIT
    assert solved(type(solver)(time_limit=100.0), prog).claim[0] == Claim.SOLVED


@pytest.mark.parametrize(("solver", "options"), FOLLOWS_EPS.values(), ids=FOLLOWS_EPS)
def test_eps_is_honored(solver, options):
    prog, x, _ = built(5, 10, 20, 3)
    loose, tight = (solved(solver(eps=eps, **options), prog) for eps in (1e-2, 1e-9))
    assert np.abs(tight.x - x).max() < 1e-6 < np.abs(loose.x - x).max()
    assert (loose.iterations < tight.iterations).any()


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

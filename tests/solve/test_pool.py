"""The pool of workers: errors and Ctrl-C come out at once, no more threads than asked, alive after a fork."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from solver_cases import built, program

from dcl.solvers import AbstractSolver, Claim, Clarabel, Iterates, Osqp, Scs
from dcl.solvers import pool as pool_module
from dcl.solvers.pool import run


@pytest.fixture
def two_workers(monkeypatch):
    """Two workers and a pool that everything goes to, whatever machine this is."""
    monkeypatch.setattr(pool_module, "_cores", lambda: 2)
    monkeypatch.setattr(pool_module, "_POOL_FROM", 0.0)


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

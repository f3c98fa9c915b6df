"""A batch through a solver: in the caller's thread, or in chunks over a bounded pool of threads.

Threads pay only where a solver releases the GIL and an instance takes longer than handing it over: the first instance
is timed in the caller's thread, and the rest goes to the pool if it took more than 500 microseconds (two workers,
Clarabel [run]: at 142 and 268 us an instance the pool makes it 194 and 360, at 2,350 and 8,040 it makes it 1,609 and
4,653; DAQP: 386 becomes 273).  Instances do not see each other, so the answers are the same bit for bit.

Ctrl-C reaches the main thread while it waits: the workers are told to stop, and the KeyboardInterrupt goes on once they
are done with the instance they are in.  A program so large that one instance takes long is handed over from the start,
so that there is a thread that waits.  Workers never wait for other work of the pool, so callers in several threads
cannot block each other.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import torch

from dcl.solvers.base import AbstractSolver, HostProgram, Iterates

_POOL_FROM = 500e-6  # seconds for the first instance, which includes the conversion of shared data
_LARGE = 300  # n + m
_CHUNKS_PER_WORKER = 4  # enough to even out instances that take different times

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None


def run(
    solver: AbstractSolver,
    program: HostProgram,
    rows: Iterable[int],
    out: Iterates,
    start: Iterates | None = None,
    threads: int | None = None,
) -> None:
    """Solve the instances `rows` and fill their entries of `out`.

    threads: at most so many at a time; None means as many as torch uses, and never more than there are cores.
    Law: what is in `out` afterwards does not depend on `threads`.  Raises what the solver raises.
    """
    rows = [int(i) for i in rows]
    if not solver.releases_gil or not rows:
        solver.solve(program, rows, out, start)
        return
    workers = min(_cores(), torch.get_num_threads() if threads is None else max(1, threads))
    if program.n + program.m < _LARGE:
        if workers > 1:
            began = time.perf_counter()
            solver.solve(program, rows[:1], out, start)
            took, rows = time.perf_counter() - began, rows[1:]
        if workers == 1 or took < _POOL_FROM or len(rows) < 2:
            if rows:
                solver.solve(program, rows, out, start)
            return
    _run_in_pool(solver, program, rows, out, start, workers)


def _run_in_pool(
    solver: AbstractSolver,
    program: HostProgram,
    rows: list[int],
    out: Iterates,
    start: Iterates | None,
    workers: int,
) -> None:
    size = -(-len(rows) // (workers * _CHUNKS_PER_WORKER))
    chunks = deque(rows[k : k + size] for k in range(0, len(rows), size))
    stop = threading.Event()

    def work() -> None:
        while chunks and not stop.is_set():
            try:
                chunk = chunks.popleft()
            except IndexError:  # another worker took the last one
                return
            solver.solve(program, chunk, out, start, stop)

    futures: list[Future[None]] = []
    try:
        futures.extend(_pool().submit(work) for _ in range(min(workers, len(chunks))))
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        stop.set()
        for future in futures:
            future.cancel()
        wait(futures)
    for future in futures:
        if not future.cancelled():
            future.result()


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        return os.cpu_count() or 1


def _pool() -> ThreadPoolExecutor:
    """The pool of this process, made at the first use."""
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(_cores(), thread_name_prefix="dcl-solver")
        return _executor


def _forget() -> None:
    """A forked child has none of the pool's threads, and the lock may have been held when it was copied."""
    global _lock, _executor
    _lock, _executor = threading.Lock(), None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)

"""Timing in processes of their own: so many threads, and as many cores, for each."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection

from contest import AbstractWork, Effort
from lines import Done
from machine import cores

# What numerical libraries read when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


@contextmanager
def confined(threads: int) -> Iterator[None]:
    """Processes that are started here have so many threads, and as many cores.

    A package may take all cores whatever is asked; and one with its own pool of threads makes it once for all.
    """
    before, variables = cores(), {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    if sys.platform == "linux":
        os.sched_setaffinity(0, before[-threads:])
    try:
        yield
    finally:
        if sys.platform == "linux":
            os.sched_setaffinity(0, before)
        for name, value in variables.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _child(results: Connection, module: str, todo: Sequence[AbstractWork], only: Sequence[str], effort: Effort) -> None:
    """Time these works, all with the same number of threads; send the lines of each as soon as they are there, then None."""
    import torch

    torch.set_num_threads(todo[0].threads)
    for done in import_module(module).time_works(todo, only, effort):
        results.send(done)
    results.send(None)


def timed(module: str, todo: Sequence[AbstractWork], only: Sequence[str], effort: Effort) -> Iterator[Done]:
    """Each work with its lines, by `time_works` of a module; a process of its own for each number of threads.

    Raises:
        ChildProcessError: the process ended too early: a layer took it down.
    """
    context = multiprocessing.get_context("spawn")
    for threads in sorted({work.threads for work in todo}):
        here, there = context.Pipe(duplex=False)
        some = [work for work in todo if work.threads == threads]
        process = context.Process(target=_child, args=(there, module, some, only, effort), daemon=True)
        with confined(threads):
            process.start()
        there.close()
        for work in [*some, None]:
            try:
                done = here.recv()
            except EOFError:
                process.join()
                raise ChildProcessError(f"exit code {process.exitcode} while timing {work or 'nothing'}") from None
            if done is not None:
                yield done
        process.join()

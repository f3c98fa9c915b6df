"""How fast are QP layers, dcl's and its peers', one instance or a batch, and who is right?

    python benchmarks/how_fast_are_qp_layers.py [--short] [--parts PART ...] [--peers NAME ...] [--csv FILE] [--figure FILE]

Forward + backward on random dense QPs, LPs and box QPs, the same programs for every layer, in turns.  Every answer that is
timed is checked; wrong ones are marked and not ranked.  See README.md beside this file.

Exit status: 0, or 1 if an answer of dcl is wrong or missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

from machine import cores, machine
from qp_report import Done, ratios, speedups, table, write_csv
from qp_works import BATCHES, PARTS, SIZES, Effort, Work, works

# What numerical libraries read when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_SHORT = {"sizes": [2, 10], "batches": [1, 16], "seconds": 0.05, "turns": 5, "call": 5.0}
_LONG = {"sizes": list(SIZES), "batches": list(BATCHES), "seconds": 1.0, "turns": 100, "call": 5.0}


def _shown(numbers: Sequence[int]) -> str:
    return " ".join(str(number) for number in numbers)


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: no such folder, or a folder itself")
    return path


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what --short and the default differ in is filled in."""
    parts = "\n".join(f"  {name:8} {title}" for name, title in PARTS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"parts:\n{parts}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="small sizes and batches, one thread, some seconds in all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help="what to time, see below (all)")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help=f"numbers of variables ({_shown(SIZES)})")
    parser.add_argument("--batches", nargs="+", type=int, metavar="B", help=f"instances a call ({_shown(BATCHES)})")
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="only layers whose name contains a NAME")
    parser.add_argument("--seconds", type=float, help="time a layer may use on a work, at least 3 calls (1)")
    parser.add_argument("--turns", type=int, help="most turns on a work (100)")
    parser.add_argument("--call", type=float, help="leave a layer out where a call would take more seconds (5)")
    parser.add_argument("--seed", type=int, default=0, help="other random programs")
    parser.add_argument("--csv", type=_writable, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--figure", type=_writable, metavar="FILE", help="draw the growth with n and with the batch")
    given = parser.parse_args(arguments)
    if given.figure and find_spec("matplotlib") is None:
        parser.error("--figure needs matplotlib: pip install matplotlib")
    given.parts = given.parts or [part for part in PARTS if not (given.short and part == "threads")]
    for name, value in (_SHORT if given.short else _LONG).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


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


def _child(results: Connection, todo: Sequence[Work], only: Sequence[str], effort: Effort) -> None:
    """Time these works, all with the same number of threads; send the lines of each as soon as they are there, then None."""
    import torch
    from qp_timing import time_works

    torch.set_num_threads(todo[0].threads)
    for done in time_works(todo, only, effort):
        results.send(done)
    results.send(None)


def timed(todo: Sequence[Work], only: Sequence[str], effort: Effort) -> Iterator[Done]:
    """Each work with its lines; a process of its own for each number of threads.

    Raises:
        ChildProcessError: the process ended too early: a layer took it down.
    """
    context = multiprocessing.get_context("spawn")
    for threads in sorted({work.threads for work in todo}):
        here, there = context.Pipe(duplex=False)
        some = [work for work in todo if work.threads == threads]
        process = context.Process(target=_child, args=(there, some, only, effort), daemon=True)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, print, write; returns the exit status."""
    given = options(arguments)
    todo = [work for work in works(given.parts, given.sizes, given.batches) if work.threads <= len(cores())]
    print(machine(), flush=True)
    done: list[Done] = []
    trouble = ""
    try:
        for work, lines in timed(todo, given.peers, Effort(given.seconds, given.turns, given.call, given.seed)):
            done.append((work, lines))
            if given.csv:  # anew each time: a long run may be interrupted
                write_csv(given.csv, done)
            print(f"\n{table(work, lines)}", flush=True)
    except ChildProcessError as error:
        trouble = str(error)
    for summary in filter(None, (ratios(done), speedups(done))):
        print(f"\n{summary}")
    if given.figure:
        from qp_figure import draw

        draw(done).savefig(given.figure, dpi=110)
    faults = [f"{work}: {line.layer}: {line.verdict}" for work, lines in done for line in lines if line.is_dcl_at_fault]
    for fault in [*filter(None, [trouble]), *faults]:
        print(fault, file=sys.stderr)
    return 1 if trouble or faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""How much faster is one version of dcl than another, on the works of `how_fast_are_qp_layers.py`?

    python benchmarks/how_much_faster_than_before.py BEFORE NOW [--short] [--batches B ...] [--peers NAME ...] [--turns T]

BEFORE and NOW are checkouts (`git worktree add --detach ../before COMMIT`).  Each has a process of its own, and they
take turns on the same programs, so that a busy machine slows both alike.  Times are those of the
processor, with one thread.  Every answer that is timed is checked.

Exit status: 0, or 1 if an answer is wrong or missing.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
from command_line import LONG, SHORT
from contest import Effort
from lines import Line
from machine import machine
from processes import confined
from qp_works import Work, works


def _tree(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "dcl" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"no checkout of dcl: {text}")
    return path


def _serve(there: Connection, tree: Path) -> None:
    """A process with the dcl of a tree: takes (work, name, seed) or (first, calls, counts), ends at None."""
    sys.path.insert(0, str(tree))
    import torch
    from qp_peers import peers_of
    from qp_timing import programs_of
    from turns import Run, garbage_stays

    import dcl

    torch.set_num_threads(1)
    there.send(str(Path(dcl.__file__).parents[1]))
    with garbage_stays():
        while (asked := there.recv()) is not None:
            match asked:
                case Work() as work, str() as name, int() as seed:
                    run = Run(next(peer for peer in peers_of(work) if peer.name == name), work, time.process_time)
                    programs = programs_of([work], seed)
                    run.prepare()
                    there.send(run.line())
                case int() as first, int() as calls, bool() as counts:
                    gc.collect()
                    done = len(run.forward)
                    run.stretch(programs, first, calls, counts=counts)
                    spent = zip(run.forward[done:], run.backward[done:], strict=True)
                    there.send(([f + b for f, b in spent], run.calls(), run.line()))


@contextmanager
def served(tree: Path) -> Iterator[Connection]:
    """The connection to a process that runs the dcl of a tree on one core.  Raises ImportError if it has another one."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(there, tree), daemon=True)
    with confined(1):
        process.start()
    there.close()
    try:
        found = here.recv()
        if Path(found) != tree:
            raise ImportError(f"{found} was imported, not {tree}")
        yield here
        here.send(None)
    finally:
        here.close()
        process.join(timeout=10)


def compared(both: Sequence[Connection], work: Work, name: str, effort: Effort) -> tuple[list[Line], float]:
    """A layer of both versions on a work: their lines, and the median over the turns of the ratio before / now."""
    for one in both:
        one.send((work, name, effort.seed))
    lines = [one.recv() for one in both]
    if any(line.trouble for line in lines):
        return lines, float("nan")
    rng, first, calls, spent, ratios = np.random.default_rng(effort.seed), 0, [1, 1], [0.0, 0.0], []
    for turn in range(-1, effort.turns):
        took = [0.0, 0.0]
        for which in rng.permutation(2):
            both[which].send((first, calls[which], turn >= 0))
            seconds, next_calls, lines[which] = both[which].recv()
            took[which] = median(seconds) if seconds else 0.0
            spent[which] += sum(seconds)
            calls[which] = next_calls
        first += max(calls)
        if any(line.trouble for line in lines):
            return lines, float("nan")
        if turn >= 0:
            ratios.append(took[0] / took[1])
        if max(spent) > effort.seconds and len(ratios) >= 3:
            break
    return lines, median(ratios)


def todo(batches: Sequence[int], short: bool) -> Iterator[tuple[Work, str]]:
    """Works and layers: dense QPs, forward alone in a large batch, x(mu)."""
    sizes = (10,) if short else (10, 50, 100)
    for work in works(["dense"], sizes, batches):
        yield work, "dcl.QPLayer"
        yield work, "dcl.CvxpyLayer"
    for work in works(["forward"], sizes, [16 if short else 1024]):
        yield work, "dcl.QPLayer"
    for work in works(["mu"], sizes, [max(batches)]):
        yield work, "dcl.QPLayer, mu 1e-01"


def main(arguments: Sequence[str] | None = None) -> int:
    """Time and print; returns the exit status."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "before", type=_tree, metavar="BEFORE", help="a checkout of dcl, with its core built if it has one"
    )
    made.add_argument("now", type=_tree, metavar="NOW", help="another one")
    made.add_argument("--short", action="store_true", help="n = 10 and small batches only, some seconds")
    made.add_argument("--batches", nargs="+", type=int, metavar="B", help="instances a call (1 128)")
    made.add_argument("--peers", nargs="+", default=[""], metavar="NAME", help="only layers whose name contains a NAME")
    made.add_argument("--seconds", type=float, help="time a version may use on a work, at least 3 turns (1)")
    made.add_argument("--turns", type=int, help="most turns on a work (100)")
    made.add_argument("--seed", type=int, default=0, help="other random programs")
    given = made.parse_args(arguments)
    usual = SHORT if given.short else LONG
    effort = Effort(given.seconds or usual["seconds"], int(given.turns or usual["turns"]), usual["call"], given.seed)
    print(machine(), flush=True)
    print(f"{'work':72} {'layer':20} {'ms before':>10} {'ms now':>9} {'ratio':>7} {'error now':>10}")
    wrong = False
    with served(given.before) as before, served(given.now) as now:
        for work, name in todo(given.batches or ([1, 16] if given.short else [1, 128]), given.short):
            if not any(part in name for part in given.peers):
                continue
            lines, ratio = compared((before, now), work, name, effort)
            wrong |= not all(line.is_right for line in lines)
            verdicts = zip(("before", "now"), lines, strict=True)
            said = "".join(f"  {when}: {line.verdict}" for when, line in verdicts if not line.is_right)
            error = np.nanmax([lines[1].error_x, lines[1].error_gradient])
            print(
                f"{work!s:72} {name:20} {lines[0].ms:10.4f} {lines[1].ms:9.4f} {ratio:7.1f} {error:10.1e}{said}",
                flush=True,
            )
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())

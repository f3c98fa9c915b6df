"""How fast is dcl.argmin beside torchopt, SciPy with a gradient by hand, and unrolled Adam, and who is right?

python benchmarks/how_fast_is_argmin_against_peers.py [--turns T] [--threads N] [--only NAME ...]

For the networks of the thread and the penalties of a logistic regression on breast-cancer data: y = argmin f, the gradient of w'y
in theta.  The ways take turns on one problem, so that a busy machine slows all alike; medians.  Errors are relative, against 40
digits (argmin_problems.py).  Memory is what a call adds to the resident size at its peak, in a process of its own after a call on
a smaller problem.  At the end, what each says of the thread's seeds that have no minimum.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from argmin_peers import DCL, PEERS, Peer, error
from argmin_problems import Problem, problems, without_minimum
from machine import machine, version

WRONG = 1e-2


def peak(peer: Peer, problem: Problem, other: Problem) -> float:
    """MiB that a call adds to this process at its peak; NaN where the system does not tell."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return float("nan")
    peer.way(other)
    clear.write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    peer.way(problem)
    return (_status("VmHWM") - before) / 1024.0


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))


def peak_apart(peer: Peer, number: int) -> float:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", peer.name, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def turns(ways: Sequence[Peer], problem: Problem, count: int) -> dict[str, list[float]]:
    """Seconds of each way, in turns, after one that is not counted."""
    seconds: dict[str, list[float]] = {peer.name: [] for peer in ways}
    for turn in range(count + 1):
        for peer in ways:
            began = time.perf_counter()
            peer.way(problem)
            if turn:
                seconds[peer.name].append(time.perf_counter() - began)
    return seconds


def said(peer: Peer, problem: Problem) -> str:
    """The error, or what is returned as if there were an argmin."""
    try:
        y, gradient = peer.way(problem)
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return f"y of norm {np.linalg.norm(y):.1f}, gradient of norm {np.linalg.norm(gradient):.0e}"


def main() -> None:
    """Print one table for each problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7, metavar="T", help="repetitions (default: 7)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="torch's threads (default: 1)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="ways whose name contains one of these")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torchopt")  # its use of the old functorch
    given = problems()
    if args.peak:
        number = int(args.peak[1])
        peer = next(peer for peer in PEERS if peer.name == args.peak[0])
        print(json.dumps(peak(peer, given[number], given[1 if number == 0 else 0])))
        return
    print(f"torchopt {version('torchopt') or 'not installed'}, scipy {version('scipy')}, mpmath {version('mpmath')}")
    print(machine())
    chosen = [peer for peer in PEERS if any(part in peer.name for part in args.only)]
    ways = [peer for peer in chosen if not peer.is_missing()]
    for number, problem in enumerate(given):
        y, gradient = problem.oracle()
        print(f"\n### {problem.name}: {len(y)} unknowns, {len(gradient)} parameters\n")
        print("| way | ms | x dcl | MiB | error of y | error of the gradient |\n|---|---|---|---|---|---|")
        seconds = turns(ways, problem, args.turns)
        for peer in chosen:
            if peer.is_missing():
                print(f"| {peer.name} | not installed | | | | |")
                continue
            found = peer.way(problem)
            errors = [error(f, k) for f, k in zip(found, (y, gradient), strict=True)]
            verdict = "" if np.isfinite(errors[1]) and errors[1] <= WRONG else " (wrong)"
            spent = median(seconds[peer.name])
            ratio = f"{spent / median(seconds[DCL]):.2f}" if seconds.get(DCL) else ""
            print(
                f"| {peer.name} | {1e3 * spent:.1f} | {ratio} | {peak_apart(peer, number):.1f} | {errors[0]:.0e} | "
                f"{errors[1]:.0e}{verdict} |",
                flush=True,
            )
    nowhere = without_minimum()
    print(
        f"\n### No minimum\n\n| way | {' | '.join(problem.name for problem in nowhere)} |\n|---|{'---|' * len(nowhere)}"
    )
    for peer in ways:
        print(f"| {peer.name} | {' | '.join(said(peer, problem) for problem in nowhere)} |", flush=True)


if __name__ == "__main__":
    main()

"""Which of the things that a torch user does with a function work on dcl's layers, and on those of its peers?

    python benchmarks/torch_features_against_peers.py [--only NAME ...] [--details] [--seconds S]

Each cell runs in a process of its own and says "yes" if everything it computes agrees with a closed form to 1e-3, relative;
"no (wrong by e)" if not; "error (type)" if it raises; what raises because of a limit of torch, and says so, is an error too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable

import torch
from machine import version
from torch_features import FEATURES, Feature, WrongError, works
from torch_peers import PEERS, Peer

TOLERANCE = 1e-3
_DISTRIBUTIONS = ("dcl", "torch", "cvxpylayers", "diffcp", "qpth", "proxsuite", "moreau", "cvxpy")


def cell(peer: Peer, check: Callable[..., float]) -> tuple[str, str]:
    """The entry of the table, and what there is to say of it."""
    try:
        wrong = check(peer.make())
    except WrongError as found:
        return f"no ({found})", ""
    except BaseException as raised:  # noqa: BLE001  whatever a package raises is its entry
        lines = [line.strip() for line in str(raised).splitlines() if line.strip()]
        return f"error ({type(raised).__name__})", lines[-1] if "Traceback" in str(raised) else (lines or [""])[0]
    return ("yes", f"{wrong:.1e}") if wrong <= TOLERANCE else (f"no (wrong by {wrong:.1g})", "")


def isolated(peer: Peer, check: Callable[..., float], seconds: float) -> tuple[str, str]:
    """`cell` in a forked process, which may crash or hang."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work() -> None:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        warnings.simplefilter("ignore")
        there.send(cell(peer, check))

    process = context.Process(target=work)
    process.start()
    there.close()
    try:
        result = here.recv() if here.poll(seconds) else ("error (timeout)", f"not done after {seconds:.0f} s")
    except EOFError:
        process.join()
        result = ("error (crash)", f"exit code {process.exitcode}")
    if process.is_alive():
        process.join(5.0)
    if process.is_alive() and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return result


def row(feature: Feature, peers: list[Peer], seconds: float) -> list[tuple[str, str]]:
    """The entries of all peers."""
    return [isolated(peer, feature.check, seconds) if not peer.missing() else ("not installed", "") for peer in peers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="features or peers whose name contains one of these")
    parser.add_argument("--details", action="store_true", help="errors and messages below the table")
    parser.add_argument("--seconds", type=float, default=300.0, help="for a cell")
    parser.add_argument("--tests", action="store_true", help="a column with the test of dcl that holds the feature")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

    def chosen(names: list[str]) -> list[str]:
        found = [name for name in names if any(part in name for part in args.only)]
        return found or names

    peer_names, feature_names = chosen([p.name for p in PEERS]), chosen([f.name for f in FEATURES])
    peers = [peer for peer in PEERS if peer.name in peer_names]
    print(", ".join(f"{name} {version(name) or 'not installed'}" for name in _DISTRIBUTIONS), "\n")
    for peer in peers:
        if not peer.missing():
            base, said = isolated(peer, works, args.seconds)
            print(f"answer and gradients of {peer.name}: {base} {said}", file=sys.stderr)
    head = ["feature", *(["test"] if args.tests else []), *(peer.name for peer in peers)]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    notes = []
    for feature in (f for f in FEATURES if f.name in feature_names):
        entries = row(feature, peers, args.seconds)
        shown = [feature.name, *([f"`{feature.test}`"] if args.tests else []), *(entry for entry, _ in entries)]
        print(f"| {' | '.join(shown)} |", flush=True)
        notes += [
            f"{feature.name}, {p.name}: {e} {said[:200]}" for p, (e, said) in zip(peers, entries, strict=True) if said
        ]
    if args.details:
        print("", *notes, sep="\n")


if __name__ == "__main__":
    main()

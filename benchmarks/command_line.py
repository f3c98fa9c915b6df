"""What the comparisons of layers share on the command line: options, and the run that prints, writes and ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contest import Effort
from lines import Done, faults, table, write_csv

SHORT = {"seconds": 0.05, "turns": 5, "call": 5.0}
LONG = {"seconds": 1.0, "turns": 100, "call": 5.0}


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: no such folder, or a folder itself")
    return path


def parser(description: str, epilog: str, figure: str) -> argparse.ArgumentParser:
    """The options of all comparisons; figure: what --figure draws."""
    made = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--short", action="store_true", help="small programs and batches, some seconds in all")
    made.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="only layers whose name contains a NAME")
    made.add_argument("--seconds", type=float, help="time a layer may use on a work, at least 3 calls (1)")
    made.add_argument("--turns", type=int, help="most turns on a work (100)")
    made.add_argument("--call", type=float, help="leave a layer out where a call would take more seconds (5)")
    made.add_argument("--seed", type=int, default=0, help="other random programs")
    made.add_argument("--csv", type=_writable, metavar="FILE", help="write every figure to FILE")
    made.add_argument("--figure", type=_writable, metavar="FILE", help=f"draw {figure}")
    return made


def read(
    made: argparse.ArgumentParser, arguments: Sequence[str] | None, short: Mapping[str, Any], long: Mapping[str, Any]
) -> argparse.Namespace:
    """Read the command line; what --short and the default differ in is filled in."""
    given = made.parse_args(arguments)
    if given.figure and find_spec("matplotlib") is None:
        made.error("--figure needs matplotlib: pip install matplotlib")
    for name, value in (SHORT | dict(short) if given.short else LONG | dict(long)).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def effort(given: argparse.Namespace) -> Effort:
    """What was asked for."""
    return Effort(given.seconds, given.turns, given.call, given.seed)


def finish(
    given: argparse.Namespace,
    results: Iterable[Done],
    summaries: Sequence[Callable[[list[Any]], str]],
    draw: Callable[[list[Any], Path], None],
) -> int:
    """Print each table as soon as it is there, then the summaries; write the files; what dcl did wrong is the exit status."""
    done: list[Done] = []
    trouble = ""
    try:
        for work, lines in results:
            done.append((work, lines))
            if given.csv:  # anew each time: a long run may be interrupted
                write_csv(given.csv, done)
            print(f"\n{table(work, lines)}", flush=True)
    except ChildProcessError as error:
        trouble = str(error)
    for summary in filter(None, (summarize(done) for summarize in summaries)):
        print(f"\n{summary}")
    if given.figure:
        draw(done, given.figure)
    found = [*filter(None, [trouble]), *faults(done)]
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0

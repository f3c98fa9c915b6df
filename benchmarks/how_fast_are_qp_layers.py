"""How fast are QP layers, dcl's and its peers', one instance or a batch, and who is right?

    python benchmarks/how_fast_are_qp_layers.py [--short] [--parts PART ...] [--peers NAME ...] [--csv FILE] [--figure FILE]

Forward + backward on random dense QPs, LPs and box QPs, the same programs for every layer, in turns.  Every answer that is
timed is checked; wrong ones are marked and not ranked.  See README.md beside this file.

Exit status: 0, or 1 if an answer of dcl is wrong or missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from command_line import effort, finish, parser, read
from lines import Line
from machine import cores, machine
from processes import timed
from qp_report import growth, ratios, speedups
from qp_works import BATCHES, PARTS, SIZES, Work, works


def _shown(numbers: Sequence[int]) -> str:
    return " ".join(str(number) for number in numbers)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parts = "\n".join(f"  {name:8} {title}" for name, title in PARTS.items())
    made = parser(__doc__ or "", f"parts:\n{parts}", "the growth with n and with the batch")
    made.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help="what to time, see below (all)")
    made.add_argument("--sizes", nargs="+", type=int, metavar="N", help=f"numbers of variables ({_shown(SIZES)})")
    made.add_argument("--batches", nargs="+", type=int, metavar="B", help=f"instances a call ({_shown(BATCHES)})")
    one_thread = [part for part in PARTS if part != "threads"]
    return read(
        made,
        arguments,
        short={"sizes": [2, 10], "batches": [1, 16], "parts": one_thread},
        long={"sizes": list(SIZES), "batches": list(BATCHES), "parts": list(PARTS)},
    )


def _draw(done: list[tuple[Work, list[Line]]], path: Path) -> None:
    from qp_figure import draw

    draw(done).savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, print, write; returns the exit status."""
    given = options(arguments)
    todo = [work for work in works(given.parts, given.sizes, given.batches) if work.threads <= len(cores())]
    print(machine(), flush=True)
    return finish(given, timed("qp_timing", todo, given.peers, effort(given)), (ratios, speedups, growth), _draw)


if __name__ == "__main__":
    sys.exit(main())

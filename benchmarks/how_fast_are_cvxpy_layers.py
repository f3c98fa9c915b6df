"""How fast are layers of CVXPY problems, dcl's and cvxpylayers', one instance or a batch, and who is right?

    python benchmarks/how_fast_are_cvxpy_layers.py [--short] [--only FAMILY ...] [--peers NAME ...] [--csv FILE] [--figure FILE]

Forward + backward on programs as people write them: regression, classification, portfolios, control, networks.  The same
programs for every layer, in turns, on one thread.  Every answer that is timed is checked; wrong ones are marked and not
ranked.  See README.md beside this file.

Exit status: 0, or 1 if an answer of dcl is wrong or missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from command_line import effort, finish, parser, read
from cvxpy_programs import FAMILIES
from cvxpy_report import overview, twins
from cvxpy_works import LONG, SHORT, Work, works
from lines import Line
from machine import machine
from processes import timed


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    families = "\n".join(f"  {name:14} {family.title}" for name, family in FAMILIES.items())
    made = parser(__doc__ or "", f"families:\n{families}", "bars of the time relative to the best right peer")
    made.add_argument("--only", nargs="+", choices=FAMILIES, default=[], metavar="FAMILY", help="see below (all)")
    return read(made, arguments, short={}, long={})


def _draw(done: list[tuple[Work, list[Line]]], path: Path) -> None:
    from cvxpy_figure import draw

    draw(done).savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, print, write; returns the exit status."""
    given = options(arguments)
    todo = works(given.only, SHORT if given.short else LONG)
    print(machine(), flush=True)
    return finish(given, timed("cvxpy_timing", todo, given.peers, effort(given)), (overview, twins), _draw)


if __name__ == "__main__":
    sys.exit(main())

"""`dcl info`: what is installed, for bug reports."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = "The compiled core or why there is none, threads, versions."
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print it. Returns the exit status."""
    from dcl.about import info
    from dcl.cli import write

    found = info()
    print(write.text(vars(found)) if args.json else found)
    return 0

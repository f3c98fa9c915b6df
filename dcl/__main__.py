"""`python -m dcl COMMAND`: a dict of commands, each a module with HELP, add_arguments(parser) and run(args)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

import dcl
from dcl.compare import command as compare
from dcl.demo import command as demo


class _Command(Protocol):
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


COMMANDS: dict[str, _Command] = {"demo": demo, "compare": compare}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, or print the help. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dcl", description="Differentiable convex optimization layers.")
    parser.add_argument("--version", action="version", version=f"dcl {dcl.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP))
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return 0
    return COMMANDS[args.command].run(args)


if __name__ == "__main__":
    sys.exit(main())

"""Which commands there are, and how each run ends: with an exit status, and never with a traceback for the user's errors.

    0  solved           2  a wrong argument, file or value      3  infeasible        4  unbounded
    5  no answer that passes the check (limits, numbers)        130  Ctrl-C          141  nobody reads the output

Nothing here imports torch, so that help comes at once: the module of a command is imported when it is called.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import dcl
from dcl.errors import DclError, DegenerateWarning, SolveError

WRONG, INTERRUPTED, UNREAD = 2, 130, 141


class Parser(argparse.ArgumentParser):
    """argparse, with an error on one line that says where help is, instead of ten lines of usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and end with status 2."""
        self.exit(WRONG, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


@dataclass(frozen=True)
class Command:
    """A module with add_arguments(parser) and run(args) -> exit status, and its line in the help."""

    module: str
    help: str


COMMANDS = {
    "solve": Command("dcl.cli.solve", "solve a program for values of its parameters"),
    "sweep": Command("dcl.cli.sweep", "solve it for many values, resumable; solution paths as a table and a picture"),
    "sensitivity": Command("dcl.cli.sensitivity", "which parameters move the value and the solution most, and how far"),
    "diagnose": Command("dcl.cli.diagnose", "one point explained: what is active, whether its derivative is unique"),
    "compare": Command("dcl.cli.compare", "exact, barrier and other gradients side by side, and which one to use"),
    "info": Command("dcl.cli.info", "the compiled core, threads, versions"),
    "demo": Command("dcl.demo.command", "learn a rule for decisions from decisions, beside models without a layer"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, or print the help. Returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in given if not word.startswith("-")), None)
    try:
        status = _run(given, chosen)
        sys.stdout.flush()
    except DclError as error:
        complain(chosen, str(error))
        return _status_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # what is still buffered would fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return complain(chosen, f"{name}{error.strerror or error}")
    return status


def _status_of(error: DclError) -> int:
    """Of an instance without a solution that of its outcome."""
    if not isinstance(error, SolveError):
        return WRONG
    from dcl.cli.program import exit_status

    return exit_status(error.statuses) or WRONG


def _run(given: Sequence[str], chosen: str | None) -> int:
    parser = Parser(prog="dcl", description="Differentiable convex optimization: solve, sweep, explain.")
    parser.add_argument("--version", action="version", version=f"dcl {dcl.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    module: Any = None
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.help)
        if name == chosen:
            module = import_module(command.module)
            module.add_arguments(own)
    args = parser.parse_args(given)
    if args.command is None:
        parser.print_help()
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        return int(module.run(args))


def complain(command: str | None, message: str) -> int:
    """Say in one line what is wrong. Returns the exit status."""
    print(f"dcl{f' {command}' if command else ''}: {' '.join(message.split())}", file=sys.stderr)
    return WRONG


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # the last line of a DegenerateWarning says how to silence it in Python
    text = str(message).rpartition("\n  (")[0] if issubclass(category, DegenerateWarning) else ""
    print(f"dcl: warning: {' '.join((text or str(message)).split())}", file=sys.stderr)

"""`python -m dcl compare [FILE] [--n N] [--cones ...] [--mu ...] [--csv FILE] [--plot FILE] [--seed S]`."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any

from dcl.cli.arguments import assignment, existing, writable

HELP = "exact, barrier and other gradients of one program side by side, and which one to use"
_PICTURES = (".png", ".pdf", ".svg")
_DEFINES = ("problem", "parameters", "variables", "values")
_EPILOG = """\
FILE is a Python file that defines
  problem      a cvxpy.Problem
and, if you do not want all its parameters and variables at the parameters' own values (--set, else .value),
  parameters   its parameters, a list
  variables    what the layer returns, a list
  values       one array for each parameter, a list or a dict by name; batch dimensions in front if there are any

examples:
  python -m dcl compare --cones l q --n 10 --plot compare.png
  python -m dcl compare --linear --mu 1e-1 1e-2 1e-3 --csv compare.csv
  python -m dcl compare portfolio.py --set gamma=0.3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = fill(
        "Prints, for one program, the gradient of a random weighting of its solution by every way there is: exact KKT, "
        "log-barrier at several mu, straight-through, diffcp where it is installed, and finite differences as the reference; "
        "then says which one to use, and why. The program is random (--n, --cones, --linear, --seed), or that of FILE.",
        width=79,
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", nargs="?", type=existing, metavar="FILE", help="a Python file, see below")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=assignment,
        metavar="NAME=VALUE",
        help="value of a parameter of FILE, as in dcl solve",
    )
    parser.add_argument(
        "--n", type=_positive, default=6, metavar="N", help="variables of the random program (default: 6)"
    )
    parser.add_argument(
        "--cones",
        nargs="+",
        choices=["l", "q", "s", "ep", "p"],
        default=["l"],
        metavar="CONE",
        help="its cones, some of l (nonnegative), q (second-order), s (semidefinite), ep (exponential), p (power); default: l",
    )
    parser.add_argument("--linear", action="store_true", help="a linear program: no quadratic term")
    parser.add_argument(
        "--mu", nargs="+", type=_barrier, metavar="MU", help="barrier parameters (default: 1e-1 ... 1e-8)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the random program and weighting (default: 0)"
    )
    parser.add_argument("--csv", type=writable, metavar="OUT", help="also write the rows to a CSV file")
    parser.add_argument(
        "--plot",
        type=_picture,
        metavar="OUT",
        help=f"also draw gap, error and time against mu ({', '.join(_PICTURES)})",
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _barrier(text: str) -> float:
    try:
        mu = float(text)
    except ValueError:
        mu = -1.0
    if not 0.0 < mu < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return mu


def _picture(text: str) -> Path:
    path = writable(text)
    if path.suffix.lower() not in _PICTURES:
        raise argparse.ArgumentTypeError(f"cannot draw {text!r}: the name must end in {', '.join(_PICTURES)}")
    return path


def run(args: argparse.Namespace) -> int:
    """Compare, print the table, write what was asked for. Returns the exit status."""
    if args.plot is not None and find_spec("matplotlib") is None:
        return _complain('--plot needs matplotlib, not installed here: pip install "dcl-layers[compare]"')

    import torch

    from dcl.compare.families import draw
    from dcl.compare.gradients import compare_gradients
    from dcl.compare.probes import MUS
    from dcl.errors import DclError

    torch.set_num_threads(1)
    try:
        if args.file is None:
            drawn = draw(args.n, args.cones, args.seed, args.linear)
            layer, tensors = drawn.layer, list(drawn.tensors)
        else:
            layer, tensors = _read(args.file, args.set)
        found = compare_gradients(layer, *tensors, mu=args.mu or MUS, seed=args.seed)
    except (DclError, _BadFileError) as error:
        return _complain(str(error))
    print(found)
    if args.csv is not None:
        found.to_csv(args.csv)
        print(f"\nrows: {args.csv}")
    if args.plot is not None:
        found.plot(args.plot)
        print(f"figure: {args.plot}")
    return 0


class _BadFileError(Exception):
    """FILE does not define what it must."""


def _read(path: Path, pairs: Sequence[tuple[str, str]]) -> tuple[Any, list[Any]]:
    """The layer and the tensors of the user's file; pairs: those of --set."""
    import numpy as np
    import torch

    from dcl.layers.cvxpy import CvxpyLayer
    from dcl.user_code import UserCode

    with UserCode(path):
        defined = runpy.run_path(str(path))
    if "values" not in defined and isinstance(getattr(defined.get("problem"), "constraints", None), list):
        problem = defined["problem"]
        own = {"parameters": problem.parameters(), "variables": problem.variables()}
        defined = own | defined
        defined["values"] = _own_values(path, defined["parameters"], pairs)
    elif pairs:
        raise _BadFileError(f"{path} defines `values`: leave them out, or leave out --set")
    missing = [name for name in _DEFINES if name not in defined]
    if missing:
        raise _BadFileError(f"{path} does not define {', '.join(missing)}; see python -m dcl compare --help")
    layer = CvxpyLayer(defined["problem"], defined["parameters"], defined["variables"])
    values = _in_order(path, defined["parameters"], defined["values"])
    return layer, [torch.from_numpy(np.array(value, dtype=np.float64)) for value in values]


def _own_values(path: Path, parameters: Sequence[Any], pairs: Sequence[tuple[str, str]]) -> list[Any]:
    """The value of each parameter, of --set or its own. Raises _BadFileError where there is none."""
    from dcl.cli.program import set_values
    from dcl.cli.values import Places, assigned
    from dcl.programs.names import Entry, distinct

    if not parameters:
        raise _BadFileError(f"{path}: problem has no parameters, so there is no gradient to compare")
    entries = distinct([Entry(one.id, one.name(), tuple(one.shape)) for one in parameters])
    given = zip(entries, parameters, strict=True)
    base = {entry.name: one.value for entry, one in given if one.value is not None}
    found = set_values(assigned(pairs), Places({entry.name: entry.shape for entry in entries}, base)).base
    for entry in entries:
        if entry.name not in found:
            raise _BadFileError(
                f"{path}: parameter {entry.name} has no value: --set {entry.name}=..., or set its .value"
            )
    return [found[entry.name] for entry in entries]


def _in_order(path: Path, parameters: Sequence[Any], values: Any) -> Sequence[Any]:
    """The values in the order of the parameters, for a dict by parameter or by name. Raises _BadFileError."""
    if not isinstance(values, Mapping):
        if not isinstance(values, Sequence) or len(values) != len(parameters):
            raise _BadFileError(
                f"{path}: values must be a list of {len(parameters)}, or a dict with parameters or names as keys"
            )
        return values
    by_name = {key if isinstance(key, str) else key.name(): value for key, value in values.items()}
    names = [parameter.name() for parameter in parameters]
    if sorted(by_name) != sorted(names):
        raise _BadFileError(f"{path}: values has {', '.join(map(str, by_name))}; the parameters are {', '.join(names)}")
    return [by_name[name] for name in names]


def _complain(message: str) -> int:
    print(f"dcl compare: {message}", file=sys.stderr)
    return 2

"""`dcl compare [FILE] [--n N] [--cones ...] [--mu ...] [--csv FILE] [--plot FILE] [--seed S]`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from dcl.cli.arguments import PICTURES, add_source, check_drawing, picture, positive, writable
from dcl.cli.terminal import fitting, width, wrapped
from dcl.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

HELP = "exact, barrier and other gradients of one program side by side, and which one to use"
_DEFINES = ("problem", "parameters", "variables", "values")
_EPILOG = """\
FILE is a program, as in dcl solve: .py, .json, .npz, .mps or .lp.  A Python file defines
  problem      a cvxpy.Problem
and, if you do not want all its parameters and variables at the parameters' own values (--set, else .value),
  parameters   its parameters, a list
  variables    what the layer returns, a list
  values       one array for each parameter, a list or a dict by name; batch dimensions in front if there are any

examples:
  dcl compare --cones l q --n 10 --plot compare.png
  dcl compare --linear --mu 1e-1 1e-2 1e-3 --csv compare.csv
  dcl compare portfolio.py --set gamma=0.3
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
    add_source(parser, nargs="?")
    parser.add_argument(
        "--n", type=positive, default=6, metavar="N", help="variables of the random program (default: 6)"
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
        type=picture,
        metavar="OUT",
        help=f"also draw gap, error and time against mu ({', '.join(PICTURES)})",
    )


def _barrier(text: str) -> float:
    try:
        mu = float(text)
    except ValueError:
        mu = -1.0
    if not 0.0 < mu < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return mu


def run(args: argparse.Namespace) -> int:
    """Compare, print the table, write what was asked for. Returns the exit status."""
    check_drawing(args.plot, "compare")

    import torch

    from dcl.compare.families import draw
    from dcl.compare.gradients import compare_gradients
    from dcl.compare.probes import MUS
    from dcl.compare.table import text

    if args.file is None and args.set:
        raise InputError("--set is for the parameters of a FILE, and none is given", argument="set")
    torch.set_num_threads(1)
    if args.file is None:
        drawn = draw(args.n, args.cones, args.seed, args.linear)
        layer, tensors = drawn.layer, list(drawn.tensors)
    else:
        layer, tensors = _read(args.file, args.set)
    found = compare_gradients(layer, *tensors, mu=args.mu or MUS, seed=args.seed)
    print(wrapped(text(found, lambda lines, order: fitting(lines, order, width()))))
    if args.csv is not None:
        found.to_csv(args.csv)
        print(f"\nrows: {args.csv}")
    if args.plot is not None:
        found.plot(args.plot)
        print(f"figure: {args.plot}")
    return 0


def _read(path: Path, pairs: Sequence[tuple[str, str]]) -> tuple[Any, list[Any]]:
    """The layer and the tensors of the user's file; pairs: those of --set."""
    import numpy as np
    import torch

    from dcl.layers.cvxpy import CvxpyLayer

    defined, labels = _defined(path)
    if "values" not in defined and isinstance(getattr(defined.get("problem"), "constraints", None), list):
        problem = defined["problem"]
        own = {"parameters": problem.parameters(), "variables": problem.variables()}
        defined = own | defined
        defined["values"] = _own_values(path, defined["parameters"], pairs, labels)
    elif pairs:
        raise InputError(f"{path} defines `values`: leave them out, or leave out --set")
    missing = [name for name in _DEFINES if name not in defined] if "problem" in defined else ["problem"]
    if missing:
        raise InputError(f"{path} does not define {', '.join(missing)}; see dcl compare --help")
    layer = CvxpyLayer(defined["problem"], defined["parameters"], defined["variables"])
    values = _in_order(path, defined["parameters"], defined["values"])
    return layer, [torch.from_numpy(np.array(value, dtype=np.float64)) for value in values]


def _defined(path: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What a Python file defines, or the problem in a file of another kind, and labels of its entries."""
    from dcl.cli.load import load, run_file

    if path.suffix.lower() == ".py":
        return run_file(path), {}
    loaded = load(path)
    return {"problem": loaded.problem}, loaded.labels


def _own_values(
    path: Path, parameters: Sequence[Any], pairs: Sequence[tuple[str, str]], labels: Mapping[str, Sequence[str]]
) -> list[Any]:
    """The value of each parameter, of --set or its own. Raises InputError where there is none."""
    from dcl.cli.program import set_values
    from dcl.cli.values import Places, assigned
    from dcl.programs.names import Entry, distinct

    if not parameters:
        raise InputError(f"{path}: problem has no parameters, so there is no gradient to compare")
    entries = distinct([Entry(one.id, one.name(), tuple(one.shape)) for one in parameters])
    given = zip(entries, parameters, strict=True)
    base = {entry.name: one.value for entry, one in given if one.value is not None}
    found = set_values(assigned(pairs), Places({entry.name: entry.shape for entry in entries}, base, labels)).base
    for entry in entries:
        if entry.name not in found:
            raise InputError(f"{path}: parameter {entry.name} has no value: --set {entry.name}=..., or set its .value")
    return [found[entry.name] for entry in entries]


def _in_order(path: Path, parameters: Sequence[Any], values: Any) -> Sequence[Any]:
    """The values in the order of the parameters, for a dict by parameter or by name. Raises InputError."""
    if not isinstance(values, Mapping):
        if not isinstance(values, Sequence) or len(values) != len(parameters):
            raise InputError(
                f"{path}: values must be a list of {len(parameters)}, or a dict with parameters or names as keys"
            )
        return values
    by_name = {key if isinstance(key, str) else key.name(): value for key, value in values.items()}
    names = [parameter.name() for parameter in parameters]
    if sorted(by_name) != sorted(names):
        raise InputError(f"{path}: values has {', '.join(map(str, by_name))}; the parameters are {', '.join(names)}")
    return [by_name[name] for name in names]

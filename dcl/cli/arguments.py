"""Options that several commands share, and the types of arguments. Nothing here imports torch."""

from __future__ import annotations

import argparse
import os
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from dcl.errors import UnsupportedError

PICTURES = (".png", ".pdf", ".svg")
_FILES = """\
FILE is
  a Python file that defines `problem`, a cvxpy.Problem; a parameter takes its
  value from --set, else from .value
  a quadratic program as .json or .npz: minimize 1/2 x'Px + q'x subject to
  Ax = b, Gx <= h, lb <= x <= ub, with these names; q, b, h, lb and ub are
  parameters; "names", "A_names", "G_names" may name entries of x, b and h
  a linear or quadratic program as .mps or .lp; rows >= are Lx >= low
"""
_VALUES = """\
--set gamma=0.3              a number
--set mu=[0.1,0.2]           a list, or a list of lists
--set mu[2]=0.5              one entry, counted from 0, or by name: q[doors]
--set Sigma=sigma.csv        a table of numbers, perhaps with labels; or .npy
--data rows.csv              a row for each instance; columns gamma, mu[0], ...
"""


def add_program(parser: argparse.ArgumentParser, *, data: bool = True, examples: str = "") -> None:
    """FILE, --set, --data, --mu, --solver."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{_FILES}\n{_VALUES}{examples}"
    add_source(parser)
    if data:
        parser.add_argument(
            "--data", type=existing, metavar="CSV", help="values of parameters, a row for each instance"
        )
    parser.add_argument(
        "--mu", type=nonnegative, default=0.0, metavar="MU", help="log-barrier parameter (default: 0, exact)"
    )
    parser.add_argument("--solver", metavar="NAME", help="a solver by name (default: dcl chooses)")


def add_source(parser: argparse.ArgumentParser, **options: str) -> None:
    """FILE and --set."""
    parser.add_argument("file", type=existing, metavar="FILE", help="the program, see below", **options)  # type: ignore[arg-type]
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=assignment,
        metavar="NAME=VALUE",
        help="value of a parameter" + (", as in dcl solve" if options else ", see below"),
    )


def existing(text: str) -> Path:
    """A file that can be read."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder: give a file in it")
    if not path.exists():
        raise argparse.ArgumentTypeError(f"no such file: {text!r}{_similar(path)}")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: permission denied")
    return path


def _similar(path: Path) -> str:
    """The file that may have been meant."""
    folder = path.parent
    names = [one.name for one in folder.iterdir() if one.is_file()] if folder.is_dir() else []
    close = get_close_matches(path.name, names, 1)
    return f"; did you mean {str(folder / close[0])!r}?" if close else ""


def writable(text: str) -> Path:
    """A file that can be written."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: the folder does not exist, or the name is a folder")
    return path


def output(text: str) -> Path:
    """A file that results can be written to, by its ending."""
    path = writable(text)
    if path.suffix.lower() not in (".csv", ".json", ".npz"):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: the name must end in .csv, .json or .npz")
    return path


def picture(text: str) -> Path:
    """A file that a picture can be written to, by its ending."""
    path = writable(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"cannot draw {text!r}: the name must end in {', '.join(PICTURES)}")
    return path


def check_drawing(path: Path | None, extra: str) -> None:
    """Before anything is computed: can a picture be drawn at all? Raises UnsupportedError that names the extra."""
    if path is not None and find_spec("matplotlib") is None:
        raise UnsupportedError(f'--plot needs matplotlib, not installed here: pip install "dcl-layers[{extra}]"')


def points(text: str) -> tuple[str, str]:
    """NAME=POINTS."""
    return assignment(text, "POINTS, as in gamma=0:1:50")


def assignment(text: str, what: str = "VALUE") -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise argparse.ArgumentTypeError(f"must be NAME={what}, not {text!r}")
    return name.strip(), value.strip()


def nonnegative(text: str) -> float:
    """A finite number >= 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number >= 0, not {text!r}")
    return number


def positive(text: str) -> int:
    """A positive integer."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)

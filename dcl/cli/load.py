"""FILE -> a cvxpy.Problem whose parameters have values."""

from __future__ import annotations

import json
import runpy
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dcl.errors import InputError
from dcl.frontends.cvxpy.labels import written
from dcl.frontends.cvxpy.quadratic import finite, problem_of
from dcl.user_code import UserCode

_BLOCKS = ("P", "q", "A", "b", "G", "h", "lb", "ub")
# names of the entries of x, of the rows of A, and of those of G
_NAMES = {"names": ("x", "q"), "A_names": ("b", "b"), "G_names": ("h", "h")}
_FIELDS = (*_BLOCKS, *_NAMES)


@dataclass(frozen=True, eq=False)
class Loaded:
    """The problem; labels: of the entries of its parameters, variables and multipliers, by name, where the file has some."""

    problem: Any
    labels: dict[str, list[str]] = field(default_factory=dict)


def load(path: Path) -> Loaded:
    """What the file defines. Raises InputError that says what is wrong with it, and where."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "py":
        return Loaded(_python(path))
    try:
        if kind in ("json", "npz"):
            blocks, names = _json(path) if kind == "json" else _npz(path)
            return _quadratic(blocks, names)
        if kind in ("mps", "lp"):
            from dcl.cli import mps

            with path.open("rb"):
                pass  # HiGHS does not say why it cannot open a file
            model = mps.read(path)
            return _quadratic(model.blocks, model.names, model.d, maximize=model.maximize)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", argument="file") from None
    raise InputError(f"{path}: unknown kind of file; use .py, .json, .npz, .mps or .lp", argument="file")


def _quadratic(
    blocks: dict[str, Any], names: dict[str, list[str]], d: float = 0.0, *, maximize: bool = False
) -> Loaded:
    """The problem of the blocks, and labels for what is made of them.

    names: of the entries of x and of the sides b, h and low.
    """
    problem = problem_of(blocks, d, maximize=maximize)
    whole = names | (dict.fromkeys(("q", "lb", "ub"), names["x"]) if "x" in names else {})
    kept = finite(blocks)
    labels = {"x": names["x"]} if "x" in names else {}
    for parameter in problem.parameters():
        if (name := parameter.name()) in whole:
            labels[name] = [whole[name][k] for k in kept[name]] if name in kept else whole[name]
    for constraint in problem.constraints:
        (parameter,) = constraint.parameters()
        if parameter.name() in labels:
            labels[f"dual of {written(constraint)}"] = labels[parameter.name()]
    return Loaded(problem, labels)


def run_file(path: Path) -> dict[str, Any]:
    """What a Python file defines. Raises InputError with the line of its error."""
    sys.path.insert(0, str(path.resolve().parent))  # its own modules, as `python FILE` finds them
    with UserCode(path):
        return runpy.run_path(str(path))


def _python(path: Path) -> Any:
    defined = run_file(path)
    if "problem" not in defined:
        raise InputError(f"{path} does not define `problem`, a cvxpy.Problem", argument="file")
    return defined["problem"]


def _json(path: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}: this is not valid JSON", argument="file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8", argument="file") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} must be a JSON object with some of the names {', '.join(_FIELDS)}", argument="file")
    blocks = {
        name: value if name in _NAMES else _array(path, name, value)
        for name, value in found.items()
        if value is not None
    }
    return _known(path, blocks)


def _array(path: Path, name: str, value: Any) -> Any:
    """A list as an array; null in lb, ub and h is an infinite side."""
    infinite = {"lb": -np.inf, "ub": np.inf, "h": np.inf}.get(name)
    if infinite is not None and isinstance(value, list):
        value = [infinite if entry is None else entry for entry in value]
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{path}: {name} is not an array of numbers", argument=name) from None


def _npz(path: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    try:
        with path.open("rb") as opened, np.load(opened) as arrays:
            blocks = {name: arrays[name].tolist() if name in _NAMES else arrays[name] for name in arrays}
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path} is not a file of NumPy arrays (np.savez)", argument="file") from None
    return _known(path, blocks)


def _known(path: Path, blocks: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The blocks, and the names apart, each list by what it names."""
    unknown = [name for name in blocks if name not in _FIELDS]
    if unknown:
        raise InputError(
            f"{path} has {', '.join(unknown)}; a quadratic program has {', '.join(_FIELDS)}", argument="file"
        )
    names = {}
    for field_, (target, block) in _NAMES.items():
        found = blocks.pop(field_, None)
        if not found:
            continue
        what = "x" if target == "x" else block
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise InputError(
                f"{path}: {field_} must be a list of strings, one for each entry of {what}", argument=field_
            )
        if len(set(found)) != len(found):
            raise InputError(f"{path}: two entries of {field_} are equal", argument=field_)
        if len(found) != np.size(blocks.get(block, ())):
            raise InputError(
                f"{path}: {field_} has {len(found)} entries, but {what} has {np.size(blocks.get(block, ()))}: give one name "
                "for each",
                argument=field_,
            )
        names[target] = found
    return blocks, names

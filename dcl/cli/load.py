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
from dcl.frontends.cvxpy.quadratic import problem_of
from dcl.user_code import UserCode

_BLOCKS = ("P", "q", "A", "b", "G", "h", "lb", "ub")
_JSON = (*_BLOCKS, "names")


@dataclass(frozen=True, eq=False)
class Loaded:
    """The problem, and names of the entries of its variable x where the file has some."""

    problem: Any
    names: list[str] = field(default_factory=list)


def load(path: Path) -> Loaded:
    """What the file defines. Raises InputError that says what is wrong with it, and where."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "py":
        return Loaded(_python(path))
    if kind == "json":
        blocks, names = _json(path)
        problem = problem_of(blocks)
        if names and len(names) != len(blocks["q"]):
            raise InputError(
                f"{path}: names has {len(names)} entries, but x has {len(blocks['q'])}: give one name for each",
                argument="names",
            )
        return Loaded(problem, names)
    if kind == "npz":
        return Loaded(problem_of(_npz(path)))
    if kind in ("mps", "lp"):
        from dcl.cli import mps

        model = mps.read(path)
        return Loaded(problem_of(model.blocks, model.d, maximize=model.maximize), model.names)
    raise InputError(f"{path}: unknown kind of file; use .py, .json, .npz, .mps or .lp", argument="file")


def _python(path: Path) -> Any:
    sys.path.insert(0, str(path.resolve().parent))  # its own modules, as `python FILE` finds them
    with UserCode(path):
        defined = runpy.run_path(str(path))
    if "problem" not in defined:
        raise InputError(f"{path} does not define `problem`, a cvxpy.Problem", argument="file")
    return defined["problem"]


def _json(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}: this is not valid JSON", argument="file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8", argument="file") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} must be a JSON object with some of the names {', '.join(_JSON)}", argument="file")
    names = found.pop("names", None) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: names must be a list of strings, one for each entry of x", argument="names")
    if len(set(names)) != len(names):
        raise InputError(f"{path}: two entries of names are equal", argument="names")
    blocks = {name: _array(path, name, value) for name, value in found.items() if value is not None}
    return _known(path, blocks, _JSON), names


def _array(path: Path, name: str, value: Any) -> Any:
    """A list as an array; null in lb, ub and h is an infinite side."""
    infinite = {"lb": -np.inf, "ub": np.inf, "h": np.inf}.get(name)
    if infinite is not None and isinstance(value, list):
        value = [infinite if entry is None else entry for entry in value]
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{path}: {name} is not an array of numbers", argument=name) from None


def _npz(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as opened, np.load(opened) as arrays:
            return _known(path, {name: arrays[name] for name in arrays})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a file of NumPy arrays (np.savez)", argument="file") from None


def _known(path: Path, blocks: dict[str, Any], valid: tuple[str, ...] = _BLOCKS) -> dict[str, Any]:
    unknown = [name for name in blocks if name not in _BLOCKS]
    if unknown:
        raise InputError(
            f"{path} has {', '.join(unknown)}; a quadratic program has {', '.join(valid)}", argument="file"
        )
    return blocks

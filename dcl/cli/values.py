"""Values of parameters from the command line: numbers and lists, tables in files, rows of instances, points of a sweep."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dcl.errors import InputError

_LARGEST = 10_000_000  # points of a sweep


@dataclass(frozen=True, eq=False)
class Table:
    """A CSV file: the names of its columns (None: none), labels of its rows (None: none), its numbers (rows, columns)."""

    columns: list[str] | None
    labels: list[str] | None
    numbers: Any


def read_table(path: Path) -> Table:
    """Read a CSV file; a first row or column that is no numbers has names. Raises InputError with the place."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}", argument="data") from None
    if not rows:
        raise InputError(f"{path} is empty", argument="data")
    columns = None if all(map(_is_number, rows[0])) else rows.pop(0)
    labels = None
    if rows and not all(_is_number(row[0]) for row in rows):
        labels = [row.pop(0) for row in rows]
        columns = columns if columns is None or not rows or len(columns) == len(rows[0]) else columns[1:]
    width = len(columns) if columns is not None else len(rows[0])
    for number, row in enumerate(rows, start=1):
        wrong = [cell for cell in row if not _is_number(cell)]
        if len(row) != width or wrong:
            what = f"{wrong[0]!r} is not a number" if wrong else f"{len(row)} cells instead of {width}"
            raise InputError(f"{path}, row {number} of numbers: {what}", argument="data")
    return Table(columns, labels, np.array([[float(cell) for cell in row] for row in rows]).reshape(len(rows), width))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def assigned(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """--set NAME=VALUE ...: the values. Raises InputError."""
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name in found:
            raise InputError(f"--set {name} is given twice", argument=name)
        found[name] = _value(name, text)
    return found


def _value(name: str, text: str) -> Any:
    path = Path(text)
    if path.suffix.lower() == ".npy" and path.is_file():
        return np.load(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return _of_table(read_table(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise InputError(
            f"--set {name}={text}: not a number, not a list such as [1,2,3], and not an existing .csv or .npy file",
            argument=name,
        ) from None


def _of_table(table: Table) -> Any:
    """A column as a vector, several as a matrix, with their labels."""
    one = table.numbers.shape[1] == 1
    array = table.numbers[:, 0] if one else table.numbers
    if find_spec("pandas") is None or (table.labels is None and (one or table.columns is None)):
        return array
    import pandas as pd

    if one:
        return pd.Series(array, index=table.labels)
    return pd.DataFrame(array, index=table.labels, columns=table.columns)


@dataclass(frozen=True, eq=False)
class Places:
    """The parameters of a program, and values for entries that are not given.

    shapes: of each.  base: values by name, where there are some.  labels: of the entries of vectors, by name, if any.
    """

    shapes: Mapping[str, tuple[int, ...]]
    base: Mapping[str, Any]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of(self, text: str) -> tuple[str, tuple[int, ...]]:
        """("mu", (2,)) for "mu[2]" or "mu[AAPL]", ("gamma", ()) for "gamma". Raises InputError."""
        name, bracket, rest = text.partition("[")
        name, rest = name.strip(), rest.strip().removesuffix("]")
        if name not in self.shapes:
            known = ", ".join(self.shapes) or "none"
            raise InputError(f"{name!r} is not a parameter of the program; parameters: {known}", argument=name)
        shape = self.shapes[name]
        labels = list(self.labels.get(name, ()))
        if rest in labels:
            return name, (labels.index(rest),)
        try:
            place = tuple(int(part) for part in rest.split(",")) if bracket else ()
        except ValueError:
            place = (-1,) * max(1, len(shape))
        if len(place) != len(shape) or any(not 0 <= i < size for i, size in zip(place, shape, strict=True)):
            first = labels[0] if labels else ", ".join("0" for _ in shape)
            wanted = f"one of its entries, such as {name}[{first}]" if shape else "a number"
            raise InputError(f"{text}: {name} has shape {shape}: give {wanted}", argument=name)
        return name, place

    def filled(self, name: str) -> Any:
        """The value of a parameter of which single entries are given; NaN where there is none."""
        value = self.base.get(name)
        if value is None:
            return np.full(self.shapes[name], np.nan)
        return np.array(value, dtype=np.float64).reshape(self.shapes[name])

    def rows(self, columns: Sequence[str], numbers: Any) -> dict[str, Any]:
        """Parameters (rows, *shape) from numbers (rows, columns). Raises InputError that names the column."""
        found: dict[str, Any] = {}
        for k, column in enumerate(columns):
            name, place = self.of(column)
            if name not in found:
                found[name] = np.array(np.broadcast_to(self.filled(name), (len(numbers), *self.shapes[name])))
            found[name][(slice(None), *place)] = numbers[:, k]
        for name, array in found.items():
            if np.isnan(array).any():
                row, *entry = (int(i) for i in np.argwhere(np.isnan(array))[0])
                raise InputError(f"{name}{entry or ''} has no value in row {row}: --set {name}=...", argument=name)
        return found


def instances(table: Table, places: Places) -> dict[str, Any]:
    """--data: parameters (rows, *shape) from columns "name" and "name[i]". Raises InputError that names the column."""
    if table.columns is None:
        raise InputError("--data needs a header row with the names of parameters", argument="data")
    return places.rows(table.columns, table.numbers)


def points(text: str, name: str = "NAME") -> Any:
    """--over NAME=...: START:STOP:COUNT, log:START:STOP:COUNT or a,b,c. Raises InputError."""
    words = text.split(":")
    logarithmic = words[0] == "log"
    words = words[1:] if logarithmic else words
    try:
        if len(words) == 1 and not logarithmic:
            return np.array([float(word) for word in words[0].split(",")])
        start, stop, count = float(words[0]), float(words[1]), int(words[2])
        if len(words) != 3 or not 1 <= count <= _LARGEST or (logarithmic and not (start > 0.0 and stop > 0.0)):
            raise ValueError
    except (ValueError, IndexError):
        raise InputError(
            f"--over {name}={text}: give START:STOP:COUNT, log:START:STOP:COUNT (positive ends), or numbers as in 1,2,5",
            argument="over",
        ) from None
    return np.geomspace(start, stop, count) if logarithmic else np.linspace(start, stop, count)


def grid(over: Sequence[tuple[str, str]], places: Places) -> dict[str, Any]:
    """All combinations of the points, the last one moving fastest: parameters (rows, *shape). Raises InputError."""
    axes = [points(text, name) for name, text in over]
    rows = math.prod(len(axis) for axis in axes)
    if rows > _LARGEST:
        raise InputError(f"--over asks for {rows:,} points; the limit is {_LARGEST:,}", argument="over")
    combined = np.stack([mesh.ravel() for mesh in np.meshgrid(*axes, indexing="ij")], 1)
    return places.rows([name for name, _ in over], combined)

"""What the user gives for a parameter -> an array in float64, with the labels that pandas has for its dimensions.

Numbers, lists, NumPy arrays, sparse matrices, pandas Series and DataFrames, torch tensors.  Batch dimensions lead.  Of a
pandas object the labels are kept, and compared: pandas aligns by label and NumPy does not, so that the same labels in two
orders would give a wrong answer silently.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from dcl.errors import DtypeError, InputError
from dcl.programs.names import Array, Entry, find

Labels = tuple[Any, ...]


@dataclass(frozen=True)
class Given:
    """One parameter's value (*batch, *shape); labels: those of each dimension, None where there are none."""

    array: Array
    labels: tuple[Labels | None, ...]


def given(value: object, entry: Entry) -> Given:
    """The value of a parameter.

    Raises InputError (shape; a tensor that requires a gradient, which would be lost), DtypeError (no real numbers).
    """
    array, labels = _read(value, entry.name)
    core = len(entry.shape)
    if array.ndim < core or array.shape[array.ndim - core :] != entry.shape:
        wanted = ", ".join(["*batch", *map(str, entry.shape)])
        raise InputError(
            f"parameter {entry.name} must have shape {entry.shape}, or ({wanted}) for many instances; got {array.shape}",
            argument=entry.name,
        )
    return Given(array, labels)


def _read(value: object, name: str) -> tuple[Array, tuple[Labels | None, ...]]:
    labels: tuple[Labels | None, ...] | None = None
    if value is None:
        raise InputError(
            f"{name} is None: give a value, or leave it out to use its .value if it has one", argument=name
        )
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise InputError(
                f"parameter {name} requires a gradient, which is lost because answers are NumPy arrays: pass "
                f"{name}.detach(), or use dcl.CvxpyLayer in a torch model",
                argument=name,
            )
        value = value.detach().cpu().numpy()
    elif sp.issparse(value):
        value = value.toarray()  # type: ignore[attr-defined]
    elif _is_pandas(value):
        axes: list[Any] = value.axes  # type: ignore[attr-defined]
        # 0, 1, 2, ... are the places that NumPy has too
        labels = tuple(None if type(axis).__name__ == "RangeIndex" else tuple(axis) for axis in axes)
        value = value.to_numpy()  # type: ignore[attr-defined]
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"parameter {name} is not an array: its rows have different lengths", argument=name) from None
    if array.dtype.kind == "O":
        array = _numbers(array, name)
    if array.dtype.kind in "US":
        shown = str(next(iter(array.flat), ""))[:40]
        raise DtypeError(f"parameter {name} must be real numbers, got text: {shown!r}", argument=name)
    if array.dtype.kind not in "iuf":
        raise DtypeError(f"parameter {name} must be real numbers, got {array.dtype}", argument=name)
    return array.astype(np.float64), labels or (None,) * array.ndim


def _numbers(array: Any, name: str) -> Array:
    """Objects that are numbers, such as Fractions and what pandas keeps in mixed columns."""
    wrong = [type(entry).__name__ for entry in array.flat if isinstance(entry, str | bool)]
    if wrong:  # NumPy would read numbers from text
        shown = "text" if wrong[0] == "str" else wrong[0]
        raise DtypeError(f"parameter {name} must be real numbers, got {shown}", argument=name)
    try:
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise DtypeError(f"parameter {name} must be real numbers", argument=name) from None


def _is_pandas(value: object) -> bool:
    pandas = sys.modules.get("pandas")  # a pandas object is there only if pandas was imported
    return pandas is not None and isinstance(value, pandas.Series | pandas.DataFrame)


def columns(values: object, entries: Sequence[Entry]) -> object:
    """{parameter: column} of a DataFrame, whose rows are instances; anything else as it is.

    Raises InputError for a column whose parameter is no number: it would be read as one vector.
    """
    if not _is_pandas(values) or len(values.axes) != 2:  # type: ignore[attr-defined]
        return values
    frame: Any = values
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"the DataFrame has two columns called {twice!r}", argument="values")
    for name in frame.columns:
        entry = entries[find(entries, name, "parameter")]
        if entry.shape:
            raise InputError(
                f"a column of a DataFrame has one number for each row, but {entry.name} has shape {entry.shape}: give "
                f"{{{entry.name!r}: an array of shape (rows, {', '.join(map(str, entry.shape))})}}",
                argument=entry.name,
            )
    return {name: frame[name] for name in frame.columns}


@dataclass(frozen=True)
class Axes:
    """The labels of a call: of its batch dimension, and of dimensions of a given size.

    batch: None where no pandas object has labelled it.  known: distinct labels of the dimensions of parameters.
    owners: the first parameter that has each of `known`.
    """

    batch: Labels | None = None
    known: tuple[Labels, ...] = ()
    owners: tuple[str, ...] = ()

    def of(self, entry: Entry) -> tuple[Labels, ...]:
        """Labels of each dimension: its own, or those of the only labelled dimension of this size, else 0, 1, ..."""
        if entry.labels:
            return (entry.labels,)
        found = []
        for size in entry.shape:
            fitting = [labels for labels in self.known if len(labels) == size]
            found.append(fitting[0] if len(fitting) == 1 else tuple(range(size)))
        return tuple(found)

    def places(self, entry: Entry) -> list[str]:
        """The label of each entry, row by row, as in "AAPL" or "0, 1"; [""] for a number."""
        axes = self.of(entry)
        return [
            ", ".join(str(axis[i]) for axis, i in zip(axes, place, strict=True)) for place in np.ndindex(*entry.shape)
        ]

    def names(self, entry: Entry) -> list[str]:
        """The name of each entry, row by row, as in "w[AAPL]", "dual[0, 1] of X <= 2"; the name alone for a number."""
        return [entry.of(place) for place in self.places(entry)]


def axes(entries: Sequence[Entry], values: Sequence[Given], before: Axes | None = None) -> Axes:
    """The labels of a call. before: labels that these values must agree with, such as those of a solution.

    Raises InputError where two parameters have the same labels in different orders, or where their labels are as many and
    only some are the same.
    """
    before = Axes() if before is None else before
    known: dict[Labels, str] = dict(zip(before.known, before.owners, strict=True))
    batch = before.batch
    for entry, value in zip(entries, values, strict=True):
        lead = len(value.labels) - len(entry.shape)
        for place, labels in enumerate(value.labels):
            if labels is None:
                continue
            if place < lead:
                if batch is not None and labels != batch:
                    raise InputError(
                        f"the rows of {entry.name} have the labels {_short(labels)}, those of the parameters before it "
                        f"have {_short(batch)}: give them the same labels with .reindex",
                        argument=entry.name,
                    )
                batch = labels
                continue
            if entry.labels and labels != entry.labels:
                raise InputError(
                    f"{entry.name} has the labels {_short(labels)}, those of the program are {_short(entry.labels)}: give them "
                    "the same labels in the same order",
                    argument=entry.name,
                )
            _check_order(entry.name, labels, known)
            known.setdefault(labels, entry.name)
    _check_overlap(known, _apart(entries, values) | {frozenset(pair) for pair in combinations(before.known, 2)})
    return Axes(batch, tuple(known), tuple(known.values()))


def _check_order(name: str, labels: Labels, known: Mapping[Labels, str]) -> None:
    for others, owner in known.items():
        if labels != others and len(labels) == len(others) and set(labels) == set(others):
            raise InputError(
                f"{name} has the labels of {owner} in another order ({_short(labels)} and {_short(others)}): "
                "give them the same order with .reindex",
                argument=name,
            )


def _apart(entries: Sequence[Entry], values: Sequence[Given]) -> set[frozenset[Labels]]:
    """Pairs of labels that one matrix has for its rows and for its columns: those are two axes, whatever they share."""
    found: set[frozenset[Labels]] = set()
    for entry, value in zip(entries, values, strict=True):
        core = [one for one in value.labels[max(0, len(value.labels) - len(entry.shape)) :] if one is not None]
        found |= {frozenset(pair) for pair in combinations(core, 2)}
    return found


def _check_overlap(known: Mapping[Labels, str], apart: set[frozenset[Labels]]) -> None:
    """Labels that differ in some entries are a mistake more often than another axis, and positions would be wrong."""
    for (others, owner), (labels, name) in combinations(known.items(), 2):
        shared = set(labels) & set(others)
        if len(labels) != len(others) or not shared or frozenset((labels, others)) in apart:
            continue
        mine = tuple(one for one in labels if one not in shared)
        theirs = tuple(one for one in others if one not in shared)
        raise InputError(
            f"{name} and {owner} share labels, but not all: only {name} has {_short(mine)}, only {owner} has "
            f"{_short(theirs)}. Give them the same labels with .reindex; if they belong to different axes, give one of them "
            "without labels, with .to_numpy()",
            argument=name,
        )


def _short(labels: Labels) -> str:
    return ", ".join(map(str, labels[:3])) + (", ..." if len(labels) > 3 else "")

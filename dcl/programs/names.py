"""Find parameters, variables and constraints by object or by the user's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcl.errors import InputError
from dcl.programs.text import labelled, sizes, table

if TYPE_CHECKING:
    from dcl.programs.values import Axes

Array = NDArray[np.float64]
_SHOWN = 12  # entries of `Values`
_ROUNDING = 1e-15


class HasId(Protocol):
    """A CVXPY parameter, variable or constraint."""

    id: int


Key = str | HasId


@dataclass(frozen=True)
class Entry:
    """One parameter, variable or dual variable: CVXPY's id, a name that no other has, shape.

    shared: what the user calls it, and others too, where its name is "k (1)", "k (2)", ...; else "".  owner: the end of the
    name behind which no bracket can stand, as in "dual of x >= 0".  labels: of its only dimension, where the program itself
    has some, as the rows of an MPS file do.
    """

    id: int
    name: str
    shape: tuple[int, ...]
    shared: str = ""
    owner: str = ""
    labels: tuple[str, ...] = ()

    def of(self, label: str) -> str:
        """The name of an entry, as in "w[2]", "w[AAPL]", "dual[2] of x >= 0"; the name itself for the label ""."""
        return f"{self.name.removesuffix(self.owner)}[{label}]{self.owner}" if label else self.name


def distinct(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Entries with one name get numbers, k (1), k (2), in their order, that no other name has."""
    owners = Counter(entry.name for entry in entries)
    taken, found = set(owners), []
    for entry in entries:
        if owners[entry.name] == 1:
            found.append(entry)
            continue
        name = next(name for k in count(1) if (name := f"{entry.name} ({k})") not in taken)
        taken.add(name)
        owner = entry.owner and entry.owner + name.removeprefix(entry.name)
        found.append(replace(entry, name=name, shared=entry.name, owner=owner))
    return tuple(found)


def find(entries: Sequence[Entry], key: object, what: str) -> int:
    """The position of what `key`, a name or a CVXPY object, stands for. Raises InputError; what: "parameter", ..."""
    if isinstance(key, str):
        places = [i for i, entry in enumerate(entries) if key in (entry.name, entry.shared)]
    else:
        places = [i for i, entry in enumerate(entries) if entry.id == getattr(key, "id", None)]
    if len(places) == 1:
        return places[0]
    shown = f"{key!r}" if isinstance(key, str) else " ".join(str(key).split())[:60]
    if places:
        names = ", ".join(repr(entries[place].name) for place in places)
        raise InputError(
            f"{len(places)} {what}s are called {shown}: give the object instead of its name, or one of {names}",
            argument=what,
        )
    known = ", ".join(entry.name for entry in entries) or "none"
    raise InputError(f"{shown} is not a {what} of the program; {what}s: {known}", argument=what)


def find_all(entries: Sequence[Entry], keys: object, what: str) -> list[int]:
    """The positions of several, or of one that is not in a list; of all for None. Raises InputError as `find`."""
    if keys is None:
        return list(range(len(entries)))
    several = isinstance(keys, Sequence) and not isinstance(keys, str)
    return [find(entries, key, what) for key in (keys if several else [keys])]  # type: ignore[attr-defined]


def named_values(
    given: object, named: Mapping[str, Any], argument: str, what: str, example: str
) -> list[tuple[Any, Any]]:
    """The pairs of a dict and of keywords. Raises InputError, with the example, if it is no dict; what: what its keys are."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError(
            f"{argument} must be a dict with a {what} as key, as in {example}; got {type(given).__name__}",
            argument=argument,
        )
    return [*(given or {}).items(), *named.items()]


class Values(Mapping[str, Array]):
    """Arrays by name, or by CVXPY object: `values["w"]` and `values[w]` are the same. Iterates over names.

    axes: the labels of the call, which `print` shows.  floor: says what `print` shows as 0, because it is rounding.
    """

    def __init__(
        self,
        what: str,
        entries: Sequence[Entry],
        arrays: Sequence[Array],
        axes: Axes | None = None,
        floor: Callable[[], float] = float,
    ) -> None:
        self._what = what
        self._entries = tuple(entries)
        self._arrays = tuple(arrays)
        self._axes = axes
        self._floor = floor

    def __getitem__(self, key: Any) -> Array:
        try:
            return self._arrays[find(self._entries, key, self._what)]
        except InputError as error:
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        if not self._entries:
            return f"no {self._what}s"
        # what rounding leaves of zero beside the others
        largest = max(float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in map(np.asarray, self._arrays))
        floor = max(self._floor(), _ROUNDING * largest)
        rows = []
        for entry, array in zip(self._entries, self._arrays, strict=True):
            is_one = self._axes is not None and np.shape(array) == entry.shape and len(entry.shape) == 1
            labels = self._axes.of(entry)[0] if self._axes is not None and is_one else ()
            rows.append([entry.name, sizes(np.shape(array)), labelled(array, labels, floor=floor)])
        lines = [table([self._what, "shape", "value"], rows[:_SHOWN], left=3)]
        if len(rows) > _SHOWN:
            lines.append(f"... and {len(rows) - _SHOWN} more {self._what}s")
        return "\n".join(lines)

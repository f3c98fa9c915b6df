"""Find parameters, variables and constraints by object or by the user's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcl.errors import InputError

Array = NDArray[np.float64]


class HasId(Protocol):
    """A CVXPY parameter, variable or constraint."""

    id: int


Key = str | HasId


@dataclass(frozen=True)
class Entry:
    """One parameter, variable or dual variable: CVXPY's id, a name that no other has, shape.

    shared: what the user calls it, and others too, where its name is "k (1)", "k (2)", ...; else "".
    """

    id: int
    name: str
    shape: tuple[int, ...]
    shared: str = ""


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
        found.append(replace(entry, name=name, shared=entry.name))
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


class Values(Mapping[str, Array]):
    """Arrays by name, or by CVXPY object: `values["w"]` and `values[w]` are the same. Iterates over names."""

    def __init__(self, what: str, entries: Sequence[Entry], arrays: Sequence[Array]) -> None:
        self._what = what
        self._entries = tuple(entries)
        self._arrays = tuple(arrays)

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
        shown = ", ".join(
            f"{entry.name} {array.shape}" for entry, array in zip(self._entries, self._arrays, strict=True)
        )
        return f"Values({shown})"

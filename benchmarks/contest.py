"""What a comparison of layers is made of: works to be timed, peers that do them, programs with the answers to judge by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

# From tensors (B, ...), the data of B programs, to x (B, n).
Layer = Callable[..., Any]
LEAST = 3


class NotThereError(Exception):
    """The installed version of a package has nothing of the kind that a peer stands for."""


@dataclass(frozen=True)
class Effort:
    """How long to time.

    seconds: what a layer may use on a work, but at least LEAST calls.  turns: at most so many.  seed: of the programs.
    call: a layer is left out of a work where one call is expected to take more seconds, and has one call if it does.
    """

    seconds: float
    turns: int
    call: float
    seed: int = 0


class AbstractWork(ABC):
    """`batch` programs of one family and size in one call.

    backward: forward and backward; False: forward alone, under no_grad.
    central: x(mu) and its gradient beside the exact ones, instead of the peers.
    size: the time is expected to grow with its square.
    """

    family: str
    size: int
    batch: int
    threads: int
    backward: bool
    central: bool

    @property
    @abstractmethod
    def pool(self) -> Hashable:
        """Works in a row with equal pools are timed on the same programs."""

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, object]:
        """The work in a CSV file: the same names for all works of a benchmark."""


@dataclass(frozen=True)
class AbstractPeer(ABC):
    """One layer.

    name: as in the tables.  needs: the distributions it needs.  make: from a work to a layer.
    mu: above 0, it returns the point of the central path.  answers: whether it returns an answer at all.
    """

    name: str
    needs: tuple[str, ...]
    make: Callable[[Any], Layer]
    mu: float = 0.0
    answers: bool = True

    @abstractmethod
    def takes(self, work: Any) -> tuple[str, ...]:
        """The names of the data that it is called with."""

    def missing(self) -> list[str]:
        """The packages that cannot be imported; each has the name of its distribution."""
        return [name for name in self.needs if find_spec(name) is None]

    @property
    def is_dcl(self) -> bool:
        return self.needs == ("dcl",)


class AbstractAnswers(ABC):
    """The right answers of all programs of a pool."""

    @abstractmethod
    def errors(self, rows: np.ndarray, x: np.ndarray, gradients: dict[str, np.ndarray]) -> tuple[float, float]:
        """Largest relative error of x (B, n) and of the gradients (B, ...) by name, for the programs `rows` (B,).

        A NaN anywhere is an infinite error; without gradients theirs is 0.
        """


@dataclass(frozen=True)
class Programs:
    """A pool of programs: data by name, (count, ...) each; w (n,); the answers by mu, 0.0 for the exact ones.

    The loss is w'x.  data may name one thing in two ways, for peers that take the one or the other.
    """

    data: dict[str, np.ndarray]
    w: np.ndarray
    answers: dict[float, AbstractAnswers]

    def __len__(self) -> int:
        return len(next(iter(self.data.values())))

"""What `how_fast_are_cvxpy_layers.py` times: families, sizes, batches, as a list of works."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from contest import AbstractWork
from cvxpy_programs import FAMILIES


@dataclass(frozen=True)
class Work(AbstractWork):
    """`batch` programs of one family and size in one call, forward and backward, on one thread."""

    family: str
    size: int
    batch: int

    threads = 1
    backward = True
    central = False

    def __str__(self) -> str:
        return f"{self.subject}; batch {self.batch}"

    @property
    def subject(self) -> str:
        """All but the batch."""
        return FAMILIES[self.family].named(self.size)

    @property
    def pool(self) -> Hashable:
        return self.family, self.size

    @property
    def columns(self) -> Mapping[str, object]:
        return {"family": self.family, "size": self.size, "batch": self.batch}


# Sizes and batches by family, one instance first.
LONG: dict[str, dict[int, tuple[int, ...]]] = {
    "ls_simplex": {100: (1, 32), 400: (1, 16)},
    "lasso": {50: (1, 32)},
    "ridge": {50: (1, 32)},
    "tv": {100: (1, 16), 1000: (1, 8)},
    "svm": {50: (1, 32)},
    "quantile": {50: (1, 32)},
    "wide_lasso": {25: (1, 32)},
    "relu": {20: (1, 32)},
    "logistic": {50: (1, 16)},
    "portfolio": {50: (1, 64)},
    "mpc": {10: (1, 64), 20: (1, 16), 50: (1, 8, 16)},
    "mpc_abs": {20: (1, 16), 50: (1, 16)},
    "flow": {30: (1, 32)},
    "flow_redundant": {30: (1, 32)},
    "lp": {20: (1, 64)},
    "ot": {8: (1, 32)},
    "soc": {30: (1, 64), 100: (1, 16)},
    "spectraplex": {5: (1, 16), 10: (1, 16)},
    "entropy": {10: (1, 64), 50: (1, 16)},
}
_SMALL = {
    "ls_simplex": 20,
    "lasso": 15,
    "ridge": 15,
    "tv": 12,
    "svm": 15,
    "quantile": 15,
    "logistic": 15,
    "portfolio": 10,
}
_SMALL |= {"flow": 8, "flow_redundant": 8}
SHORT = {family: {_SMALL.get(family, 4): (1, 4)} for family in LONG}


def works(only: Sequence[str], sizes: Mapping[str, Mapping[int, Sequence[int]]]) -> list[Work]:
    """The works of these families, or all, in the order of `sizes`."""
    return [
        Work(family, size, batch)
        for family, batches in sizes.items()
        for size in batches
        for batch in batches[size]
        if not only or family in only
    ]

"""What `how_fast_are_qp_layers.py` times: families, sizes, batches, threads, as a list of works."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from contest import AbstractWork

# The data of a program, in the order in which the layers get them; see qp_families.py for the programs.
DATA = {
    "qp": ("P", "q", "A", "b", "G", "h"),
    "lp": ("q", "A", "b", "G", "h"),
    "box": ("P", "q", "lb", "ub"),
}
TITLES = {"qp": "dense QP", "lp": "LP", "box": "box QP"}


@dataclass(frozen=True)
class Shape:
    """n variables, m inequalities, p equalities."""

    n: int
    m: int
    p: int

    def __str__(self) -> str:
        return f"n {self.n}, m {self.m}, p {self.p}"


@dataclass(frozen=True)
class Work(AbstractWork):
    """`batch` programs of one family and shape in one call."""

    family: str
    shape: Shape
    batch: int
    threads: int = 1
    backward: bool = True
    central: bool = False

    @property
    def subject(self) -> str:
        """All but the batch."""
        what = "forward + backward" if self.backward else "forward alone, no_grad"
        of = "x(mu), " if self.central else ""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{TITLES[self.family]}, {self.shape}, {threads}: {of}{what}"

    def __str__(self) -> str:
        return f"{self.subject}; batch {self.batch}"

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.shape.n

    @property
    def pool(self) -> Hashable:
        return self.family, self.shape, self.central

    @property
    def columns(self) -> Mapping[str, object]:
        n, m, p = self.shape.n, self.shape.m, self.shape.p
        return {"family": self.family, "n": n, "m": m, "p": p, "batch": self.batch, "threads": self.threads}

    @property
    def megabytes(self) -> float:
        """The size of the data; gradients take as much again."""
        n, rows = self.shape.n, 0 if self.family == "box" else self.shape.m + self.shape.p
        return 8e-6 * self.batch * n * (rows + (0 if self.family == "lp" else n))


DENSE = (Shape(10, 10, 5), Shape(50, 50, 10), Shape(100, 100, 50))
SIZES = (2, 5, 10, 20, 50, 100, 200, 500)
BATCHES = (1, 16, 128, 1024)
MEGABYTES = 256.0
PARTS = {
    "dense": "dense QPs of three shapes",
    "growth": "dense QPs of all sizes",
    "lp": "LPs of all sizes",
    "box": "box QPs of all sizes",
    "forward": "dense QPs at n = 10 in the largest batch, forward alone under no_grad",
    "mu": "x(mu) and its gradient beside the exact ones, dense QPs of three shapes",
    "threads": "dense QPs of three shapes with one and with two threads",
}


def shape_of_size(family: str, n: int) -> Shape:
    """The shape that stands for n variables where sizes are varied."""
    p = max(1, n // 5)
    return {"qp": Shape(n, n, p), "lp": Shape(n, 2 * n, p), "box": Shape(n, 2 * n, 0)}[family]


def works(parts: Sequence[str], sizes: Sequence[int] = SIZES, batches: Sequence[int] = BATCHES) -> list[Work]:
    """The works of these parts, each once: by threads, family and shape, then exact ones first, small batches first.

    Works whose data exceed MEGABYTES are left out.
    """
    dense = [Work("qp", shape, batch) for shape in DENSE if shape.n in sizes for batch in batches]
    grown = {
        family: [Work(family, shape_of_size(family, n), batch) for n in sizes for batch in batches] for family in DATA
    }
    of = {
        "dense": dense,
        "growth": grown["qp"],
        "lp": grown["lp"],
        "box": grown["box"],
        "forward": [
            replace(work, backward=False) for work in dense if work.shape == DENSE[0] and work.batch == max(batches)
        ],
        "mu": [replace(work, central=True) for work in dense if work.batch <= 128],
        "threads": [replace(work, threads=threads) for work in dense if work.batch > 1 for threads in (1, 2)],
    }
    chosen = {work for part in parts for work in of[part] if work.megabytes <= MEGABYTES}
    return sorted(chosen, key=_order)


def _order(work: Work) -> tuple[int, int, int, int, int, bool, bool, int]:
    shape = work.shape
    family = list(DATA).index(work.family)
    return work.threads, family, shape.n, shape.m, shape.p, work.central, not work.backward, work.batch

"""Tiny programs in exact rationals: status, degeneracies and all one-sided derivatives, by enumerating active sets.

W runs over the sets of inequality rows for which C_W (with the equalities in it) has independent rows; K_W, r_W and p
are those of regular.py.  The nullspace of K_W is {(v, 0): Pv = 0, C_W v = 0}, so its w is unique.

- Optimal: some W has a solution (x, w) of K_W p = r_W with w >= 0 and x feasible.  If the optimum is attained, take x
  on a minimal face of the set of solutions and W a basis of its active rows that contains the support of a basic
  multiplier (Caratheodory): every solution of its equations is feasible, so one is enough.
- Infeasible: no solution of C_W x = d_W with C_W of the rank of all rows is feasible (minimal faces of the polyhedron).
- Otherwise unbounded: a convex QP that is bounded below attains its minimum (Frank and Wolfe).
- x is unique iff no v != 0 has Pv = 0, Cv = 0 on the equalities and on the support of one multiplier, and Cv <= 0 on
  the other active rows.  The multiplier is unique iff no (dy, dw) != 0 has A'dy + C'dw = 0 and dw >= 0 where w = 0.
- Where x is unique it is a piecewise affine function of (q, b, h, lb, ub), as far as that has a solution.  Its pieces
  are the W at x with K_W nonsingular and w >= 0: moving q so that w grows, and h so that the other active rows open,
  gives nearby programs that are regular with active set W, so each piece is attained; and every nearby program has a
  basis as above.  The same holds for (P, A, G) where the active rows are independent and K of the strictly active ones
  is nonsingular.  Elsewhere x may jump when rows are turned (x <= 0 and -x <= 0), and the candidates for P, A and G are
  the limits of gradients at nearby regular programs with the same P, A, G.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from flint import fmpq, fmpq_mat
from scipy.optimize import nnls

from oracles.regular import DATA, RATIONAL, Data, Regular, rational, rows_of

DEGENERATE = ("weakly_active", "redundant", "duplicate", "overdetermined", "flat")
UNSOLVABLE = ("infeasible", "unbounded")
Vector = list[fmpq]


@dataclass(frozen=True, eq=False)
class Tiny:
    """What is true of a program. x is one solution, exact; `bases` are the pieces of the solution map, if x is unique.

    degeneracies: "nonunique" (x), "rank" (active rows dependent), "weakly_active" (zero in every multiplier).
    """

    data: Data
    status: str
    value: fmpq | None = None
    x: tuple[fmpq, ...] | None = None
    degeneracies: frozenset[str] = frozenset()
    multiplier_unique: bool = False
    bases: tuple[Regular, ...] = ()

    @property
    def regular(self) -> bool:
        return self.status == "optimal" and not self.degeneracies

    @property
    def solution(self) -> dict[str, Any]:
        """x, y, z, z_lb, z_ub, value of a regular program, rounded once."""
        if not self.regular:
            raise ValueError(f"no unique answer: {self.status}, {sorted(self.degeneracies)}")
        return self.bases[0].solution

    def candidates(self, cotangents: Mapping[str, Any]) -> list[Data]:
        """The one-sided gradients, one per piece, exact until rounded; cotangents as in `Regular.gradients`.

        Where the multiplier is not unique, only cotangents of x and value mean something.
        """
        if not self.bases:
            raise ValueError(f"x is no function of the data: {self.status}, {sorted(self.degeneracies)}")
        return [base.gradients(cotangents) for base in self.bases]


def analyze(data: Mapping[str, Any]) -> Tiny:
    """Decide a program given in integers, floats or Fractions; its equality rows must be independent."""
    data = dict.fromkeys(DATA) | dict(data)
    n = len(data["q"])
    P = _rows(np.zeros((n, n), int) if data["P"] is None else data["P"])
    q = _vector(data["q"])
    E = [(_vector(c), rational(d)) for c, d in zip(*(side.tolist() for side in rows_of(data, "A")), strict=True)]
    if _rank([c for c, _ in E]) < len(E):
        raise ValueError("the equality rows are dependent")
    where, rows = [], []
    for block in ("G", "lb", "ub"):
        C, side = rows_of(data, block)
        for i, (c, d) in enumerate(zip(C.tolist(), side.tolist(), strict=True)):
            if abs(d) != float("inf"):
                where.append((block, i))
                rows.append((_vector(c), rational(d)))

    def feasible(x: Vector) -> bool:
        return all(_dot(c, x) == d for c, d in E) and all(_dot(c, x) <= d for c, d in rows)

    found = []  # (W, x, w of W, K_W nonsingular)
    for W in _independent(E, rows, n):
        C = [*E, *(rows[i] for i in W)]
        zero = [fmpq(0)] * len(C)
        K = [[*P[j], *(c[j] for c, _ in C), -q[j]] for j in range(n)] + [[*c, *zero, d] for c, d in C]
        p, rank = _solve(K)
        if p is not None and all(w >= 0 for w in p[n + len(E) :]) and feasible(p[:n]):
            found.append((W, p[:n], p[n + len(E) :], rank == len(K)))
    if not found:
        some = any(
            (x := _solve([[*c, d] for c, d in face])[0]) is not None and feasible(x) for face in _faces(E, rows, n)
        )
        return Tiny(data, "unbounded" if some else "infeasible")

    W, x, w, _ = found[0]
    value = _dot([_dot(row, x) / 2 + c for row, c in zip(P, q, strict=True)], x)
    active = [i for i, (c, d) in enumerate(rows) if _dot(c, x) == d]
    support = [i for i, multiplier in zip(W, w, strict=True) if multiplier > 0]
    loose = [i for i in active if i not in support]
    flat = _has_direction([*P, *(c for c, _ in E), *(rows[i][0] for i in support)], [rows[i][0] for i in loose], n)
    if flat:
        return Tiny(data, "optimal", value, tuple(x), frozenset({"nonunique"}))

    C = [*(c for c, _ in E), *(rows[i][0] for i in active)]
    unit = [[fmpq(-(len(E) + k == j)) for j in range(len(C))] for k, i in enumerate(active) if i in loose]
    ever = {i for W, _, w, _ in found for i, multiplier in zip(W, w, strict=True) if multiplier > 0}
    degeneracies = {"rank"} if _rank(C) < len(C) else set()
    degeneracies |= {"weakly_active"} if set(active) - ever else set()
    bases = []
    for W, _, _, nonsingular in found:
        if nonsingular:
            index = {b: np.array([where[i][1] for i in W if where[i][0] == b], int) for b in ("G", "lb", "ub")}
            bases.append(Regular(data, index, RATIONAL))
    unique = not _has_direction([[c[j] for c in C] for j in range(n)], unit, len(C))
    return Tiny(data, "optimal", value, tuple(x), frozenset(degeneracies), unique, tuple(bases))


def in_hull(gradient: Data, candidates: Sequence[Data], tol: float) -> bool:
    """Whether some convex combination of the candidates is the gradient, to tol relative to 1 + their largest entry.

    Compared are the blocks that `gradient` has.
    """
    names = [name for name in DATA if gradient.get(name) is not None]
    target = np.concatenate([np.ravel(gradient[name]) for name in names])
    corners = np.stack([np.concatenate([np.ravel(c[name]) for name in names]) for c in candidates], 1)
    corners = np.unique(corners, axis=1)
    scale = 1 + np.abs(corners).max(initial=0)
    if not np.isfinite(target).all():
        return False
    weights, _ = nnls(np.vstack([corners / scale, np.ones(corners.shape[1])]), np.append(target / scale, 1))
    if not weights.any():
        return False
    return bool(np.abs(corners @ (weights / weights.sum()) - target).max(initial=0) <= tol * scale)


def tiny(seed: int, degenerate: str | None = None) -> Tiny:
    """A random program in small integers: regular (None), of one of DEGENERATE, or of one of UNSOLVABLE."""
    rng = np.random.default_rng([seed, zlib.crc32(str(degenerate).encode())])
    for _ in range(1000):
        program = analyze(_draw(rng, degenerate))
        if _is(program, degenerate):
            return program
    raise RuntimeError(f"no {degenerate} program for seed {seed}")


def _is(program: Tiny, degenerate: str | None) -> bool:
    if degenerate in UNSOLVABLE:
        return program.status == degenerate
    wanted = {None: set(), "weakly_active": {"weakly_active"}, "flat": {"nonunique"}}
    if degenerate in wanted:
        return program.status == "optimal" and program.degeneracies == wanted[degenerate]
    return "rank" in program.degeneracies


def _draw(rng: np.random.Generator, degenerate: str | None) -> Data:
    """A point and multipliers in integers, and the data for which they are optimal; then the wanted accident."""

    def some(low: int, high: int, *shape: int) -> np.ndarray:
        return rng.integers(low, high + 1, shape).astype(float)

    n = int(rng.integers(2 if degenerate == "redundant" else 1, 4))
    p = int(n > 1 and rng.random() < 0.3)
    x, M = some(-2, 2, n), some(-2, 2, int(rng.integers(0, n + 1)), n)
    P = M.T @ M if M.size else None
    A, y = some(1, 3, p, n) * rng.choice([-1.0, 1.0], (p, n)), some(-3, 3, p)
    m = int(rng.integers(1, 6))
    k = int(rng.integers(0, min(m, n - p) + 1))
    G, z, slack = some(-3, 3, m, n), some(1, 4, m), some(1, 5, m)
    if degenerate == "overdetermined":
        k = min(m, n - p + 1)
        z = some(0, 3, m)
    elif degenerate == "weakly_active":
        z[0] = 0
        k = max(k, 1)
    elif degenerate == "duplicate" and m > 1:
        k = max(k, 2)
        G[1], z[1] = G[0] * rng.integers(1, 3), rng.integers(0, 3)
    elif degenerate == "redundant" and m > 2:
        k = max(k, 3)
        G[2], z[2] = G[0] * rng.integers(1, 3) + G[1], rng.integers(0, 3)
    z[k:], slack[:k] = 0, 0
    q = -(A.T @ y + G.T @ z) - (0 if P is None else P @ x)
    lb = ub = None
    if n < 3 and rng.random() < 0.3:
        lb, ub = x - some(0, 4, n), x + some(1, 4, n)
        z_lb = some(1, 3, n) * (lb == x)
        q += z_lb
        lb[rng.random(n) < 0.3], ub[rng.random(n) < 0.3] = -np.inf, np.inf
    if degenerate == "unbounded":
        q = some(-4, 4, n)
    h = G @ x + slack
    if degenerate == "infeasible":
        G, h = np.vstack([G, -G[:1]]), np.append(h, -h[0] - 1)
    data = {"P": P, "q": q, "A": A, "b": A @ x, "G": G, "h": h, "lb": lb, "ub": ub}
    order = rng.permutation(len(G))
    data |= {"G": G[order], "h": h[order]}
    return data | ({} if p else {"A": None, "b": None})


# Rational linear algebra on lists of rows


def _vector(values: Iterable[Any]) -> Vector:
    return [rational(v) for v in (values.tolist() if isinstance(values, np.ndarray) else values)]


def _rows(matrix: np.ndarray) -> list[Vector]:
    return [_vector(row) for row in matrix]


def _dot(a: Vector, b: Vector) -> fmpq:
    return sum((s * t for s, t in zip(a, b, strict=True)), fmpq(0))


def _rank(rows: list[Vector]) -> int:
    return fmpq_mat(rows).rank() if rows else 0


def _reduced(rows: list[Vector]) -> tuple[list[Vector], list[int]]:
    """Row echelon form, without the zero rows, and its pivot columns."""
    reduced, rank = fmpq_mat(rows).rref()
    kept = reduced.tolist()[:rank]
    return kept, [next(j for j, v in enumerate(row) if v != 0) for row in kept]


def _solve(augmented: list[Vector]) -> tuple[Vector | None, int]:
    """One solution (None: there is none) of the equations with right-hand sides in the last column, and their rank."""
    if not augmented:
        return None, 0
    size = len(augmented[0]) - 1
    reduced, pivots = _reduced(augmented)
    if size in pivots:
        return None, len(pivots) - 1
    solution = [fmpq(0)] * size
    for row, j in zip(reduced, pivots, strict=True):
        solution[j] = row[size]
    return solution, len(pivots)


def _independent(E: list[Any], rows: list[Any], n: int) -> Iterator[tuple[int, ...]]:
    """Sets of inequality rows that are linearly independent together with the equality rows."""
    for size in range(min(n - len(E), len(rows)) + 1):
        for W in combinations(range(len(rows)), size):
            if _rank([c for c, _ in (*E, *(rows[i] for i in W))]) == len(E) + size:
                yield W


def _faces(E: list[Any], rows: list[Any], n: int) -> Iterator[list[Any]]:
    """Equations of what may be a minimal face of the polyhedron."""
    rank = _rank([c for c, _ in (*E, *rows)])
    if rank == 0:
        yield [([fmpq(0)] * n, fmpq(0))]
    for W in _independent(E, rows, n):
        if 0 < rank == len(E) + len(W):
            yield [*E, *(rows[i] for i in W)]


def _has_direction(equal: list[Vector], below: list[Vector], size: int) -> bool:
    """Whether v != 0 exists with equal v = 0 and below v <= 0: a line, or an extreme ray of a pointed cone."""
    rank = _rank(equal)
    if _rank([*equal, *below]) < size:
        return True
    if rank == size:
        return False
    for T in combinations(below, size - 1 - rank):
        lines = [*equal, *T]
        reduced, pivots = _reduced(lines) if lines else ([], [])
        if len(pivots) == size - 1:
            free = next(j for j in range(size) if j not in pivots)
            v = [fmpq(j == free) for j in range(size)]
            for row, j in zip(reduced, pivots, strict=True):
                v[j] = -row[free]
            signs = [_dot(row, v) for row in below]
            if all(s <= 0 for s in signs) or all(s >= 0 for s in signs):
                return True
    return False

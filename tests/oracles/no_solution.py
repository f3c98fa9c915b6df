"""Programs without a solution, from exact integer data: unbounded, infeasible, both; and programs that nearly are so.

    minimize 1/2 x'Px + q'x   subject to   Ax + s = b,  s in K         (the form of dcl.ConeLayer, rows as SCS orders them)

    unbounded    an integer direction d with  P d = 0,  -A d in K,  q'd = -slope |d|^2 < 0,  and a feasible point
    infeasible   an integer z in K* with  A'z = 0,  b'z = -gap < 0
    both         d and z at once
    near         equality rows only, P = R'R + curvature d d', R d = 0:  bounded, with a solution far away along d

What is exact is exact before it is rounded: P and rows of A are then multiplied by decimal numbers, so that in floating
point P has no null space, only one up to rounding, as data from a file or a computation have.  Rows with a right-hand
side of 1e10 may stand beside.  The value of `near` programs is computed in rational numbers from the rounded data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

KINDS = ("unbounded", "infeasible", "both", "near")
# K by name, as SCS's dict, and whether there is a quadratic term.
STRUCTURES: dict[str, tuple[Mapping[str, Any], bool]] = {
    "QP free": ({}, True),
    "QP l": ({"l": 1}, True),
    "QP zl": ({"z": 1, "l": 2}, True),
    "LP zl": ({"z": 1, "l": 4}, False),
    "SOC": ({"q": [3]}, True),
    "SOC zl": ({"z": 1, "l": 1, "q": [3, 4]}, False),
    "PSD": ({"s": [2]}, True),
    "PSD l": ({"l": 1, "s": [3]}, False),
    "exponential": ({"ep": 1}, True),
    "exponential l": ({"l": 1, "ep": 2}, False),
    "power": ({"p": [0.5]}, True),
    "power l": ({"l": 1, "p": [0.3, 0.5]}, False),
    "mixed": ({"z": 1, "l": 1, "q": [3], "s": [2], "ep": 1, "p": [0.5]}, True),
}
_FAR = 1e10


@dataclass(frozen=True, eq=False)
class Programs:
    """A batch of one kind and structure: P (B, n, n) or None, q (B, n), A (B, m, n), b (B, m).

    value (B,): the optimal value of `near` programs, else NaN.
    """

    kind: str
    cones: Mapping[str, Any]
    P: np.ndarray | None
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    value: np.ndarray


def possible(kind: str, structure: str) -> bool:
    """Infeasible programs need a nonnegative row to contradict; only equality rows have an exact value."""
    cones, quadratic = STRUCTURES[structure]
    if kind == "near":
        return quadratic and set(cones) <= {"l", "z"}
    return kind == "unbounded" or cones.get("l", 0) > 0


def programs(kind: str, structure: str, count: int, seed: int) -> Programs:
    """`count` programs of a kind on one of STRUCTURES; equal seeds give equal numbers."""
    rng = np.random.default_rng([seed, KINDS.index(kind), list(STRUCTURES).index(structure)])
    cones, quadratic = STRUCTURES[structure]
    n = int(rng.integers(2, 7))
    made = [_one(rng, kind, cones, quadratic, n) for _ in range(count)]
    P, q, A, b = (np.stack([m[k] for m in made]) for k in range(4))
    value = np.array([_value(*m) if kind == "near" else np.nan for m in made])
    return Programs(kind, cones, P if quadratic else None, q, A, b, value)


def _one(
    rng: np.random.Generator, kind: str, cones: Mapping[str, Any], quadratic: bool, n: int
) -> tuple[np.ndarray, ...]:
    d = rng.integers(-3, 4, n)
    d[int(rng.integers(n))] = rng.choice([-2, -1, 1, 3])
    square = int(d @ d)
    along = kind != "infeasible"  # is d a direction in which nothing is gained or lost but the objective?
    R = rng.integers(-3, 4, (int(rng.integers(1, n + 1)) if along else n + 1, n))
    R = np.eye(n, dtype=int) if kind == "near" else R  # the only flat direction of R'R is d
    R = _across(R, d) if along else R
    P = np.zeros((n, n), int) if not quadratic else R.T @ R
    slope = 10.0 ** -rng.integers(1, 6)
    q = (_across(rng.integers(-3, 4, n), d) / square - slope * d) if along else rng.integers(-3, 4, n).astype(float)
    rows, inside, weights = [], [], []
    for ray, point, dual in _cones(rng, cones):
        across = _across(rng.integers(-3, 4, (len(ray), n)), d) if along else rng.integers(-3, 4, (len(ray), n))
        ray = ray if kind == "unbounded" else 0.0 * ray
        if kind == "near":
            across, ray = (0 * across, 0.0 * ray) if cones.get("l") else (across, ray)
        rows.append(across - np.outer(ray, d))
        inside.append(point)
        weights.append(dual)
    A, b = np.zeros((0, n)), np.zeros(0)
    if rows:
        A = np.concatenate(rows)
        b = A @ rng.integers(-2, 3, n) + np.concatenate(inside)
        if kind in ("infeasible", "both"):
            z, last = (
                np.concatenate(weights),
                int(cones.get("z", 0)),
            )  # the first nonnegative row contradicts the others
            z[last] = 0.0
            gap = 10.0 ** -rng.integers(0, 4)
            A[last], b[last] = -(z @ A), -(z @ b) - gap
    if kind == "near":
        size = float(10.0 ** -rng.integers(2, 7))
        P = P + size * np.outer(d, d)
    # decimal factors, so that what was exact is so up to rounding only
    P = P * (float(rng.integers(1, 400)) * 0.01)
    scale = np.ones(len(b))
    orthant = int(cones.get("z", 0)) + int(cones.get("l", 0))
    if rng.random() < 0.3:
        scale[:orthant] = rng.integers(1, 400, orthant) * 0.01
    A, b = A * scale[:, None], b * scale
    if cones.get("l", 0) > 1 and rng.random() < 0.3:
        k = orthant - 1  # the last nonnegative row is far away
        if kind in ("unbounded", "near"):
            b[k] = _FAR
    return P, q, A, b


def _across(M: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Integer rows orthogonal to d."""
    return M * int(d @ d) - np.multiply.outer(M @ d, d)


def _cones(rng: np.random.Generator, cones: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each cone, in the order of the rows: a member w (zero in half of the cases), a member, and a member of K*."""

    def sometimes(w: Sequence[float]) -> np.ndarray:
        return np.array(w, float) * float(rng.integers(0, 2))

    out = [(np.zeros(1), np.zeros(1), np.array([float(rng.integers(-2, 3))])) for _ in range(cones.get("z", 0))]
    out += [
        (sometimes([1.0]), np.array([float(rng.integers(0, 3))]), np.array([float(rng.integers(0, 3))]))
        for _ in range(cones.get("l", 0))
    ]
    for size in cones.get("q", []):
        w = np.zeros(size)
        w[0], w[1:3] = (5.0, (3.0, 4.0)) if rng.random() < 0.5 else (2.0, (1.0, 0.0))
        out.append((sometimes(w), np.eye(size)[0] * 2.0, w[[0, *range(size - 1, 0, -1)]]))
    for order in cones.get("s", []):
        u = rng.integers(-2, 3, order)
        out.append((sometimes(_svec(np.outer(u, u))), _svec(np.eye(order) * 2), _svec(np.eye(order))))
    for _ in range(cones.get("ep", 0)):
        w = ([-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 3.0])[int(rng.integers(4))]
        dual = ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [-1.0, 0.0, 1.0])[int(rng.integers(3))]
        out.append((sometimes(w), np.array([0.0, 1.0, 2.0]), np.array(dual)))
    for _ in cones.get("p", []):
        w = ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0])[int(rng.integers(3))]
        out.append((sometimes(w), np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0])))
    return out


def _svec(X: np.ndarray) -> np.ndarray:
    """The lower triangle of X, column by column, off-diagonal entries times sqrt(2)."""
    columns, rows = np.triu_indices(len(X))
    return X[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))


def _value(P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray) -> float:
    """The optimal value of a `near` program in rational numbers; rows of zeros are no constraints."""
    rows = np.flatnonzero(np.abs(A).max(axis=1, initial=0.0))
    n, p = len(q), len(rows)
    K = np.zeros((n + p, n + p + 1))
    K[:n, :n], K[:n, n : n + p], K[n:, :n] = P, A[rows].T, A[rows]
    K[:n, -1], K[n:, -1] = -q, b[rows]
    x = _solve([[Fraction(float(t)) for t in row] for row in K])[:n]
    F = [Fraction(float(t)) for t in q]
    quadratic = sum(x[i] * Fraction(float(P[i, j])) * x[j] for i in range(n) for j in range(n))
    return float(quadratic / 2 + sum(a * t for a, t in zip(F, x, strict=True)))


def _solve(M: list[list[Fraction]]) -> list[Fraction]:
    """Gauss and Jordan on the rows (K | r); a column without a pivot gets the value zero."""
    size, row, pivots = len(M), 0, []
    for column in range(size):
        found = next((i for i in range(row, size) if M[i][column] != 0), None)
        if found is None:
            continue
        M[row], M[found] = M[found], M[row]
        pivot = M[row][column]
        M[row] = [t / pivot for t in M[row]]
        for i in range(size):
            if i != row and M[i][column] != 0:
                factor = M[i][column]
                M[i] = [t - factor * s for t, s in zip(M[i], M[row], strict=True)]
        pivots.append(column)
        row += 1
    x = [Fraction(0)] * size
    for i, column in enumerate(pivots):
        x[column] = M[i][-1]
    return x

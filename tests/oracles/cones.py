"""Random cone programs with known optimum, and their derivative, in NumPy alone.

    minimize 1/2 x'Px + q'x   subject to   Ax + s = b,  s in K        dual z in K*,  Px + q + A'z = 0,  s'z = 0

Each block gets a complementary pair (s, z) by construction, not by projection, and D = dz/dv at v = z - s; x and A are
drawn, b and q follow.  D comes from the geometry of the pair: Daleckii-Krein for SOC and PSD, and for the exponential and
the power cone the boundary g(s) = 0 with z = lambda grad g(s), whose differentials (ds, dz) span a 3-dimensional space.

At a tie there are two one-sided D (where they differ by a matrix of rank one) or none is stated (at an apex).
Semidefinite rows are the lower triangle, column by column, off-diagonal entries times sqrt(2), as SCS has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

Array = NDArray[np.float64]
Outputs = Mapping[str, Array]
CONDITION = 1e4  # of K, of the regular programs
REGULAR = {
    "z": ("free",),
    "l": ("slack", "active"),
    "q": ("interior", "boundary", "boundary", "boundary", "dual interior"),
    "s": ("interior", "boundary", "boundary", "boundary", "dual interior"),
    "ep": ("interior", "boundary", "boundary", "boundary", "dual interior", "face", "ray"),
    "p": ("interior", "boundary", "boundary", "boundary", "dual interior"),
}
TIES = [(key, state) for key in ("l", "q", "s", "ep", "p") for state in ("apex", "edge", "polar edge")]
TIES = [(key, state) for key, state in TIES if key != "l" or state == "apex"] + [("s", "rank jump")]


@dataclass(frozen=True, eq=False)
class Pair:
    """s, z of one block and the values of D: one where regular, two at a simple tie, none at an apex."""

    s: Array
    z: Array
    D: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class Known:
    """A program in the words of SCS, its optimum, and D there (see Pair); states: (key, state) of each block."""

    cones: dict[str, object]
    P: Array | None
    q: Array
    A: Array
    b: Array
    x: Array
    z: Array
    s: Array
    D: tuple[Array, ...]
    states: tuple[tuple[str, str], ...]

    @property
    def data(self) -> dict[str, Array]:
        given = {"P": self.P, "q": self.q, "A": self.A, "b": self.b}
        return {name: a for name, a in given.items() if a is not None}

    @property
    def outputs(self) -> dict[str, Array]:
        return {"x": self.x, "z": self.z, "s": self.s}


def svec(matrix: Array) -> Array:
    """The lower triangle, column by column, off-diagonal entries times sqrt(2)."""
    i, j = np.triu_indices(len(matrix))
    return matrix[j, i] * np.where(i == j, 1.0, np.sqrt(2.0))


def smat(vector: Array) -> Array:
    """The inverse of svec."""
    k = round((np.sqrt(8 * len(vector) + 1) - 1) / 2)
    i, j = np.triu_indices(k)
    matrix = np.zeros((k, k))
    matrix[j, i] = matrix[i, j] = vector / np.where(i == j, 1.0, np.sqrt(2.0))
    return matrix


def spectral_derivative(U: Array, values: Array, positive: NDArray[np.bool_]) -> Array:
    """d svec(V_+) / d svec(V) at V = U diag(values) U' by Daleckii and Krein; `positive` decides at zero eigenvalues."""
    plus = np.where(positive, values, 0.0)
    k = len(values)
    first = np.zeros((k, k))
    for i in range(k):
        for j in range(k):
            if positive[i] == positive[j]:
                first[i, j] = float(positive[i])
            else:
                first[i, j] = (plus[i] - plus[j]) / (values[i] - values[j])
    columns = [svec(U @ (first * (U.T @ smat(e) @ U)) @ U.T) for e in np.eye(k * (k + 1) // 2)]
    return np.column_stack(columns)


def _soc_derivative(e: Array, low: float, high: float, signs: tuple[bool, bool]) -> Array:
    """d v_+ / d v at v with eigenvalues low, high (t -+ |u|) and direction e, by the Jordan frame (1, -+e)/2."""
    c0, c1 = np.append(1.0, -e) / np.sqrt(2.0), np.append(1.0, e) / np.sqrt(2.0)
    across = np.zeros((len(e) + 1, len(e) + 1))
    across[1:, 1:] = np.eye(len(e)) - np.outer(e, e)
    plus = (signs[0] * low, signs[1] * high)
    slope = float(signs[0]) if signs[0] == signs[1] else (plus[1] - plus[0]) / (high - low)
    return signs[0] * np.outer(c0, c0) + signs[1] * np.outer(c1, c1) + slope * across


def _orthant(state: str, rng: np.random.Generator) -> Pair:
    size, none, whole = rng.uniform(0.3, 2.0, 1), np.zeros((1, 1)), np.eye(1)
    match state:
        case "free":
            return Pair(np.zeros(1), rng.standard_normal(1), (whole,))
        case "slack":
            return Pair(size, np.zeros(1), (none,))
        case "active":
            return Pair(np.zeros(1), size, (whole,))
    return Pair(np.zeros(1), np.zeros(1), (none, whole))


def _second_order(size: int, state: str, rng: np.random.Generator) -> Pair:
    e = rng.standard_normal(size - 1)
    e /= np.linalg.norm(e)
    up, down = np.append(1.0, e), np.append(1.0, -e)
    alpha, beta, inside = rng.uniform(0.3, 1.5, 3)
    nothing, none, whole = np.zeros(size), np.zeros((size, size)), np.eye(size)
    match state:
        case "interior":
            return Pair(alpha * up + inside * down, nothing, (none,))
        case "dual interior":
            return Pair(nothing, alpha * up + inside * down, (whole,))
        case "boundary":  # v = beta (1, -e) - alpha (1, e): eigenvalues -2 alpha at e, 2 beta at -e
            return Pair(alpha * up, beta * down, (_soc_derivative(-e, -2 * alpha, 2 * beta, (False, True)),))
        case "edge":  # v = -alpha (1, e)
            return Pair(alpha * up, nothing, (none, _soc_derivative(-e, -2 * alpha, 0.0, (False, True))))
        case "polar edge":  # v = beta (1, -e)
            return Pair(nothing, beta * down, (_soc_derivative(-e, 0.0, 2 * beta, (False, True)), whole))
    return Pair(nothing, nothing, ())


def _semidefinite(k: int, state: str, rng: np.random.Generator) -> Pair:
    U, _ = np.linalg.qr(rng.standard_normal((k, k)))
    size = rng.uniform(0.3, 2.0, k)
    rank = int(rng.integers(1, k))
    index = np.arange(k)
    tied: int | None = None
    match state:
        case "interior":
            values = -size
        case "dual interior":
            values = size
        case "boundary":
            values = np.where(index < rank, -size, size)
        case "edge":  # S loses its last rank, Z = 0
            values, tied = np.where(index < k - 1, -size, 0.0), k - 1
        case "polar edge":
            values, tied = np.where(index < k - 1, size, 0.0), k - 1
        case "rank jump":  # rank S + rank Z = k - 1, both at least 1 for k > 2
            values, tied = np.where(index == 0, -size, size) * (index < k - 1), k - 1
        case _:
            return Pair(np.zeros(k * (k + 1) // 2), np.zeros(k * (k + 1) // 2), ())
    s, z = (svec((U * np.maximum(sign * values, 0.0)) @ U.T) for sign in (-1.0, 1.0))
    choices = [values > 0.0] if tied is None else [values > 0.0, (values > 0.0) | (index == tied)]
    return Pair(s, z, tuple(spectral_derivative(U, values, positive) for positive in choices))


def _exponential(state: str, rng: np.random.Generator) -> Pair:
    x, y = rng.uniform(-1.0, 1.0), rng.uniform(0.4, 1.5)
    z = y * np.exp(x / y)
    normal = np.array([-1.0, np.log(z / y) - 1.0, y / z])
    curved = np.array([[0.0, 0.0, 0.0], [0.0, -1.0 / y, 1.0 / z], [0.0, 1.0 / z, -y / z**2]])
    size = rng.uniform(0.3, 1.5, 2)
    match state:
        case "face":  # of K: x <= 0, y = 0, z >= 0
            return Pair(np.array([-size[0], 0.0, size[1]]), np.array([0.0, 1.0, 0.0]), (np.diag([0.0, 1.0, 0.0]),))
        case "ray":  # of K: x <= 0
            return Pair(np.array([-1.0, 0.0, 0.0]), np.append(0.0, size), (np.diag([0.0, 1.0, 1.0]),))
    return _smooth(state, np.array([x, y, z]), normal, curved, np.array([0.0, 0.0, size[1]]), size[0])


def _power(a: float, state: str, rng: np.random.Generator) -> Pair:
    x, y = rng.uniform(0.4, 1.5, 2)
    h, sign = x**a * y ** (1.0 - a), rng.choice([-1.0, 1.0])
    normal = np.array([a * h / x, (1.0 - a) * h / y, -sign])
    curved = np.zeros((3, 3))
    curved[:2, :2] = a * (1.0 - a) * h * np.array([[-(x**-2), 1 / (x * y)], [1 / (x * y), -(y**-2)]])
    size = rng.uniform(0.3, 1.5, 2)
    return _smooth(state, np.array([x, y, sign * h]), normal, curved, np.array([size[1], size[1], 0.0]), size[0])


def _smooth(state: str, s: Array, normal: Array, curved: Array, inward: Array, size: float) -> Pair:
    """At a smooth point s of the boundary; `inward` is in K and in K*, and s + inward, normal + inward in the interior."""
    nothing, none, whole = np.zeros(3), np.zeros((3, 3)), np.eye(3)
    unit, ray = normal / np.linalg.norm(normal), s / np.linalg.norm(s)
    match state:
        case "interior":
            return Pair(s + inward, nothing, (none,))
        case "dual interior":
            return Pair(nothing, size * normal + inward, (whole,))
        case "boundary":  # (ds, dz) = (t, size * curved t) for tangents t, (0, normal)
            tangents = np.linalg.svd(normal[None])[2][1:].T
            ds = np.column_stack([tangents, nothing])
            dz = np.column_stack([size * curved @ tangents, normal])
            return Pair(s, size * normal, (dz @ np.linalg.inv(dz - ds),))
        case "edge":
            return Pair(s, nothing, (none, np.outer(unit, unit)))
        case "polar edge":
            return Pair(nothing, normal, (whole - np.outer(ray, ray), whole))
    return Pair(nothing, nothing, ())


def pair(key: str, size: float, state: str, rng: np.random.Generator) -> Pair:
    """A complementary pair of one block; size: rows of "q", order of "s", exponent of "p"."""
    match key:
        case "q":
            return _second_order(int(size), state, rng)
        case "s":
            return _semidefinite(int(size), state, rng)
        case "ep":
            return _exponential(state, rng)
        case "p":
            return _power(size, state, rng)
    return _orthant(state, rng)


def _sizes(key: str, rng: np.random.Generator) -> float:
    match key:
        case "q":
            return int(rng.integers(2, 6))
        case "s":
            return int(rng.integers(2, 4))
        case "p":
            return float(np.round(rng.uniform(0.2, 0.8), 2))
    return 1


def _cones(blocks: list[tuple[str, float, str]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in ("z", "l", "ep"):
        count = sum(block[0] == key for block in blocks)
        found |= {key: count} if count else {}
    for key in ("q", "s", "p"):
        sizes = [block[1] for block in blocks if block[0] == key]
        found |= {key: sizes} if sizes else {}
    return found


def draw(blocks: list[tuple[str, float, str]], cost: str, n: int | None, rng: np.random.Generator) -> Known:
    blocks = sorted(blocks, key=lambda block: ("z", "l", "q", "s", "ep", "p").index(block[0]))
    pairs = [pair(*block, rng) for block in blocks]
    s, z = (np.concatenate([getattr(p, name) for p in pairs]) for name in ("s", "z"))
    m = len(s)
    n = int(rng.integers(3, 16)) if n is None else max(n, m)
    A, x = rng.standard_normal((m, n)), rng.standard_normal(n)
    P = None
    if cost != "zero":
        L = rng.standard_normal((n, max(n // 2, 1) if cost == "low rank" else n)) / np.sqrt(n)
        P = L @ L.T + (0.1 * np.eye(n) if cost == "full" else 0.0)
    q = -A.T @ z - (0.0 if P is None else P @ x)
    D = tuple(
        block_diag(*(p.D[min(side, len(p.D) - 1)] for p in pairs))
        for side in range(max(len(p.D) for p in pairs))
        if all(p.D for p in pairs)
    )
    states = tuple((key, state) for key, _, state in blocks)
    return Known(_cones(blocks), P, q, A, A @ x + s, x, z, s, D, states)


def regular(seed: int, cost: str, keys: tuple[str, ...] = ("z", "l", "q", "s", "ep", "p")) -> Known:
    """A program of mixed blocks with K of condition <= CONDITION; cost: P is "zero", "low rank" or "full"."""
    rng = np.random.default_rng([3, seed])
    while True:
        blocks: list[tuple[str, float, str]] = []
        for _ in range(int(rng.integers(2, 6))):
            key = str(rng.choice(keys))
            count = int(rng.integers(1, 4)) if key in "zl" else 1
            blocks += [(key, _sizes(key, rng), str(rng.choice(REGULAR[key]))) for _ in range(count)]
        known = draw(blocks, cost, None, rng)
        if np.linalg.cond(kkt_matrix(known, known.D[0])) <= CONDITION and np.any(known.z):
            return known


def tied(seed: int) -> Known:
    """A program with one tie, of kind TIES[seed % len(TIES)], and K nonsingular for every D."""
    rng = np.random.default_rng([4, seed])
    key, state = TIES[seed % len(TIES)]
    other = str(rng.choice(["z", "l", "q", "ep", "p"]))
    blocks = [(key, 3 if key == "s" and state == "rank jump" else _sizes(key, rng), state)]
    blocks.append((other, _sizes(other, rng), str(rng.choice(REGULAR[other]))))
    while True:
        known = draw(blocks, "full", 6, rng)
        if np.linalg.cond(known.A) <= 10.0:
            return known


def kkt_matrix(known: Known, D: Array) -> Array:
    """Jacobian of (Px + q + A'z, Ax + s - b) in (x, v)."""
    n = len(known.x)
    P = np.zeros((n, n)) if known.P is None else known.P
    return np.block([[P, known.A.T @ D], [known.A, D - np.eye(len(D))]])


def gradients(known: Known, cotangents: Outputs, D: Array) -> dict[str, Array]:
    """Gradients of <gx, x> + <gz, z> + <gs, s> in P, q, A, b, with this D."""
    n = len(known.x)
    given = np.concatenate([cotangents["x"], D @ cotangents["z"] - (np.eye(len(D)) - D) @ cotangents["s"]])
    both = np.linalg.solve(kkt_matrix(known, D).T, given)
    a, u = both[:n], both[n:]
    found = {"q": -a, "A": -np.outer(known.z, a) - np.outer(u, known.x), "b": u}
    if known.P is not None:
        found["P"] = -0.5 * (np.outer(a, known.x) + np.outer(known.x, a))
    return found


def speed(known: Known, direction: Outputs) -> float:
    """|(dx, dv)| as the data move along `direction`."""
    top = direction["q"] + direction["A"].T @ known.z
    if "P" in direction:
        top = top + direction["P"] @ known.x
    right = np.concatenate([-top, direction["b"] - direction["A"] @ known.x])
    return float(np.linalg.norm(np.linalg.solve(kkt_matrix(known, known.D[0]), right)))


def difference(f: Callable[[float], float], step: float) -> float:
    """Central difference of fourth order."""
    return (8.0 * (f(step) - f(-step)) - (f(2.0 * step) - f(-2.0 * step))) / (12.0 * step)

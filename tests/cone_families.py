"""Random cone programs for the compiled core, well and badly behaved, as the arguments of `dcl.ConeLayer`.

    minimize 1/2 x'Px + q'x   subject to   Ax + s = b,  s in K

x, and s and z in the interior of K and K*, are drawn; b and q follow: there is a solution, and the central path.  Where rows
and P leave x undetermined the solution is not unique, which is the careful lane's to say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from oracles.cones import svec

Cones = dict[str, Any]
Program = dict[str, np.ndarray]
COSTS = ("full", "low", "zero")
KINDS = ("second_order", "semidefinite", "exponential", "mixed", "power", "mixed with power")


def _inside(rng: np.random.Generator, cones: Cones) -> tuple[np.ndarray, np.ndarray]:
    """s and z in the interior of K and K*, free multipliers and no slack on zero rows."""
    s, z = [np.zeros(cones["z"])], [rng.standard_normal(cones["z"])]
    s.append(rng.random(cones["l"]))
    z.append(rng.random(cones["l"]))
    for size in cones["q"]:
        for t in (s, z):
            u = rng.standard_normal(size - 1)
            t.append(np.append(np.linalg.norm(u) + 0.1 + rng.random(), u))
    for k in cones["s"]:
        for t in (s, z):
            L = rng.standard_normal((k, k))
            t.append(svec(L @ L.T / k + 0.05 * np.eye(k)))
    for _ in range(cones["ep"]):
        x, y = rng.standard_normal(), 0.3 + rng.random()
        s.append(np.array([x, y, y * np.exp(x / y) + 0.1 + rng.random()]))
        u, v = -0.3 - rng.random(), rng.standard_normal()
        z.append(np.array([u, v, -u * np.exp(v / u - 1.0) + 0.1 + rng.random()]))
    for a in cones["p"]:
        for t, m in ((s, (1.0, 1.0)), (z, (a, 1.0 - a))):
            x, y = 0.3 + 2.0 * rng.random(2)
            t.append(np.array([x, y, rng.uniform(-0.9, 0.9) * (x / m[0]) ** a * (y / m[1]) ** (1.0 - a)]))
    return np.concatenate(s), np.concatenate(z)


def cones_of(rng: np.random.Generator, kind: str, n: int) -> Cones:
    """Zero and nonnegative rows beside up to five cones of a kind, or of all."""
    mixed = kind.startswith("mixed")
    count = lambda name: int(rng.integers(0 if mixed else 1, 6)) if mixed or kind == name else 0  # noqa: E731
    cones = {
        "z": int(rng.integers(0, max(1, n // 3))),
        "l": int(rng.integers(0, n)),
        "q": [int(rng.integers(1, 12)) for _ in range(count("second_order"))],
        "s": [int(rng.integers(1, 5)) for _ in range(min(3, count("semidefinite")))],
        "ep": count("exponential"),
    }
    # "mixed" itself has none, so that its programs are those of before there were power cones
    powers = int(rng.integers(1, 6)) if "power" in kind else 0
    return cones | {"p": rng.uniform(0.05, 0.95, powers).tolist()}


def drawn(kind: str, seed: int, largest: int = 20) -> tuple[Cones, Program]:
    """A program of a kind; every third is linear, every third has a P of low rank."""
    rng = np.random.default_rng([5, KINDS.index(kind), seed])
    n = int(rng.integers(2, largest))
    cones = cones_of(rng, kind, n)
    s, z = _inside(rng, cones)
    A, x = rng.standard_normal((len(s), n)) / np.sqrt(n), rng.standard_normal(n)
    cost = COSTS[seed % 3]
    L = rng.standard_normal((n, {"full": n, "low": max(1, n // 3), "zero": 0}[cost])) / np.sqrt(n)
    P = L @ L.T + (0.01 * np.eye(n) if cost == "full" else 0.0)
    return cones, {"P": P, "q": -P @ x - A.T @ z, "A": A, "b": A @ x + s}


def badly_scaled(kind: str, seed: int) -> tuple[Cones, Program]:
    """The same with its objective, its rows, its columns or its right-hand sides of another size, up to 1e4."""
    cones, data = drawn(kind, seed)
    rng = np.random.default_rng([6, seed])
    factor, columns = 10.0 ** rng.uniform(-4, 4), 10.0 ** rng.uniform(-2, 2, len(data["q"]))
    match seed % 4:
        case 0:
            return cones, data | {name: factor * data[name] for name in ("P", "q")}
        case 1:
            return cones, data | {name: factor * data[name] for name in ("A", "b")}
        case 2:
            P = columns[:, None] * data["P"] * columns
            return cones, data | {"P": P, "q": columns * data["q"], "A": data["A"] * columns}
    return cones, data | {"q": factor * data["q"], "b": factor * data["b"]}

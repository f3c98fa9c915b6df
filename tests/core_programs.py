"""Batches of random programs for the compiled core, well and badly behaved: data as tensors (B or 1, ...) by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from oracles.exact import DEGENERATE, UNSOLVABLE, tiny
from oracles.regular import DATA

Batch = dict[str, torch.Tensor]
Program = dict[str, np.ndarray]


def stacked(programs: list[Program]) -> Batch:
    """Programs with the same blocks as one batch."""
    return {name: torch.tensor(np.stack([program[name] for program in programs])) for name in programs[0]}


def grouped(programs: list[Program]) -> list[Batch]:
    """Programs of any blocks and sizes as batches of equal ones."""
    groups: dict[tuple[object, ...], list[Program]] = {}
    for program in programs:
        present = {name: np.asarray(program[name], float) for name in DATA if program.get(name) is not None}
        groups.setdefault(tuple((name, a.shape) for name, a in present.items()), []).append(present)
    return [stacked(group) for group in groups.values()]


def _feasible(rng: np.random.Generator, n: int, p: int, m: int) -> Program:
    """A point with A x = b and G x < h, and a bounded objective: -q is in the cone of the rows."""
    x, A, G = rng.standard_normal(n), rng.standard_normal((p, n)), rng.standard_normal((m, n))
    z = rng.random(m) * (rng.random(m) < 0.7)
    data = {"q": -(G.T @ z) - A.T @ rng.standard_normal(p), "G": G, "h": G @ x + rng.random(m)}
    return data | ({"A": A, "b": A @ x} if p else {})


def definite(rng: np.random.Generator, n: int) -> Program:
    L = rng.standard_normal((n, n)) / np.sqrt(n)
    return _feasible(rng, n, n // 5, n) | {"P": L @ L.T + 0.01 * np.eye(n), "q": rng.standard_normal(n)}


def low_rank(rng: np.random.Generator, n: int) -> Program:
    L = rng.standard_normal((n, max(1, n // 2))) / np.sqrt(n)
    data = _feasible(rng, n, n // 5, 2 * n)
    return data | {"P": L @ L.T, "q": data["q"] - L @ (L.T @ rng.standard_normal(n))}


def linear(rng: np.random.Generator, n: int) -> Program:
    return _feasible(rng, n, n // 5, 2 * n)


def box(rng: np.random.Generator, n: int) -> Program:
    L, x = rng.standard_normal((n, n)) / np.sqrt(n), rng.standard_normal(n)
    lb, ub = np.where(rng.random(n) < 0.3, -np.inf, x - rng.random(n)), x + rng.random(n)
    return {"P": L @ L.T + 0.01 * np.eye(n), "q": 3.0 * rng.standard_normal(n), "lb": lb, "ub": ub}


def linear_box(rng: np.random.Generator, n: int) -> Program:
    data, x = _feasible(rng, n, n // 5, n // 2 + 1), rng.standard_normal(n)
    data = {"q": rng.standard_normal(n), "G": data["G"], "h": data["G"] @ x + rng.random(n // 2 + 1)}
    return data | {"lb": x - rng.random(n), "ub": x + rng.random(n)}


def simplex(rng: np.random.Generator, n: int) -> Program:
    """Portfolio-like: x >= 0, sum x = 1."""
    L = rng.standard_normal((n, n)) / np.sqrt(n)
    return {"P": L @ L.T, "q": rng.standard_normal(n), "A": np.ones((1, n)), "b": np.ones(1), "lb": np.zeros(n)}


def badly_scaled(rng: np.random.Generator, n: int) -> Program:
    """Rows, columns or the objective of another size, up to 1e8."""
    draw: Callable[[np.random.Generator, int], Program] = (definite, low_rank, linear)[int(rng.integers(3))]
    data, size = draw(rng, n), float(rng.integers(1, 9))
    how = int(rng.integers(3))
    if how == 0:
        rows = 10.0 ** rng.uniform(-size, size, len(data["G"]))
        return data | {"G": rows[:, None] * data["G"], "h": rows * data["h"]}
    if how == 1:
        columns = 10.0 ** rng.uniform(-size / 2, size / 2, n)
        data = data | {name: data[name] * columns for name in ("q", "G", "A") if name in data}
        return data | ({"P": columns[:, None] * data["P"] * columns} if "P" in data else {})
    factor = 10.0 ** rng.uniform(-size, size)
    return data | {name: factor * data[name] for name in ("P", "q") if name in data}


def tie_laden(rng: np.random.Generator, n: int) -> Program:
    """Small integers: vertices where many rows meet, multipliers that are zero, equal rows."""
    M = rng.integers(-2, 3, (int(rng.integers(0, n + 1)), n)).astype(float)
    x, G = rng.integers(-2, 3, n).astype(float), rng.integers(-2, 3, (2 * n, n)).astype(float)
    slack, z = rng.integers(0, 3, 2 * n), rng.integers(0, 3, 2 * n)
    return {"P": M.T @ M, "q": -(M.T @ (M @ x)) - G.T @ (z * (slack == 0)), "G": G, "h": G @ x + slack}


def nearly_tied(rng: np.random.Generator, n: int) -> Program:
    """One active row with a multiplier of 1e-12 to 1e-5."""
    data = definite(rng, n)
    x = rng.standard_normal(n)
    tiny_z = np.zeros(n)
    tiny_z[0] = 10.0 ** rng.uniform(-12, -5)
    h = data["G"] @ x + np.where(np.arange(n) == 0, 0.0, 1.0)
    data = {name: data[name] for name in ("P", "G")}
    return data | {"h": h, "q": -data["P"] @ x - data["G"].T @ tiny_z}


def unbounded(rng: np.random.Generator, n: int) -> Program:
    """A P of low rank, exact or by rounding, whose objective falls without end by a slope of 1e-5 to 1."""
    L = rng.standard_normal((n, max(1, n - 1)))
    P = np.outer(L[:, 0], L[:, 0]) if rng.random() < 0.3 else L @ L.T
    flat = np.linalg.svd(P)[0][:, -1]
    slope = 10.0 ** rng.uniform(-5, 0)
    G = rng.standard_normal((int(rng.integers(1, 3)), n))
    G -= np.outer(np.maximum(G @ flat, 0.0), flat) * (1.0 if rng.random() < 0.8 else 0.0)
    h = np.abs(rng.standard_normal(len(G))) + (1e10 if rng.random() < 0.1 else 0.0)
    return {"P": P, "q": L @ rng.standard_normal(L.shape[1]) - slope * flat, "G": G, "h": h}


def infeasible(rng: np.random.Generator, n: int) -> Program:
    """A row and its opposite that leave a gap of 1e-6 to 1."""
    draw: Callable[[np.random.Generator, int], Program] = (definite, low_rank, linear)[int(rng.integers(3))]
    data = draw(rng, n)
    gap = 10.0 ** rng.uniform(-6, 0)
    return data | {"G": np.vstack([data["G"], -data["G"][:1]]), "h": np.append(data["h"], -data["h"][0] - gap)}


def dependent(rng: np.random.Generator, n: int) -> Program:
    """Equality rows that repeat each other, exactly or nearly, or an active inequality that repeats one."""
    data = definite(rng, n)
    x = rng.standard_normal(n)
    row = data["G"][0]
    A = np.vstack([row, 2.0 * row + (10.0 ** rng.uniform(-12, -3) if rng.random() < 0.7 else 0.0) * data["G"][-1]])
    return {"P": data["P"], "q": data["q"], "A": A, "b": A @ x, "G": data["G"], "h": data["G"] @ x + rng.random(n)}


FAMILIES: dict[str, Callable[[np.random.Generator, int], Program]] = {
    "definite": definite,
    "low_rank": low_rank,
    "linear": linear,
    "box": box,
    "linear_box": linear_box,
    "simplex": simplex,
    "badly_scaled": badly_scaled,
    "tie_laden": tie_laden,
    "nearly_tied": nearly_tied,
    "unbounded": unbounded,
    "infeasible": infeasible,
    "dependent": dependent,
}
# What a fast lane is for: regular with probability one.
REGULAR = ("definite", "low_rank", "linear", "box", "linear_box")


def draws(family: str, n: int, count: int, seed: int = 0) -> list[Batch]:
    """`count` programs of a family, in batches of the same shapes."""
    rng = np.random.default_rng([seed, n, list(FAMILIES).index(family)])
    return grouped([FAMILIES[family](rng, n) for _ in range(count)])


def tiny_programs(count: int, seed: int = 0) -> list[Batch]:
    """`count` programs in small integers of each kind of `oracles.exact`, in batches of the same shapes."""
    kinds = (None, *DEGENERATE, *UNSOLVABLE)
    return grouped([dict(tiny(seed + k, kind).data) for kind in kinds for k in range(count)])


def size_of(batch: Batch) -> int:
    return max(t.shape[0] for t in batch.values())

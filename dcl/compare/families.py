"""Random programs for the command line: any cones, a unique and strictly complementary optimum almost surely.

    s0 in the interior of K, z0 in the interior of K*, x0 and A drawn:   b = A x0 + s0,   q = -A'z0 - P x0

so that the program and its dual are strictly feasible: an optimum exists, and every mu > 0 has a central point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcl.layers.cone import ConeLayer

# keys of ConeLayer's dict, and what they are called in the help
CONES = {"l": "nonnegative", "q": "second-order", "s": "semidefinite", "ep": "exponential", "p": "power"}
_EXPONENT = 0.4


@dataclass(frozen=True, eq=False)
class Drawn:
    """A layer and the tensors P, q, A, b of one call."""

    layer: ConeLayer
    tensors: tuple[Tensor | None, ...]


def draw(n: int, cones: list[str], seed: int, linear: bool) -> Drawn:
    """A program in n variables; linear: without a quadratic term, with enough rows to determine x."""
    rng = np.random.default_rng(seed)
    count = max(1, n // 2)
    sizes: dict[str, Any] = {
        "l": 2 * n,
        "q": [min(n, 3) + 1] * count,
        "s": [3] * max(1, n // 4),
        "ep": count,
        "p": [_EXPONENT] * count,
    }
    chosen = {key: value for key, value in sizes.items() if key in cones}
    inside = [_pair(key, size, rng) for key, value in chosen.items() for size in _each(key, value)]
    s, z = (np.concatenate(column) for column in zip(*inside, strict=True))
    A, x = rng.standard_normal((len(s), n)) / np.sqrt(n), rng.standard_normal(n)
    L = rng.standard_normal((n, n)) / np.sqrt(n)
    P = None if linear else L @ L.T
    q = -A.T @ z - (0.0 if P is None else P @ x)
    tensors = [None if t is None else torch.from_numpy(t) for t in (P, q, A, A @ x + s)]
    return Drawn(ConeLayer(chosen), tuple(tensors))


def _each(key: str, value: Any) -> list[Any]:
    return [1] * value if key in ("l", "ep") else list(value)


def _pair(key: str, size: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A point inside of the cone and one inside of its dual."""
    small = rng.uniform(0.2, 2.0, 4)
    match key:
        case "l":
            return small[:1], small[1:2]
        case "q":
            u, w = rng.standard_normal((2, size - 1))
            return np.append(np.linalg.norm(u) + small[0], u), np.append(np.linalg.norm(w) + small[1], w)
        case "s":
            S, Z = (_lower(M @ M.T + 0.2 * np.eye(size)) for M in rng.standard_normal((2, size, size)))
            return S, Z
        case "ep":  # y exp(x/y) < z;  -u exp(v/u) < e w
            x, v = rng.standard_normal(2)
            y, u = small[0], -small[1]
            return (
                np.array([x, y, y * np.exp(x / y) + small[2]]),
                np.array([u, v, -u * np.exp(v / u - 1.0) + small[3]]),
            )
    x, y, u, v = small
    a, t = _EXPONENT, rng.uniform(-0.9, 0.9, 2)
    inner, outer = x**a * y ** (1 - a), (u / a) ** a * (v / (1 - a)) ** (1 - a)
    return np.array([x, y, t[0] * inner]), np.array([u, v, t[1] * outer])


def _lower(M: np.ndarray) -> np.ndarray:
    """The lower triangle, column by column, off-diagonal entries times sqrt(2)."""
    i, j = np.triu_indices(len(M))
    return np.asarray(M[j, i] * np.where(i == j, 1.0, np.sqrt(2.0)))

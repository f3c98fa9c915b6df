"""The central path of a cone program by eq. 61 of Gould et al. 2016, in 40 digits: mpmath, no KKT matrix of dcl's kind.

    minimize 1/2 x'Px + q'x + mu sum_k phi_k(s_k)   with s = b - Ax,  the rows of the zero cone as equalities

    l  phi = -log s                      q  phi = -log(t^2 - |u|^2)                s  phi = -log det S
    ep phi = -log(y log(z/y) - x) - log y - log z       p  phi = -log(x^2a y^(2-2a) - z^2) - (1 - a) log x - a log y

Damped Newton from a strictly feasible x on (gradient, equalities); the derivative of a'x(mu) in q and b follows from the
same Hessian (eq. 64): with K (u, w) = (a, 0), K = [[P + mu A_i'H A_i, A_e'], [A_e, 0]],

    dq = -u     db_i = mu H A_i u     db_e = w     dmu = u'A_i'g
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mpmath import mp, mpf

Array = np.ndarray
DIGITS = 40


def _log_terms(terms: Sequence[tuple[Any, Array, Array, Any]]) -> tuple[Array, Array]:
    """Gradient and Hessian of -sum w log f, each term as `_term` gives it."""
    gradient = -sum(c * d for c, d, _, _ in terms)
    hessian = sum(c2 * np.outer(d, d) - c * h for c, d, h, c2 in terms)
    return gradient, hessian


def _term(weight: Any, f: Any, d: Array, h: Array) -> tuple[Any, Array, Array, Any]:
    return weight / f, d, h, weight / f**2


def _unit(k: int) -> Array:
    return np.array([mpf(i == k) for i in range(3)])


def _barrier(key: str, size: float, s: Array) -> tuple[bool, Array | None, Array | None]:
    """Whether s is strictly inside, and gradient and Hessian of phi there."""
    zero = np.zeros((len(s), len(s))) * mpf(0)
    if key == "l":
        return bool(s[0] > 0), *_log_terms([_term(1, s[0], np.array([mpf(1)]), zero)])
    if key == "q":
        J = np.diag([mpf(1)] + [mpf(-1)] * (len(s) - 1))
        f = s @ J @ s
        inside = bool(s[0] > 0 and f > 0)
        return inside, *(_log_terms([_term(1, f, 2 * J @ s, 2 * J)]) if inside else (None, None))
    if key == "s":
        return _log_det(int(size), s)
    x, y, z = s
    if key == "ep":
        if not (y > 0 and z > 0 and y * mp.log(z / y) > x):
            return False, None, None
        d = np.array([mpf(-1), mp.log(z / y) - 1, y / z])
        h = np.array([[0, 0, 0], [0, -1 / y, 1 / z], [0, 1 / z, -y / z**2]]) * mpf(1)
        first = _term(1, y * mp.log(z / y) - x, d, h)
        return True, *_log_terms([first, _term(1, y, _unit(1), zero), _term(1, z, _unit(2), zero)])
    a = mpf(size)
    if not (x > 0 and y > 0 and x ** (2 * a) * y ** (2 - 2 * a) > z**2):
        return False, None, None
    p = x ** (2 * a) * y ** (2 - 2 * a)
    d = np.array([2 * a * p / x, (2 - 2 * a) * p / y, -2 * z])
    h = np.array(
        [
            [2 * a * (2 * a - 1) * p / x**2, 2 * a * (2 - 2 * a) * p / (x * y), 0],
            [2 * a * (2 - 2 * a) * p / (x * y), (2 - 2 * a) * (1 - 2 * a) * p / y**2, 0],
            [0, 0, -2],
        ]
    ) * mpf(1)
    return True, *_log_terms([_term(1, p - z**2, d, h), _term(1 - a, x, _unit(0), zero), _term(a, y, _unit(1), zero)])


def _log_det(k: int, s: Array) -> tuple[bool, Array | None, Array | None]:
    """-log det of the matrix whose lower triangle, column by column, is s, off-diagonal entries times sqrt(2)."""
    basis = []
    for j in range(k):
        for i in range(j, k):
            E = mp.zeros(k)
            E[i, j] = E[j, i] = mpf(1) if i == j else 1 / mp.sqrt(2)
            basis.append(E)
    S = mp.zeros(k)
    for value, E in zip(s, basis, strict=True):
        S += value * E
    try:
        mp.cholesky(S)
    except ValueError:
        return False, None, None
    V = S**-1
    products = [V * E for E in basis]
    trace = [sum((M[i, i] for i in range(k)), mpf(0)) for M in products]
    hessian = [[sum((M * N)[i, i] for i in range(k)) for N in products] for M in products]
    return True, -np.array(trace), np.array(hessian)


def _blocks(cones: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """(key, size, rows) in the order of the rows."""
    found: list[tuple[str, float, int]] = [("z", 1, 1)] * int(cones.get("z", 0)) + [("l", 1, 1)] * int(
        cones.get("l", 0)
    )
    found += [("q", k, k) for k in cones.get("q", [])]
    found += [("s", k, k * (k + 1) // 2) for k in cones.get("s", [])]
    found += [("ep", 1, 3)] * int(cones.get("ep", 0))
    return found + [("p", a, 3) for a in cones.get("p", [])]


def _assembled(blocks: list[tuple[str, float, int]], s: Array) -> tuple[bool, Array, Array]:
    gradient, hessian, row = np.zeros(len(s)) * mpf(0), np.zeros((len(s), len(s))) * mpf(0), 0
    for key, size, rows in blocks:
        part = slice(row, row + rows)
        if key != "z":
            inside, g, h = _barrier(key, size, s[part])
            if not inside:
                return False, gradient, hessian
            gradient[part], hessian[part, part] = g, h
        row += rows
    return True, gradient, hessian


def _solve(K: Array, r: Array) -> Array:
    return np.array([v for v in mp.lu_solve(mp.matrix(K.tolist()), mp.matrix(r.tolist()))])


def point(
    P: Array, q: Array, A: Array, b: Array, cones: Mapping[str, Any], mu: float, start: Array, weights: Array
) -> dict[str, Array]:
    """x(mu) and the gradients of weights'x(mu) in q, b and mu (1,), rounded to float64. start: strictly feasible."""
    with mp.workdps(DIGITS):
        P, q, A, b, x, weights = (np.vectorize(mpf)(np.asarray(t, dtype=float)) for t in (P, q, A, b, start, weights))
        blocks, zeros = _blocks(cones), int(cones.get("z", 0))
        Ae, Ai, n = A[:zeros], A[zeros:], len(q)

        def system(x: Array, mu: Any) -> tuple[Array, Array, Array, Array]:
            s = b - A @ x
            inside, g, H = _assembled(blocks, s)
            assert inside
            H = mu * H[zeros:, zeros:]
            top = np.concatenate([P + Ai.T @ H @ Ai, Ae.T], axis=1)
            K = np.concatenate([top, np.concatenate([Ae, np.zeros((zeros, zeros)) * mpf(0)], axis=1)])
            return np.concatenate([P @ x + q - mu * Ai.T @ g[zeros:], -s[:zeros]]), K, H, Ai.T @ g[zeros:]

        def newton(x: Array, mu: Any, accuracy: Any) -> Array:
            for _ in range(200):
                F, K, _, _ = system(x, mu)
                step = -_solve(K, F)
                dx, decrement = step[:n], mp.sqrt(abs(step[:n] @ K[:n, :n] @ step[:n]) / mu)
                # self-concordance: a step of length 1 / (1 + decrement) stays inside
                x = x + dx * (1 / (1 + decrement) if decrement > mpf("0.25") else mpf(1))
                if decrement < accuracy:
                    return x
            raise ArithmeticError("Newton did not converge")

        for power in range(30):  # down the path from mu = 1e3
            coarse = mpf(1000) / mpf(4) ** power
            if coarse <= mu:
                break
            x = newton(x, coarse, mpf("0.1"))
        x, mu = newton(x, mpf(mu), mpf(10) ** (-DIGITS // 2)), mpf(mu)
        _, K, H, slope = system(x, mu)
        u = _solve(K, np.concatenate([weights, np.zeros(zeros) * mpf(0)]))
        grad_b = np.concatenate([u[n:], H @ (Ai @ u[:n])])
        found = {"x": x, "q": -u[:n], "b": grad_b, "mu": np.array([u[:n] @ slope])}
        return {name: np.array([float(v) for v in t]) for name, t in found.items()}


KEYS = ("z", "l", "q", "s", "ep", "p", "all")
_CONES = {
    "z": {"z": 1, "l": 3},
    "l": {"l": 4},
    "q": {"q": [3, 2]},
    "s": {"s": [3]},
    "ep": {"ep": 1},
    "p": {"p": [0.3]},
    "all": {"z": 1, "l": 1, "q": [3], "s": [2], "ep": 1, "p": [0.6]},
}
DEGREES = {"z": 3, "l": 4, "q": 4, "s": 3, "ep": 3, "p": 3, "all": 1 + 2 + 2 + 3 + 3}
_INSIDE = {"q": {3: [2.0, 0.3, -0.4], 2: [1.0, 0.4]}, "s": {3: [1.5, 0.2, -0.1, 1.2, 0.3, 0.9], 2: [1.5, 0.2, 1.2]}}


def program(key: str, seed: int) -> tuple[dict[str, Any], dict[str, Array], Array]:
    """Cones, data P, q, A, b of a random program in four variables whose minimum is finite, and a strictly feasible x."""
    rng, cones = np.random.default_rng([5, seed]), _CONES[key]
    s = [0.0] * cones.get("z", 0) + [1.0, 0.5, 2.0, 0.7][: cones.get("l", 0)]
    for kind in ("q", "s"):
        for size in cones.get(kind, []):
            s += _INSIDE[kind][size]
    s += [-0.5, 1.0, 1.4] * cones.get("ep", 0) + [1.2, 0.8, 0.3] * len(cones.get("p", []))
    n = 4
    A, x = rng.standard_normal((len(s), n)), rng.standard_normal(n)
    L = rng.standard_normal((n, 2))
    P, q = L @ L.T + 0.05 * np.eye(n), 3.0 * rng.standard_normal(n)
    return cones, {"P": P, "q": q, "A": A, "b": A @ x + s}, x

"""Least squares with a given condition of A, their solutions and gradients with 60 digits.

    minimize |A x - b|^2 + r(x),    r = 0;  rho |x|^2;  lam |x|_1;  x on a simplex

On the support S with signs s

    2 A_S'(A_S x - b) + r' = 0,    r' = 0;  2 rho x;  lam s;  nu 1 with 1'x = 1

With u = -H^-1 c on S, H the Hessian there (1'u = 0 on the simplex), the gradients of c'x are  b~ = -2 A u,
A~ = 2 (A x - b) u' + 2 A u x'.

Columns of A outside of S keep away from the boundary by construction: solutions are strictly complementary, and A_S alone has
the condition.  (Else the small singular values are seldom in S.)  Data are the float64 numbers they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import numpy as np

DIGITS = 60
KINDS = ("plain", "ridge", "lasso", "simplex")


@dataclass(frozen=True)
class LeastSquares:
    """kind, A (m, n), b (m,), c (n,), support and signs (n,) of the solution (0 outside), weight lam or rho."""

    kind: str
    A: np.ndarray
    b: np.ndarray
    c: np.ndarray
    signs: np.ndarray
    weight: float


def with_condition(
    rng: np.random.Generator, m: int, n: int, condition: float, first: np.ndarray | None = None
) -> np.ndarray:
    """A random (m, n) matrix with singular values from 1 to 1 / condition. first: the direction (n,) of the largest one."""
    U, V = (rng.standard_normal((k, n)) for k in (m, n))
    if first is not None:
        V[:, 0] = first
    U, V = (np.linalg.qr(M)[0] for M in (U, V))
    return U * np.geomspace(1.0, 1.0 / condition, n) @ V.T


def draw(rng: np.random.Generator, kind: str, m: int, n: int, condition: float, residual: float) -> LeastSquares:
    """A random program; residual: the size of A x - b, where the kind leaves that open."""
    sparse = kind in ("lasso", "simplex")
    k = max(2, (2 * n) // 3) if sparse else n
    support = np.sort(rng.permutation(n)[:k])
    signs = rng.choice([-1.0, 1.0], k) if kind == "lasso" else np.ones(k)
    # A_S'r = -lam s / 2 has a small solution r where s is along a large singular value
    A_S = with_condition(rng, m, k, condition, first=signs if kind == "lasso" else None)
    x = signs * rng.uniform(0.5, 1.5, k)
    weight = 0.0
    # orthogonal to the columns
    r = rng.standard_normal(m)
    r -= A_S @ np.linalg.lstsq(A_S, r, rcond=None)[0]
    r *= residual / np.linalg.norm(r)
    if kind == "simplex":
        x /= x.sum()
    if kind == "ridge":
        weight = 1.0 / condition**2
    if kind == "lasso":
        weight = 0.1
        r += np.linalg.lstsq(A_S.T, -0.5 * weight * signs, rcond=None)[0]
    A = np.empty((m, n))
    A[:, support] = A_S
    for j in np.setdiff1d(np.arange(n), support):
        column = rng.standard_normal(m) / np.sqrt(m)
        if kind == "simplex":
            column *= np.sign(column @ r)
        else:  # 2 |A_j'r| well below the weight
            column -= r * (column @ r) / (r @ r)
        A[:, j] = column
    full = np.zeros(n)
    full[support] = signs
    return LeastSquares(kind, A, A_S @ x - r, rng.standard_normal(n), full, weight)


def solution(given: LeastSquares) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, and the gradients A~ and b~ of c'x. AssertionError if the support is not that of the solution."""
    with mpmath.workdps(DIGITS):
        support = np.flatnonzero(given.signs)
        k, A, b = len(support), _matrix(given.A), _matrix(given.b[:, None])
        A_S, c = _matrix(given.A[:, support]), _matrix(given.c[support, None])
        weight, signs = mpmath.mpf(given.weight), _matrix(given.signs[support, None])
        H, right = 2 * A_S.T * A_S, 2 * A_S.T * b
        if given.kind == "ridge":
            H += 2 * weight * mpmath.eye(k)
        if given.kind == "lasso":
            right -= weight * signs
        nu = mpmath.mpf(0)
        if given.kind == "simplex":
            K = mpmath.matrix(k + 1, k + 1)
            K[:k, :k] = H
            for i in range(k):
                K[i, k] = K[k, i] = 1
            x, u = (mpmath.lu_solve(K, mpmath.matrix([*part, last])) for part, last in ((right, 1), (-c, 0)))
            x, nu, u = x[:k, 0], x[k], u[:k, 0]
        else:
            x, u = mpmath.lu_solve(H, right), mpmath.lu_solve(H, -c)
        r, Au = A_S * x - b, A_S * u
        assert all(x[i] * signs[i] > 0 for i in range(k)) or given.kind in ("plain", "ridge")
        slopes = 2 * A.T * r
        for j in np.flatnonzero(given.signs == 0.0).tolist():
            assert slopes[j] + nu > 0 if given.kind == "simplex" else abs(slopes[j]) < weight
        gA, full = np.zeros_like(given.A), np.zeros(len(given.signs))
        for i, j in enumerate(support):
            full[j] = float(x[i])
            gA[:, j] = [float(2 * r[row] * u[i] + 2 * Au[row] * x[i]) for row in range(len(given.b))]
        return full, gA, np.array([float(-2 * t) for t in Au])


def _matrix(M: np.ndarray) -> mpmath.matrix:
    return mpmath.matrix([[mpmath.mpf(float(v)) for v in row] for row in M])

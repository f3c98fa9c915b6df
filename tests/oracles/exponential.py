"""Programs with exponential cones to any number of digits: the solution near a point, and exact gradients there.

    P x + q + A'z = 0,     f(s, z) = 0,     s = b - A x

    orthant   s_i  where row i holds, else  z_i
    cone      s_3 - s_2 e^r,   z_1 + z_3 e^r,   z_2 - z_3 (r - 1) e^r,       r = s_1 / s_2

Newton's method in ball arithmetic (python-flint); it shares nothing with the package, neither projections nor reductions.
With J'(u, w) = (c, 0) and v = -f_s'w the gradient of c'x is  -u'(dP x + dq + dA'z) + v'(db - dA x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flint import arb, arb_mat, ctx

_BITS, _STEPS, _SETTLED, _NOTHING = 320, 60, 1e-40, 1e-30
Array = np.ndarray


@dataclass(frozen=True)
class Program:
    """One instance, float64: P (n, n), q (n,), A (m, n), b (m,). zeros, orthant: how many rows stand in front of the cones."""

    P: Array
    q: Array
    A: Array
    b: Array
    zeros: int
    orthant: int


@dataclass(frozen=True)
class Solution:
    """x, z, and u, v of the header, rounded to float64."""

    x: Array
    z: Array
    u: Array
    v: Array

    def gradient(self, dP: Array, dq: Array, dA: Array, db: Array) -> float:
        """The derivative of c'x along a change of the data."""
        return float(-self.u @ (dP @ self.x + dq + dA.T @ self.z) + self.v @ (db - dA @ self.x))


def solve(program: Program, x: Array, z: Array, c: Array) -> Solution | None:
    """The solution near x (n,), z (m,), and u, v for c (n,); None where Newton's method finds none."""
    before = ctx.prec
    ctx.prec = _BITS
    try:
        return _Digits(program, x, z).solve(c)
    except ZeroDivisionError:
        return None
    finally:
        ctx.prec = before


class _Digits:
    def __init__(self, program: Program, x: Array, z: Array) -> None:
        self.program, self.n, self.m = program, len(program.q), len(program.b)
        self.P, self.A, self.q, self.b, self.x, self.z = (
            _exact(t) for t in (program.P, program.A, program.q[:, None], program.b[:, None], x[:, None], z[:, None])
        )
        slack = program.b - program.A @ x
        self.holds = [i < program.zeros or abs(z[i]) > abs(slack[i]) for i in range(program.orthant)]

    def solve(self, c: Array) -> Solution | None:
        for _ in range(_STEPS):
            F, J, _ = self.system()
            step = J.solve(F)
            moved = 0.0
            for i in range(self.n + self.m):
                part, k = (self.x, i) if i < self.n else (self.z, i - self.n)
                size = abs(float(part[k, 0].mid())) + _NOTHING
                moved = max(moved, abs(float(step[i, 0].mid())) / size if float(step[i, 0].mid()) else 0.0)
                part[k, 0] = (part[k, 0] - step[i, 0]).mid()
            if moved <= _SETTLED:
                break
        else:
            return None
        _, J, f_s = self.system()
        found = J.transpose().solve(_exact(np.concatenate([c, np.zeros(self.m)])[:, None]))
        w = arb_mat([[found[self.n + i, 0]] for i in range(self.m)])
        u = np.array([float(found[i, 0].mid()) for i in range(self.n)])
        return Solution(_rounded(self.x), _rounded(self.z), u, -_rounded(f_s.transpose() * w))

    def system(self) -> tuple[arb_mat, arb_mat, arb_mat]:
        """F, J, and f_s."""
        n, m = self.n, self.m
        s = self.b - self.A * self.x
        f, f_s, f_z = arb_mat(m, 1), arb_mat(m, m), arb_mat(m, m)
        for i, holds in enumerate(self.holds):
            f[i, 0] = s[i, 0] if holds else self.z[i, 0]
            (f_s if holds else f_z)[i, i] = arb(1)
        for i in range(self.program.orthant, m, 3):
            one, two, three = (s[i + k, 0] for k in range(3))
            z = self.z[i + 2, 0]
            r = one / two
            e = r.exp()
            f[i, 0] = three - two * e
            f[i + 1, 0] = self.z[i, 0] + z * e
            f[i + 2, 0] = self.z[i + 1, 0] - z * (r - 1) * e
            f_s[i, i], f_s[i, i + 1], f_s[i, i + 2] = -e, (r - 1) * e, arb(1)
            for k, slope in ((1, z * e), (2, -z * r * e)):  # times dr
                f_s[i + k, i], f_s[i + k, i + 1] = slope / two, -slope * r / two
            f_z[i + 1, i] = f_z[i + 2, i + 1] = arb(1)
            f_z[i + 1, i + 2], f_z[i + 2, i + 2] = e, -(r - 1) * e
        first = self.P * self.x + self.q + self.A.transpose() * self.z
        F, J, left = arb_mat(n + m, 1), arb_mat(n + m, n + m), f_s * self.A
        for j in range(n):
            F[j, 0] = first[j, 0]
            for k in range(n):
                J[j, k] = self.P[j, k]
            for i in range(m):
                J[j, n + i] = self.A[i, j]
        for i in range(m):
            F[n + i, 0] = f[i, 0]
            for k in range(n):
                J[n + i, k] = -left[i, k]
            for k in range(m):
                J[n + i, n + k] = f_z[i, k]
        return F, J, f_s


def _exact(t: Array) -> arb_mat:
    return arb_mat([[arb(float(number)) for number in row] for row in t])


def _rounded(t: arb_mat) -> Array:
    return np.array([float(t[i, 0].mid()) for i in range(t.nrows())])

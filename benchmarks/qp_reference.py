"""The answer of one quadratic or linear program and the gradient of w'x in its data, in NumPy, without dcl.

    minimize 1/2 x'Px + q'x   subject to   Ax = b (y),   Gx <= h (z),   s = h - Gx

Exact: an interior point proposes the active rows E, e of (A, b) and (G, h), and

    [ P  E' ] ( x )   ( -q )
    [ E  0  ] ( v ) = (  e )

is solved with refinement (residuals in extended precision).  The point counts only where the KKT conditions prove it
optimal and unique: s > 0 in the other rows, z > 0 in the active ones, the matrix nonsingular.

Central: x(mu) has s z = mu in every row.  Newton's method on these equations, from afar with larger mu.

The gradient of w'x, with the derivative of the same equations: K (u, uy, uz) = (w, 0, 0), and

    d w'x = -u'(dP x + dq + dA'y + dG'z) + uy'(db - dA x) + uz'(dh - dG x)
"""

from __future__ import annotations

from dataclasses import dataclass

import clarabel
import numpy as np
import scipy.sparse as sp

MARGIN, CONDITION = 1e-5, 1e10
STEPS, TO_BOUNDARY, RESIDUAL = 200, 0.99, 1e-10


@dataclass(frozen=True)
class Program:
    """P (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,)."""

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray


@dataclass(frozen=True)
class Answer:
    """x, multipliers y and z, and the adjoint variables u, uy, uz of w'x."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    u: np.ndarray
    uy: np.ndarray
    uz: np.ndarray

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of w'x by name; that of P is symmetric."""
        x, y, z, u, uy, uz = self.x, self.y, self.z, self.u, self.uy, self.uz
        return {
            "P": -0.5 * (np.outer(u, x) + np.outer(x, u)),
            "q": -u,
            "A": -(np.outer(y, u) + np.outer(uy, x)),
            "b": uy,
            "G": -(np.outer(z, u) + np.outer(uz, x)),
            "h": uz,
        }


def exact(program: Program, w: np.ndarray) -> Answer | None:
    """The answer; None where it cannot be proved, or where a row has slack and multiplier both below MARGIN."""
    P, q, A, b, G, h = (getattr(program, name) for name in ("P", "q", "A", "b", "G", "h"))
    n, p = len(q), len(b)
    active = _proposed(program)
    E, e = np.concatenate([A, G[active]]), np.concatenate([b, h[active]])
    K = np.block([[P, E.T], [E, np.zeros((len(e), len(e)))]])
    inverse = _inverse(K)
    if inverse is None:
        return None
    x, duals = np.split(_refined(K, inverse, np.concatenate([-q, e])), [n])
    z, slack = np.zeros(len(h)), h - G @ x
    z[active] = duals[p:]
    if not (np.where(active, z, slack) > MARGIN).all():
        return None
    u, adjoint = np.split(_refined(K, inverse, np.concatenate([w, np.zeros(len(e))])), [n])
    uz = np.zeros(len(h))
    uz[active] = adjoint[p:]
    return Answer(x, duals[:p], z, u, adjoint[:p], uz)


def central(program: Program, w: np.ndarray, mu: float) -> Answer:
    """The answer on the central path.

    Raises:
        ArithmeticError: Newton's method did not get there.
    """
    P, q, A, b, G, h = (getattr(program, name) for name in ("P", "q", "A", "b", "G", "h"))
    n, p, m = len(q), len(b), len(h)
    x, y, z, s = np.zeros(n), np.zeros(p), np.ones(m), np.ones(m)
    for _ in range(STEPS):
        target = max(mu, 0.2 * float(s @ z) / m)
        r = (P @ x + q + A.T @ y + G.T @ z, A @ x - b, G @ x + s - h, s * z - target)
        size = 1.0 + _largest(x, y, z)
        if target == mu and _largest(*r[:3]) < RESIDUAL * size and _largest(r[3]) < RESIDUAL * mu:
            break
        # the last row divided by z: G dx - (s / z) dz = -r_2 + r_3 / z
        step = np.linalg.solve(_barrier_matrix(program, s, z), np.concatenate([-r[0], -r[1], -r[2] + r[3] / z]))
        dx, dy, dz = np.split(step, [n, n + p])
        ds = -r[2] - G @ dx
        length = min(1.0, TO_BOUNDARY * _longest(s, ds), TO_BOUNDARY * _longest(z, dz))
        x, y, z, s = x + length * dx, y + length * dy, z + length * dz, s + length * ds
    else:
        raise ArithmeticError(f"no point of the central path in {STEPS} steps")
    K = _barrier_matrix(program, s, z)
    u, uy, uz = np.split(_refined(K, np.linalg.inv(K), np.concatenate([w, np.zeros(p + m)])), [n, n + p])
    return Answer(x, y, z, u, uy, uz)


def _proposed(program: Program) -> np.ndarray:
    """Which inequalities an interior point holds to be active."""
    p, m = len(program.b), len(program.h)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    rows, sides = np.concatenate([program.A, program.G]), np.concatenate([program.b, program.h])
    cones = [clarabel.ZeroConeT(p), clarabel.NonnegativeConeT(m)]
    P = sp.csc_matrix(np.triu(program.P))
    out = clarabel.DefaultSolver(P, program.q, sp.csc_matrix(rows), sides, cones, settings).solve()
    return np.array(out.z[p:]) > np.array(out.s[p:])


def _barrier_matrix(program: Program, s: np.ndarray, z: np.ndarray) -> np.ndarray:
    p = len(program.b)
    E = np.concatenate([program.A, program.G])
    return np.block([[program.P, E.T], [E, -np.diag(np.concatenate([np.zeros(p), s / z]))]])


def _largest(*arrays: np.ndarray) -> float:
    return max(float(np.abs(t).max(initial=0.0)) for t in arrays)


def _longest(t: np.ndarray, dt: np.ndarray) -> float:
    """The longest step along dt that keeps t >= 0."""
    falls = dt < 0.0
    return float((t[falls] / -dt[falls]).min(initial=np.inf))


def _inverse(K: np.ndarray) -> np.ndarray | None:
    """K^-1, None where it has a condition number above CONDITION (in the maximum norm) or there is none."""
    try:
        inverse = np.linalg.inv(K)
    except np.linalg.LinAlgError:
        return None
    condition = np.abs(K).sum(1).max() * np.abs(inverse).sum(1).max()
    return inverse if condition <= CONDITION else None


def _refined(K: np.ndarray, inverse: np.ndarray, r: np.ndarray) -> np.ndarray:
    """K^-1 r, refined three times."""
    exact_K, exact_r = K.astype(np.longdouble), r.astype(np.longdouble)
    w = inverse @ r
    for _ in range(3):
        w = w + inverse @ (exact_r - exact_K @ w.astype(np.longdouble)).astype(float)
    return np.asarray(w)

"""Random dense QPs, and the right answers and gradients to judge every package by.

    minimize 1/2 x'Px + q'x   subject to   Ax = b (y),   Gx <= h (z)          loss w'x with a fixed w

P = LL' + 0.01 I with L standard normal / sqrt(n), the other data standard normal, right-hand sides from a random point.

The reference is made in NumPy, without dcl and without a solver's word: an interior point proposes the active rows E,
the KKT system [[P, E'], [E, 0]] is solved with refinement (residuals in extended precision), and the point is accepted
only where the KKT conditions prove it optimal: G x <= h, z >= 0.  P is positive definite, so the proof is complete.
Programs without a clear active set (a row with slack and multiplier both below MARGIN) are drawn anew: nobody's gradient
is well defined there.
"""

from __future__ import annotations

from dataclasses import dataclass

import clarabel
import numpy as np
import scipy.sparse as sp

MARGIN = 1e-5
NAMES = ("P", "q", "A", "b", "G", "h")


@dataclass(frozen=True)
class Shape:
    """n variables, m inequalities, p equalities."""

    n: int
    m: int
    p: int

    def __str__(self) -> str:
        return f"n {self.n}, m {self.m}, p {self.p}"


@dataclass(frozen=True)
class Programs:
    """A pool of programs: data by name, (count, ...) each; w (n,); the answers x; gradients of w'x by name.

    "L" is the square root with P = L'L, for packages that cannot take P; its gradient is 2 L grad_P.
    """

    shape: Shape
    data: dict[str, np.ndarray]
    w: np.ndarray
    x: np.ndarray
    gradients: dict[str, np.ndarray]

    def errors(self, rows: slice, x: np.ndarray, gradients: dict[str, np.ndarray]) -> tuple[float, float]:
        """Largest relative error of x and of the gradient (all data of an instance taken together, P symmetrized)."""
        right = self.x[rows]
        error_x = np.abs(x - right).max(1) / (1.0 + np.abs(right).max(1))
        wrong, size = np.zeros(len(x)), np.zeros(len(x))
        for name, g in gradients.items():
            expected = self.gradients[name][rows]
            g = 0.5 * (g + g.transpose(0, 2, 1)) if name == "P" else g
            wrong += ((g - expected) ** 2).reshape(len(x), -1).sum(1)
            size += (expected**2).reshape(len(x), -1).sum(1)
        return float(error_x.max()), float(np.sqrt(wrong / size).max())


def random_programs(shape: Shape, count: int, seed: int = 0) -> Programs:
    """A pool of `count` programs with their answers."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(shape.n)
    drawn = []
    while len(drawn) < count:
        program = _draw(shape, rng)
        answer = _answer(*program, w)
        if answer is not None:
            drawn.append((program, answer))
    data = {name: np.stack([program[k] for program, _ in drawn]) for k, name in enumerate(NAMES)}
    gradients = {name: np.stack([answer[1][name] for _, answer in drawn]) for name in NAMES}
    data["L"] = np.linalg.cholesky(data["P"]).transpose(0, 2, 1).copy()
    gradients["L"] = 2.0 * data["L"] @ gradients["P"]
    return Programs(shape, data, w, np.stack([answer[0] for _, answer in drawn]), gradients)


def _draw(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    n, m, p = shape.n, shape.m, shape.p
    L = rng.standard_normal((n, n)) / np.sqrt(n)
    A, G, x = rng.standard_normal((p, n)), rng.standard_normal((m, n)), rng.standard_normal(n)
    return L @ L.T + 0.01 * np.eye(n), rng.standard_normal(n), A, A @ x, G, G @ x + rng.uniform(0.0, 1.0, m)


def _answer(
    P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray, G: np.ndarray, h: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """The answer x and the gradients of w'x by name; None where they cannot be proved right."""
    n, p = len(q), len(b)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    rows, sides = np.concatenate([A, G]), np.concatenate([b, h])
    cones = [clarabel.ZeroConeT(p), clarabel.NonnegativeConeT(len(h))]
    out = clarabel.DefaultSolver(sp.csc_matrix(np.triu(P)), q, sp.csc_matrix(rows), sides, cones, settings).solve()
    active = np.array(out.z[p:]) > np.array(out.s[p:])

    E, e = np.concatenate([A, G[active]]), np.concatenate([b, h[active]])
    K = np.block([[P, E.T], [E, np.zeros((len(e), len(e)))]])
    x, duals = np.split(_solve(K, np.concatenate([-q, e])), [n])
    slack, z = h - G @ x, np.zeros(len(h))
    z[active] = duals[p:]
    if not (np.where(active, z, slack) > MARGIN).all():
        return None

    u, uv = np.split(_solve(K, np.concatenate([w, np.zeros(len(e))])), [n])
    uz = np.zeros(len(h))
    uz[active] = uv[p:]
    return x, {
        "P": -0.5 * (np.outer(u, x) + np.outer(x, u)),
        "q": -u,
        "A": -(np.outer(duals[:p], u) + np.outer(uv[:p], x)),
        "b": uv[:p],
        "G": -(np.outer(z, u) + np.outer(uz, x)),
        "h": uz,
    }


def _solve(K: np.ndarray, r: np.ndarray) -> np.ndarray:
    """K^-1 r, refined three times."""
    exact_K, exact_r = K.astype(np.longdouble), r.astype(np.longdouble)
    inverse = np.linalg.inv(K)
    w = inverse @ r
    for _ in range(3):
        w = w + inverse @ (exact_r - exact_K @ w.astype(np.longdouble)).astype(float)
    return w

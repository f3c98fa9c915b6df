"""A quadratic program in matrices as a cvxpy.Problem, whose linear cost and right-hand sides are parameters with values.

    minimize 1/2 x'Px + q'x + d   subject to   Ax = b,   Gx <= h,   Lx >= low,   lb <= x <= ub

Sides that are infinite bind nothing and are left out: the parameters h, low, lb and ub have the finite entries only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from dcl.errors import InputError

# Sides that may be infinite: the matrix of their rows ("" for x itself), and the value that binds nothing.
_SIDES = {"h": ("G", np.inf), "low": ("L", -np.inf), "lb": ("", -np.inf), "ub": ("", np.inf)}
_LARGEST = 1000  # matrices whose eigenvalues are computed
_PSD_TOLERANCE = 1e-9


def problem_of(blocks: Mapping[str, Any], d: float = 0.0, *, maximize: bool = False) -> cp.Problem:
    """The problem of blocks P (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,), L (k, n), low (k,), lb, ub (n,).

    Only q must be there.

    maximize: the same function is maximized, for which P must be negative semidefinite.

    Raises InputError that names the block that does not fit.
    """
    if "q" not in blocks:
        raise InputError("q is missing", argument="q")
    vectors = {name: np.asarray(blocks[name], dtype=np.float64) for name in ("q", "b", *_SIDES) if name in blocks}
    for name, vector in vectors.items():
        if vector.ndim != 1 or np.isnan(vector).any():
            raise InputError(f"{name} must be a vector of numbers, got shape {vector.shape}", argument=name)
    n = len(vectors["q"])
    matrices = {}
    rows_of = {"P": n} | {matrix: len(vectors.get(side, ())) for matrix, side in (("A", "b"), ("G", "h"), ("L", "low"))}
    for name, rows in rows_of.items():
        if name in blocks:
            matrices[name] = sp.csr_array(blocks[name]).astype(np.float64)
            if matrices[name].shape != (rows, n):
                raise InputError(f"{name} must have shape ({rows}, {n}), got {matrices[name].shape}", argument=name)
    for matrix, side in (("A", "b"), ("G", "h"), ("L", "low")):
        if (matrix in blocks) != (side in blocks):
            raise InputError(f"{matrix} needs {side}, and {side} needs {matrix}: give both or neither", argument=matrix)
    x = cp.Variable(n, name="x")
    q = cp.Parameter(n, name="q", value=vectors["q"])
    cost = q @ x + d
    if "P" in matrices and matrices["P"].nnz:
        sign = -1.0 if maximize else 1.0
        cost = cost + 0.5 * sign * cp.quad_form(x, _semidefinite(sign * matrices["P"]))
    constraints = []
    if len(vectors.get("b", ())):
        constraints.append(
            _rows("A", matrices["A"]) @ x == cp.Parameter(len(vectors["b"]), name="b", value=vectors["b"])
        )
    there = finite(vectors)
    for name, (matrix, _) in _SIDES.items():
        if name not in vectors:
            continue
        if not matrix and len(vectors[name]) != n:
            raise InputError(f"{name} must have {n} entries, got {len(vectors[name])}", argument=name)
        kept = there[name]
        if len(kept):
            bound = cp.Parameter(len(kept), name=name, value=vectors[name][kept])
            rows = _rows(matrix, matrices[matrix][kept]) @ x if matrix else x if len(kept) == n else x[kept]
            constraints.append(rows >= bound if name in ("low", "lb") else rows <= bound)
    return cp.Problem(cp.Maximize(cost) if maximize else cp.Minimize(cost), constraints)


def finite(blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Which entries of the sides h, low, lb and ub that are there bind something, and so are parameters."""
    return {
        name: np.flatnonzero(np.asarray(blocks[name], dtype=np.float64) != infinite)
        for name, (_, infinite) in _SIDES.items()
        if name in blocks
    }


def _rows(name: str, matrix: sp.csr_array) -> cp.Constant:
    """The matrix, under its name in messages."""
    return cp.Constant(matrix, name=name)


def _semidefinite(P: sp.csr_array) -> Any:
    """P, symmetric, for CVXPY; its eigenvalues are looked at here where it is small, by CVXPY where it is large."""
    P = sp.csr_array(0.5 * (P + P.T))
    if P.shape[0] > _LARGEST:
        return P
    values = np.linalg.eigvalsh(P.toarray())
    if values[0] < -_PSD_TOLERANCE * np.abs(values).max():
        raise InputError(
            f"P is not positive semidefinite: its smallest eigenvalue is {values[0]:.3g} (largest {values[-1]:.3g}), so the "
            "problem is not convex",
            argument="P",
        )
    return cp.psd_wrap(P)

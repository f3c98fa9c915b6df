"""A quadratic program in matrices as a cvxpy.Problem, whose linear cost and right-hand sides are parameters with values.

    minimize 1/2 x'Px + q'x + d   subject to   Ax = b,   Gx <= h,   lb <= x <= ub

Sides that are infinite bind nothing and are left out: the parameters h, lb and ub have the finite entries only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from dcl.errors import InputError

_LARGEST = 1000  # matrices whose eigenvalues are computed
_PSD_TOLERANCE = 1e-9


def problem_of(blocks: Mapping[str, Any], d: float = 0.0, *, maximize: bool = False) -> cp.Problem:
    """The problem of blocks P (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,), lb, ub (n,); only q must be there.

    maximize: the same function is maximized, for which P must be negative semidefinite.

    Raises InputError that names the block that does not fit.
    """
    if "q" not in blocks:
        raise InputError("q is missing", argument="q")
    vectors = {
        name: np.asarray(blocks[name], dtype=np.float64) for name in ("q", "b", "h", "lb", "ub") if name in blocks
    }
    for name, vector in vectors.items():
        if vector.ndim != 1 or np.isnan(vector).any():
            raise InputError(f"{name} must be a vector of numbers, got shape {vector.shape}", argument=name)
    n = len(vectors["q"])
    matrices = {}
    for name, rows in (("P", n), ("A", len(vectors.get("b", ()))), ("G", len(vectors.get("h", ())))):
        if name in blocks:
            matrices[name] = sp.csr_array(blocks[name]).astype(np.float64)
            if matrices[name].shape != (rows, n):
                raise InputError(f"{name} must have shape ({rows}, {n}), got {matrices[name].shape}", argument=name)
    for matrix, side in (("A", "b"), ("G", "h")):
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
    for name, row_of, infinite in (("h", matrices.get("G"), np.inf), ("lb", None, -np.inf), ("ub", None, np.inf)):
        if name not in vectors:
            continue
        if row_of is None and len(vectors[name]) != n:
            raise InputError(f"{name} must have {n} entries, got {len(vectors[name])}", argument=name)
        there = np.flatnonzero(vectors[name] != infinite)
        if len(there):
            bound = cp.Parameter(len(there), name=name, value=vectors[name][there])
            rows = (x if len(there) == n else x[there]) if row_of is None else _rows("G", row_of[there]) @ x
            constraints.append(rows >= bound if name == "lb" else rows <= bound)
    return cp.Problem(cp.Maximize(cost) if maximize else cp.Minimize(cost), constraints)


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

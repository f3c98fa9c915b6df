"""Dual variables of the user's constraints as entries of z. CVXPY's signs are ours, for Minimize and for Maximize.

Equality, Inequality, Zero, NonNeg, NonPos    one row for each entry, columns first
SOC(t, X, axis)       cone k: (t_k, X_:k) (axis 0) or (t_k, X_k:) (axis 1)
ExpCone, PowCone3D    cone k: (x_k, y_k, z_k), k columns first
PSD                   svec of each matrix: the off-diagonal entries of the dual are those of z over sqrt(2)
PowConeND             a tree of 3-d power cones; the dual of an entry of W is where the tree has its leaf
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints import PSD, SOC, ExpCone, PowCone3D, PowConeND
from numpy.typing import NDArray

from dcl.errors import UnsupportedError
from dcl.frontends.cvxpy.chain import Reduced
from dcl.frontends.cvxpy.form import Output, output
from dcl.frontends.cvxpy.labels import written

Ints = NDArray[np.int64]


def dual_output(reduced: Reduced, problem: cp.Problem, dual: cp.Variable) -> Output:
    """The entries of z that hold a dual variable.

    Raises:
        UnsupportedError: the constraint has no rows of its own in the cone program.
    """
    constraint = next(c for c in problem.constraints if any(v.id == dual.id for v in c.dual_variables))
    position = [v.id for v in constraint.dual_variables].index(dual.id)
    start = _start(reduced, reduced.constraints.get(constraint.id, constraint.id))
    if start is None and dual.size:
        raise UnsupportedError(f"{written(constraint)} has no dual variable in the cone program")
    places, weights = _places(constraint, position)
    k = len(places)
    if k != dual.size:
        raise UnsupportedError(f"{written(constraint)}: its dual variable has a form that dcl does not know")
    rows = int(places.max(initial=-1)) + 1
    E = sp.csr_array((weights, (np.arange(k), places)), shape=(k, rows))
    return output(dual.name(), dual.shape, E, start or 0, dual=True, exp=False)


def _start(reduced: Reduced, final: int) -> int | None:
    """The first row of a constraint."""
    start = 0
    for row in reduced.program.constraints:
        if row.id == final:
            return start
        start += sum(arg.size for arg in row.args)
    return None


def _places(constraint: Any, position: int) -> tuple[Ints, NDArray[np.float64]]:
    """Rows, from the first of the constraint on, and weights of the entries of dual variable `position`, columns first."""
    kind, size = type(constraint), constraint.dual_variables[position].size
    if kind is SOC:
        places = _second_order(constraint, position)
    elif kind in (ExpCone, PowCone3D):
        places = 3 * np.arange(size) + position
    elif kind is PSD:
        return _semidefinite(constraint)
    elif kind is PowConeND:
        places = _power(constraint, position)
    else:
        places = np.arange(size)
    return places, np.ones(len(places))


def _second_order(constraint: SOC, position: int) -> Ints:
    count = constraint.num_cones()
    cones = np.arange(constraint.size).reshape(count, -1)
    if position == 0:
        return cones[:, 0]
    # one cone a row here, so that axis 0 has its columns one after the other
    return cones[:, 1:].ravel(order="F" if constraint.axis == 1 else "C")


def _semidefinite(constraint: PSD) -> tuple[Ints, NDArray[np.float64]]:
    order, count = constraint.args[0].shape[-1], constraint.num_cones()
    low, high = np.minimum(*np.indices((order, order))), np.maximum(*np.indices((order, order)))
    first = order * (order + 1) // 2 * np.arange(count)
    places = first[:, None, None] + high * (high + 1) // 2 + low
    weights = np.broadcast_to(np.where(low == high, 1.0, np.sqrt(0.5)), places.shape)
    shape = constraint.args[0].shape
    return places.reshape(shape).ravel(order="F"), weights.reshape(shape).ravel(order="F")


def _power(constraint: PowConeND, position: int) -> Ints:
    W = constraint.args[0]
    n, count = (W.shape[0], 1) if W.ndim == 1 else W.shape if constraint.axis == 0 else W.shape[::-1]
    leaves: dict[int, int] = {}
    cones = _tree(list(range(n)), 0, leaves)
    first = 3 * cones * np.arange(count)
    if position == 1:
        return first + 3 * (cones - 1) + 2
    places = first + np.array([leaves[i] for i in range(n)], np.int64)[:, None]
    return places.ravel(order="F" if constraint.axis == 0 else "C")


def _tree(entries: list[int], cones: int, leaves: dict[int, int]) -> int:
    """CVXPY's balanced tree of cones over `entries`, after `cones` others: how many there are with it.

    A cone comes after those below it.  leaves: the row of each entry that is an argument of a cone.
    """
    left, right = entries[: len(entries) // 2], entries[len(entries) // 2 :]
    for part in (left, right):
        if len(part) > 1:
            cones = _tree(part, cones, leaves)
    for row, part in enumerate((left, right)):
        if len(part) == 1:
            leaves[part[0]] = 3 * cones + row
    return cones + 1

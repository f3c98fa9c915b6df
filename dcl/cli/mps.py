"""Linear and quadratic programs in MPS and LP files, read by HiGHS.

HiGHS has rows  lower <= Ax <= upper:  equal sides are equalities Ax = b, others one or two of Gx <= h and Lx >= low.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from dcl.errors import InputError, UnsupportedError


@dataclass(frozen=True, eq=False)
class Model:
    """blocks: as in `dcl.frontends.cvxpy.quadratic`.  d: constant of the cost.

    names: of the entries of x, and of the rows by their side b, h or low, where the file has some.
    """

    blocks: dict[str, Any]
    d: float
    maximize: bool
    names: dict[str, list[str]]


def read(path: Path) -> Model:
    """The model in a file. Raises InputError, UnsupportedError (integer variables)."""
    import highspy

    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    if model.readModel(str(path)) == highspy.HighsStatus.kError:
        raise InputError(f"{path} cannot be read by HiGHS: is it a valid MPS or LP file?", argument="file")
    lp = model.getLp()
    if any(kind != highspy.HighsVarType.kContinuous for kind in lp.integrality_):
        raise UnsupportedError(f"{path} has integer variables; dcl solves continuous programs")
    if not lp.num_col_:
        raise InputError(f"{path} has no variables", argument="file")
    n = lp.num_col_
    blocks: dict[str, Any] = {"q": np.array(lp.col_cost_), "lb": np.array(lp.col_lower_), "ub": np.array(lp.col_upper_)}
    matrix = lp.a_matrix_
    build = sp.csc_array if matrix.format_ == highspy.MatrixFormat.kColwise else sp.csr_array
    A = sp.csr_array(
        build((np.array(matrix.value_), np.array(matrix.index_), np.array(matrix.start_)), shape=(lp.num_row_, n))
    )
    low, high = np.array(lp.row_lower_), np.array(lp.row_upper_)
    equal = low == high
    sides = {
        "b": ("A", equal, low),
        "h": ("G", ~equal & np.isfinite(high), high),
        "low": ("L", ~equal & np.isfinite(low), low),
    }
    names = {"x": list(lp.col_names_)} if len(lp.col_names_) == n else {}
    for side, (name, mask, values) in sides.items():
        rows = np.flatnonzero(mask)
        if len(rows):
            blocks |= {name: A[rows], side: values[rows]}
            if len(lp.row_names_) == lp.num_row_:
                names[side] = [lp.row_names_[row] for row in rows]
    hessian = model.getModel().hessian_
    if hessian.dim_:
        lower = sp.csc_array(
            (np.array(hessian.value_), np.array(hessian.index_), np.array(hessian.start_)), shape=(n, n)
        )
        triangular = hessian.format_ == highspy.HessianFormat.kTriangular
        blocks["P"] = lower + sp.tril(lower, -1).T if triangular else lower
    return Model(blocks, float(lp.offset_), lp.sense_ == highspy.ObjSense.kMaximize, names)

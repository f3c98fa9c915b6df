"""HiGHS: active-set methods for linear and quadratic programs, whose points are vertices where there are any.

    HiGHS:  min 1/2 x'Qx + c'x   s.t.  L <= Ax <= U,   Qx + c = A'y
    dcl:    Ax + s = b           U = b; L = b on zero rows, -inf on the others; z = -y

The Hessian goes in by its lower triangle.  HiGHS regularizes it by 1e-7 unless told not to [run]: that is off, so that a
singular Hessian may end without an answer.  Infinite bounds are its own constant.  Its simplex method and its quadratic
solver run in one thread; claims of infeasibility come without a certificate here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse as sp

from dcl.solvers.base import AbstractSolver, Claim, HostProgram, Iterates, check_options
from dcl.solvers.convert import by_columns, vectors

if TYPE_CHECKING:
    import highspy

_EPS = 1e-10
_SMALLEST = 1e-10  # of the tolerances that HiGHS takes


@cache
def _claims() -> dict[Any, Claim]:
    """What HiGHS's statuses claim."""
    import highspy

    return {
        highspy.HighsModelStatus.kOptimal: Claim.SOLVED,
        highspy.HighsModelStatus.kInfeasible: Claim.PRIMAL_INFEASIBLE,
        highspy.HighsModelStatus.kUnbounded: Claim.DUAL_INFEASIBLE,
        highspy.HighsModelStatus.kIterationLimit: Claim.MAX_ITERATIONS,
        highspy.HighsModelStatus.kTimeLimit: Claim.TIME_LIMIT,
    }


@dataclass(frozen=True, kw_only=True)
class Highs(AbstractSolver):
    """HiGHS. eps is its tolerance on the violation of rows and of the signs of multipliers.

    Example:
        >>> import torch, dcl
        >>> layer = dcl.QPLayer(dcl.solvers.Highs(time_limit=2.0))
        >>> layer(None, torch.tensor([-1.0, 3.0]), lb=0.0, ub=1.0).x.round(decimals=6) + 0.0
        tensor([1., 0.])
    """

    name: ClassVar[str] = "HIGHS"
    package: ClassVar[str] = "highspy"
    releases_gil: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = False
    gives_certificates: ClassVar[bool] = False
    gives_basic_duals: ClassVar[bool] = True
    limits_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)

    def solve(
        self,
        program: HostProgram,
        rows: Iterable[int],
        out: Iterates,
        start: Iterates | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        import highspy

        rows, claims = list(rows), _claims()
        n, m, zeros = program.n, program.m, program.zeros
        Ps = by_columns(program.P, program.P_index, (n, n), rows, upper=True)
        As = by_columns(program.A, program.A_index, (m, n), rows)

        for i, P, q, A, b in zip(rows, Ps, vectors(program.q, rows), As, vectors(program.b, rows), strict=False):
            if stop is not None and stop.is_set():
                return
            model = highspy.HighsModel()
            lp, hessian = model.lp_, model.hessian_
            lp.num_col_, lp.num_row_ = n, m
            lp.col_cost_, lp.row_upper_ = q, b
            lp.col_lower_, lp.col_upper_ = np.full(n, -highspy.kHighsInf), np.full(n, highspy.kHighsInf)
            lp.row_lower_ = np.concatenate([b[:zeros], np.full(m - zeros, -highspy.kHighsInf)])
            lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
            lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = A.indptr, A.indices, A.data
            if P.data.any():
                lower = sp.csc_matrix(P.T)
                hessian.dim_, hessian.format_ = n, highspy.HessianFormat.kTriangular
                hessian.start_, hessian.index_, hessian.value_ = lower.indptr, lower.indices, lower.data

            began = time.perf_counter()
            solver = self._solver()
            solver.passModel(model)
            solver.run()
            out.seconds[i] = time.perf_counter() - began

            out.claim[i] = claim = claims.get(solver.getModelStatus(), Claim.FAILED)
            info = solver.getInfo()
            out.iterations[i] = max(info.simplex_iteration_count, 0) + max(info.qp_iteration_count, 0)
            if claim == Claim.SOLVED:
                solution = solver.getSolution()
                out.x[i], out.z[i] = solution.col_value, np.negative(solution.row_dual)

    def _solver(self) -> highspy.Highs:
        """HiGHS with these options."""
        import highspy

        solver = highspy.Highs()
        solver.setOptionValue("output_flag", self.verbose)
        eps = max(_EPS if self.eps is None else self.eps, _SMALLEST)
        for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance"):
            solver.setOptionValue(name, eps)
        solver.setOptionValue("threads", 1)
        solver.setOptionValue("qp_regularization_value", 0.0)
        if self.max_iters is not None:
            for name in ("simplex_iteration_limit", "qp_iteration_limit"):
                solver.setOptionValue(name, self.max_iters)
        if self.time_limit is not None:
            solver.setOptionValue("time_limit", float(self.time_limit))
        return solver

"""OSQP, an operator-splitting method (ADMM) with a polishing step: sparse programs, and certificates.

    OSQP:  min 1/2 x'Px + q'x   s.t.  l <= Ax <= u,   Px + q + A'y = 0,  y >= 0 where u is active
    dcl:   Ax + s = b           u = b; l = b on zero rows, -inf on the others; z = y; P by its upper triangle
           z = prim_inf_cert (A'y = 0, u'y+ + l'y- < 0),   x = dual_inf_cert (Px = 0, -Ax in K, q'x < 0)

Two habits of OSQP 1.1 are worked around here [run].
- It takes SIGINT while it solves (`dcl.solvers.interrupt`): solves take turns, `releases_gil` is False.
- Its polishing prints a line when no row is active, whatever `verbose` says; one more row 0'x = 0 keeps it quiet.
It returns 2.14e9 for whatever it does not know.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from dcl.solvers.base import AbstractSolver, Claim, HostProgram, Iterates, check_options
from dcl.solvers.convert import by_columns, vectors
from dcl.solvers.interrupt import interrupted, turn

_EPS = 1e-8
_MAX_ITERS = 20_000


@dataclass(frozen=True, kw_only=True)
class Osqp(AbstractSolver):
    """OSQP. eps is its eps_abs and eps_rel.

    rho: its first penalty (0.1).  polishing: end with a solve of the active-set system.

    Example:
        >>> import torch, dcl
        >>> layer = dcl.QPLayer(dcl.solvers.Osqp(eps=1e-9))
        >>> layer(torch.eye(2), torch.tensor([-1.0, 3.0]), lb=0.0, ub=1.0).x.round(decimals=6) + 0.0
        tensor([1., 0.])
    """

    rho: float | None = None
    polishing: bool = True

    name: ClassVar[str] = "OSQP"
    package: ClassVar[str] = "osqp"
    releases_gil: ClassVar[bool] = False
    warm_starts: ClassVar[bool] = True
    gives_certificates: ClassVar[bool] = True
    gives_basic_duals: ClassVar[bool] = False
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
        rows = list(rows)
        n, m, zeros = program.n, program.m, program.zeros
        Ps = by_columns(program.P, program.P_index, (n, n), rows, upper=True)
        # The shape has one row more than there are entries for: the row that keeps the polishing quiet.
        As = by_columns(program.A, program.A_index, (m + 1, n), rows)
        upper = np.pad(program.b, ((0, 0), (0, 1)))
        lower = upper.copy()
        lower[:, zeros:m] = -np.inf

        settings: dict[str, float | int | bool] = {
            "eps_abs": _EPS if self.eps is None else self.eps,
            "eps_rel": _EPS if self.eps is None else self.eps,
            "eps_prim_inf": _EPS,
            "eps_dual_inf": _EPS,
            "max_iter": _MAX_ITERS if self.max_iters is None else self.max_iters,
            "polishing": self.polishing,
            "verbose": self.verbose,
        }
        if self.rho is not None:
            settings["rho"] = self.rho
        if self.time_limit is not None:
            settings["time_limit"] = self.time_limit

        problems = zip(rows, Ps, vectors(program.q, rows), As, vectors(lower, rows), vectors(upper, rows), strict=False)
        for problem in problems:
            if stop is not None and stop.is_set():
                return
            with turn():
                _solve_one(problem, settings, out, start)


@cache
def _claims() -> dict[int, Claim]:
    """What OSQP's statuses claim."""
    from osqp import SolverStatus

    found = {
        SolverStatus.OSQP_SOLVED: Claim.SOLVED,
        # the *_INACCURATE ones are reached at the iteration limit, with tolerances ten times as wide
        SolverStatus.OSQP_SOLVED_INACCURATE: Claim.MAX_ITERATIONS,
        SolverStatus.OSQP_PRIMAL_INFEASIBLE: Claim.PRIMAL_INFEASIBLE,
        SolverStatus.OSQP_PRIMAL_INFEASIBLE_INACCURATE: Claim.PRIMAL_INFEASIBLE,
        SolverStatus.OSQP_DUAL_INFEASIBLE: Claim.DUAL_INFEASIBLE,
        SolverStatus.OSQP_DUAL_INFEASIBLE_INACCURATE: Claim.DUAL_INFEASIBLE,
        SolverStatus.OSQP_MAX_ITER_REACHED: Claim.MAX_ITERATIONS,
        SolverStatus.OSQP_TIME_LIMIT_REACHED: Claim.TIME_LIMIT,
    }
    return {int(status): claim for status, claim in found.items()}


def _solve_one(
    problem: tuple[int, sp.csc_matrix, np.ndarray, sp.csc_matrix, np.ndarray, np.ndarray],
    settings: dict[str, float | int | bool],
    out: Iterates,
    start: Iterates | None,
) -> None:
    """Solve one instance and fill its entries of `out`."""
    import osqp
    from osqp.interface import OSQPException

    i, P, q, A, lower, upper = problem
    m = A.shape[0] - 1
    solver = osqp.OSQP()
    began = time.perf_counter()
    try:
        solver.setup(P, q, A, lower, upper, **settings)
    except OSQPException:  # P is not convex, or the numbers are out of range: the claim stays FAILED
        return
    if start is not None and np.isfinite(start.x[i]).all() and np.isfinite(start.z[i]).all():
        solver.warm_start(x=start.x[i], y=np.append(start.z[i], 0.0))
    result = solver.solve(raise_error=False)
    out.seconds[i] = time.perf_counter() - began

    status = int(result.info.status_val)
    if status == int(osqp.SolverStatus.OSQP_SIGINT):
        interrupted()
    claim = _claims().get(status, Claim.FAILED)
    out.claim[i] = claim
    out.iterations[i] = result.info.iter
    if claim == Claim.PRIMAL_INFEASIBLE:
        out.z[i] = result.prim_inf_cert[:m]
    elif claim == Claim.DUAL_INFEASIBLE:
        out.x[i] = result.dual_inf_cert
    elif claim != Claim.FAILED:
        out.x[i] = result.x
        out.z[i] = result.y[:m]

"""PIQP, a proximal interior-point method: dense programs of any size, and sparse ones where the pattern is sparse.

    PIQP:  min 1/2 x'Px + c'x   s.t.  Ax = b,  h_l <= Gx <= h_u,   Px + c + A'y + G'(z_u - z_l) = 0,  z_u, z_l >= 0
    dcl:   Ax + s = b           (A, b) of PIQP = zero rows, (G, h_u) = the other rows, no h_l; z = (y, z_u)

PIQP holds the GIL while it solves, has no time limit (so `time_limit` is refused) and gives no certificates: on its
claims of infeasibility nothing is kept.  It raises nothing that was found [run]: a P that is not convex, or NaN, ends
at the iteration limit.  h_u from 1e30 on is infinite for it, with a line on the terminal; it is cut to 1e29.
Dense matrices must be Fortran-ordered.  Its `update` of an instance with the same pattern would save a quarter of the time, but
the point then depends on the instances before, in the last digits [run]: every instance is set up anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from dcl.solvers.base import AbstractSolver, Claim, HostProgram, Iterates, check_options
from dcl.solvers.convert import by_columns, dense, vectors

_EPS = 1e-10
_LARGEST = 1e29


@cache
def _claims() -> dict[Any, Claim]:
    """What PIQP's statuses claim."""
    import piqp

    return {
        piqp.PIQP_SOLVED: Claim.SOLVED,
        piqp.PIQP_PRIMAL_INFEASIBLE: Claim.PRIMAL_INFEASIBLE,
        piqp.PIQP_DUAL_INFEASIBLE: Claim.DUAL_INFEASIBLE,
        piqp.PIQP_MAX_ITER_REACHED: Claim.MAX_ITERATIONS,
    }


@dataclass(frozen=True, kw_only=True)
class Piqp(AbstractSolver):
    """PIQP. eps is its tolerance on residuals and duality gap, relative and absolute.

    Example:
        >>> import torch, dcl
        >>> layer = dcl.QPLayer(dcl.solvers.Piqp(eps=1e-9))
        >>> layer(torch.eye(2), torch.tensor([-1.0, 3.0]), lb=0.0, ub=1.0).x.round(decimals=6) + 0.0
        tensor([1., 0.])
    """

    name: ClassVar[str] = "PIQP"
    package: ClassVar[str] = "piqp"
    releases_gil: ClassVar[bool] = False
    warm_starts: ClassVar[bool] = False
    gives_certificates: ClassVar[bool] = False
    gives_basic_duals: ClassVar[bool] = False
    limits_time: ClassVar[bool] = False

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
        import piqp

        rows, claims = list(rows), _claims()
        n, m, zeros = program.n, program.m, program.zeros
        sparse = program.A_index is not None
        if sparse:
            Ps = by_columns(program.P, program.P_index, (n, n), rows)
            As = by_columns(program.A, program.A_index, (zeros, n), rows)
            Gs = by_columns(program.A, program.A_index, (m - zeros, n), rows, first=zeros)
        else:
            Ps = map(np.asfortranarray, dense(program.P, program.P_index, (n, n), rows))
            As = map(np.asfortranarray, vectors(program.A[:, :zeros], rows))
            Gs = map(np.asfortranarray, vectors(program.A[:, zeros:], rows))
        qs, bs = vectors(program.q, rows), vectors(program.b, rows)

        for i, P, q, A, G, b in zip(rows, Ps, qs, As, Gs, bs, strict=False):
            if stop is not None and stop.is_set():
                return
            solver = piqp.SparseSolver() if sparse else piqp.DenseSolver()
            settings = solver.settings
            settings.eps_abs = settings.eps_rel = _EPS if self.eps is None else self.eps
            settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = settings.eps_abs
            settings.check_duality_gap = True
            settings.verbose = self.verbose
            if self.max_iters is not None:
                settings.max_iter = self.max_iters

            began = time.perf_counter()
            solver.setup(P, q, A, b[:zeros], G, None, np.minimum(b[zeros:], _LARGEST), None, None)
            claim = claims.get(solver.solve(), Claim.FAILED)
            out.seconds[i] = time.perf_counter() - began

            result = solver.result
            out.claim[i] = claim
            out.iterations[i] = result.info.iter
            if claim not in (Claim.PRIMAL_INFEASIBLE, Claim.DUAL_INFEASIBLE):
                out.x[i] = result.x
                out.z[i, :zeros] = result.y
                out.z[i, zeros:] = result.z_u

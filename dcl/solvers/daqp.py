"""DAQP, a dual active-set method for small dense programs: exact to rounding, a few microseconds at n = 10.

    DAQP:  min 1/2 x'Hx + f'x   s.t.  blower <= Ax <= bupper,   Hx + f + A'lam = 0,  lam >= 0 at bupper
    dcl:   Ax + s = b           H = P, f = q, bupper = b; blower = b on zero rows (sense 5), -inf on the others; z = lam

Bounds from 1e30 on are infinite.  Exit flags of 0.11 [run]: 1 optimal, 2 soft optimal (no soft rows here),
-1 infeasible, -2 cycling, -3 unbounded, -4 iteration limit, -5 not convex, -6 overdetermined, -7 time limit.
After most failures x and lam are uninitialized memory [run]: they are read on success only.
DAQP writes to none of its arguments [run], though it insists on writable arrays.

Tolerances [run, 600 degenerate, half of them singular programs, n 5 to 50]: with primal_tol 1e-7, 1e-8, 1e-9, 1e-10
DAQP gave up on 4, 28, 80 and 199 of them, some with a false claim of infeasibility, while regular ones come out at
1e-12 with any.  Rows violated by less are left to dcl's polish.  LPs and singular P go through DAQP's proximal
iterations; their tolerance (eta_prox, 1e-6 in DAQP) is what limits an LP's accuracy: at 1e-9 all of 400 LPs ended below
4e-13, at no cost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dcl.solvers.base import AbstractSolver, Array, Claim, HostProgram, Iterates, check_options
from dcl.solvers.convert import dense, vectors, writable

_EPS = 1e-7
_MAX_ITERS = 10_000
_ETA_PROX = 1e-9
_CYCLES = 100  # DAQP's cycle_tol: repeats without progress before it gives up; 10 gives up on twice as many
_INFINITY = 1e30
_EQUALITY = 5

_CLAIMS = {
    1: Claim.SOLVED,
    -1: Claim.PRIMAL_INFEASIBLE,
    -3: Claim.DUAL_INFEASIBLE,
    -4: Claim.MAX_ITERATIONS,
    -7: Claim.TIME_LIMIT,
}


@dataclass(frozen=True, kw_only=True)
class Daqp(AbstractSolver):
    """DAQP. eps is the violation of a row that it tolerates (primal_tol); it has no output for `verbose` to show.

    dual_tol: sign violation of a multiplier that it tolerates (1e-12).

    Example:
        >>> import torch, dcl
        >>> layer = dcl.QPLayer(dcl.solvers.Daqp(max_iters=500))
        >>> layer(torch.eye(2), torch.tensor([-1.0, 3.0]), lb=0.0, ub=1.0).x.round(decimals=6) + 0.0
        tensor([1., 0.])
    """

    dual_tol: float | None = None

    name: ClassVar[str] = "DAQP"
    package: ClassVar[str] = "daqp"
    releases_gil: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = True
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
        import daqp

        rows = list(rows)
        n, m, zeros = program.n, program.m, program.zeros
        Ps = dense(program.P, program.P_index, (n, n), rows)
        As = dense(program.A, program.A_index, (m, n), rows)
        qs = vectors(writable(program.q), rows)
        upper = writable(program.b)
        lower = upper.copy()
        lower[:, zeros:] = -_INFINITY
        sense = np.zeros(m, dtype=np.int32)
        sense[:zeros] = _EQUALITY

        settings: dict[str, float | int] = {
            "primal_tol": _EPS if self.eps is None else self.eps,
            "eta_prox": _ETA_PROX if self.eps is None else min(_ETA_PROX, self.eps),
            "iter_limit": _MAX_ITERS if self.max_iters is None else self.max_iters,
            "cycle_tol": _CYCLES,
        }
        if self.dual_tol is not None:
            settings["dual_tol"] = self.dual_tol
        if self.time_limit is not None:
            settings["time_limit"] = self.time_limit

        for i, P, q, A, b, b_low in zip(rows, Ps, qs, As, vectors(upper, rows), vectors(lower, rows), strict=False):
            if stop is not None and stop.is_set():
                return
            guess = {} if start is None else _guess(start.x[i], start.z[i])
            began = time.perf_counter()
            x, _, flag, info = daqp.solve(P, q, A, b, b_low, sense, **settings, **guess)
            out.seconds[i] = time.perf_counter() - began
            out.claim[i] = _CLAIMS.get(flag, Claim.FAILED)
            out.iterations[i] = info["iterations"]
            if flag == 1:
                out.x[i] = x
                out.z[i] = info["lam"]


def _guess(x: Array, z: Array) -> dict[str, Array]:
    """Arguments of a warm start from (x, z), none where it is not a point."""
    if not (np.isfinite(x).all() and np.isfinite(z).all()):
        return {}
    return {"primal_start": writable(x), "dual_start": writable(z)}

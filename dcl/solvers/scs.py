"""SCS, an operator-splitting method (ADMM on a homogeneous embedding): every cone, a quadratic objective, certificates.

    SCS:  min 1/2 x'Px + c'x   s.t.  Ax + s = b,  s in K     dual y in K*: the form and the signs of dcl itself

P goes in by its upper triangle.  The order of the cones is that of dcl; semidefinite cones are taken by the lower triangle
(`lower_order`, a permutation of rows).  SCS refuses a program without rows: one row
0'x + s = 1 is added there.  On infeasibility SCS leaves the certificate in y (primal) or x (dual).
The *_INACCURATE statuses are what it has at a limit; a claim of infeasibility is kept, for dcl checks it.

SCS converges slowly: at 1e-9 some thousands of iterations.  dcl polishes what it finds, so the default limit is low.
It takes SIGINT while it solves (`dcl.solvers.interrupt`): solves take turns, `releases_gil` is False.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from dcl.solvers.base import ALL_CONES, AbstractSolver, Array, Claim, HostProgram, Iterates, check_options
from dcl.solvers.convert import by_columns, lower_order, vectors, writable
from dcl.solvers.interrupt import interrupted, turn

_EPS = 1e-9
_MAX_ITERS = 20_000


@cache
def _claims() -> dict[Any, Claim]:
    """What SCS's statuses claim."""
    import scs

    return {
        scs.SOLVED: Claim.SOLVED,
        scs.SOLVED_INACCURATE: Claim.MAX_ITERATIONS,
        scs.INFEASIBLE: Claim.PRIMAL_INFEASIBLE,
        scs.INFEASIBLE_INACCURATE: Claim.PRIMAL_INFEASIBLE,
        scs.UNBOUNDED: Claim.DUAL_INFEASIBLE,
        scs.UNBOUNDED_INACCURATE: Claim.DUAL_INFEASIBLE,
    }


@dataclass(frozen=True, kw_only=True)
class Scs(AbstractSolver):
    """SCS. eps is its eps_abs and eps_rel.

    Example:
        >>> import torch, dcl
        >>> layer = dcl.QPLayer(dcl.solvers.Scs(eps=1e-9))
        >>> layer(torch.eye(2), torch.tensor([-1.0, 3.0]), lb=0.0, ub=1.0).x.round(decimals=6) + 0.0
        tensor([1., 0.])
    """

    name: ClassVar[str] = "SCS"
    package: ClassVar[str] = "scs"
    cones: ClassVar[frozenset[str]] = ALL_CONES
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
        import scs

        rows, claims = list(rows), _claims()
        n, m = program.n, program.m
        order = lower_order(program)
        Ps = by_columns(program.P, program.P_index, (n, n), rows, upper=True)
        added = int(m == 0)
        As = by_columns(program.A, program.A_index, (m + added, n), rows, order=order)
        bs = np.pad(program.b[:, order], ((0, 0), (0, added)), constant_values=1.0)
        cones = _cones(program, added)
        settings = self._settings()

        data = zip(rows, Ps, vectors(program.q, rows), As, vectors(bs, rows), strict=False)
        for i, P, q, A, b in data:
            if stop is not None and stop.is_set():
                return
            began = time.perf_counter()
            with turn():
                try:
                    solver = scs.SCS({"P": P, "A": A, "b": writable(b), "c": writable(q)}, cones, **settings)
                except ValueError:  # numbers out of range: the claim stays FAILED
                    continue
                result = solver.solve(True, **_start(start, i, A, b, order))
            out.seconds[i] = time.perf_counter() - began

            status = int(result["info"]["status_val"])
            if status == scs.SIGINT:
                interrupted()
            iterations = int(result["info"]["iter"])
            claim = claims.get(status, Claim.FAILED)
            if claim == Claim.MAX_ITERATIONS and self.time_limit is not None and iterations < settings["max_iters"]:
                claim = Claim.TIME_LIMIT
            out.claim[i] = claim
            out.iterations[i] = iterations
            if claim not in (Claim.PRIMAL_INFEASIBLE, Claim.FAILED):
                out.x[i] = result["x"]
            if claim not in (Claim.DUAL_INFEASIBLE, Claim.FAILED):
                out.z[i, order] = result["y"][:m]

    def _settings(self) -> dict[str, Any]:
        """SCS's settings for these options."""
        eps = _EPS if self.eps is None else self.eps
        settings: dict[str, Any] = {
            "eps_abs": eps,
            "eps_rel": eps,
            "eps_infeas": min(eps, _EPS),
            "max_iters": _MAX_ITERS if self.max_iters is None else self.max_iters,
            "verbose": self.verbose,
            "linear_solver": "qdldl",
        }
        if self.time_limit is not None:
            settings["time_limit_secs"] = self.time_limit
        return settings


def _cones(program: HostProgram, added: int) -> dict[str, Any]:
    """SCS's dict for the cones of a program, and `added` nonnegative rows."""
    sizes = {
        kind: [block.size for block in program.cones if block.kind == kind for _ in range(block.count)]
        for kind in ("second_order", "semidefinite", "exponential")
    }
    return {
        "z": program.zeros,
        "l": program.nonnegatives + added,
        "q": sizes["second_order"],
        "s": sizes["semidefinite"],
        "ep": len(sizes["exponential"]),
        "p": [alpha for block in program.cones for alpha in block.alphas],
    }


def _start(start: Iterates | None, i: int, A: Any, b: Array, order: np.ndarray) -> dict[str, Array]:
    """The point to start from, in SCS's order of rows; nothing where there is none."""
    if start is None or not (np.isfinite(start.x[i]).all() and np.isfinite(start.z[i]).all()):
        return {}
    x = start.x[i]
    y = np.pad(start.z[i][order], (0, len(b) - len(order)))
    return {"x": writable(x), "y": y, "s": b - A @ x}

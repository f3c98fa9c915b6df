"""The one seam of solvers, at the level of a batch: programs in, points or claims out. Nothing said here is taken on trust.

    solve(program, rows, start) -> Found           R instances `rows` of the B in `program`

Everything in `dcl.solve` that needs a solver asks here: the pipeline, certificates, vertices, attainment.  A point is x and z;
dcl measures it as v = z - (b - Ax), which is z - s if the solver's own slack fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl.point import Point
from dcl.program import ConeProgram
from dcl.solvers.base import AbstractSolver, Claim, Iterates
from dcl.solvers.host import to_host
from dcl.solvers.pool import run

_INFEASIBLE = (Claim.PRIMAL_INFEASIBLE, Claim.DUAL_INFEASIBLE)


@dataclass(frozen=True, eq=False)
class Found:
    """What a solver says of R instances, `program` being those.

    x (R, n), z (R, m): a point, or the certificate of a claim as `dcl.solvers.base.Iterates` has it; NaN where there is none.
    claim (R,): `Claim` as integers.  iterations, seconds (R,): effort.
    """

    program: ConeProgram
    x: Tensor
    z: Tensor
    claim: NDArray[np.int8]
    iterations: NDArray[np.int64]
    seconds: NDArray[np.float64]

    @property
    def has_point(self) -> NDArray[np.bool_]:
        """(R,): instances with a finite point, SOLVED or not."""
        finite = torch.isfinite(self.x).all(-1) & torch.isfinite(self.z).all(-1)
        there: NDArray[np.bool_] = finite.cpu().numpy() & ~np.isin(self.claim, _INFEASIBLE)
        return there

    @property
    def is_solved(self) -> NDArray[np.bool_]:
        """(R,): instances with a finite point that is claimed to be the solution."""
        there: NDArray[np.bool_] = self.has_point & (self.claim == Claim.SOLVED)
        return there

    def points(self, places: NDArray[Any] | None = None) -> Point:
        """The points of the instances at these places (positions among the R); None for all of them."""
        program, x, z = self.program, self.x, self.z
        if places is not None and len(places) < len(self.claim):
            index = torch.from_numpy(places).to(x.device)
            program, x, z = program.rows(index), x[index], z[index]
        return Point(program, x, z - (program.b - program.Ax(x)))


@dataclass(frozen=True)
class Backend:
    """`solver`, in NumPy on the host, on at most `threads` instances at a time; None for as many as torch uses."""

    solver: AbstractSolver
    threads: int | None = None

    @property
    def gives_certificates(self) -> bool:
        """Do claims of infeasibility come with a certificate?"""
        return self.solver.gives_certificates

    @property
    def is_limited(self) -> bool:
        """Did the caller set a limit, so that what stops there stays there?"""
        return self.solver.max_iters is not None or self.solver.time_limit is not None

    def at_own_tolerance(self) -> Backend:
        """The same with dcl's tolerance in place of the caller's; equal to itself where he set none."""
        return replace(self, solver=self.solver.at_own_tolerance())

    def solve(
        self, program: ConeProgram, rows: Sequence[int] | NDArray[Any] | None = None, start: Iterates | None = None
    ) -> Found:
        """Solve the instances `rows` (ascending) of the program, None for all of them. start: of the whole batch.

        Law: what is found for an instance is the same whatever other `rows` are asked for.
        """
        batch, device = program.batch, program.q.device
        rows = np.arange(batch) if rows is None else np.asarray(rows)
        host = to_host(program)
        out = Iterates.empty(batch, host.n, host.m)
        run(self.solver, host, rows, out, start=start if self.solver.warm_starts else None, threads=self.threads)
        is_all = len(rows) == batch

        def there(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array if is_all else array[rows]).to(device)

        part = program if is_all else program.rows(torch.from_numpy(rows).to(device))
        return Found(part, there(out.x), there(out.z), out.claim[rows], out.iterations[rows], out.seconds[rows])

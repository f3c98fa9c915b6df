"""From a program to a checked answer: solver, check, polish, and the next solver for the instances that failed.

The order is: run a solver on the pending instances; take its point as v = z - (b - Ax); polish; accept what passes the
check of `dcl.point.truth` at 1e-8 (what the first solver leaves above 1e-11 gets a second opinion).  A claim of infeasibility is
accepted only with a certificate that passes.  Everything else goes to the next solver.  A limit (max_iters, time_limit)
that the caller set is respected: what stops at it stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl.cones.base import Barrier, barrier_at
from dcl.point import OPTIMAL_TOLERANCE, Point, worst
from dcl.point.basis import basic_multipliers
from dcl.point.truth import (
    INACCURATE_TOLERANCE,
    PATH_TOLERANCE,
    ROUNDED,
    dual_infeasible,
    primal_infeasible,
)
from dcl.program import ConeProgram
from dcl.solve.attainment import Seen, judged
from dcl.solve.path import follow
from dcl.solve.polish import polish
from dcl.solve.rescue import order_of, proof_of, vertex_near
from dcl.solvers.base import AbstractSolver, Claim, Iterates
from dcl.solvers.choose import after_claims
from dcl.solvers.host import to_host
from dcl.solvers.pool import run
from dcl.status import Status

_LIMITS = {int(Claim.MAX_ITERATIONS): Status.MAX_ITERATIONS, int(Claim.TIME_LIMIT): Status.TIME_LIMIT}

# The part of a null vector of the multipliers in a row, squared, that is one.
_PART = 1e-9


@dataclass(frozen=True, eq=False)
class Answer:
    """What came out, per instance.

    point: the best found, finite.  status (B,): `dcl.Status` as integers.  residuals (B, 3): primal, dual, gap, by which it
    was judged.  iterations, seconds, solver (B,): totals, and the position in `solvers` of the one whose point this is.
    certificate (B, n + m): x part for DUAL_INFEASIBLE, z part for PRIMAL_INFEASIBLE, else NaN; None if nothing failed.
    """

    point: Point
    status: Tensor
    residuals: Tensor
    iterations: Tensor
    seconds: Tensor
    solver: Tensor
    certificate: Tensor | None


def answer(
    program: ConeProgram,
    mu: Barrier,
    solvers: Sequence[AbstractSolver],
    start: Iterates | None = None,
    threads: int | None = None,
    seen: Seen = None,
) -> Answer:
    """Solve every instance with the first of `solvers` whose answer passes the check.

    seen: what the caller sees of x (B, n).
    """
    host = to_host(program)
    device, batch = program.q.device, program.batch
    x = torch.zeros(batch, host.n, dtype=torch.float64, device=device)
    best = Point(program, x, torch.zeros(batch, host.m, dtype=torch.float64, device=device))
    residuals = torch.full((batch, 3), torch.inf, dtype=torch.float64, device=device)
    status = np.full(batch, int(Status.NUMERICAL_ERROR), dtype=np.int64)
    used = np.zeros(batch, dtype=np.int64)
    iterations, seconds = np.zeros(batch, dtype=np.int64), np.zeros(batch)
    order = torch.full((batch,), torch.inf, dtype=torch.float64, device=device)
    certificate: Tensor | None = None
    pending = np.arange(batch)
    position, rest = {solver: k for k, solver in enumerate(solvers)}, tuple(solvers)
    own = solvers[0].at_own_tolerance()
    if own not in position:
        # the caller's tolerance may be too loose for polishing: the same solver again, before others
        position[own], rest = 0, (solvers[0], own, *solvers[1:])
    while rest and pending.size:
        solver, rest = rest[0], rest[1:]
        k = position[solver]
        out = Iterates.empty(batch, host.n, host.m)
        run(solver, host, pending, out, start=start if solver.warm_starts else None, threads=threads)
        iterations[pending] += out.iterations[pending]
        seconds[pending] += out.seconds[pending]

        claim = out.claim[pending]
        is_point = (claim != Claim.PRIMAL_INFEASIBLE) & (claim != Claim.DUAL_INFEASIBLE)
        is_point &= np.isfinite(out.x[pending]).all(1) & np.isfinite(out.z[pending]).all(1)
        points = pending[is_point]
        if points.size:
            is_all = points.size == batch
            index = torch.from_numpy(points).to(device)
            part = program if is_all else program.rows(index)
            x_k, z_k = _take(out.x, points, device), _take(out.z, points, device)
            found = polish(Point(part, x_k, z_k - (part.b - part.Ax(x_k))))
            if not (solver.gives_basic_duals or host.cones):
                found = _basic(found)
            measured = judged(found, solver.time_limit, seen)
            place = order_of(found, measured)
            if is_all and solver is solvers[0]:
                best, residuals = found, measured
            else:
                better = place < order[index]
                best = best.with_rows(index, found.where(better, best.rows(index)))
                residuals[index] = torch.where(better.unsqueeze(-1), measured, residuals[index])
                used[points[better.cpu().numpy()]] = k
            order[index] = torch.minimum(order[index], place)
        quality = worst(residuals).cpu().numpy()
        # a point that polishing left above ROUNDED may sit on a wrong active set: one more solver is asked
        accepted = OPTIMAL_TOLERANCE if k > 0 or not rest else ROUNDED
        status[pending[quality[pending] <= accepted]] = int(Status.OPTIMAL)
        limited = solver.max_iters is not None or solver.time_limit is not None
        for j in np.flatnonzero((claim != Claim.SOLVED) & (status[pending] != Status.OPTIMAL)):
            i, said = pending[j], claim[j]
            if said in _LIMITS and limited:
                status[i] = int(_LIMITS[int(said)])
            elif said in (Claim.PRIMAL_INFEASIBLE, Claim.DUAL_INFEASIBLE):
                proof = _proof(program, int(i), int(said), out)
                if proof is not None:
                    certificate = _no_certificates(program, batch) if certificate is None else certificate
                    status[i], certificate[i], used[i] = int(proof[0]), proof[1], k
        pending = np.flatnonzero(status == int(Status.NUMERICAL_ERROR))
        if pending.size:
            rest = after_claims(rest, out.claim[pending])
    for i in pending[quality[pending] > OPTIMAL_TOLERANCE]:
        index = torch.tensor([i], device=device)
        proof = proof_of(program, int(i), solvers)
        near = None if proof is not None or len(solvers) == 1 else vertex_near(best.rows(index), solvers)
        if proof is not None:
            certificate = _no_certificates(program, batch) if certificate is None else certificate
            status[i], certificate[i] = int(proof[0]), proof[1]
        elif near is not None:
            best, residuals[i], status[i] = best.with_rows(index, near[0]), near[1][0], int(Status.OPTIMAL)
    pending = np.flatnonzero(status == int(Status.NUMERICAL_ERROR))
    if pending.size:
        status[pending[quality[pending] <= INACCURATE_TOLERANCE]] = int(Status.INACCURATE)
        status[pending[quality[pending] <= OPTIMAL_TOLERANCE]] = int(Status.OPTIMAL)
    if isinstance(mu, Tensor):
        best, residuals = _on_path(best, residuals, mu, status)

    def to(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Answer(best, to(status), residuals, to(iterations), to(seconds), to(used), certificate)


def _basic(point: Point) -> Point:
    """The same points with basic multipliers where active inequalities depend on other active rows (`dcl.point.basis`)."""
    program, zeros = point.program, point.program.structure.cone.zeros
    if not bool((point.kkt.conditioning.null_y > 0).any()):
        return point
    # multipliers of equalities alone are of either sign: they have no basis to be chosen
    index = torch.nonzero((point.kkt.dependence[:, zeros:] > _PART).any(-1)).flatten()
    if not index.numel():
        return point
    some = point.rows(index)
    v = torch.stack(
        [basic_multipliers(program.rows(index[[k]]), some.x[k], some.v[k], zeros) for k in range(index.numel())]
    )
    changed = torch.nonzero((v != some.v).any(-1)).flatten()
    if not changed.numel():
        return point
    index, some = index[changed], some.rows(changed)
    reduced = polish(Point(some.program, some.x, v[changed]))
    good = worst(reduced.residuals) <= worst(some.residuals).clamp(min=OPTIMAL_TOLERANCE)
    return point.with_rows(index, reduced.where(good, some))


def _take(array: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array if rows.size == len(array) else array[rows]).to(device)


def _on_path(exact: Point, residuals: Tensor, mu: Tensor, status: NDArray[np.int64]) -> tuple[Point, Tensor]:
    """The points x(mu) of the instances that have an exact one, and residuals; `status` tells where there is no x(mu)."""
    point = Point(exact.program, exact.x, exact.v, mu)
    solved = torch.from_numpy(np.flatnonzero(status == int(Status.OPTIMAL))).to(exact.x.device)
    if solved.numel():
        found = follow(exact.rows(solved), barrier_at(mu, solved))
        point, residuals = point.with_rows(solved, found), residuals.index_copy(0, solved, found.residuals)
    off = worst(residuals).cpu().numpy() > PATH_TOLERANCE
    status[off & (status == int(Status.OPTIMAL))] = int(Status.NUMERICAL_ERROR)
    return point, residuals


def _no_certificates(program: ConeProgram, batch: int) -> Tensor:
    """Certificates (B, n + m) of which none is known."""
    return program.q.new_full((batch, program.structure.n + program.structure.m), torch.nan)


def _proof(program: ConeProgram, i: int, claim: int, out: Iterates) -> tuple[Status, Tensor] | None:
    """The status and certificate (n + m,) of instance i if what the solver left in `out` proves its claim."""
    one = program.rows(torch.tensor([i], device=program.q.device)).detach()
    x, z = (_take(a, np.array([i]), program.q.device).reshape(1, -1) for a in (out.x[[i]], out.z[[i]]))
    if claim == Claim.PRIMAL_INFEASIBLE:
        holds, z = primal_infeasible(one, z)
        status, proof = Status.PRIMAL_INFEASIBLE, torch.cat([torch.full_like(x, torch.nan), z], -1)
    else:
        holds, x = dual_infeasible(one, x)
        status, proof = Status.DUAL_INFEASIBLE, torch.cat([x, torch.full_like(z, torch.nan)], -1)
    return (status, proof[0]) if bool(holds) else None

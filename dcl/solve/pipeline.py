"""From a program to a checked answer: solve, check, polish, and the next backend for the instances that failed.

The order is: ask a backend for the pending instances; take its point as v = z - (b - Ax); polish; accept what passes the
check of `dcl.point.truth` at 1e-8 (what the first one leaves above 1e-11 gets a second opinion).  A claim of infeasibility is
accepted only with a certificate that passes.  Everything else goes to the next backend.  A limit (max_iters, time_limit)
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
from dcl.cones.by_rows import exact_instances
from dcl.point import OPTIMAL_TOLERANCE, Point, worst
from dcl.point.basis import basic_multipliers
from dcl.point.truth import INACCURATE_TOLERANCE, PATH_TOLERANCE, ROUNDED
from dcl.program import ConeProgram
from dcl.solve.attainment import Seen, judged
from dcl.solve.backend import Backend
from dcl.solve.path import follow
from dcl.solve.polish import LARGE, polish
from dcl.solve.proof import claimed, none_of, searched
from dcl.solve.rescue import order_of, vertex_near
from dcl.solvers.base import Claim, Iterates
from dcl.solvers.choose import after_claims, centering
from dcl.status import Status

_LIMITS = {int(Claim.MAX_ITERATIONS): Status.MAX_ITERATIONS, int(Claim.TIME_LIMIT): Status.TIME_LIMIT}

# The part of a null vector of the multipliers in a row, squared, that is one.
_PART = 1e-9


@dataclass(frozen=True, eq=False)
class Answer:
    """What came out, per instance.

    point: the best found, finite.  status (B,): `dcl.Status` as integers.  residuals (B, 3): primal, dual, gap, by which it
    was judged.  iterations, seconds, solver (B,): totals, and the position in `backends` of the one whose point this is.
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
    backends: Sequence[Backend],
    start: Iterates | None = None,
    seen: Seen = None,
) -> Answer:
    """Solve every instance with the first of `backends` whose answer passes the check.

    seen: what the caller sees of x (B, n).
    """
    structure, device, batch = program.structure, program.q.device, program.batch
    x = torch.zeros(batch, structure.n, dtype=torch.float64, device=device)
    best = Point(program, x, torch.zeros(batch, structure.m, dtype=torch.float64, device=device))
    residuals = torch.full((batch, 3), torch.inf, dtype=torch.float64, device=device)
    status = np.full(batch, int(Status.NUMERICAL_ERROR), dtype=np.int64)
    used = np.zeros(batch, dtype=np.int64)
    iterations, seconds = np.zeros(batch, dtype=np.int64), np.zeros(batch)
    order = torch.full((batch,), torch.inf, dtype=torch.float64, device=device)
    certificate: Tensor | None = None
    curved_and_large = not structure.cone.is_orthant and structure.n + structure.m > LARGE
    pending = np.arange(batch)
    position, rest = {backend: k for k, backend in enumerate(backends)}, tuple(backends)
    own = backends[0].at_own_tolerance()
    if own not in position:
        # the caller's tolerance may be too loose for polishing: the same backend again, before others
        position[own], rest = 0, (backends[0], own, *backends[1:])
    while rest and pending.size:
        backend, rest = rest[0], rest[1:]
        k = position[backend]
        asked, found = pending, backend.solve(program, pending, start)
        iterations[pending] += found.iterations
        seconds[pending] += found.seconds

        claim, places = found.claim, np.flatnonzero(found.has_point)
        points = pending[places]
        if points.size:
            index = torch.from_numpy(points).to(device)
            new = polish(found.points(places))
            if structure.cone.is_orthant and not backend.solver.gives_basic_duals:
                new = _basic(new)
            measured = judged(new, backend.solver.time_limit, seen)
            place = order_of(new, measured)
            if points.size == batch and backend is backends[0]:
                best, residuals = new, measured
            else:
                better = place < order[index]
                best = best.with_rows(index, new.where(better, best.rows(index)))
                residuals[index] = torch.where(better.unsqueeze(-1), measured, residuals[index])
                used[points[better.cpu().numpy()]] = k
            order[index] = torch.minimum(order[index], place)
        quality = worst(residuals).cpu().numpy()
        # a point that polishing left above ROUNDED may sit on a wrong active set: one more solver is asked, but not a first-order
        # method about a large program with curved cones, where it takes minutes and comes less near
        accepted = ROUNDED if k == 0 and rest and not curved_and_large else OPTIMAL_TOLERANCE
        status[pending[quality[pending] <= accepted]] = int(Status.OPTIMAL)
        for j in np.flatnonzero((claim != Claim.SOLVED) & (status[pending] != Status.OPTIMAL)):
            i, said = pending[j], claim[j]
            if said in _LIMITS and backend.is_limited:
                status[i] = int(_LIMITS[int(said)])
            elif said in (Claim.PRIMAL_INFEASIBLE, Claim.DUAL_INFEASIBLE):
                proof = claimed(_one(program, i), int(said), found.x[j : j + 1], found.z[j : j + 1])
                if proof is not None:
                    certificate = none_of(program) if certificate is None else certificate
                    status[i], certificate[i], used[i] = int(proof.status), proof.certificate, k
        pending = np.flatnonzero(status == int(Status.NUMERICAL_ERROR))
        if pending.size:
            rest = after_claims(rest, claim[status[asked] == int(Status.NUMERICAL_ERROR)])
    limit = backends[0].solver.time_limit
    for i in pending[quality[pending] > OPTIMAL_TOLERANCE]:
        index = torch.tensor([i], device=device)
        proof = searched(_one(program, i), centering(None, limit))
        near = None if proof is not None or len(backends) == 1 else vertex_near(best.rows(index), limit)
        if proof is not None:
            certificate = none_of(program) if certificate is None else certificate
            status[i], certificate[i] = int(proof.status), proof.certificate
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


def _one(program: ConeProgram, i: int) -> ConeProgram:
    """The program of instance i, outside of any graph."""
    return program.rows(torch.tensor([i], device=program.q.device)).detach()


def _on_path(exact: Point, residuals: Tensor, mu: Tensor, status: NDArray[np.int64]) -> tuple[Point, Tensor]:
    """The points x(mu) of the instances that have an exact one, and residuals; `status` tells where there is no x(mu).

    Where mu is zero the exact point stays.
    """
    point = Point(exact.program, exact.x, exact.v, mu)
    zero = exact_instances(mu, exact.x.shape[0])
    on_path = np.ones(exact.x.shape[0], dtype=bool) if zero is None else ~zero.cpu().numpy()
    solved = torch.from_numpy(np.flatnonzero(on_path & (status == int(Status.OPTIMAL)))).to(exact.x.device)
    if solved.numel():
        found = follow(exact.rows(solved), barrier_at(mu, solved))
        point, residuals = point.with_rows(solved, found), residuals.index_copy(0, solved, found.residuals)
    off = on_path & (worst(residuals).cpu().numpy() > PATH_TOLERANCE)
    status[off & (status == int(Status.OPTIMAL))] = int(Status.NUMERICAL_ERROR)
    return point, residuals

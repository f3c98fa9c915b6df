"""From a program to a checked answer: solver, check, polish, and the next solver for the instances that failed.

The order is: run a solver on the pending instances; take its point as v = z - (b - Ax); polish; accept what passes the
check of `dcl.truth` at 1e-8 (what the first solver leaves above 1e-11 gets a second opinion).  A claim of infeasibility is
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

from dcl.attainment import judged
from dcl.basis import basic_multipliers
from dcl.cones.base import Barrier, barrier_at
from dcl.kkt import KKT, factorize
from dcl.path import follow
from dcl.polish import Polished, polish
from dcl.program import ConeProgram
from dcl.rescue import order_of, proof_of, vertex_near
from dcl.solvers.base import AbstractSolver, Claim, Iterates
from dcl.solvers.choose import after_claims
from dcl.solvers.host import to_host
from dcl.solvers.pool import run
from dcl.status import Status
from dcl.ties import kinks
from dcl.truth import (
    INACCURATE_TOLERANCE,
    OPTIMAL_TOLERANCE,
    PATH_TOLERANCE,
    ROUNDED,
    dual_infeasible,
    primal_infeasible,
    worst,
)

_LIMITS = {int(Claim.MAX_ITERATIONS): Status.MAX_ITERATIONS, int(Claim.TIME_LIMIT): Status.TIME_LIMIT}


@dataclass(frozen=True, eq=False)
class Answer:
    """What came out, per instance.

    x (B, n), v (B, m): the best point found, finite.  status (B,): `dcl.Status` as integers.  residuals (B, 3): primal,
    dual, gap.  iterations, seconds, solver (B,): totals, and the position in `solvers` of the one whose point this is.
    certificate (B, n + m): x part for DUAL_INFEASIBLE, z part for PRIMAL_INFEASIBLE, else NaN; None if nothing failed.
    kkt: K factored at v, where polishing left it.
    """

    x: Tensor
    v: Tensor
    status: Tensor
    residuals: Tensor
    iterations: Tensor
    seconds: Tensor
    solver: Tensor
    certificate: Tensor | None
    kkt: KKT | None


def answer(
    program: ConeProgram,
    mu: Barrier,
    solvers: Sequence[AbstractSolver],
    start: Iterates | None = None,
    threads: int | None = None,
    wanted: Tensor | None = None,
) -> Answer:
    """Solve every instance with the first of `solvers` whose answer passes the check.

    wanted: the entries of x (n,) that the caller asked for, None for all.
    """
    host = to_host(program)
    device, batch = program.q.device, program.batch
    x = torch.zeros(batch, host.n, dtype=torch.float64, device=device)
    v = torch.zeros(batch, host.m, dtype=torch.float64, device=device)
    residuals = torch.full((batch, 3), torch.inf, dtype=torch.float64, device=device)
    status = np.full(batch, int(Status.NUMERICAL_ERROR), dtype=np.int64)
    used = np.zeros(batch, dtype=np.int64)
    iterations, seconds = np.zeros(batch, dtype=np.int64), np.zeros(batch)
    order = torch.full((batch,), torch.inf, dtype=torch.float64, device=device)
    certificate: Tensor | None = None
    kkt: KKT | None = None
    pending = np.arange(batch)
    position, rest = {solver: k for k, solver in enumerate(solvers)}, tuple(solvers)
    own = solvers[0].at_own_tolerance()
    if (
        own not in position
    ):  # the caller's tolerance may be too loose for polishing: the same solver again, before others
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
            everything = points.size == batch
            index = torch.from_numpy(points).to(device)
            part = program if everything else program.rows(index)
            x_k, z_k = _take(out.x, points, device), _take(out.z, points, device)
            polished = polish(part, x_k, z_k - (part.b - part.Ax(x_k)))
            if not (solver.gives_basic_duals or host.cones):
                polished = _basic(part, polished, host.zeros)
            measured = judged(part, polished, solver.time_limit, wanted)
            if everything and solver is solvers[0]:
                x, v, residuals, kkt = polished.x, polished.v, measured, polished.kkt
            else:
                better = (order_of(part, polished, measured) < order[index]).unsqueeze(-1)
                x[index] = torch.where(better, polished.x, x[index])
                v[index] = torch.where(better, polished.v, v[index])
                residuals[index] = torch.where(better, measured, residuals[index])
                used[points[better.squeeze(-1).cpu().numpy()]] = k
                kkt = None
            order[index] = torch.minimum(order[index], order_of(part, polished, measured))
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
        proof = proof_of(program, int(i), solvers)
        found = None if proof is not None or len(solvers) == 1 else vertex_near(program, int(i), x[[i]], solvers)
        if proof is not None:
            certificate = _no_certificates(program, batch) if certificate is None else certificate
            status[i], certificate[i] = int(proof[0]), proof[1]
        elif found is not None:
            x[i], v[i], residuals[i] = found
            status[i], kkt = int(Status.OPTIMAL), None
    pending = np.flatnonzero(status == int(Status.NUMERICAL_ERROR))
    if pending.size:
        status[pending[quality[pending] <= INACCURATE_TOLERANCE]] = int(Status.INACCURATE)
        status[pending[quality[pending] <= OPTIMAL_TOLERANCE]] = int(Status.OPTIMAL)
    if isinstance(mu, Tensor):
        x, v, residuals, kkt = _on_path(program, x, v, residuals, mu, status)

    def to(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Answer(x, v, to(status), residuals, to(iterations), to(seconds), to(used), certificate, kkt)


def _basic(program: ConeProgram, polished: Polished, zeros: int) -> Polished:
    """The same points with basic multipliers where the active rows are dependent (`dcl.basis`)."""
    dependent = polished.kkt.conditioning.null_y > 0
    if not bool(dependent.any()):
        return polished
    x, v, residuals = polished.x.clone(), polished.v.clone(), polished.residuals.clone()
    for i in torch.nonzero(dependent).flatten().tolist():
        one = program.rows(torch.tensor([i], device=x.device))
        reduced = polish(one, x[[i]], basic_multipliers(one, x[i], v[i], zeros).unsqueeze(0))
        if float(worst(reduced.residuals)) <= max(OPTIMAL_TOLERANCE, float(worst(residuals[[i]]))):
            x[i], v[i], residuals[i] = reduced.x[0], reduced.v[0], reduced.residuals[0]
    return Polished(x, v, residuals, factorize(program, v, 0.0, kinks(program, v, 0.0, x)))


def _take(array: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array if rows.size == len(array) else array[rows]).to(device)


def _on_path(
    program: ConeProgram, x: Tensor, v: Tensor, residuals: Tensor, mu: Tensor, status: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor, KKT | None]:
    """x, v, residuals and K at x(mu), from the exact points of the instances that have one; `status` tells where it fails."""
    solved = np.flatnonzero(status == int(Status.OPTIMAL))
    if solved.size == status.size:
        polished = follow(program, x, v, mu)
        x, v, residuals, kkt = polished.x, polished.v, polished.residuals, polished.kkt
    else:
        kkt = None
        if solved.size:
            index = torch.from_numpy(solved).to(x.device)
            polished = follow(program.rows(index), x[index], v[index], barrier_at(mu, index))
            x, v = x.index_copy(0, index, polished.x), v.index_copy(0, index, polished.v)
            residuals = residuals.index_copy(0, index, polished.residuals)
    off = worst(residuals).cpu().numpy() > PATH_TOLERANCE
    status[off & (status == int(Status.OPTIMAL))] = int(Status.NUMERICAL_ERROR)
    return x, v, residuals, kkt


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

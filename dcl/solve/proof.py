"""Proofs that a program has no solution: a solver's own certificate, or one that was searched for (`dcl.solve.certificates`).

In both cases it has passed the check of `dcl.point.truth`, and is handed on as one vector (n + m,): z in its last m entries where
the program is primal infeasible, x in its first n where it is dual infeasible, NaN in the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.point.truth import dual_infeasible, primal_infeasible
from dcl.program import ConeProgram
from dcl.solve.certificates import direction, multipliers
from dcl.solvers.base import AbstractSolver, Claim
from dcl.status import Status


@dataclass(frozen=True, eq=False)
class Proof:
    """PRIMAL_INFEASIBLE or DUAL_INFEASIBLE, and the certificate (n + m,)."""

    status: Status
    certificate: Tensor


def claimed(one: ConeProgram, claim: int, x: Tensor, z: Tensor) -> Proof | None:
    """The proof if x (1, n) or z (1, m), whichever the claim is about, is a certificate for a program of one instance."""
    if claim == Claim.PRIMAL_INFEASIBLE:
        holds, z = primal_infeasible(one, z)
        return _primal(one, z[0]) if bool(holds) else None
    holds, x = dual_infeasible(one, x)
    return _dual(one, x[0]) if bool(holds) else None


def searched(one: ConeProgram, solver: AbstractSolver) -> Proof | None:
    """The proof if `solver` finds a certificate for a program of one instance."""
    z = multipliers(one, solver)
    if z is not None:
        return _primal(one, z)
    x = direction(one, solver)
    return None if x is None else _dual(one, x)


def none_of(program: ConeProgram) -> Tensor:
    """Certificates (B, n + m) of which none is known."""
    structure = program.structure
    return program.q.new_full((program.batch, structure.n + structure.m), torch.nan)


def _primal(one: ConeProgram, z: Tensor) -> Proof:
    return Proof(Status.PRIMAL_INFEASIBLE, torch.cat([torch.full_like(one.q[0], torch.nan), z]))


def _dual(one: ConeProgram, x: Tensor) -> Proof:
    return Proof(Status.DUAL_INFEASIBLE, torch.cat([x, torch.full_like(one.b[0], torch.nan)]))

"""From a canonical program to the arrays that solvers take."""

from __future__ import annotations

from dcl.program import ConeProgram
from dcl.program.pattern import SparsePattern
from dcl.solvers.base import HostProgram


def to_host(program: ConeProgram) -> HostProgram:
    """The program as NumPy arrays on the host, without a copy where it already is there."""
    structure = program.structure
    P, A = structure.P, structure.A
    return HostProgram(
        n=structure.n,
        m=structure.m,
        zeros=structure.cone.zeros,
        batch=program.batch,
        P=program.P.detach().cpu().numpy(),
        q=program.q.detach().cpu().numpy(),
        A=program.A.detach().cpu().numpy(),
        b=program.b.detach().cpu().numpy(),
        P_index=P.coordinates() if isinstance(P, SparsePattern) else None,
        A_index=A.coordinates() if isinstance(A, SparsePattern) else None,
        cones=tuple(block for block in structure.cone.blocks if not block.is_orthant),
    )

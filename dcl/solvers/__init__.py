"""Solvers, one file each, with the rule that chooses among them and the pool that runs them over a batch."""

from dcl.solvers.base import AbstractSolver, Claim, HostProgram, Iterates
from dcl.solvers.clarabel import Clarabel
from dcl.solvers.daqp import Daqp
from dcl.solvers.highs import Highs
from dcl.solvers.osqp import Osqp
from dcl.solvers.piqp import Piqp
from dcl.solvers.schur import Schur
from dcl.solvers.scs import Scs

__all__ = [
    "AbstractSolver",
    "Claim",
    "Clarabel",
    "Daqp",
    "Highs",
    "HostProgram",
    "Iterates",
    "Osqp",
    "Piqp",
    "Schur",
    "Scs",
]

"""The primitives, closed under differentiation: `solve` (data -> solution), `kkt_solve` (K^-1 r, K^-T r), `project` (v -> z).

Each rule uses only these primitives and torch operations, so derivatives of any order and mode compose.
"""

from dcl.implicit.kkt_solve import kkt_solve
from dcl.implicit.nearest import lift
from dcl.implicit.projection import project
from dcl.implicit.solve import DUAL, GAP, ITERATIONS, PRIMAL, SECONDS, SOLVER, STATUS, Call, Known, solve

__all__ = [
    "DUAL",
    "GAP",
    "ITERATIONS",
    "PRIMAL",
    "SECONDS",
    "SOLVER",
    "STATUS",
    "Call",
    "Known",
    "kkt_solve",
    "lift",
    "project",
    "solve",
]

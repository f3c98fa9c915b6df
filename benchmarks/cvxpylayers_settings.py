"""How cvxpylayers is called in the comparisons: the arguments of its constructor, by the name in the tables.

Its default is diffcp with SCS at eps 1e-4 and derivatives by LSQR; mode "dense" takes a direct solve instead.  MOREAU gets
tight tolerances: its own are 1e-6 and 1e-8.
"""

from __future__ import annotations

from typing import Any

TIGHT = 1e-10
_MOREAU = {"ipm_settings": {"tol_gap_abs": TIGHT, "tol_gap_rel": TIGHT, "tol_feas": TIGHT}}
SETTINGS: dict[str, dict[str, Any]] = {
    "cvxpylayers + MOREAU": {"solver": "MOREAU", "solver_args": _MOREAU},
    "cvxpylayers, default": {},
    "cvxpylayers, eps 1e-8": {"solver_args": {"eps": 1e-8}},
    "cvxpylayers, 1e-8, dense": {"solver_args": {"eps": 1e-8, "mode": "dense"}},
    "cvxpylayers, Clarabel": {"solver_args": {"solve_method": "Clarabel"}},
}
NEEDS = {name: ("cvxpylayers", "moreau" if "MOREAU" in name else "diffcp") for name in SETTINGS}

"""How cvxpylayers is called in the comparisons: the arguments of its constructor, by the name in the tables.

Its default is diffcp with SCS at eps 1e-4 and derivatives by LSQR; mode "dense" takes a direct solve instead.  MOREAU gets
tight tolerances: its own are 1e-6 and 1e-8.  For QPs it takes its active-set method, which is fast, and sometimes wrong in the
gradient where x is right to 1e-9; solver "ipm" is its interior point.
"""

from __future__ import annotations

from typing import Any

TIGHT = 1e-10
_MOREAU = {"ipm_settings": {"tol_gap_abs": TIGHT, "tol_gap_rel": TIGHT, "tol_feas": TIGHT}}
_CLARABEL = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
SETTINGS: dict[str, dict[str, Any]] = {
    "cvxpylayers + MOREAU": {"solver": "MOREAU", "solver_args": _MOREAU},
    "cvxpylayers + MOREAU, ipm": {"solver": "MOREAU", "solver_args": {**_MOREAU, "solver": "ipm"}},
    "cvxpylayers, default": {},
    "cvxpylayers, eps 1e-8": {"solver_args": {"eps": 1e-8}},
    "cvxpylayers, 1e-8, dense": {"solver_args": {"eps": 1e-8, "mode": "dense"}},
    "cvxpylayers, Clarabel": {"solver_args": {"solve_method": "Clarabel"}},
    "cvxpylayers, Clarabel, dense": {"solver_args": {"solve_method": "Clarabel", "mode": "dense", **_CLARABEL}},
}
NEEDS = {name: ("cvxpylayers", "moreau" if "MOREAU" in name else "diffcp") for name in SETTINGS}

"""dcl: differentiable convex optimization layers.

A constrained argmin inside a torch model: written in CVXPY or as matrices, solved by real solvers, checked instance by
instance, and differentiated exactly through its KKT conditions.
"""

import warnings
from typing import TYPE_CHECKING

from dcl import solvers
from dcl.about import Info, info
from dcl.compare import Comparison, Diagnosis, PointDiagnosis, compare_gradients, diagnose
from dcl.errors import (
    CompatibilityWarning,
    DclError,
    DegenerateError,
    DegenerateWarning,
    DivergedError,
    DppError,
    DtypeError,
    FlatError,
    InputError,
    LocallyInfeasibleError,
    NoMinimumError,
    NotStationaryError,
    OptionError,
    SaddleError,
    SlowWarning,
    SolveError,
    UnsupportedError,
)
from dcl.layers.argmin import ArgminLayer, argmin
from dcl.layers.cone import ConeLayer, ConeResult
from dcl.layers.cvxpy import CvxpyLayer
from dcl.layers.qp import QPLayer, QPResult, solve_qp
from dcl.outcome.solution import Solution
from dcl.status import GradientKind, Status

__version__ = "0.1.0"

__all__ = [
    "ArgminLayer",
    "Comparison",
    "CompatibilityWarning",
    "ConeLayer",
    "ConeResult",
    "CvxpyLayer",
    "DclError",
    "DegenerateError",
    "DegenerateWarning",
    "Diagnosis",
    "DivergedError",
    "DppError",
    "DtypeError",
    "FlatError",
    "GradientKind",
    "Info",
    "InputError",
    "LocallyInfeasibleError",
    "NoMinimumError",
    "NotStationaryError",
    "OptionError",
    "PointDiagnosis",
    "QPLayer",
    "QPResult",
    "SaddleError",
    "SlowWarning",
    "Solution",
    "SolveError",
    "Status",
    "UnsupportedError",
    "argmin",
    "compare_gradients",
    "diagnose",
    "info",
    "solve_qp",
    "solvers",
]

if not TYPE_CHECKING:  # type checkers would take every misspelled name to be there

    def __getattr__(name: str) -> object:
        """Names that were replaced: each stays for one minor version."""
        if name == "RunsOffError":
            warnings.warn("dcl.RunsOffError is dcl.DivergedError now", DeprecationWarning, stacklevel=2)
            return DivergedError
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""dcl: differentiable convex optimization layers.

A constrained argmin inside a torch model: written in CVXPY or as matrices, solved by real solvers, checked instance by
instance, and differentiated exactly through its KKT conditions.
"""

from dcl import solvers
from dcl.about import Info, info
from dcl.compare import Comparison, Diagnosis, PointDiagnosis, compare_gradients, diagnose
from dcl.errors import (
    CompatibilityWarning,
    DclError,
    DegenerateError,
    DegenerateWarning,
    DppError,
    DtypeError,
    FlatError,
    InputError,
    LocallyInfeasibleError,
    NoMinimumError,
    NotStationaryError,
    OptionError,
    RunsOffError,
    SaddleError,
    SlowWarning,
    SolveError,
    UnsupportedError,
)
from dcl.layers.argmin import ArgminLayer, argmin
from dcl.layers.cone import ConeLayer, ConeResult
from dcl.layers.cvxpy import CvxpyLayer
from dcl.layers.qp import QPLayer, QPResult, solve_qp
from dcl.solution import Solution
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
    "RunsOffError",
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

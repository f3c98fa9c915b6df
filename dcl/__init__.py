"""dcl: differentiable convex optimization layers.

A constrained argmin inside a torch model. You write it in CVXPY or as matrices. Established solvers solve it, dcl checks every
instance, and the gradient comes from the KKT conditions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        ShapeWarning,
        SlowWarning,
        SolveError,
        UnsupportedError,
    )
    from dcl.layers.argmin import ArgminLayer, argmin
    from dcl.layers.cone import ConeLayer, ConeResult
    from dcl.layers.cvxpy import CvxpyLayer
    from dcl.layers.qp import QPLayer, QPResult, solve_qp
    from dcl.outcome.solution import Solution
    from dcl.programs import ParametricProgram, ProgramSolution, Sensitivity, Sweep
    from dcl.status import GradientKind, Status

__version__ = "0.1.0"

# Where each public name lives: its module, and with it torch, CVXPY and solvers, is imported when the name is first used.
_MODULES = {
    "dcl.about": ("Info", "info"),
    "dcl.compare": ("Comparison", "Diagnosis", "PointDiagnosis", "compare_gradients", "diagnose"),
    "dcl.errors": (
        "CompatibilityWarning", "DclError", "DegenerateError", "DegenerateWarning", "DivergedError", "DppError", "DtypeError",
        "FlatError", "InputError", "LocallyInfeasibleError", "NoMinimumError", "NotStationaryError", "OptionError",
        "SaddleError", "ShapeWarning", "SlowWarning", "SolveError", "UnsupportedError",
    ),
    "dcl.layers.argmin": ("ArgminLayer", "argmin"),
    "dcl.layers.cone": ("ConeLayer", "ConeResult"),
    "dcl.layers.cvxpy": ("CvxpyLayer",),
    "dcl.layers.qp": ("QPLayer", "QPResult", "solve_qp"),
    "dcl.outcome.solution": ("Solution",),
    "dcl.programs": ("ParametricProgram", "ProgramSolution", "Sensitivity", "Sweep"),
    "dcl.status": ("GradientKind", "Status"),
}  # fmt: skip
_PLACES = {name: module for module, names in _MODULES.items() for name in names}

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
    "ParametricProgram",
    "PointDiagnosis",
    "ProgramSolution",
    "QPLayer",
    "QPResult",
    "SaddleError",
    "Sensitivity",
    "ShapeWarning",
    "SlowWarning",
    "Solution",
    "SolveError",
    "Status",
    "Sweep",
    "UnsupportedError",
    "argmin",
    "compare_gradients",
    "diagnose",
    "info",
    "solve_qp",
    "solvers",
]


def _look_up(name: str) -> Any:
    """The public name, from its module. Raises AttributeError."""
    if name == "solvers":
        return import_module("dcl.solvers")
    if name == "RunsOffError":  # CONTRIBUTING.md says how long a replaced name stays
        import_module("dcl.errors").warn_deprecated("dcl.RunsOffError", "dcl.DivergedError")
        name = "DivergedError"
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value  # from now on an ordinary attribute
    return value


if not TYPE_CHECKING:  # type checkers would take every misspelled name to be there
    __getattr__ = _look_up


def __dir__() -> list[str]:
    """The public names, and not the modules behind them."""
    return sorted([*__all__, "__version__"])

"""Programs without a network: solve a parametrized CVXPY problem many times, with its sensitivities, from NumPy or pandas."""

from dcl.programs.program import ParametricProgram
from dcl.programs.results import Sweep
from dcl.programs.sensitivity import Sensitivity
from dcl.programs.solution import ProgramSolution

__all__ = ["ParametricProgram", "ProgramSolution", "Sensitivity", "Sweep"]

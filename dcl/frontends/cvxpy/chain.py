"""CVXPY's own reductions, ended by a solver of ours that accepts exactly the canonical form: nothing is approximated or dropped.

    user's problem -> (log of a GP) -> minimization -> cones -> attributes as constraints -> parametrized cone program

The solver supports a quadratic objective and every cone that CVXPY knows exactly, and applies no parameter value: the
result is a tensor in the parameters, so that values (possibly unset) are never read.  A reduction that is not in the
list below would bake parameters in, approximate a cone or leave the real numbers, and is an error.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints import SOC, ExpCone, NonNeg, PowCone3D, SvecPSD, Zero
from cvxpy.constraints.constraint import Constraint
from cvxpy.error import SolverError
from cvxpy.reductions.cone2cone.exact import ExactCone2Cone
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr
from cvxpy.reductions.dcp2cone.cone_matrix_stuffing import ConeMatrixStuffing, ParamConeProg
from cvxpy.reductions.dcp2cone.dcp2cone import Dcp2Cone
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp
from cvxpy.reductions.eliminate_zero_sized import EliminateZeroSized
from cvxpy.reductions.flip_objective import FlipObjective
from cvxpy.reductions.solvers.conic_solvers.conic_solver import ConicSolver
from cvxpy.reductions.solvers.solving_chain import SolvingChain, resolve_and_build_chain
from cvxpy.utilities.psd_utils import TriangleKind

from dcl.errors import UnsupportedError

_REFUSED = {
    "EvalParams": "its parameters would be replaced by their values, and their gradients would be silently zero",
    "Complex2Real": "complex variables, parameters and constants are not supported",
    "Valinvec2mixedint": "FiniteSet constraints need integer variables",
    "ApproxCone2Cone": "it has a cone that CVXPY can only approximate by others",
}


# Entries below this, relative to the largest, are rounding in an equality that CVXPY added.
_ROUNDING = 1e-14


class _Waist(ConicSolver):  # type: ignore[misc]  # cvxpy is untyped
    """The last reduction: formats the rows as Ax + s = b, s in K, and keeps the parameters symbolic."""

    MIP_CAPABLE = False
    BOUNDED_VARIABLES = False
    DIR_CONE_KINDS: frozenset[str] = frozenset()
    SUPPORTED_CONSTRAINTS = (Zero, NonNeg, SOC, SvecPSD, ExpCone, PowCone3D)
    PSD_TRIANGLE_KIND = TriangleKind.UPPER
    PSD_SQRT2_SCALING = True
    EXP_CONE_ORDER = (0, 1, 2)

    def name(self) -> str:
        return "DCL_WAIST"

    def import_solver(self) -> None:
        """Nothing to import: there is no solver behind this reduction."""

    def supports_quad_obj(self) -> bool:
        return True

    def apply(self, problem: ParamConeProg) -> tuple[ParamConeProg, None]:
        return self.format_constraints(problem, self.EXP_CONE_ORDER), None

    def solve_via_data(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("this reduction only formats a problem; dcl.solvers solves it")

    def cite(self, *_: Any) -> str:
        return ""


class _RecordingDcp2Cone(Dcp2Cone):  # type: ignore[misc]  # cvxpy is untyped
    """CVXPY's conversion of atoms to cones, which remembers the atom that each extra constraint came from."""

    def __init__(self, original: Dcp2Cone) -> None:
        Dcp2Cone.__init__(self, quad_obj=original.quad_obj, solver_context=original.solver_context)
        # perspective, alone, looks a solver up by name, to write its function in cones; CLARABEL's are those of _Waist
        self.solver_context.solver_name = "CLARABEL"
        self.origin: dict[int, Any] = {}

    def canonicalize_expr(self, expr: Any, args: list[Any], affine_above: bool) -> tuple[Any, list[Constraint]]:
        canonical, constraints = Dcp2Cone.canonicalize_expr(self, expr, args, affine_above)
        self.origin.update((constraint.id, expr) for constraint in constraints)
        return canonical, constraints


@dataclass(frozen=True)
class Reduced:
    """What the reductions left: one parametrized cone program, and where its parts came from.

    program: tensors q (n+1, p+1), A (m (n+1), p+1), P (n n, p+1) or None, column-major, the constant last.
    variables, parameters: id of a user's object -> ids of what replaced it.  constraints: id -> id of the final one.
    atoms: id of a final constraint -> the atom it is the epigraph of.  logs: id of a parameter -> id of its logarithm.
    """

    program: ParamConeProg
    variables: dict[int, list[int]]
    parameters: dict[int, list[int]]
    constraints: dict[int, int]
    atoms: dict[int, Any]
    logs: dict[int, list[int]]

    def last(self, variable: cp.Variable) -> int:
        """Id of the canonical variable that holds a user's one."""
        final: int = self.variables.get(variable.id, [variable.id])[0]
        return final


_ALLOWED = (
    Dgp2Dcp,
    FlipObjective,
    Dcp2Cone,
    CvxAttr2Constr,
    ExactCone2Cone,
    EliminateZeroSized,
    ConeMatrixStuffing,
    _Waist,
)


def reduce(problem: cp.Problem, *, gp: bool, canon_backend: str) -> Reduced:
    """Run the reductions on a problem whose discipline has been checked; no value of a parameter is read.

    Raises:
        UnsupportedError: a reduction outside the list, variable bounds or direct cones left over.
    """
    try:
        chain: SolvingChain = resolve_and_build_chain(
            problem, solver=_Waist(), gp=gp, enforce_dpp=True, canon_backend=canon_backend
        )
    except SolverError as error:
        raise UnsupportedError(f"CVXPY cannot turn this problem into a cone program: {error}") from error
    for reduction in chain.reductions:
        if not isinstance(reduction, _ALLOWED):
            name = type(reduction).__name__
            raise UnsupportedError(f"the problem is not supported: {_REFUSED.get(name, f'it needs the step {name}')}")
    recorder = None
    for position, reduction in enumerate(chain.reductions):
        if isinstance(reduction, Dcp2Cone):
            recorder = chain.reductions[position] = _RecordingDcp2Cone(reduction)
    with warnings.catch_warnings():
        # CVXPY looks whether a sparse variable has a value, and warns about its own look
        warnings.filterwarnings("ignore", "Reading from a sparse CVXPY expression", RuntimeWarning)
        program, _ = chain.apply(problem)
    if program.dir_cones or program.lower_bounds is not None or program.upper_bounds is not None:
        raise UnsupportedError("CVXPY left constraints outside of A (bounds or cones on the variable itself)")
    if program.lb_tensor is not None or program.ub_tensor is not None:
        raise UnsupportedError("CVXPY left parametric bounds outside of A")
    if program.is_mixed_integer():
        raise UnsupportedError("boolean and integer variables are not supported")
    constraints = chain.compose_constr_id_map()
    atoms = {constraints.get(key, key): atom for key, atom in recorder.origin.items()} if recorder else {}
    own = {constraints.get(constraint.id, constraint.id) for constraint in problem.constraints}
    return Reduced(
        program=_without_empty(program, own),
        variables=chain.compose_var_id_map(),
        parameters=chain.compose_param_id_map(),
        constraints=constraints,
        atoms=atoms,
        logs=chain.get(Dgp2Dcp).param_id_map if gp else {},
    )


def _without_empty(program: ParamConeProg, own: set[int]) -> ParamConeProg:
    """The program without the equalities 0 = 0 that CVXPY adds, as M == M.T for a symmetric M in lambda_max(M).

    They would make multipliers not unique; what rounding leaves of them (a + b - b - a) would not even be 0 = 0.
    The user's own constraints, with ids `own`, stay.
    """
    sizes = [sum(arg.size for arg in constraint.args) for constraint in program.constraints]
    m, width = sum(sizes), program.x.size + 1
    A = sp.coo_array(program.A)
    row, column = A.row.astype(np.int64) % max(m, 1), A.row.astype(np.int64) // max(m, 1)
    filled = np.zeros(m, dtype=bool)
    size = np.abs(A.data)
    filled[row[size > _ROUNDING * size[np.isfinite(size)].max(initial=0.0)]] = True  # a side may be the constant inf
    starts = np.cumsum([0, *sizes])
    stays = [
        type(constraint) is not Zero or constraint.id in own or bool(filled[start : start + size].any())
        for constraint, start, size in zip(program.constraints, starts, sizes, strict=False)
    ]
    if all(stays):
        return program
    kept = copy.copy(program)
    keep = np.repeat(stays, sizes)
    # by entries: A has a row for each place of the matrix, m (n + 1) of them
    place = np.cumsum(keep) - 1
    entry = keep[row]
    rows = place[row[entry]] + int(keep.sum()) * column[entry]
    shape = (int(keep.sum()) * width, A.shape[1])
    kept.A = sp.csc_array((A.data[entry], (rows, A.col[entry])), shape=shape)
    kept.constraints = [constraint for constraint, stay in zip(program.constraints, stays, strict=True) if stay]
    return kept

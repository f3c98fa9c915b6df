"""cp.Problem -> CanonicalForm: CVXPY's tensors in its own (reduced) parameters become affine maps in the user's.

    CVXPY       value of entry (i, j) = sum_k T[i + j rows, k] phi_k,  phi = (reduced parameters, 1), columns first
    reduced     phi_p = L_p theta_p,  L_p = (E'E)^-1 E' for theta_p = E_p phi_p: a symmetric value is symmetrized
    canonical   P symmetric,  A = -T_A,  b = T_b    (CVXPY's rows say T_A x + T_b in K, up to the sign of the zero cone)

The user's problem is only read: a fresh cp.Problem is reduced, and no parameter needs a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpy.constraints import SOC, ExpCone, NonNeg, PowCone3D, SvecPSD, Zero
from cvxpy.constraints.constraint import Constraint

from dcl.cones import AbstractCone
from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.errors import InputError, OptionError, UnsupportedError
from dcl.frontends.cvxpy.attributes import declared, domain_of, expansion
from dcl.frontends.cvxpy.chain import Reduced, reduce
from dcl.frontends.cvxpy.discipline import check_discipline
from dcl.frontends.cvxpy.duals import dual_output
from dcl.frontends.cvxpy.form import CanonicalForm, Output, RowLabels, dense_storage, output
from dcl.frontends.cvxpy.labels import describe_constraint, row_labels
from dcl.frontends.cvxpy.tensors import Inputs, entries, split_last_column, split_last_row, symmetric, without_infinite
from dcl.program import Structure

_BACKENDS = ("CPP", "SCIPY", "COO")

_BLOCKS: dict[type, Callable[[Constraint], Block]] = {
    Zero: lambda c: Block("zero", c.size),
    NonNeg: lambda c: Block("nonnegative", c.size),
    SOC: lambda c: Block("second_order", c.size // c.num_cones(), c.num_cones()),
    SvecPSD: lambda c: Block("semidefinite", c.cone_sizes()[0], c.num_cones()),
    ExpCone: lambda c: Block("exponential", 3, c.num_cones()),
    PowCone3D: lambda c: Block("power", 3, c.num_cones(), tuple(np.ravel(c.alpha.value, order="F").tolist())),
}


# the form is made once and differentiated ever after, also where a model is made under inference_mode
@torch.inference_mode(False)
def canonicalize(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable],
    *,
    gp: bool = False,
    canon_backend: str | None = None,
) -> CanonicalForm:
    """Canonicalize once, for all values of the parameters.

    Args:
        problem: a DPP problem (`is_dpp(quad_form_dpp="qp")`); never written to.
        parameters: all of problem.parameters(), in the order in which values will be given.
        variables: what to return: variables of the problem, and dual variables of its constraints
            (`constraint.dual_variables[0]`).
        gp: the problem is a geometric program (log-log convex).
        canon_backend: CVXPY's backend, "CPP", "SCIPY" or "COO"; None chooses.

    Raises:
        InputError: not a problem, not DCP (DGP), parameters or variables that do not match.
        DppError: not DPP; the message shows the expressions.
        UnsupportedError: a cone, attribute or reduction that dcl does not handle; nothing is dropped silently.
        OptionError: an unknown backend.

    Example:
        >>> x, b = cp.Variable(2), cp.Parameter(2)
        >>> form = canonicalize(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
        >>> form.structure.n, form.structure.m
        (4, 4)
    """
    if not isinstance(problem, cp.Problem):
        raise InputError(f"problem must be a cvxpy.Problem, got {type(problem).__name__}", argument="problem")
    if canon_backend is not None and canon_backend not in _BACKENDS:
        raise OptionError(f"unknown canon_backend {canon_backend!r}; choose from {', '.join(_BACKENDS)}")
    fresh = cp.Problem(problem.objective, problem.constraints)
    _check_parameters(fresh, parameters)
    _check_variables(fresh, variables)
    check_discipline(fresh, gp=gp)
    # COO works in the number of nonzeros: 100 x 100 parameters take a fraction of the other backends' time
    reduced = reduce(fresh, gp=gp, canon_backend=canon_backend or "COO")
    labels = _labels(fresh, reduced)
    cone = _cone(reduced, labels)
    primal = {variable.id for variable in fresh.variables()}
    logs = tuple(p for p, parameter in enumerate(parameters) if parameter.id in reduced.logs)
    inputs = Inputs(reduced, parameters, logs)

    n, m = reduced.program.x.size, cone.dim
    quadratic = symmetric(entries(reduced.program.P, (n, n)))
    linear, constant = split_last_row(entries(reduced.program.q, (n + 1, 1)))
    matrix, offset = split_last_column(entries(reduced.program.A, (m, n + 1)))
    inequalities = sum(block.rows * block.count for block in cone.blocks if block.kind == "nonnegative")
    matrix, offset, free = without_infinite(matrix, offset, cone.zeros, inequalities, inputs.constant, labels.describe)
    dense = dense_storage(n, m, len(quadratic.places) + len(matrix.places))
    P, map_P = inputs.on_pattern(quadratic, dense=dense)
    A, map_A = inputs.on_pattern(matrix.scaled(-1.0), dense=dense)
    return CanonicalForm(
        structure=Structure(P=P, A=A, cone=cone),
        map_P=map_P,
        map_q=inputs.map(linear),
        map_A=map_A,
        map_b=inputs.map(offset),
        map_d=inputs.map(constant),
        domains=tuple(domain_of(parameter, strict=p in logs) for p, parameter in enumerate(parameters)),
        logs=logs,
        outputs=tuple(
            _primal(reduced, variable, gp=gp)
            if variable.id in primal
            else dual_output(reduced, fresh, variable).without(free)
            for variable in variables
        ),
        maximize=isinstance(problem.objective, cp.Maximize),
        gp=gp,
        labels=labels,
        free=free,
    )


def _check_parameters(problem: cp.Problem, parameters: Sequence[cp.Parameter]) -> None:
    for position, parameter in enumerate(parameters):
        if not isinstance(parameter, cp.Parameter):
            kind = type(parameter).__name__
            raise InputError(f"parameters[{position}] must be a cvxpy.Parameter, got {kind}", argument="parameters")
    given = [parameter.id for parameter in parameters]
    own = {parameter.id: parameter.name() for parameter in problem.parameters()}
    what = "the layer's parameters must exactly match problem.parameters()"
    missing = [name for key, name in own.items() if key not in given]
    if missing:
        raise InputError(f"{what}: missing {', '.join(missing)}", argument="parameters")
    foreign = [parameter.name() for parameter in parameters if parameter.id not in own]
    if foreign:
        raise InputError(f"{what}: {', '.join(foreign)} not in the problem", argument="parameters")
    twice = [own[key] for key in dict.fromkeys(given) if given.count(key) > 1]
    if twice:
        raise InputError(f"{what}: {', '.join(twice)} given more than once", argument="parameters")


def _check_variables(problem: cp.Problem, variables: Sequence[cp.Variable]) -> None:
    own = {variable.id for variable in problem.variables()}
    if not own:
        raise InputError("the problem has no variables", argument="problem")
    own |= {dual.id for constraint in problem.constraints for dual in constraint.dual_variables}
    for position, variable in enumerate(variables):
        if not isinstance(variable, cp.Variable):
            kind = type(variable).__name__
            raise InputError(f"variables[{position}] must be a cvxpy.Variable, got {kind}", argument="variables")
        if variable.id not in own:
            raise InputError(
                "the layer's variables must be a subset of problem.variables() and of the dual variables of its constraints: "
                f"variables[{position}] ({variable.name()}) is neither a variable of the problem nor such a dual variable",
                argument="variables",
            )


def _labels(problem: cp.Problem, reduced: Reduced) -> RowLabels:
    owners = {
        reduced.constraints.get(constraint.id, constraint.id): describe_constraint(index, constraint)
        for index, constraint in enumerate(problem.constraints)
    }
    variables = {
        reduced.last(variable): f"variable {variable.name()} (attribute {declared(variable)})"
        for variable in problem.variables()
    }
    return row_labels(reduced.program.constraints, owners, reduced.atoms, variables)


def _cone(reduced: Reduced, labels: RowLabels) -> AbstractCone:
    """K in the order of the rows, sorted by CVXPY: zero, nonnegative, second-order, PSD, exponential, power."""
    blocks = []
    for constraint, text in zip(reduced.program.constraints, labels.texts, strict=True):
        if type(constraint) not in _BLOCKS:
            raise UnsupportedError(f"{text} needs the cone {type(constraint).__name__}, which is not supported")
        block = _BLOCKS[type(constraint)](constraint)
        if block.rows * block.count != constraint.size:
            raise UnsupportedError(f"{text}: CVXPY returned its cone in a form that dcl does not know")
        blocks += [block] if constraint.size else []
    return named(blocks)


def _primal(reduced: Reduced, variable: cp.Variable, *, gp: bool) -> Output:
    """The entries of x that hold a variable; zero where CVXPY eliminated it."""
    program = reduced.program
    final = reduced.last(variable)
    E = expansion(variable)
    if final not in program.var_id_to_col:
        return output(variable.name(), variable.shape, sp.csr_array((variable.size, 1)), 0, dual=False, exp=gp)
    if E is None:
        E = sp.eye_array(variable.size, format="csr")
    if program.id_to_var[final].size != E.shape[1]:
        raise UnsupportedError(f"variable {variable.name()}: CVXPY replaced it in a way that dcl does not know")
    return output(variable.name(), variable.shape, E, program.var_id_to_col[final], dual=False, exp=gp)

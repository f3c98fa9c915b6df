"""Is a problem one that dcl can differentiate?  If not, an error that shows the expression to change.

DPP here is CVXPY's `is_dpp(quad_form_dpp="qp")`: with parameters counted as variables the problem is still disciplined,
and quad_form(x, P) with a parameter P may stand in the objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import cvxpy as cp
from cvxpy.utilities import scopes
from cvxpy.utilities.debug_tools import build_non_disciplined_error_msg

from dcl.errors import DppError, InputError, UnsupportedError
from dcl.frontends.cvxpy.labels import describe_constraint, shorten

_UNSUPPORTED = ("complex", "imag", "hermitian", "boolean", "integer")
_UNSUPPORTED_GP = ("sparsity", "diag", "PSD", "NSD")

_DPP_HELP = (
    "CVXPY would bake the values of its parameters in, and their gradients would be silently zero. "
    "Products of parameters, and parameters inside a nonlinear function, are the usual cause: replace such an "
    "expression by a parameter of its own (computed in torch), or move it into an equality with a new variable."
)


def check_discipline(problem: cp.Problem, *, gp: bool) -> None:
    """Raise unless `problem` is real, continuous, convex (log-log convex for gp) and DPP.

    Raises:
        UnsupportedError: complex, boolean or integer leaves, FiniteSet; attributes that a GP cannot have.
        InputError: not DCP (not DGP), with CVXPY's reason.
        DppError: not DPP, with the smallest expressions that are not.
    """
    _check_leaves(problem, gp=gp)
    kind = "DGP" if gp else "DCP"
    if not (problem.is_dgp() if gp else problem.is_dcp()):
        hint = "" if gp or not problem.is_dgp() else "\nIt is DGP: pass gp=True."
        reason = build_non_disciplined_error_msg(problem, kind)
        raise InputError(f"the problem is not {kind} (convex by CVXPY's rules).\n{reason}{hint}", argument="problem")
    context = "dgp" if gp else "dcp"
    if problem.is_dpp(context, quad_form_dpp="qp"):
        return
    found = "\n".join(_offenders(problem, context))
    raise DppError(f"the problem is {kind} but not DPP:\n{found}\n{_DPP_HELP}", argument="problem")


def _check_leaves(problem: cp.Problem, *, gp: bool) -> None:
    for leaf in (*problem.variables(), *problem.parameters()):
        kind = "variable" if isinstance(leaf, cp.Variable) else "parameter"
        for attribute in _UNSUPPORTED + (_UNSUPPORTED_GP if gp else ()):
            # an index list, as in boolean=[(0,)], is a value too
            if leaf.attributes[attribute] is not False and leaf.attributes[attribute] is not None:
                where = " with gp=True" if attribute in _UNSUPPORTED_GP else ""
                raise UnsupportedError(f"{kind} {leaf.name()}: the attribute {attribute} is not supported{where}")
    if any(constant.is_complex() for constant in problem.constants()):
        raise UnsupportedError("complex constants are not supported")
    if any(isinstance(constraint, cp.FiniteSet) for constraint in problem.constraints):
        raise UnsupportedError("FiniteSet constraints need integer variables, which are not supported")


def _offenders(problem: cp.Problem, context: str) -> Iterator[str]:
    """One line for each part of the problem that is not DPP, with its smallest offending expressions."""
    with scopes.quad_form_dpp_scope():
        objective_is_dpp = problem.objective.is_dpp(context)
    if not objective_is_dpp:
        yield from _lines("the objective", problem.objective.args, context, scopes.quad_form_dpp_scope)
    for index, constraint in enumerate(problem.constraints):
        if not constraint.is_dpp(context):
            yield from _lines(describe_constraint(index, constraint), constraint.args, context, ExitStack)
    for variable in problem.variables():
        if not variable.is_dpp(context):
            yield f"  the bounds of variable {variable.name()}"


def _lines(
    part: str, roots: list[Any], context: str, scope: Callable[[], AbstractContextManager[Any]]
) -> Iterator[str]:
    degraded = [node for root in roots for node in _smallest(root, context, scope)]
    with scope():
        # expressions that lost all curvature explain the failure before those that only stopped being affine
        lost = [node for node in degraded if _curvature(node, context, dpp=True) == (False, False)]
    texts = dict.fromkeys(shorten(str(node)) for node in (lost or degraded))
    yield f"  {part}" + (": " + ", ".join(texts) if texts else "")


def _smallest(node: Any, context: str, scope: Callable[[], AbstractContextManager[Any]]) -> list[Any]:
    """The deepest expressions under `node` whose curvature gets worse once parameters count as variables."""
    below = [found for arg in node.args for found in _smallest(arg, context, scope)]
    if below:
        return below
    with scope():
        before, after = _curvature(node, context, dpp=False), _curvature(node, context, dpp=True)
    worse = any(was and not is_now for was, is_now in zip(before, after, strict=True))
    return [node] if worse else []


def _curvature(node: Any, context: str, *, dpp: bool) -> tuple[bool, bool]:
    """(convex, concave), log-log for a GP; with dpp, parameters count as variables."""
    if not isinstance(node, cp.Expression):
        return (False, False)
    with scopes.dpp_scope() if dpp else ExitStack():
        if context == "dgp":
            return (node.is_log_log_convex(), node.is_log_log_concave())
        return (node.is_convex(), node.is_concave())

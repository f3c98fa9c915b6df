"""Is a problem one that dcl can differentiate?  If not, an error that shows the expression to change.

DPP here is CVXPY's `is_dpp(quad_form_dpp="qp")`: with parameters counted as variables the problem is still disciplined,
and quad_form(x, P) with a parameter P may be a term of the objective.  Not inside of another atom, as in
exp(quad_form(x, P)), which CVXPY lets pass: it would read P's value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import cvxpy as cp
from cvxpy.atoms.affine.affine_atom import AffAtom
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.utilities import scopes
from cvxpy.utilities.debug_tools import build_non_disciplined_error_msg

from dcl.errors import DppError, InputError, UnsupportedError
from dcl.frontends.cvxpy.labels import describe_constraint, shorten
from dcl.frontends.cvxpy.remedies import remedy

_UNSUPPORTED = ("complex", "imag", "hermitian", "boolean", "integer")
_UNSUPPORTED_GP = ("sparsity", "diag", "PSD", "NSD")

_DPP_HELP = (
    "CVXPY would fix the values of its parameters, and their gradients would be silently zero. The usual cause is a product "
    "of parameters, or a parameter inside a nonlinear function. Replace such an expression by a new parameter (computed in "
    "torch), or set a new variable equal to it."
)
_QUAD_FORM_HELP = (
    "quad_form(x, P) with a parameter P is only supported in the objective, as one of its terms, and x must not contain "
    "parameters. Elsewhere write sum_squares(F @ x) with a parameter F, where P = F'F: F = torch.linalg.cholesky(P).mT. "
    "For an x with parameters take a new variable y, constrained to equal it."
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
    is_dpp = problem.is_dpp(context, quad_form_dpp="qp")
    misplaced = [] if gp else list(_misplaced_quad_forms(problem))
    if is_dpp and not misplaced:
        return
    others = [] if is_dpp else [line for line in _offenders(problem, context) if not _is_said(line, misplaced)]
    ways = [] if is_dpp else [f"Here: {way}." for way in dict.fromkeys(_remedies(problem, context))]
    help_ = "\n".join([_QUAD_FORM_HELP] * bool(misplaced) + [_DPP_HELP] * bool(others) + ways)
    found = "\n".join([*misplaced, *others])
    raise DppError(f"the problem is {kind} but not DPP:\n{found}\n{help_}", argument="problem")


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


def _is_said(line: str, lines: Sequence[str]) -> bool:
    """Does one of `lines` say the same, perhaps with the expression?"""
    return any(other == line or other.startswith(f"{line}: ") for other in lines)


def _misplaced_quad_forms(problem: cp.Problem) -> Iterator[str]:
    """One line for each part of the problem that has a quad_form with a parameter for P where it may not stand."""
    parts = [("the objective", problem.objective.args, True)]
    parts += [
        (describe_constraint(i, constraint), constraint.args, False) for i, constraint in enumerate(problem.constraints)
    ]
    for part, roots, is_objective in parts:
        texts = dict.fromkeys(shorten(str(form)) for root in roots for form in _misplaced(root, is_term=is_objective))
        if texts:
            yield f"  {part}: {', '.join(texts)}"


def _misplaced(node: Any, *, is_term: bool) -> Iterator[QuadForm]:
    """The quad_forms under `node` with parameters in P that are no terms of the objective, or have parameters in x."""
    if isinstance(node, QuadForm) and node.args[1].parameters() and not (is_term and not node.args[0].parameters()):
        yield node
    for arg in node.args:
        yield from _misplaced(arg, is_term=is_term and isinstance(node, AffAtom))


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


def _remedies(problem: cp.Problem, context: str) -> Iterator[str]:
    """What to write instead, for each expression for which that is known."""
    parts = [
        (problem.objective, scopes.quad_form_dpp_scope),
        *((constraint, ExitStack) for constraint in problem.constraints),
    ]
    for place, (part, scope) in enumerate(parts):
        for node in (node for root in part.args for node in _smallest(root, context, scope)):
            way = remedy(node, is_objective=place == 0)
            if way is not None:
                yield way


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

"""What to write instead of a product of parameters, for the expression at hand.

    gamma * quad_form(w, Sigma)     one parameter Q for gamma * Sigma, which torch computes and differentiates
    gamma * m                       one parameter for the product
    gamma * sum_squares(w - m)      a new variable for w - m, so that gamma multiplies something without parameters

(CVXPY's DPP: with parameters counted as variables the problem is still convex by its rules.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cvxpy as cp
from cvxpy.atoms.affine.binary_operators import DivExpression, multiply
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.quad_form import QuadForm

from dcl.frontends.cvxpy.labels import shorten


def remedy(node: Any, *, is_objective: bool) -> str | None:
    """How to write `node`, an expression that is not DPP, so that it is; None where nothing is known."""
    if not isinstance(node, multiply | DivExpression) or not all(arg.parameters() for arg in node.args):
        return None
    a, b = (arg.args[0] if isinstance(arg, Promote) else arg for arg in node.args)
    divides = isinstance(node, DivExpression)
    if not node.variables():
        product = f"{a} / {b}" if divides else f"{a} * {b}"
        return f"for {_short(node)} take one parameter of shape {node.shape}, and pass {product}, computed in torch"
    factor, other = (b, a) if a.variables() else (a, b)
    if factor.variables() or not factor.is_scalar():
        return None
    forms = [one for one in _parts(other) if isinstance(one, QuadForm) and one.args[1].parameters()]
    if is_objective and len(forms) == 1 and other.parameters() == forms[0].parameters():
        x, P = forms[0].args
        if x.parameters() or not _is_multiple(other, forms[0]):
            return None
        times = f"{P} / {factor}" if divides else f"({factor}) * {P}" if factor.args else f"{factor} * {P}"
        scalars = " and ".join(p.name() for p in factor.parameters())
        write = str(other).replace(str(forms[0]), f"cp.quad_form({x}, Q)")
        return (
            f"for {_short(node)} take one parameter for the product, Q = cp.Parameter({P.shape}, PSD=True); write {write}, and "
            f"pass {times}, computed in torch, for Q (in a batch give {scalars} the shape (batch, 1, 1) in that product)"
        )
    if other.is_affine():  # gamma * (m @ w)
        for one in _parts(other):
            given = [arg for arg in getattr(one, "args", ()) if not arg.variables() and arg.parameters()]
            if len(given) == 1 and len(one.args) == 2 and other.parameters() == given[0].parameters():
                product = f"{given[0]} / {factor}" if divides else f"{factor} * {given[0]}"
                return f"for {_short(node)} take one parameter of shape {given[0].shape}, and pass {product}, computed in torch"
        return None
    inner = [one for one in _parts(other) if one.args and all(arg.is_affine() for arg in one.args if arg.variables())]
    for one in inner:
        affine = [arg for arg in one.args if arg.variables()]
        if not one.is_affine() and len(affine) == 1 and other.parameters() == affine[0].parameters():
            return (
                f"for {_short(node)} take a new variable, y = cp.Variable({affine[0].shape}), with the constraint "
                f"y == {_short(affine[0])}, and write y in its place"
            )
    return None


def _is_multiple(expression: Any, form: QuadForm) -> bool:
    """Is the expression the form, times constants?"""
    while expression is not form:
        rest = [arg for arg in expression.args if arg.variables()]
        if not isinstance(expression, multiply | DivExpression) or len(rest) != 1:
            return False
        expression = rest[0]
    return True


def _parts(node: Any) -> Iterator[Any]:
    if isinstance(node, cp.Expression):
        yield node
        for arg in node.args:
            yield from _parts(arg)


def _short(node: Any) -> str:
    return shorten(str(node))

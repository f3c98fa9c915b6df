"""Are the point that Newton's method on smooth terms has found, and its derivative, right?

The core bounds the errors of the reduced program's solution and derivative (dcl/core/smooth_error.hpp).  What rounding has left
of the variables J that are taken out, and of P' and q', is added to the residual there, with N terms in a sum:

    e = A_IJ^-1 h_I,    |right side of the residual as given| + N eps |E|'(|g_J| + |P_JJ| (|e| + |E||x_R|) + |A_KJ|'|z_K|)
"""

from __future__ import annotations

from torch import Tensor

from dcl.core.smooth import Errors
from dcl.layers.cone_systems import Smooth
from dcl.program.reduction.elimination import Eliminated
from dcl.program.reduction.matrices import AbstractMatrix, Full

# Of points relative to 1 + the largest entry, of derivatives relative to the largest entry of a column, and of a curvature: so
# small that its square is nothing, and bounds of first order are bounds.
_POINT, _DERIVATIVE, _CURVATURE = 1e-10, 1e-9, 1e-6
_EPSILON = 2.0**-52


def is_accurate(found: Errors) -> Tensor:
    """Are point and derivative right, (B,)?"""
    right = found.point <= _POINT
    return right & (found.derivative <= _DERIVATIVE) & (found.curvature <= _CURVATURE)


def rounding(
    system: Smooth, t: Eliminated, sides: tuple[Tensor, Tensor], residual: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of the header, for the variables, the general rows and the tails; None where no variable is taken out.

    sides: (-q, b) of the variables and rows that are no terms', residual: of the point there.
    """
    blocks = t.blocks
    k = blocks.A_IJ.shape[0]
    if k == 0:
        return None
    g, h = sides
    e = t.right_side(g, h)[2].abs()
    first, rows, _ = t.right_side(*residual)
    zeros, others, tails, *_ = system.reduction.sizes
    E, A_KJ = _sizes(t.E), _sizes(blocks.A_KJ)
    x_J = e + E.times(system.x.abs())
    inner = g[:, :k].abs() + _sizes(blocks.P_JJ).times(x_J) + A_KJ.transposed(system.w.abs())
    noise = _EPSILON * (k + g.shape[-1])
    first = first.abs() + noise * E.transposed(inner)
    rows = rows.abs() + noise * A_KJ.times(x_J)
    general, of_tails, _ = rows.split([zeros + others, tails, rows.shape[-1] - zeros - others - tails], -1)
    return first, general, of_tails


def _sizes(M: AbstractMatrix) -> AbstractMatrix:
    """|M|."""
    return M if M.is_zero else Full(M.full().abs())

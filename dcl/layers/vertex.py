"""A linear program at a vertex: the derivative of x in the costs is exactly zero, so gradient descent on the costs does not move.

Where n independent rows I hold with positive multipliers, they alone decide x:

    [[0, A_I'], [A_I, 0]] (dx, dz) = (-dq, 0)     =>     A_I dx = 0     =>     dx = 0

So a warning says this, once per layer.  It comes when a gradient arrives at x, not before: only then is it known that the loss
uses x, and not the optimal value or a multiplier, whose derivatives in the costs are not zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dcl.errors import DegenerateWarning, level_of_caller
from dcl.layers.engine import Engine


@dataclass(frozen=True)
class Linear:
    """A linear program without curved cones.

    costs: the arguments that enter the costs and nothing else, and what the caller calls them.  outputs: places of the
    outputs that are entries of x.  quadratic: the argument P where it is given, and is zero; "" where there is none.
    """

    costs: Mapping[str, str]
    outputs: Sequence[int]
    quadratic: str = ""


def matrix_linear(arguments: Mapping[str, Tensor]) -> Linear | None:
    """For arguments P, q, ... whose first output is x: P is absent or zero."""
    P = arguments.get("P")
    if P is not None and bool(P.any()):
        return None
    return Linear({"q": "q"}, (0,), "" if P is None else "P")


def watch(
    engine: Engine, linear: Linear, arguments: Mapping[str, Tensor], outputs: Sequence[Tensor], like: str
) -> None:
    """Warn once when a gradient arrives at x where a cost requires one: for answers that are vertices.

    like: how the caller would write his layer with a mu, as in "QPLayer(mu=0.1)".
    """
    names = [shown for name, shown in linear.costs.items() if arguments[name].requires_grad]
    P = arguments.get(linear.quadratic)
    if not names or (P is not None and P.requires_grad):
        return

    def look(g: Tensor | None) -> None:  # None where x takes no part in the loss
        # P is looked at here, where it costs nothing as long as no gradient is asked for
        if engine.tells_vertices and g is not None and bool(g.any()) and not (P is not None and bool(P.any())):
            engine.tells_vertices = False
            warnings.warn(_message(names, like), DegenerateWarning, stacklevel=level_of_caller())

    for place in linear.outputs:
        if outputs[place].requires_grad:
            outputs[place].register_hook(look)


def _message(names: Sequence[str], like: str) -> str:
    return (
        f"the gradient with respect to {', '.join(names)} is zero: the solution of a linear program is a vertex, which stays "
        "where it is when the costs change a little. It is exact, but zero with respect to the cost: gradient descent will not "
        f"move. Use mu > 0, as in {like}: x(mu) moves with the costs (dcl.compare_gradients helps to choose mu)"
        '\n  (shown once per layer; on_degenerate="ignore" silences it)'
    )

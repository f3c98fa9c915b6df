"""Which entries of the parameters move the optimal value and the solution most.

    effect of entry j of parameter p:    d value / d theta_j,   |d x / d theta_j|_2 over all variables x

To compare parameters of different sizes the effects are given for a change by 1 % of the parameter's size, the root mean
square of its entries (1 where they are all zero), to first order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dcl.programs.text import number, table

if TYPE_CHECKING:
    import pandas as pd

    from dcl.programs.solution import ProgramSolution

HEAD = ("parameter", "value", "d value", "value, +1 %", "|d x|", "|x|, +1 %", "moves most")
_SHOWN = 15
_PERCENT = 0.01
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Effect:
    """One entry of a parameter.

    name: as in "mu[3]".  size: its value.  value, solution: derivative of the optimal value, and 2-norm of that of all
    variables.  value_percent, solution_percent: the same for a change by 1 % of the parameter's size.  most: the variable's
    entry that moves most, and its derivative.
    """

    name: str
    size: float
    value: float
    solution: float
    value_percent: float
    solution_percent: float
    most: str
    most_moved: float


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Effects, those that move the solution most first (then the value), and the constraints that bind; `print` it.

    failed: why there is no solution, whose effects are NaN; "" where there is one.  floor: derivatives of the value up to
    this are rounding, and printed as 0.

    Example:
        >>> import cvxpy as cp, dcl
        >>> x, t = cp.Variable(name="x"), cp.Parameter(name="t")
        >>> program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.square(x - 3 * t)), [x <= 6]))
        >>> (effect,) = program.solve(t=1.0).sensitivity()
        >>> effect.name, round(effect.solution, 6), effect.most
        ('t', 3.0, 'x')
    """

    effects: tuple[Effect, ...]
    binding: tuple[str, ...]
    failed: str = ""
    floor: float = 0.0

    def __iter__(self) -> Iterator[Effect]:
        return iter(self.effects)

    def __len__(self) -> int:
        return len(self.effects)

    def __repr__(self) -> str:
        return self.text(_SHOWN)

    def text(self, most: int | None = None) -> str:
        """The table, with its first `most` rows; without a solution, why there is none."""
        if self.failed:
            return self.failed
        lines = [table(HEAD, cells(self, most)), *foot(self, most)]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """A row for each effect, columns as in `Effect`."""
        import pandas as pd

        return pd.DataFrame([vars(effect) for effect in self.effects])


def table_of(solution: ProgramSolution) -> Sensitivity:
    """The table of a solution without batch dimensions."""
    model = solution.model
    slopes = solution.value_gradient()
    names = [name for variable in model.variables for name in solution.axes.names(variable)]
    effects: list[Effect] = []
    for p, parameter in enumerate(model.parameters):
        blocks = [solution.jacobian_by_place(k, p) for k in range(len(model.variables))]
        moved = np.concatenate([block.reshape(-1, max(1, int(np.prod(parameter.shape)))) for block in blocks])
        entries = np.ravel(list(solution.parameters.values())[p])
        size = _PERCENT * (float(np.sqrt(np.mean(entries**2))) if entries.size and np.any(entries) else 1.0)
        labels = solution.axes.names(parameter)
        for j, (entry, slope) in enumerate(zip(entries, np.ravel(list(slopes.values())[p]), strict=True)):
            column = moved[:, j]
            most = int(np.abs(column).argmax())
            length = float(np.linalg.norm(column))
            effects.append(
                Effect(
                    name=labels[j],
                    size=float(entry),
                    value=float(slope),
                    solution=length,
                    value_percent=float(slope) * size,
                    solution_percent=length * size,
                    most=names[most] if length > 0.0 else "",
                    most_moved=float(column[most]),
                )
            )
    effects.sort(key=lambda effect: (-effect.solution_percent, -abs(effect.value_percent)))
    failed = "" if solution.ok else f"no sensitivities, because there is no solution: {solution.failure}"
    floor = solution.certain.slope if solution.ok else 0.0
    return Sensitivity(tuple(effects), solution.binding, failed, floor)


def cells(found: Sensitivity, most: int | None = None) -> list[list[str]]:
    """The text of the first `most` rows, columns as in HEAD."""
    # what rounding leaves of a derivative that is zero
    noise = _ROUNDING * max((effect.solution for effect in found), default=0.0)
    still = _ROUNDING * max((abs(effect.value_percent) for effect in found), default=0.0)
    moves = [abs(effect.value_percent) > still and abs(effect.value) > found.floor for effect in found]
    return [
        [
            effect.name,
            number(effect.size, 4),
            number(effect.value, 4) if value_moves else "0",
            f"{effect.value_percent:+.2g}" if value_moves else "0",
            number(effect.solution, 4) if effect.solution > noise else "0",
            number(effect.solution_percent, 2) if effect.solution > noise else "0",
            f"{effect.most} {effect.most_moved:+.3g}" if effect.solution > noise else "",
        ]
        for effect, value_moves in zip(found.effects[:most], moves, strict=False)
    ]


def foot(found: Sensitivity, most: int | None = None) -> list[str]:
    """The lines below the first `most` rows: how many more there are, and what binds."""
    more = 0 if most is None else max(0, len(found) - most)
    lines = [f"... and {more} more entries, which move the solution less"] if more else []
    return [*lines, "binding: " + ("; ".join(found.binding) or "nothing")]

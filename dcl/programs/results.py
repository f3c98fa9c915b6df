"""What a sweep found: arrays with one row for each value of the parameters, failures among them with their status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcl.errors import InputError
from dcl.programs.chunk import Chunk
from dcl.programs.model import Model
from dcl.programs.names import Array, Key, Values, find
from dcl.programs.values import Axes
from dcl.status import Status

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Sweep:
    """The rows of a sweep. `sweep[x]` or `sweep["x"]`: a variable, (rows, *shape), NaN where a row has no solution.

    Attributes:
        parameters: by name, (rows, *shape) where swept, (*shape) where not.
        gradient: by parameter, the gradient that `gradient` asked for, (rows, *shape). NaN where a row has no solution; empty if
            no gradient was asked for.

    Example:
        >>> import cvxpy as cp, numpy as np, dcl
        >>> x, t = cp.Variable(name="x"), cp.Parameter(name="t")
        >>> program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.square(x - t)), [x <= 2]))
        >>> sweep = program.sweep({"t": np.linspace(0.0, 4.0, 5)}, gradient="value")
        >>> sweep["x"].round(6)[1:].tolist(), sweep.gradient["t"].round(6)[3:].tolist(), bool(sweep.ok.all())
        ([1.0, 2.0, 2.0, 2.0], [2.0, 4.0], True)
    """

    model: Model
    parameters: Values
    swept: tuple[str, ...]
    axes: Axes
    found: Chunk
    gradient: Values

    def __len__(self) -> int:
        return self.found.count

    def __getitem__(self, key: Key) -> Array:
        return self.found.outputs[find(self.model.variables, key, "variable")]

    def dual(self, constraint: Any) -> Any:
        """The multiplier of a constraint for each row, as `ProgramSolution.dual`."""
        found = tuple(self.found.outputs[len(self.model.variables) + i] for i in self.model.duals_of(constraint))
        return found if len(found) > 1 else found[0]

    @property
    def value(self) -> Array:
        """The optimal value, (rows,)."""
        return self.found.outputs[-1]

    @property
    def status(self) -> NDArray[np.int64]:
        """`dcl.Status` as integers, (rows,)."""
        return self.found.status

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Is there a checked optimal solution? (rows,)."""
        return np.asarray(self.found.status == int(Status.OPTIMAL))

    @property
    def residual(self) -> Array:
        """The largest of primal residual, dual residual and gap, relative, as measured by dcl, (rows,)."""
        return self.found.residual

    @property
    def gradient_kind(self) -> NDArray[np.int64]:
        """`dcl.GradientKind` of `gradient` as integers, (rows,). Raises InputError if no gradient was asked for."""
        if not len(self.gradient):
            raise InputError(
                'this sweep has no gradient: ask for it, as in sweep(..., gradient="value")', argument="gradient"
            )
        return self.found.kind

    @cached_property
    def changes(self) -> NDArray[np.int64]:
        """The rows whose active constraints differ from those of the row before (both solved); none for mu > 0.

        A curved cone (of cp.norm, for example) is active as a whole, where its multiplier is not zero.
        """
        active, ok = self.found.active, self.ok
        if len(self) < 2:
            return np.zeros(0, np.int64)
        moved = (active[1:] != active[:-1]).any(1) & ok[1:] & ok[:-1]
        return np.flatnonzero(moved) + 1

    @property
    def index(self) -> tuple[str, Array | NDArray[np.int64]]:
        """What to draw against: the first swept parameter that is a number, else the row."""
        for name in self.swept:
            array = self.parameters[name]
            if array.ndim == 1:
                return name, array
        return "row", np.arange(len(self))

    def to_pandas(self) -> pd.DataFrame:
        """One row for each row of the sweep: swept numbers, status, value, residual, every entry of every variable, gradients."""
        from dcl.programs.frames import sweep_frame

        return sweep_frame(self)

    def to_xarray(self) -> xr.Dataset:
        """An xarray Dataset. Needs the extra "programs"."""
        from dcl.programs.frames import sweep_dataset

        return sweep_dataset(self)

    def plot(self, path: str | Path | None = None, variables: list[Key] | None = None) -> Any:
        """Draw the solution paths, changes of the active constraints marked, into a file or as a matplotlib Figure.

        variables: which, None for all.  Needs the extra "programs".
        """
        from dcl.programs.figure import draw_sweep

        entries = self.model.variables
        chosen = entries if variables is None else [entries[find(entries, key, "variable")] for key in variables]
        return draw_sweep(self, chosen, path)

    def __repr__(self) -> str:
        counts: Mapping[str, int] = {one.name: int((self.status == one).sum()) for one in Status}
        shown = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "no rows"
        worst = self.residual[self.ok]
        residual = f", worst residual {worst.max():.0e}" if worst.size else ""
        swept = ", ".join(self.swept)
        return f"Sweep over {swept}: {shown}{residual}; the active constraints change {len(self.changes)} times"

"""The answer of a `ParametricProgram`, in NumPy, with the user's names; and its derivatives, which solve nothing again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dcl.errors import InputError
from dcl.outcome.doubts import report_degeneracy
from dcl.outcome.messages import AbstractCallContext
from dcl.outcome.solution import Solution
from dcl.point.asked import Requested
from dcl.point.degeneracy import Degeneracy
from dcl.programs import derivatives
from dcl.programs.active import active_range, binding, conflicts
from dcl.programs.conflict import Conflict
from dcl.programs.digits import Certain, certain
from dcl.programs.instances import instance
from dcl.programs.model import Model
from dcl.programs.names import Array, Entry, Key, Values, find, find_all, named_values
from dcl.programs.sensitivity import Sensitivity, table_of
from dcl.programs.text import labelled, number, sizes, table
from dcl.programs.values import Axes, Given, axes, given
from dcl.status import GradientKind, Status

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_SHOWN = 12  # variables
_SILENCE = 'dcl.ParametricProgram(problem, on_degenerate="ignore") silences it'


@dataclass(frozen=True, eq=False)
class ProgramSolution:
    """The answer for one value of each parameter, or for a batch of values; batch dimensions lead everywhere.

    `solution[x]` or `solution["x"]` is the value of a variable, (*batch, *shape); NaN where there is none.

    parameters: the values it was solved for.  axes: the labels that pandas objects among them had.

    Example:
        >>> import cvxpy as cp, dcl
        >>> x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
        >>> nonnegative = x >= 0
        >>> program = dcl.ParametricProgram(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [nonnegative]))
        >>> solution = program.solve(t=[1.0, -2.0])
        >>> solution.status.name, round(solution.value, 6)
        ('OPTIMAL', 4.0)
        >>> solution["x"][0].round(6), solution.dual(nonnegative)[1].round(6)
        (np.float64(1.0), np.float64(4.0))
        >>> solution.value_gradient()["t"][1].round(6), solution.jacobian(x, wrt=t)[0, 0].round(6)
        (np.float64(-4.0), np.float64(1.0))
    """

    model: Model
    parameters: Values
    axes: Axes
    known: Solution

    # What was found

    def __getitem__(self, key: Key) -> Array:
        return _numpy(self.known.outputs[find(self.model.variables, key, "variable")])

    def dual(self, constraint: Any) -> Any:
        """The multiplier of a constraint, with CVXPY's sign: an array, a tuple of arrays where CVXPY has several.

        constraint: the CVXPY object, its position in `problem.constraints`, or its label.
        Raises InputError if it is not a constraint of the program, or has no dual variable in the cone program.
        """
        found = tuple(
            _numpy(self.known.outputs[len(self.model.variables) + i]) for i in self.model.duals_of(constraint)
        )
        return found if len(found) > 1 else found[0]

    @property
    def value(self) -> Any:
        """The optimal value: a float, (*batch) for a batch. NaN where there is none."""
        return _plain(self.known.value)

    @property
    def status(self) -> Any:
        """`dcl.Status`; integers (*batch) for a batch."""
        codes = self.known.status
        return codes.numpy() if codes.ndim else Status(int(codes))

    @property
    def ok(self) -> Any:
        """Is there a checked optimal solution? A bool, (*batch) for a batch."""
        return _plain(self.known.ok)

    @property
    def primal_residual(self) -> Any:
        """Relative, as measured by dcl; (*batch) for a batch."""
        return _plain(self.known.primal_residual)

    @property
    def dual_residual(self) -> Any:
        """Relative, as measured by dcl; (*batch) for a batch."""
        return _plain(self.known.dual_residual)

    @property
    def gap(self) -> Any:
        """Relative duality gap, as measured by dcl; (*batch) for a batch."""
        return _plain(self.known.gap)

    @cached_property
    def binding(self) -> Any:
        """The inequalities that bind, with the entries that do: a tuple of strings; for a batch, a list of tuples."""
        found = binding(self.model, self._tensors, self.known, self.axes)
        return found if self.batch else found[0]

    @property
    def failure(self) -> str:
        """Of one instance: why there is no solution, as in "PRIMAL_INFEASIBLE: no point ...", with the conflict; else ""."""
        status, conflict = self.status, str(self._conflicts[0])
        if self.ok:
            return ""
        return f"{status.name}: {status.message_of(self.model.form.maximize)}{f'; {conflict}' if conflict else ''}"

    @cached_property
    def conflict(self) -> Any:
        """The constraints that contradict each other where the program is infeasible: as `binding`.

        Of small programs each is needed for that, which is checked; `failure` says so. Of others there may be more than needed.
        """
        names = [one.names for one in self._conflicts]
        return names if self.batch else names[0]

    @cached_property
    def _conflicts(self) -> list[Conflict]:
        return conflicts(self.model, self._tensors, self.known)

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch dimensions, () for one instance."""
        return tuple(self.known.status.shape)

    def at(self, *index: int) -> ProgramSolution:
        """One instance of a batch. Raises InputError if the index does not exist."""
        try:
            place = int(np.ravel_multi_index(index, self.batch)) if self.batch or index else 0
        except (ValueError, TypeError):
            raise InputError(
                f"{index} is not the index of an instance in a batch of shape {self.batch}", argument="index"
            ) from None
        return ProgramSolution(
            self.model, self._picked(index), replace(self.axes, batch=None), instance(self.known, place)
        )

    def _picked(self, index: tuple[int, ...]) -> Values:
        arrays = []
        for entry, value in zip(self.model.parameters, self.parameters.values(), strict=True):
            lead = value.shape[: value.ndim - len(entry.shape)]
            shared = index[len(index) - len(lead) :]
            arrays.append(value[tuple(0 if size == 1 else i for i, size in zip(shared, lead, strict=True))])
        return Values("parameter", self.model.parameters, arrays, self.axes)

    # Derivatives

    def jacobian(self, x: Key, wrt: Key) -> Array:
        """d x / d parameter, (*batch, *shape of x, *shape of the parameter): how every entry moves with every entry.

        NaN where an instance has no solution, as all derivatives are.
        Where the derivative is not unique, `dcl.DegenerateWarning` says so.
        """
        place = find(self.model.variables, x, "variable")
        return self.jacobian_by_place(place, find(self.model.parameters, wrt, "parameter"))

    def jacobian_by_place(self, variable: int, parameter: int) -> Array:
        """`jacobian` of the variable and in the parameter at these places of the model."""
        self._doubt(self.model.requested([variable]))
        return self._solved(derivatives.jacobian(self.model, self._tensors, self.known, variable, parameter))

    def derivative(self, direction: Mapping[Any, Any] | None = None, **named: Any) -> Values:
        """{parameter: change} -> {variable: change}, to first order: the derivative of every variable along a direction.

        named: changes by name, as in `derivative(demand=1.0)`.
        Changes of parameters that are not named are zero. A change may have batch dimensions.
        Raises InputError if a change has labels that are not those of the solution, or are in another order.
        """
        self._doubt(self.model.requested(range(len(self.model.variables))))
        moved = derivatives.pushed(self.model, self._tensors, self.known, self._direction(direction, named))
        variables = self.model.variables
        return Values("variable", variables, [self._solved(t) for t in moved[: len(variables)]], self.axes)

    def adjoint(self, cotangents: Mapping[Any, Any], wrt: Key | Sequence[Key] | None = None) -> Values:
        """{variable: weights} -> {parameter: gradient} of sum <weights, variable>, one gradient for each instance.

        wrt: a parameter, or a list of them; None for all.
        Raises InputError if weights have labels that are not those of the solution, or are in another order.
        """
        model = self.model
        example = f'{{"{model.variables[0].name}": weights}}' if model.variables else "{variable: weights}"
        pairs = named_values(cotangents, {}, "cotangents", "variable", example)
        seeds = self._read(pairs, model.variables, "variable")
        self._doubt(model.requested(list(seeds)))
        wanted = self._wanted(wrt)
        found = derivatives.pulled(model, self._tensors, self.known, seeds, wanted)
        return Values("parameter", [model.parameters[p] for p in wanted], [self._solved(t) for t in found], self.axes)

    def value_gradient(self, wrt: Key | Sequence[Key] | None = None) -> Values:
        """{parameter: gradient} of the optimal value, one for each instance; wrt: a parameter, or a list of them; None for all.

        It comes from the multipliers, without a solve (envelope theorem). At mu > 0 it is the gradient of the value at
        x(mu), computed as in `adjoint`.
        Where multipliers or solution are not unique the value has a kink, and `dcl.DegenerateWarning` says so.
        """
        model, wanted = self.model, self._wanted(wrt)
        if isinstance(self.known._mu, Tensor):
            place = len(model.variables) + len(model.duals)
            one = {place: torch.ones(self.batch, dtype=torch.float64)}
            found = derivatives.pulled(model, self._tensors, self.known, one, wanted)
        else:
            found = derivatives.value_gradient(model, self._tensors, self.known, wanted)
            self._report(*derivatives.value_degeneracy_of(model, self._tensors, self.known))
        slopes = [self._solved(t) for t in found]
        return Values("parameter", [model.parameters[p] for p in wanted], slopes, self.axes, self._slope_floor)

    def _slope_floor(self) -> float:
        """What is rounding in a gradient of the value; of a batch nothing is called so."""
        return 0.0 if self.batch else self.certain.slope

    def active_range(self, direction: Mapping[Any, Any] | None = None, **named: Any) -> tuple[Any, Any]:
        """(low, high): the parameters may move by t times the direction, low <= t <= high, with the same active constraints.

        named: the direction by name, as in `active_range(demand=1.0)`.
        -inf or inf if there is no limit; (*batch) arrays for a batch. Exact up to rounding, for linear and quadratic
        programs where the parameters that move enter the linear cost and the right-hand sides.

        Raises:
            UnsupportedError: another cone, mu > 0, or a direction that changes P or A.
            DegenerateError: the active constraints are not unique at this point; the message names them.
        """
        if not bool(self.known.ok.all()):
            raise InputError("active_range needs a solution in every instance; see .status", argument="direction")
        found = active_range(self.model, self._tensors, self._direction(direction, named), self.known)
        low, high = (t.reshape(self.batch) for t in found)
        return _plain(low), _plain(high)

    def sensitivity(self) -> Sensitivity:
        """Which entries of the parameters move the value and the solution most: a table, largest first.

        Without a solution all effects are NaN, and the text says what the instance is.
        Raises InputError for a batch: choose an instance with `.at(i)`.
        """
        if self.batch:
            raise InputError("sensitivity is a table of one instance: choose one with .at(i)", argument="self")
        # said once for all its derivatives; of the value only what is not the same
        found, context = derivatives.degeneracy_of(
            self.model, self._tensors, self.known, self.model.requested(range(len(self.model.variables)))
        )
        self._report(found, context)
        if not isinstance(self.known._mu, Tensor):
            of_value, context = derivatives.value_degeneracy_of(self.model, self._tensors, self.known)
            if bool((of_value.kind != found.kind).any()):
                self._report(of_value, context)
        return table_of(replace(self, model=self.model.with_settings(on_degenerate="ignore")))

    @property
    def gradient_kind(self) -> Any:
        """`dcl.GradientKind` of the variables' derivative in all parameters; integers (*batch) for a batch."""
        requested = self.model.requested(range(len(self.model.variables)))
        kinds = derivatives.degeneracy_of(self.model, self._tensors, self.known, requested)[0].kind
        return kinds.reshape(self.batch).numpy() if self.batch else GradientKind(int(kinds))

    def _doubt(self, requested: Requested) -> None:
        """Warn, or raise DegenerateError, where the derivative of what is requested is not EXACT."""
        if self.model.layer._engine.settings.on_degenerate != "ignore":
            self._report(*derivatives.degeneracy_of(self.model, self._tensors, self.known, requested))

    def _report(self, found: Degeneracy, context: AbstractCallContext) -> None:
        how = self.model.layer._engine.settings.on_degenerate
        if how != "ignore":
            report_degeneracy(context, how, found, self.known.status.reshape(-1), _SILENCE)

    def _solved(self, t: Tensor) -> Array:
        """A derivative (*batch, ...), NaN where an instance has no solution, and so no derivative."""
        ok = self.known.ok
        return _numpy(torch.where(ok.reshape((*self.batch, *[1] * (t.ndim - ok.ndim))), t.detach(), torch.nan))

    @cached_property
    def _tensors(self) -> list[Tensor]:
        """(*batch, *shape) of each parameter."""
        entries = self.model.parameters
        return [
            torch.from_numpy(np.array(np.broadcast_to(value, (*self.batch, *entry.shape))))
            for entry, value in zip(entries, self.parameters.values(), strict=True)
        ]

    def _read(self, values: Sequence[tuple[Any, Any]], entries: Sequence[Entry], what: str) -> dict[int, Tensor]:
        """(*batch, *shape) for each place that is named. Raises InputError (shape; labels that are not the solution's)."""
        found = {}
        for key, value in values:
            place = find(entries, key, what)
            if place in found:
                raise InputError(f"{what} {entries[place].name} is given twice", argument=entries[place].name)
            found[place] = given(value, entries[place])
        axes([entries[place] for place in found], list(found.values()), self.axes)
        return {place: self._expanded(value, entries[place]) for place, value in found.items()}

    def _expanded(self, value: Given, entry: Entry) -> Tensor:
        try:
            return torch.from_numpy(np.array(np.broadcast_to(value.array, (*self.batch, *entry.shape))))
        except ValueError:
            raise InputError(
                f"{entry.name} has shape {value.array.shape}; it must be {entry.shape}, with or without "
                f"the batch dimensions {self.batch} in front",
                argument=entry.name,
            ) from None

    def _direction(self, direction: Mapping[Any, Any] | None, named: Mapping[str, Any]) -> list[Tensor]:
        example = next((f'{{"{entry.name}": change}}' for entry in self.model.parameters), "{parameter: change}")
        pairs = named_values(direction, named, "direction", "parameter", example)
        if direction is None and not named:
            raise InputError(f"a direction is missing: give a dict, as in {example}", argument="direction")
        moved = self._read(pairs, self.model.parameters, "parameter")
        return [moved[place] if place in moved else torch.zeros_like(t) for place, t in enumerate(self._tensors)]

    def _wanted(self, wrt: Key | Sequence[Key] | None) -> list[int]:
        return find_all(self.model.parameters, wrt, "parameter")

    # For people

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame: a row for each entry of each variable and multiplier; for a batch, for each instance."""
        from dcl.programs.frames import frame

        return frame(self)

    def to_xarray(self) -> xr.Dataset:
        """An xarray Dataset with a variable for each variable of the program. Needs the extra "programs"."""
        from dcl.programs.frames import dataset

        return dataset(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the variables, into a file or as a matplotlib Figure. Needs the extra "programs"."""
        from dcl.programs.figure import draw_solution

        return draw_solution(self, path)

    def __repr__(self) -> str:
        known = self.known
        worst = torch.stack([known.primal_residual, known.dual_residual, known.gap])
        if self.batch:
            counts = {one.name: int((known.status == one).sum()) for one in Status}
            shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no instance"
            solved = worst.amax(0)[known.ok]
            residual = f"; worst residual {float(solved.max()):.0e}" if solved.numel() else ""
            names = ", ".join(f"{entry.name} {(*self.batch, *entry.shape)}" for entry in self.model.variables)
            return f"ProgramSolution: {shown}{residual}\n{names}"
        status = Status(int(known.status))
        if status != Status.OPTIMAL:
            why = status.message_of(self.model.form.maximize)
            return "\n".join(filter(None, [f"ProgramSolution: {status.name}", why, str(self._conflicts[0])]))
        solver = known.solvers[int(known.solver)] if known.solvers else ""
        outputs, value, _ = self.certain
        head = (
            f"ProgramSolution: {status.name}, value {number(value)}; worst residual {float(worst.max()):.0e}, {solver}"
        )
        pairs = list(zip(self.model.variables, outputs, strict=False))
        rows = [[entry.name, sizes(entry.shape), self.on_a_line(entry, array)] for entry, array in pairs]
        lines = [head, table(["variable", "shape", "value"], rows[:_SHOWN], left=3)]
        if len(rows) > _SHOWN:
            lines.append(f"... and {len(rows) - _SHOWN} more variables")
        lines.append("binding: " + ("; ".join(self.binding) or "nothing"))
        return "\n".join(lines)

    @cached_property
    def certain(self) -> Certain:
        """Of one instance, for tables: variables, multipliers and value, with 0 for what is only rounding."""
        return certain(self.model, self._tensors, self.known)

    def on_a_line(self, entry: Entry, array: Array, digits: int = 5) -> str:
        """An array of this variable or multiplier, with labels where a pandas object gave some to a short vector."""
        return labelled(array, self.axes.of(entry)[0] if len(entry.shape) == 1 else (), digits)


def _numpy(t: Tensor) -> Array:
    return np.array(t.detach().numpy())


def _plain(t: Tensor) -> Any:
    return np.array(t.numpy()) if t.ndim else t.item()

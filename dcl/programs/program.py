"""`ParametricProgram`: a CVXPY problem that is solved many times, from NumPy or pandas, with its sensitivities."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import torch
from torch import Tensor

from dcl.errors import InputError
from dcl.frontends.arguments import check_known
from dcl.programs import sweep as sweeping
from dcl.programs.model import model_of
from dcl.programs.names import Array, Key, Values, find, find_all
from dcl.programs.results import Sweep
from dcl.programs.sensitivity import Sensitivity
from dcl.programs.solution import ProgramSolution
from dcl.programs.values import Given, axes, columns, given
from dcl.solvers.base import AbstractSolver

if TYPE_CHECKING:
    import cvxpy as cp
    import pandas as pd

_SETTINGS = ("mu", "solver", "solver_args", "gp", "on_failure", "on_degenerate", "reduce")

At = ProgramSolution | Mapping[Any, Any] | None


class ParametricProgram:
    """A parametrized CVXPY problem, canonicalized once, then solved and differentiated for any values of its parameters.

    NumPy arrays, numbers, lists, pandas objects or torch tensors go in, by parameter object or by name; NumPy comes out.
    Every answer is checked by dcl, as in `dcl.CvxpyLayer`; derivatives are those of the KKT conditions, exact where the
    solution map is differentiable.  Batch dimensions lead and broadcast: many instances are solved in one call.

    Args:
        problem: a DPP problem; it is only read. If a call does not name a parameter, its current `.value` is used.
        mu: log-barrier parameter, 0 for the exact solution; see `dcl.CvxpyLayer`.
        solver, solver_args: as in `dcl.CvxpyLayer`. With solver None dcl chooses.
        gp: True for a geometric program.
        on_failure: "raise" (`SolveError`), "nan" (failed instances are NaN), "last" (they are the solver's last point).
        on_degenerate: "warn", "raise" or "ignore": what to do if a derivative that you ask for is not EXACT.
        reduce: let the compiled core solve a smaller program with the same solutions; see `dcl.CvxpyLayer`.

    Raises:
        DppError, UnsupportedError, InputError, OptionError: as `dcl.CvxpyLayer`.

    Example:
        >>> import cvxpy as cp, dcl
        >>> w, mu, gamma = cp.Variable(2, name="w"), cp.Parameter(2, name="mu"), cp.Parameter(nonneg=True, name="gamma")
        >>> problem = cp.Problem(cp.Minimize(gamma * cp.sum_squares(w) - mu @ w), [cp.sum(w) == 1, w >= 0])
        >>> program = dcl.ParametricProgram(problem)
        >>> solution = program.solve(mu=[0.5, 0.1], gamma=1.0)
        >>> solution["w"].round(6).tolist()
        [0.6, 0.4]
        >>> solution.jacobian(w, wrt=mu).round(6).tolist()
        [[0.25, -0.25], [-0.25, 0.25]]
    """

    def __init__(
        self,
        problem: cp.Problem,
        *,
        mu: float | Tensor = 0.0,
        solver: str | AbstractSolver | None = None,
        solver_args: dict[str, object] | None = None,
        gp: bool = False,
        on_failure: str = "raise",
        on_degenerate: str = "warn",
        reduce: bool = True,
        **unknown: Never,
    ) -> None:
        check_known("ParametricProgram", ParametricProgram.__init__, unknown)
        self._model = model_of(
            problem,
            solver=solver,
            solver_args=solver_args,
            gp=gp,
            mu=mu,
            on_failure=on_failure,
            on_degenerate=on_degenerate,
            reduce=reduce,
        )
        self._leaves: list[Any] = problem.parameters()

    def with_labels(self, labels: Mapping[str, Sequence[str]]) -> ParametricProgram:
        """The same program with labels for the entries of vectors, shown in tables; labels of values must be these.

        labels: by the name of a parameter or variable, or "dual of ..." of a multiplier, one for each entry.

        Raises InputError for an unknown name, and where there is not one label for each entry of a vector.
        """
        program = copy.copy(self)
        program._model = self._model.with_labels(labels)
        return program

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter; parameters with one name are "k (1)", "k (2)"."""
        return {entry.name: entry.shape for entry in self._model.parameters}

    @property
    def variables(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each variable."""
        return {entry.name: entry.shape for entry in self._model.variables}

    def solve(
        self, values: Mapping[Any, Any] | None = None, start: ProgramSolution | None = None, /, **named: Any
    ) -> ProgramSolution:
        """Solve for values of the parameters, as in `solve({mu: [1.0, 2.0]})` or `solve(mu=[1.0, 2.0], gamma=0.3)`.

        Args:
            values: value of each parameter, (*batch, *shape), by object or name. If one is missing, its `.value` is used.
            start: a solution of this program and of the same batch. The solver starts there, if it can.
            named: values by name.

        Raises:
            InputError, DtypeError: name the parameter and what is wrong with it.  SolveError: as `on_failure` says.
        """
        found = self._given(values, named)
        entries = self._model.parameters
        labels = axes(entries, found)
        tensors = [torch.from_numpy(one.array) for one in found]
        layer = self._model.with_settings(on_degenerate="ignore").layer
        known = layer.solve(*tensors, warm_start=None if start is None else start.known)
        parameters = Values("parameter", entries, [one.array for one in found], labels)
        return ProgramSolution(self._model, parameters, labels, known)

    def sweep(
        self,
        values: Mapping[Any, Any] | pd.DataFrame | None = None,
        *,
        gradient: object = None,
        wrt: Key | Sequence[Key] | None = None,
        progress: bool = True,
        path: str | Path | None = None,
        backend: str | None = None,
        workers: int | None = None,
        **named: Any,
    ) -> Sweep:
        """Solve for many values. Each row has its own status; a row without a solution is not an error.

        Args:
            values: by parameter object or name: (rows, *shape) where swept, (*shape) where not. If one is missing, its
                `.value` is used. A DataFrame has a row for each row of the sweep and a column for each parameter that
                is a number.
            gradient: "value" for the gradient of the optimal value in the parameters, or {variable: weights} for that of
                sum <weights, variable>; None for none.
                Where it is not exact, `Sweep.gradient_kind` says so, and one `DegenerateWarning` (see on_degenerate).
            wrt: the parameter of the gradient, or a list of them; None for all.
            progress: show a bar where stderr is a terminal.
            path: a folder for finished chunks. A sweep that was stopped continues from there. The folder of another sweep
                is an error.
            backend: None for this process, or a backend of joblib for many: "loky", "threading", "dask" (with a Client) or
                "ray" (registered). If a worker dies, its chunks are solved again.
            workers: their number, None for all that the backend has.
            named: values by name, as in `solve`. A parameter that is called like an argument above goes into `values`.

        Raises:
            InputError, DtypeError: before anything is solved; name the parameter and the row.
        """
        found = self._given(columns(values, self._model.parameters), named, "sweep")
        model, entries = self._model, self._model.parameters
        wanted = None if wrt is None else find_all(entries, wrt, "parameter")
        labels = axes(entries, found)
        job = sweeping.job(model, found, labels, gradient, wanted)
        chunk = sweeping.run(job, progress=progress, path=path, backend=backend, workers=workers)
        sweeping.report(chunk, model)
        return Sweep(
            model,
            Values("parameter", entries, [one.array for one in found], labels),
            tuple(entry.name for entry, swept in zip(entries, job.work.swept, strict=True) if swept),
            labels,
            chunk,
            Values("parameter", [entries[p] for p in job.work.wanted], chunk.gradients, labels),
        )

    def _given(self, values: object, named: Mapping[str, Any], call: str = "solve") -> list[Given]:
        if values is not None and not isinstance(values, Mapping):
            raise InputError(
                f"values must be a dict {{parameter: value}}, got {type(values).__name__}; or give values by name, as in "
                f"{call}({next(iter(self.parameters), 'name')}=...)",
                argument="values",
            )
        entries = self._model.parameters
        chosen: dict[int, Given] = {}
        for key, value in [*(values or {}).items(), *named.items()]:
            if (
                isinstance(key, str)
                and key in _SETTINGS
                and all(key not in (entry.name, entry.shared) for entry in entries)
            ):
                raise InputError(
                    f"{key} is not a parameter but a setting of the program: ParametricProgram(problem, {key}=...)",
                    argument=str(key),
                )
            place = find(entries, key, "parameter")
            if place in chosen:
                raise InputError(f"parameter {entries[place].name} is given twice", argument=entries[place].name)
            chosen[place] = given(value, entries[place])
        return [chosen.get(place) or self._own(place) for place in range(len(entries))]

    def _own(self, place: int) -> Given:
        """The `.value` of a parameter that a call does not name."""
        entry, value = self._model.parameters[place], self._leaves[place].value
        if value is None:
            how = f"solve({entry.name}=...)" if entry.name.isidentifier() else "solve({parameter: ...})"
            raise InputError(
                f"parameter {entry.name} has no value: give one, as in {how}, or set its .value",
                argument=entry.name,
            )
        return given(value, entry)

    def _at(self, at: At) -> ProgramSolution:
        return at if isinstance(at, ProgramSolution) else self.solve(at)

    # The derivatives of `ProgramSolution`, at the parameters' own values or where `at` says

    def jacobian(self, x: Key, wrt: Key, at: At = None) -> Array:
        """`ProgramSolution.jacobian`. at: a solution, or values to solve for first, or None for the `.value`s."""
        return self._at(at).jacobian(x, wrt)

    def derivative(self, direction: Mapping[Any, Any] | None = None, at: At = None, **named: Any) -> Values:
        """`ProgramSolution.derivative`; at: as in `jacobian`."""
        return self._at(at).derivative(direction, **named)

    def adjoint(self, cotangents: Mapping[Any, Any], at: At = None, wrt: Key | Sequence[Key] | None = None) -> Values:
        """`ProgramSolution.adjoint`; at: as in `jacobian`."""
        return self._at(at).adjoint(cotangents, wrt)

    def value_gradient(self, at: At = None, wrt: Key | Sequence[Key] | None = None) -> Values:
        """`ProgramSolution.value_gradient`; at: as in `jacobian`."""
        return self._at(at).value_gradient(wrt)

    def sensitivity(self, at: At = None) -> Sensitivity:
        """`ProgramSolution.sensitivity`; at: as in `jacobian`."""
        return self._at(at).sensitivity()

    def active_range(self, direction: Mapping[Any, Any] | None = None, at: At = None, **named: Any) -> tuple[Any, Any]:
        """`ProgramSolution.active_range`; at: as in `jacobian`."""
        return self._at(at).active_range(direction, **named)

    def __repr__(self) -> str:
        def listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
            return ", ".join(f"{name} {shape}" if shape else name for name, shape in shapes.items()) or "none"

        structure = self._model.form.structure
        return (
            f"ParametricProgram(parameters: {listed(self.parameters)}; variables: {listed(self.variables)}; "
            f"{len(self._model.constraints)} constraints; canonical n={structure.n}, m={structure.m})"
        )

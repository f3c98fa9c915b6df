"""The layer behind a program: a `CvxpyLayer` that returns every variable, every dual variable and the optimal value.

Outputs of the layer, in this order: the variables, the dual variables of the constraints that have one, the value.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dcl.errors import InputError, UnsupportedError
from dcl.frontends.cvxpy.form import CanonicalForm
from dcl.layers.base import Plan, Stated
from dcl.layers.cvxpy import CvxpyLayer
from dcl.layers.engine import Engine
from dcl.point.asked import Requested
from dcl.programs.names import Entry, distinct, find
from dcl.solvers.base import AbstractSolver

if TYPE_CHECKING:
    import cvxpy as cp


@dataclass(frozen=True)
class Constraint:
    """A constraint of the user: CVXPY's id, label ("" for none), text, the places of its duals among `Model.duals`."""

    id: int
    label: str
    text: str
    duals: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Model:
    """The layer, and the names of what goes in and comes out. It keeps no CVXPY object, so that it can be pickled."""

    layer: CvxpyLayer
    parameters: tuple[Entry, ...]
    variables: tuple[Entry, ...]
    duals: tuple[Entry, ...]
    constraints: tuple[Constraint, ...]

    @property
    def form(self) -> CanonicalForm:
        """The canonical program."""
        return self.layer._form

    @property
    def mu(self) -> float | Tensor:
        """The barrier parameter."""
        return self.layer._engine.settings.mu

    def stated(self, tensors: Sequence[Tensor]) -> tuple[Stated, Plan]:
        """The canonical program for one tensor per parameter, differentiable in them."""
        arguments = {str(p): t for p, t in enumerate(tensors)}
        plan = self.layer._plan(arguments)
        return self.layer._state(arguments, plan), plan

    def requested(self, variables: Sequence[int], duals: Sequence[int] = ()) -> Requested:
        """Which entries of x (n,) and z (m,) hold these variables and duals: only they can be doubtful."""
        form = self.form
        x, z = (torch.zeros(size, dtype=torch.bool, device="cpu") for size in (form.structure.n, form.structure.m))
        for place in (*variables, *(len(self.variables) + i for i in duals)):
            output = form.outputs[place]
            whole = slice(output.start, output.start + math.prod(output.shape))
            entries = whole if output.index is None else output.index
            (z if output.dual else x)[entries] = True
        return Requested(x, z)

    def duals_of(self, constraint: object) -> tuple[int, ...]:
        """Places among `duals` of a constraint: the CVXPY object, its position in the problem, or its label.

        Raises InputError if there is no such constraint, or it has no dual variable in the cone program.
        """
        if isinstance(constraint, int) and 0 <= constraint < len(self.constraints):
            place = constraint
        else:
            known = [Entry(one.id, one.label or f"{k} ({one.text})", ()) for k, one in enumerate(self.constraints)]
            place = find(known, str(constraint) if isinstance(constraint, int) else constraint, "constraint")
        if not self.constraints[place].duals:
            raise InputError(f"constraint {place} has no dual variable in the cone program", argument="constraint")
        return self.constraints[place].duals

    def with_labels(self, labels: Mapping[str, Sequence[str]]) -> Model:
        """The same model with labels for the entries of parameters, variables and duals, by their names.

        Raises InputError for an unknown name, and where there is not one label for each entry of a vector.
        """
        shapes = {entry.name: entry.shape for entry in (*self.parameters, *self.variables, *self.duals)}
        for name, those in labels.items():
            if name not in shapes:
                raise InputError(f"labels: {name!r} is none of {', '.join(shapes)}", argument="labels")
            if shapes[name] != (len(those),) or len(set(those)) != len(those):
                raise InputError(
                    f"labels: {name} has shape {shapes[name]}, so it needs one label for each entry of a vector, all different; "
                    f"got {len(set(those))} different ones",
                    argument="labels",
                )

        def named(entries: Sequence[Entry]) -> tuple[Entry, ...]:
            return tuple(replace(entry, labels=tuple(labels.get(entry.name, ()))) for entry in entries)

        return replace(
            self, parameters=named(self.parameters), variables=named(self.variables), duals=named(self.duals)
        )

    def with_settings(self, **settings: Any) -> Model:
        """The same model with these settings of its layer, such as on_failure, over its own."""
        layer = copy.copy(self.layer)
        layer._engine = Engine(replace(layer._engine.settings, **settings))
        return replace(self, layer=layer)


def model_of(
    problem: cp.Problem,
    *,
    solver: str | AbstractSolver | None,
    solver_args: dict[str, Any] | None,
    gp: bool,
    **settings: Any,
) -> Model:
    """The model of a problem; settings: mu, on_failure, on_degenerate. Raises as `CvxpyLayer` does."""
    if not isinstance(getattr(problem, "constraints", None), list):
        raise InputError(f"problem must be a cvxpy.Problem, got {type(problem).__name__}", argument="problem")
    from dcl.frontends.cvxpy.labels import written  # imports CVXPY, which `import dcl` does not need

    parameters, variables = problem.parameters(), problem.variables()

    def layer(duals: Sequence[Any]) -> CvxpyLayer:
        outputs = [*variables, *duals, problem.objective]
        return CvxpyLayer(problem, parameters, outputs, solver, gp, solver_args=solver_args, **settings)

    owners = dict(enumerate(problem.constraints))
    try:
        made = layer([dual for owner in owners.values() for dual in owner.dual_variables])
    except UnsupportedError:
        layer([])  # raises where it is the problem itself
        owners = {place: owner for place, owner in owners.items() if _has_dual(layer, owner)}
        made = layer([dual for owner in owners.values() for dual in owner.dual_variables])
    duals: list[Entry] = []
    constraints = []
    for place, constraint in enumerate(problem.constraints):
        own = constraint.dual_variables if place in owners else []
        places = tuple(range(len(duals), len(duals) + len(own)))
        constraints.append(Constraint(constraint.id, constraint.label or "", written(constraint), places))
        owner = f" of {constraint.label or written(constraint)}"
        # of a cone with several parts they are dual 0, dual 1, ...
        parts = ["dual"] if len(own) == 1 else [f"dual {k}" for k in range(len(own))]
        duals += [Entry(dual.id, part + owner, dual.shape, owner=owner) for dual, part in zip(own, parts, strict=True)]
    return Model(made, _entries(parameters), _entries(variables), distinct(duals), tuple(constraints))


def _has_dual(layer: Callable[[Sequence[Any]], CvxpyLayer], constraint: Any) -> bool:
    try:
        layer(constraint.dual_variables)
    except UnsupportedError:
        return False
    return True


def _entries(leaves: Sequence[Any]) -> tuple[Entry, ...]:
    return distinct([Entry(leaf.id, leaf.name(), tuple(leaf.shape)) for leaf in leaves])

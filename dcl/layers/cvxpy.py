"""A parametrized CVXPY problem as a torch layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never

import torch
from torch import Tensor

from dcl.cones.named import describe
from dcl.core.conic import conic_core
from dcl.errors import InputError
from dcl.frontends.arguments import check_known
from dcl.frontends.batching import batching
from dcl.frontends.constants import TensorLike, as_tensors
from dcl.frontends.cvxpy import CanonicalForm
from dcl.layers.base import AbstractLayer, Arguments, Plan, Stated
from dcl.layers.calls import CvxpyCall
from dcl.layers.cone_lane import ConicWay
from dcl.layers.cvxpy_lane import cvxpy_map, is_direct
from dcl.layers.either_way import either
from dcl.layers.engine import Engine, LayerPoint, Settings, options
from dcl.layers.lane import AbstractWay, direct
from dcl.layers.reduced_lane import Reductions, reduced_way
from dcl.layers.vertex import Linear
from dcl.outcome.messages import AbstractCallContext, check_finite
from dcl.outcome.solution import Solution
from dcl.point.asked import Moving, Requested
from dcl.program import ConeProgram
from dcl.program.pattern import AbstractPattern
from dcl.program.reduction.plan import Reduction
from dcl.program.rows import Rows
from dcl.solvers.base import AbstractSolver

if TYPE_CHECKING:
    import cvxpy as cp


@dataclass(frozen=True, eq=False)
class _Context(AbstractCallContext):
    form: CanonicalForm

    @property
    def quadratic(self) -> str:
        names = [self.form.domains[p].name for p in sorted(self.form.map_P.touching) if p < len(self.form.domains)]
        return "the quadratic form of " + (", ".join(names) if names else "the objective")

    @property
    def maximize(self) -> bool:
        return self.form.maximize

    def check(self, program: ConeProgram, given: Sequence[Tensor]) -> None:
        for p, t in enumerate(given):
            name = self.form.domains[p].name
            check_finite(self, t, name)
            try:
                self.form.check_domain(t, p)
            except InputError as error:
                raise self._renamed(error, t) from None

    def _renamed(self, error: InputError, t: Tensor) -> InputError:
        """The same error with the index in the caller's batch instead of the flattened one."""
        index = self.index_in(t, error.index[0])
        text = str(error).rsplit(" at batch index ", 1)[0]
        return InputError(f"{text} at batch index {index}" if index else text, argument=error.argument, index=index)

    def describe_row(self, row: int) -> str:
        return self.form.describe_row(row)


def _requested(form: CanonicalForm, with_value: bool) -> Requested:
    """Which entries of x and z the outputs read; the value by its slopes, x x' in P, x in q, z x' in A, z in b."""
    x, z = (torch.zeros(size, dtype=torch.bool, device="cpu") for size in (form.structure.n, form.structure.m))
    for output in form.outputs:
        place = slice(output.start, output.start + math.prod(output.shape)) if output.index is None else output.index
        (z if output.dual else x)[place] = True
    if with_value:
        structure = form.structure
        x |= form.map_q.varying
        z |= form.map_b.varying
        for entries, pattern, rows in ((form.map_P.varying, structure.P, x), (form.map_A.varying, structure.A, z)):
            i, j = (torch.from_numpy(place)[entries] for place in pattern.coordinates())
            rows[i], x[j] = True, True
    return Requested(x, z)


def _moving(form: CanonicalForm) -> Moving:
    """The data that depend on parameters."""

    def entries(varying: Tensor, pattern: AbstractPattern) -> tuple[Tensor, Tensor]:
        i, j = (torch.from_numpy(place)[varying] for place in pattern.coordinates())
        return i, j

    structure = form.structure
    P, A = entries(form.map_P.varying, structure.P), entries(form.map_A.varying, structure.A)
    return Moving(P, form.map_q.varying, A, form.map_b.varying)


def _as_a_list(leaf: object, letter: str) -> str:
    """What to write where one parameter or variable was passed instead of a list."""
    name = getattr(leaf, "name", None)
    return f": pass a list, [{name()}] or [{letter}]" if callable(name) else f", as in [{letter}]"


class CvxpyLayer(AbstractLayer):
    """The solution of a parametrized CVXPY problem as a function of its parameters, differentiable.

    A drop-in for `cvxpylayers.torch.CvxpyLayer`: the same arguments, the same call.  Every answer is checked, gradients
    are those of the KKT conditions of the canonical cone program (Agrawal et al. 2019, Differentiable convex
    optimization layers, without its homogeneous embedding), exact where the solution map is differentiable.

    Args:
        problem: a `cvxpy.Problem` that is DPP; parametric `quad_form(x, P)` in the objective is allowed.  The layer
            only reads it and does not keep it.
        parameters: all parameters of the problem, in the order of the call.
        variables: what to return, in this order: variables, dual variables (`constraint.dual_variables[0]`, with CVXPY's
            signs), or `problem.objective`, for the optimal value.
        solver: name ("DAQP", "PIQP", "OSQP", "CLARABEL", "SCS"; the names of cvxpylayers are understood), an object such as
            `dcl.solvers.Clarabel(eps=1e-9)`, or None: dcl chooses by the rule of `dcl.solvers.choose`.
        gp: True for a geometric program.
        verbose: print a line about each call, and let the solver print.
        canon_backend: CVXPY's canonicalization backend.
        solver_args: options of the solver: eps, max_iters, time_limit (seconds per instance), verbose, and its own options.
        mu: log-barrier parameter, 0 for the exact solution. A float, or a tensor with one entry >= 0 for each instance. A
            tensor may require a gradient.
        on_failure: what to do about an instance without a checked solution. "raise": a `SolveError`. "nan": it is NaN, and
            its gradient is zero. "last": it is the solver's last point (zeros if there is none), and its gradient is zero.
        on_degenerate: what to do where the derivative is not EXACT (`dcl.GradientKind`): "warn" (once per layer), "raise" or
            "ignore".
        straight_through: return the exact solution with the derivative of x(mu), mu > 0. This is biased: solution and
            derivative belong to different functions.
        reduce: let the compiled core solve a smaller program with the same solutions, where that is faster
            (`dcl.program.reduction`). Every answer is checked on the original program.

    Raises:
        DppError: the problem is not DPP; the message shows where.  UnsupportedError: a cone or attribute that dcl does
        not handle.  InputError: parameters or variables do not match the problem.  OptionError: unknown solver or option.

    Example:
        >>> import cvxpy as cp, torch, dcl
        >>> x, t = cp.Variable(3), cp.Parameter(3)
        >>> layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [cp.sum(x) == 1, x >= 0]), [t], [x])
        >>> (y,) = layer(torch.tensor([[0.5, 0.3, 0.5]], requires_grad=True))
        >>> y.detach()
        tensor([[0.4000, 0.2000, 0.4000]])
    """

    __call__: CvxpyCall

    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[cp.Variable],
        solver: str | AbstractSolver | None = None,
        gp: bool = False,
        verbose: bool = False,
        canon_backend: str | None = None,
        solver_args: dict[str, object] | None = None,
        *,
        mu: float | Tensor = 0.0,
        on_failure: str = "raise",
        on_degenerate: str = "warn",
        straight_through: bool = False,
        reduce: bool = True,
        **unknown: Never,
    ) -> None:
        super().__init__()
        check_known("CvxpyLayer", CvxpyLayer.__init__, unknown)
        if not isinstance(variables, Sequence) or isinstance(variables, str) or not variables:
            raise InputError(
                f"variables must be a list with at least one entry{_as_a_list(variables, 'x')}", argument="variables"
            )
        if not isinstance(parameters, Sequence) or isinstance(parameters, str):
            raise InputError(f"parameters must be a list{_as_a_list(parameters, 't')}", argument="parameters")
        # the objective itself may be asked for: its value, at these places among the outputs
        self._values = tuple(i for i, v in enumerate(variables) if v is getattr(problem, "objective", None))
        others = [v for i, v in enumerate(variables) if i not in self._values]
        from dcl.frontends.cvxpy.canonicalize import canonicalize  # imports cvxpy

        self._form = canonicalize(problem, parameters, others, gp=gp, canon_backend=canon_backend)
        self._requested = _requested(self._form, bool(self._values))
        self._moving = _moving(self._form)
        self._reductions = Reductions(self._form, self._requested) if reduce else None
        args = options(solver_args, verbose)
        self._enroll(Engine(Settings(solver, args, mu, on_failure, on_degenerate, straight_through)))
        self._engine.check_cones(self._form.structure.cone)

    def forward(
        self,
        *params: TensorLike,
        solver_args: dict[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        straight_through: bool | None = None,
        return_solution: bool = False,
        **named: TensorLike,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...], Solution]:
        """The requested variables, (*batch, *shape) each, for one tensor (*batch, *shape) per parameter.

        Parameters are given in order, or by name, as in `layer(t=...)`. NumPy arrays, pandas objects and numbers are constants,
        in the dtype of the tensors. There may be any number of batch dimensions; they broadcast. The gradient of a tensor
        without batch dimensions is the sum over the batch. dcl computes in float64; outputs have the dtype and the device of
        the arguments.

        Args:
            params: the parameters, in the order of the layer.
            named: parameters by name.
            solver_args: options for this call; they override those of the layer.
            warm_start: a `Solution` of the same batch to start from. True and False are accepted and ignored.
            mu: barrier parameter for this call.
            straight_through: as in the layer, for this call.
            return_solution: return `(outputs, Solution)`.

        Raises:
            InputError, DtypeError: name the parameter and the batch index.  SolveError, DegenerateError: as `on_failure` and
            `on_degenerate` say.
        """
        domains = self._form.domains
        if named:
            params = self._in_order(params, named)
        if len(params) != len(domains):
            names = ", ".join(domain.name for domain in domains)
            raise InputError(
                f"A tensor must be provided for each CVXPY parameter: the layer takes {len(domains)} tensors ({names}), "
                f"got {len(params)}"
            )
        arguments: dict[str, Any] = {str(p): t for p, t in enumerate(params)}  # names may repeat
        if not all([isinstance(t, Tensor) for t in params]):
            arguments = dict(as_tensors(arguments, {str(p): domain.name for p, domain in enumerate(domains)}))
        outputs, solution = self._call(
            arguments,
            solver_args=solver_args,
            warm_start=warm_start,
            mu=mu,
            straight_through=straight_through,
            return_solution=return_solution,
        )
        return outputs if solution is None else (outputs, solution)

    def _in_order(self, params: Sequence[TensorLike], named: Mapping[str, TensorLike]) -> tuple[TensorLike, ...]:
        """The parameters in the order of the layer, for some by position and the others by name. Raises InputError."""
        names = [domain.name for domain in self._form.domains]
        for name in named:
            if names.count(name) != 1:
                what = "is not a parameter" if name not in names else "is the name of several parameters"
                raise InputError(f"{name!r} {what} of the layer; its parameters: {', '.join(names)}", argument=name)
            if names.index(name) < len(params):
                raise InputError(f"{name} is given by position and by name", argument=name)
        rest = names[len(params) :]
        missing = [name for name in rest if name not in named]
        if missing:
            raise InputError(
                f"A tensor must be provided for each CVXPY parameter: {missing[0]} is missing", argument=missing[0]
            )
        return *params, *(named[name] for name in rest)

    def extra_repr(self) -> str:
        structure = self._form.structure
        outputs = [f"{output.name} {output.shape}" for output in self._form.outputs]
        for place in self._values:
            outputs.insert(place, "value")
        parameters = ", ".join(f"{domain.name} {domain.shape}" for domain in self._form.domains)
        return (
            f"parameters=[{parameters}], outputs=[{', '.join(outputs)}], n={structure.n}, m={structure.m}, "
            f"cones=[{describe(structure.cone.blocks)}], {self._reduced()}{self._engine.settings.describe()}"
        )

    def _reduced(self) -> str:
        """As in "reduced=[n=10, m=1, bounds=10], ", the size of what the core solves at mu = 0; "" where that is the same."""
        found = self._reduction(exact=True)
        return "" if found is None else "reduced=[n={}, m={}, bounds={}], ".format(*found.after)

    def _reduction(self, exact: bool) -> Reduction | None:
        """The reduction of its programs at mu = 0 (exact) or mu > 0, None where there is none."""
        if self._reductions is None or not is_direct(self._form):
            return None
        return self._reductions.exact if exact else self._reductions.on_path

    def _cores(self) -> Mapping[str, int]:
        return {str(p): len(domain.shape) for p, domain in enumerate(self._form.domains)}

    @property
    def _names(self) -> tuple[str, ...]:
        names = [output.name for output in self._form.outputs]
        for place in self._values:
            names.insert(place, "value")
        return tuple(names)

    @property
    def _has_own_x(self) -> bool:
        return False

    def _shown(self, name: str) -> str:
        return self._form.domains[int(name)].name

    def _plan(self, arguments: Arguments) -> Plan:
        form = self._form
        pairs = list(zip(form.domains, arguments.values(), strict=True))
        batch = batching((domain.name, t, len(domain.shape)) for domain, t in pairs)
        for domain, t in pairs:
            if tuple(t.shape[t.ndim - len(domain.shape) :]) != domain.shape:
                raise InputError(
                    f"Invalid parameter shape: parameter {domain.name} must have shape "
                    f"(*batch, {', '.join(map(str, domain.shape))}), got {tuple(t.shape)}",
                    argument=domain.name,
                )
        shapes = [output.shape for output in form.outputs]
        for place in self._values:
            shapes.insert(place, ())
        return Plan(batch, tuple(shapes), form.structure.n, form.structure.m)

    def _way(self, arguments: Arguments, plan: Plan, exact: bool) -> AbstractWay | None:
        pairs = zip(arguments.values(), self._form.domains, strict=True)
        shared = tuple(math.prod(t.shape[: t.ndim - len(domain.shape)]) == 1 for t, domain in pairs)
        dtype = next(iter(arguments.values())).dtype
        reductions = self._reductions
        way = None if reductions is None else reduced_way(reductions, exact, self._values, shared, dtype)
        found = cvxpy_map(self._form, self._values, shared, dtype)
        if found is None:
            return way
        if self._form.structure.cone.is_orthant:
            as_given = direct(found, plan.m)
            return either(way, as_given, plan.batch.size) if way and as_given else way or as_given
        core = conic_core(self._form.structure.cone.blocks, plan.n)
        given = None if core is None else ConicWay(found, core, Rows())
        return either(way, given, plan.batch.size) if way and given else way or given

    def _linear(self, arguments: Arguments) -> Linear | None:
        form = self._form
        quadratic = bool(form.map_P.touching) or bool(form.map_P.offset.any())
        if quadratic or not form.structure.cone.is_orthant:
            return None
        costs = form.parameters_of(form.map_q) - form.parameters_of(form.map_A) - form.parameters_of(form.map_b)
        entries = [not output.dual for output in form.outputs]
        for place in self._values:
            entries.insert(place, False)
        return Linear(
            {str(p): form.domains[p].name for p in sorted(costs)}, [i for i, is_x in enumerate(entries) if is_x]
        )

    def _state(self, arguments: Arguments, plan: Plan) -> Stated:
        form, batch = self._form, plan.batch
        given = [batch.merge(t, len(domain.shape)) for t, domain in zip(arguments.values(), form.domains, strict=True)]
        program, d = form.program([form.flatten(t.to(torch.float64), p) for p, t in enumerate(given)])
        context = _Context(batch.shape, form, rows=Rows(free=form.free), seen=form.seen)
        return Stated(program.expanded(batch.size), d, context, given)

    def _outputs(self, stated: Stated, plan: Plan, point: LayerPoint) -> tuple[Tensor, ...]:
        found = list(self._form.extract(point.x, point.z))
        for place in self._values:
            found.insert(place, self._value(stated, point))
        return tuple(found)

    def _value(self, stated: Stated, point: LayerPoint) -> Tensor:
        return self._form.value(stated.program, torch.as_tensor(stated.d, device=point.x.device), point.x)

    def solve(
        self,
        *params: TensorLike,
        solver_args: dict[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        **named: TensorLike,
    ) -> Solution:
        """The `Solution` for the tensors of `forward`, without gradients; `Solution.outputs` is what the layer returns."""
        params = self._in_order(params, named) if named else params
        with torch.no_grad():
            _, solution = self.forward(
                *params, solver_args=solver_args, warm_start=warm_start, mu=mu, return_solution=True
            )
        return solution  # type: ignore[return-value]

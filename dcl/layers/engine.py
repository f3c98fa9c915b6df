"""What every layer does with a program: solve it with `dcl.implicit`, then return outputs, or raise or warn as set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dcl.cones.base import AbstractCone, Barrier
from dcl.errors import InputError, OptionError
from dcl.frontends.batching import Batching
from dcl.implicit import DUAL, GAP, ITERATIONS, PRIMAL, SECONDS, SOLVER, STATUS, Call, Known, lift, project, solve
from dcl.implicit.solve import Outcome
from dcl.layers.barrier import barrier, barrier_tensor, check_mu
from dcl.layers.verbose import tell
from dcl.outcome.messages import AbstractCallContext
from dcl.outcome.solution import Solution
from dcl.point.asked import Moving, Requested
from dcl.point.degeneracy import Degeneracy
from dcl.program import ConeProgram, Structure
from dcl.program.rows import Rows
from dcl.program.scaling import in_units
from dcl.smooth.solve import SmoothOutcome
from dcl.solvers.base import AbstractSolver, Iterates
from dcl.solvers.choose import Choice, check_cones, configure
from dcl.status import Status
from dcl.torch_modes import check_order, is_ordinary, is_readable, is_recorded

ON_FAILURE = ("raise", "nan", "last")
ON_DEGENERATE = ("ignore", "warn", "raise")


@dataclass(frozen=True)
class Settings:
    """Options that every layer has; see `dcl.CvxpyLayer`."""

    solver: str | AbstractSolver | None = None
    solver_args: Mapping[str, object] | None = None
    mu: float | Tensor = 0.0
    on_failure: str = "raise"
    on_degenerate: str = "warn"
    straight_through: bool = False

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("on_failure", self.on_failure, ON_FAILURE),
            ("on_degenerate", self.on_degenerate, ON_DEGENERATE),
        ):
            if value not in valid:
                raise InputError(f"{name} is {value!r}; valid: {', '.join(map(repr, valid))}", argument=name)
        object.__setattr__(self, "mu", barrier_tensor(self.mu))
        check_mu(self.mu)

    def describe(self) -> str:
        """As in "solver=clarabel, mu=0.01", for repr; defaults are omitted, except solver and mu."""
        name = "auto" if self.solver is None else getattr(self.solver, "name", self.solver)
        mu = f"tensor {tuple(self.mu.shape)}" if isinstance(self.mu, Tensor) and self.mu.numel() > 1 else float(self.mu)
        usual = {"on_failure": "raise", "on_degenerate": "warn", "straight_through": False}
        other = [f"{key}={getattr(self, key)}" for key, value in usual.items() if getattr(self, key) != value]
        return ", ".join([f"solver={str(name).lower()}", f"mu={mu}", *other])


@dataclass(frozen=True, eq=False)
class LayerPoint:
    """A differentiable answer, beside `dcl.point.Point`: x (B, n), z (B, m), s (B, m), the report (B, 7), what `Solution` needs.

    program, v (B, m) and mu are in the units of `dcl.program.scaling`, the rest in the caller's; all rows are the canonical ones.
    columns (B or 1, n): the units of x in `program`, None for one.
    solvers: names, in the order in which the report counts them.  given: the caller's tensors, (B or 1, ...).
    """

    x: Tensor
    z: Tensor
    s: Tensor
    report: Tensor
    program: ConeProgram
    v: Tensor
    mu: Barrier
    at_kink: Tensor
    solvers: tuple[str, ...]
    certificate: Tensor | None = None
    degeneracy: Degeneracy | None = None
    requested: Requested | None = None
    moving: Moving | None = None
    rows: Rows = field(default=Rows())
    given: Sequence[Tensor] = ()
    columns: Tensor | None = None

    @property
    def known(self) -> Known:
        """What the derivative needs of the solution."""
        x = self.x if self.columns is None else self.x / self.columns
        return Known(x, self.v, self.at_kink, self.report)


class Engine:
    """One layer's settings and what it has warned of already; the only state is these flags.

    tells_vertices: is there still something to say of a linear program's vertex (`dcl.layers.vertex`)?
    has_told_of_grid: of batch dimensions that broadcast to a grid.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._choice = configure(settings.solver, settings.solver_args)
        self._has_warned = False
        self._has_warned_of_options = bool(self._choice.ignored)
        self.tells_vertices = settings.on_degenerate != "ignore"
        self.has_told_of_grid = False

    @property
    def is_free(self) -> bool:
        """May the compiled core answer? Not where the caller named a solver or gave it options: then that is what runs."""
        return self.settings.solver is None and set(self.settings.solver_args or ()) <= {"verbose"}

    @property
    def is_verbose(self) -> bool:
        """Does every call say how it went?"""
        return self._choice.is_verbose

    def is_exact(self, mu: float | Tensor | None) -> bool:
        """Is a call with this mu, that of the layer for None, at mu = 0 for certain? A tensor is not looked at."""
        mu = self.settings.mu if mu is None else mu
        return isinstance(mu, (int, float)) and mu == 0

    def path(self, mu: float | Tensor | None, batch_shape: tuple[int, ...]) -> tuple[Tensor | None] | None:
        """For the core: (None,) at mu = 0, else (mu (B or 1,),), zero at exact instances; None for the careful lane."""
        mu = self.settings.mu if mu is None else mu
        if isinstance(mu, float) and mu == 0.0:
            return (None,)
        if isinstance(mu, Tensor):
            usual = is_ordinary(mu) and mu.dtype.is_floating_point and mu.device.type == "cpu"
            if (
                (mu.requires_grad and torch.is_grad_enabled())
                or not usual
                or not bool(((mu >= 0.0) & torch.isfinite(mu)).all())
            ):
                return None
        found = barrier(mu, batch_shape)
        if not isinstance(found, Tensor) or not bool(found.any()):
            return (None,)
        # a copy: the caller may change his mu before the backward pass
        return (found.detach().reshape(-1).clone(),)

    def barrier(self, mu: float | Tensor | None, batch_shape: tuple[int, ...]) -> Barrier:
        """The barrier parameter of a call, that of the layer for None, as `barrier` has it."""
        return barrier(self.settings.mu if mu is None else mu, batch_shape)

    @property
    def on_degenerate(self) -> str:
        """What the next call does about degenerate points: a layer warns once."""
        how = self.settings.on_degenerate
        return "ignore" if how == "warn" and self._has_warned else how

    def note(self, outcome: Outcome | SmoothOutcome) -> None:
        """Remember what a call has warned of."""
        self._has_warned = self._has_warned or outcome.has_warned

    def check_cones(self, cone: AbstractCone) -> None:
        """Raise OptionError if the chosen solver does not take one of the cones: said when the layer is made."""
        check_cones(cone, self._choice.solver)

    def _choose(self, solver_args: Mapping[str, object] | None) -> Choice:
        """The layer's choice, with `solver_args` over its own for one call."""
        if not solver_args:
            return self._choice
        settings = self.settings
        choice = configure(
            settings.solver, settings.solver_args, options(solver_args), quiet=self._has_warned_of_options
        )
        self._has_warned_of_options = self._has_warned_of_options or bool(choice.ignored)
        return choice

    def solve(
        self,
        program: ConeProgram,
        given: Sequence[Tensor],
        context: AbstractCallContext,
        *,
        solver_args: Mapping[str, object] | None = None,
        mu: float | Tensor | None = None,
        warm_start: Solution | bool | None = None,
        requested: Requested | None = None,
        moving: Moving | None = None,
        record: bool | None = None,
        known: Known | None = None,
    ) -> LayerPoint:
        """The answer for the instances of `program`, made from the caller's tensors `given` (B or 1, ...).

        requested: what the derivative is asked for, None for all of x and z.  moving: data that may need a
        gradient, None for all.  record: will a derivative be asked
        for? None: look at the tensors.  known: the solution, if it only is to be differentiated.
        Errors and warnings as the settings say.
        """
        settings = self.settings
        choice = self._choose(solver_args)
        start = _start(warm_start, program, context.rows)
        mu = self.barrier(mu, context.batch_shape)
        moves_mu = isinstance(mu, Tensor) and is_recorded([mu])
        if isinstance(mu, Tensor) and not moves_mu and is_readable(mu) and not bool(mu.any()):
            mu = 0.0
        program, units, columns = in_units(program, mu)
        if start is not None and columns is not None:
            start.x[:] /= columns.cpu().numpy()
        data = (program.P, program.q, program.A, program.b)
        mu = units.barrier(mu)
        check_order((*data, mu) if isinstance(mu, Tensor) else data)
        lifted = lift(program)
        if lifted is not None:
            program = replace(program, P=program.P + lifted)
        call = Call(
            structure=program.structure,
            context=context,
            choose=choice.order,
            on_failure=settings.on_failure,
            on_degenerate=self.on_degenerate,
            record=(moves_mu or is_recorded(data)) if record is None else record,
            # an operator of a compiled graph says that something is recorded, not what
            moving=moving
            if record is not None or moving is None
            else moving.restricted(*(is_recorded([t]) for t in data)),
            moves_mu=moves_mu,
            known=known,
            requested=requested,
            threads=choice.threads,
            start=start,
        )
        if program.batch == 0:
            anchor = sum((t.sum() for t in data), start=torch.zeros((), dtype=torch.float64, device=program.q.device))
            x = (0.0 * anchor).expand(0, program.structure.n)
            v = (0.0 * anchor).expand(0, program.structure.m)
            at_kink = v.detach()
            report = torch.zeros(0, GAP + 1, dtype=torch.float64, device=program.q.device)
        else:
            x, v, at_kink, report = solve(call, units, mu, lifted, program, given)
        outcome = call.outcome
        self.note(outcome)
        if choice.is_verbose and known is None:
            tell(report, [solver.name for solver in outcome.solvers])
        z = project(program.structure, mu, v, at_kink)
        return LayerPoint(
            x=x if columns is None else x * columns,
            columns=columns,
            z=units.dual(z),
            s=units.slack(z - v),
            report=report,
            program=program,
            v=v,
            mu=mu,
            at_kink=at_kink,
            # nothing was solved here where the compiled core has found the point
            solvers=tuple(s.name for s in outcome.solvers) or ("CORE",),
            certificate=outcome.certificate,
            degeneracy=outcome.degeneracy,
            requested=requested,
            moving=moving,
            rows=context.rows,
            given=given,
        )

    def finish(self, point: LayerPoint, t: Tensor, batch: Batching) -> Tensor:
        """`settle` for a point."""
        return self.settle(point.report, t, batch)

    def settle(self, report: Tensor, t: Tensor, batch: Batching) -> Tensor:
        """(B, ...) -> (*batch, ...) in the caller's dtype; failed instances are constants, NaN where on_failure="nan"."""
        if self.settings.on_failure != "raise":
            # where() gives the failed rows an exactly zero gradient, whatever arrives from downstream
            last = torch.full_like(t, torch.nan) if self.settings.on_failure == "nan" else t.detach()
            ok = report[:, STATUS] == Status.OPTIMAL
            t = torch.where(ok.reshape((-1, *[1] * (t.ndim - 1))), t, last)
        return batch.restore(t)

    def solution(
        self,
        point: LayerPoint,
        outputs: Sequence[Tensor],
        value: Tensor,
        batch: Batching,
        names: Sequence[str],
        *,
        is_own_x: bool = True,
    ) -> Solution:
        """Everything known of `point`, detached. names: of the outputs. is_own_x: see `Solution`."""
        report, rows = point.report, point.rows
        # inside of torch.func.vmap these belong to the whole batch, which a single instance does not see
        certificate, degeneracy = (point.certificate, point.degeneracy) if is_readable(report) else (None, None)

        def shaped(t: Tensor) -> Tensor:
            return t.detach().reshape((*batch.shape, *t.shape[1:]))

        return Solution(
            outputs=tuple(t.detach() for t in outputs),
            names=distinct(names),
            canonical_x=shaped(point.x),
            z=shaped(rows.multipliers(point.z, point.given)),
            s=shaped(rows.to_user(point.s)),
            value=value.detach(),
            status=shaped(report[:, STATUS]).to(torch.int64),
            primal_residual=shaped(report[:, PRIMAL]),
            dual_residual=shaped(report[:, DUAL]),
            gap=shaped(report[:, GAP]),
            iterations=shaped(report[:, ITERATIONS]).to(torch.int64),
            seconds=shaped(report[:, SECONDS]),
            solver=shaped(report[:, SOLVER]).to(torch.int64),
            solvers=point.solvers,
            certificate=None if certificate is None else shaped(certificate),
            _program=point.program.detach(),
            _v=point.v.detach(),
            _mu=point.mu.detach() if isinstance(point.mu, Tensor) else point.mu,
            _columns=point.columns,
            is_own_x=is_own_x,
            requested=point.requested,
            moving=point.moving,
            known_degeneracy=degeneracy,
        )


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, those that occur more than once as "k (1)", "k (2)"."""
    counts = {name: list(names).count(name) for name in names}
    seen: dict[str, int] = dict.fromkeys(names, 0)
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if counts[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)


def options(solver_args: object, verbose: bool = False) -> dict[str, object]:
    """The caller's solver_args as a dict of his options, over `verbose`. Raises OptionError if it is no dict."""
    if solver_args is not None and not isinstance(solver_args, Mapping):
        raise OptionError(f"solver_args must be a dict, got {type(solver_args).__name__}", argument="solver_args")
    return ({"verbose": True} if verbose else {}) | dict(solver_args or {})


def warm(warm_start: object, batch: int, structure: Structure) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, n), z (B, m) and s (B, m) of a `Solution` to start from, detached. Raises InputError."""
    if not isinstance(warm_start, Solution):
        raise InputError(f"warm_start must be a dcl.Solution, got {type(warm_start).__name__}", argument="warm_start")
    x, z, s = (
        t.detach().reshape(math.prod(t.shape[:-1]), t.shape[-1])
        for t in (warm_start.canonical_x, warm_start.z, warm_start.s)
    )
    n, m = structure.n, structure.m
    if x.shape != (batch, n) or z.shape != (batch, m) or s.shape != (batch, m):
        raise InputError(
            f"warm_start has x {tuple(x.shape)} and z {tuple(z.shape)}; this call needs ({batch}, {n}) and ({batch}, {m})",
            argument="warm_start",
        )
    return x, z, s


def _start(warm_start: Solution | bool | None, program: ConeProgram, rows: Rows) -> Iterates | None:
    """The point to start from; True and False, as other packages take them, mean nothing here."""
    if warm_start is None or isinstance(warm_start, bool):
        return None
    structure = program.structure
    x, z, _ = (t.cpu().to(torch.float64) for t in warm(warm_start, program.batch, structure))
    start = Iterates.empty(program.batch, structure.n, structure.m)
    start.x[:], start.z[:] = x.numpy(), rows.to_canonical(z).numpy()
    return start

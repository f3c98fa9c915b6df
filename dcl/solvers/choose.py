"""Which solver, with which options, and who comes next where it fails.

The rule, for a program of n variables and m rows, by [run] ms an instance (one thread, 2-core machine, tight
tolerances; "sparse": a few nonzeros a row):

    n, m             | daqp  | piqp | clarabel | osqp         n, m                  | daqp  | piqp | clarabel
    QP 10, 15        | 0.007 | 0.03 | 0.14     | 0.46         LP 10, 33             | 0.012 | 0.06 | 0.29
    QP 50, 60        | 0.08  | 0.21 | 2.9      | 1.4          LP 50, 130            | 0.36  | 0.42 | 5.3
    QP 200, 440      | 3.9   | 14   | 140      |              LP 100, 270           | 3.2   | 1.7  | 30
    QP 500, 550      | 45    | 46   |          |              LP 500, 1050          | 517   | 96   |
    sparse 100, 220  | 0.39  | 1.6  | 2.4      | 5            sparse 1000, 1100     |       | 50   | 62
    sparse 200, 440  | 2.5   | 6.0  | 8.0      | 21

    QP, n + m <= 1000 dense or 700 sparse, LP, n + m <= 200:   DAQP, PIQP, Clarabel, OSQP
    dense and larger:                                          PIQP, Clarabel, DAQP, OSQP
    sparse and larger, QP:                                     PIQP, Clarabel, OSQP
    sparse and larger, LP:                                     HiGHS, Clarabel, PIQP, OSQP
    large semidefinite cones, and no others but orthants:      Schur, Clarabel, SCS         (`dcl.solvers.schur.is_for`)
    another cone that is no orthant:                           Clarabel, SCS

Above, on a chain (MPC) with 900 / 30,000 / 100,000 variables, PIQP takes 1.8 / 76 / 265 ms and Clarabel 5.9 / 261 / 968.
On random sparse LPs (n = m = 500 / 3,000, 5 nonzeros a row) HiGHS takes 23 / 720 ms, PIQP 57 / 27,300, Clarabel 80 / 29,200:
their factors fill in.  Its points are vertices, which the derivative needs at degenerate solutions.
OSQP reached 1e-8 on few of the LPs: it comes last.  A chosen solver goes first and the rest of the rule follows; of the
options only time_limit and verbose go on to the others (and a solver that has no time limit is then left out).
A solver that is not installed (DAQP and PIQP need not be) is left out too, unless it was named: that is an error.
A claim of infeasibility without a certificate is followed by a solver that gives them: see `after_claims`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dcl.cones.base import AbstractCone
from dcl.errors import CompatibilityWarning, OptionError, level_of_caller
from dcl.program import Structure
from dcl.program.pattern import DensePattern
from dcl.solvers.base import AbstractSolver, Claim
from dcl.solvers.clarabel import Clarabel
from dcl.solvers.daqp import Daqp
from dcl.solvers.highs import Highs
from dcl.solvers.osqp import Osqp
from dcl.solvers.peers import translate
from dcl.solvers.piqp import Piqp
from dcl.solvers.schur import Schur, is_for
from dcl.solvers.scs import Scs

_QP_DENSE, _QP_SPARSE, _LP = 1000, 700, 200  # largest n + m for DAQP

_SOLVERS: dict[str, type[AbstractSolver]] = {
    solver.name: solver for solver in (Daqp, Piqp, Osqp, Clarabel, Scs, Highs, Schur)
}

# Names that cvxpylayers takes for its back ends; they say little of the method, so the rule chooses.
_AUTOMATIC = ("AUTO", "DIFFCP", "MOREAU", "MPAX", "ECOS")
# Its GPU back end is Clarabel's algorithm.
_ALIASES: dict[str, type[AbstractSolver]] = {"CUCLARABEL": Clarabel}

# HiGHS may not end on degenerate programs, and its own tolerance is more than a start for polishing needs.
_FOR_VERTICES: dict[str, dict[str, object]] = {"HIGHS": {"eps": 1e-9, "time_limit": 2.0}}

_COMMON = ("eps", "max_iters", "time_limit", "verbose")


@dataclass(frozen=True)
class Choice:
    """What was asked for. solver: None means by the rule, and then the common `options` go to the first of it.

    threads: at most so many instances at a time, None for the pool's default.  ignored: names of the arguments of
    cvxpylayers that were given and mean nothing here.
    """

    solver: AbstractSolver | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    threads: int | None = None
    ignored: tuple[str, ...] = ()

    @property
    def is_verbose(self) -> bool:
        """Was it asked to print?"""
        return bool(self.options.get("verbose")) if self.solver is None else self.solver.verbose

    def order(self, structure: Structure, P_is_zero: bool) -> tuple[AbstractSolver, ...]:
        """The solvers to try on programs of this structure, first to last. Law: their types are distinct.

        Raises OptionError if the chosen one does not take its cones, or is not installed.
        """
        check_cones(structure.cone, self.solver)
        if self.solver is not None:
            self.solver.check_installed()  # one that was unpickled may come from another machine
            return solver_order(structure, P_is_zero, self.solver)
        limited = self.options.get("time_limit") is not None
        rule = [kind for kind in _rule(structure, P_is_zero) if kind.limits_time or not limited]
        return solver_order(structure, P_is_zero, rule[0].configured(dict(self.options)))


def solver_order(structure: Structure, P_is_zero: bool, chosen: AbstractSolver | None) -> tuple[AbstractSolver, ...]:
    """The documented rule (see the module), with the chosen solver in front."""
    rule = _rule(structure, P_is_zero)
    if chosen is None:
        return tuple(_fallback(kind, None, False) for kind in rule)
    limited = chosen.time_limit is not None
    rest = [kind for kind in rule if kind is not type(chosen) and (kind.limits_time or not limited)]
    return (chosen, *(_fallback(kind, chosen.time_limit, chosen.verbose) for kind in rest))


@lru_cache(maxsize=256)
def _fallback(kind: type[AbstractSolver], time_limit: float | None, verbose: bool) -> AbstractSolver:
    """Solvers are immutable: one object serves every call."""
    return kind(time_limit=time_limit, verbose=verbose)


def centering(eps: float | None, time_limit: float | None, structure: Structure | None = None) -> AbstractSolver:
    """The solver for programs that dcl makes itself, of any cones, and for points in the middle of all solutions.

    structure: of the program, None for any.
    """
    if structure is not None and _is_for_schur(structure):
        return Schur(eps=eps, time_limit=time_limit)
    kind = next(kind for kind in _SOLVERS.values() if kind.finds_center)
    return kind(eps=eps, time_limit=time_limit)


def _is_for_schur(structure: Structure) -> bool:
    return is_for(structure.n, structure.cone.zeros, structure.cone.blocks)


def vertex_solvers(time_limit: float | None) -> tuple[AbstractSolver, ...]:
    """The active-set methods that are installed, in the order in which they are asked for a vertex."""
    kinds = [kind for kind in _SOLVERS.values() if kind.gives_basic_duals and kind.is_installed()]
    limit = {} if time_limit is None else {"time_limit": time_limit}
    return tuple(kind.configured(_FOR_VERTICES.get(kind.name, {}) | limit) for kind in kinds)


class Certifying(Protocol):
    """What may give certificates."""

    @property
    def gives_certificates(self) -> bool:
        """Do claims of infeasibility come with one?"""


S = TypeVar("S", bound=Certifying)


def after_claims(rest: Sequence[S], claims: NDArray[np.int8]) -> tuple[S, ...]:
    """What is left to try, those that give certificates first where one of `claims` is of infeasibility."""
    if not np.isin(claims, (Claim.PRIMAL_INFEASIBLE, Claim.DUAL_INFEASIBLE)).any():
        return tuple(rest)
    return tuple(sorted(rest, key=lambda solver: not solver.gives_certificates))


def configure(
    solver: str | AbstractSolver | None,
    solver_args: Mapping[str, object] | None,
    over: Mapping[str, object] | None = None,
    *,
    quiet: bool = False,
) -> Choice:
    """The choice that `solver` and `solver_args` of a layer mean, those of cvxpylayers included (`dcl.solvers.peers`).

    over: options of one call, which come before those of the layer, also where they are spelled otherwise.
    Example: configure("clarabel", {"eps": 1e-9}) is Choice(Clarabel(eps=1e-9)).
    Warns once (CompatibilityWarning) if arguments of cvxpylayers are ignored, unless quiet; raises OptionError for
    unknown names.
    """
    if solver is None and not solver_args and not over:  # nothing to translate or to check
        return Choice(None, {}, _threads(None), ())
    layers, calls = dict(solver_args or {}), dict(over or {})
    threads = _threads(_taken("n_jobs_forward", layers, calls))
    kind = type(solver) if isinstance(solver, AbstractSolver) else _kind(solver, "solver")
    named = None if kind is None else kind.name
    if not isinstance(solver, AbstractSolver):
        kind = _method(_taken("solve_method", layers, calls), solver, kind)
    own = _COMMON if kind is None else kind.options()
    first, then = (translate(given, own, named) for given in (layers, calls))
    args, ignored = first.options | then.options, tuple(dict.fromkeys(first.ignored + then.ignored))
    if ignored and not quiet:
        warnings.warn(
            f"solver_args {', '.join(ignored)} of cvxpylayers have no counterpart in dcl and are ignored",
            CompatibilityWarning,
            stacklevel=level_of_caller(),
        )
    if isinstance(solver, AbstractSolver):
        solver.check_names(args)
        return Choice(replace(solver, **args) if args else solver, {}, threads, ignored)  # type: ignore[arg-type]
    if kind is not None:
        return Choice(kind.configured(args), {}, threads, ignored)
    unknown = sorted(set(args) - set(_COMMON))
    if unknown:
        raise OptionError(
            f"unknown solver_args {', '.join(map(repr, unknown))}; valid options: {', '.join(_COMMON)}; "
            f"for a solver's own options name it (solver={', '.join(map(repr, _SOLVERS))})",
            argument="solver_args",
        )
    next(kind for kind in _SOLVERS.values() if kind.is_installed()).configured(args)  # checks the values now
    return Choice(None, args, threads, ignored)


def _taken(name: str, layers: dict[str, object], calls: dict[str, object]) -> object:
    """The option, out of both; that of the call if it has one."""
    usual = layers.pop(name, None)
    return calls.pop(name, usual)


def names() -> tuple[str, ...]:
    """The names of the solvers."""
    return tuple(_SOLVERS)


def is_name(name: str) -> bool:
    """Does `solver` take this name? Names of other packages and any case count."""
    return name.upper() in (*_SOLVERS, *_ALIASES, *_AUTOMATIC)


def _kind(name: object, argument: str) -> type[AbstractSolver] | None:
    """The solver of this name; None if the rule is to choose."""
    if name is None:
        return None
    upper = name.upper() if isinstance(name, str) else ""
    if upper in _AUTOMATIC:
        return None
    kind = _SOLVERS.get(upper) or _ALIASES.get(upper)
    if kind is None:
        raise OptionError(
            f"unknown solver {name!r}; valid names: {', '.join(_SOLVERS)}, or an object such as dcl.solvers.Clarabel(); "
            "None lets dcl choose",
            argument=argument,
        )
    return kind


def _method(method: object, solver: str | None, kind: type[AbstractSolver] | None) -> type[AbstractSolver] | None:
    """The solver that solve_method of cvxpylayers names. SCS, its default there, leaves the choice to the rule."""
    if method is None:
        return kind
    named = None if isinstance(method, str) and method.upper() == "SCS" else _kind(method, "solver_args")
    if kind is not None and named is not kind:
        raise OptionError(
            f"solver={solver!r} and solve_method={method!r} name different solvers; give one", argument="solver_args"
        )
    return named


def _threads(jobs: object) -> int | None:
    """The bound on threads in n_jobs_forward of cvxpylayers, where -1 means all."""
    if jobs is None or jobs == -1:
        return None
    if not (isinstance(jobs, int) and jobs > 0):
        raise OptionError(f"n_jobs_forward must be -1 or a positive integer, not {jobs!r}", argument="solver_args")
    return jobs


def check_cones(cone: AbstractCone, solver: AbstractSolver | None) -> None:
    """Raise OptionError if the chosen solver, None for the rule's, does not take one of the cones."""
    missing = sorted({block.kind for block in cone.blocks} - solver.cones) if solver is not None else []
    if solver is not None and missing:
        able = ", ".join(n for n, kind in _SOLVERS.items() if kind.cones.issuperset(missing) and kind.is_installed())
        kinds = ", ".join(kind.replace("_", "-") for kind in missing)
        raise OptionError(f"{solver.name} has no {kinds} cones: use {able}, or leave solver out", argument="solver")


def _rule(structure: Structure, P_is_zero: bool) -> tuple[type[AbstractSolver], ...]:
    """The rule of the header, without what is not installed."""
    return tuple(kind for kind in _rule_of_all(structure, P_is_zero) if kind.is_installed())


def _rule_of_all(structure: Structure, P_is_zero: bool) -> tuple[type[AbstractSolver], ...]:
    if not structure.cone.is_orthant:
        return (Schur, Clarabel, Scs) if _is_for_schur(structure) else (Clarabel, Scs)
    dense = isinstance(structure.A, DensePattern) and isinstance(structure.P, DensePattern)
    small = _LP if P_is_zero else _QP_DENSE if dense else _QP_SPARSE
    if structure.n + structure.m <= small:
        return Daqp, Piqp, Clarabel, Osqp
    if dense:
        return Piqp, Clarabel, Daqp, Osqp
    return (Highs, Clarabel, Piqp, Osqp) if P_is_zero else (Piqp, Clarabel, Osqp)

"""Every error and warning that dcl raises, each with the facts that a program needs to react to it.

An outcome of a solve is a value (`dcl.Status`); it becomes one of these only in a layer (`dcl.outcome.messages`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from dcl.status import Status


class DclError(Exception):
    """Base of all errors of dcl."""


class InputError(DclError, ValueError):
    """An argument cannot be used. `argument` is its name, `index` the batch index, () where it does not apply."""

    def __init__(self, message: str, *, argument: str = "", index: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.argument = argument
        self.index = index


class DtypeError(InputError, TypeError):
    """An argument has a type that cannot be differentiated or solved in (integer, bool, complex)."""


class OptionError(InputError):
    """An unknown solver, or an option that the solver does not have; the message lists the valid ones."""


class DppError(InputError):
    """A CVXPY problem is not DPP: its parameters would be baked in and their gradients silently zero."""


class UnsupportedError(DclError):
    """A construct that dcl does not handle (a cone, a reduction, an attribute); nothing was dropped silently."""


class SolveError(DclError, RuntimeError):
    """Some instances of a batch have no checked answer.

    indices: batch index of each failed instance.  statuses: its `Status`.  certificates: for an infeasible one the
    checked certificate (z for PRIMAL_INFEASIBLE, x for DUAL_INFEASIBLE; see `dcl.Solution`), else None.  All empty in an
    error that a DataLoader brings from a worker: torch makes it anew from its text.
    """

    def __init__(
        self,
        message: str,
        *,
        indices: Sequence[tuple[int, ...]] = (),
        statuses: Sequence[Status] = (),
        certificates: Sequence[Tensor | None] = (),
    ) -> None:
        super().__init__(message)
        self.indices = list(indices)
        self.statuses = list(statuses)
        self.certificates = list(certificates)


class NoMinimumError(SolveError):
    """`ArgminLayer` has no checked argmin for some instances; where all failed alike, a subclass says how."""


class NotStationaryError(NoMinimumError):
    """The Newton step at the point reached is not small (`Status.NOT_STATIONARY`)."""


class DivergedError(NoMinimumError):
    """The iterates run off to infinity: the infimum is not attained (`Status.RUNS_OFF`)."""


class FlatError(NoMinimumError):
    """The Hessian is singular: the argmin is not unique or has no derivative (`Status.FLAT`)."""


class SaddleError(NoMinimumError):
    """Stationary, but of the wrong kind: a saddle, or a maximum where a minimum is wanted (`Status.SADDLE`)."""


class LocallyInfeasibleError(NoMinimumError):
    """No feasible point was found (`Status.LOCALLY_INFEASIBLE`)."""


class DegenerateError(DclError, RuntimeError):
    """`on_degenerate="raise"`: the derivative at the solution is not unique or cannot be trusted."""

    def __init__(self, message: str, *, indices: Sequence[tuple[int, ...]] = ()) -> None:
        super().__init__(message)
        self.indices = list(indices)


class DegenerateWarning(UserWarning):
    """The derivative at a solution is one-sided, not unique, or ill-conditioned (DESIGN: `dcl.point.degeneracy`)."""


class ShapeWarning(UserWarning):
    """Batch dimensions broadcast to more programs than were meant, perhaps. Said once per layer."""


class SlowWarning(UserWarning):
    """The compiled core is not there, so that every call takes the slow path. Said once."""


class CompatibilityWarning(UserWarning):
    """An option of another package that has no counterpart here was ignored."""


def level_of_caller() -> int:
    """The stacklevel of the first frame outside of dcl and torch, so that a warning points at the caller's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("dcl", "torch"):
        level, frame = level + 1, frame.f_back
    return level

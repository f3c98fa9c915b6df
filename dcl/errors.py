"""Every error and warning that dcl raises. Their attributes hold what a program needs to react.

An outcome of a solve is a value (`dcl.Status`); it becomes one of these only in a layer (`dcl.outcome.messages`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from dcl.status import Status


class DclError(Exception):
    """Base of all errors of dcl.

    Example:
        >>> import dcl
        >>> try:
        ...     dcl.QPLayer("SIMPLEX")
        ... except dcl.DclError as error:
        ...     print(type(error).__name__)
        OptionError
    """


class InputError(DclError, ValueError):
    """An argument cannot be used. `argument` is its name. `index` is the batch index, or () if there is none.

    Example:
        >>> import torch, dcl
        >>> try:
        ...     dcl.solve_qp(None, torch.tensor([[1.0, 2.0], [1.0, float("nan")]]), lb=0.0)
        ... except dcl.InputError as error:
        ...     print(error.argument, error.index, error)
        q (1,) q[1] is nan at batch index (1,)
    """

    def __init__(self, message: str, *, argument: str = "", index: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.argument = argument
        self.index = index


class DtypeError(InputError, TypeError):
    """An argument has a type that cannot be differentiated or solved in (integer, bool, complex).

    Example:
        >>> import torch, dcl
        >>> try:
        ...     dcl.solve_qp(torch.eye(2), torch.tensor([1, 2]))
        ... except dcl.DtypeError as error:
        ...     print(error)
        q must be real floating point, got torch.int64
    """


class OptionError(InputError):
    """An unknown solver, or an option that the solver does not have; the message lists the valid ones.

    Example:
        >>> import dcl
        >>> try:
        ...     dcl.QPLayer("CLARABEL", {"epsilon": 1e-9})
        ... except dcl.OptionError as error:
        ...     print(error)
        CLARABEL has no option 'epsilon'; valid options: eps, max_iters, time_limit, verbose, tol
    """


class DppError(InputError):
    """A CVXPY problem is not DPP. CVXPY would fix its parameters, and their gradients would be silently zero.

    Example:
        >>> import cvxpy as cp, dcl
        >>> x, a, b = cp.Variable(), cp.Parameter(name="a"), cp.Parameter(name="b")
        >>> try:
        ...     dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.square(x) + a * b * x)), [a, b], [x])
        ... except dcl.DppError as error:
        ...     print(str(error).splitlines()[0])
        the problem is DCP but not DPP:
    """


class UnsupportedError(DclError):
    """dcl does not support this cone, reduction or attribute. It is an error, so that nothing is dropped silently.

    Example:
        >>> import cvxpy as cp, dcl
        >>> k, a = cp.Variable(integer=True, name="k"), cp.Parameter()
        >>> try:
        ...     dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.square(k - a))), [a], [k])
        ... except dcl.UnsupportedError as error:
        ...     print(error)
        variable k: the attribute integer is not supported
    """


class SolveError(DclError, RuntimeError):
    """Some instances of a batch have no checked answer.

    indices: batch index of each failed instance.  statuses: its `Status`.  certificates: for an infeasible one the
    checked certificate (z for PRIMAL_INFEASIBLE, x for DUAL_INFEASIBLE; see `dcl.Solution`), else None.  All are
    empty if the error comes from a worker of a DataLoader, because torch rebuilds the error from its text.

    Example:
        >>> import torch, dcl
        >>> ub = torch.tensor([[1.0], [-1.0]])  # two instances: 0 <= x <= 1, and 0 <= x <= -1
        >>> try:
        ...     dcl.solve_qp(torch.eye(1), torch.ones(1), lb=0.0, ub=ub)
        ... except dcl.SolveError as error:
        ...     print(error.indices, error.statuses[0].name)
        [(1,)] PRIMAL_INFEASIBLE
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
    """`ArgminLayer` found no argmin that passes the check. If all instances failed in the same way, a subclass says how.

    Example:
        >>> import torch, dcl
        >>> try:
        ...     dcl.argmin(lambda y: (-y).exp().sum(), torch.zeros(1))
        ... except dcl.NoMinimumError as error:
        ...     print(type(error).__name__, error.statuses[0].name)
        DivergedError RUNS_OFF
    """


class NotStationaryError(NoMinimumError):
    """The Newton step at the point reached is not small (`Status.NOT_STATIONARY`).

    Example:
        >>> import torch, dcl
        >>> try:
        ...     dcl.argmin(lambda y: (y - 1.0).abs().sum(), torch.zeros(1))  # a kink
        ... except dcl.NotStationaryError as error:
        ...     print(error.statuses[0].name)
        NOT_STATIONARY
    """


class DivergedError(NoMinimumError):
    """The iterates diverge to infinity: the infimum is not attained (`Status.RUNS_OFF`).

    Example:
        >>> import torch, dcl
        >>> try:
        ...     dcl.argmin(lambda y: (-y).exp().sum(), torch.zeros(1))  # falls without end
        ... except dcl.DivergedError as error:
        ...     print(error.statuses[0].name)
        RUNS_OFF
    """


class FlatError(NoMinimumError):
    """The Hessian is singular: the argmin is not unique or has no derivative (`Status.FLAT`).

    Example:
        >>> import torch, dcl
        >>> try:
        ...     dcl.argmin(lambda y: (y[0] - 1.0) ** 2, torch.zeros(2))  # y[1] is free
        ... except dcl.FlatError as error:
        ...     print(error.statuses[0].name)
        FLAT
    """


class SaddleError(NoMinimumError):
    """The point is stationary but not a minimum: it is a saddle or a maximum (`Status.SADDLE`).

    Example:
        >>> import torch, dcl
        >>> try:
        ...     dcl.argmin(lambda y: y[0] ** 2 - y[1] ** 2, torch.zeros(2), solver=lambda y: y)  # a saddle at zero
        ... except dcl.SaddleError as error:
        ...     print(error.statuses[0].name)
        SADDLE
    """


class LocallyInfeasibleError(NoMinimumError):
    """No feasible point was found (`Status.LOCALLY_INFEASIBLE`).

    Example:
        >>> import torch, dcl
        >>> try:
        ...     dcl.argmin(lambda y: y.square().sum(), torch.zeros(1), inequality=lambda y: y.square() + 1.0)
        ... except dcl.LocallyInfeasibleError as error:
        ...     print(error.statuses[0].name)
        LOCALLY_INFEASIBLE
    """


class DegenerateError(DclError, RuntimeError):
    """`on_degenerate="raise"`: the derivative at the solution is not unique or cannot be trusted.

    Example:
        >>> import torch, dcl
        >>> q = torch.zeros(1, requires_grad=True)  # argmin of x^2 / 2 + q x over x >= 0 has a kink at q = 0
        >>> try:
        ...     dcl.solve_qp(torch.eye(1), q, lb=0.0, on_degenerate="raise")
        ... except dcl.DegenerateError as error:
        ...     print(error.indices)
        [()]
    """

    def __init__(self, message: str, *, indices: Sequence[tuple[int, ...]] = ()) -> None:
        super().__init__(message)
        self.indices = list(indices)


class DegenerateWarning(UserWarning):
    """The derivative at a solution is one-sided, not unique, or ill-conditioned. See `dcl.GradientKind`.

    Example:
        >>> import warnings, torch, dcl
        >>> q = torch.zeros(1, requires_grad=True)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     x = dcl.solve_qp(torch.eye(1), q, lb=0.0).x
        >>> caught[0].category.__name__
        'DegenerateWarning'
    """


class ShapeWarning(UserWarning):
    """Batch dimensions broadcast to many programs, perhaps by mistake. Shown once per layer.

    Example:
        >>> import warnings, torch, dcl
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     x = dcl.solve_qp(torch.eye(2), torch.ones(4, 1, 2), G=torch.ones(1, 2), h=torch.ones(4, 1)).x
        >>> caught[0].category.__name__, tuple(x.shape)
        ('ShapeWarning', (4, 4, 2))
    """


class SlowWarning(UserWarning):
    """The compiled core is missing, so every call is slow. Shown once.

    Example:
        >>> import warnings, dcl
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", dcl.SlowWarning)  # already known
        ...     layer = dcl.QPLayer()
    """


class CompatibilityWarning(UserWarning):
    """An option of another package was ignored, because dcl has no such option.

    Example:
        >>> import warnings, dcl
        >>> from dcl.compat.qpth import QPFunction
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     qp = QPFunction(maxIter=50)
        >>> print(caught[0].message)
        options maxIter of qpth have no counterpart in dcl and are ignored
    """


def level_of_caller() -> int:
    """The stacklevel of the first frame outside dcl and torch, so that a warning points at the caller's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("dcl", "torch"):
        level, frame = level + 1, frame.f_back
    return level


def warn_deprecated(old: str, instead: str) -> None:
    """Warn that `old` goes, at the caller's line: every deprecation of dcl is this call, with the same words.

    old: the name as the caller writes it, such as "Solution.v".  instead: what to write in its place.
    CONTRIBUTING.md says how long a deprecated name stays.
    """
    message = f"{old} is deprecated: use {instead}"
    warnings.warn(message, DeprecationWarning, stacklevel=level_of_caller())

"""The interface of a solver: a batch of programs in, points or claims out.

What a solver claims is always checked: see `dcl.solve.pipeline`.

Every solver file has the same order: unpack, convert to the solver's form, options, solve, fill.
Programs and points are those of `dcl.program` (Ax + s = b), on the host, in NumPy.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cache
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dcl.cones.base import Block
from dcl.errors import OptionError

Array = NDArray[np.float64]


# What a solver of quadratic programs supports, and every kind of block there is.
ORTHANTS = frozenset({"zero", "nonnegative"})
ALL_CONES = ORTHANTS | {"second_order", "semidefinite", "exponential", "power"}


class Claim(IntEnum):
    """What a solver claims about one instance. The claim is checked before it becomes a `dcl.Status`.

    Example:
        >>> from dcl.solvers import Claim
        >>> Claim(0).name
        'SOLVED'
    """

    SOLVED = 0
    PRIMAL_INFEASIBLE = 1
    DUAL_INFEASIBLE = 2
    MAX_ITERATIONS = 3
    TIME_LIMIT = 4
    FAILED = 5


@dataclass(frozen=True, eq=False)
class HostProgram:
    """A batch of dense or sparse programs on the host: B or 1 in front, 1 meaning shared by all instances.

    P, A: values (., n, n), (., m, n) where the pattern is dense, (., nnz) where it is sparse; then P_index, A_index are
    (rows, cols).  q (., n), b (., m).  Rows of A: `zeros` rows of the zero cone first, then nonnegative rows, then those
    of `cones`, the blocks that are no orthants.

    Example:
        >>> import numpy as np
        >>> from dcl.solvers import Clarabel, HostProgram, Iterates
        >>> P, A = np.eye(2)[None], -np.eye(2)[None]  # minimize 1/2 |x|^2 + q'x  subject to  x >= 0, one instance
        >>> program = HostProgram(n=2, m=2, zeros=0, batch=1, P=P, q=np.array([[-1.0, 3.0]]), A=A, b=np.zeros((1, 2)))
        >>> program.nonnegatives
        2
    """

    n: int
    m: int
    zeros: int
    batch: int
    P: Array
    q: Array
    A: Array
    b: Array
    P_index: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    A_index: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    cones: tuple[Block, ...] = ()

    @property
    def nonnegatives(self) -> int:
        """Number of nonnegative rows."""
        return self.m - self.zeros - sum(block.rows * block.count for block in self.cones)


@dataclass(frozen=True, eq=False)
class Iterates:
    """Points of a batch, filled by a solver in place: x (B, n), z (B, m), claim (B,), iterations (B,), seconds (B,).

    On the claim PRIMAL_INFEASIBLE z holds the certificate (z in K*, A'z = 0, b'z < 0), on DUAL_INFEASIBLE x holds it
    (Px = 0, -Ax in K, q'x < 0), unscaled as the solver gave it.  NaN where the solver gave nothing.

    Example:
        >>> import numpy as np
        >>> from dcl.solvers import Clarabel, HostProgram, Iterates
        >>> P, A = np.eye(2)[None], -np.eye(2)[None]  # minimize 1/2 |x|^2 + q'x  subject to  x >= 0, one instance
        >>> program = HostProgram(n=2, m=2, zeros=0, batch=1, P=P, q=np.array([[-1.0, 3.0]]), A=A, b=np.zeros((1, 2)))
        >>> out = Iterates.empty(batch=1, n=2, m=2)
        >>> Clarabel().solve(program, [0], out)
        >>> out.x.round(6).tolist(), (out.z.round(6) + 0.0).tolist()
        ([[1.0, 0.0]], [[0.0, 3.0]])
    """

    x: Array
    z: Array
    claim: NDArray[np.int8]
    iterations: NDArray[np.int64]
    seconds: Array

    @staticmethod
    def empty(batch: int, n: int, m: int) -> Iterates:
        """Nothing known yet: NaN everywhere, claim FAILED."""
        return Iterates(
            x=np.full((batch, n), np.nan),
            z=np.full((batch, m), np.nan),
            claim=np.full(batch, Claim.FAILED, dtype=np.int8),
            iterations=np.zeros(batch, dtype=np.int64),
            seconds=np.zeros(batch),
        )

    def repeated(self, times: int) -> Iterates:
        """The points of the batch, `times` over."""
        return Iterates(
            x=np.tile(self.x, (times, 1)),
            z=np.tile(self.z, (times, 1)),
            claim=np.tile(self.claim, times),
            iterations=np.tile(self.iterations, times),
            seconds=np.tile(self.seconds, times),
        )


@dataclass(frozen=True, kw_only=True)
class AbstractSolver(ABC):
    """A solver with its options; immutable, picklable, without state between calls.

    eps: target accuracy, relative and absolute.  max_iters: iterations per instance.  time_limit: seconds per
    instance.  verbose: let the solver print.  None means dcl's default for this solver.

    package: the module that it needs, imported at the first solve; "" if it needs none.
    cones: kinds of `dcl.cones.base.Block` that it takes.  releases_gil: several instances may be solved at once, in
    threads.  warm_starts: `start` is used.
    gives_basic_duals: an active-set method: rows with positive multipliers are independent.
    finds_center: an interior-point method for all cones that ends near the center of the solutions (measured).
    gives_certificates: claims of infeasibility come with a certificate.  limits_time: it respects `time_limit`.
    tolerances: names of the options that say how accurate a point has to be.

    Example:
        >>> import dcl
        >>> solver = dcl.solvers.Clarabel(eps=1e-9, time_limit=2.0)
        >>> solver.name, solver.eps, solver.warm_starts, "exponential" in solver.cones
        ('CLARABEL', 1e-09, False, True)
    """

    eps: float | None = None
    max_iters: int | None = None
    time_limit: float | None = None
    verbose: bool = False

    name: ClassVar[str]
    package: ClassVar[str] = ""
    cones: ClassVar[frozenset[str]] = ORTHANTS
    releases_gil: ClassVar[bool]
    warm_starts: ClassVar[bool]
    gives_certificates: ClassVar[bool]
    gives_basic_duals: ClassVar[bool]
    finds_center: ClassVar[bool] = False
    limits_time: ClassVar[bool]
    tolerances: ClassVar[tuple[str, ...]] = ("eps",)

    def at_own_tolerance(self) -> AbstractSolver:
        """The same solver with dcl's default tolerance in place of the caller's, which is only a hint."""
        own: dict[str, Any] = dict.fromkeys(self.tolerances)
        return replace(self, **own)

    @abstractmethod
    def solve(
        self,
        program: HostProgram,
        rows: Iterable[int],
        out: Iterates,
        start: Iterates | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Solve the instances `rows` and fill their entries of `out`; nothing else is touched.

        start: points to start from, used where `warm_starts`.  stop: checked before each instance; once set, return.
        Law: a claim SOLVED comes with x and z that are the solver's answer in the signs of `dcl.program`.
        Raises KeyboardInterrupt if the solver reports that it was interrupted.
        """

    @classmethod
    def is_installed(cls) -> bool:
        """True if its package is installed. The package is not imported."""
        return not cls.package or _is_found(cls.package)

    @classmethod
    def check_installed(cls) -> None:
        """Raise OptionError, with the command to install its package, if that is missing."""
        if not cls.is_installed():
            raise OptionError(
                f"{cls.name} is not installed: pip install {cls.package}, or leave solver out, and dcl chooses an installed one",
                argument="solver",
            )

    @classmethod
    def options(cls) -> list[str]:
        """Names of the options that this solver takes."""
        return [field.name for field in fields(cls)]

    @classmethod
    def check_names(cls, options: Iterable[str]) -> None:
        """Raise OptionError that lists the valid options if one of `options` is unknown."""
        unknown = sorted(set(options) - set(cls.options()))
        if unknown:
            raise OptionError(
                f"{cls.name} has no option {', '.join(map(repr, unknown))}; valid options: {', '.join(cls.options())}",
                argument="solver_args",
            )

    @classmethod
    def configured(cls, options: dict[str, object]) -> AbstractSolver:
        """The solver with these options. Raises OptionError for an unknown name."""
        cls.check_names(options)
        return cls(**options)  # type: ignore[arg-type]


@cache
def _is_found(package: str) -> bool:
    return find_spec(package) is not None


def check_options(solver: AbstractSolver) -> None:
    """Raise OptionError for an invalid value, for a time limit that the solver does not have, or if its package is missing.

    Every solver calls it when it is made, so that no solver's own code sees a bad number.
    """
    solver.check_installed()
    for field in fields(solver):
        value = getattr(solver, field.name)
        if value is None or isinstance(value, bool):
            continue
        words = "integer" if field.name == "max_iters" else "number"
        is_kind = isinstance(value, Integral if words == "integer" else Real)
        if not (is_kind and float(value) > 0.0):
            raise OptionError(
                f"{solver.name}: {field.name} must be a positive {words}, not {value!r}", argument=field.name
            )
    if solver.time_limit is not None and not solver.limits_time:
        raise OptionError(
            f"{solver.name} has no time limit: leave time_limit out, or name another solver",
            argument="time_limit",
        )

"""Messages about bad inputs and failed instances, with the caller's own names. `dcl.outcome.doubts` tells of degenerate points.

A front end describes its program with an `AbstractCallContext`; what happened is decided elsewhere and only told here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dcl.errors import (
    InputError,
    SolveError,
    UnsupportedError,
)
from dcl.kkt.inertia import is_semidefinite
from dcl.point import OPTIMAL_TOLERANCE
from dcl.program import ConeProgram
from dcl.program.convexity import PSD_TOLERANCE
from dcl.program.rows import Rows
from dcl.status import Status

# A row whose weight in a certificate is below this, relative to the largest, takes no part in the conflict.
_PART = 1e-3
SHOWN = 5


@dataclass(frozen=True)
class Members:
    """Instances of a larger batch of this shape: the place of each in that batch, flattened."""

    batch_shape: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AbstractCallContext(ABC):
    """What one call must know of its caller: the names of arguments and rows, his batch dimensions, the order of his rows."""

    batch_shape: tuple[int, ...]
    rows: Rows = field(default=Rows(), kw_only=True)
    members: Members | None = field(default=None, kw_only=True)
    # what the caller sees of x (B, n), (B, k) in his own terms; None for x itself
    seen: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)

    @property
    def quadratic(self) -> str:
        """The caller's name of what P is made of."""
        return "P"

    @property
    def maximize(self) -> bool:
        """Does the caller maximize?"""
        return False

    @abstractmethod
    def check(self, program: ConeProgram, given: Sequence[Tensor]) -> None:
        """Look at the values of the caller's tensors, (B or 1, ...), and of the program.

        Raises InputError that names the argument and the batch index of what cannot be used.
        """

    @abstractmethod
    def describe_row(self, row: int) -> str:
        """The caller's name of row `row` of A, such as "G[3]" or "constraint 2 (sum(x) == 1)"."""

    def index(self, i: int) -> tuple[int, ...]:
        """Batch index of the i-th instance of the flattened batch, () for an unbatched call."""
        shape = self.batch_shape
        if self.members is not None:
            shape, i = self.members.batch_shape, self.members.places[i]
        return tuple(int(k) for k in np.unravel_index(i, shape)) if shape else ()

    @property
    def count(self) -> int:
        """Number of instances of the caller's batch."""
        return int(np.prod(self.batch_shape if self.members is None else self.members.batch_shape))

    def index_in(self, t: Tensor, i: int) -> tuple[int, ...]:
        """Batch index of row i of t (B or 1, ...): () where t is shared by the whole batch."""
        return self.index(i) if t.shape[0] == int(np.prod(self.batch_shape)) else ()


def where(index: tuple[int, ...]) -> str:
    """As in "... at batch index (3,)"; nothing for an unbatched call."""
    return f" at batch index {index}" if index else ""


def entry(parts: Sequence[tuple[str, int]], row: int) -> str:
    """The name of row `row` of parts with names and sizes, one after the other, as in "G[3]"."""
    for name, size in parts:
        if row < size:
            return f"{name}[{row}]"
        row -= size
    raise IndexError(row)


def named(context: AbstractCallContext, rows: Iterable[int]) -> list[str]:
    """The caller's names of the rows, in this order; a constraint of many entries is named once."""
    return list(dict.fromkeys(context.describe_row(row).split(", entry ")[0] for row in rows))


def conflict(context: AbstractCallContext, weights: Tensor | None) -> list[str]:
    """The names of the rows that take part in a certificate with these weights (m,), largest first; none for None or NaN."""
    if weights is None or not weights.numel() or not bool(torch.isfinite(weights).all()):
        return []
    size, order = weights.abs().sort(descending=True)
    return named(context, order[size > _PART * size[0]].tolist())


def whom(context: AbstractCallContext, preposition: str, those: list[int]) -> str:
    """As in " for 3 of 8 instances (batch indices (0,), (2,), (5,))"; nothing for an unbatched call."""
    if not context.batch_shape:
        return ""
    shown = ", ".join(str(context.index(i)) for i in those[:SHOWN]) + (", ..." if len(those) > SHOWN else "")
    return f"{preposition}{len(those)} of {context.count} instances (batch indices {shown})"


def subject(context: AbstractCallContext, name: str, those: list[int], all_of_them: list[int]) -> str:
    """The name of an outcome, and whom it concerns if that is not everybody just named."""
    return name if those == all_of_them else name + whom(context, " in ", those)


def check_psd(context: AbstractCallContext, P: Tensor, argument: str, dtype: torch.dtype) -> None:
    """Raise InputError if a matrix of P (B or 1, n, n), symmetric and finite, has an eigenvalue below -PSD_TOLERANCE.

    dtype: that of the caller's tensor, whose rounding is allowed for.
    """
    tolerance = max(PSD_TOLERANCE, 8.0 * P.shape[-1] * torch.finfo(dtype).eps)
    size = P.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    shift = 0.1 * tolerance * size + torch.finfo(P.dtype).tiny
    _, info = torch.linalg.cholesky_ex(P + torch.diag_embed(shift.unsqueeze(-1).expand(P.shape[:-1])))
    for i in torch.nonzero(info).flatten().tolist():
        values = torch.linalg.eigvalsh(P[i])
        if float(values[0]) < -tolerance * float(values.abs().max()):
            index = context.index_in(P, i)
            raise InputError(
                f"{argument} is not positive semidefinite{where(index)}: its smallest eigenvalue is "
                f"{float(values[0]):.3g} (largest {float(values[-1]):.3g}), so the problem is not convex",
                argument=argument,
                index=index,
            )


def check_convex(context: AbstractCallContext, program: ConeProgram, name: str, dtype: torch.dtype) -> None:
    """Raise InputError where the sparse P (B or 1, nnz) of the program has a negative eigenvalue. dtype: the caller's."""
    tolerance = max(PSD_TOLERANCE, 8.0 * program.structure.n * torch.finfo(dtype).eps)
    good = is_semidefinite(program.structure.P, program.P, tolerance)
    for i in torch.nonzero(~good).flatten().tolist():
        index = context.index_in(program.P, i)
        raise InputError(
            f"{name} is not positive semidefinite{where(index)}: it has a negative eigenvalue, below {-tolerance:.1g} of its "
            "largest row sum, so the problem is not convex",
            argument=name,
            index=index,
        )


def check_finite(context: AbstractCallContext, t: Tensor, argument: str, *, infinite: float | None = None) -> None:
    """Raise InputError at the first NaN or infinity of t (B or 1, ...); `infinite` (+inf or -inf) is let through."""
    good = torch.isfinite(t)
    if bool(good.all()):
        return
    if infinite is not None:
        good = good | (t == infinite)
        if bool(good.all()):
            return
    place = torch.nonzero(~good)[0].tolist()
    index = context.index_in(t, place[0])
    value = float(t[tuple(place)])
    entry = f"[{', '.join(map(str, place[1:]))}]" if len(place) > 1 else ""
    raise InputError(f"{argument}{entry} is {value}{where(index)}", argument=argument, index=index)


def check_barrier(mu: Tensor, index_of: Callable[[list[int]], tuple[int, ...]], *, moves: bool = False) -> None:
    """Raise InputError at the first entry of mu that is not finite or negative; index_of(its place): the batch index.

    moves: is the derivative in mu asked for?  Then UnsupportedError at the first zero: from there x moves like sqrt(mu) where a
    constraint is weakly active.
    """
    mu = mu.detach()
    good = torch.isfinite(mu) & (mu >= 0.0)
    if not bool(good.all()):
        place = torch.nonzero(~good)[0].tolist()
        index = index_of(place)
        raise InputError(
            f"mu is {float(mu[tuple(place)])}{where(index)}: it must be finite, and positive or zero, in every instance",
            argument="mu",
            index=index,
        )
    if moves and bool((mu == 0.0).any()):
        raise UnsupportedError(
            f"mu requires a gradient and is zero{where(index_of(torch.nonzero(mu == 0.0)[0].tolist()))}: the derivative in mu "
            "exists for mu > 0 only (at 0 a solution may move like sqrt(mu)); keep mu positive, or pass mu.detach()"
        )


def raise_failures(
    context: AbstractCallContext,
    status: Tensor,
    residuals: Tensor,
    certificate: Tensor | None,
    weights: Tensor | None,
    on_path: bool,
    eps: float | None = None,
    offending: Callable[[], Tensor] | None = None,
    smallest: Tensor | None = None,
) -> None:
    """Raise SolveError if an instance is not OPTIMAL.

    certificate (B, n + m) or None: what the error carries.  weights (B, m) or None: its multipliers, for rows of size one.
    on_path: was x(mu) asked for?  eps: the tolerance that the caller set, None if he set none.
    offending: gives the row with the largest primal residual, (B,), None where there are no rows.
    smallest (B,): the smallest eigenvalue of P where that is negative within its rounding, else NaN; None: nowhere.
    """
    failed = torch.nonzero(status != Status.OPTIMAL).flatten().tolist()
    if not failed:
        return
    statuses = [Status(int(status[i])) for i in failed]
    lines = []
    for kind in dict.fromkeys(statuses):
        those = [i for i, s in zip(failed, statuses, strict=True) if s == kind]
        worst = float(residuals[those].nan_to_num(nan=torch.inf, posinf=torch.inf).amax())
        found = f" (relative residual reached: {worst:.1e})" if np.isfinite(worst) else ""
        if kind == Status.PRIMAL_INFEASIBLE and weights is not None:
            names = conflict(context, weights[those[0]])
            found = "; the conflict lies among: " + ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        in_rows = np.isfinite(worst) and float(residuals[those[0], 0]) > OPTIMAL_TOLERANCE  # not in slopes or gap alone
        if kind in (Status.NUMERICAL_ERROR, Status.INACCURATE) and offending is not None and in_rows:
            found += f"; the row that is violated most: {context.describe_row(int(offending()[those[0]]))}"
        if kind == Status.NUMERICAL_ERROR and on_path:
            found += "; x(mu) with mu > 0 exists only where a point satisfies all inequalities strictly and solutions are bounded"
        if kind in (Status.NUMERICAL_ERROR, Status.INACCURATE) and eps is not None:
            found += f"; your eps={eps:g} was tried first, then dcl's own tolerance"
        if kind != Status.PRIMAL_INFEASIBLE and smallest is not None:
            found += _negative(context, smallest, those)
        lines.append(f"{subject(context, kind.name, those, failed)}: {kind.message_of(context.maximize)}{found}")
    raise SolveError(
        "no optimal solution"
        + whom(context, " for ", failed)
        + ".\n  "
        + "\n  ".join(lines)
        + others(context, len(failed)),
        indices=[context.index(i) for i in failed],
        statuses=statuses,
        certificates=[None if certificate is None else _certificate(certificate[i]) for i in failed],
    )


def _negative(context: AbstractCallContext, smallest: Tensor, those: list[int]) -> str:
    """What to do about eigenvalues of P that are negative within its rounding, where the answer depends on them."""
    lowest = min(those, key=lambda i: float(smallest[i].nan_to_num(nan=torch.inf)))
    if bool(smallest[lowest].isnan()):
        return ""
    value = float(smallest[lowest])
    return (
        f"; {context.quadratic} has the eigenvalue {value:.3g}{where(context.index(lowest))}: within the rounding of its numbers "
        "that is zero, but with zero the answer would change. Compute it in float64 (X.double().mT @ X.double(), not "
        f"(X.mT @ X).double()), or add {-2.0 * value:.1g} times the identity to it"
    )


def others(context: AbstractCallContext, failed: int) -> str:
    """What an error about `failed` instances ends with, where there are others."""
    return '\n  (on_failure="nan" or "last" returns the other instances)' if failed < context.count else ""


def _certificate(row: Tensor) -> Tensor | None:
    """The part of a certificate row (n + m,) that is there."""
    there = ~torch.isnan(row)
    return row[there] if bool(there.any()) else None

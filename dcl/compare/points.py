"""What `dcl.diagnose` returns: the facts about one instance, and about a whole batch. Both can be printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dcl.status import GradientKind, Status

_SHOWN = 6


@dataclass(frozen=True, eq=False)
class PointDiagnosis:
    """What is known of one instance.

    On the central path (mu > 0) x(mu) satisfies all inequalities strictly. Then only equalities are active, and the margin is
    infinite.

    Attributes:
        index: batch index.
        status: `dcl.Status`.
        primal_residual, dual_residual, gap: relative, measured by dcl.
        value: of the objective.
        active, weakly_active: names of the caller's constraints.
        conflict: of an infeasible instance, the constraints that contradict each other.
        margin: strict complementarity, in the units of `dcl.program.scaling`.
        weakest: the constraint that has the smallest margin.
        dependent: where the derivative is RANK_DEFICIENT, the constraints whose multipliers are not unique.
        rows, rank: number of active and weakly active rows, and their rank, None where it is not decided.
        condition: of the KKT matrix.
        unique_x, unique_z: are x and the multipliers unique? None where it is not decided.
        gradient_kind: `dcl.GradientKind`, None where there is no solution.
        vertex: True if the active constraints alone determine x.
        zero_in: names of the arguments in which the derivative of what the layer returns (x, of a matrix layer) vanishes at
            a vertex: gradient descent does not change those.
        on_path: True for x(mu), mu > 0.
        advice: what to do, as a sentence.

    Example:
        >>> import torch, dcl
        >>> point = dcl.diagnose(dcl.QPLayer(), torch.eye(2).double(), torch.tensor([-1.0, 3.0]).double(), lb=torch.zeros(2))[0]
        >>> point.status.name, point.active, point.licq, point.unique_x, point.healthy
        ('OPTIMAL', ('lb[1]',), True, True, True)
    """

    index: tuple[int, ...]
    status: Status
    primal_residual: float
    dual_residual: float
    gap: float
    value: float
    active: tuple[str, ...]
    weakly_active: tuple[str, ...]
    conflict: tuple[str, ...]
    margin: float
    weakest: str | None
    dependent: tuple[str, ...]
    rows: int
    rank: int | None
    condition: float
    unique_x: bool | None
    unique_z: bool | None
    gradient_kind: GradientKind | None
    vertex: bool | None
    zero_in: tuple[str, ...]
    on_path: bool
    advice: str

    @property
    def licq(self) -> bool | None:
        """Are the gradients of the active rows linearly independent? None where it is not decided."""
        return None if self.rank is None else self.rows == self.rank

    @property
    def healthy(self) -> bool:
        """OPTIMAL with a derivative that is EXACT."""
        return self.status == Status.OPTIMAL and self.gradient_kind == GradientKind.EXACT

    def __str__(self) -> str:
        head = f"instance {self.index}: " if self.index else ""
        lines = [
            f"{head}{self.status.name}"
            + (f", gradient {self.gradient_kind.name}" if self.gradient_kind is not None else "")
        ]

        def line(name: str, text: str) -> None:
            lines.append(f"  {name:<16}{text}")

        if math.isfinite(self.primal_residual + self.dual_residual + self.gap):
            line("residuals", f"primal {self.primal_residual:.1e}, dual {self.dual_residual:.1e}, gap {self.gap:.1e}")
        if self.gradient_kind is None:
            if self.conflict:
                line("conflict", listed(self.conflict))
        else:
            line("value", f"{self.value:.6g}")
            if self.on_path:
                line("equalities", listed(self.active) or "none")
                line("inequalities", "x(mu) is inside of all of them")
            else:
                line("active", listed(self.active) or "none")
            if self.weakly_active:
                line("weakly active", listed(self.weakly_active))
            if self.weakest is not None:
                line("margin", f"{self.margin:.1e}, {self.weakest}")
            of_what = "equalities" if self.on_path else "active rows"
            line(
                "LICQ",
                f"{_yes(self.licq)}"
                + (f": {self.rows} {of_what} of rank {self.rank}" if self.rank is not None else ""),
            )
            line("condition", f"{self.condition:.1e}")
            line("unique", f"x {_yes(self.unique_x)}, multipliers {_yes(self.unique_z)}")
        line("advice", self.advice)
        return "\n".join(lines)

    __repr__ = __str__


def _yes(answer: bool | None) -> str:
    return "not decided" if answer is None else "yes" if answer else "no"


def take_mu(it: str) -> str:
    """What to do about a derivative that is zero in `it`."""
    return f"nothing is learned through {it} at mu = 0: take mu > 0, see `dcl.compare_gradients`"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are."""
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")


@dataclass(frozen=True)
class Sizes:
    """variables, rows: of the program as CVXPY or the caller states it.

    reduced: variables, rows and bounds of the smaller program that the compiled core may solve in its place; None: none.
    """

    variables: int
    rows: int
    reduced: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        given = f"{_of(self.variables, 'variable')}, {_of(self.rows, 'row')}"
        if self.reduced is None:
            return given
        variables, rows, bounds = self.reduced
        return f"{given}; reduced to {_of(variables, 'variable')}, {_of(rows, 'row')}, {_of(bounds, 'bound')}"


def _of(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """One `PointDiagnosis` per instance, in the order of the flattened batch; prints a summary and the worst ones.

    sizes: of the program, before and after its reduction.

    Example:
        >>> import torch, dcl
        >>> q = torch.tensor([[-1.0], [0.0]]).double()  # the second instance is at a kink
        >>> found = dcl.diagnose(dcl.QPLayer(), torch.eye(1).double(), q, lb=torch.zeros(1).double())
        >>> [point.gradient_kind.name for point in found], found.worst()[0].index
        (['EXACT', 'WEAKLY_ACTIVE'], (1,))
    """

    points: tuple[PointDiagnosis, ...]
    batch_shape: tuple[int, ...]
    sizes: Sizes

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, i: int) -> PointDiagnosis:
        return self.points[i]

    def worst(self, count: int = 3) -> list[PointDiagnosis]:
        """The `count` instances that need attention most: failed, then the gravest kind, then the smallest margin."""

        def gravity(p: PointDiagnosis) -> tuple[int, int, float]:
            return (-int(p.status != Status.OPTIMAL), -int(p.gradient_kind or 0), p.margin)

        return sorted(self.points, key=gravity)[:count]

    def __str__(self) -> str:
        if not self.batch_shape:
            return f"{self.points[0]}\n  {'size':<16}{self.sizes}"
        if not self.points:
            return "an empty batch"
        statuses = _counts([p.status.name for p in self.points])
        kinds = _counts([p.gradient_kind.name for p in self.points if p.gradient_kind is not None])
        lines = [f"{len(self.points)} instances: {statuses}" + (f"; gradients: {kinds}" if kinds else "")]
        lines.append(f"each of {self.sizes}")
        there = [p for p in self.points if p.gradient_kind is not None]
        if there:
            least = min(there, key=lambda p: p.margin)
            at = f" (instance {least.index}, {least.weakest})" if least.weakest else ""
            idle = least.weakly_active and least.gradient_kind == GradientKind.EXACT
            harmless = ", which does not matter for what was asked" if idle else ""
            margin = f"smallest margin {least.margin:.1e}{at}{harmless}; " if math.isfinite(least.margin) else ""
            lines.append(f"{margin}largest condition {max(p.condition for p in there):.1e}")
        ill, still = [p for p in self.worst() if not p.healthy], [p for p in self.points if p.zero_in]
        if not ill:
            lines += ["", "all of them are solved, with exact derivatives"]
        if still:
            zero = list(dict.fromkeys(name for p in still for name in p.zero_in))
            it = "it" if len(zero) == 1 else "them"
            lines += [
                f"zero in {listed(zero)} for {len(still)} of {len(self.points)} instances: x is a vertex that does not move "
                f"with {it}; {take_mu(it)}"
            ]
        lines += ["", "the worst:", *map(str, ill)] if ill else []
        return "\n".join(lines)

    __repr__ = __str__


def _counts(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))

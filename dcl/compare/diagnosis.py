"""`diagnose`: one point explained. Is it solved, what is active, is the derivative unique, and what to do if it is not.

active          rows with multiplier above the tie width of `dcl.ties` (cones: eigenvalues of D above 1/2), equalities too
weakly active   rows with slack and multiplier both zero: the kinks of the solution map
LICQ            the gradients of the active and weakly active rows are independent: rank = number
x unique        no direction d with Pd = 0, A_active d = 0 and A_weak d <= 0         (`dcl.compare.unique`)
z unique        no direction w with A'w = 0 on active rows, w >= 0 on weakly active ones
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcl.border import AbstractBorder
from dcl.compare.subject import Layer, has_engine, with_engine
from dcl.compare.unique import uniqueness
from dcl.degeneracy import resolve_kinks
from dcl.errors import InputError
from dcl.kkt import factorize
from dcl.program import ConeProgram, magnitude
from dcl.solution import Solution
from dcl.status import GradientKind, Status
from dcl.ties import kinks

_SHOWN = 6
# A row of a certificate that is below this, relative to the largest, takes no part in the conflict.
_PART = 1e-3
# The mu that is advised at a kink moves x by about this, relative.
_ADVISED_MOVE = 1e-2


@dataclass(frozen=True, eq=False)
class PointDiagnosis:
    """What is known of one instance.

    index: batch index.  status; primal_residual, dual_residual, gap: relative, measured by dcl.  value: of the objective.
    active, weakly_active, conflict: names of the caller's constraints (conflict: of an infeasible instance).
    margin, weakest: the strict-complementarity margin in the units of `dcl.scaling`, and the constraint that has it.
    rows, rank: number of active and weakly active rows, and their rank (LICQ: equal).  condition: of the KKT matrix.
    unique_x, unique_z: None where it is not decided.  gradient_kind.  advice: what to do, in a sentence.
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
    rows: int
    rank: int
    condition: float
    unique_x: bool | None
    unique_z: bool | None
    gradient_kind: GradientKind | None
    advice: str

    @property
    def licq(self) -> bool:
        """Are the gradients of the active rows linearly independent?"""
        return self.rows == self.rank

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
                line("conflict", _listed(self.conflict))
        else:
            line("value", f"{self.value:.6g}")
            line("active", _listed(self.active) or "none")
            if self.weakly_active:
                line("weakly active", _listed(self.weakly_active))
            if self.weakest is not None:
                line("margin", f"{self.margin:.1e}, {self.weakest}")
            licq = "independent" if self.licq else "dependent"
            line("LICQ", f"{self.rank} of {self.rows} active rows {licq}")
            line("condition", f"{self.condition:.1e}")
            line("unique", f"x {_yes(self.unique_x)}, multipliers {_yes(self.unique_z)}")
        line("advice", self.advice)
        return "\n".join(lines)

    __repr__ = __str__


def _yes(answer: bool | None) -> str:
    return "not decided" if answer is None else "yes" if answer else "no"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """One `PointDiagnosis` per instance, in the order of the flattened batch; prints a summary and the worst ones."""

    points: tuple[PointDiagnosis, ...]
    batch_shape: tuple[int, ...]

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
            return str(self.points[0])
        if not self.points:
            return "an empty batch"
        statuses = _counts([p.status.name for p in self.points])
        kinds = _counts([p.gradient_kind.name for p in self.points if p.gradient_kind is not None])
        lines = [f"{len(self.points)} instances: {statuses}" + (f"; gradients: {kinds}" if kinds else "")]
        there = [p for p in self.points if p.gradient_kind is not None]
        if there:
            least = min(there, key=lambda p: p.margin)
            at = f" (instance {least.index}, {least.weakest})" if least.weakest else ""
            lines.append(
                f"smallest margin {least.margin:.1e}{at}; largest condition {max(p.condition for p in there):.1e}"
            )
        ill = [p for p in self.worst() if not p.healthy]
        lines += ["", *(["the worst:"] if ill else ["all of them are solved, with exact derivatives"]), *map(str, ill)]
        return "\n".join(lines)

    __repr__ = __str__


def _counts(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def diagnose(layer: Layer, *tensors: Tensor | None, mu: float | None = None) -> Diagnosis:
    """Explain what a layer answers for these tensors, instance by instance; failed instances are explained too.

    For each: status and residuals, the active constraints by the caller's names, the strict-complementarity margin and whose it
    is, rank of the active rows (LICQ), condition of the KKT system, whether x and the multipliers are unique, what the
    derivative is worth, and advice.  Settings of the layer stay as they are, but nothing is raised and nothing warned of.

    Args:
        layer: a `CvxpyLayer`, `QPLayer` or `ConeLayer`.
        tensors: as in the call, with batch dimensions; None where a block is absent.
        mu: barrier parameter for this call (default: the layer's).

    Raises:
        InputError, DtypeError: the tensors cannot be used.

    Example:
        >>> import torch, dcl
        >>> q, lb = torch.tensor([-1.0, 0.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        >>> point = dcl.diagnose(dcl.QPLayer(), torch.eye(2).double(), q, None, None, None, None, lb)[0]
        >>> point.gradient_kind.name, point.weakly_active
        ('WEAKLY_ACTIVE', ('lb[1]',))
    """
    if not has_engine(layer):
        raise InputError(
            f"diagnose takes a CvxpyLayer, a QPLayer or a ConeLayer, got {type(layer).__name__}", argument="layer"
        )
    twin, spy = with_engine(layer, on_failure="last", on_degenerate="ignore")
    with torch.no_grad():
        _, solution = twin(*tensors, mu=mu, return_solution=True)
    border, program = spy.border, spy.program
    if border is None or program is None:
        raise InputError("the layer did not ask for a solution", argument="layer")
    if not solution.status.numel():
        return Diagnosis((), border.batch_shape)
    return Diagnosis(tuple(_points(solution, border, program.detach())), border.batch_shape)


def _points(solution: Solution, border: AbstractBorder, given: ConeProgram) -> list[PointDiagnosis]:
    """given: the program in the caller's units; that of the solution is scaled."""
    program, v, mu = solution.program, solution.v, solution.mu
    batch = v.shape[0]
    x = solution.x.reshape(batch, -1)
    ok = solution.ok.reshape(-1)
    at_kink = resolve_kinks(program, x, v, mu)
    kkt = factorize(program, v, mu, at_kink)
    ties = ~torch.isnan(kinks(program, v, mu, x))
    strong = (kkt.D.d > 0.5) & ~ties
    certificate = (
        None if solution.certificate is None else solution.certificate.reshape(batch, -1)[:, program.structure.n :]
    )
    flat = {
        name: getattr(solution, name).reshape(-1)
        for name in ("status", "primal_residual", "dual_residual", "gap", "value")
    }
    kinds, margins = solution.gradient_kind.reshape(-1), solution.margin.reshape(-1)
    weakest, conditions = solution._degeneracy.weakest, solution.condition.reshape(-1)
    points = []
    for i in range(batch):
        good = bool(ok[i])
        rows = torch.nonzero(strong[i]).squeeze(-1).tolist() if good else []
        weak = torch.nonzero(ties[i]).squeeze(-1).tolist() if good else []
        row = int(weakest[i])
        one = program.rows(torch.tensor([i], device=v.device)).expanded(1)
        unique = uniqueness(one, kkt.D, i, strong[i], ties[i], solution.requested) if good else None
        point = PointDiagnosis(
            index=border.index(i),
            status=Status(int(flat["status"][i])),
            primal_residual=float(flat["primal_residual"][i]),
            dual_residual=float(flat["dual_residual"][i]),
            gap=float(flat["gap"][i]),
            value=float(flat["value"][i]),
            active=_named(border, rows),
            weakly_active=_named(border, weak),
            conflict=_conflict(border, certificate, i),
            margin=float(margins[i]),
            weakest=border.describe_row(row) if row >= 0 else None,
            rows=unique.rows if unique else 0,
            rank=unique.rank if unique else 0,
            condition=float(conditions[i]),
            unique_x=unique.x if unique else None,
            unique_z=unique.z if unique else None,
            gradient_kind=GradientKind(int(kinds[i])) if good else None,
            advice="",
        )
        mine = given.rows(torch.tensor([i], device=v.device))
        points.append(replace(point, advice=_advice(point, _suggested_mu(mine, x[i]))))
    return points


def _named(border: AbstractBorder, rows: Sequence[int]) -> tuple[str, ...]:
    """The caller's names of the rows; a constraint of many entries is named once, what CVXPY added comes last."""
    names = dict.fromkeys(_block(border.describe_row(row)) for row in rows)
    return tuple(sorted(names, key=lambda name: name.startswith("epigraph of ")))


def _block(name: str) -> str:
    return name.split(", entry ")[0]


def _conflict(border: AbstractBorder, certificate: Tensor | None, i: int) -> tuple[str, ...]:
    if certificate is None or not bool(torch.isfinite(certificate[i]).all()) or not certificate.shape[-1]:
        return ()
    size, order = certificate[i].abs().sort(descending=True)
    return _named(border, order[size > _PART * size[0]].tolist())


def _suggested_mu(program: ConeProgram, x: Tensor) -> float:
    """A power of ten that moves x by about _ADVISED_MOVE: x(mu) - x ~ sqrt(mu / curvature) at a kink, mu / slope in an LP."""
    move = _ADVISED_MOVE * max(1.0, float(magnitude(x)))
    curvature = float(program.P.abs().max()) if program.P.numel() else 0.0
    mu = curvature * move**2 if curvature > 0.0 else float(magnitude(program.q).max()) * move
    return 10.0 ** round(math.log10(mu)) if mu > 0.0 else _ADVISED_MOVE


def _advice(point: PointDiagnosis, mu: float) -> str:
    smooth = f"use mu = {mu:.0e} for the gradient of a smooth path, or `dcl.compare_gradients` to choose"
    if point.status != Status.OPTIMAL:
        if point.conflict:
            return f"{_listed(point.conflict)} cannot hold together: relax or penalize one of them"
        return point.status.message
    if point.unique_x is False:
        return f"x is not unique: add a small quadratic term, or {smooth} (its x is the center of the optimal face)"
    match point.gradient_kind:
        case GradientKind.WEAKLY_ACTIVE:
            names = _listed(point.weakly_active) or str(point.weakest)
            many = len(point.weakly_active) > 1
            return f"{names} {'are' if many else 'is'} weakly active: the derivative is one-sided; {smooth}"
        case GradientKind.RANK_DEFICIENT:
            return (
                f"{point.rows - point.rank} of {point.rows} active rows depend on the others, so multipliers are not unique: "
                "drop what is redundant if multipliers are used; x has one derivative as long as such rows move together"
            )
        case GradientKind.NONUNIQUE:
            return f"a flat direction of the optimal face moves what was asked for: add a small quadratic term, or {smooth}"
        case GradientKind.ILL_CONDITIONED:
            return f"the KKT system has condition {point.condition:.0e}: rescale the data, or {smooth}"
    if point.weakly_active:
        return f"the derivative is exact for what was asked, though {_listed(point.weakly_active)} holds with multiplier zero"
    if point.margin < 1e-4:
        return (
            f"the derivative is exact for changes of the data below about {point.margin:.0e}: {point.weakest} is near"
        )
    return "the derivative is exact: nothing to do"

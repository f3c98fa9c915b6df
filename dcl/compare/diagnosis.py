"""`diagnose`: one point explained. Is it solved, what is active, is the derivative unique, and what to do if it is not.

active          rows with multiplier above the tie width of `dcl.point.ties` (cones: eigenvalues of D above 1/2), equalities too
weakly active   rows with slack and multiplier both zero: the kinks of the solution map
LICQ            the gradients of the active and weakly active rows are independent: rank = number
x unique        no direction d with Pd = 0, A_active d = 0 and A_weak d <= 0         (`dcl.compare.unique`)
z unique        no direction w with A'w = 0 on active rows, w >= 0 on weakly active ones
zero            at a vertex (active rows alone fix x): the arguments in which the derivative vanishes (`dcl.compare.probes`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcl.compare.advice import advise
from dcl.compare.points import Diagnosis, PointDiagnosis, Sizes
from dcl.compare.probes import nearby_mu, zero_in
from dcl.compare.subject import Layer, bind, called, has_engine, with_engine, with_settings
from dcl.compare.unique import uniqueness
from dcl.cones.by_rows import exact_instances
from dcl.errors import InputError
from dcl.layers.argmin import ArgminLayer
from dcl.layers.cvxpy import CvxpyLayer
from dcl.outcome.messages import AbstractCallContext, conflict, entry, named
from dcl.outcome.solution import Solution
from dcl.point import Point
from dcl.point.degeneracy import resolved
from dcl.program import ConeProgram
from dcl.status import GradientKind, Status


def diagnose(
    layer: Layer, *tensors: Tensor | None, mu: float | Tensor | None = None, **named: Tensor | None
) -> Diagnosis:
    """Explain the answer of a layer for these tensors, instance by instance, failed instances included.

    For each: status and residuals, the active constraints by the caller's names, the strict-complementarity margin and whose it
    is, rank of the active rows (LICQ), condition of the KKT system, whether x and the multipliers are unique, what the
    derivative is worth, in which arguments it is zero at a vertex, and advice.  The settings of the layer are
    used, but failures and degenerate points raise no error and no warning.

    Args:
        layer: a `CvxpyLayer`, `QPLayer`, `ConeLayer` or `ArgminLayer`.
        tensors: as in the call, with batch dimensions; None where a block is absent.
        mu: barrier parameter for this call (default: the layer's).
        named: tensors by the names of the call, for a `QPLayer` or a `ConeLayer`: `diagnose(layer, P, q, G=G, h=h)`.

    Raises:
        InputError, DtypeError: the tensors cannot be used.

    Example:
        >>> import torch, dcl
        >>> q, lb = torch.tensor([-1.0, 0.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        >>> point = dcl.diagnose(dcl.QPLayer(), torch.eye(2).double(), q, lb=lb)[0]
        >>> point.gradient_kind.name, point.weakly_active
        ('WEAKLY_ACTIVE', ('lb[1]',))
    """
    tensors = bind(layer, tensors, named)
    twin: Layer
    if isinstance(layer, ArgminLayer):
        twin = with_settings(layer, on_failure="last", on_degenerate="ignore")
        solution, context = _of_function(twin, tensors, mu)
    elif has_engine(layer):
        twin, _ = with_engine(layer, on_failure="last", on_degenerate="ignore", straight_through=False)
        solution, context = _of_cones(twin, tensors, mu)
    else:
        raise InputError(f"diagnose takes a dcl layer, got {type(layer).__name__}", argument="layer")
    sizes = _sizes(twin, solution)
    if not solution.status.numel():
        return Diagnosis((), context.batch_shape, sizes)
    points = _advised(_points(solution, context), twin, tensors, context.batch_shape)
    return Diagnosis(tuple(points), context.batch_shape, sizes)


Found = tuple[Solution, AbstractCallContext]


def _of_cones(layer: Layer, tensors: Sequence[Tensor | None], mu: float | Tensor | None) -> Found:
    twin, spy = with_engine(layer)
    with torch.no_grad():
        _, solution = called(twin, tensors, mu=mu, return_solution=True)
    if spy.context is None:
        raise InputError("the layer did not ask for a solution", argument="layer")
    return solution, spy.context


def _sizes(layer: Layer, solution: Solution) -> Sizes:
    structure = solution._program.structure
    exact = not isinstance(solution._mu, Tensor)
    reduction = layer._reduction(exact) if isinstance(layer, CvxpyLayer) else None
    return Sizes(structure.n, structure.m, None if reduction is None else reduction.after)


@dataclass(frozen=True, eq=False)
class _FunctionContext(AbstractCallContext):
    """Rows of an ArgminLayer: equalities first."""

    parts: tuple[tuple[str, int], ...]

    def check(self, program: ConeProgram, given: Sequence[Tensor]) -> None:
        pass

    def describe_row(self, row: int) -> str:
        return entry(self.parts, row)


def _of_function(layer: ArgminLayer, tensors: Sequence[Tensor | None], mu: float | Tensor | None) -> Found:
    """At the solution, the quadratic program that agrees with the function there to second order."""
    if layer._linear_solve != "direct":
        raise InputError('diagnose forms matrices, so it does not work with linear_solve="cg"', argument="layer")
    with torch.no_grad():
        _, solution = layer(*tensors, mu=mu, return_solution=True)
    cone = solution._program.structure.cone
    parts = ("equality", cone.zeros), ("inequality", cone.dim - cone.zeros)
    return solution, _FunctionContext(tuple(solution.status.shape), parts)


# What a barrier may replace.
_ROUGH = (GradientKind.WEAKLY_ACTIVE, GradientKind.NONUNIQUE, GradientKind.ILL_CONDITIONED)


def _advised(
    points: list[PointDiagnosis], layer: Layer, tensors: Sequence[Tensor | None], batch_shape: tuple[int, ...]
) -> list[PointDiagnosis]:
    """The points with what further calls of the layer tell about them, and advice."""
    still = [
        p.vertex is True and p.gradient_kind in (GradientKind.EXACT, GradientKind.RANK_DEFICIENT) and not p.on_path
        for p in points
    ]
    zero = zero_in(layer, tensors, batch_shape) if any(still) else []
    points = [replace(p, zero_in=zero[i]) if still[i] else p for i, p in enumerate(points)]
    dependent = [p.gradient_kind == GradientKind.RANK_DEFICIENT and bool(p.zero_in) for p in points]
    rough = [i for i, p in enumerate(points) if p.unique_x is False or p.gradient_kind in _ROUGH or dependent[i]]
    mus = nearby_mu(layer, tensors, rough, len(points)) if rough else [None] * len(points)
    return [replace(p, advice=advise(p, mu)) for p, mu in zip(points, mus, strict=True)]


def _points(solution: Solution, context: AbstractCallContext) -> list[PointDiagnosis]:
    program, v, mu = solution._program, solution._v, solution._mu
    batch = v.shape[0]
    exact = exact_instances(mu, batch)
    paths = torch.ones(batch, dtype=torch.bool) if exact is None else ~exact.cpu()
    ok = solution.ok.reshape(-1)
    found = Point(program, solution._x_in_units, v, mu)
    kkt, ties = resolved(found).kkt, ~torch.isnan(found.at_kink)
    strong = (kkt.D.d > 0.5) & ~ties
    equalities = torch.arange(v.shape[-1]).to(v.device) < program.structure.cone.zeros
    strong = torch.where(paths.to(v.device).unsqueeze(-1), equalities, strong)
    certificate = (
        None if solution.certificate is None else solution.certificate.reshape(batch, -1)[:, program.structure.n :]
    )
    flat = {
        name: getattr(solution, name).reshape(-1)
        for name in ("status", "primal_residual", "dual_residual", "gap", "value")
    }
    kinds, margins = solution.gradient_kind.reshape(-1), solution.margin.reshape(-1)
    weakest, conditions = solution._degeneracy.weakest, solution.condition.reshape(-1)
    dependent = solution._degeneracy.dependent
    points = []
    for i in range(batch):
        good, on_path = bool(ok[i]), bool(paths[i])
        rows = torch.nonzero(strong[i]).squeeze(-1).tolist() if good else []
        weak = torch.nonzero(ties[i]).squeeze(-1).tolist() if good else []
        row = int(weakest[i])
        one = program.rows(torch.tensor([i], device=v.device)).expanded(1)
        unique = uniqueness(one, kkt, i, strong[i], ties[i], solution.requested) if good else None
        point = PointDiagnosis(
            index=context.index(i),
            status=Status(int(flat["status"][i])),
            primal_residual=float(flat["primal_residual"][i]),
            dual_residual=float(flat["dual_residual"][i]),
            gap=float(flat["gap"][i]),
            value=float(flat["value"][i]),
            active=_named(context, rows),
            weakly_active=_named(context, weak),
            conflict=_sorted(conflict(context, None if certificate is None else certificate[i])),
            margin=float("inf") if on_path else float(margins[i]),
            weakest=context.describe_row(row) if row >= 0 and not on_path else None,
            dependent=_named(context, torch.nonzero(dependent[i]).flatten().tolist()) if good else (),
            rows=unique.rows if unique else 0,
            rank=unique.rank if unique else 0,
            condition=float(conditions[i]),
            unique_x=unique.x if unique else None,
            unique_z=unique.z if unique else None,
            gradient_kind=GradientKind(int(kinds[i])) if good else None,
            vertex=unique.vertex if unique else None,
            zero_in=(),
            on_path=on_path,
            advice="",
        )
        points.append(point)
    return points


def _named(context: AbstractCallContext, rows: Sequence[int]) -> tuple[str, ...]:
    """The caller's names of the rows; a constraint of many entries is named once, what CVXPY added comes last."""
    return _sorted(named(context, rows))


def _sorted(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: name.startswith("epigraph of ")))

"""Which constraints bind, and how far the parameters may move until others do.

At mu = 0, where P and A stay and q and b move along a line, q + t dq and b + t db, the solution is piecewise affine in t:

    K (dx, dv) = (-dq, db)         x(t) = x + t dx,   v(t) = v + t dv         as long as no v_i of an inequality changes sign

v_i > 0 is the multiplier of a row that binds, v_i < 0 the negative of the slack of one that does not.  So the piece ends at

    high = min { -v_i / dv_i : it is > 0 }        low = max { -v_i / dv_i : it is < 0 }         over the inequalities i

(Best and Grauer 1991, Sensitivity analysis for mean-variance portfolio problems; for linear programs the ratio test of the
simplex method.)  A dv_i that
is rounding, some 1e-13 of the largest entry of (dx, dv), counts as zero.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from dcl.errors import DegenerateError, UnsupportedError
from dcl.outcome.messages import AbstractCallContext
from dcl.outcome.solution import Solution
from dcl.point import Point
from dcl.point.degeneracy import classify
from dcl.program import magnitude
from dcl.program.scaling import scaled
from dcl.programs.conflict import SECONDS, Conflict, conflict_of
from dcl.programs.derivatives import forward, point_of
from dcl.programs.model import Model
from dcl.programs.values import Axes
from dcl.status import GradientKind

_ENDS = 4  # entries of a constraint that are named


def binding(model: Model, tensors: Sequence[Tensor], solution: Solution, axes: Axes) -> list[tuple[str, ...]]:
    """For each instance the user's inequalities that hold with equality and a multiplier that is not zero.

    axes: labels for their entries.
    """
    stated, plan = model.stated(tensors)
    point = point_of(stated.program, solution, model.layer._engine.barrier(None, plan.batch.shape))
    if isinstance(point.mu, Tensor):
        return [()] * plan.batch.size  # x(mu) is inside of all inequalities
    strong = point.D.d > 0.5
    strong[:, : model.form.structure.cone.zeros] = False
    strong &= solution.ok.reshape(-1, 1)
    return [_texts(model, torch.nonzero(row).flatten().tolist(), axes) for row in strong]


def _texts(model: Model, rows: list[int], axes: Axes) -> tuple[str, ...]:
    """The names of constraints and attributes of variables, not of what CVXPY added, with the entries that bind."""
    entries: dict[str, list[str]] = {}
    for row in rows:
        name, _, entry = model.form.describe_row(row).partition(", entry ")
        if name.startswith(("constraint ", "variable ")) and not name.startswith("constraint added"):
            entries.setdefault(name, []).append(entry)
    found = []
    for name in sorted(entries, key=_order):
        labels = _labels(model, name, axes)
        # the row of a vector with one entry has no number, but may have a label
        named = [labels.get(place or "0", place) if place or labels.get("0") != "0" else "" for place in entries[name]]
        shown = [label for label in named if label]
        more = f", ... ({len(shown)} entries)" if len(shown) > _ENDS else ""
        found.append(name + (f", entry {', '.join(shown[:_ENDS])}{more}" if shown else ""))
    return tuple(found)


def _labels(model: Model, name: str, axes: Axes) -> dict[str, str]:
    """Labels of the entries of a constraint that is one vector, {"2": "AAPL"}."""
    word, number = name.split()[:2]
    duals = model.constraints[int(number)].duals if word == "constraint" else ()
    if len(duals) != 1 or len(model.duals[duals[0]].shape) != 1:
        return {}
    return {str(k): label for k, label in enumerate(axes.places(model.duals[duals[0]]))}


def _order(name: str) -> tuple[float, str]:
    """The user's constraints in his order, then attributes of variables."""
    word, number = name.split()[:2]
    return (float(number), "") if word == "constraint" else (math.inf, name)


def conflicts(model: Model, tensors: Sequence[Tensor], solution: Solution) -> list[Conflict]:
    """For each instance the constraints that contradict each other; none where there is a solution."""
    count = solution.status.numel()
    if solution.certificate is None:
        return [Conflict()] * count
    stated = model.stated(tensors)[0]
    program, context = stated.program.detach(), stated.context
    weights = solution.certificate.reshape(count, -1)[:, model.form.structure.n :]
    end = time.monotonic() + SECONDS
    return [
        conflict_of(program.rows(torch.tensor([i])).expanded(1), context, row, end)
        if bool(torch.isfinite(row).any())
        else Conflict()
        for i, row in enumerate(weights)
    ]


def active_range(
    model: Model, tensors: Sequence[Tensor], direction: Sequence[Tensor], solution: Solution
) -> tuple[Tensor, Tensor]:
    """(low, high), (B,) each; errors as in `ProgramSolution.active_range`."""
    structure = model.form.structure
    if not structure.cone.is_orthant:
        raise UnsupportedError(
            "active_range is for linear and quadratic programs: with other cones the solution is not piecewise affine"
        )
    if isinstance(solution._mu, Tensor):
        raise UnsupportedError("active_range needs mu = 0: at x(mu) no inequality is active")
    stated, _ = model.stated(tensors)
    point = point_of(stated.program, solution, 0.0)
    dq, db = _moves(model, tensors, direction)
    residual = torch.maximum(solution.primal_residual, solution.dual_residual).reshape(-1)
    _check_unique(classify(point, residual).kind, stated.context, point)
    _, units = scaled(stated.program.detach())
    dx, dv, _ = point.kkt.tangent((-dq * units.c).expand_as(point.x), (db * units.E).expand_as(point.v))
    noise = _noise(point, dx, dv)
    inside = slice(structure.cone.zeros, None)
    v, dv = point.v[:, inside], dv[:, inside]
    moves = dv.abs() > noise
    t = torch.where(moves, -v / torch.where(moves, dv, 1.0), torch.inf)
    if not t.shape[-1]:
        return torch.full(t.shape[:1], -torch.inf, dtype=t.dtype), torch.full(t.shape[:1], torch.inf, dtype=t.dtype)
    high = torch.where(t > 0.0, t, torch.inf).amin(-1)
    low = torch.where(t < 0.0, t, -torch.inf).amax(-1)
    return low, high


def _moves(model: Model, tensors: Sequence[Tensor], direction: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """dq (B or 1, n) and db (B or 1, m) along the direction. Raises UnsupportedError where P or A moves too."""
    if model.form.logs or model.form.gp:
        raise UnsupportedError("active_range is not for geometric programs")

    def data(*thetas: Tensor) -> tuple[Tensor, ...]:
        program = model.stated(thetas)[0].program
        return program.P, program.q, program.A, program.b

    dP, dq, dA, db = forward(data, tensors, direction)
    if bool(dP.any()) or bool(dA.any()):
        moving = ", ".join(e.name for e, d in zip(model.parameters, direction, strict=True) if bool(d.any()))
        what = "quadratic cost" if bool(dP.any()) else "matrix of the constraints"
        raise UnsupportedError(
            f"active_range follows linear costs and right-hand sides, along which the solution is piecewise affine; {moving} "
            f"changes the {what}. Use a sweep, which marks where the active constraints change"
        )
    return dq, db


def _check_unique(kinds: Tensor, context: AbstractCallContext, point: Point) -> None:
    doubtful = torch.nonzero((kinds != GradientKind.EXACT) & (kinds != GradientKind.ILL_CONDITIONED)).flatten().tolist()
    if not doubtful:
        return
    i = doubtful[0]
    kind = GradientKind(int(kinds[i]))
    ties = torch.nonzero(~torch.isnan(point.at_kink[i])).flatten().tolist()
    names = "; weakly active: " + ", ".join(context.describe_row(row) for row in ties[:_ENDS]) if ties else ""
    index = context.index(i)
    raise DegenerateError(
        f"the set of active constraints is not unique{f' at batch index {index}' if index else ''}, so there is no range: "
        f"{kind.name}, {kind.message}{names}",
        indices=[context.index(k) for k in doubtful],
    )


def _noise(point: Point, dx: Tensor, dv: Tensor) -> Tensor:
    """What rounding leaves of a dv_i that is zero, (B, 1), in the units of `dcl.program.scaling`, where rows have size one.

    Errors of K^-1 r are relative to the largest entry of the solution, and grow with the condition of K.
    """
    digits = (1e-16 * point.kkt.conditioning.condition).clamp(min=1e-13, max=1e-8).unsqueeze(-1)
    return digits * torch.maximum(magnitude(dx), magnitude(dv)).unsqueeze(-1)

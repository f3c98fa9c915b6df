"""Derivatives at a solution that is known: nothing is solved again.

    x, z, s known, theta -> data by the affine maps of `dcl.frontends.cvxpy`, then the implicit function theorem of `dcl.implicit`

    derivative   dtheta -> dx       one solve with the KKT matrix K for each direction
    adjoint      gx -> gtheta       one solve with K' for each cotangent
    jacobian     dx/dtheta          solves for the smaller of the two counts

The optimal value needs no solve (envelope theorem): with the Lagrangian L = 1/2 x'Px + q'x + d + z'(Ax - b),

    dvalue/dtheta = dL/dtheta at fixed x and z       (mu = 0; the sign of a maximization; times the value for a GP)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from dcl.cones.base import Barrier
from dcl.implicit import Known
from dcl.implicit.solve import DUAL, GAP, PRIMAL, STATUS
from dcl.outcome.messages import AbstractCallContext
from dcl.outcome.solution import Solution
from dcl.point import Point
from dcl.point.asked import Requested
from dcl.point.degeneracy import Degeneracy, classify, resolved
from dcl.program import ConeProgram
from dcl.program.scaling import scaled
from dcl.programs.model import Model
from dcl.status import GradientKind

# Right-hand sides that are solved together: their number times n + m times the batch.
_ENTRIES = 1 << 24


def point_of(program: ConeProgram, solution: Solution, mu: Barrier) -> Point:
    """The point of a solution in the units of `program`, which is stated for the same parameters; its ties are resolved."""
    scaled_program, units = scaled(program.detach())
    x, z, s = (t.reshape(solution.status.numel(), t.shape[-1]) for t in (solution.canonical_x, solution.z, solution.s))
    v = units.scaled_dual(z) - s * units.E
    return resolved(Point(scaled_program.expanded(x.shape[0]), x, v, units.barrier(mu)))


def degeneracy_of(
    model: Model, tensors: Sequence[Tensor], solution: Solution, requested: Requested
) -> tuple[Degeneracy, AbstractCallContext]:
    """What the derivative of the requested entries in the parameters is worth, and who names the rows."""
    stated, plan = model.stated(tensors)
    point = point_of(stated.program, solution, model.layer._engine.barrier(None, plan.batch.shape))
    residual = torch.maximum(solution.primal_residual, solution.dual_residual).reshape(-1)
    return classify(point, residual, requested, model.layer._moving), stated.context


def value_degeneracy_of(
    model: Model, tensors: Sequence[Tensor], solution: Solution
) -> tuple[Degeneracy, AbstractCallContext]:
    """What the gradient of the optimal value is worth: that of the Lagrangian is unique where x and z are.

    Only entries that multiply data which move count.  A tie is no cause, since the value is smooth there.
    """
    moving = model.layer._moving
    assert moving is not None
    x = moving.q.index_fill(0, torch.cat([*moving.P, moving.A[1]]), True)
    found, context = degeneracy_of(model, tensors, solution, Requested(x, moving.rows()))
    unique = (found.kind != GradientKind.RANK_DEFICIENT) & (found.kind != GradientKind.NONUNIQUE)
    return replace(found, kind=torch.where(unique, int(GradientKind.EXACT), found.kind)), context


def outputs_of(model: Model, tensors: Sequence[Tensor], solution: Solution) -> Callable[..., tuple[Tensor, ...]]:
    """theta -> the outputs of the layer, as a function that knows its value at `tensors` and has its derivatives there.

    tensors: (*batch, *shape) each.  Only the derivatives mean anything at other arguments.
    """
    stated, plan = model.stated(tensors)
    mu = model.layer._engine.barrier(None, plan.batch.shape)
    point = point_of(stated.program, solution, mu)
    report = torch.zeros(plan.batch.size, GAP + 1, dtype=torch.float64, device="cpu")
    for column, t in (
        (STATUS, solution.status), (PRIMAL, solution.primal_residual), (DUAL, solution.dual_residual), (GAP, solution.gap)
    ):  # fmt: skip
        report[:, column] = t.reshape(-1).double()
    known = Known(point.x, point.v, point.at_kink, report)

    def outputs(*thetas: Tensor) -> tuple[Tensor, ...]:
        again, plan = model.stated(thetas)
        return model.layer._answered(again, plan, known=known)[0]

    return outputs


def forward(
    function: Callable[..., tuple[Tensor, ...]], at: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The derivative of a function along the tangents, by torch's forward mode."""
    _load_forward_mode()
    moved: tuple[Tensor, ...] = torch.func.jvp(function, tuple(at), tuple(tangents))[1]
    return moved


@cache
def _load_forward_mode() -> None:
    """What torch imports when forward mode is first used; it warns of its own torch.jit.script (torch 2.13)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import_module("torch._decomp.decompositions_for_jvp")


def pushed(
    model: Model, tensors: Sequence[Tensor], solution: Solution, tangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The derivative of every output in the direction of the tangents, one for each parameter, (*batch, *shape)."""
    if not tensors:
        return tuple(torch.zeros_like(t) for t in solution.outputs)  # nothing can move
    outputs = outputs_of(model, tensors, solution)
    return forward(outputs, tensors, tangents)


def pulled(
    model: Model, tensors: Sequence[Tensor], solution: Solution, cotangents: dict[int, Tensor], wanted: Sequence[int]
) -> list[Tensor]:
    """Gradients of sum <cotangent, output> in the parameters `wanted`, (*batch, *shape) each; cotangents by output."""
    if not wanted:
        return []
    outputs = outputs_of(model, tensors, solution)
    leaves = {p: tensors[p].clone().requires_grad_() for p in wanted}
    with torch.enable_grad():
        found = outputs(*(leaves.get(p, t) for p, t in enumerate(tensors)))
        return list(
            torch.autograd.grad(
                [found[k] for k in cotangents],
                list(leaves.values()),
                list(cotangents.values()),
                allow_unused=True,
                materialize_grads=True,
            )
        )


def jacobian(model: Model, tensors: Sequence[Tensor], solution: Solution, output: int, wrt: int) -> Tensor:
    """d output / d parameter, (*batch, *shape of the output, *shape of the parameter)."""
    form = model.form
    rows = (*model.variables, *model.duals)[output].shape
    columns = model.parameters[wrt].shape
    batch = solution.status.shape
    count, size = math.prod(rows), math.prod(columns)
    outputs = outputs_of(model, tensors, solution)
    most = max(1, _ENTRIES // max(1, solution.status.numel() * (form.structure.n + form.structure.m)))
    if size < count:

        def along(tangent: Tensor) -> Tensor:
            tangents = tuple(tangent if p == wrt else torch.zeros_like(t) for p, t in enumerate(tensors))
            return forward(outputs, tensors, tangents)[output]

        moved = [torch.func.vmap(along)(basis) for basis in _basis(columns, batch, most)]
        # (*columns, *batch, *rows)
        return (
            torch.cat(moved).reshape((*columns, *batch, *rows)).permute(_rotated(len(columns), len(batch) + len(rows)))
        )
    leaf = tensors[wrt].clone().requires_grad_()
    with torch.enable_grad():
        found = outputs(*(leaf if p == wrt else t for p, t in enumerate(tensors)))[output]
    pulled_back = [
        torch.autograd.grad(found, leaf, basis, is_grads_batched=True, retain_graph=True, materialize_grads=True)[0]
        for basis in _basis(rows, batch, most)
    ]
    # (rows, *batch, *columns)
    flat = torch.cat(pulled_back).movedim(0, len(batch))
    return flat.reshape((*batch, *rows, *columns))


def _rotated(first: int, rest: int) -> tuple[int, ...]:
    """The permutation that brings the first dimensions behind the rest."""
    return (*range(first, first + rest), *range(first))


def _basis(shape: tuple[int, ...], batch: torch.Size, most: int) -> list[Tensor]:
    """The unit vectors of `shape`, the same for each instance: (k, *batch, *shape) with k <= most in all."""
    size = math.prod(shape)
    eye = torch.eye(size, dtype=torch.float64, device="cpu").reshape((size, *[1] * len(batch), *shape))
    return [part.expand((part.shape[0], *batch, *shape)) for part in eye.split(most)]


def value_gradient(model: Model, tensors: Sequence[Tensor], solution: Solution, wanted: Sequence[int]) -> list[Tensor]:
    """The gradient of the optimal value in the parameters `wanted`, (*batch, *shape) each, by the envelope theorem."""
    if not wanted:
        return []
    form = model.form
    x, z = (t.reshape(solution.status.numel(), t.shape[-1]) for t in (solution.canonical_x, solution.z))
    leaves = {p: tensors[p].clone().requires_grad_() for p in wanted}
    with torch.enable_grad():
        stated, _ = model.stated([leaves.get(p, t) for p, t in enumerate(tensors)])
        program = stated.program
        lagrangian = program.objective(x) + stated.d + (z * (program.Ax(x) - program.b)).sum(-1)
        value = -lagrangian if form.maximize else lagrangian
        value = value.exp() if form.gp else value
        return list(torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True))

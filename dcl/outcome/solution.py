"""What is known of an answer: the point, how good it is as dcl itself measured it, and what its derivative is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from dcl.cones.base import Barrier
from dcl.errors import UnsupportedError
from dcl.point import Point, worst
from dcl.point.degeneracy import Degeneracy, Moving, Requested, classify, resolved
from dcl.program import ConeProgram
from dcl.program.pattern import DensePattern
from dcl.status import Status
from dcl.torch_modes import is_readable


@dataclass(frozen=True, eq=False)
class Solution:
    """An answer, detached from the graph; every tensor leads with the batch dimensions of the call.

    outputs: what the layer returns for it.  x (*batch, n), z (*batch, m), s (*batch, m): the point in the letters of
    `dcl.program`, its rows in the caller's order: those of A and b of a ConeLayer; of A, G, lb and ub of a QPLayer (where a
    right-hand side is infinite z is 0 and s is 1, that of 0'x + s = 1); of the canonical form of a CVXPY problem.
    value (*batch): the optimal value.
    status (*batch): `dcl.Status` as integers.  primal_residual, dual_residual, gap (*batch): relative, as measured by dcl.
    iterations, seconds (*batch): of all solvers that were tried.  solver (*batch): position in `solvers` of the one
    that gave the point.  certificate (*batch, n + m) or None: of an infeasible instance, see `dcl.point.truth`, NaN elsewhere;
    its rows are those of z.  program, v: in the units of `dcl.program.scaling`, the rows in dcl's own order; columns: the
    units of x in `program`, (B or 1, n), None for one.
    """

    outputs: tuple[Tensor, ...]
    x: Tensor
    z: Tensor
    s: Tensor
    value: Tensor
    status: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    gap: Tensor
    iterations: Tensor
    seconds: Tensor
    solver: Tensor
    solvers: tuple[str, ...]
    certificate: Tensor | None
    program: ConeProgram
    v: Tensor
    mu: Barrier
    requested: Requested | None = None
    moving: Moving | None = None
    known_degeneracy: Degeneracy | None = None
    columns: Tensor | None = None

    @property
    def ok(self) -> Tensor:
        """(*batch) boolean: OPTIMAL."""
        # torch.compile takes the comparison of a tensor with an IntEnum for a constant, False (torch 2.13)
        return self.status == int(Status.OPTIMAL)

    @cached_property
    def _degeneracy(self) -> Degeneracy:
        if self.known_degeneracy is not None:
            return self.known_degeneracy
        if not is_readable(self.v):
            raise UnsupportedError(
                "the kind of derivative is not known inside of torch.func.vmap: return the Solution and ask it outside"
            )
        program, v, mu = self._in_one_batch()
        x = self.x_in_units
        residual = torch.maximum(self.primal_residual, self.dual_residual).reshape(-1)
        masks = self.requested
        requested = masks and Requested(*(mask.reshape(-1, mask.shape[-1])[0] for mask in masks))
        return classify(resolved(Point(program, x, v, mu)), residual, requested, self.moving)

    @property
    def x_in_units(self) -> Tensor:
        """x (B, n) of `program`."""
        x = self.x.reshape(-1, self.x.shape[-1])
        return x if self.columns is None else x / self.columns.reshape(-1, x.shape[-1])

    def _in_one_batch(self) -> tuple[ConeProgram, Tensor, Barrier]:
        """program, v and mu with one batch dimension; torch.func.vmap has put others in front."""
        lead = self.v.shape[:-1]

        def one(t: Tensor, core: int) -> Tensor:
            rest = t.shape[t.ndim - core :]
            return t.reshape(1, *rest) if t.numel() == rest.numel() else t.expand(*lead, *rest).reshape(-1, *rest)

        program, structure = self.program, self.program.structure
        core_P, core_A = (2 if isinstance(M, DensePattern) else 1 for M in (structure.P, structure.A))
        program = ConeProgram(
            structure, one(program.P, core_P), one(program.q, 1), one(program.A, core_A), one(program.b, 1)
        )
        return program, one(self.v, 1), one(self.mu, 1) if isinstance(self.mu, Tensor) else self.mu

    def _shaped(self, t: Tensor) -> Tensor:
        return t.reshape(self.status.shape)

    @property
    def gradient_kind(self) -> Tensor:
        """(*batch) `dcl.GradientKind` as integers; classified on first access if no gradient was recorded."""
        return self._shaped(self._degeneracy.kind)

    @property
    def margin(self) -> Tensor:
        """(*batch) strict-complementarity margin, see `dcl.point.degeneracy`."""
        return self._shaped(self._degeneracy.margin)

    @property
    def condition(self) -> Tensor:
        """(*batch) estimated 2-norm condition of the KKT matrix."""
        return self._shaped(self._degeneracy.condition)

    def __repr__(self) -> str:
        if not is_readable(self.v):
            return "Solution(of one instance inside of torch.func.vmap)"
        residual = worst(torch.stack([self.primal_residual, self.dual_residual, self.gap], -1))
        groups = []
        for status in Status:
            those = residual[self.status == int(status)]
            if those.numel():
                size = float(those.max())
                reached = f" (worst residual {size:.1e})" if size < torch.inf else ""
                groups.append(f"{those.numel()} {status.name}{reached}")
        return f"Solution({', '.join(groups) or 'empty batch'})"


_PLAIN = (
    "outputs", "x", "z", "s", "value", "status", "primal_residual", "dual_residual", "gap", "iterations", "seconds",
    "solver", "v",
)  # fmt: skip
_OPTIONAL = ("certificate", "requested", "columns")
_DATA = ("P", "q", "A", "b")
_DEGENERACY = ("kind", "margin", "weakest", "condition")


def _flatten(solution: Solution) -> tuple[list[Any], Any]:
    """The tensors, and what is no tensor: solvers, structure, moving, mu = 0, and which of the optional parts are there."""
    # torch also makes trees of integers with this structure
    known, is_tensor = solution.known_degeneracy, not isinstance(solution.mu, float)
    optional = tuple(name for name in _OPTIONAL if getattr(solution, name) is not None)
    children = [getattr(solution, name) for name in (*_PLAIN, *optional)]
    children += [getattr(solution.program, name) for name in _DATA]
    children += [getattr(known, name) for name in _DEGENERACY] if known is not None else []
    children += [solution.mu] if is_tensor else []
    fixed = solution.solvers, solution.program.structure, solution.moving
    return children, (*fixed, optional, known is not None, is_tensor)


def _unflatten(children: Any, context: Any) -> Solution:
    solvers, structure, moving, optional, is_known, is_tensor = context
    rest = iter(children)

    def take(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: next(rest) for name in names}

    parts: dict[str, Any] = dict.fromkeys(_OPTIONAL) | take((*_PLAIN, *optional))
    program = ConeProgram(structure, **take(_DATA))
    known = Degeneracy(**take(_DEGENERACY)) if is_known else None
    mu = next(rest) if is_tensor else 0.0
    return Solution(**parts, solvers=solvers, program=program, mu=mu, moving=moving, known_degeneracy=known)


_pytree.register_pytree_node(Solution, _flatten, _unflatten, serialized_type_name="dcl.Solution")

"""One chunk of a sweep: many instances, solved and differentiated at once, each with its own outcome.

Rows that the compiled core certifies are done in one call.  The others, which may be infeasible or degenerate, go through
the careful lane, which says what they are: a failure is a row with its status, not an error.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl import core
from dcl.core import dense
from dcl.layers.fast import plan_lane
from dcl.layers.lane import AbstractKept, Fast, FastCall
from dcl.outcome.messages import Members
from dcl.outcome.solution import Solution
from dcl.point.ties import tie_width
from dcl.program import magnitude
from dcl.programs import derivatives
from dcl.programs.activity import columns, curved_activity
from dcl.programs.instances import instance, repeated
from dcl.programs.model import Model
from dcl.programs.names import Array
from dcl.status import GradientKind, Status

_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Start:
    """A point to start from: x (n,) and z (m,); solution: where the torch path found it, of one instance."""

    x: Tensor
    z: Tensor
    solution: Solution | None = None


@dataclass(frozen=True, eq=False)
class Chunk:
    """What is known of `count` instances; every array has one row for each.

    outputs: of the layer (variables, multipliers, value), NaN where there is no solution.  status: `dcl.Status`.
    residual: the largest of the three.  active: which inequality rows of the canonical program have a multiplier; a curved
    cone has one column, see `dcl.programs.activity`; no columns for mu > 0.  gradients: one array for each differentiated
    parameter.  kind: `dcl.GradientKind` of what is differentiated, EXACT where nothing is.  seconds: of each
    instance, on average.
    """

    outputs: tuple[Array, ...]
    status: NDArray[np.int64]
    residual: Array
    active: NDArray[np.bool_]
    gradients: tuple[Array, ...]
    kind: NDArray[np.int64]
    seconds: Array

    @property
    def count(self) -> int:
        """Number of instances."""
        return len(self.status)


@dataclass(frozen=True, eq=False)
class Work:
    """What to do with each instance.

    swept: which parameters have one value for each instance.  cotangents: by output, the weights (*shape) whose gradient is
    asked for; empty for none.  wanted: the parameters of the gradient.
    """

    model: Model
    swept: tuple[bool, ...]
    cotangents: dict[int, Tensor]
    wanted: tuple[int, ...]

    def run(self, tensors: Sequence[Tensor], start: Start | None = None) -> tuple[Chunk, Start | None]:
        """Solve the instances of tensors (count or none, *shape), and the point of the last one, to start the next from."""
        began = time.perf_counter()
        model = self.model
        count = next(t.shape[0] for t, swept in zip(tensors, self.swept, strict=True) if swept)
        cone = model.form.structure.cone
        exact = not isinstance(model.mu, Tensor) and model.mu == 0.0
        flat = exact and cone.is_orthant
        # at x(mu), inside of all inequalities, nothing is active or not
        zeros, width = (cone.zeros if flat else model.form.structure.m), (columns(cone) if exact else 0)
        outputs = tuple(torch.full((count, *shape), torch.nan, dtype=torch.float64) for shape in self._shapes())
        status = torch.zeros(count, dtype=torch.int64)
        residual = torch.full((count,), torch.nan, dtype=torch.float64)
        active = torch.zeros((count, width), dtype=torch.bool)
        kind = torch.full((count,), int(GradientKind.EXACT), dtype=torch.int64)  # what the core certifies is exact
        gradients = tuple(torch.zeros((count, *model.parameters[p].shape), dtype=torch.float64) for p in self.wanted)
        left, last = torch.arange(count), None
        found = self._by_core(tensors, count, start)
        if found is not None:
            kept, fast_outputs, fast_gradients = found
            certified = kept.status == dense.Code.CERTIFIED
            good, left = torch.nonzero(certified).flatten(), torch.nonzero(~certified).flatten()
            for whole, part in zip((*outputs, *gradients), (*fast_outputs, *fast_gradients), strict=True):
                whole[good] = part[good]
            residual[good] = kept.residuals[good].amax(-1)
            x, z = kept.point()
            # exactly zero where a row does not bind, or up to rounding where the core has solved a reduced program
            if flat:
                active[good] = z[good][:, zeros:] > _ROUNDING * magnitude(z[good]).unsqueeze(-1)
            elif width and good.numel():
                active[good] = self._curved(tensors, good, x[good], z[good])
            if good.numel():
                last = Start(x[good[-1]], z[good[-1]])
        if left.numel():
            part, slow_outputs, slow_gradients = self._carefully(tensors, left, start)
            for whole, new in zip((*outputs, *gradients), (*slow_outputs, *slow_gradients), strict=True):
                whole[left] = new
            status[left] = part.status
            residual[left] = torch.stack([part.primal_residual, part.dual_residual, part.gap]).amax(0)
            if self.cotangents:
                kind[left] = torch.where(part.ok, self._kinds(tensors, left, part), int(GradientKind.EXACT))
            good = torch.nonzero(part.ok).flatten()
            if flat:
                strong = part._v > tie_width(part._program, part._v)
                active[left] = strong[:, zeros:] & part.ok.unsqueeze(-1)
            elif width and good.numel():
                active[left[good]] = self._curved(tensors, left[good], part.canonical_x[good], part.z[good])
            if good.numel() and last is None:
                place = int(good[-1])
                last = Start(part.canonical_x[place], part.z[place], instance(part, place))
        for gradient in gradients:
            gradient[status != Status.OPTIMAL] = torch.nan
        seconds = torch.full((count,), (time.perf_counter() - began) / max(1, count), dtype=torch.float64)
        chunk = Chunk(
            tuple(t.numpy() for t in outputs), status.numpy(), residual.numpy(), active.numpy(),
            tuple(t.numpy() for t in gradients), kind.numpy(), seconds.numpy(),
        )  # fmt: skip
        return chunk, last if last is not None else start

    def _curved(self, tensors: Sequence[Tensor], places: Tensor, x: Tensor, z: Tensor) -> Tensor:
        return curved_activity(self.model, self._chosen(tensors, places), x, z)

    def _chosen(self, tensors: Sequence[Tensor], places: Tensor) -> list[Tensor]:
        """The parameters of the instances at `places`."""
        return [t[places] if swept else t for t, swept in zip(tensors, self.swept, strict=True)]

    def _kinds(self, tensors: Sequence[Tensor], places: Tensor, solution: Solution) -> Tensor:
        """What the gradient is worth at the instances at `places`, `GradientKind` as integers."""
        chosen = self._chosen(tensors, places)
        value = len(self.model.variables) + len(self.model.duals)
        if list(self.cotangents) == [value] and not isinstance(solution._mu, Tensor):
            return derivatives.value_degeneracy_of(self.model, chosen, solution)[0].kind
        variables = [place for place in self.cotangents if place != value]
        requested = self.model.requested(variables or range(len(self.model.variables)))
        return derivatives.degeneracy_of(self.model, chosen, solution, requested)[0].kind

    def _shapes(self) -> list[tuple[int, ...]]:
        return [*(entry.shape for entry in (*self.model.variables, *self.model.duals)), ()]

    def _by_core(
        self, tensors: Sequence[Tensor], count: int, start: Start | None
    ) -> tuple[AbstractKept, Sequence[Tensor], Sequence[Tensor]] | None:
        """What the core found, outputs and gradients; None where the core does not take the program."""
        layer = self.model.layer
        if not (core.available and layer._engine.is_free):
            return None
        differentiated = bool(self.cotangents)
        given = [
            t.expand(count, *entry.shape).clone().requires_grad_() if differentiated and p in self.wanted else t
            for p, (t, entry) in enumerate(zip(tensors, self.model.parameters, strict=True))
        ]
        arguments = {str(p): t for p, t in enumerate(given)}
        lane = plan_lane(layer, arguments, layer._engine.is_exact(None)) if count else None
        path = layer._engine.path(None, (count,))
        if lane is None or path is None or not lane.way.serves([t.requires_grad for t in given]):
            return None
        begin = None if start is None else (start.x.expand(count, -1), start.z.expand(count, -1))
        call = FastCall(lane, path[0], torch.get_num_threads(), _not_again, True, begin)
        if not differentiated:
            outputs = call.outputs(given)
            assert call.kept is not None
            return call.kept, outputs, ()
        with torch.enable_grad():
            outputs = Fast.apply(call, *given)
        gradients = torch.autograd.grad(
            [outputs[k] for k in self.cotangents],
            [given[p] for p in self.wanted],
            [g.expand(count, *g.shape).contiguous() for g in self.cotangents.values()],
            allow_unused=True,
            materialize_grads=True,
        )
        assert call.kept is not None
        return call.kept, [t.detach() for t in outputs], gradients

    def _carefully(
        self, tensors: Sequence[Tensor], places: Tensor, start: Start | None
    ) -> tuple[Any, Sequence[Tensor], Sequence[Tensor]]:
        """The `Solution`, outputs and gradients of the instances at `places`, by the torch path."""
        model = self.model
        part = self._chosen(tensors, places)
        arguments = {str(p): t for p, t in enumerate(part)}
        begin = None if start is None or start.solution is None else repeated(start.solution, 0, places.numel())
        options = {"solver_args": None, "warm_start": begin, "mu": None}
        members = Members((int(places.max()) + 1,), tuple(places.tolist()))
        with torch.no_grad():
            outputs, solution = model.layer._evaluate(arguments, options, False, True, members)
        assert solution is not None
        if not self.cotangents:
            return solution, outputs, ()
        count = places.numel()
        full = [t.expand(count, *entry.shape) for t, entry in zip(part, model.parameters, strict=True)]
        seeds = {k: g.expand(count, *g.shape).contiguous() for k, g in self.cotangents.items()}
        return solution, outputs, derivatives.pulled(model, full, solution, seeds, self.wanted)


def _not_again(*_: Any) -> tuple[Tensor, ...]:
    raise AssertionError("the gradient of a sweep cannot be differentiated again")


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """The chunks one after the other."""

    def rows(arrays: Sequence[Any]) -> Any:
        return np.concatenate(list(arrays))

    return Chunk(
        tuple(rows(parts) for parts in zip(*(c.outputs for c in chunks), strict=True)),
        rows([c.status for c in chunks]),
        rows([c.residual for c in chunks]),
        rows([c.active for c in chunks]),
        tuple(rows(parts) for parts in zip(*(c.gradients for c in chunks), strict=True)),
        rows([c.kind for c in chunks]),
        rows([c.seconds for c in chunks]),
    )

"""A CVXPY problem's way through the core by its reduced program (`dcl.program.reduction`).

forward     theta -> reduced program -> core -> x, z of the program as given, measured there -> variables and duals
backward    cotangents of x, z, value -> u, w of the adjoint system -> gradients on the entries that a parameter touches
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from dcl.errors import InputError
from dcl.frontends.cvxpy import CanonicalForm
from dcl.frontends.cvxpy.form import flatten_columns, unflatten_columns
from dcl.layers import reduced
from dcl.layers.cvxpy_lane import check, is_direct
from dcl.layers.lane import AbstractKept, AbstractWay, Ask, Grads
from dcl.point.asked import Requested
from dcl.program.affine import take
from dcl.program.reduction.blocks import Source, matrix_source, source
from dcl.program.reduction.pivots import choose
from dcl.program.reduction.plan import Reduction, plan
from dcl.program.reduction.pullback import Pullback, pullback
from dcl.program.reduction.shape import Shape
from dcl.program.reduction.terms import find

# A bound of the condition of P' at drawn parameters; above, it is singular for all.
_DEFINITE = 1e10


@dataclass(frozen=True, eq=False)
class Reductions:
    """The reductions of a form, made when they are first asked for. requested: entries of x and z that the outputs read."""

    form: CanonicalForm
    requested: Requested

    @cached_property
    def shape(self) -> Shape:
        """The program for all values of its parameters."""
        form, structure = self.form, self.form.structure
        sizes = [math.prod(domain.shape) for domain in form.domains]
        return Shape(
            P=matrix_source(form.map_P, structure.P, sizes),
            q=source(form.map_q, sizes),
            A=matrix_source(form.map_A, structure.A, sizes),
            b=source(form.map_b, sizes),
            zeros=structure.cone.zeros,
            orthant=sum(block.size for block in structure.cone.blocks if block.is_orthant),
            curved=tuple(block for block in structure.cone.blocks if not block.is_orthant),
        )

    @cached_property
    def constant(self) -> Source:
        """Of the objective."""
        return source(self.form.map_d, self.shape.b.sizes)

    @cached_property
    def exact(self) -> Reduction | None:
        """For mu = 0."""
        return self._plan(on_path=False)

    @cached_property
    def on_path(self) -> Reduction | None:
        """For mu > 0, and right for mu = 0 too."""
        return self._plan(on_path=True)

    # made once, and used ever after, also where the first call is under inference_mode
    @torch.inference_mode(False)
    def _plan(self, *, on_path: bool) -> Reduction | None:
        x, z = self.requested
        dense, shape = self.form.dense, self.shape
        terms = None if on_path else find(shape)
        left = shape if terms is None else terms.left_of(shape)
        wanted = x.numpy() if terms is None else x.numpy()[terms.variables]
        for cuts in (False,) if on_path or shape.curved else (True, False):
            pivots = choose(left, on_path=on_path, cuts=cuts, wanted=wanted)
            if pivots is None:
                continue
            found = plan(shape, pivots, terms=terms, dense=dense, in_dual=cuts, wanted_z=z)
            if found is not None and (found.cuts is None or self._is_definite(found)):
                return found
            if pivots[0].soft:
                found = plan(shape, pivots, terms=terms, dense=dense, in_dual=False, wanted_z=z)
                if found is not None:
                    return found
        return None

    def _is_definite(self, reduction: Reduction) -> bool:
        """Is P' definite at some parameters? Then it is nearly everywhere."""
        generator = torch.Generator(device="cpu").manual_seed(0)
        thetas = []
        for domain in self.form.domains:
            t = torch.randn(1, *domain.shape, generator=generator, dtype=torch.float64, device="cpu")
            t = domain.sign * (t @ t.mT) if domain.sign else t
            t = t if domain.lower is None else t.maximum(domain.lower + 1.0)
            t = t if domain.upper is None else t.minimum(domain.upper)
            thetas.append(flatten_columns(t, domain.shape))
        return bool(reduction.elimination.at(thetas).dual.condition <= _DEFINITE)


@dataclass(frozen=True, eq=False)
class Lifted:
    """What a call leaves; see `dcl.layers.lane.AbstractKept`. x (B, n), z (B, m): the point of the program as given."""

    solved: reduced.Solved
    x: Tensor
    z: Tensor

    @property
    def left(self) -> int:
        """How many instances are not certified."""
        return int(torch.count_nonzero(self.solved.status))

    @property
    def status(self) -> Tensor:
        """`dcl.core.dense.Code` (B,) int8."""
        return self.solved.status

    @property
    def iterations(self) -> Tensor:
        """Those of the solver (B,)."""
        return self.solved.factored.system.iterations

    @property
    def residuals(self) -> Tensor:
        """Primal, dual, gap (B, 3)."""
        return self.solved.measured.residuals[:, :3]

    @property
    def is_regular(self) -> bool:
        """May the careful lane differentiate at these points?"""
        reduction = self.solved.factored.reduction
        return not (reduction.has_twins or (reduction.has_tight and self.solved.is_at_tie))

    def point(self) -> tuple[Tensor, Tensor]:
        """x (B, n) and z (B, m), copies."""
        return self.x.clone(), self.z.clone()


@dataclass(frozen=True, eq=False)
class ReducedWay(AbstractWay):
    """values: places of the optimal value among the outputs.  shared: is the parameter shared by the batch?

    dtype: the caller's.  checked: parameters whose domain is looked at.
    """

    reductions: Reductions
    reduction: Reduction
    values: tuple[int, ...]
    shared: tuple[bool, ...]
    dtype: torch.dtype
    checked: tuple[int, ...]
    mixes: ClassVar[bool] = False

    def serves(self, needed: Sequence[bool]) -> bool:
        return not any(needed[p] for p in self.reduction.moving)

    def ask(self, given: Sequence[Tensor], ask: Ask) -> tuple[tuple[Tensor, ...], AbstractKept]:
        form, order = self.reductions.form, self.reduction.order
        check(form, self.checked, range(len(given)), given)
        thetas = [form.flatten(t.to(torch.float64), p) for p, t in enumerate(given)]
        start = None if ask.start is None else self._started(*ask.start)
        batch = math.prod(ask.batch)
        solved = reduced.solve(self.reduction, thetas, batch, mu=ask.mu, start=start, threads=ask.threads)
        x, z = take(solved.x, order.variables), take(solved.z, order.rows)
        outputs = list(form.extract(x, z))
        if self.values:
            value = solved.measured.value + form.map_d.numbers(thetas, ask.threads).squeeze(-1)
            for place in self.values:
                outputs.insert(place, -value if form.maximize else value)
        # copies: the caller may change his outputs in place
        shaped = tuple([t.reshape((*ask.batch, *t.shape[1:])).to(self.dtype, copy=True) for t in outputs])
        return shaped, Lifted(solved, x, z)

    def _started(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        n, m = self.reduction.before
        if x.shape[-1] != n or z.shape[-1] != m:
            raise InputError("warm_start has other sizes than this program", argument="warm_start")
        order = self.reduction.order
        return take(x, order.columns), take(z, order.lines)

    def pull(self, kept: AbstractKept, grads: Grads, needed: Sequence[bool], threads: int) -> Sequence[Tensor | None]:
        assert isinstance(kept, Lifted)
        solved = kept.solved
        form, order = self.reductions.form, self.reduction.order
        x, z = torch.zeros_like(solved.x), torch.zeros_like(solved.z)
        form.extract_adjoint([g for i, g in enumerate(grads) if i not in self.values], x, z)
        given = [g for i in self.values if (g := grads[i]) is not None]
        value = None
        if given:
            total = torch.stack(given).sum(0).to(torch.float64).reshape(-1)
            value = -total if form.maximize else total
        g, h = take(x, order.columns), take(z, order.lines)
        if value is not None and solved.mu is not None:
            h = h - value.unsqueeze(-1) * solved.measured.s
        u, w = solved.adjoint(g, h)
        back = self._pullback(tuple(needed))
        found = {} if back is None else back((solved.x, solved.z, u, w), value, solved.status, self.shared, threads)
        return [
            unflatten_columns(found[p], domain.shape).to(self.dtype) if p in found else None
            for p, domain in enumerate(form.domains)
        ]

    def _pullback(self, needed: tuple[bool, ...]) -> Pullback | None:
        kept, order = self.reduction.kept, self.reduction.order
        if needed not in kept:
            shape, constant = self.reductions.shape, self.reductions.constant
            kept[needed] = pullback(shape, constant, needed, order.variables, order.rows)
        return kept[needed]


def reduced_way(
    reductions: Reductions, exact: bool, values: tuple[int, ...], shared: tuple[bool, ...], dtype: torch.dtype
) -> ReducedWay | None:
    """The way of a form by its reduced program, None where there is none. exact: for mu = 0."""
    form = reductions.form
    if not is_direct(form):
        return None
    reduction = reductions.exact if exact else reductions.on_path
    if reduction is None or (reduction.curved and reduction.core is None):
        return None
    # what is not PSD may be so where variables are taken out: nothing but the domain tells
    checked = [
        p
        for p, d in enumerate(form.domains)
        if d.sign or d.lower is not None or d.upper is not None or d.strict or d.free is not None
    ]
    return ReducedWay(reductions, reduction, values, shared, dtype, tuple(checked))

"""A call of a `QPLayer` or `ConeLayer` with sparse tensors: small programs as dense ones, others on their patterns.

    small    the values in a dense tensor, a differentiable operation, and the layer as it is
    others   a layer whose arguments are the values, (*batch, nnz): every matrix stays on its pattern, from the solver to the KKT
             factor, and the gradient is computed on it.  The compiled core, whose blocks are dense, goes first where it is fast

Forms of the last few patterns are kept beside the layer, so that a pattern is analyzed once; they are compared entry by entry.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dcl.frontends.sparse import Entries, check_places, entries, is_sparse
from dcl.frontends.sparse_program import Assembled, Form, Patterns
from dcl.layers.base import AbstractLayer, Arguments, Plan, Stated
from dcl.layers.engine import LayerPoint
from dcl.layers.lane import AbstractKept, AbstractWay, Ask, Grads
from dcl.layers.vertex import Linear
from dcl.outcome.solution import Solution
from dcl.program.pattern import SparsePattern
from dcl.torch_modes import outside_of_transforms, uncompiled

# Operations of the core on a dense program, n^3 + n^2 m + n m^2, against those that the careful lane's time on a sparse one
# amounts to, for each row and column (measured in `dcl.program.reduction.plan`).
_SPARSE = 5e4
# The largest n + m for which the careful lane on a dense program, for what the core does not certify, is no slower.
_MOST_DENSE = 600
_FORMS = 8


class AbstractMatrixLayer(AbstractLayer):
    """A layer whose arguments are the matrices and vectors of a program."""

    @abstractmethod
    def _form(self, patterns: Patterns, plan: Plan) -> Form:
        """What the patterns of the matrices determine. Raises InputError."""

    @abstractmethod
    def _state_on(self, form: Form, arguments: Arguments, plan: Plan) -> Assembled:
        """As `_state`, for values (*batch, nnz) in place of matrices."""

    @final
    def _answer(self, arguments: Arguments, **options: Any) -> tuple[tuple[Tensor, ...], Solution | None]:
        """`_call`, for sparse tensors too."""
        if any([is_sparse(t) for t in arguments.values()]):
            return _sparsely(self, arguments, options)
        return self._call(arguments, **options)


@dataclass(frozen=True, eq=False)
class _DenseWay(AbstractWay):
    """`way` for values in place of matrices. patterns: of each tensor, None for those that are no matrices."""

    way: AbstractWay
    patterns: tuple[SparsePattern | None, ...]

    def serves(self, needed: Sequence[bool]) -> bool:
        return self.way.serves(needed)

    def ask(self, given: Sequence[Tensor], ask: Ask) -> tuple[tuple[Tensor, ...], AbstractKept]:
        pairs = zip(given, self.patterns, strict=True)
        return self.way.ask([t if M is None else Entries(M, t).dense() for t, M in pairs], ask)

    def pull(self, kept: AbstractKept, grads: Grads, needed: Sequence[bool], threads: int) -> Sequence[Tensor | None]:
        found = self.way.pull(kept, grads, needed, threads)
        return [
            g if g is None or M is None else g.flatten(-2).index_select(-1, M.flat)
            for g, M in zip(found, self.patterns, strict=True)
        ]


_forms: WeakKeyDictionary[AbstractMatrixLayer, list[Form]] = WeakKeyDictionary()


@uncompiled(
    "inside a compiled region a dcl layer takes no sparse tensors: with fullgraph=False such calls run uncompiled"
)
def _sparsely(
    layer: AbstractMatrixLayer, arguments: Arguments, options: dict[str, Any]
) -> tuple[tuple[Tensor, ...], Solution | None]:
    cores = layer._cores()
    matrices = {
        # what is no matrix is for the plan to refuse
        name: entries(name, t)
        for name, t in arguments.items()
        if cores[name] == 2 and isinstance(t, Tensor) and t.ndim >= 2
    }
    plan = layer._plan({name: matrices[name].stand_in if name in matrices else t for name, t in arguments.items()})
    if plan.n + plan.m <= _MOST_DENSE and _suits_core(plan.n, plan.m):
        with outside_of_transforms():
            for name, M in matrices.items():
                check_places(name, M.pattern)
        return layer._call(
            {name: matrices[name].dense() if name in matrices and is_sparse(t) else t for name, t in arguments.items()},
            **options,
        )
    found = _Sparse(layer, matrices, _form_of(layer, {name: M.pattern for name, M in matrices.items()}, plan))
    return found._call(
        {name: matrices[name].values if name in matrices else t for name, t in arguments.items()}, **options
    )


def _suits_core(n: int, m: int) -> bool:
    return n**3 + n**2 * m + n * m**2 <= _SPARSE * (n + m)


def _form_of(layer: AbstractMatrixLayer, patterns: Patterns, plan: Plan) -> Form:
    known = _forms.setdefault(layer, [])
    # indices are no part of transforms, and a form that inference mode makes is kept for training too
    with outside_of_transforms(), torch.inference_mode(False):
        form = next((form for form in known if form.has(patterns, plan.m)), None)
        if form is None:
            # in memory of its own: the caller may change his indices in place
            own = {name: SparsePattern(M.shape, M.rows.clone(), M.cols.clone()) for name, M in patterns.items()}
            form = layer._form(own, plan)
            known.insert(0, form)
            del known[_FORMS:]
    return form


@final
class _Sparse(AbstractLayer):
    """`layer` with values (*batch, nnz) in place of matrices; settings, plans, outputs and warnings are those of the layer."""

    def __init__(self, layer: AbstractMatrixLayer, matrices: Mapping[str, Entries], form: Form) -> None:
        super().__init__()
        self._layer, self._matrices, self._form = layer, matrices, form
        self._moving, self._called = form.moving, type(layer).__name__
        self._enroll(layer._engine)

    @property
    def _names(self) -> tuple[str, ...]:
        return self._layer._names

    @property
    def _has_own_x(self) -> bool:
        return self._layer._has_own_x

    def _shown(self, name: str) -> str:
        return self._layer._shown(name)

    def _linear(self, arguments: Arguments) -> Linear | None:
        return self._layer._linear(arguments)

    def _cores(self) -> Mapping[str, int]:
        return {**self._layer._cores(), **dict.fromkeys(self._matrices, 1)}

    def _plan(self, arguments: Arguments) -> Plan:
        return self._layer._plan(self._stand_ins(arguments))

    def _stand_ins(self, arguments: Arguments) -> Arguments:
        return {
            name: Entries(self._matrices[name].pattern, t).stand_in if name in self._matrices else t
            for name, t in arguments.items()
        }

    def _way(self, arguments: Arguments, plan: Plan, exact: bool) -> AbstractWay | None:
        if not _suits_core(plan.n, plan.m):
            return None
        stand_ins = self._stand_ins(arguments)
        way = self._layer._way(stand_ins, plan, exact)
        patterns = tuple(self._matrices[name].pattern if name in self._matrices else None for name in arguments)
        return None if way is None else _DenseWay(way, patterns)

    def _state(self, arguments: Arguments, plan: Plan) -> Stated:
        program, context, given = self._layer._state_on(self._form, arguments, plan)
        return Stated(program, 0.0, context, given)

    def _outputs(self, stated: Stated, plan: Plan, point: LayerPoint) -> tuple[Tensor, ...]:
        return self._layer._outputs(stated, plan, point)

"""A cone program's way through the compiled core (`dcl.core.conic`), of a `ConeLayer` or of a CVXPY problem.

P, q, A, b of the zero rows, G, h of the others -> core -> x, y, z, s          backward: the core's adjoint
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcl.core.conic import OUTPUTS, ConicAnswer, ConicCore
from dcl.core.dense import Code
from dcl.layers.lane import AbstractKept, AbstractMap, AbstractWay, Ask, Grads, start_blocks
from dcl.program.rows import Rows

# The caller's arguments and, where they are rows, the core's blocks: of the zero rows, and of the others.
_SPLIT = {"A": ("A", "G"), "b": ("b", "h")}
# Dimensions of each block and output that are no batch dimensions.
_CORES = {"P": 2, "q": 1, "A": 2, "b": 1, "G": 2, "h": 1, "x": 1, "y": 1, "z": 1, "s": 1, "value": 0}


@dataclass(frozen=True, eq=False)
class ConicKept:
    """What a call leaves; see `dcl.layers.lane.AbstractKept`. rows: from the core's rows to the canonical ones."""

    core: ConicCore
    answer: ConicAnswer
    data: Mapping[str, Tensor]
    rows: Rows

    @property
    def left(self) -> int:
        return int(torch.count_nonzero(self.answer.status != Code.CERTIFIED))

    @property
    def status(self) -> Tensor:
        return self.answer.status

    @property
    def iterations(self) -> Tensor:
        return self.answer.iterations

    @property
    def residuals(self) -> Tensor:
        return self.answer.residuals

    @property
    def is_regular(self) -> bool:
        return True

    def point(self) -> tuple[Tensor, Tensor]:
        return self.answer.x.clone(), self.rows.to_canonical(torch.cat([self.answer.y, self.answer.z], -1))


@dataclass(frozen=True, eq=False)
class ConicWay(AbstractWay):
    """The program as it is. rows: from the core's rows to the canonical ones."""

    map: AbstractMap
    core: ConicCore
    rows: Rows

    def serves(self, needed: Sequence[bool]) -> bool:
        return True

    def ask(self, given: Sequence[Tensor], ask: Ask) -> tuple[tuple[Tensor, ...], AbstractKept]:
        data = _in_one_batch(self.map.data(given))
        start = None if ask.start is None else start_blocks(data, *ask.start)
        answer = self.core.solve(data, math.prod(ask.batch), mu=ask.mu, start=start, threads=ask.threads)
        found = {name: getattr(answer, name) for name in OUTPUTS}
        shaped = {name: t.reshape((*ask.batch, *t.shape[1:])) for name, t in found.items()}
        outputs = self.map.outputs(replace(answer, **shaped), given)
        # the outputs are the answer's own memory, and the caller may change them in place
        kept = replace(answer, x=answer.x.clone(), y=answer.y.clone(), z=answer.z.clone()) if ask.keep else answer
        return outputs, ConicKept(self.core, kept, data, self.rows)

    def pull(self, kept: AbstractKept, grads: Grads, needed: Sequence[bool], threads: int) -> Sequence[Tensor | None]:
        assert isinstance(kept, ConicKept)
        cotangents = _in_one_batch(self.map.cotangents(grads))
        blocks = self.core.adjoint(kept.answer, kept.data, cotangents, self.map.wanted(needed), threads=threads)
        return self.map.gradients(blocks, grads, needed)


def _in_one_batch(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(*lead, ...) -> (B or 1, ...), without those that are empty."""
    return {name: t.reshape((-1, *t.shape[t.ndim - _CORES[name] :])) for name, t in tensors.items() if t.numel()}


@dataclass(frozen=True, eq=False)
class ConeMap(AbstractMap):
    """names: of the arguments, in the order in which their tensors are given.  dtype: theirs."""

    core: ConicCore
    names: tuple[str, ...]
    dtype: torch.dtype

    def data(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        blocks: dict[str, Tensor] = {}
        for name, t in zip(self.names, given, strict=True):
            t = t.to(torch.float64)
            if name in _SPLIT:
                zeros, dim = self.core.zeros, -_CORES[name]
                parts = t.split([zeros, t.shape[dim] - zeros], dim)
                blocks |= {block: part.contiguous() for block, part in zip(_SPLIT[name], parts, strict=True)}
            else:
                blocks[name] = t
        return blocks

    def outputs(self, answer: ConicAnswer, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, y, z, s = answer.x, answer.y, answer.z, answer.s
        if self.core.zeros:
            z, s = torch.cat([y, z], -1), torch.cat([torch.zeros_like(y), s], -1)
        return x.to(self.dtype), z.to(self.dtype), s.to(self.dtype)

    def cotangents(self, grads: Grads) -> dict[str, Tensor]:
        x, z, s = (None if g is None else g.to(torch.float64) for g in grads)
        zeros = self.core.zeros
        found = {} if x is None else {"x": x}
        found |= {} if z is None else {"y": z[..., :zeros], "z": z[..., zeros:]}
        found |= {} if s is None else {"s": s[..., zeros:]}
        return {name: g.contiguous() for name, g in found.items()}

    def wanted(self, needed: Sequence[bool]) -> list[str]:
        blocks = [_SPLIT.get(name, (name,)) for name, n in zip(self.names, needed, strict=True) if n]
        there = {name: True for name in ("P", "q")}
        there |= dict.fromkeys(("A", "b"), self.core.zeros > 0)
        there |= dict.fromkeys(("G", "h"), self.core.rows > self.core.zeros)
        return [name for names in blocks for name in names if there[name]]

    def gradients(self, blocks: Mapping[str, Tensor], grads: Grads, needed: Sequence[bool]) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for name in self.names:
            parts = [blocks[part] for part in _SPLIT.get(name, (name,)) if part in blocks]
            whole = torch.cat(parts, 1) if len(parts) > 1 else parts[0] if parts else None
            found.append(None if whole is None else whole.to(self.dtype))
        return found

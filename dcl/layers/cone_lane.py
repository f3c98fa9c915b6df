"""A cone program's way through the compiled core: P, q, A, b -> P, q, A, b of the zero rows, G, h of the others -> x, z, s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.core.conic import ConicAnswer, ConicCore
from dcl.layers.lane import AbstractMap, Grads

# The caller's arguments and, where they are rows, the core's blocks: of the zero rows, and of the others.
_SPLIT = {"A": ("A", "G"), "b": ("b", "h")}


@dataclass(frozen=True, eq=False)
class ConeMap(AbstractMap):
    """names: of the arguments, in the order in which their tensors are given."""

    core: ConicCore
    names: tuple[str, ...]

    def data(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        blocks: dict[str, Tensor] = {}
        for name, t in zip(self.names, given, strict=True):
            t = t.to(torch.float64)
            if name in _SPLIT:
                zero, other = _SPLIT[name]
                blocks |= {zero: t[:, : self.core.zeros].contiguous(), other: t[:, self.core.zeros :].contiguous()}
            else:
                blocks[name] = t
        return {name: t for name, t in blocks.items() if t.numel()}

    def outputs(self, answer: ConicAnswer, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if not self.core.zeros:
            return answer.x, answer.z, answer.s
        return answer.x, torch.cat([answer.y, answer.z], -1), torch.cat([torch.zeros_like(answer.y), answer.s], -1)

    def cotangents(self, grads: Grads) -> dict[str, Tensor]:
        x, z, s = (None if g is None else g.to(torch.float64) for g in grads)
        zeros = self.core.zeros
        found = {} if x is None else {"x": x}
        found |= {} if z is None else {"y": z[:, :zeros], "z": z[:, zeros:]}
        found |= {} if s is None else {"s": s[:, zeros:]}
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
            found.append(torch.cat(parts, 1) if len(parts) > 1 else parts[0] if parts else None)
        return found

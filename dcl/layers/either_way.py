"""A CVXPY problem's way through the core where there are two: by its reduced program, or by the program as given.

The reduction has a fixed cost, some 100 tensor operations a call, which a small program does not win back; and P' of a reduced
program can be ill-conditioned where the KKT matrix of the program as given is not (l |x|^2 + |Ax - b|^2 with a wide A and a
small l).  So the program as given goes first where the reduction saves fewer operations than its fixed cost, and the other
way is tried where the first certifies less than half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.core.dense import Code
from dcl.layers.lane import AbstractKept, AbstractWay, Ask, Grads
from dcl.layers.reduced_lane import Lifted, ReducedWay

# What the fixed cost of a reduction is worth, in the operations of `dcl.program.reduction.plan`: 0.5 ms.
_FIXED = 3e6
# With smooth terms, batch * saved^(2/3) below this: they are certified by tensor operations too, and cone programs are mostly
# zeros, so that their time grows like the square of n.  Entropies with n = 10, 20, 50 are faster as they are up to batches of 32,
# 12, 2, and a logistic regression on 50 x 10 never.
_WITH_TERMS = 2e5
# Where the reduced program is at fault. Ties and dependent rows are those of the program as given.  Newton's method on smooth
# terms may fail too where the path of the cone program does not.
_NUMERICAL = (Code.RESIDUAL, Code.CONDITION)


@dataclass(frozen=True, eq=False)
class EitherWay(AbstractWay):
    """direct_first: which of them goes first."""

    reduced: ReducedWay
    direct: AbstractWay
    direct_first: bool

    def serves(self, needed: Sequence[bool]) -> bool:
        return self.reduced.serves(needed)

    def ask(self, given: Sequence[Tensor], ask: Ask) -> tuple[tuple[Tensor, ...], AbstractKept]:
        if ask.mu is not None and not bool(ask.mu.all()):
            return self.direct.ask(given, ask)
        ways = (self.direct, self.reduced) if self.direct_first else (self.reduced, self.direct)
        outputs, kept = ways[0].ask(given, ask)
        if kept.left == 0 or 2 * self._left(kept) < math.prod(ask.batch):
            return outputs, kept
        others, also_kept = ways[1].ask(given, ask)
        return (others, also_kept) if also_kept.left < kept.left else (outputs, kept)

    def _left(self, kept: AbstractKept) -> int:
        """How many instances the other way may certify."""
        if self.direct_first:
            return kept.left
        codes = _NUMERICAL if self.reduced.reduction.terms is None else (*_NUMERICAL, Code.NOT_SOLVED)
        return sum(int(torch.count_nonzero(kept.status == int(code))) for code in codes)

    def pull(self, kept: AbstractKept, grads: Grads, needed: Sequence[bool], threads: int) -> Sequence[Tensor | None]:
        way = self.reduced if isinstance(kept, Lifted) else self.direct
        return way.pull(kept, grads, needed, threads)


def either(reduced: ReducedWay, direct: AbstractWay, batch: int) -> EitherWay:
    """Both ways, for a batch of this size."""
    reduction = reduced.reduction
    if reduction.terms is None:
        is_small = batch * reduction.saved < _FIXED
    else:
        is_small = batch * reduction.saved ** (2.0 / 3.0) < _WITH_TERMS
    # a redundant row is not certified as it is
    return EitherWay(reduced, direct, is_small and not len(reduction.elimination.partition.D))

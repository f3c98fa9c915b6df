"""What of a solution the caller asked for, and which data need a gradient: what a derivative has to be right in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Requested(NamedTuple):
    """Boolean masks: entries of x (n,) and z (m,) that the caller asked for."""

    x: Tensor
    z: Tensor


Entries = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Moving:
    """The data that need a gradient: entries (i, j) of P and A, entries of q (n,) and of b (m,) by masks."""

    P: Entries
    q: Tensor
    A: Entries
    b: Tensor

    def restricted(self, P: bool, q: bool, A: bool, b: bool) -> Moving:
        """Only those of P, q, A, b that are true."""
        none = self.P[0].new_zeros(0), self.P[0].new_zeros(0)
        return Moving(self.P if P else none, self.q & q, self.A if A else none, self.b & b)

    def rows(self) -> Tensor:
        """The rows (m,) of A and b that change."""
        return self.b.index_fill(0, self.A[0], True)

    def columns(self, active: Tensor) -> Tensor:
        """The entries (B, n) of x that these data multiply, where the rows `active` (B, m) hold."""
        fixed = self.q.index_fill(0, self.P[0], True).index_fill(0, self.P[1], True)
        in_A = active[:, self.A[0].to(active.device)].to(torch.float64)
        count = in_A.new_zeros(len(active), len(fixed)).index_add(1, self.A[1].to(active.device), in_A)
        return fixed.to(active.device) | (count > 0.0)

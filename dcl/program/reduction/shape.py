"""The view of a program that the reduction uses: valid for all values of the parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dcl.cones.base import Block
from dcl.program.reduction.blocks import Bools, MatrixSource, Source


@dataclass(frozen=True, eq=False)
class Shape:
    """The first `zeros` rows are equalities, those up to `orthant` inequalities, then come the rows of the cones `curved`."""

    P: MatrixSource
    q: Source
    A: MatrixSource
    b: Source
    zeros: int
    orthant: int
    curved: tuple[Block, ...] = ()

    @property
    def costly(self) -> Bools:
        """Variables with a cost."""
        costly: Bools = (self.q.offset != 0.0) | self.q.varying
        costly[self.P.rows] = True
        costly[self.P.cols] = True
        return costly

    @property
    def bounded(self) -> Bools:
        """Variables that an inequality row bounds alone."""
        A = self.A
        alone = np.bincount(A.rows, minlength=A.shape[0])[A.rows] == 1
        bounded = np.zeros(A.shape[1], dtype=bool)
        bounded[A.cols[alone & (A.rows >= self.zeros) & (A.rows < self.orthant)]] = True
        return bounded

    @property
    def in_cones(self) -> Bools:
        """Variables that rows of curved cones see."""
        seen = np.zeros(self.A.shape[1], dtype=bool)
        seen[self.A.cols[self.A.rows >= self.orthant]] = True
        return seen

    @property
    def heads(self) -> Bools:
        """Rows of curved cones that may grow: t of |u| <= t, z of y exp(x/y) <= z."""
        heads = np.zeros(self.A.shape[0], dtype=bool)
        row = self.orthant
        for block in self.curved:
            for _ in range(block.count):
                if block.kind == "second_order":
                    heads[row] = True
                if block.kind == "exponential":
                    heads[row + 2] = True
                row += block.rows
        return heads

"""How far a point is from a solution of the program as given, as the core measures it (dcl/core/given.hpp, `dcl.point`).

    primal  |Ax + s - b|_i / (floor + |A||x| + |s| + |b|)_i      dual  |Px + q + A'z|_j / (floor + |P||x| + |q| + |A|'|z|)_j
    gap     |x'Px + q'x + b'z - s'z| / (floor + |x|'|P||x| + |q|'|x| + |b|'|z|)

and net: relative to the largest of |Px|, |q|, |A'z|, and of |Ax|, |b| on the rows that hold with equality.  The floor is 1e-5 of
the largest entry of a row, and of the objective.  The rows of a curved cone share the largest of their terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcl import core
from dcl.program.affine import AffineMap
from dcl.program.reduction.blocks import Ints, MatrixSource

_extension: Any = core.extension
_WEIGHTS = torch.tensor([0.1, 0.1, 0.1, 1.0], dtype=torch.float64, device="cpu")


@dataclass(frozen=True, eq=False)
class Measured:
    """r_x = -(Px + q + A'z) (B, n), s (B, m), r_z = b - Ax - s (B, m), value (B,): 1/2 x'Px + q'x.

    residuals (B, 4): primal, dual, gap, net.
    """

    r_x: Tensor
    r_z: Tensor
    s: Tensor
    residuals: Tensor
    value: Tensor

    @cached_property
    def worst(self) -> Tensor:
        """The largest net residual, or a tenth of the others, (B,); NaN counts as infinite.

        What is rounding beside zero misses its row by rounding, which the terms of that row do not excuse.
        """
        return (self.residuals * _WEIGHTS).amax(-1).nan_to_num(nan=torch.inf)


@dataclass(frozen=True, eq=False)
class Nonzeros:
    """The nonzeros of a matrix, rows and columns in the order of a partition, and the map of the parameters to them."""

    rows: Tensor
    cols: Tensor
    map: AffineMap


def nonzeros(matrix: MatrixSource, rows: Ints, columns: Ints) -> Nonzeros:
    """Those of `matrix`; rows[k], columns[k]: the row and column that stand at place k."""
    at_row, at_column = np.argsort(rows), np.argsort(columns)
    i, j = (torch.from_numpy(np.ascontiguousarray(t)) for t in (at_row[matrix.rows], at_column[matrix.cols]))
    return Nonzeros(i, j, matrix.source.part(matrix.entries))


@dataclass(frozen=True, eq=False)
class Given:
    """The programs of a call, by their nonzeros: values of P and A (B or 1, nonzeros), q (B or 1, n), b (B or 1, m).

    cone (m,): the number of a row's curved cone, -1 in orthants; None: there is none.
    """

    P: Nonzeros
    A: Nonzeros
    P_values: Tensor
    A_values: Tensor
    q: Tensor
    b: Tensor
    cone: Tensor | None

    @property
    def objective(self) -> Tensor:
        """The largest entry of P and q, (B or 1,)."""
        size = self.q.abs().amax(-1)
        return torch.maximum(size, self.P_values.abs().amax(-1)) if self.P_values.shape[-1] else size

    def measure(
        self, x: Tensor, z: Tensor, holds: Tensor, mu: Tensor | None, threads: int, slack: Tensor | None = None
    ) -> Measured:
        """The point x (B, n), z (B, m).

        holds: rows that hold with equality, (B or 1, m); the others have s >= 0, or s = mu / z for mu (B or 1,).
        slack (B, m): s on the rows of curved cones; None: what Ax + s = b says.
        """
        (batch, n), m = x.shape, z.shape[-1]
        x, z, holds = x.contiguous(), z.contiguous(), holds.contiguous()
        shapes = ((batch, n), (batch, m), (batch, m), (batch, 4), (batch,))
        out = [torch.empty(shape, dtype=torch.float64, device="cpu") for shape in shapes]
        slack = slack if slack is None or self.cone is None else slack.contiguous()
        data = (self.P_values, self.A_values, self.q, self.b, x, z, mu, holds, slack)
        pairs = [number for t in data for number in _pair(t)]
        patterns = (self.P.rows, self.P.cols, self.A.rows, self.A.cols)
        _extension.measure(
            (batch, n, m, self.P.rows.numel(), self.A.rows.numel()),
            [*(t.data_ptr() for t in patterns), 0 if self.cone is None else self.cone.data_ptr()],
            pairs,
            [t.data_ptr() for t in out],
            threads,
        )
        return Measured(*out)


def given(
    P: Nonzeros, A: Nonzeros, thetas: Sequence[Tensor], g: Tensor, b: Tensor, cone: Tensor | None = None
) -> Given:
    """The programs for thetas[p] (B or 1, size_p), g = -q and b."""
    of_P, of_A = (t.map.numbers(thetas).contiguous() for t in (P, A))
    return Given(P, A, of_P, of_A, (-g).contiguous(), b.contiguous(), cone)


def _pair(t: Tensor | None) -> tuple[int, int]:
    """Address and stride."""
    if t is None:
        return 0, 0
    return t.data_ptr(), 0 if t.shape[0] == 1 else t.stride(0)

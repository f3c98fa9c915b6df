"""Gradients in the parameters from u and w of the adjoint system, on the entries that a parameter touches only.

    dP_ij = -u_i x_j + c x_i x_j / 2      dA_ij = -(z_i u_j + w_i x_j)      dq = -u + c x      db = w      dd = c

for the cotangent c of the value, where w is without its part: w - c z (envelope theorem).  All of these entries side by side are
y, and the gradient is L'y for the linear parts L of the affine maps: one call of the core (dcl/core/pullback.hpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dcl.core.affine import Entries, Lists, lists, pull_back
from dcl.program.reduction.blocks import Ints, Source
from dcl.program.reduction.shape import Shape


@dataclass(frozen=True, eq=False)
class Pullback:
    """For some of the parameters, `parts[k]`: number and size of each. entries: y. columns: those of L."""

    parts: tuple[tuple[int, int], ...]
    entries: Entries
    columns: Lists

    def __call__(
        self,
        point: tuple[Tensor, Tensor, Tensor, Tensor],
        value: Tensor | None,
        status: Tensor,
        shared: Sequence[bool],
        threads: int,
    ) -> dict[int, Tensor]:
        """By parameter, (B, size), of `shared` ones the sum over the batch, (1, size).

        point: x, z, u, w, where x, u (B, n), z, w (B, m) and w is without its part c z.  value: c (B,), None for 0.
        status: (B,) int8, instances where it is not zero have a zero gradient.
        """
        sizes = [(size, shared[p]) for p, size in self.parts]
        found = pull_back(self.entries, self.columns, point, value, status, sizes, threads)
        return {p: g for (p, _), g in zip(self.parts, found, strict=True)}


def pullback(shape: Shape, d: Source, needed: Sequence[bool], variables: Tensor, rows: Tensor) -> Pullback | None:
    """For the parameters that are needed; None if the program depends on none of them.

    d: of the constant.  variables, rows: where those of the program stand in the order of the points (`Partition`).
    """
    sizes = shape.b.sizes
    starts = np.concatenate([[0], np.cumsum(sizes)])
    parts = tuple((p, sizes[p]) for p in range(len(sizes)) if needed[p])
    if not parts:
        return None
    columns = np.concatenate([np.arange(starts[p], starts[p + 1]) for p, _ in parts])

    def moved(linear: sp.csr_array) -> tuple[Ints, sp.csr_array]:
        part = sp.csr_array(sp.csc_array(linear)[:, columns])
        rows = np.nonzero(np.diff(part.indptr))[0].astype(np.int64)
        return rows, part[rows]

    P, L_P = moved(shape.P.source.linear[shape.P.entries])
    A, L_A = moved(shape.A.source.linear[shape.A.entries])
    q, L_q = moved(shape.q.linear)
    b, L_b = moved(shape.b.linear)
    value, L_d = moved(d.linear)
    L = sp.csr_array(sp.vstack([L_P, L_A, L_q, L_b, L_d]))
    if L.shape[0] == 0:
        return None

    def at(order: Tensor, t: Ints) -> Tensor:
        return order[torch.from_numpy(np.ascontiguousarray(t, dtype=np.int64))]

    entries = Entries(
        (at(variables, shape.P.rows[P]), at(variables, shape.P.cols[P])),
        (at(rows, shape.A.rows[A]), at(variables, shape.A.cols[A])),
        at(variables, q),
        at(rows, b),
        len(value) > 0,
    )
    return Pullback(parts, entries, lists(L.T))

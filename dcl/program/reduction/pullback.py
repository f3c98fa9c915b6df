"""Gradients in the parameters from u and w of the adjoint system, on the entries that a parameter touches only.

    dP_ij = -u_i x_j + c x_i x_j / 2      dA_ij = -(z_i u_j + w_i x_j)      dq = -u + c x      db = w      dd = c

for the cotangent c of the value, where w is without its part: w - c z (envelope theorem).  All of these entries side by side are
y, and the gradient is L'y for the linear parts L of the affine maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dcl.program.affine import take
from dcl.program.reduction.blocks import Ints, Source
from dcl.program.reduction.shape import Shape


@dataclass(frozen=True, eq=False)
class Transpose:
    """y (B, k) -> L'y (B, S): the first entry of each column is gathered, what columns with several have is added."""

    first: Tensor
    weights: Tensor
    rest_rows: Tensor
    rest_cols: Tensor
    rest_weights: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        out = take(y, self.first) * self.weights
        if self.rest_rows.numel():
            out.index_add_(-1, self.rest_cols, take(y, self.rest_rows) * self.rest_weights)
        return out


def transpose(L: sp.csr_array) -> Transpose:
    """The transpose of L (k, S), k > 0."""
    columns = sp.csc_array(L)
    columns.sort_indices()
    counts = np.diff(columns.indptr)
    some = counts > 0
    first, weights = np.zeros(L.shape[1], np.int64), np.zeros(L.shape[1])
    starts = columns.indptr[:-1][some]
    first[some], weights[some] = columns.indices[starts], columns.data[starts]
    rest = np.ones(columns.nnz, dtype=bool)
    rest[starts] = False
    owner = np.repeat(np.arange(L.shape[1]), counts)
    arrays = (first, weights, columns.indices[rest].astype(np.int64), owner[rest], columns.data[rest])
    return Transpose(*(torch.from_numpy(np.ascontiguousarray(t)) for t in arrays))


@dataclass(frozen=True, eq=False)
class Pullback:
    """For some of the parameters, `parts[k]`: number and size of each. P, A: rows and columns of entries; q, b: entries."""

    parts: tuple[tuple[int, int], ...]
    P: tuple[Tensor, Tensor]
    A: tuple[Tensor, Tensor]
    q: Tensor
    b: Tensor
    value: bool
    transpose: Transpose

    def __call__(self, x: Tensor, z: Tensor, u: Tensor, w: Tensor, value: Tensor | None) -> dict[int, Tensor]:
        """By parameter, (B, size). x, u (B, n); z, w (B, m), w without its part c z; value: c (B,), None for 0."""
        c = None if value is None else value.unsqueeze(-1)
        if c is not None:
            w = w - c * z
        pieces = []
        i, j = self.P
        if i.numel():
            slope = u if c is None else u - 0.5 * c * x
            pieces.append(-(take(slope, i) * take(x, j)))
        i, j = self.A
        if i.numel():
            pieces.append(-(take(z, i) * take(u, j) + take(w, i) * take(x, j)))
        if self.q.numel():
            pieces.append(take(-u if c is None else c * x - u, self.q))
        if self.b.numel():
            pieces.append(take(w, self.b))
        if self.value:
            pieces.append(x.new_zeros(x.shape[0], 1) if c is None else c)
        sizes = [size for _, size in self.parts]
        found = self.transpose(torch.cat(pieces, -1)).split(sizes, -1)
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

    return Pullback(
        parts,
        (at(variables, shape.P.rows[P]), at(variables, shape.P.cols[P])),
        (at(rows, shape.A.rows[A]), at(variables, shape.A.cols[A])),
        at(variables, q),
        at(rows, b),
        len(value) > 0,
        transpose(L),
    )

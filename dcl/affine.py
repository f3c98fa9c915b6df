"""theta -> c + sum_p M_p theta_p : problem data as an affine function of the parameters, on a fixed pattern.

Each parameter p is a flat vector (B, size_p) or (1, size_p); the result has B rows if a parameter that touches it has
B, else 1: data that depend on shared parameters only stay shared.  The map is gather, multiply, index_add: torch
operations with the adjoint <M theta, y> = <theta, M' y> from autograd, in every mode of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor


def take(t: Tensor, index: Tensor) -> Tensor:
    """t[..., index] for a 1-d index.

    gather, because index_select along the last of several dimensions is 17 times slower on the CPU (torch 2.13,
    128 x 10,000 entries: 17 ms against 1 ms).
    """
    return t.gather(-1, index.to(t.device).expand(*t.shape[:-1], -1))


@dataclass(frozen=True, eq=False)
class _Term:
    """M_p as nonzeros: out[rows] += weights * theta_p[cols]. `plain`: one nonzero per output entry, in order."""

    parameter: int
    rows: Tensor
    cols: Tensor
    weights: Tensor | None
    plain: bool

    def add_to(self, out: Tensor, theta: Tensor) -> Tensor:
        terms = take(theta, self.cols)
        if self.weights is not None:
            terms = terms * self.weights.to(theta.device)
        if self.plain:
            return out + terms
        # one of the two has 1 in front where they differ; the other may have 0
        batch = out.shape[0] if terms.shape[0] == 1 else terms.shape[0]
        out, terms = out.expand(batch, -1), terms.expand(batch, -1)
        return out.index_add(-1, self.rows.to(theta.device), terms)


@dataclass(frozen=True, eq=False)
class AffineMap:
    """c + sum_p M_p theta_p. Law: the linear part and its transpose agree, <M theta, y> = <theta, M' y>."""

    offset: Tensor
    terms: tuple[_Term, ...]

    @property
    def size(self) -> int:
        """Number of entries of the result."""
        return self.offset.shape[-1]

    @property
    def parameters(self) -> frozenset[int]:
        """Positions of the parameters that the result depends on."""
        return frozenset(term.parameter for term in self.terms)

    def __call__(self, thetas: Sequence[Tensor]) -> Tensor:
        """Result (B or 1, size) for thetas[p] of shape (B or 1, size_p), float64."""
        out = self.offset.unsqueeze(0)
        if thetas:
            out = out.to(thetas[0].device)
        for term in self.terms:
            out = term.add_to(out, thetas[term.parameter])
        return out


def affine_map(offset: NDArray[np.float64], blocks: Sequence[sp.sparray | sp.spmatrix]) -> AffineMap:
    """The map with constant `offset` (size,) and one matrix (size, size_p) per parameter; zeros are dropped."""
    terms = []
    for p, block in enumerate(blocks):
        coo = sp.coo_array(sp.csr_array(block))
        coo.eliminate_zeros()
        if coo.nnz == 0:
            continue
        rows, cols, weights = coo.row.astype(np.int64), coo.col.astype(np.int64), coo.data.astype(np.float64)
        order = np.lexsort((cols, rows))
        rows, cols, weights = rows[order], cols[order], weights[order]
        terms.append(
            _Term(
                parameter=p,
                rows=torch.from_numpy(rows),
                cols=torch.from_numpy(cols),
                weights=None if np.all(weights == 1.0) else torch.from_numpy(weights),
                plain=bool(np.array_equal(rows, np.arange(len(offset)))),
            )
        )
    return AffineMap(torch.from_numpy(np.ascontiguousarray(offset, dtype=np.float64)), tuple(terms))

"""The cone of positive semidefinite k x k matrices in scaled coordinates, self-dual, with the barrier -log det (degree k).

Coordinates: `svec`, an isometry from symmetric matrices with the Frobenius inner product onto R^(k (k + 1) / 2), in the
order of Clarabel (upper triangle, column by column, off-diagonal entries times sqrt(2)):

    svec(X) = ( X_11, sqrt(2) X_12, X_22, sqrt(2) X_13, sqrt(2) X_23, X_33, ... )        <svec X, y> = <X, smat y>

With V = smat(v) = U diag(l) U' and X~ = U' smat(x) U for any x (`dcl.cones.spectral`, h = 4 mu):

    z = svec(U diag(g(l)) U'),   D = Q diag(d) Q':   Q'w = svec(W~),  d_ij = g[i, j]           (Daleckii and Krein 1965)
    curvature of (a, w)  =  Q svec(C),   C_ij = sum_k g[i, k, j] (A~_ik W~_kj + W~_ik A~_kj)

The second difference is a sum of products of pairs, so C takes matrix products only: with s_ij = 1 / (r_i + r_j),
B = s o A~, Y = s o W~ (o: entrywise) and {X, Y} = X Y + Y X,

    C = s o ( (h + w) o {B, Y} + {w o B, Y} + {B, w o Y} ) / 2

Third and higher derivatives follow from 2 z = v + R with R^2 = V^2 + h I: the derivative of R in the directions of a set S is
R_S with  R R_S + R_S R = -sum {R_T, R_(S - T)}  over the ways to split S in two.  No eigenvector is differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier
from dcl.cones.spectral import image, is_smooth, lifted, product_gap, root, settled, slope


@lru_cache(maxsize=256)
def _triangle(order: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the entries of svec."""
    columns, rows = np.tril_indices(order)  # the upper triangle by columns is the lower one by rows
    return rows, columns


def _index(array: NDArray[np.int64], like: Tensor) -> Tensor:
    # made anew for each call: a tensor made under torch.inference_mode would be of no use later
    return torch.from_numpy(array).to(like.device)


def svec(X: Tensor) -> Tensor:
    """Coordinates (..., k (k + 1) / 2) of the symmetric part of X (..., k, k). Law: <svec X, y> = <X, smat y>."""
    order = X.shape[-1]
    rows, columns = _triangle(order)
    flat = X.flatten(-2)
    both = flat.index_select(-1, _index(rows * order + columns, X)) + flat.index_select(
        -1, _index(columns * order + rows, X)
    )
    return both * _index(np.where(rows == columns, 0.5, np.sqrt(0.5)), X).to(X.dtype)


def smat(y: Tensor, order: int) -> Tensor:
    """The symmetric matrix (..., k, k) with coordinates y (..., k (k + 1) / 2). Law: svec(smat y) = y."""
    low, high = np.minimum(*np.indices((order, order))), np.maximum(*np.indices((order, order)))
    entries = y.index_select(-1, _index((high * (high + 1) // 2 + low).reshape(-1), y))
    scale = _index(np.where(low == high, 1.0, np.sqrt(0.5)), y).to(y.dtype)
    return entries.unflatten(-1, (order, order)) * scale


def lower_from_upper(order: int) -> Tensor:
    """Where the entries of SCS's order (lower triangle, column by column) are in that of `svec`.

    y[..., lower_from_upper(k)] is in SCS's order; argsort of it leads back.
    """
    columns, rows = np.triu_indices(order)
    return torch.from_numpy(rows * (rows + 1) // 2 + columns)

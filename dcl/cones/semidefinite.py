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

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier, Block
from dcl.cones.spectral import image, is_smooth, lifted, product_gap, root, settled, slope


@lru_cache(maxsize=256)
def _places(order: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Places of the entries of svec in X flattened and in X' flattened; places in svec of the entries of X flattened."""
    columns, rows = np.tril_indices(order)  # the upper triangle by columns is the lower one by rows
    low, high = np.minimum(*np.indices((order, order))), np.maximum(*np.indices((order, order)))
    return rows * order + columns, columns * order + rows, (high * (high + 1) // 2 + low).reshape(-1)


def _take(t: Tensor, index: NDArray[np.int64]) -> Tensor:
    # the index is made anew each time: a tensor made under torch.inference_mode would be of no use later
    return t.index_select(-1, torch.from_numpy(index).to(t.device))


def svec(X: Tensor) -> Tensor:
    """Coordinates (..., k (k + 1) / 2) of the symmetric part of X (..., k, k). Law: <svec X, y> = <X, smat y>."""
    upper, lower, _ = _places(X.shape[-1])
    both = _take(X.flatten(-2), upper) + _take(X.flatten(-2), lower)
    return both * torch.from_numpy(np.where(upper == lower, 0.5, np.sqrt(0.5))).to(X)


def smat(y: Tensor, order: int) -> Tensor:
    """The symmetric matrix (..., k, k) with coordinates y (..., k (k + 1) / 2). Law: svec(smat y) = y."""
    entries = _take(y, _places(order)[2]).reshape(*y.shape[:-1], order, order)
    return entries * torch.from_numpy(np.where(np.eye(order) > 0.0, 1.0, np.sqrt(0.5))).to(y)


def lower_from_upper(order: int) -> Tensor:
    """Where the entries of SCS's order (lower triangle, column by column) are in that of `svec`.

    y[..., lower_from_upper(k)] is in SCS's order; argsort of it leads back.
    """
    columns, rows = np.triu_indices(order)
    return torch.from_numpy(rows * (rows + 1) // 2 + columns)


def _eigh(V: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors; NaN for a matrix that is not finite, on which LAPACK would stop the whole batch."""
    finite = torch.isfinite(V).all(-1).all(-1)[..., None, None]
    values, U = torch.linalg.eigh(torch.where(finite, V, 0.0))
    return torch.where(finite.squeeze(-1), values, torch.nan), U


def _congruent(X: Tensor, U: Tensor) -> Tensor:
    """U' X U."""
    return U.mT @ X @ U


@dataclass(frozen=True, eq=False)
class _Congruence(AbstractDerivative):
    """Q of the header, for U (B, count, k, k)."""

    d: Tensor
    U: Tensor
    diagonal: bool = False

    def _rotate(self, w: Tensor, U: Tensor) -> Tensor:
        order = U.shape[-1]
        blocks = w.reshape(*w.shape[:-1], U.shape[-3], order * (order + 1) // 2)
        return svec(_congruent(smat(blocks, order), U)).flatten(-2)

    def to_eigen(self, w: Tensor) -> Tensor:
        return self._rotate(w, self.U)

    def from_eigen(self, w: Tensor) -> Tensor:
        return self._rotate(w, self.U.mT)


@dataclass(frozen=True)
class Semidefinite(AbstractCone):
    """`count` cones of order x order matrices, order >= 1, one after the other, each in the coordinates of `svec`."""

    order: int
    count: int = 1

    @property
    def dim(self) -> int:  # type: ignore[override]
        """All rows."""
        return self.count * (self.order * (self.order + 1) // 2)

    @property
    def degree(self) -> int:  # type: ignore[override]
        """The order of each."""
        return self.count * self.order

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("semidefinite", self.order, self.count),)

    def _split(self, t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:-1], self.count, self.order * (self.order + 1) // 2)

    def matrices(self, t: Tensor) -> Tensor:
        """(..., count, k, k) for (..., dim)."""
        return smat(self._split(t), self.order)

    def project(self, v: Tensor, mu: Barrier) -> Tensor:
        values, U = _eigh(self.matrices(v))
        return svec((U * image(values, lifted(mu, 4.0, 1)).unsqueeze(-2)) @ U.mT).flatten(-2)

    def dproject(self, v: Tensor, mu: Barrier, at_kink: Tensor) -> AbstractDerivative:
        values, U = _eigh(self.matrices(v))
        if not is_smooth(mu):
            flags = self.matrices((~torch.isnan(at_kink)).to(v)).diagonal(dim1=-2, dim2=-1)
            values = settled(values, flags > 0.0)
        d = slope(values.unsqueeze(-1), values.unsqueeze(-2), lifted(mu, 4.0, 2))
        upper = _places(self.order)[0]
        return _Congruence(_take(d.flatten(-2), upper).flatten(-2), U)

    def slope_in_mu(self, v: Tensor, mu: Tensor) -> Tensor:
        values, U = _eigh(self.matrices(v))
        return svec((U / root(values, lifted(mu, 4.0, 1)).unsqueeze(-2)) @ U.mT).flatten(-2)

    def curvature_product(self, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
        return _CurvatureProduct.apply(self, mu, v, *torch.broadcast_tensors(a, w))  # type: ignore[no-any-return]

    def equalize(self, sizes: Tensor) -> Tensor:
        blocks = self._split(sizes)
        return blocks.amax(-1, keepdim=True).expand_as(blocks).flatten(-2)

    def kink_distance(self, v: Tensor) -> Tensor:
        values = settled(_eigh(self.matrices(v))[0]).abs()
        # eigenvalue i stands in the row of the i-th diagonal entry, as g'(l_i) does in d
        matrix = torch.where(torch.eye(self.order, device=v.device) > 0.0, values.unsqueeze(-1), torch.inf)
        return _take(matrix.flatten(-2), _places(self.order)[0]).flatten(-2)


class _CurvatureProduct(Function):
    """The derivative of z in n >= 2 directions (..., B, dim): linear and symmetric in them, closed under differentiation.

    d/dv <g, z(v; x_1, ..., x_n)> = z(v; g, x_1, ..., x_n)        d/dx_1 <g, z(v; x_1, ..., x_n)> = z(v; g, x_2, ..., x_n)
    """

    generate_vmap_rule = True  # every rule is made of torch operations

    @staticmethod
    def forward(cone: Semidefinite, mu: Barrier, v: Tensor, *directions: Tensor) -> Tensor:
        values, U = _eigh(cone.matrices(v))
        if not is_smooth(mu):
            values = settled(values)
        X = [_congruent(cone.matrices(x), U) for x in directions]
        bend = 0.5 * _root_derivative(values, lifted(mu, 4.0, 2), X)
        return svec(_congruent(bend, U.mT)).flatten(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.cone, ctx.mu, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        v, *directions = ctx.saved_tensors
        grad_v = None
        if ctx.needs_input_grad[2]:
            grad_v = _CurvatureProduct.apply(ctx.cone, ctx.mu, v, g, *directions)
            grad_v = grad_v if grad_v.ndim == v.ndim else grad_v.flatten(0, -v.ndim - 1).sum(0)
        grads = [
            _CurvatureProduct.apply(ctx.cone, ctx.mu, v, *directions[:i], g, *directions[i + 1 :]) if needed else None
            for i, needed in enumerate(ctx.needs_input_grad[3:])
        ]
        return None, None, grad_v, *grads

    @staticmethod
    def jvp(ctx: Any, _c: None, _m: None, tv: Tensor | None, *tangents: Tensor | None) -> Tensor:
        v, *directions = ctx.saved_tensors
        out = torch.zeros_like(directions[0])
        if tv is not None:
            out = out + _CurvatureProduct.apply(ctx.cone, ctx.mu, v, tv.expand_as(out), *directions)
        for i, t in enumerate(tangents):
            if t is not None:
                out = out + _CurvatureProduct.apply(ctx.cone, ctx.mu, v, *directions[:i], t, *directions[i + 1 :])
        return out


def _root_derivative(values: Tensor, h: Barrier, X: list[Tensor]) -> Tensor:
    """R_S for the directions X, n >= 2 symmetric matrices, in the eigenbasis of V, where V has the eigenvalues `values`."""
    left, right = values.unsqueeze(-1), values.unsqueeze(-2)
    total = root(left, h) + root(right, h)
    kink = total == 0.0
    s = torch.where(kink, 0.0, 1.0 / torch.where(kink, 1.0, total))
    w = product_gap(left, right, h)

    def twice(A: Tensor, B: Tensor) -> Tensor:
        AB = A @ B
        return AB + AB.mT

    scaled = [s * x for x in X]
    found: dict[tuple[int, ...], Tensor] = {(i,): (left + right) * x for i, x in enumerate(scaled)}
    for i, j in combinations(range(len(X)), 2):
        A, B = scaled[i], scaled[j]
        found[i, j] = s * ((h + w) * twice(A, B) + twice(w * A, B) + twice(A, w * B))
    for size in range(3, len(X) + 1):
        for first, *others in combinations(range(len(X)), size):
            splits = [T for k in range(size - 1) for T in combinations(others, k)]
            pairs = (((first, *T), tuple(i for i in others if i not in T)) for T in splits)
            found[first, *others] = -s * sum((twice(found[T], found[rest]) for T, rest in pairs), torch.zeros_like(s))
    return found[tuple(range(len(X)))]

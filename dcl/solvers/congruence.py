"""Products of semidefinite cones with the scaling of Nesterov and Todd, for `dcl.solvers.schur`.

    R' Z R = R^-1 S R^-T = diag(l)        S = L1 L1',  Z = L2 L2',  L2'L1 = U diag(l) V':  R = L1 V diag(l)^(-1/2)

    W dz = R' dz R      W^-T ds = R^-1 ds R^-T      u o v = (u v + v u) / 2      l o w = u:  w_ij = 2 u_ij / (l_i + l_j)

Coordinates are those of `dcl.cones.semidefinite`, scaled symmetric, cones one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dcl.solvers.base import Array

# Numbers in the matrices that are made at once.
_AT_ONCE = 2**22


@lru_cache(maxsize=64)
def _entries(order: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, NDArray[np.int64]]:
    """Of svec: row and column of each coordinate, its length, and where entry (i, j) of the matrix, flattened, is."""
    columns, rows = np.tril_indices(order)  # the upper triangle by columns
    low, high = np.minimum(*np.indices((order, order))), np.maximum(*np.indices((order, order)))
    return rows, columns, np.where(rows == columns, 1.0, np.sqrt(2.0)), (high * (high + 1) // 2 + low).reshape(-1)


@dataclass(frozen=True)
class Cone:
    """`count` cones of order x order matrices."""

    order: int
    count: int

    @property
    def rows(self) -> int:
        """Coordinates of all of them."""
        return self.count * (self.order * (self.order + 1) // 2)

    def matrices(self, u: Array) -> Array:
        """(count, order, order) for coordinates (rows,)."""
        _, _, length, place = _entries(self.order)
        return (u.reshape(self.count, -1) / length)[:, place].reshape(self.count, self.order, self.order)

    def coordinates(self, U: Array) -> Array:
        """(rows,) of symmetric (count, order, order)."""
        rows, columns, length, _ = _entries(self.order)
        return np.asarray(0.5 * (U[:, rows, columns] + U[:, columns, rows]) * length).reshape(-1)


class Cones:
    """Cones one after the other, and the rows of A that are in them."""

    def __init__(self, A: sp.csc_matrix, cones: list[Cone]) -> None:
        self.cones = [cone for cone in cones if cone.count]
        bounds = np.cumsum([0, *(cone.rows for cone in self.cones)])
        self.parts = [slice(first, last) for first, last in pairwise(bounds)]
        self.n, self.rows = A.shape[1], int(bounds[-1])
        by_rows = sp.csr_array(A)
        self.grams = [
            _Gram(cone, by_rows[part.start + k * size : part.start + (k + 1) * size])
            for cone, part in zip(self.cones, self.parts, strict=True)
            if cone.order > 1
            for size in [cone.rows // cone.count]
            for k in range(cone.count)
        ]
        self.of_order_one = [
            (i, by_rows[part])
            for i, (cone, part) in enumerate(zip(self.cones, self.parts, strict=True))
            if cone.order == 1
        ]
        self.owners = [(i, k) for i, cone in enumerate(self.cones) if cone.order > 1 for k in range(cone.count)]

    @property
    def degree(self) -> int:
        """The number of eigenvalues."""
        return sum(cone.order * cone.count for cone in self.cones)

    def identity(self) -> Array:
        """The unit of all cones."""
        parts = [
            cone.coordinates(np.broadcast_to(np.eye(cone.order), (cone.count, cone.order, cone.order)))
            for cone in self.cones
        ]
        return np.concatenate([np.zeros(0), *parts])

    def moved_inside(self, u: Array) -> Array:
        """u plus a multiple of the unit, so that the least eigenvalue is one, where it is not positive."""
        least = min((float(np.linalg.eigvalsh(M).min()) for M in self.matrices(u)), default=1.0)
        size = np.linalg.norm(u) / np.sqrt(max(self.degree, 1))
        return u if least > 1e-8 * (1.0 + size) else np.asarray(u + (1.0 - least) * self.identity())

    def matrices(self, u: Array) -> list[Array]:
        """Of each of the cones."""
        return [cone.matrices(u[part]) for cone, part in zip(self.cones, self.parts, strict=True)]

    def scaling(self, s: Array, z: Array) -> Scaling:
        """That of two interior points. Raises LinAlgError where one is not."""
        return Scaling(self, self.matrices(s), self.matrices(z))


class Scaling:
    """W of the header at S and Z (count, k, k) of each cone."""

    def __init__(self, cones: Cones, S: list[Array], Z: list[Array]) -> None:
        self._cones = cones
        self._R, self._inverse, self._values = [], [], []
        for s, z in zip(S, Z, strict=True):
            L1, L2 = np.linalg.cholesky(s), np.linalg.cholesky(z)
            U, values, Vt = np.linalg.svd(L2.mT @ L1)
            root = np.sqrt(values)
            self._R.append((L1 @ Vt.mT) / root[:, None, :])
            self._inverse.append((U / root[:, None, :]).mT @ L2.mT)
            self._values.append(values)

    def _map(self, u: Array, of: list[Array]) -> Array:
        """T' u T for T of each cone."""
        cones = self._cones
        moved = [cone.coordinates(T.mT @ U @ T) for cone, T, U in zip(cones.cones, of, cones.matrices(u), strict=True)]
        return np.concatenate([np.zeros(0), *moved])

    def scaled_slack(self, ds: Array) -> Array:
        """W^-T ds."""
        return self._map(ds, [inverse.mT for inverse in self._inverse])

    def inverse(self, u: Array) -> Array:
        """W^-1 u."""
        return self._map(u, self._inverse)

    def inverse_square(self, u: Array) -> Array:
        """(W'W)^-1 u = N u N."""
        return self._map(u, self._N)

    @cached_property
    def _N(self) -> list[Array]:
        return [inverse.mT @ inverse for inverse in self._inverse]

    def square(self) -> Array:
        """l o l."""
        return self._diagonal([values**2 for values in self._values])

    def _diagonal(self, values: list[Array]) -> Array:
        cones = self._cones.cones
        parts = [cone.coordinates(v[:, :, None] * np.eye(cone.order)) for cone, v in zip(cones, values, strict=True)]
        return np.concatenate([np.zeros(0), *parts])

    def divided(self, u: Array) -> Array:
        """w with l o w = u."""
        cones = self._cones
        parts = [
            cone.coordinates(2.0 * U / (v[:, :, None] + v[:, None, :]))
            for cone, v, U in zip(cones.cones, self._values, cones.matrices(u), strict=True)
        ]
        return np.concatenate([np.zeros(0), *parts])

    def product(self, u: Array, v: Array) -> Array:
        """u o v."""
        cones = self._cones
        pairs = zip(cones.cones, cones.matrices(u), cones.matrices(v), strict=True)
        return np.concatenate([np.zeros(0), *(cone.coordinates(U @ V) for cone, U, V in pairs)])

    def longest(self, *directions: Array) -> float:
        """The largest t with l + t u in the cones for each of the scaled directions."""
        least = 0.0
        for u in directions:
            for v, U in zip(self._values, self._cones.matrices(u), strict=True):
                root = np.sqrt(v)
                M = U / (root[:, :, None] * root[:, None, :])
                if not np.isfinite(M).all():
                    return 0.0
                least = min(least, float(np.linalg.eigvalsh(M).min()))
        return 1.0 / -least if least < 0.0 else np.inf

    def gram(self) -> Array:
        """A' (W'W)^-1 A, (n, n)."""
        cones = self._cones
        H = np.zeros((cones.n, cones.n))
        for i, A in cones.of_order_one:
            half = sp.diags_array(self._N[i].reshape(-1)) @ A
            H += (half.T @ half).toarray()
        for gram, (i, k) in zip(cones.grams, cones.owners, strict=True):
            gram.add(H, self._N[i][k])
        return H


class _Gram:
    """(<A_i, N A_j N>)_ij of the rows A of one cone; only its columns that are not zero are touched."""

    def __init__(self, cone: Cone, A: sp.csr_array) -> None:
        by_columns = sp.csc_array(A)
        self.order = cone.order
        self.columns = np.flatnonzero(np.diff(by_columns.indptr))
        self.A = sp.csc_array(by_columns[:, self.columns])
        rows, columns, _, _ = _entries(cone.order)
        at = self.A.indices
        # entry by entry the matrix v (e_r e_c' + e_c e_r')
        self.r, self.c, self.v = (
            rows[at],
            columns[at],
            self.A.data * np.where(rows[at] == columns[at], 0.5, np.sqrt(0.5)),
        )
        count = len(at)
        self.by_pairs = count <= self.order * np.sqrt(len(self.columns))
        own = np.repeat(np.arange(len(self.columns)), np.diff(self.A.indptr))
        self.V = sp.csr_array((self.v, (np.arange(count), own)), shape=(count, len(self.columns)))

    def add(self, H: Array, N: Array) -> None:
        """Add it to H."""
        found = self._pairs(N) if self.by_pairs else self._products(N)
        H[np.ix_(self.columns, self.columns)] += 0.5 * (found + found.T)

    def _pairs(self, N: Array) -> Array:
        """<e_r e_c' + e_c e_r', N (e_t e_d' + e_d e_t') N> = 2 (N_rt N_cd + N_rd N_ct) for all pairs of entries."""
        width = max(1, _AT_ONCE // max(len(self.r), 1))
        out = np.zeros((len(self.columns), len(self.columns)))
        for first in range(0, len(self.r), width):
            t, d = self.r[first : first + width], self.c[first : first + width]
            Nt, Nd = N[:, t], N[:, d]
            both = 2.0 * (Nt[self.r] * Nd[self.c] + Nd[self.r] * Nt[self.c])
            out += self.V.T @ (both @ self.V[first : first + width])
        return out

    def _products(self, N: Array) -> Array:
        """By N A_j N, a product of as many columns of N as A_j has entries, or of dense matrices where these are many."""
        rows, columns, length, _ = _entries(self.order)
        out = np.zeros((len(self.columns), len(self.columns)))
        width = max(1, _AT_ONCE // len(rows))
        for first in range(0, len(self.columns), width):
            last = min(first + width, len(self.columns))
            turned = np.empty((len(rows), last - first))
            for j in range(first, last):
                some = slice(self.A.indptr[j], self.A.indptr[j + 1])
                r, c, v = self.r[some], self.c[some], self.v[some]
                if len(r) <= self.order:
                    half = (N[:, r] * v) @ N[c]
                else:
                    M = np.zeros_like(N)
                    M[r, c] = v
                    half = N @ M @ N
                turned[:, j - first] = (half[rows, columns] + half[columns, rows]) * length
            out[:, first:last] = self.A.T @ turned
        return out

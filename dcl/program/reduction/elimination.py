"""The KKT system of a program with some of its variables taken out, and the way back.

    rows I define variables J:   A_IJ x_J + A_IR x_R = b_I,  A_IJ invertible        (pivots.py)

    A_IJ = [[A_FF, 0], [A_SF, A_SS]],   A_FF diagonal, A_FF and A_SS constant;  A_FR = 0: b_F alone says what x_F is

    x_J = e + E x_R,     E = -A_IJ^-1 A_IR,     e = A_IJ^-1 b_I
    P' = P_RR + E'P_JJ E + P_RJ E + E'P_JR,     A' = A_KR + A_KJ E       of the rows K that are left
    z_I = -A_IJ^-T (P_JJ x_J + P_JR x_R + q_J + A_KJ'z_K)

One linear system serves the solution, its refinement and its derivatives.  On the rows that hold with equality

    P u + A'w = g,   A u = h       of the program as given      becomes

    P' u_R + A''w_K = g_R + E'(g_J - P_JJ e) - P_RJ e,    A' u_R = h_K - A_KJ e,     e = A_IJ^-1 h_I
    u_J = e + E u_R,     w_I = A_IJ^-T (g_J - P_JJ u_J - P_JR u_R - A_KJ'w_K)

(g, h) = (-q, b) gives q', b' and the way back; residuals of a point give a step; cotangents of (x, z) give the derivative.  So
the products of E, which lose digits, appear in a factor only, and every answer is measured and refined on the program as given.

Vectors are in the order of the partition: variables [J, R], rows [I, K, rows that are dropped].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dcl.program.affine import AffineMap
from dcl.program.reduction.blocks import Block, Ints
from dcl.program.reduction.matrices import (
    AbstractMatrix,
    Diagonal,
    Full,
    InverseLower,
    Lower,
    Zero,
    product,
    total,
    transposed_product,
)

Grid = dict[str, Block]


def plus(out: Tensor, M: AbstractMatrix, x: Tensor, *, transposed: bool = False) -> Tensor:
    """out + M x, or out + M'x; nothing is done for a zero matrix."""
    if M.is_zero:
        return out
    return out + (M.transposed(x) if transposed else M.times(x))


def minus(out: Tensor, M: AbstractMatrix, x: Tensor, *, transposed: bool = False) -> Tensor:
    """out - M x, or out - M'x; nothing is done for a zero matrix."""
    if M.is_zero:
        return out
    return out - (M.transposed(x) if transposed else M.times(x))


@dataclass(frozen=True, eq=False)
class Partition:
    """J, R: variables taken out and left.  I: the rows that define J.  K: rows left, D: rows dropped; K, D in any order.

    fixed: how many of J, the first ones, are F of the header.
    """

    fixed: int
    J: Ints
    R: Ints
    I: Ints  # noqa: E741
    K: Ints
    D: Ints

    @cached_property
    def variable_order(self) -> Tensor:
        """[J, R]: of the program's variables, which stands where in the partition."""
        return torch.from_numpy(np.concatenate([self.J, self.R]))

    @cached_property
    def row_order(self) -> Tensor:
        """[I, K, D]."""
        return torch.from_numpy(np.concatenate([self.I, self.K, self.D]))

    @cached_property
    def variables(self) -> Tensor:
        """Where each variable of the program stands in [J, R]."""
        return torch.argsort(self.variable_order)

    @cached_property
    def rows(self) -> Tensor:
        """Where each row of the program stands in [I, K, D]."""
        return torch.argsort(self.row_order)


@dataclass(frozen=True, eq=False)
class Matrices:
    """The blocks of a batch of programs, by the letters of the header. M: A_IJ^-1."""

    M: AbstractMatrix
    P_JJ: AbstractMatrix
    P_JR: AbstractMatrix
    P_RR: AbstractMatrix
    A_IJ: AbstractMatrix
    A_IR: AbstractMatrix
    A_KJ: AbstractMatrix
    A_KR: AbstractMatrix
    A_DJ: AbstractMatrix
    A_DR: AbstractMatrix


@dataclass(frozen=True, eq=False)
class Dual:
    """For P' > 0:  L L' = P',  V = P'^-1 A'',  N = A' V;  condition: a lower bound of that of P', (B or 1,)."""

    L: Tensor
    V: Tensor
    N: Tensor
    condition: Tensor


@dataclass(frozen=True, eq=False)
class Eliminated:
    """The blocks of a batch, E, and P', A' of the rows K (only the first `general` of them)."""

    blocks: Matrices
    E: AbstractMatrix
    P: Tensor
    A: Tensor

    def right_side(self, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the header: that of the reduced system, (B, |R|) and (B, |K|), and e. g (B, n), h (B, m)."""
        t = self.blocks
        k, rows = t.A_IJ.shape[0], t.A_KR.shape[0]
        e = t.M.times(h[:, :k])
        inner = minus(g[:, :k], t.P_JJ, e)
        first = minus(plus(g[:, k:], self.E, inner, transposed=True), t.P_JR, e, transposed=True)
        return first, minus(h[:, k : k + rows], t.A_KJ, e), e

    def back(self, u: Tensor, w: Tensor, e: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, n) and w (B, m) of the program as given for those of the reduced one; rows that are dropped get 0."""
        t = self.blocks
        k, dropped = t.A_IJ.shape[0], t.A_DR.shape[0]
        u_J = plus(e, self.E, u)
        inner = minus(minus(g[:, :k], t.P_JJ, u_J), t.P_JR, u)
        w_I = t.M.transposed(minus(inner, t.A_KJ, w, transposed=True))
        batch = max(u.shape[0], w_I.shape[0])
        rows = [w_I.expand(batch, -1), w.expand(batch, -1)]
        if dropped:
            rows.append(w.new_zeros(batch, dropped))
        return torch.cat([u_J.expand(batch, -1), u.expand(batch, -1)], -1), torch.cat(rows, -1)

    def products(self, u: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P u, A'w (B, n) and A u (B, m)."""
        return _products(self.blocks, u, w)

    @cached_property
    def dual(self) -> Dual:
        """Made when it is first asked for; what is not definite is NaN."""
        L, info = torch.linalg.cholesky_ex(self.P)
        L = torch.where((info == 0)[:, None, None], L, torch.nan)
        V = torch.cholesky_solve(self.A.mT, L)
        N = self.A @ V
        diagonal = L.diagonal(dim1=-2, dim2=-1)
        return Dual(L, V, 0.5 * (N + N.mT), (diagonal.amax(-1) / diagonal.amin(-1)).square())


def _products(t: Matrices, u: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k, rows = t.A_IJ.shape[0], t.A_KR.shape[0]
    u_J, u_R = u[:, :k], u[:, k:]
    w_I, w_K = w[:, :k], w[:, k : k + rows]
    zero_J, zero_R = torch.zeros_like(u_J), torch.zeros_like(u_R)
    P_J = plus(plus(zero_J, t.P_JJ, u_J), t.P_JR, u_R)
    P_R = plus(plus(zero_R, t.P_JR, u_J, transposed=True), t.P_RR, u_R)
    A_J = plus(plus(zero_J, t.A_IJ, w_I, transposed=True), t.A_KJ, w_K, transposed=True)
    A_R = plus(plus(zero_R, t.A_IR, w_I, transposed=True), t.A_KR, w_K, transposed=True)
    parts = [
        plus(plus(torch.zeros_like(w_I), t.A_IJ, u_J), t.A_IR, u_R),
        plus(plus(torch.zeros_like(w_K), t.A_KJ, u_J), t.A_KR, u_R),
    ]
    if t.A_DR.shape[0]:
        parts.append(plus(plus(u.new_zeros(u.shape[0], t.A_DR.shape[0]), t.A_DJ, u_J), t.A_DR, u_R))
    return torch.cat([P_J, P_R], -1), torch.cat([A_J, A_R], -1), torch.cat(parts, -1)


@dataclass(frozen=True, eq=False)
class Elimination:
    """The plan: blocks by the names of `Matrices`, and how many of the rows K the reduced matrix A' is wanted for.

    A_IJ is given by its parts A_FF, A_SF and A_SS; M_S: A_SS^-1.
    vectors: theta -> (-q, b) in the order of points, that of the partition first, (B or 1, all variables + all rows).
    """

    partition: Partition
    blocks: Grid
    M_S: AbstractMatrix
    general: int
    vectors: AffineMap

    @property
    def n(self) -> int:
        """Variables of the program as given."""
        return len(self.partition.J) + len(self.partition.R)

    def at(self, thetas: Sequence[Tensor]) -> Eliminated:
        """For thetas[p] (B or 1, size_p). What is constant is made once, what is shared once per call."""
        if self._constant is not None:
            return self._constant
        return self._at(thetas)

    @cached_property
    def _constant(self) -> Eliminated | None:
        return self._at(()) if all(block.constant for block in self.blocks.values()) else None

    def _fixed(self, name: str) -> AbstractMatrix:
        return self.blocks[name].at(())

    # parts that are the same for all parameters; E is zero here where it is not, and then nothing here depends on it

    @cached_property
    def _E(self) -> AbstractMatrix:
        A_IR = self.blocks["A_IR"]
        return self._defined(A_IR.at(())) if A_IR.constant else Zero(A_IR.shape)

    @cached_property
    def _P(self) -> Tensor:
        return _curvature(self._fixed("P_JJ"), self._fixed("P_JR"), self._fixed("P_RR"), self._E)

    @cached_property
    def _A(self) -> Tensor:
        return _rows(self._fixed("A_KJ"), self._fixed("A_KR"), self._E, self.general)

    def _at(self, thetas: Sequence[Tensor]) -> Eliminated:
        blocks = self.blocks
        found = {name: block.at(thetas) for name, block in blocks.items() if name not in _PARTS}
        M, A_IJ = self._inverse(*[blocks[name].at(thetas) for name in _PARTS])
        t = Matrices(M=M, A_IJ=A_IJ, **found)

        def fixed(*names: str) -> bool:
            return all(blocks[name].constant for name in names)

        E = self._E if fixed("A_IR") else self._defined(t.A_IR)
        P_is_fixed = fixed("P_JJ", "P_JR", "P_RR") and (fixed("A_IR") or (t.P_JJ.is_zero and t.P_JR.is_zero))
        A_is_fixed = fixed("A_KJ", "A_KR") and (fixed("A_IR") or t.A_KJ.is_zero)
        return Eliminated(
            t,
            E,
            P=self._P if P_is_fixed else _curvature(t.P_JJ, t.P_JR, t.P_RR, E),
            A=self._A if A_is_fixed else _rows(t.A_KJ, t.A_KR, E, self.general),
        )

    def _inverse(
        self, A_FF: AbstractMatrix, A_SF: AbstractMatrix, A_SS: AbstractMatrix
    ) -> tuple[AbstractMatrix, AbstractMatrix]:
        """M and A_IJ."""
        if not isinstance(A_FF, Diagonal):  # nothing is fixed
            return self.M_S, A_SS
        return InverseLower(Diagonal(1.0 / A_FF.values), A_SF, self.M_S), Lower(A_FF, A_SF, A_SS)

    def _defined(self, A_IR: AbstractMatrix) -> AbstractMatrix:
        """E = -M A_IR, of which A_SR alone is not zero."""
        k = self.partition.fixed
        if A_IR.is_zero:
            return A_IR
        if k == 0:
            return product(self.M_S.negative(), A_IR)
        found = product(self.M_S.negative(), Full(A_IR.full()[:, k:])).full()
        return Full(torch.cat([found.new_zeros(found.shape[0], k, found.shape[2]), found], -2))


_PARTS = ("A_FF", "A_SF", "A_SS")


def _curvature(P_JJ: AbstractMatrix, P_JR: AbstractMatrix, P_RR: AbstractMatrix, E: AbstractMatrix) -> Tensor:
    """P', symmetric to the last bit."""
    if E.is_zero or (P_JJ.is_zero and P_JR.is_zero):
        return P_RR.full()
    mixed = transposed_product(P_JR, E)
    P = total(total(P_RR, transposed_product(E, product(P_JJ, E))), mixed).full()
    if not mixed.is_zero:
        P = P + mixed.full().mT
    return 0.5 * (P + P.mT)


def _rows(A_KJ: AbstractMatrix, A_KR: AbstractMatrix, E: AbstractMatrix, general: int) -> Tensor:
    """A' of the first `general` rows of K."""
    if A_KJ.is_zero or E.is_zero:
        return A_KR.full()[:, :general]
    first = Full(A_KJ.full()[:, :general])
    return total(Full(A_KR.full()[:, :general]), product(first, E)).full()


def inverse(A_IJ: AbstractMatrix) -> AbstractMatrix:
    """A_IJ^-1 of a constant block."""
    if isinstance(A_IJ, Diagonal):
        return Diagonal(1.0 / A_IJ.values)
    return Full(torch.linalg.inv(A_IJ.full()))

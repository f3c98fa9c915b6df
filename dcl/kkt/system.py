"""The KKT system of a program at a point (x, v), and the one symmetric matrix that is factored for it.

    F(x, v) = ( Px + q + A'z,  Ax - b + z - v )             K = dF/d(x, v) = [[P, A'D], [A, D - I]]

With D = Q diag(d) Q', R = diag(d)^(1/2) Q' (rows of R that are zero drop out) and dz = R'w:

    S = [[P, A'R'], [R A, diag(d - 1)]],     S = S'

    tangent  K (dx, dv) = (a, b):      S (dx, w) = (a, R b),   dz = R'w,   ds = b - A dx,   dv = dz - ds
    adjoint  K' (ux, uv) = (gx, gv):   S (ux, y) = (gx + A'gv, R gv),      uv = R'y - gv

On rows with d >= 1/2 equivalent forms are used that put no rounding error of A'gv before the solve, where the condition
would amplify it:  dv = d^(-1/2) w  and  S (ux, y) = (gx, d^(-1/2) gv), uv = d^(1/2) y  (rows in the coordinates of Q).
Rows with d = 0 (inactive inequalities at mu = 0) are left out of S: in a dense batch each instance keeps its live rows
and is padded with dead ones, which are rows of -I, up to the largest count in the batch.

With a `shift` l > 0 the system is that of a proximal-point step (`dcl.solve.polish`), which is nonsingular at every point:

    [[P + l I, A'D], [A, D - I - l D]] (dx, dv) = (a, b)         d - 1 becomes d - 1 - l d in S
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier
from dcl.cones.by_rows import dproject, project
from dcl.kkt.base import AbstractFactor, Conditioning
from dcl.kkt.dense import DenseFactor
from dcl.kkt.saddle import Saddle, block_rows, saddle_of
from dcl.kkt.sparse import SparseFactor
from dcl.program import ConeProgram, Structure
from dcl.program.pattern import SparsePattern

Array = NDArray[np.float64]
# Numbers in the columns that are rotated at once.
_AT_ONCE = 2**24


def residual(program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier) -> tuple[Tensor, Tensor]:
    """F(x, v): (B, n) and (B, m)."""
    z = project(program.structure.cone, v, mu)
    return program.Px(x) + program.q + program.ATz(z), program.Ax(x) - program.b + z - v


@dataclass(frozen=True, eq=False)
class KKT:
    """K at a point, factored. Build it with `factorize`."""

    program: ConeProgram
    v: Tensor
    D: AbstractDerivative
    factor: AbstractFactor
    keep: Tensor | None
    shift: Tensor | None = None

    def is_at(self, v: Tensor) -> bool:
        """Was K factored at these instances (B, m)? Transforms of torch may ask at more of them, or at fewer."""
        return self.v is v or (self.v.shape == v.shape and torch.equal(self.v, v))

    @property
    def conditioning(self) -> Conditioning:
        """Condition and null spaces of S, (B,) each."""
        return self.factor.conditioning

    @property
    def dependence(self) -> Tensor:
        """How much of the null space of the multipliers lies along each row, (B, m); zero where that row's is determined."""
        found = self.conditioning.dependence
        if self.keep is None:
            return found
        return torch.zeros_like(self.v).scatter(-1, self.keep, found)

    def _solve(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """S (a, w) = (r1, r2) on all m rows; dead rows of w are left zero, as R drops them."""
        if self.keep is None:
            return self.factor.solve(r1, r2)
        index = self.keep.expand(*r2.shape[:-1], -1)
        a, w, accuracy = self.factor.solve(r1, r2.gather(-1, index))
        return a, torch.zeros_like(r2).scatter(-1, index, w), accuracy

    def tangent(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """K^-1 (a, b): dx (..., B, n), dv (..., B, m), and the relative residual reached (..., B)."""
        root, b = self.D.d.sqrt(), self.D.to_eigen(b)
        dx, w, accuracy = self._solve(a, root * b)
        dz = root * w if self.shift is None else (1.0 - self.shift) * root * w
        weak = dz - b + self.D.to_eigen(self.program.Ax(dx))
        return dx, self.D.from_eigen(torch.where(self._strong, w / root, weak)), accuracy

    def adjoint(self, gx: Tensor, gv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """K^-T (gx, gv): ux (..., B, n), uv (..., B, m), and the relative residual reached (..., B)."""
        root, g = self.D.d.sqrt(), self.D.to_eigen(gv)
        shift = torch.where(self._strong, 0.0, g)
        r1 = gx + self.program.ATz(self.D.from_eigen(shift))
        ux, y, accuracy = self._solve(r1, torch.where(self._strong, g / root, root * g))
        return ux, self.D.from_eigen(root * y - shift), accuracy

    @property
    def _strong(self) -> Tensor:
        return self.D.d >= 0.5


def factorize(program: ConeProgram, v: Tensor, mu: Barrier, at_kink: Tensor, shift: Tensor | None = None) -> KKT:
    """Assemble and factor S at v (B, m), with D = at_kink (B, m) at the kinks; dense in one batch, sparse one by one.

    shift (B, 1): the l of the header, for `tangent` only; None for none.
    """
    return assemble(program, v, dproject(program.structure.cone, v, mu, at_kink), shift)


def assemble(program: ConeProgram, v: Tensor, D: AbstractDerivative, shift: Tensor | None = None) -> KKT:
    """`factorize` with D at hand."""
    if isinstance(program.structure.A, SparsePattern) or isinstance(program.structure.P, SparsePattern):
        return KKT(program, v.detach(), D, _sparse(program, D, shift), None, shift)
    live = D.d != 0.0
    count = int(live.sum(-1).max()) if live.numel() else 0
    keep = live.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]
    A = program.A.expand(v.shape[0], -1, -1)
    if not D.diagonal:
        A = D.to_eigen(A.permute(2, 0, 1)).permute(1, 2, 0)
    d = D.d.gather(-1, keep)
    rows = A.gather(1, keep.unsqueeze(-1).expand(-1, -1, A.shape[-1]))
    B, T, P = d.sqrt().unsqueeze(-1) * rows, 1.0 - d, program.P
    if shift is not None:
        T = T + shift * d
        P = P + torch.diag_embed(shift.expand(-1, program.structure.n))
    # the rows of other cones are turned by Q, and T is no number of the data
    factor = DenseFactor(P, B, T, regular=shift is not None, best_units=program.structure.cone.is_orthant)
    return KKT(program, v.detach(), D, factor, keep, shift)


def _sparse(program: ConeProgram, D: AbstractDerivative, shift: Tensor | None) -> SparseFactor:
    """S from the values on the patterns of P and A, on the host."""
    structure, d = program.structure, D.d.detach().cpu().numpy()
    saddle = saddle_of(structure, rotated=not D.diagonal)
    P, A = (t.detach().flatten(1).cpu().numpy() for t in (program.P, program.A))
    if not D.diagonal:
        A = _rotated(structure, saddle, A, D)
    B, T = np.sqrt(d)[:, saddle.B[0]] * A, 1.0 - d
    shifts = 0.0 if shift is None else shift.detach().cpu().numpy()
    return SparseFactor(saddle, P, B, T + shifts * d, d != 0.0, D.d.device, shift=shifts, regular=shift is not None)


def _rotated(structure: Structure, saddle: Saddle, values: Array, D: AbstractDerivative) -> Array:
    """Q'A of each instance, on the pattern of the saddle: by the columns of A, or of Q where its blocks are small."""
    size = block_rows(structure.cone)[1]
    if structure.n * structure.m < size.sum() + int(size.max(initial=0)) * structure.m:
        return _rotated_columns(structure, saddle, values, D)
    places = saddle.B[0] * structure.n + saddle.B[1]
    out = np.zeros((len(D.d), len(places)))
    for i, Qt in enumerate(_rotations(structure.cone, D)):
        A = sp.csr_array((values[i if len(values) > 1 else 0], structure.A.coordinates()), shape=structure.A.shape)
        product = sp.coo_array(Qt @ A)  # without what happens to be zero
        out[i, np.searchsorted(places, product.row.astype(np.int64) * structure.n + product.col)] = product.data
    return out


def _rotated_columns(structure: Structure, saddle: Saddle, values: Array, D: AbstractDerivative) -> Array:
    batch, (n, m) = len(D.d), (structure.n, structure.m)
    out = np.zeros((batch, len(saddle.B[0])))
    row, col = structure.A.coordinates()
    own = np.argsort(col, kind="stable")
    begins = np.concatenate([[0], np.cumsum(np.bincount(col, minlength=n))])
    order, starts = saddle.B_by_columns
    width = max(1, _AT_ONCE // (batch * m))
    for first in range(0, n, width):
        last = min(first + width, n)
        columns = np.zeros((last - first, batch, m))
        some = own[begins[first] : begins[last]]
        columns[col[some] - first, :, row[some]] = values[:, some].T
        turned = D.to_eigen(torch.from_numpy(columns).to(D.d)).detach().cpu().numpy()
        some = order[starts[first] : starts[last]]
        out[:, some] = turned[saddle.B[1][some] - first, :, saddle.B[0][some]].T
    return out


def _rotations(cone: AbstractCone, D: AbstractDerivative) -> list[sp.csr_array]:
    """Q' of each instance: block diagonal, so that column j of all blocks comes out of one product with Q'."""
    batch, m = D.d.shape
    first, size = block_rows(cone)
    local = np.arange(m) - first
    largest = int(size.max(initial=0))
    columns = torch.from_numpy((np.arange(largest)[:, None] == local).astype(np.float64)).to(D.d)
    values = D.to_eigen(columns.unsqueeze(1).expand(-1, batch, -1)).detach().cpu().numpy()
    place, row = np.nonzero(np.arange(largest)[:, None] < size)
    return [sp.csr_array((values[place, i, row], (row, first[row] + place)), shape=(m, m)) for i in range(batch)]

"""The KKT system of a program at a point (x, v), and the one symmetric matrix that is factored for it.

    F(x, v) = ( Px + q + A'z,  Ax - b + z - v )             K = dF/d(x, v) = [[P, A'D], [A, D - I]]

With R = D^(1/2) and dz = R w, rows scaled by R:           S = [[P, A'R], [R A, D - I]],     S = S'

    tangent  K (dx, dv) = (a, b):      S (dx, w) = (a, R b),   dz = R w,   ds = b - A dx,   dv = dz - ds
    adjoint  K' (ux, uv) = (gx, gv):   S (ux, y) = (gx + A'gv, R gv),      uv = R y - gv

Rows where R is zero (inactive inequalities at mu = 0) drop out of S: in a dense batch each instance keeps its live rows
and is padded with dead ones, which are rows of -I, up to the largest count in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dcl.cones.base import AbstractDerivative, Barrier
from dcl.factor import AbstractFactor, Conditioning, DenseFactor, SparseFactor
from dcl.pattern import SparsePattern
from dcl.program import ConeProgram, Structure, magnitude

# Distance to a kink, relative to 1 + |v|_inf, that counts as being on it (the one place where this is stated).
TIE_TOLERANCE = 1e-9


def tie(v: Tensor) -> Tensor:
    """The absolute distance to a kink that counts as zero, (..., 1) for v (..., m)."""
    return TIE_TOLERANCE * (1.0 + magnitude(v)).unsqueeze(-1)


def derivative(structure: Structure, v: Tensor, mu: Barrier, at_kink: Tensor | None = None) -> AbstractDerivative:
    """D = dz/dv at v (B, m); at_kink (B, m): its value at the ties, None for 1/2."""
    return structure.cone.dproject(v, mu, tie(v), torch.full_like(v, 0.5) if at_kink is None else at_kink)


def residual(program: ConeProgram, x: Tensor, v: Tensor, mu: Barrier) -> tuple[Tensor, Tensor]:
    """F(x, v): (B, n) and (B, m)."""
    z = program.structure.cone.project(v, mu)
    return program.Px(x) + program.q + program.ATz(z), program.Ax(x) - program.b + z - v


@dataclass(frozen=True, eq=False)
class KKT:
    """K at a point, factored. Build it with `factorize`."""

    program: ConeProgram
    D: AbstractDerivative
    factor: AbstractFactor
    keep: Tensor | None

    @property
    def conditioning(self) -> Conditioning:
        """Condition and null spaces of S, (B,) each."""
        return self.factor.conditioning

    def _solve(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """S (a, w) = (r1, r2) on all m rows; dead rows of w are left zero, as R drops them."""
        if self.keep is None:
            return self.factor.solve(r1, r2)
        index = self.keep.expand(*r2.shape[:-1], -1)
        a, w, accuracy = self.factor.solve(r1, r2.gather(-1, index))
        return a, torch.zeros_like(r2).scatter(-1, index, w), accuracy

    def tangent(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """K^-1 (a, b): dx (..., B, n), dv (..., B, m), and the relative residual reached (..., B)."""
        dx, w, accuracy = self._solve(a, self.D.sqrt(b))
        return dx, self.D.sqrt(w) - b + self.program.Ax(dx), accuracy

    def adjoint(self, gx: Tensor, gv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """K^-T (gx, gv): ux (..., B, n), uv (..., B, m), and the relative residual reached (..., B)."""
        ux, y, accuracy = self._solve(gx + self.program.ATz(gv), self.D.sqrt(gv))
        return ux, self.D.sqrt(y) - gv, accuracy


def factorize(program: ConeProgram, v: Tensor, mu: Barrier, at_kink: Tensor | None = None) -> KKT:
    """Assemble and factor S at v (B, m), D as in `derivative`; dense in one batch, sparse one by one."""
    D = derivative(program.structure, v, mu, at_kink)
    if isinstance(program.structure.A, SparsePattern) or isinstance(program.structure.P, SparsePattern):
        return KKT(program, D, _sparse(program, D), None)
    live = D.live()
    count = int(live.sum(-1).max()) if live.numel() else 0
    keep = live.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]
    A = program.A.expand(v.shape[0], -1, -1)
    rows = A.gather(1, keep.unsqueeze(-1).expand(-1, -1, A.shape[-1]))
    root = D.sqrt(torch.ones_like(v)).gather(-1, keep)
    factor = DenseFactor(program.P, root.unsqueeze(-1) * rows, D.complement().gather(-1, keep))
    return KKT(program, D, factor, keep)


def _sparse(program: ConeProgram, D: AbstractDerivative) -> SparseFactor:
    """S from the values on the patterns of P and A, on the host."""
    batch = D.live().shape[0]
    structure = program.structure

    def matrices(values: Tensor, index: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> list[sp.csc_array]:
        flat = values.detach().flatten(1).cpu().numpy()
        out = [sp.csc_array(sp.coo_array((row, index), shape=shape)) for row in flat]
        return out * batch if len(out) == 1 else out

    P = matrices(program.P, structure.P.coordinates(), structure.P.shape)
    A = matrices(program.A, structure.A.coordinates(), structure.A.shape)
    complement = D.complement().detach().cpu().numpy()
    root = np.sqrt(1.0 - complement)
    B = [sp.csc_array(sp.diags_array(r) @ Ai) for r, Ai in zip(root, A, strict=True)]
    return SparseFactor(P, B, complement, D.live().cpu().numpy())

"""The units in which a program is solved and checked: rows of A of size one, an objective of size one.

    P' = c P,  q' = c q,  A' = E A,  b' = E b:      x' = x,   s' = E s,   z' = c E^-1 z,   mu' = c mu

Columns have units only where the path runs through tiny boxes (`dcl.program.columns`); mu counts as part of the objective then.

E (diagonal, constant on each cone that is no orthant) and c are powers of two, so nothing is rounded.  They are constants
for differentiation, which is exact: the solution does not depend on them.  Without this, a tolerance of 1e-8 would accept
any x for an objective of size 1e-9, and a row of size 1e-9 would look weakly active.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcl.cones.base import Barrier
from dcl.program import ConeProgram, magnitude
from dcl.program.columns import in_columns, narrow_columns
from dcl.torch_modes import is_readable

# Objectives of one batch that share P are scaled alike unless their sizes differ by more than this.
_SAME_SIZE = 2.0**10


@dataclass(frozen=True, eq=False)
class Units:
    """c (B or 1, 1) and the diagonal of E (B or 1, m) of the header."""

    c: Tensor
    E: Tensor

    def dual(self, z: Tensor) -> Tensor:
        """z of the user's program for z' (B, m)."""
        return z * (self.E / self.c)

    def slack(self, s: Tensor) -> Tensor:
        """s of the user's program for s' (B, m)."""
        return s / self.E

    def scaled_dual(self, z: Tensor) -> Tensor:
        """z' for z (B, m)."""
        return z * (self.c / self.E)

    def certificate(self, certificate: Tensor | None) -> Tensor | None:
        """A certificate (B, n + m) of the user's program for one of the scaled program; its length is free."""
        if certificate is None:
            return None
        n = certificate.shape[-1] - self.E.shape[-1]
        return torch.cat([certificate[:, :n], certificate[:, n:] * self.E], -1)

    def barrier(self, mu: Barrier) -> Barrier:
        """mu' for mu."""
        return mu.to(self.c.device) * self.c if isinstance(mu, Tensor) else mu


def _power(size: Tensor) -> Tensor:
    """The power of two next to 1 / size, 1 where size is zero or not finite."""
    usable = torch.isfinite(size) & (size > 0.0)
    return torch.exp2(-torch.round(torch.log2(torch.where(usable, size, 1.0))).clamp(-1000.0, 1000.0))


def scaled(program: ConeProgram, least: Barrier = 0.0) -> tuple[ConeProgram, Units]:
    """The program in its own units, and the units. least: the objective counts as at least so large, (B or 1, 1)."""
    structure = program.structure
    with torch.no_grad():
        E = _power(structure.cone.equalize(structure.A.row_sizes(program.A)))
        size_P = program.P.abs().flatten(1).amax(-1) if program.P.shape[-1] else program.P.new_zeros(1)
        size = torch.maximum(size_P, magnitude(program.q))
        if isinstance(least, Tensor):
            size = torch.maximum(size, least.detach().to(size.device).squeeze(-1))
        shared = program.P.shape[0] == 1 and size.numel() > 0 and is_readable(size)
        if shared and bool(size.max() <= _SAME_SIZE * size.min()):
            size = size.max().reshape(1)
        c = _power(size).unsqueeze(-1)
    P = program.P * c.reshape(-1, *[1] * (program.P.ndim - 1))
    A = structure.A.scale_rows(program.A, E)
    return replace(program, P=P, q=program.q * c, A=A, b=program.b * E), Units(c, E)


def in_units(program: ConeProgram, mu: Barrier) -> tuple[ConeProgram, Units, Tensor | None]:
    """`scaled` for a call with mu, (B or 1, 1) or 0.0, and the units of columns (B or 1, n): x = columns * x', None for one."""
    columns = narrow_columns(program, mu)
    if columns is None:
        return *scaled(program), None
    return *scaled(in_columns(program, columns), mu), columns

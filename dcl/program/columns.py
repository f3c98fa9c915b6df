"""Units of columns, for the central path in tiny boxes: x = F x', so that a box has width one.

    P' = F P F,   q' = F q,   A' = A F,   F diagonal, powers of two

On the path z = mu / s.  In a box of width w both multipliers are of size mu / w, and the carrier v = z - s keeps of s what
eps z leaves: nothing for w^2 < eps mu.  With x' of size one, the rows of the bounds, and then z' and s', are so too.

Only where mu > 0 and w is below NARROW: everywhere else units of columns would change what is tied and what is small at mu = 0,
where nothing fails for want of them, and a shared matrix would become one for each instance.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dcl.cones.base import Barrier
from dcl.program import ConeProgram
from dcl.program.pattern import DensePattern
from dcl.torch_modes import is_readable

NARROW = 2.0**-10


def narrow_columns(program: ConeProgram, mu: Barrier) -> Tensor | None:
    """The diagonal of F (B or 1, n); None where it is the identity, and where values may not be read.

    mu: (B or 1, 1), in the user's units.  A box is made of rows of the nonnegative cone with one entry each.
    """
    tensors = (program.A, program.b)
    if not isinstance(mu, Tensor) or not all(map(is_readable, (*tensors, mu))) or not program.b.shape[-1]:
        return None
    A, b = (t.detach() for t in tensors)
    structure, n = program.structure, program.structure.n
    zeros, nonnegative = structure.cone.zeros, sum(k.size for k in structure.cone.blocks if k.kind == "nonnegative")
    rows, columns = (torch.from_numpy(place).to(A.device) for place in structure.A.coordinates())
    values = A.flatten(1)
    there = values != 0.0
    count = torch.zeros(len(A), b.shape[-1], dtype=torch.int64, device=A.device).index_add(1, rows, there.long())
    alone = there & (count == 1)[:, rows] & (rows >= zeros) & (rows < zeros + nonnegative)
    if not bool(alone.any()):
        return None
    side = b[:, rows] / torch.where(alone, values, 1.0)
    batch = max(len(values), len(b))
    above, below = alone & (values > 0.0), alone & (values < 0.0)
    index = columns.expand(batch, -1)
    high = torch.where(above, side, torch.inf).expand(batch, -1)
    low = torch.where(below, side, -torch.inf).expand(batch, -1)
    width = torch.full((batch, n), torch.inf, dtype=b.dtype, device=b.device).scatter_reduce(1, index, high, "amin")
    width = width - torch.full_like(width, -torch.inf).scatter_reduce(1, index, low, "amax")
    narrow = (width > 0.0) & (width < NARROW) & (mu.detach().to(width.device) > 0.0)
    if not bool(narrow.any()):
        return None
    return torch.where(narrow, torch.exp2(torch.round(torch.log2(torch.where(narrow, width, 1.0)))), 1.0)


def in_columns(program: ConeProgram, F: Tensor) -> ConeProgram:
    """The program in x' = x / F."""
    structure = program.structure

    def scaled(values: Tensor, dense: bool, columns: Tensor) -> Tensor:
        return values * (F.unsqueeze(-2) if dense else F[:, columns])

    is_dense_P, is_dense_A = (isinstance(M, DensePattern) for M in (structure.P, structure.A))
    P_rows, P_columns = (torch.from_numpy(place).to(F.device) for place in structure.P.coordinates())
    P = scaled(program.P, is_dense_P, P_columns)
    P = P * F.unsqueeze(-1) if is_dense_P else P * F[:, P_rows]
    A_columns = torch.from_numpy(structure.A.coordinates()[1]).to(F.device)
    return replace(program, P=P, q=program.q * F, A=scaled(program.A, is_dense_A, A_columns))

"""The rows of a program in the caller's order and in that of `dcl.program`, the canonical one, and which of them bind nothing.

    to_user       canonical rows -> the caller's order       a permutation Q
    to_canonical  the caller's rows -> canonical order       Q' = Q^-1: inverse and adjoint

What has an entry for every row goes through these: z, s, certificates on the way out, A, b and warm starts on the way in.
A right-hand side that is infinite binds nothing.  In canonical form its row reads 0'x + s = 1, where a multiplier is an
artifact (mu on the central path, anything >= 0 in a certificate): in the caller's words it is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl.torch_modes import is_readable


@dataclass(frozen=True, eq=False)
class Rows:
    """`order[k]`: the place in the caller's rows of canonical row k; None where the orders are the same.

    sides: as in (position, first): an infinite entry j of the caller's tensor number `position`, (B or 1, size), is that of
    canonical row first + j, which then binds nothing; by increasing `first`.
    free: canonical rows (m,) that bind nothing whatever is given; then there are no `sides`.
    """

    order: NDArray[np.int64] | None = None
    sides: tuple[tuple[int, int], ...] = ()
    free: NDArray[np.bool_] | None = None

    @cached_property
    def _inverse(self) -> NDArray[np.int64] | None:
        return None if self.order is None else np.argsort(self.order)

    def to_canonical(self, t: Tensor, dim: int = -1) -> Tensor:
        """The caller's rows, along dimension `dim`, in canonical order. Law: <to_user(t), u> = <t, to_canonical(u)>."""
        return t if self.order is None else t.index_select(dim, torch.from_numpy(self.order).to(t.device))

    def to_user(self, t: Tensor) -> Tensor:
        """Canonical rows (..., m) in the caller's order. Law: to_user(to_canonical(t)) = t."""
        return t if self._inverse is None else t.index_select(-1, torch.from_numpy(self._inverse).to(t.device))

    def multipliers(self, z: Tensor, given: Sequence[Tensor]) -> Tensor:
        """The caller's multipliers for the canonical z (B, m). given: his tensors, (B or 1, ...) each."""
        return self.to_user(_where(self._binding(given, z.shape[-1]), z))

    def binding_certificate(self, certificate: Tensor | None, b: Tensor, given: Sequence[Tensor]) -> Tensor | None:
        """Certificates (B, n + m) without multipliers of rows that bind nothing, scaled to b'z = -1 again; canonical rows.

        b: the canonical one (B or 1, m).  Law: a certificate remains one, since such a row adds nothing to A'z, z_i >= 0 to b'z.
        """
        binding = None if certificate is None else self._binding(given, b.shape[-1])
        if certificate is None or binding is None:
            return certificate
        n = certificate.shape[-1] - b.shape[-1]
        x, z = certificate[:, :n], _where(binding, certificate[:, n:])
        # an instance without a z has NaN, which the sum makes of all of its rows again
        return torch.cat([x, z / -(b * z).sum(-1, keepdim=True)], -1)

    def certificate_to_user(self, certificate: Tensor | None, m: int) -> Tensor | None:
        """Certificates (B, n + m) with canonical rows -> with the caller's."""
        if certificate is None or self.order is None:
            return certificate
        n = certificate.shape[-1] - m
        return torch.cat([certificate[:, :n], self.to_user(certificate[:, n:])], -1)

    def _binding(self, given: Sequence[Tensor], m: int) -> Tensor | None:
        """Canonical rows that may bind, (B or 1, m) boolean; None: all of them."""
        if self.free is not None:
            return torch.from_numpy(~self.free).unsqueeze(0).to(given[0].device if given else "cpu")
        free = [torch.isinf(given[position]) for position, _ in self.sides]
        if all(is_readable(f) and not bool(f.any()) for f in free):
            return None
        batch = max(f.shape[0] for f in free)
        pieces, end = [], 0
        for f, (_, first) in zip(free, self.sides, strict=True):
            pieces += [f.new_ones(batch, first - end), ~f.expand(batch, -1)]
            end = first + f.shape[-1]
        return torch.cat([*pieces, free[0].new_ones(batch, m - end)], -1)


def _where(binding: Tensor | None, z: Tensor) -> Tensor:
    return z if binding is None else torch.where(binding, z, 0.0)

"""Linear systems with the symmetric saddle matrix, factored once and solved often.

    S (a, y) = (r1, r2),      S = [[H, B'], [B, -T]],      H >= 0,  T >= 0 diagonal

H (B or 1, n, n), B (B, k, n), T (B, k).  Where S is singular the minimum-norm least-squares solution is returned: S has
null(S) = {a : Ha = 0, Ba = 0} x {y : B'y = 0, Ty = 0}, so the two causes are told apart (`null_a`, `null_y`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

# Relative singular values of the equilibrated S below this count as zero (the one place where this is stated).
RANK_TOLERANCE = 1e-10


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Per instance: 2-norm condition of S (of its nonzero part), dimensions of the two null spaces, (B,) each.

    scaled (B,): S is judged in its best units (`dcl.kkt.balance`), and so is its condition.  Residuals have other ones there, so
    that no bound of an error is condition * residual: Newton's step tells (`dcl.point.sharp`).

    Of large sparse systems dimensions above two are not counted: they are two there.
    spread (B, n), dependence (B, k): how much of the first null space lies along each entry of a, and of the second along each
    of y; zero where that entry is determined.
    """

    condition: Tensor
    null_a: Tensor
    null_y: Tensor
    spread: Tensor
    dependence: Tensor
    scaled: Tensor


def saddle(H: Tensor, B: Tensor, T: Tensor) -> Tensor:
    """S itself, (b, n + k, n + k), for H (b, n, n), B (b, k, n), T (b, k)."""
    return torch.cat([torch.cat([H, B.mT], -1), torch.cat([B, torch.diag_embed(-T)], -1)], -2)


class AbstractFactor(ABC):
    """A factored S."""

    @property
    @abstractmethod
    def conditioning(self) -> Conditioning:
        """Condition of S and dimensions of its null spaces."""

    @abstractmethod
    def flat_directions(self, i: int, toward: Tensor) -> Tensor:
        """Orthonormal columns that span {a : Ha = 0, Ba = 0} of instance i: (n, null_a).

        Of a very large space, a random part that holds the projection of `toward` (n,) onto it, for weights of S.
        """

    @abstractmethod
    def solve(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A (..., B, n), y (..., B, k) and the relative residual reached (..., B), for r1 (..., B, n), r2 (..., B, k).

        With residuals in extended precision it is the last step beside the solution: the distance from S^-1 (r1, r2).
        Law: S (a, y) = (r1, r2) up to the residual returned; of a singular S, the minimum-norm least squares solution.
        """

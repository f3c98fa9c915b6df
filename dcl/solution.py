"""What is known of an answer: the point, how good it is as dcl itself measured it, and what its derivative is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dcl.cones.base import Barrier
from dcl.degeneracy import Degeneracy, Requested, classify, resolve_kinks
from dcl.kkt import factorize
from dcl.program import ConeProgram
from dcl.status import Status


@dataclass(frozen=True, eq=False)
class Solution:
    """An answer, detached from the graph; every tensor leads with the batch dimensions of the call.

    outputs: what the layer returns for it.  x (*batch, n), z (*batch, m), s (*batch, m): the point in the letters of
    `dcl.program` (for a CVXPY problem, of its canonical form).  value (*batch): the optimal value.
    status (*batch): `dcl.Status` as integers.  primal_residual, dual_residual, gap (*batch): relative, as measured by dcl.
    iterations, seconds (*batch): of all solvers that were tried.  solver (*batch): position in `solvers` of the one
    that gave the point.  certificate (*batch, n + m) or None: of an infeasible instance, see `dcl.truth`, NaN elsewhere.
    """

    outputs: tuple[Tensor, ...]
    x: Tensor
    z: Tensor
    s: Tensor
    value: Tensor
    status: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    gap: Tensor
    iterations: Tensor
    seconds: Tensor
    solver: Tensor
    solvers: tuple[str, ...]
    certificate: Tensor | None
    program: ConeProgram
    v: Tensor
    mu: Barrier
    requested: Requested | None = None
    known_degeneracy: Degeneracy | None = None

    @property
    def ok(self) -> Tensor:
        """(*batch) boolean: OPTIMAL."""
        return self.status == Status.OPTIMAL

    @cached_property
    def _degeneracy(self) -> Degeneracy:
        if self.known_degeneracy is not None:
            return self.known_degeneracy
        x = self.x.reshape(-1, self.x.shape[-1])
        at_kink = resolve_kinks(self.program, x, self.v, self.mu)
        kkt = factorize(self.program, self.v, self.mu, at_kink)
        residual = torch.maximum(self.primal_residual, self.dual_residual).reshape(-1)
        return classify(self.program, self.v, at_kink, kkt, residual, self.requested)

    def _shaped(self, t: Tensor) -> Tensor:
        return t.reshape(self.status.shape)

    @property
    def gradient_kind(self) -> Tensor:
        """(*batch) `dcl.GradientKind` as integers; classified on first access if no gradient was recorded."""
        return self._shaped(self._degeneracy.kind)

    @property
    def margin(self) -> Tensor:
        """(*batch) strict-complementarity margin, see `dcl.degeneracy`."""
        return self._shaped(self._degeneracy.margin)

    @property
    def condition(self) -> Tensor:
        """(*batch) estimated 2-norm condition of the KKT matrix."""
        return self._shaped(self._degeneracy.condition)

    def __repr__(self) -> str:
        counts = {s.name: int((self.status == s).sum()) for s in Status}
        shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        worst = torch.stack([self.primal_residual, self.dual_residual, self.gap])
        residual = f", worst residual {float(worst.max()):.1e}" if worst.numel() else ""
        return f"Solution({shown or 'empty batch'}{residual})"

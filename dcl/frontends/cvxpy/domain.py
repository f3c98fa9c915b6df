"""The domain that a CVXPY parameter declares: signs, bounds, semidefiniteness, places that must be zero.

Tolerances follow CVXPY (1e-10 for entries, 1e-8 for eigenvalues), relative to the size of the value and never below
its rounding: a covariance computed in float32 is accepted although its eigenvalues reach -1e-7.
A symmetric, PSD or NSD value need not be exactly symmetric: its symmetric part is what enters the program.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.errors import InputError
from dcl.program import symmetric

_ENTRY_TOLERANCE = 1e-10
_EIGENVALUE_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Domain:
    """Name and shape of a parameter, and what its values must satisfy; None or 0 where nothing is declared.

    lower, upper: bounds that broadcast against the shape.  strict: entries must be > 0 (a GP takes logarithms).
    sign: 1 positive semidefinite, -1 negative semidefinite.  free: False where an entry must be zero.
    """

    name: str
    shape: tuple[int, ...]
    declared: str
    lower: Tensor | None = None
    upper: Tensor | None = None
    strict: bool = False
    sign: int = 0
    free: Tensor | None = None

    def check(self, value: Tensor) -> None:
        """Raise InputError if an entry or eigenvalue of `value` (..., *shape) is outside; NaN is not looked at."""
        if value.numel() == 0:
            return
        value = value.detach()
        eps = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
        tol = max(_ENTRY_TOLERANCE, 2.0 * eps)
        if self.lower is not None:
            lower = self.lower.to(value)
            self._refuse(value < lower - tol * (1.0 + lower.abs()), value)
        if self.upper is not None:
            upper = self.upper.to(value)
            self._refuse(value > upper + tol * (1.0 + upper.abs()), value)
        if self.strict:
            self._refuse(value <= 0.0, value)
        if self.free is not None:
            self._refuse((value != 0.0) & ~self.free.to(value.device), value)
        if self.sign:
            self._check_eigenvalues(value.double(), max(_EIGENVALUE_TOLERANCE, 8.0 * self.shape[-1] * eps))

    def _refuse(self, outside: Tensor, value: Tensor) -> None:
        if not bool(outside.any()):
            return
        place = tuple(int(i) for i in outside.nonzero()[0])
        lead = value.ndim - len(self.shape)
        self._raise(f"entry {place[lead:]} is {value[place].item():.6g}", place[:lead])

    def _check_eigenvalues(self, value: Tensor, tol: float) -> None:
        signed = self.sign * symmetric(value)
        shift = tol * (1.0 + signed.abs().amax((-2, -1)))
        eye = torch.eye(signed.shape[-1], dtype=signed.dtype, device=signed.device)
        # a Cholesky factorization is the cheap test; eigenvalues only for the message
        failed = torch.linalg.cholesky_ex(signed + shift[..., None, None] * eye).info != 0
        if not bool(failed.any()):
            return
        place = tuple(int(i) for i in failed.nonzero()[0])
        worst = self.sign * float(torch.linalg.eigvalsh(signed[place])[0])
        self._raise(f"an eigenvalue is {worst:.6g}", place[: value.ndim - len(self.shape)])

    def _raise(self, what: str, index: tuple[int, ...]) -> None:
        where = f" at batch index {index}" if index else ""
        raise InputError(
            f"parameter {self.name} is outside its declared domain ({self.declared}): {what}{where}",
            argument=self.name,
            index=index,
        )

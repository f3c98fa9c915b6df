"""Sparse direct factorization, one instance at a time: SuperLU with partial pivoting on the equilibrated S.

S is indefinite with zero blocks (linear programs, active rows), where an LDL without pivoting breaks down; SciPy's
SuperLU pivots.  Solves are refined; an instance whose S is singular or too ill-conditioned for it goes to the
eigenvalue solver, which decides the rank, or, above `_EIGEN_LIMIT` rows, to LSMR (minimum-norm least squares).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import lsmr, splu
from torch import Tensor

from dcl.kkt.base import AbstractFactor, Conditioning
from dcl.kkt.eigen import EigenFactor

Array = NDArray[np.float64]
_SUSPICIOUS = 1e9
_EIGEN_LIMIT = 2500
_PROBES = 3
_REFINEMENTS = 2


def _norm(columns: Array) -> Array:
    return np.asarray(np.linalg.norm(columns, axis=0))


class _Instance:
    """One S (N x N, sparse) with n leading rows; solves for columns of right-hand sides."""

    def __init__(self, S: sp.csc_array, n: int, regular: bool) -> None:
        self._S = S
        size = abs(S).max(axis=1).toarray().ravel()
        self._E = 1.0 / np.sqrt(np.where(size > 0.0, size, 1.0))
        scaled = sp.csc_array(sp.diags_array(self._E) @ S @ sp.diags_array(self._E))
        self.null_a = self.null_y = 0.0
        self.spread = torch.from_numpy(np.zeros(n))
        self._eigen: EigenFactor | None = None
        self.condition = np.inf
        self._solve: Callable[[Array], Array] = self._refined
        try:
            self._lu = splu(scaled)
        except RuntimeError:  # SuperLU: "Factor is exactly singular"
            self.condition = np.inf
        else:
            self.condition = 1.0 if regular else self._estimate()
        if not self.condition < _SUSPICIOUS:
            self._fall_back(n)

    def flat_directions(self) -> Tensor:
        """As in `AbstractFactor`."""
        return self.spread.new_zeros(len(self.spread), 0) if self._eigen is None else self._eigen.flat_directions(0)

    def _once(self, r: Array) -> Array:
        return np.asarray(self._E[:, None] * self._lu.solve(self._E[:, None] * r))

    def _refined(self, r: Array) -> Array:
        x = self._once(r)
        for _ in range(_REFINEMENTS):
            x = x + self._once(r - self._S @ x)
        return x

    def _estimate(self) -> float:
        """Condition in the 2-norm from random probes and one power step; inf where the solve is not accurate."""
        g = np.random.default_rng(self._S.shape[0]).normal(size=(self._S.shape[0], _PROBES))
        g /= _norm(g)
        x = self._refined(g)
        if not np.isfinite(x).all():
            return float(np.inf)
        inverse = _norm(self._refined(x / _norm(x))).max()
        forward = self._S @ g
        norm = _norm(self._S @ (forward / _norm(forward))).max()
        condition = float(inverse * norm)
        accurate = _norm(g - self._S @ x).max() <= 1e-15 * max(condition, 1e3)
        return condition if accurate else float(np.inf)

    def _fall_back(self, n: int) -> None:
        size = self._S.shape[0]
        if size > _EIGEN_LIMIT:
            self._solve = self._least_squares
            return
        dense = torch.from_numpy(self._S.toarray()).unsqueeze(0)
        eigen = EigenFactor(dense[:, :n, :n], dense[:, n:, :n], -dense[:, n:, n:].diagonal(dim1=-2, dim2=-1))
        self.condition = float(eigen.conditioning.condition)
        self.null_a, self.null_y = float(eigen.conditioning.null_a), float(eigen.conditioning.null_y)
        self.spread, self._eigen = eigen.conditioning.spread[0], eigen

        def solve(r: Array) -> Array:
            t = torch.from_numpy(np.ascontiguousarray(r.T)).unsqueeze(1)
            a, y, _ = eigen.solve(t[..., :n], t[..., n:])
            return torch.cat([a, y], -1)[:, 0].T.numpy()

        self._solve = solve

    def _least_squares(self, r: Array) -> Array:
        columns = []
        for column in r.T:
            x, stop, *_ = lsmr(self._S, column, atol=1e-14, btol=1e-14, conlim=0.0, maxiter=10 * self._S.shape[0])
            # 1 and 2: a solution or a least-squares solution; 4 and 5: the same at machine precision; else not solved
            columns.append(x if stop in (0, 1, 2, 4, 5) else np.full_like(x, np.nan))
        return np.stack(columns, axis=1)

    def solve(self, r: Array) -> tuple[Array, Array]:
        """x (N, j) and relative residuals (j,) for r (N, j)."""
        x = self._solve(r)
        size = _norm(r)
        residual = r - self._S @ x
        if self.null_a or self.null_y:  # the part of r outside of the range of S cannot be met
            residual = self._S @ residual / max(abs(self._S).max(), 1.0)
        return x, _norm(residual) / np.where(size > 0.0, size, 1.0)


class SparseFactor(AbstractFactor):
    """S for sparse H and B: lists of B instances (n x n), (m x n), and T (B, m); rows with `live` False are dropped.

    regular: as in `dcl.kkt.DenseFactor`.  It lives on the host; device is where the right-hand sides are, and what is
    told of the conditioning.
    """

    def __init__(
        self,
        H: list[sp.csc_array],
        B: list[sp.csc_array],
        T: Array,
        live: NDArray[np.bool_],
        device: torch.device | str = "cpu",
        *,
        regular: bool = False,
    ) -> None:
        self._n, self._live = H[0].shape[0], live
        self._instances = []
        for Hi, Bi, Ti, keep in zip(H, B, T, live, strict=True):
            rows = sp.csr_array(Bi)[np.flatnonzero(keep)]
            S = sp.block_array([[Hi, rows.T], [rows, sp.diags_array(-Ti[keep])]], format="csc")
            self._instances.append(_Instance(S, self._n, regular))
        self._conditioning = Conditioning(
            condition=torch.tensor([i.condition for i in self._instances], dtype=torch.float64, device=device),
            null_a=torch.tensor([i.null_a for i in self._instances], dtype=torch.float64, device=device),
            null_y=torch.tensor([i.null_y for i in self._instances], dtype=torch.float64, device=device),
            spread=torch.stack([i.spread for i in self._instances]).to(device),
        )

    @property
    def conditioning(self) -> Conditioning:
        return self._conditioning

    def flat_directions(self, i: int) -> Tensor:
        return self._instances[i].flat_directions().to(self.conditioning.spread.device)

    def solve(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lead = r1.shape[:-1]
        count = math.prod(lead[:-1])
        R1, R2 = (r.detach().cpu().numpy().reshape(count, lead[-1], r.shape[-1]) for r in (r1, r2))
        a, y = np.zeros_like(R1), np.zeros_like(R2)
        residual = np.zeros(R1.shape[:2])
        for i, (instance, keep) in enumerate(zip(self._instances, self._live, strict=True)):
            x, residual[:, i] = instance.solve(np.concatenate([R1[:, i], R2[:, i][:, keep]], axis=1).T)
            a[:, i] = x[: self._n].T
            y[:, i, keep] = x[self._n :].T
        out = (torch.from_numpy(t).to(r1.device) for t in (a, y, residual))
        a_t, y_t, residual_t = out
        return a_t.reshape(r1.shape), y_t.reshape(r2.shape), residual_t.reshape(lead)

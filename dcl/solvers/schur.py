"""A primal-dual interior-point method of dcl's own for large semidefinite cones, by the Schur complement in x.

    minimize 1/2 x'Px + q'x   subject to   A x + s = b,   s in K = zeros x nonnegative x semidefinite cones        (z in K*)

Clarabel factors a block as dense as R^(k (k + 1) / 2) for a cone of k x k matrices: k^6 / 24 multiplications an iteration,
minutes at k = 124.  Here nothing of the size of a cone squared is formed.  With the scaling of Nesterov and Todd,

    R' Z R = R^-1 S R^-T = diag(l),     N = R^-T R^-1,     (W'W)^-1 u = N u N,

Newton's step is the solution of a system of order n + zeros (block by block, A_j the matrix of column j of A):

    [[H, A0'], [A0, 0]] (dx, dy) = ...        H = P + sum over the cones  (<A_i, N A_j N>)_ij

H comes out of the entries of the A_j (Fujisawa, Kojima and Nakata 1997): all pairs of entries where there are few, else
N A_j N as a product of |A_j| columns of N, or a dense one.  Steps are predictor and corrector as in Mehrotra (1992), in the
form of Vandenberghe's note on CVXOPT (2010); nonnegative rows are cones of 1 x 1 matrices, all of them in one vector.

It starts outside of the constraints and has no embedding: claims of infeasibility are points that run off along a
certificate, and where it gets stuck it says so, and the next solver is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from dcl.cones.base import Block
from dcl.solvers.base import ORTHANTS, AbstractSolver, Array, Claim, HostProgram, Iterates, check_options
from dcl.solvers.congruence import Cone, Cones, Scaling
from dcl.solvers.convert import by_columns, vectors

_EPS, _MAX_ITERS = 1e-9, 100
_STEP, _CENTERING = 0.99, 3.0
# A point this near is worth polishing where rounding stops the steps; a step below _STUCK is none.
_ALMOST, _STUCK = 1e-5, 1e-6
# Added to the diagonal of a scaled H: rows of A that depend on each other are met nevertheless.
_REGULAR, _REFINEMENTS = 1e-14, 3
# Multiplications an iteration: where Clarabel needs this many, and this many times as many, in its largest blocks.
_WORTH, _TIMES, _LARGEST = 1e7, 4.0, 5000


def is_for(n: int, zeros: int, blocks: tuple[Block, ...]) -> bool:
    """Are these the cones of `Schur`, and is it by far cheaper than a factor with a full block for each cone?

    n: variables.  zeros: rows of zero cones.
    """
    kinds = {block.kind for block in blocks}
    if "semidefinite" not in kinds or not kinds <= Schur.cones or n + zeros > _LARGEST:
        return False
    large = [block for block in blocks if block.kind == "semidefinite"]
    full = sum(block.count * block.rows**3 / 3.0 for block in large)
    own = (n + zeros) ** 3 / 3.0 + sum(block.count * 4.0 * n * block.size**3 for block in large)
    return full > max(_WORTH, _TIMES * own)


@dataclass(frozen=True, kw_only=True)
class Schur(AbstractSolver):
    """dcl's interior-point method for large semidefinite cones. eps: relative residuals and gap.

    Example:
        >>> import torch, dcl
        >>> layer = dcl.QPLayer(dcl.solvers.Schur(eps=1e-9))
        >>> layer(torch.eye(2), torch.tensor([-1.0, 3.0]), lb=0.0, ub=1.0).x.round(decimals=6) + 0.0
        tensor([1., 0.])
    """

    name: ClassVar[str] = "SCHUR"
    cones: ClassVar[frozenset[str]] = ORTHANTS | {"semidefinite"}
    releases_gil: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = False
    gives_certificates: ClassVar[bool] = True
    gives_basic_duals: ClassVar[bool] = False
    limits_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)

    def solve(
        self,
        program: HostProgram,
        rows: Iterable[int],
        out: Iterates,
        start: Iterates | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        rows = list(rows)
        n, m = program.n, program.m
        Ps = by_columns(program.P, program.P_index, (n, n), rows)
        As = by_columns(program.A, program.A_index, (m, n), rows)
        for i, P, q, A, b in zip(rows, Ps, vectors(program.q, rows), As, vectors(program.b, rows), strict=False):
            if stop is not None and stop.is_set():
                return
            began = time.perf_counter()
            limit = np.inf if self.time_limit is None else began + self.time_limit
            path = _Path(program, P, q, A, b, _EPS if self.eps is None else self.eps)
            with np.errstate(all="ignore"):  # what is not finite ends the steps
                claim, steps = path.follow(self.max_iters or _MAX_ITERS, limit, stop, self.verbose)
            out.seconds[i] = time.perf_counter() - began
            out.claim[i], out.iterations[i] = claim, steps
            if claim != Claim.PRIMAL_INFEASIBLE:
                out.x[i] = path.x
            if claim != Claim.DUAL_INFEASIBLE:
                out.z[i] = path.z


def _size(u: Array) -> float:
    return float(np.abs(u).max(initial=0.0))


class _Reduced:
    """[[H, A0'], [A0, 0]], in units in which its diagonal, and the rows of A0, have size one.

    Raises LinAlgError where H is not finite, or not positive.
    """

    def __init__(self, H: Array, A0: Array) -> None:
        self._n, zeros = len(H), len(A0)
        diagonal = H.diagonal()
        columns = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
        lengths = np.linalg.norm(A0 * columns, axis=1)
        self._units = np.concatenate([columns, 1.0 / np.where(lengths > 0.0, lengths, 1.0)])
        K = np.block([[H, A0.T], [A0, np.zeros((zeros, zeros))]]) * self._units[:, None] * self._units
        if not np.isfinite(K).all():
            raise np.linalg.LinAlgError
        self._K = K
        shifted = K + np.diag(np.repeat([_REGULAR, -_REGULAR], [self._n, zeros]))
        # Cholesky for the usual program, without zero rows
        self._lu = scipy.linalg.lu_factor(shifted, check_finite=False) if zeros else None
        self._cholesky = None if zeros else scipy.linalg.cho_factor(shifted, check_finite=False)

    def _once(self, r: Array) -> Array:
        if self._lu is not None:
            return np.asarray(scipy.linalg.lu_solve(self._lu, r, check_finite=False))
        return np.asarray(scipy.linalg.cho_solve(self._cholesky, r, check_finite=False))

    def solve(self, r: Array, t: Array) -> tuple[Array, Array]:
        """(dx, dy) with H dx + A0'dy = r, A0 dx = t."""
        right = np.concatenate([r, t]) * self._units
        found = self._once(right)
        for _ in range(_REFINEMENTS):
            found = found + self._once(right - self._K @ found)
        found = found * self._units
        return found[: self._n], found[self._n :]


@dataclass(frozen=True, eq=False)
class _Direction:
    """Of x, s without the zero rows, z with them; W^-T ds and W dz."""

    x: Array
    s: Array
    z: Array
    scaled_s: Array
    scaled_z: Array


class _Path:
    """The iterates for one program: x (n,), and s, z (m,) in the interiors of their cones but for the zero rows."""

    def __init__(
        self, program: HostProgram, P: sp.csc_matrix, q: Array, A: sp.csc_matrix, b: Array, eps: float
    ) -> None:
        self.P, self.q, self.A, self.b, self.eps = P, q, A, b, eps
        self.zeros = program.zeros
        self.A0, self.A1 = sp.csr_array(A[: self.zeros]), A[self.zeros :]
        sizes = [(block.size, block.count) for block in program.cones]
        self.cones = Cones(self.A1, [Cone(1, program.nonnegatives), *(Cone(*size) for size in sizes)])
        self.x, self.s, self.z = self._start()

    def _start(self) -> tuple[Array, Array, Array]:
        """x and z of least squares, moved into the cones."""
        unit = self.cones.identity()
        b1 = self.b[self.zeros :]
        try:
            x, y = self._solver(self.cones.scaling(unit, unit)).solve(-self.q + self.A1.T @ b1, self.b[: self.zeros])
            z = self.A1 @ x - b1  # and -s
        except np.linalg.LinAlgError:
            x, y, z = np.zeros(len(self.q)), np.zeros(self.zeros), unit
        s, z = self.cones.moved_inside(-z), self.cones.moved_inside(z)
        return x, np.concatenate([np.zeros(self.zeros), s]), np.concatenate([y, z])

    def _solver(self, scaling: Scaling) -> _Reduced:
        """For (dx, dy). Raises LinAlgError where H is not finite, or not positive."""
        return _Reduced(self.P.toarray() + scaling.gram(), self.A0.toarray())

    def follow(self, max_iters: int, limit: float, stop: threading.Event | None, verbose: bool) -> tuple[Claim, int]:
        """Steps until the residuals are below eps, and what that says; x and z are the point or the certificate."""
        step, best, kept = 0, np.inf, (self.x, self.s, self.z)
        claim = Claim.MAX_ITERATIONS
        for step in range(max_iters):
            stationarity = self.P @ self.x + self.q + self.A.T @ self.z
            feasibility = self.A @ self.x + self.s - self.b
            gap = float(self.s @ self.z)
            error = self._error(stationarity, feasibility, gap)
            if verbose:
                print(f"SCHUR {step:>3}  gap {gap:9.2e}  residual {error:9.2e}")
            if error < best:
                best, kept = error, (self.x, self.s, self.z)
            if error <= self.eps:
                return Claim.SOLVED, step
            certain = self._infeasible()
            if certain is not None:
                return certain, step
            if (stop is not None and stop.is_set()) or time.perf_counter() > limit:
                claim = Claim.TIME_LIMIT
                break
            if not self._advance(stationarity, feasibility, gap / max(self.cones.degree, 1)):
                claim = Claim.FAILED
                break
        self.x, self.s, self.z = kept
        return (Claim.SOLVED if best <= _ALMOST and claim == Claim.FAILED else claim), step

    def _error(self, stationarity: Array, feasibility: Array, gap: float) -> float:
        """The largest of both residuals and the gap, relative to 1 + the data and the value."""
        curve = float(self.x @ (self.P @ self.x))
        value = max(abs(0.5 * curve + float(self.q @ self.x)), abs(0.5 * curve + float(self.b @ self.z)))
        return max(
            _size(stationarity) / (1.0 + _size(self.q)), _size(feasibility) / (1.0 + _size(self.b)), gap / (1.0 + value)
        )

    def _infeasible(self) -> Claim | None:
        """Is z, or x, a certificate to eps, with size one?"""
        ray, descent = -float(self.b @ self.z), -float(self.q @ self.x)
        if ray > 0.0 and _size(self.A.T @ self.z) <= self.eps * ray:
            return Claim.PRIMAL_INFEASIBLE
        if descent > 0.0 and max(_size(self.P @ self.x), _size(self.A @ self.x + self.s)) <= self.eps * descent:
            return Claim.DUAL_INFEASIBLE
        return None

    def _advance(self, stationarity: Array, feasibility: Array, mu: float) -> bool:
        """One predictor and corrector step; False where rounding or the boundary lets none be taken."""
        zeros = self.zeros
        try:
            scaling = self.cones.scaling(self.s[zeros:], self.z[zeros:])
            reduced = self._solver(scaling)
        except np.linalg.LinAlgError:
            return False

        def direction(target: Array, part: float) -> _Direction:
            """dx, dz and the scaled ds, dz where part of the residuals goes, and W dz + W^-T ds = target.

            ds is what keeps the rows, and dz follows from it: rounding stays in the target.
            """
            right = scaling.inverse_square(part * feasibility[zeros:]) + scaling.inverse(target)
            dx, dy = reduced.solve(-part * stationarity - self.A1.T @ right, -part * feasibility[:zeros])
            ds = -part * feasibility[zeros:] - self.A1 @ dx
            scaled_ds = scaling.scaled_slack(ds)
            scaled_dz = target - scaled_ds
            return _Direction(dx, ds, np.concatenate([dy, scaling.inverse(scaled_dz)]), scaled_ds, scaled_dz)

        predictor = direction(scaling.divided(-scaling.square()), 1.0)
        reach = min(1.0, scaling.longest(predictor.scaled_s, predictor.scaled_z))
        sigma = (1.0 - reach) ** _CENTERING
        bend = scaling.product(predictor.scaled_s, predictor.scaled_z)
        target = scaling.divided(sigma * mu * self.cones.identity() - scaling.square() - bend)
        step = direction(target, 1.0 - sigma)
        length = min(1.0, _STEP * scaling.longest(step.scaled_s, step.scaled_z))
        if not (length > _STUCK and np.isfinite(step.x).all()):
            return False
        s = self.s.copy()
        s[zeros:] += length * step.s
        self.x, self.s, self.z = self.x + length * step.x, s, self.z + length * step.z
        return True

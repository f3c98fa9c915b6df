"""Is the answer to P + E (`dcl.program.convexity`) one to the P that was given, which is not quite positive semidefinite?

Let x be feasible, and z >= 0 with z_i s_i = 0 at x; r = Px + q + A'z.  For every feasible x + d

    f(x + d) - f(x)  =  r'd + sum z_i s_i(x + d) + 1/2 d'P d

A term z_i s_i is at least rho_i s_i^2 / 2, rho_i = 2 z_i / range_i, as long as s_i <= range_i; equalities have A_e d = 0.  So if

    H = P + sum rho_i a_i a_i' + diag(t) > 0  on A_e d = 0,      1/2 r'H^-1 r <= e,      t_j = 2 e / (n range_j^2)

then f(x + d) >= f(x) - 2 e wherever the slacks and |d_j| are within their ranges.  e is what the rounding of the caller's P
makes of the value.  The ranges are those of the feasible set where its rows bound it (interval arithmetic); where they do not,
no point nearer than FAR (1 + |x|), BEYOND (1 + |x|) for slacks, is better.  So rows that hold x pass (a multiplier of 1e-2
outweighs the rounding of float32), and so do flat directions in which the feasible set ends soon.  A saddle of P with room to
move does not, nor does a program that is unbounded with the P given.

z are the multipliers found, those that are not zero corrected to fit P (least squares).  They are off by E x, which may be no
more than 1e-8, or the rounding of the caller's P, of the terms that are added: the tolerance of these programs.  Of a cone
that is no orthant the row is that of z's >= 0, with multiplier 1.  At mu > 0 all rows have rho_i = mu / range_i^2, the least
curvature that the barrier has: f + mu phi is convex then.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from torch import Tensor

from dcl.cones import AbstractCone
from dcl.point import OPTIMAL_TOLERANCE, Point
from dcl.point.basis import null_space, unit_rows
from dcl.point.truth import FAR
from dcl.program.convexity import PSD_TOLERANCE
from dcl.status import Status

Array = NDArray[np.float64]

# How far slacks are looked at where nothing bounds them.
BEYOND = 1e6
_PASSES = 3
# Ranges are not taken to be shorter than this, nor the rounding of the caller's data larger.
_SHORTEST, _LARGEST_ROUNDING = 1e-6, 1e-3
_EPSILON = float(np.finfo(np.float64).eps)


def checked(
    point: Point, status: Tensor, residuals: Tensor, certificate: Tensor | None, lift: Tensor, rounding: float
) -> tuple[Tensor, Tensor]:
    """The status (B,) after `serves`, and the smallest eigenvalue of the P that was given, (B,), of failed instances, else NaN.

    residuals (B, 3).  lift (B or 1, n, n): E.  certificate (B, n + m) or None.  rounding: the epsilon of the caller's numbers.
    What fails is a NUMERICAL_ERROR, and so is a claim that a program is unbounded if P itself rises along the direction; what
    was INACCURATE by no more than the rounding and serves is OPTIMAL.
    """
    n, program = point.x.shape[-1], point.program
    tolerance = max(PSD_TOLERANCE, 8.0 * n * rounding)
    status, smallest = status.clone(), torch.full_like(point.x[:, 0], torch.nan)
    lifted = lift.flatten(1).any(-1).expand(status.shape[0])
    P = program.structure.P.dense(program.P) - lift
    data = (P, program.q, program.structure.A.dense(program.A), program.b, lift, point.x, point.z, point.stationarity)
    arrays = [t.detach().cpu().numpy() for t in data]
    mu = np.zeros(1) if not isinstance(point.mu, Tensor) else point.mu.cpu().numpy()[:, 0]
    for i in torch.nonzero(lifted).flatten().tolist():
        one, mu_i = [a[i % len(a)] for a in arrays], float(mu[i % len(mu)])  # what is shared is there once
        if status[i] == Status.OPTIMAL or (status[i] == Status.INACCURATE and float(residuals[i].max()) <= tolerance):
            good = serves(program.structure.cone, *one, mu=mu_i, rounding=min(tolerance, _LARGEST_ROUNDING))
            status[i] = int(Status.OPTIMAL if good else Status.NUMERICAL_ERROR)
        elif status[i] == Status.DUAL_INFEASIBLE and certificate is not None:
            d, given = certificate[i, :n].cpu().numpy(), one[0]
            if d @ given @ d > 10.0 * n * _EPSILON * np.abs(given).max() * (d @ d):
                status[i] = int(Status.NUMERICAL_ERROR)
        if status[i] != Status.OPTIMAL:
            smallest[i] = float(np.linalg.eigvalsh(one[0])[0])
    return status, smallest


def serves(
    cone: AbstractCone,
    P: Array,
    q: Array,
    A: Array,
    b: Array,
    E: Array,
    x: Array,
    z: Array,
    stationarity: Array,
    *,
    mu: float,
    rounding: float,
) -> bool:
    """Does the point x (n,), z (m,) of the program with P + E serve P? Matrices and vectors of one instance.

    stationarity (n,): (P + E) x + q + A'z.  rounding: relative, of the caller's P.
    Law: True implies that no feasible point of the header's ranges has a value below that of x by more than
    2 rounding (1 + |x'Px| + |q'x| + |b'z|).
    """
    n = x.size
    error = rounding * (1.0 + abs(x @ P @ x) + abs(q @ x) + abs(b @ z))
    r = stationarity - E @ x
    terms = 1.0 + max(np.abs(t).max() for t in (P @ x, q, A.T @ z))
    if np.abs(r).max() > max(rounding, OPTIMAL_TOLERANCE) * terms:
        return False
    low, high = _intervals(A, b, cone)
    size = 1.0 + np.abs(x).max()
    rows, side, weight = _slacks(A, b, z, cone)
    ranges = side - np.minimum(_times(rows, low), _times(rows, high)).sum(1)
    ranges = np.where(np.isfinite(ranges), ranges, BEYOND * size).clip(_SHORTEST)
    width = np.where(np.isfinite(high - low), high - low, FAR * size).clip(_SHORTEST)
    zeros = cone.zeros
    Z = null_space(unit_rows(A[:zeros])) if zeros else np.eye(n)
    if not Z.shape[1]:
        return True
    if mu > 0.0:
        rho = mu / ranges**2
    else:
        change = np.zeros_like(weight)
        strong = weight > 0.0
        if strong.any():
            change[strong] = np.linalg.lstsq(Z.T @ rows[strong].T, -Z.T @ r, rcond=None)[0]
        change = np.maximum(change, -weight)
        r, rho = r + rows.T @ change, 2.0 * (weight + change) / ranges
    H = P + rows.T @ (rho[:, None] * rows) + np.diag(2.0 * error / (n * width**2))
    H = Z.T @ H @ Z
    try:
        L = np.linalg.cholesky(H + np.eye(len(H)) * (10.0 * n * _EPSILON * np.abs(H).max()))
    except np.linalg.LinAlgError:
        return False
    w = solve_triangular(L, Z.T @ r, lower=True)
    return bool(0.5 * (w @ w) <= error)


def _slacks(A: Array, b: Array, z: Array, cone: AbstractCone) -> tuple[Array, Array, Array]:
    """a_i (k, n), b_i and z_i (k,) of the slacks b_i - a_i'x >= 0: the rows of orthants; of other cones z's, with weight 1."""
    rows, sides, weights, start = [np.zeros((0, A.shape[1]))], [np.zeros(0)], [np.zeros(0)], 0
    for block in cone.blocks:
        stop = start + block.rows * block.count
        a, c, w = A[start:stop], b[start:stop], z[start:stop]
        if block.kind == "nonnegative":
            rows, sides, weights = [*rows, a], [*sides, c], [*weights, w]
        elif not block.is_orthant:
            shape = (block.count, block.rows)
            w = w.reshape(shape)
            rows.append(np.einsum("kr,krn->kn", w, a.reshape(*shape, -1)))
            sides.append((w * c.reshape(shape)).sum(1))
            weights.append(np.ones(block.count))
        start = stop
    return np.concatenate(rows), np.concatenate(sides), np.concatenate(weights)


def _intervals(A: Array, b: Array, cone: AbstractCone) -> tuple[Array, Array]:
    """Bounds (n,) that the rows imply for x, by a few passes of interval arithmetic; infinite where they imply none."""
    n = A.shape[1]
    low, high = np.full(n, -np.inf), np.full(n, np.inf)
    for _ in range(_PASSES):
        least, most = _row_bounds(A, b, cone, low, high)
        one, other = _times(A, low), _times(A, high)
        smallest, largest = np.minimum(one, other), np.maximum(one, other)
        with np.errstate(divide="ignore", invalid="ignore"):
            # a_ij x_j <= most_i - the smallest of the other terms, and >= least_i - the largest
            above = (most[:, None] - _others(smallest, -np.inf)) / A
            below = (least[:, None] - _others(largest, np.inf)) / A
        upper = np.where(A > 0.0, above, np.where(A < 0.0, below, np.inf))
        lower = np.where(A > 0.0, below, np.where(A < 0.0, above, -np.inf))
        high = np.minimum(high, np.nan_to_num(upper, nan=np.inf, posinf=np.inf).min(0, initial=np.inf))
        low = np.maximum(low, np.nan_to_num(lower, nan=-np.inf, neginf=-np.inf).max(0, initial=-np.inf))
    return low, np.maximum(high, low)


def _row_bounds(A: Array, b: Array, cone: AbstractCone, low: Array, high: Array) -> tuple[Array, Array]:
    """least <= A x <= most, (m,) each, as K says it: equalities, inequalities, and |u| <= t where t is bounded."""
    least, most, start = np.full(b.size, -np.inf), np.full(b.size, np.inf), 0
    for block in cone.blocks:
        stop = start + block.rows * block.count
        if block.is_orthant:
            most[start:stop] = b[start:stop]
            if block.kind == "zero":
                least[start:stop] = b[start:stop]
        elif block.kind == "second_order":
            for first in range(start, stop, block.rows):
                a = A[first : first + 1]
                t = b[first] - float(np.minimum(_times(a, low), _times(a, high)).sum())
                most[first] = b[first]
                u = slice(first + 1, first + block.rows)
                least[u], most[u] = b[u] - t, b[u] + t
        start = stop
    return least, most


def _times(A: Array, bound: Array) -> Array:
    """a_ij bound_j, zero where a_ij is."""
    with np.errstate(invalid="ignore"):
        return np.where(A == 0.0, 0.0, A * bound)


def _others(terms: Array, infinite: float) -> Array:
    """The sum of the other terms of each row, (m, n); those that are not finite are all `infinite`."""
    free = ~np.isfinite(terms)
    finite = np.where(free, 0.0, terms)
    return np.where(free.sum(1, keepdims=True) - free > 0, infinite, finite.sum(1, keepdims=True) - finite)

"""The quick way for one instance without constraints: Newton's method with derivatives by `Evaluation` and LAPACK.

    descend    the search of `dcl.smooth.newton` without rows: |H|^-1 g, Armijo on f, in units of f at the start
    finish     Newton's method on F = g, as `dcl.smooth.stationary`, to rounding
    certify    what `dcl.smooth.judge` and `dcl.point.degeneracy` ask, by their formulas, with a stricter limit on the condition

A certified answer is a minimum with an exact derivative.  Everything else, failures and doubts, is left to `dcl.smooth.answer`,
which starts anew and alone speaks of them: so this way may give up at any time, and says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import idamax
from scipy.linalg.lapack import dpotrf, dpotrs
from torch import Tensor

from dcl.point.point import NET_MATTERS, OPTIMAL_TOLERANCE
from dcl.smooth import judge, newton, reduced, stationary
from dcl.smooth.answer import FINISH, REACH
from dcl.smooth.evaluation import Evaluation

Array = NDArray[np.float64]

# A solve with a condition below this has ten digits without residuals in extended precision (`dcl.kkt.dense`).
_CONDITION = 1e6
# Where the condition times the residual is below this, x is known to six digits (`dcl.point.degeneracy`).
_ERROR = 1e-6
_REFINEMENTS = 4
_ACCURATE = 1e-14
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Certified:
    """x (n,) and H (n, n) with its Cholesky factor L; steps taken.

    residuals (3,), step, gradient, curvature, largest: as in `dcl.smooth.judge.Facts`; direction (n,) of the smallest eigenvalue;
    condition of H in the 2-norm.
    """

    x: Array
    H: Array
    L: Array
    steps: int
    residuals: Array
    step: float
    gradient: float
    curvature: float
    largest: float
    direction: Array
    condition: float

    def solve(self, r: Array) -> tuple[Array, float]:
        """H^-1 r (n,) and the relative residual reached."""
        return _solved(self.H, self.L, r)


def single(f: Callable[..., Tensor], start: Array, theta: Sequence[Tensor]) -> Certified | None:
    """The certified minimizer found from start (n,), None where there is none. To be called while gradients are recorded."""
    try:
        first = Evaluation(f, start, theta)
        first.g, first.H  # noqa: B018
    except RuntimeError:  # the careful way tells what cannot be differentiated
        return None
    near, steps = _descend(f, theta, first) if first.is_of_operations else (None, 0)
    if near is None:
        return None
    at, more = _finish(f, theta, near)
    return None if at is None else _certify(f, theta, at, first, steps + more)


def _unit(*sizes: float) -> float:
    """c of `dcl.program.scaling`: the power of two next to 1 / max(sizes)."""
    size = max(sizes)
    return 2.0 ** max(-1000, min(1000, -round(math.log2(size)))) if 0.0 < size < math.inf else 1.0


def _unit_at(at: Evaluation) -> float:
    return _unit(_largest(at.H), _largest(at.g - at.H @ at.x))


def _largest(a: Array) -> float:
    """The size of the largest entry; a (any shape) is finite. By BLAS: a third of the time of NumPy on small arrays."""
    flat = a.ravel(order="K")
    return abs(float(flat[idamax(flat)]))


def _is_finite(at: Evaluation) -> bool:
    """Are g and H finite? False also where their squares are not: then the careful way looks at them."""
    g, H = at.g, at.H.ravel(order="K")
    return math.isfinite(float(g @ g) + float(H @ H))


def _descend(f: Callable[..., Tensor], theta: Sequence[Tensor], at: Evaluation) -> tuple[Evaluation | None, int]:
    """`dcl.smooth.newton.minimize` without rows: where it ends and its steps; None where it leaves the finite numbers."""
    if not (math.isfinite(at.f) and _is_finite(at)):
        return None, 0
    c, mu = _unit_at(at), newton.MU_LAST
    for k in range(newton.STEPS):
        if not _is_finite(at):
            return None, k
        g, H = c * at.g, c * at.H
        error = _largest(g)
        size = min(max(error, _largest(H), newton.NOISE), 1.0)
        target = newton.MU_LAST * size
        while error <= 10.0 * mu and mu > target:
            mu = max(min(0.2 * mu, mu**1.5), target)
        dx = _down(H, g)
        if not np.isfinite(dx).all():
            return None, k
        dx *= min(1.0, 1e3 * (1.0 + _largest(at.x)) / max(_largest(dx), 1e-300))
        after = _searched(f, theta, at, dx, c, float(g @ dx))
        if after is None:
            return at, k + 1
        at = after
        size = 1.0 + _largest(at.x)
        if size >= newton.FAR:
            return None, k + 1
        if mu <= target and _largest(dx) <= newton.SMALL * size:
            return at, k + 1
    return None, newton.STEPS


def _down(H: Array, g: Array) -> Array:
    """-|H|^-1 g: by Cholesky, or by the eigenvalues' sizes, as `dcl.smooth.reduced.Reduced.step`."""
    L, info = dpotrf(H, lower=1)
    if info == 0:
        pivots, diagonal = L.diagonal(), H.diagonal()
        if np.isfinite(pivots).all() and not (pivots**2 <= 1e2 * reduced.SMALLEST * diagonal).any():
            return -np.asarray(dpotrs(L, g, lower=1)[0])
    rows = np.abs(H).max(-1)
    E = 1.0 / np.sqrt(np.where(rows > 0.0, rows, 1.0))
    values, Q = np.linalg.eigh(E[:, None] * H * E)
    size = np.maximum(np.abs(values), 1e-300)
    size = np.maximum(size, reduced.SMALLEST * size.max())
    return np.asarray(-E * (Q @ ((Q.T @ (E * g)) / size)))


def _searched(
    f: Callable[..., Tensor], theta: Sequence[Tensor], at: Evaluation, dx: Array, c: float, slope: float
) -> Evaluation | None:
    """The point that Armijo's rule finds along dx, None where no step lowers c f."""
    now, step, outside = c * at.f, 1.0, False
    noise = 1e-14 * abs(now)
    for _ in range(newton.HALVINGS):
        there = Evaluation(f, at.x + step * dx, theta)
        value = c * there.f
        if value <= now + 1e-4 * step * min(slope, 0.0) + noise:
            return there if step > newton.SHORTEST or outside else None
        left = not math.isfinite(value)
        outside = outside or left
        step *= 0.1 if left else 0.5
    return None


def _finish(f: Callable[..., Tensor], theta: Sequence[Tensor], at: Evaluation) -> tuple[Evaluation | None, int]:
    """`dcl.smooth.stationary.solve_residual` without rows; None where H is not positive definite or a step is long."""
    for k in range(FINISH):
        if not _is_finite(at):
            return None, k
        c = _unit_at(at)
        g, H = c * at.g, c * at.H
        L, info = dpotrf(H, lower=1)
        if info != 0:
            return None, k
        dx = _solved(H, L, -g)[0]
        length, size = _largest(dx), 1.0 + _largest(at.x)
        if not length <= REACH * size:
            return None, k
        if length <= stationary.ROUNDING * _largest(at.x):
            return at, k + 1
        norm, step, after = float(np.linalg.norm(g)), 1.0, None
        while norm > 0.0 and after is None and step >= 0.5**stationary.HALVINGS:
            there = Evaluation(f, at.x + step * dx, theta)
            after = there if np.linalg.norm(c * there.g) < (1.0 - 1e-4 * step) * norm else None
            if step * length <= 1e-13 * size:
                break
            step *= 0.5
        if after is None:
            return at, k + 1
        at = after
    return at, FINISH


def _solved(H: Array, L: Array, r: Array) -> tuple[Array, float]:
    """H^-1 r by the Cholesky factor L, refined, and the relative residual."""
    size = float(np.linalg.norm(r)) or 1.0
    x = np.asarray(dpotrs(L, r, lower=1)[0])
    rest = r - H @ x
    accuracy = float(np.linalg.norm(rest)) / size
    for _ in range(_REFINEMENTS):
        if accuracy <= _ACCURATE:
            break
        fresh = x + dpotrs(L, rest, lower=1)[0]
        left = r - H @ fresh
        reached = float(np.linalg.norm(left)) / size
        if not reached < accuracy:
            break
        x, rest, accuracy = fresh, left, reached
    return x, accuracy


def _certify(
    f: Callable[..., Tensor], theta: Sequence[Tensor], at: Evaluation, first: Evaluation, steps: int
) -> Certified | None:
    """The checks of `dcl.smooth.judge` on a point without rows, and that its derivative is exact; None if one fails."""
    if not (_is_finite(at) and at.is_of_operations):
        return None
    c = _unit_at(at)
    P, q, x = c * at.H, c * (at.g - at.H @ at.x), at.x
    values, Q = np.linalg.eigh(P)
    smallest, largest = float(values[0]), float(np.abs(values).max())
    # every eigenvalue is positive, and none is rounding: no saddle, not flat, and the derivative is no least-squares one
    if not smallest * _CONDITION >= largest > 0.0:
        return None
    L, info = dpotrf(P, lower=1)
    if info != 0:
        return None
    slope = P @ x + q
    dx, accuracy = _solved(P, L, -slope)
    residuals = _residuals(P, q, x)
    length, size, travelled = _largest(dx), 1.0 + _largest(x), _largest(x - first.x)
    # the Hessian is the same number all over the ball in which x is known
    reach = min(max(10.0 * length, 1e-13 * size), judge.STATIONARY * size)
    drift = _drift(f, theta, x + reach * Q[:, 0], c, P, Q[:, 0])
    if not math.isfinite(drift):
        drift = _drift(f, theta, x - reach * Q[:, 0], c, P, Q[:, 0])
    blur = judge.UNIT * c * _largest(first.g) / min(smallest, 1.0)
    is_solved = length <= judge.STATIONARY * size and float(residuals.max()) <= judge.FEASIBLE
    is_known = drift <= 0.5 * smallest and not (blur > judge.BLUR * size and travelled <= judge.RUN * size)
    is_exact = largest / smallest * float(residuals[1]) <= _ERROR and accuracy <= OPTIMAL_TOLERANCE
    if not (is_solved and is_known and is_exact and size <= judge.FAR):
        return None
    return Certified(
        x=x,
        H=at.H,
        L=L / math.sqrt(c),
        steps=steps,
        residuals=residuals,
        step=length / size,
        gradient=_largest(slope) / c,
        curvature=smallest / c,
        largest=largest / c,
        direction=Q[:, 0],
        condition=largest / smallest,
    )


def _drift(f: Callable[..., Tensor], theta: Sequence[Tensor], x: Array, c: float, P: Array, u: Array) -> float:
    """|(H(x) - H) u| in the units of P = c H."""
    return _largest(c * Evaluation(f, x, theta).product(u) - P @ u)


def _residuals(P: Array, q: Array, x: Array) -> Array:
    """`dcl.point.Point.check` with a floor of one, without rows: primal, dual and gap, (3,)."""
    Px, xPx, qx, size = P @ x, float(x @ (P @ x)), float(q @ x), np.abs(x)
    Px_abs = np.abs(P) @ size
    dual, dual_terms = np.abs(Px + q), Px_abs + np.abs(q)
    gap, gap_terms = abs(xPx + qx), float(Px_abs @ size + np.abs(q) @ size)
    strict = np.array([0.0, (dual / (1.0 + dual_terms)).max(), gap / (1.0 + gap_terms)])
    net_dual = _at_least_rounding(dual, dual_terms, 1.0 + max(_largest(Px), _largest(q))).max()
    net_gap = _at_least_rounding(np.array(gap), np.array(gap_terms), 1.0 + max(abs(xPx), abs(qx)))
    net = np.array([0.0, net_dual, float(net_gap)])
    return np.where(net > NET_MATTERS, np.maximum(strict, net), strict)


def _at_least_rounding(residual: Array, terms: Array, size: float) -> Array:
    rounding = _EPSILON * terms
    return np.where(rounding > OPTIMAL_TOLERANCE * size, np.maximum(residual, rounding), residual) / size

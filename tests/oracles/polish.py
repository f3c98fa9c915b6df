"""A solver's point made exact: Newton's method on the KKT conditions of a cone program, in NumPy alone.

    minimize 1/2 x'Px + q'x   subject to   Ax + s = b,  s in K            z in K*
    F(x, z) = ( Px + q + A'z,  c(s, z) ) = 0,   s = b - Ax

c(s, z) = 0 says that s and z are complementary; each block has as many equations as rows.  There is no projection in them, as
there is in dcl, and every one is smooth:

    free           s                                       nonnegative   s z
    second order   s o z = (s'z, s_0 z_1 + z_0 s_1)        semidefinite  (SZ + ZS) / 2
    exponential, power   z = 0 inside, s = 0 at the tip; on the boundary  f(s_1, s_2) = s_3, z = lambda grad(f - s_3),
                         with f = s_2 exp(s_1 / s_2) and f = s_1^a1 s_2^a2 ...; |s_3| for the power cone

Where an interior-point method stops depends on the processor: on the boundary of a curved cone x is off by the square root of
its tolerance, 5e-6 in one program here.  From its point some steps of Newton, of Levenberg and Marquardt where x or z are not
unique (Yamashita and Fukushima 2001), reach rounding.  What is returned has been checked: F = 0, s in K, z in K*.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import clarabel
import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack
from scipy.sparse.linalg import LinearOperator, onenormest, splu

Array = np.ndarray
TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12, "tol_ktratio": 1e-12, "max_iter": 200}
RESIDUAL = 1e-10  # relative; what is reached is 1e-15 but for programs that are degenerate
INSIDE = 1e-9
STEPS = 60
DENSE = 200  # unknowns; a larger program is polished sparse, as long as its matrix is regular


@dataclass(frozen=True)
class Cone:
    """One block of K; size: its rows.  Semidefinite: the upper triangle, column by column, off-diagonal times sqrt(2)."""

    key: str
    size: int
    exponents: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """The data of the header; K is the product of cones in the order of the rows.

    P and A are dense, or both sparse.
    """

    P: Any
    q: Array
    A: Any
    b: Array
    cones: tuple[Cone, ...]

    def parts(self, t: Array) -> list[Array]:
        """The blocks of a vector of rows."""
        return np.split(t, np.cumsum([cone.size for cone in self.cones])[:-1])


# Complementarity: c, dc/ds, dc/dz of one block


def _arrow(t: Array) -> Array:
    L = t[0] * np.eye(len(t))
    L[0], L[:, 0] = t, t
    return L


def smat(t: Array) -> Array:
    k = round((np.sqrt(8 * len(t) + 1) - 1) / 2)
    j, i = np.tril_indices(k)  # the upper triangle by columns is the lower one by rows
    X = np.zeros((k, k))
    X[i, j] = X[j, i] = t / np.where(i == j, 1.0, np.sqrt(2.0))
    return X


def svec(X: Array) -> Array:
    j, i = np.tril_indices(len(X))
    return X[i, j] * np.where(i == j, 1.0, np.sqrt(2.0))


def _jordan(t: Array) -> Array:
    """The matrix of X -> (TX + XT) / 2."""
    T, basis = smat(t), [smat(e) for e in np.eye(len(t))]
    return np.column_stack([svec((T @ E + E @ T) / 2) for E in basis])


def _boundary(cone: Cone, s: Array) -> tuple[float, Array, Array]:
    """f of the header with its gradient and Hessian in all coordinates but the last."""
    u = s[:-1]
    if cone.key == "exponential":
        r = u[0] / u[1]
        e = np.exp(r)
        return u[1] * e, e * np.array([1.0, 1.0 - r]), e / u[1] * np.array([[1.0, -r], [-r, r * r]])
    a = np.array(cone.exponents)
    f = float(np.prod(u**a))
    slope = a / u
    return f, f * slope, f * (np.outer(slope, slope) - np.diag(slope / u))


def _three(cone: Cone, s: Array, z: Array) -> tuple[Array, Array, Array]:
    zero, one = np.zeros((cone.size, cone.size)), np.eye(cone.size)
    if np.abs(z).max() <= 1e-5 * np.abs(s).max():
        return z, zero, one
    if np.abs(s).max() <= 1e-5 * np.abs(z).max():
        return s, one, zero
    f, g, H = _boundary(cone, s)
    # the normal into K is (-grad f, 1) or (grad f, -sign s_3); lambda is read off z_3
    inward, sign, slope = (-1.0, 1.0, 1.0) if cone.key == "exponential" else (1.0, -np.sign(z[-1]), np.sign(z[-1]))
    weight = slope * z[-1]
    c = np.append(z[:-1] - inward * weight * g, f - sign * s[-1])
    c_s, c_z = zero.copy(), zero.copy()
    c_s[:-1, :-1], c_s[-1, :-1], c_s[-1, -1] = -inward * weight * H, g, -sign
    c_z[:-1, :-1], c_z[:-1, -1] = np.eye(cone.size - 1), -inward * slope * g
    return c, c_s, c_z


def _complementarity(cone: Cone, s: Array, z: Array) -> tuple[Array, Any, Any]:
    match cone.key:
        case "zero":
            return s, sp.eye_array(len(s)), sp.csc_array((len(s), len(s)))
        case "nonnegative":
            return s * z, sp.diags_array(z), sp.diags_array(s)
        case "second order":
            return _arrow(s) @ z, _arrow(z), _arrow(s)
        case "semidefinite":
            L, M = _jordan(s), _jordan(z)
            return L @ z, M, L
    return _three(cone, s, z)


def _outside(cone: Cone, s: Array, z: Array) -> float:
    """How far s is outside of K and z outside of K*, relative to their sizes."""
    sizes = 1.0 + np.abs(s).max(initial=0.0), 1.0 + np.abs(z).max(initial=0.0)
    match cone.key:
        case "zero":
            return 0.0
        case "nonnegative":
            return max(-t.min(initial=0.0) / size for t, size in zip((s, z), sizes, strict=True))
        case "second order":
            return max((np.linalg.norm(t[1:]) - t[0]) / size for t, size in zip((s, z), sizes, strict=True))
        case "semidefinite":
            return max(-np.linalg.eigvalsh(smat(t))[0] / size for t, size in zip((s, z), sizes, strict=True))
    # z on the boundary is a multiple >= 0 of the gradient at s, so its weight alone is to be looked at; at the tip K* is
    f = _boundary(cone, s)[0] if np.abs(s).max() > 1e-12 else 0.0
    if cone.key == "exponential":
        at_tip = -z[0] * np.exp(z[1] / z[0] - 1.0) - z[2] if f == 0.0 else -z[2]
        return max((f - s[-1]) / sizes[0], at_tip / sizes[1])
    a = np.array(cone.exponents)
    at_tip = abs(z[-1]) - np.prod((np.maximum(z[:-1], 0.0) / a) ** a)
    return max((abs(s[-1]) - f) / sizes[0], at_tip / sizes[1])


# Newton


def _system(program: Program, x: Array, z: Array) -> tuple[Array, Any]:
    """F and its Jacobian, dense or sparse as the program is."""
    P, A = program.P, program.A
    s = program.b - A @ x
    blocks = [
        _complementarity(cone, s_k, z_k)
        for cone, s_k, z_k in zip(program.cones, program.parts(s), program.parts(z), strict=True)
    ]
    c = np.concatenate([c for c, _, _ in blocks]) if blocks else np.zeros(0)
    C_s, C_z = (sp.block_diag([block[k] for block in blocks]) if blocks else sp.csc_array((0, 0)) for k in (1, 2))
    F = np.concatenate([P @ x + program.q + A.T @ z, c])
    if sp.issparse(P):
        return F, sp.block_array([[P, A.T], [-C_s @ A, C_z]], format="csc")
    return F, np.block([[P, A.T], [-C_s.toarray() @ A, C_z.toarray()]])


def _size(program: Program, x: Array, z: Array, F: Array) -> float:
    """The largest entry of F, relative to the terms of its part."""
    n = len(x)
    dual = 1.0 + max(np.abs(t).max(initial=0.0) for t in (program.P @ x, program.q, program.A.T @ z))
    rows = 1.0 + max(np.abs(t).max(initial=0.0) for t in (program.A @ x, program.b, z))
    return max(np.abs(F[:n]).max(initial=0.0) / dual, np.abs(F[n:]).max(initial=0.0) / rows)


def _sparse_step(F: Array, J: sp.csc_array) -> Array | None:
    """Newton's step; None where J is nearly singular."""
    try:
        lu = splu(J)
    except RuntimeError:  # exactly singular
        return None
    inverse = LinearOperator(J.shape, matvec=lu.solve, rmatvec=lambda r: lu.solve(r, "T"), dtype=float)
    return lu.solve(-F) if onenormest(inverse) * sp.linalg.norm(J, 1) < 1e10 else None


def _step(F: Array, J: Any, size: float) -> Array:
    """Newton's step; where J is nearly singular, least squares damped by |F|, which keeps the convergence quadratic."""
    if sp.issparse(J):
        step = _sparse_step(F, J)
        if step is not None:
            return step
        J = J.toarray()
    lu, pivots, singular = lapack.dgetrf(J)
    if not singular and lapack.dgecon(lu, np.linalg.norm(J, 1))[0] > 1e-10:
        return lapack.dgetrs(lu, pivots, -F)[0]
    damping = min(size, 1.0) * np.linalg.norm(J, 1)
    return np.linalg.lstsq(np.vstack([J, damping * np.eye(len(F))]), -np.append(F, np.zeros(len(F))))[0]


def polish(program: Program, x: Array, z: Array) -> tuple[Array, Array]:
    """The optimum near (x, z), to rounding. Raises AssertionError if what is found is none."""
    n = len(x)
    F, J = _system(program, x, z)
    size, stalled = np.linalg.norm(F), 0
    for _ in range(STEPS):
        step = _step(F, J, size)
        trial = x + step[:n], z + step[n:]
        F_trial, J_trial = _system(program, *trial)
        if not np.linalg.norm(F_trial) < size:
            break
        stalled = stalled + 1 if np.linalg.norm(F_trial) > 0.5 * size else 0
        x, z, F, J = *trial, F_trial, J_trial
        size = np.linalg.norm(F)
        if stalled == 3:
            break
    s = program.b - program.A @ x
    reached = _size(program, x, z, F)
    outside = max(
        (_outside(*block) for block in zip(program.cones, program.parts(s), program.parts(z), strict=True)), default=0.0
    )
    assert reached <= RESIDUAL, f"no reference: residual {reached:.1e}"
    assert outside <= INSIDE, f"no reference: outside of the cone by {outside:.1e}"
    return x, z


# CVXPY


def _cones(dims: Any) -> tuple[Cone, ...]:
    """In the order in which CVXPY gives them to Clarabel."""
    return (
        Cone("zero", dims.zero),
        Cone("nonnegative", dims.nonneg),
        *(Cone("second order", size) for size in dims.soc),
        *(Cone("semidefinite", order * (order + 1) // 2) for order in dims.psd),
        *(Cone("exponential", 3) for _ in range(dims.exp)),
        *(Cone("power", 3, (alpha, 1.0 - alpha)) for alpha in dims.p3d),
        *(Cone("power", len(alpha) + 1, tuple(alpha)) for alpha in dims.pnd),
    )


def by_clarabel(program: Program) -> tuple[Array, Array]:
    """Clarabel's (x, z) for a program of zero and nonnegative rows, polished."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    for name, value in TIGHT.items():
        setattr(settings, name, value)
    kinds = {"zero": clarabel.ZeroConeT, "nonnegative": clarabel.NonnegativeConeT}
    cones = [kinds[cone.key](cone.size) for cone in program.cones]
    P, A = sp.csc_matrix(np.triu(program.P)), sp.csc_matrix(program.A)
    found = clarabel.DefaultSolver(P, program.q, A, program.b, cones, settings).solve()
    return polish(program, np.array(found.x), np.array(found.z))


def solve(
    problem: cp.Problem, gp: bool = False, start: tuple[Array, Array] | None = None, **options: Any
) -> tuple[Array, Array]:
    """`problem.solve(solver=CLARABEL)` with the point polished before CVXPY reads variables and duals off it.

    start: the (x, z) to polish instead of Clarabel's, from data close by.  options: of `get_problem_data`.
    Returns (x, z) in CVXPY's canonical form.  Raises AssertionError if what is found is no optimum.
    """
    data, chain, inverse = problem.get_problem_data(cp.CLARABEL, gp=gp, solver_opts=TIGHT, **options)
    if start is None:
        found = chain.solver.solve_via_data(data, warm_start=False, verbose=False, solver_opts=TIGHT)
        start = np.array(found.x), np.array(found.z)
    n = len(data["c"])
    upper = sp.triu(sp.csc_array((n, n)) if data.get("P") is None else data["P"], format="csc")
    P, A = sp.csc_array(upper + upper.T - sp.diags_array(upper.diagonal())), sp.csc_array(data["A"])
    if n + A.shape[0] <= DENSE:
        P, A = P.toarray(), A.toarray()
    x, z = polish(Program(P, data["c"], A, data["b"], _cones(data["dims"])), *start)
    value = float(0.5 * x @ (P @ x) + data["c"] @ x)
    polished = SimpleNamespace(status="Solved", x=x, z=z, obj_val=value, solve_time=0.0, iterations=0)
    problem.unpack_results(polished, chain, inverse)
    return x, z


def violation(constraint: cp.Constraint) -> float:
    """How far the values of its variables violate a constraint, at most.

    CVXPY projects onto exponential and power cones by a solver, to 1e-8 or so; here their inequalities are evaluated.
    """
    if not isinstance(constraint, cp.ExpCone | cp.PowCone3D | cp.PowConeND):
        return float(np.max(constraint.violation()))
    *positive, last = (np.asarray(arg.value) for arg in constraint.args)
    if isinstance(constraint, cp.ExpCone):
        x, y = positive
        return float(max(np.max(y * np.exp(x / y) - last), -y.min(), 0.0))
    alpha = np.asarray(constraint.alpha.value)
    if isinstance(constraint, cp.PowCone3D):
        alpha = alpha.reshape(last.shape)
        positive, alpha, axis = [np.stack(positive)], np.stack([alpha, 1.0 - alpha]), 0
    else:
        axis = constraint.axis
    (W,) = positive
    f = np.prod(np.maximum(W, 0.0) ** alpha, axis=axis)
    return float(max(np.max(np.abs(last) - f), -W.min(), 0.0))

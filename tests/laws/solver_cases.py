"""The solvers that the laws of `dcl.solvers.base` are held for, and programs for them.

**A new solver is one more entry of SOLVERS**, with the accuracy that its claim "solved" must have at its default settings.
test_solver_laws.py does the rest.
"""

import numpy as np

from dcl.solvers import AbstractSolver, Clarabel, Daqp, HostProgram, Iterates, Osqp, Piqp, Scs
from dcl.solvers.highs import Highs

# largest violation of the KKT conditions where it claims to have solved a program of size one
SOLVERS: dict[AbstractSolver, float] = {
    Daqp(): 1e-7,
    Piqp(): 1e-6,
    Osqp(): 1e-6,
    Clarabel(): 1e-6,
    Scs(): 1e-5,
    Highs(): 1e-7,
}
# those whose error follows eps (an active-set method is as exact as it gets), and the options that it takes for this
FOLLOWS_EPS = {"PIQP": (Piqp, {}), "OSQP": (Osqp, {"polishing": False}), "CLARABEL": (Clarabel, {}), "SCS": (Scs, {})}
# HiGHS's quadratic solver calls a wrong point optimal on 2 of 90 such programs (dcl's own check refuses it), so of
# quadratic programs it is only held to those of the laws that it passes; the rule asks it for linear ones
UNSOUND = {"HIGHS": "HiGHS calls wrong points of quadratic programs optimal; dcl checks them"}
# max_iters bounds each of its phases
BY_PHASE = {"HIGHS"}
TOLERANCE = {solver.name: tolerance for solver, tolerance in SOLVERS.items()}


def program(P, q, A, b, zeros, batch=None):
    """A HostProgram from arrays that may lack the batch dimension (then they are shared)."""
    P, q, A, b = (np.asarray(a, dtype=float) for a in (P, q, A, b))
    P, A = (M if M.ndim == 3 else M[None] for M in (P, A))
    q, b = (u if u.ndim == 2 else u[None] for u in (q, b))
    size = batch or max(len(P), len(q), len(A), len(b))
    return HostProgram(n=q.shape[1], m=b.shape[1], zeros=zeros, batch=size, P=P, q=q, A=A, b=b)


def built(batch, n, m, p, *, lp=False, seed=0):
    """Random programs with p zero rows and m others, their solutions chosen first, and (x, z)."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((batch, p + m, n))
    x = rng.standard_normal((batch, n))
    z = rng.standard_normal((batch, p + m))
    slack = rng.uniform(0.5, 1.5, (batch, p + m))
    slack[:, :p] = 0.0
    active = min(n - p, m) if lp else min(n // 2, m)
    slack[:, p : p + active] = 0.0
    z[:, p : p + active] = rng.uniform(0.5, 1.5, (batch, active))
    z[:, p + active :] = 0.0
    b = np.einsum("bij,bj->bi", A, x) + slack
    L = rng.standard_normal((batch, n, n))
    P = np.zeros((batch, n, n)) if lp else L @ L.transpose(0, 2, 1) / n + 0.1 * np.eye(n)
    q = -np.einsum("bij,bj->bi", P, x) - np.einsum("bij,bi->bj", A, z)
    return program(P, q, A, b, p), x, z


def sparse(dense_program):
    """The same program on a sparse pattern."""
    P_index, A_index = (np.nonzero((M != 0).any(0)) for M in (dense_program.P, dense_program.A))
    return HostProgram(
        n=dense_program.n,
        m=dense_program.m,
        zeros=dense_program.zeros,
        batch=dense_program.batch,
        P=dense_program.P[:, *P_index],
        q=dense_program.q,
        A=dense_program.A[:, *A_index],
        b=dense_program.b,
        P_index=P_index,
        A_index=A_index,
    )


def solved(solver, prog, rows=None):
    out = Iterates.empty(prog.batch, prog.n, prog.m)
    solver.solve(prog, range(prog.batch) if rows is None else rows, out)
    return out


def kkt_error(prog, out, i):
    """Largest violation of the KKT conditions by instance i."""
    P, A, q, b = (t[0] if len(t) == 1 else t[i] for t in (prog.P, prog.A, prog.q, prog.b))
    x, z, p = out.x[i], out.z[i], prog.zeros
    s = b - A @ x
    parts = [P @ x + q + A.T @ z, s[:p], np.minimum(s[p:], 0), np.minimum(z[p:], 0), [x @ P @ x + q @ x + b @ z]]
    return max(np.abs(part).max(initial=0.0) for part in parts)

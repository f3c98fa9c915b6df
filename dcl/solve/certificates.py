"""Certificates that no solver gave: the shortest direction, the smallest multipliers, that prove what was suspected.

    dual infeasible      minimize |d|^2 / 2   subject to   P d = 0,   q'd = -1,   A d + s = 0,  s in K
    primal infeasible    minimize |z|^2 / 2   subject to   A'z = 0,   b'z = -1,   z in K*

Both are strictly convex, so that where there is a certificate there is one that is unique and small, and an interior-point
method finds it to its full accuracy, however far away the iterates of the program itself have gone.  P d = 0 is asked on
the eigenvectors of P that count (above _NULL of the largest eigenvalue): with P as it is stored, d = 0 would be all that
rounding leaves.  K* is written by a linear map T into K, so that the solver sees cones that it knows:

    exponential  T (u, v, w) = (u - v, -u, w)        power  T (u, v, w) = (u / a, v / (1 - a), w)        others  T = I

What is found counts only if it passes the check of `dcl.point.truth`, like a solver's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.point.truth import dual_infeasible, primal_infeasible
from dcl.program import ConeProgram, Structure, dense_structure
from dcl.program.pattern import AbstractPattern, pattern_of
from dcl.solve.backend import Backend, Found
from dcl.solve.polish import polish
from dcl.solvers.base import AbstractSolver

# Eigenvalues of P below this, relative to the largest, count as zero; above _SMALL variables P itself has to vanish.
_NULL, _SMALL = 1e-10, 200
# Above so many rows and variables the program for a certificate is stored sparse, and its answer is not polished.
_DENSE = 600


def multipliers(program: ConeProgram, solver: AbstractSolver) -> Tensor | None:
    """z (m,), scaled to b'z = -1, that proves a program of one instance primal infeasible; None if none was found."""
    structure, zeros = program.structure, program.structure.cone.zeros
    A, b = _matrix(structure.A, program.A), _row(program.b)
    T = sp.csr_array(_into_primal(structure.cone.blocks))
    if b is None:
        return None
    rows = sp.vstack([A.T, b, -T[zeros:]])
    return _proof(primal_infeasible, program, _shortest(rows, structure.n, structure.cone.blocks, structure.m, solver))


def direction(program: ConeProgram, solver: AbstractSolver) -> Tensor | None:
    """x (n,), scaled to q'x = -1, that proves a program of one instance dual infeasible; None if none was found."""
    return _proof(dual_infeasible, program, _descent(program, solver))


def descends(program: ConeProgram, solver: AbstractSolver) -> bool:
    """Does the solver find a direction of descent for a program of one instance? A claim, unlike `direction`."""
    return _descent(program, solver) is not None


def _descent(program: ConeProgram, solver: AbstractSolver) -> Found | None:
    structure, zeros = program.structure, program.structure.cone.zeros
    A, P, q = _matrix(structure.A, program.A), _matrix(structure.P, program.P), _row(program.q)
    if q is None:
        return None
    if structure.n <= _SMALL:
        values, V = np.linalg.eigh(P.toarray())
        P = sp.csr_array(V[:, values > _NULL * float(values.max(initial=0.0))].T)
    return _shortest(
        sp.vstack([P, A[:zeros], q, A[zeros:]]), P.shape[0] + zeros, structure.cone.blocks, structure.n, solver
    )


def _proof(
    proves: Callable[[ConeProgram, Tensor], tuple[Tensor, Tensor]], program: ConeProgram, found: Found | None
) -> Tensor | None:
    """The certificate if it passes the check, as the solver left it or polished."""
    if found is None:
        return None
    holds, t = proves(program, found.x.to(program.q))
    if not bool(holds) and found.program.structure.n + found.program.structure.m <= _DENSE:
        holds, t = proves(program, polish(found.points()).x.to(program.q))
    return t[0] if bool(holds) else None


def _shortest(rows: sp.sparray, zeros: int, cones: tuple[Block, ...], n: int, solver: AbstractSolver) -> Found | None:
    """The shortest x: rows x + s = b with `zeros` equalities to 0, one to -1, and s in the cones after that."""
    coo = sp.coo_array(rows)
    coo.sum_duplicates()
    coo.eliminate_zeros()  # a dense pattern stores them, and factors would be full
    m = coo.shape[0]
    b = np.zeros((1, m))
    b[0, zeros] = -1.0
    cone = named([Block("zero", zeros + 1), *(block for block in cones if block.kind != "zero")])
    diagonal = np.arange(n)
    structure = Structure(
        pattern_of(diagonal, diagonal, (n, n)),
        pattern_of(coo.row.astype(np.int64), coo.col.astype(np.int64), (m, n)),
        cone,
    )
    data = (torch.from_numpy(t) for t in (np.ones((1, n)), np.zeros((1, n)), coo.data.reshape(1, -1), b))
    program = ConeProgram(structure, *data)
    if n + m <= _DENSE:
        P, A = structure.P.dense(program.P), structure.A.dense(program.A)
        program = replace(program, structure=dense_structure(cone, n), P=P, A=A)
    found = Backend(solver).solve(program)
    return found if found.is_solved[0] else None


def _into_primal(blocks: tuple[Block, ...]) -> sp.sparray:
    """T of the header, block by block."""
    exponential = np.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    pieces: list[sp.sparray] = [sp.csr_array((0, 0))]
    for block in blocks:
        if block.kind == "exponential":
            pieces.append(sp.kron(sp.eye_array(block.count), exponential))
        elif block.kind == "power":
            pieces += [sp.diags_array([1.0 / a, 1.0 / (1.0 - a), 1.0]) for a in block.alphas]
        else:
            pieces.append(sp.eye_array(block.rows * block.count))
    return sp.block_diag(pieces, format="csr")


def _matrix(pattern: AbstractPattern, values: Tensor) -> sp.csr_array:
    """The matrix of the one instance."""
    flat = values[0].detach().flatten().cpu().numpy()
    return sp.csr_array(sp.coo_array((flat, pattern.coordinates()), shape=pattern.shape))


def _row(t: Tensor) -> sp.csr_array | None:
    """A vector (1, k) as a row of size one; None if it is zero."""
    values = t.detach().cpu().numpy()
    size = float(np.abs(values).max(initial=0.0))
    return sp.csr_array(values / size) if size > 0.0 else None

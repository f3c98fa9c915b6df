"""diffcp as an independent engine on the canonical program of a call: its solver, its derivative, its accuracy.

    minimize 1/2 x'Px + q'x,  Ax + s = b,  s in K        diffcp: y is z, c is q, semidefinite rows by the lower triangle

Its modes dense, lsqr and lsmr differentiate the homogeneous embedding (Agrawal et al. 2019, no quadratic term); lpgd is a
finite-size Lagrangian proximal step (Paulus et al. 2024), biased by design.  What diffcp cannot do is an `Unavailable`.
The gradient in P that diffcp 1.1.9 gives is wrong (it has the pattern of A, and no half): it is NaN here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.autograd import Function

from dcl.compare.subject import Answer
from dcl.cones.base import Block
from dcl.cones.semidefinite import lower_from_upper
from dcl.program import ConeProgram

MODES = ("dense", "lsqr", "lpgd")
ENGINES = tuple(f"diffcp {mode}" for mode in MODES)
_KEYS = {"zero": "z", "nonnegative": "l", "second_order": "q", "semidefinite": "s", "exponential": "ep"}
# SCS's own tolerances; the largest homogeneous system that is worth building as a dense matrix
_SOLVER = {"solve_method": "SCS", "eps_abs": 1e-10, "eps_rel": 1e-10, "max_iters": 100_000}
_LPGD = {"tau": 1e-3, "rho": 1e-3}
_LARGEST_DENSE = 2000


class Unavailable(Exception):
    """An engine cannot do this program; the message says why."""


def engine(name: str) -> Callable[[ConeProgram], Answer]:
    """The engine of this name, one of ENGINES. Calling it raises Unavailable where it cannot do the program."""
    mode = name.removeprefix("diffcp ")

    def solve(program: ConeProgram) -> Answer:
        if find_spec("diffcp") is None:
            raise Unavailable("diffcp is not installed: pip install diffcp")
        x, z, s = _Diffcp.apply(program.structure, mode, *_dense(program))
        return Answer(x, z, s)

    return solve


def _dense(program: ConeProgram) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    structure = program.structure
    return structure.P.dense(program.P), program.q, structure.A.dense(program.A), program.b


def cone_dict(blocks: tuple[Block, ...]) -> tuple[dict[str, Any], np.ndarray]:
    """The cones in diffcp's words, and for each of its rows the place among ours."""
    cones: dict[str, Any] = {}
    order, start = [np.zeros(0, dtype=np.int64)], 0
    for block in blocks:
        key = _KEYS.get(block.kind)
        if key is None:
            raise Unavailable(f"diffcp has no derivative of {block.kind.replace('_', '-')} cones")
        if key in ("z", "l"):
            cones[key] = cones.get(key, 0) + block.size
        elif key == "ep":
            cones[key] = cones.get(key, 0) + block.count
        else:
            cones[key] = cones.get(key, []) + [block.size] * block.count
        inner = np.arange(block.rows)
        if key == "s":
            inner = np.asarray(lower_from_upper(block.size))
        order += [start + k * block.rows + inner for k in range(block.count)]
        start += block.rows * block.count
    return {key: value for key, value in cones.items() if value}, np.concatenate(order)


class _Diffcp(Function):
    """(P, q, A, b) -> (x, z, s), one instance after the other, by `diffcp.solve_and_derivative`."""

    @staticmethod
    def forward(ctx: Any, structure: Any, mode: str, P: Tensor, q: Tensor, A: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        import diffcp

        cones, order = cone_dict(structure.cone.blocks)
        batch = max(t.shape[0] for t in (P, q, A, b))
        quadratic = bool(P.any())
        if quadratic and mode != "lpgd":
            raise Unavailable(f"diffcp's mode {mode} takes no quadratic objective (lpgd does)")
        if mode == "dense" and structure.n + structure.m > _LARGEST_DENSE:
            raise Unavailable(f"a dense matrix of size {structure.n + structure.m + 1}")
        arrays = [t.detach().expand(batch, *t.shape[1:]).cpu().numpy() for t in (P, q, A[:, order], b[:, order])]
        ctx.adjoints, points, extra = [], [], {"derivative_kwargs": dict(_LPGD)} if mode == "lpgd" else {}
        for P_i, q_i, A_i, b_i in zip(*arrays, strict=True):
            # diffcp drops zeros of A and gives the derivative on its pattern: the places are noted here
            matrix = sp.csc_matrix(A_i)
            P_given = sp.csc_matrix(P_i) if quadratic else None
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    x, y, s, _, adjoint = diffcp.solve_and_derivative(
                        matrix, b_i.copy(), q_i.copy(), dict(cones), mode=mode, P=P_given, **_SOLVER, **extra
                    )
            except (diffcp.SolverError, ValueError, RuntimeError) as error:
                raise Unavailable(f"diffcp: {' '.join(str(error).split())}") from error
            ctx.adjoints.append(adjoint)
            points.append([x, y, s])
        inverse = np.argsort(order)
        x, y, s = (np.stack(column) for column in zip(*points, strict=True))
        ctx.order, ctx.inverse, ctx.quadratic = order, inverse, quadratic
        ctx.shapes = [t.shape for t in (P, q, A, b)]
        return tuple(torch.from_numpy(np.ascontiguousarray(t)).to(q.device) for t in (x, y[:, inverse], s[:, inverse]))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        dx, dy, ds = (np.ascontiguousarray(g.cpu().numpy(), dtype=np.float64) for g in cotangents)
        columns: list[list[np.ndarray]] = [[], [], [], []]
        for i, adjoint in enumerate(ctx.adjoints):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dA, db, dc = adjoint(dx[i], dy[i][ctx.order], ds[i][ctx.order])
            dP = np.full(ctx.shapes[0][1:], np.nan if ctx.quadratic else 0.0)
            for column, value in zip(columns, (dP, dc, dA.toarray()[ctx.inverse], db[ctx.inverse]), strict=True):
                column.append(np.asarray(value))
        found = [torch.from_numpy(np.stack(column)).to(cotangents[0].device) for column in columns]
        return (
            None,
            None,
            *[g.sum(0, keepdim=True) if shape[0] == 1 else g for g, shape in zip(found, ctx.shapes, strict=True)],
        )

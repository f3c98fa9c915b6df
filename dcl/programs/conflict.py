"""Which constraints contradict each other: the certificate's, then only those without which there is a point.

    start     the constraints with a weight in a certificate A'z = 0, b'z < 0, z in K*: they have no common point
    filter    leave one out, and look for the point of least norm that satisfies the others,
              minimize |x|^2 / 2  subject to  Ax + s = b, s in K   for the rows that are left
              no point (by a checked certificate): it is not needed, and is out;  a point (checked): it is needed

What remains is irreducible: no proper part of it is a contradiction (Chinneck 2008, Feasibility and Infeasibility in
Optimization, section 6.2, the deletion filter).  Constraints are whole: the entries of a vector are not told apart.
Rows that define an atom, such as |x| <= t, contradict nothing by themselves, and stay.

An answer that is not checked, too many constraints or too much time leave the first set as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.outcome.messages import AbstractCallContext, conflict
from dcl.program import ConeProgram, dense_structure
from dcl.program.scaling import scaled
from dcl.solve.backend import Backend
from dcl.solve.pipeline import answer
from dcl.solvers.choose import solver_order
from dcl.status import Status

_MOST = 40  # constraints that are tried
_SIZE = 1000  # n + m of programs that are filtered
SECONDS = 2.0  # for all instances of a batch


@dataclass(frozen=True)
class Conflict:
    """Names of constraints that have no common point.  irreducible: and no proper part of them has none, which was checked."""

    names: tuple[str, ...] = ()
    irreducible: bool = False

    def __str__(self) -> str:
        if not self.names:
            return ""
        if not self.irreducible:
            return f"the conflict lies among: {', '.join(self.names)}"
        if len(self.names) == 1:
            return f"the conflict lies within {self.names[0]}"
        return f"the conflict lies among: {', '.join(self.names)} (none can be left out)"


def conflict_of(program: ConeProgram, context: AbstractCallContext, weights: Tensor, end: float) -> Conflict:
    """The conflict of a program of one instance with these weights (m,) of a certificate; NaN weights: there is none.

    end: when the filter stops, a time of `time.monotonic`.
    """
    names = conflict(context, weights)
    if not names:
        return Conflict()
    structure = program.structure
    rows = [context.describe_row(row).split(", entry ")[0] for row in range(structure.m)]
    kept = [name for name in names if _can_go(name)]
    if not kept or len(kept) > _MOST or structure.n + structure.m > _SIZE:
        return Conflict(tuple(names))
    # small weights of the certificate were left out: do the others prove it alone?
    if time.monotonic() > end or _status(program, rows, kept) != Status.PRIMAL_INFEASIBLE:
        return Conflict(tuple(names))
    for name in kept[::-1]:  # those with the least weight first
        if time.monotonic() > end:
            return Conflict(tuple(kept))
        rest = [one for one in kept if one != name]
        status = _status(program, rows, rest)
        if status == Status.PRIMAL_INFEASIBLE:
            kept = rest
        elif status != Status.OPTIMAL:
            return Conflict(tuple(kept))
    return Conflict(tuple(kept), irreducible=True)


def _can_go(name: str) -> bool:
    return name.startswith(("constraint ", "variable ")) and not name.startswith("constraint added")


def _status(program: ConeProgram, rows: Sequence[str], kept: Sequence[str]) -> Status:
    """Is there a point that satisfies the constraints `kept`, and whatever is no constraint of the user's?"""
    structure = program.structure
    chosen: list[int] = []
    blocks: list[Block] = []
    for at, block in _cones(structure.cone.blocks):
        if rows[at] in kept or not _can_go(rows[at]):
            chosen += range(at, at + block.rows)
            blocks.append(block)
    n, identity = structure.n, torch.eye(structure.n, dtype=torch.float64)
    least = ConeProgram(
        structure=dense_structure(named(_joined(blocks)), n),
        P=identity.unsqueeze(0),
        q=torch.zeros(1, n, dtype=torch.float64),
        A=structure.A.dense(program.A)[:, chosen],
        b=program.b[:, chosen],
    )
    units = scaled(least)[0]
    found = answer(units, 0.0, [Backend(solver) for solver in solver_order(units.structure, False, None)])
    return Status(int(found.status[0]))


def _cones(blocks: Sequence[Block]) -> Iterator[tuple[int, Block]]:
    """The first row of each single cone, and the cone: rows of orthants one by one."""
    at = 0
    for block in blocks:
        size = 1 if block.is_orthant else block.size
        for k in range(block.rows if block.is_orthant else block.count):
            one = replace(block, size=size, count=1, alphas=block.alphas[k : k + 1])
            yield at, one
            at += one.rows


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """A zero cone and an orthant, perhaps of no rows, and the others one by one."""
    counts = {kind: sum(block.kind == kind for block in blocks) for kind in ("zero", "nonnegative")}
    return [*(Block(kind, count) for kind, count in counts.items()), *(b for b in blocks if not b.is_orthant)]

"""A quadratic program in blocks -> the canonical form of `dcl.program`.

    minimize 1/2 x'Px + q'x   subject to   Ax = b (y),   Gx <= h (z),   lb <= x (z_lb),   x <= ub (z_ub)
    stationarity:  Px + q + A'y + G'z - z_lb + z_ub = 0,     z, z_lb, z_ub >= 0

The canonical rows are [A; G; -I; I] with right-hand sides [b; h; -lb; ub].  P is symmetrized.  A row with an infinite
right-hand side (h = inf, lb = -inf, ub = inf) binds nothing: it becomes 0'x + s = 1, and its multiplier is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dcl.cones import orthant
from dcl.errors import InputError
from dcl.frontends.batching import Batching, batching
from dcl.frontends.constants import as_tensors
from dcl.frontends.sparse import check_values
from dcl.outcome.messages import AbstractCallContext, check_convex, check_finite, check_psd, entry
from dcl.program import ConeProgram, Structure, dense_structure, symmetric
from dcl.program.pattern import SparsePattern
from dcl.program.rows import Rows
from dcl.torch_modes import is_readable

# Core dimensions of each argument, in the order of the public signatures.
CORE = {"P": 2, "q": 1, "A": 2, "b": 1, "G": 2, "h": 1, "lb": 1, "ub": 1}
_INFINITE = {"h": torch.inf, "lb": -torch.inf, "ub": torch.inf}


@dataclass(frozen=True)
class Blocks:
    """The plan of a shape: how many variables and rows each block has (0: absent)."""

    n: int
    A: int
    G: int
    lb: int
    ub: int

    def split(self, t: Tensor) -> tuple[Tensor, ...]:
        """Rows (..., m) -> those of A, G, lb, ub."""
        return torch.split(t, [self.A, self.G, self.lb, self.ub], dim=-1)

    def sides(self, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
        """`dcl.program.rows.Rows.sides` for arguments that are given in the order of `names`."""
        first = {"h": self.A, "lb": self.A + self.G, "ub": self.A + self.G + self.lb}
        sizes = {"h": self.G, "lb": self.lb, "ub": self.ub}
        return tuple((names.index(name), row) for name, row in first.items() if sizes[name])


@lru_cache(maxsize=1024)
def structure_of(blocks: Blocks) -> Structure:
    """The canonical structure for these blocks, a pure function of the plan."""
    return dense_structure(orthant(blocks.A, blocks.G + blocks.lb + blocks.ub), blocks.n)


@dataclass(frozen=True, eq=False)
class MatrixContext(AbstractCallContext):
    """Names of the arguments, in the order in which their tensors are given, and of the rows.

    patterns: of the matrices that are given as values (B or 1, nnz).
    """

    blocks: Blocks
    names: tuple[str, ...]
    patterns: Mapping[str, SparsePattern] = field(default_factory=dict)

    def check(self, program: ConeProgram, given: Sequence[Tensor]) -> None:
        for name, t in zip(self.names, given, strict=True):
            if name in self.patterns:
                check_values(self, t, name, self.patterns[name])
            else:
                check_finite(self, t, name, infinite=_INFINITE.get(name))
        if "P" in self.names:
            P = given[self.names.index("P")]
            if "P" in self.patterns:
                check_convex(self, program, "P", P.dtype)
            else:
                check_psd(self, symmetric(P).to(torch.float64), "P", P.dtype)

    def describe_row(self, row: int) -> str:
        blocks = self.blocks
        return entry((("A", blocks.A), ("G", blocks.G), ("lb", blocks.lb), ("ub", blocks.ub)), row)


def check_by_name(function: str, misplaced: Sequence[object]) -> None:
    """Raise InputError where more than P and q is given by position: others read such calls in their own order."""
    if misplaced:
        raise InputError(
            f"{function} takes P and q by position and everything after them by name, got {len(misplaced)} more by position: "
            f"write {function}(P, q, G=G, h=h, A=A, b=b, lb=lb, ub=ub). qpsolvers and qpth have G, h third and fourth",
            argument="A",
        )


def present(arguments: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The arguments that are given, as tensors; None and blocks with zero rows are absent; a number in lb, ub is for all.

    Raises InputError where one of the pairs (A, b), (G, h) is incomplete, or q is missing.
    """
    for matrix, vector in (("A", "b"), ("G", "h")):
        if (arguments[matrix] is None) != (arguments[vector] is None):
            missing, there = (matrix, vector) if arguments[matrix] is None else (vector, matrix)
            raise InputError(f"{missing} is missing: {there} was given without it", argument=missing)
    if arguments["q"] is None:
        raise InputError("q is missing", argument="q")
    given = as_tensors({name: value for name, value in arguments.items() if value is not None})
    scalars = [name for name in ("lb", "ub") if isinstance(t := given.get(name), Tensor) and t.ndim == 0]
    if scalars and isinstance(given["q"], Tensor) and given["q"].ndim:
        n = given["q"].shape[-1]
        given = {name: t.expand(n) if name in scalars else t for name, t in given.items()}
    return given


def plan(arguments: Mapping[str, Tensor]) -> tuple[Blocks, Batching]:
    """Blocks and batching of the given arguments. Raises InputError, DtypeError that name the argument at fault."""
    batch = batching([(name, t, CORE[name]) for name, t in arguments.items()])
    n = int(arguments["q"].shape[-1])
    if n == 0:
        raise InputError("q has no entries: a program needs at least one variable", argument="q")
    rows = {"A": 0, "G": 0, "lb": 0, "ub": 0}
    for name in ("A", "G"):
        if name in arguments:
            rows[name] = int(arguments[name].shape[-2])
    expected = {
        "P": (n, n), "q": (n,), "A": (rows["A"], n), "b": (rows["A"],), "G": (rows["G"], n), "h": (rows["G"],),
        "lb": (n,), "ub": (n,),
    }  # fmt: skip
    for name, t in arguments.items():
        core = tuple(t.shape[t.ndim - CORE[name] :])
        if core != expected[name]:
            raise InputError(
                f"{name} has shape {tuple(t.shape)}: its last dimension(s) must be {expected[name]} "
                f"(q has {n} entries{_pair(name, rows)})",
                argument=name,
            )
    for name in ("lb", "ub"):
        if name in arguments:
            rows[name] = n
    return Blocks(n, **rows), batch


def _pair(name: str, rows: Mapping[str, int]) -> str:
    partner = {"b": "A", "h": "G"}.get(name)
    return f", {partner} has {rows[partner]} rows" if partner else ""


def assemble(
    arguments: Mapping[str, Tensor], blocks: Blocks, batch: Batching
) -> tuple[ConeProgram, MatrixContext, tuple[Tensor, ...]]:
    """The canonical program, in torch operations; its context, and the tensors that the context looks at."""
    given = {name: batch.merge(t, CORE[name]) for name, t in arguments.items()}
    flat = {name: t.to(torch.float64) for name, t in given.items()}
    n, q = blocks.n, flat["q"]
    P = symmetric(flat["P"]) if "P" in flat else q.new_zeros(1, n, n)
    matrices, sides = [], []
    if blocks.A:
        matrices.append(flat["A"])
        sides.append(flat["b"])
    eye = torch.eye(n, dtype=q.dtype, device=q.device).unsqueeze(0) if blocks.lb or blocks.ub else q
    for size, matrix, side in (
        (blocks.G, flat.get("G"), flat.get("h")),
        (blocks.lb, -eye, -flat["lb"] if blocks.lb else None),
        (blocks.ub, eye, flat.get("ub")),
    ):
        if size and matrix is not None and side is not None:
            matrix, side = _neutral(matrix, side)
            matrices.append(matrix)
            sides.append(side)
    A = stack(matrices, -2) if matrices else q.new_zeros(1, 0, n)
    b = stack(sides, -1) if sides else q.new_zeros(1, 0)
    context = MatrixContext(batch.shape, blocks, tuple(flat), rows=Rows(sides=blocks.sides(tuple(flat))))
    return ConeProgram(structure_of(blocks), P, q, A, b).expanded(batch.size), context, tuple(given.values())


def _neutral(matrix: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with an infinite right-hand side become 0'x <= 1; NaN and the wrong infinity are left for the check."""
    free = side == torch.inf
    if is_readable(free) and not bool(free.any()):
        return matrix, side
    zero = torch.zeros((), dtype=matrix.dtype, device=matrix.device)
    return torch.where(free.unsqueeze(-1), zero, matrix), torch.where(free, torch.ones_like(side), side)


def stack(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenate along `dim`, expanding the shared parts if one is not shared."""
    size = next((part.shape[0] for part in parts if part.shape[0] != 1), 1)
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part if part.shape[0] == size else part.expand(size, *part.shape[1:]) for part in parts], dim)

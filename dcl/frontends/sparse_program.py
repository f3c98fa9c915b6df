"""Quadratic and cone programs with sparse matrices -> the canonical form, on the union of their patterns, never dense.

    QPLayer     rows [A; G; -I (lb); I (ub)], each block at the places that it has          signs as in `dcl.frontends.matrix`
    ConeLayer   the caller's rows in canonical order                                        signs as in `dcl.frontends.cone`

A matrix that is given as a dense tensor beside sparse ones has all of its entries in the pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcl.cones import AbstractCone, orthant
from dcl.frontends import cone, matrix
from dcl.frontends.batching import Batching
from dcl.frontends.cone import ConeContext, ConeDict
from dcl.frontends.matrix import Blocks, MatrixContext
from dcl.frontends.sparse import Symmetric, check_places, empty, symmetric_of
from dcl.outcome.messages import AbstractCallContext
from dcl.point.asked import Moving
from dcl.program import ConeProgram, Structure
from dcl.program.affine import take
from dcl.program.pattern import SparsePattern
from dcl.program.rows import Rows
from dcl.torch_modes import is_readable

Patterns = Mapping[str, SparsePattern]
Assembled = tuple[ConeProgram, AbstractCallContext, tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Form:
    """What the patterns of the caller's matrices determine: the structure, the map of P's values, and what may move."""

    patterns: Patterns
    structure: Structure
    P: Symmetric
    moving: Moving

    def has(self, patterns: Patterns, rows: int) -> bool:
        """Is it that of these patterns, in a program with so many rows? What is there besides the matrices are bounds."""
        if self.structure.m != rows or self.patterns.keys() != patterns.keys():
            return False
        return all(
            known.shape == new.shape and torch.equal(known.rows, new.rows) and torch.equal(known.cols, new.cols)
            for known, new in zip(self.patterns.values(), (patterns[name] for name in self.patterns), strict=True)
        )


def _form(patterns: Patterns, A: SparsePattern, given: int, K: AbstractCone) -> Form:
    """given: so many places of A, the first ones, are of the caller's matrices. Raises InputError."""
    for name, pattern in patterns.items():
        check_places(name, pattern)
    P = symmetric_of(patterns["P"] if "P" in patterns else empty(A.shape[1], A.shape[1]))
    structure = Structure(P.pattern, A, K)
    q, b = (torch.ones(size, dtype=torch.bool, device="cpu") for size in (structure.n, structure.m))
    moving = Moving((P.pattern.rows, P.pattern.cols), q, (A.rows[:given], A.cols[:given]), b)
    return Form(patterns, structure, P, moving)


def quadratic_form(patterns: Patterns, blocks: Blocks) -> Form:
    """The form of a `QPLayer`'s call, for patterns of P, A and G. Raises InputError for places twice or outside."""
    rows, cols, first, given = [], [], 0, 0
    bound = torch.arange(blocks.n, device="cpu")
    for name, size in (("A", blocks.A), ("G", blocks.G), ("lb", blocks.lb), ("ub", blocks.ub)):
        if size:
            rows.append(first + (patterns[name].rows if name in patterns else bound))
            cols.append(patterns[name].cols if name in patterns else bound)
            given += len(rows[-1]) if name in patterns else 0
            first += size
    A = SparsePattern((first, blocks.n), torch.cat(rows), torch.cat(cols)) if rows else empty(0, blocks.n)
    return _form(patterns, A, given, orthant(blocks.A, first - blocks.A))


def cone_form(patterns: Patterns, cones: ConeDict) -> Form:
    """The form of a `ConeLayer`'s call, for patterns of P and A. Raises InputError for places twice or outside."""
    A = patterns["A"]
    if cones.rows.order is not None:
        place = torch.from_numpy(np.argsort(cones.rows.order))
        A = SparsePattern(A.shape, place[A.rows], A.cols)
    return _form(patterns, A, len(A.rows), cones.cone)


def _flat(
    arguments: Mapping[str, Tensor], patterns: Patterns, cores: Mapping[str, int], batch: Batching
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The arguments (B or 1, ...) as given and in float64; matrices are values (B or 1, nnz)."""
    given = {name: batch.merge(t, 1 if name in patterns else cores[name]) for name, t in arguments.items()}
    return given, {name: t.to(torch.float64) for name, t in given.items()}


def assemble_quadratic(arguments: Mapping[str, Tensor], form: Form, blocks: Blocks, batch: Batching) -> Assembled:
    """As `dcl.frontends.matrix.assemble`, for values (*batch, nnz) in place of P, A and G."""
    given, flat = _flat(arguments, form.patterns, matrix.CORE, batch)
    q = flat["q"]
    ones, bound = q.new_ones(1, blocks.n), torch.arange(blocks.n, device="cpu")
    values, sides = [], []
    if blocks.A:
        values.append(flat["A"])
        sides.append(flat["b"])
    for name, size, entries, sign in (
        ("h", blocks.G, flat.get("G"), 1.0),
        ("lb", blocks.lb, None, -1.0),
        ("ub", blocks.ub, None, 1.0),
    ):
        if size:
            rows = bound if entries is None else form.patterns["G"].rows
            entries, side = _neutral(sign * ones if entries is None else entries, rows, sign * flat[name])
            values.append(entries)
            sides.append(side)
    A = matrix.stack(values, -1) if values else q.new_zeros(1, 0)
    b = matrix.stack(sides, -1) if sides else q.new_zeros(1, 0)
    P = form.P(flat["P"]) if "P" in flat else q.new_zeros(1, 0)
    names = tuple(flat)
    context = MatrixContext(batch.shape, blocks, names, form.patterns, rows=Rows(sides=blocks.sides(names)))
    return ConeProgram(form.structure, P, q, A, b).expanded(batch.size), context, tuple(given.values())


def _neutral(values: Tensor, rows: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """`dcl.frontends.matrix` on a pattern: rows with an infinite right-hand side become 0'x <= 1."""
    free = side == torch.inf
    if is_readable(free):
        if not bool(free.any()):
            return values, side
        if bool((free == free[:1]).all()):
            free = free[:1]  # values that the batch shares stay shared
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    return torch.where(take(free, rows), zero, values), torch.where(free, torch.ones_like(side), side)


def assemble_cone(arguments: Mapping[str, Tensor], form: Form, cones: ConeDict, batch: Batching) -> Assembled:
    """As `dcl.frontends.cone.assemble`, for values (*batch, nnz) in place of P and A."""
    given, flat = _flat(arguments, form.patterns, cone.CORE, batch)
    P = form.P(flat["P"]) if "P" in flat else flat["q"].new_zeros(1, 0)
    program = ConeProgram(form.structure, P, flat["q"], flat["A"], cones.rows.to_canonical(flat["b"]))
    context = ConeContext(batch.shape, cones, tuple(flat), form.patterns, rows=cones.rows)
    return program.expanded(batch.size), context, tuple(given.values())

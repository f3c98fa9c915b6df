"""Exponential cones that are epigraphs of smooth functions, found in the program as given: their variables and rows leave it.

    relative   (t, y, z):        t <= y log(z/y)            psi = y log(y/z),     a cost that raises t      entr, kl_div, log
    exp        (x, y, t):        t >= y e^(x/y)             psi = y e^(x/y),      a cost that lowers t      exp
    log sum    (u_k - t, 1, a_k),  sum a_k <= 1:            psi = log sum e^u_k,  the same                  logistic, log_sum_exp

t has a linear cost lambda, and nothing but these rows sees t and a_k.  Where lambda > 0 all of the rows hold with equality, and

    minimize f(x) + lambda t   is   minimize f(x) + lambda psi(u)       on the rows `tails` alone:  u = s_tails

at mu = 0; the variables, slacks and multipliers of the rows that have left follow from u (`dcl.layers.smooth_state`).
A program with other curved cones, or where one of its cones is none of these, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dcl.core.smooth import Kind
from dcl.program.reduction.blocks import Bools, Ints, MatrixSource, Source
from dcl.program.reduction.shape import Shape


@dataclass(frozen=True, eq=False)
class Group:
    """T terms of one kind with N tails each, by rows and columns of the program as given.

    variables: t (T,), then of a log sum a_k (T, N).  rows: that of t (of a log sum the inequality) (T,), then of a log sum the
    rows 1 and those of a_k, (T, N) each.  tails (T, N).  alpha (T,): entry of t in its row.
    """

    kind: Kind
    variables: tuple[Ints, ...]
    rows: tuple[Ints, ...]
    tails: Ints
    alpha: Tensor

    @property
    def first(self) -> Ints:
        """The first rows of its cones; of relative terms the row of t."""
        if self.kind is Kind.RELATIVE:
            return self.rows[0]
        return self.tails if self.kind is Kind.LOG_SUM else self.tails[:, 0]

    @property
    def shape(self) -> tuple[int, int]:
        """T, N."""
        terms, size = self.tails.shape
        return terms, size


@dataclass(frozen=True, eq=False)
class Terms:
    """The groups, and what is left of the program: its variables and rows, by their places in the program as given."""

    groups: tuple[Group, ...]
    variables: Ints
    rows: Ints

    @property
    def gone_variables(self) -> Ints:
        """Variables of the terms, group by group."""
        return _flat(part for group in self.groups for part in group.variables)

    @property
    def gone_rows(self) -> Ints:
        """Rows of the terms that are no tails."""
        return _flat(part for group in self.groups for part in group.rows)

    @property
    def tails(self) -> Ints:
        """Their tails."""
        return _flat(group.tails for group in self.groups)

    @property
    def cones(self) -> Ints:
        """The rows of their cones, group by group, (cones, 3)."""
        first = _flat(group.first for group in self.groups)
        return first[:, None] + np.arange(3)

    @cached_property
    def alpha(self) -> Tensor | None:
        """alpha of all terms, (terms,); None where one is a log sum, whose cones are more than one."""
        if any(group.kind is Kind.LOG_SUM for group in self.groups):
            return None
        return torch.cat([group.alpha for group in self.groups])

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """Kind and size of each term."""
        return [(int(group.kind), group.shape[1]) for group in self.groups for _ in range(group.shape[0])]

    def left_of(self, shape: Shape) -> Shape:
        """The program of the variables and rows that are left; the tails are its rows after the orthant."""
        P = _part(shape.P, self.variables, self.variables)
        A = _part(shape.A, self.rows, self.variables)
        orthant = int((self.rows < shape.orthant).sum())
        q, b = _entries(shape.q, self.variables), _entries(shape.b, self.rows)
        return replace(shape, P=P, q=q, A=A, b=b, orthant=orthant, curved=())


def _flat(parts: Iterable[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, dtype=np.int64), *(np.ravel(part) for part in parts)])


def _part(matrix: MatrixSource, rows: Ints, cols: Ints) -> MatrixSource:
    row_at, col_at = np.full(matrix.shape[0], -1), np.full(matrix.shape[1], -1)
    row_at[rows], col_at[cols] = np.arange(len(rows)), np.arange(len(cols))
    i, j = row_at[matrix.rows], col_at[matrix.cols]
    inside = (i >= 0) & (j >= 0)
    return MatrixSource((len(rows), len(cols)), matrix.source, matrix.entries[inside], i[inside], j[inside])


def _entries(source: Source, entries: Ints) -> Source:
    return Source(source.offset[entries], source.linear[entries], source.sizes)


class _Search:
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        A = shape.A
        self.of_row: list[list[tuple[int, float]]] = [[] for _ in range(A.shape[0])]
        self.of_column: list[list[int]] = [[] for _ in range(A.shape[1])]
        values = np.where(A.varying, np.nan, A.values)
        for i, j, a in zip(A.rows.tolist(), A.cols.tolist(), values.tolist(), strict=True):
            self.of_row[i].append((j, a))
            self.of_column[j].append(i)
        in_q = (shape.q.offset != 0.0) | shape.q.varying
        in_P = np.zeros(A.shape[1], dtype=bool)
        in_P[shape.P.rows] = True
        self.has_linear_cost: Bools = in_q & ~in_P
        self.has_no_cost: Bools = ~in_q & ~in_P

    def alone(self, row: int) -> tuple[int, float] | None:
        """The variable of a row with one constant entry, and that."""
        entries = self.of_row[row]
        return entries[0] if len(entries) == 1 and np.isfinite(entries[0][1]) else None

    def side_is(self, row: int, value: float) -> bool:
        """Is the right-hand side of a row this constant?"""
        b = self.shape.b
        return bool(b.offset[row] == value and not b.varying[row])

    def epigraph(self, row: int) -> tuple[int, float] | None:
        """t and its entry, where this row alone sees t, and t has a linear cost."""
        found = self.alone(row)
        if found is None or self.of_column[found[0]] != [row] or not self.has_linear_cost[found[0]]:
            return None
        return found

    def power(self, cone: int) -> tuple[int, int] | None:
        """a and the inequality row of a cone (., 1, a) of which such a row alone sees a too, with entry 1."""
        found = self.alone(cone + 2)
        if found is None or found[1] != -1.0 or self.of_row[cone + 1] or not self.has_no_cost[found[0]]:
            return None
        if not (self.side_is(cone + 1, 1.0) and self.side_is(cone + 2, 0.0)):
            return None
        others = [row for row in self.of_column[found[0]] if row != cone + 2]
        if len(others) != 1 or not self.shape.zeros <= others[0] < self.shape.orthant:
            return None
        return found[0], others[0]

    def log_sum(self, row: int, cones: list[int], powers: list[int]) -> int | None:
        """t of a log sum with this inequality row, of these cones."""
        if sorted(self.of_row[row]) != sorted((a, 1.0) for a in powers) or not self.side_is(row, 1.0):
            return None
        for t, entry in self.of_row[cones[0]]:
            is_alone = entry == 1.0 and self.has_linear_cost[t] and sorted(self.of_column[t]) == sorted(cones)
            if is_alone and all((t, 1.0) in self.of_row[cone] for cone in cones):
                return t
        return None


def find(shape: Shape) -> Terms | None:
    """The terms of a program, None where a curved cone of it is part of none."""
    if any(block.kind != "exponential" for block in shape.curved) or not shape.curved:
        return None
    search = _Search(shape)
    first: dict[Kind, list[_Pair]] = {Kind.RELATIVE: [], Kind.EXP: []}
    sums: dict[int, list[tuple[int, int]]] = {}
    for cone in range(shape.orthant, shape.A.shape[0], 3):
        if (found := search.epigraph(cone)) is not None:
            first[Kind.RELATIVE].append(_Pair(found[0], cone, found[1], (cone + 1, cone + 2)))
        elif (found := search.epigraph(cone + 2)) is not None:
            first[Kind.EXP].append(_Pair(found[0], cone + 2, found[1], (cone, cone + 1)))
        elif (power := search.power(cone)) is not None:
            sums.setdefault(power[1], []).append((cone, power[0]))
        else:
            return None
    groups = [_pairs(kind, terms) for kind, terms in first.items() if terms]
    of_size: dict[int, list[_Sum]] = {}
    for row, pairs in sums.items():
        t = search.log_sum(row, [cone for cone, _ in pairs], [a for _, a in pairs])
        if t is None:
            return None
        of_size.setdefault(len(pairs), []).append(_Sum(t, row, pairs))
    groups += [_sums(terms) for terms in of_size.values()]
    m, n = shape.A.shape
    nothing = np.zeros(0, dtype=np.int64)
    gone = Terms(tuple(groups), nothing, nothing)
    return Terms(
        gone.groups, np.setdiff1d(np.arange(n), gone.gone_variables), np.setdiff1d(np.arange(m), gone.gone_rows)
    )


@dataclass(frozen=True)
class _Pair:
    """A term of two tails: t, its row and entry there."""

    t: int
    row: int
    alpha: float
    tails: tuple[int, int]


@dataclass(frozen=True)
class _Sum:
    """A log sum: t, the inequality row, and the first row of each cone with its a."""

    t: int
    row: int
    cones: list[tuple[int, int]]


def _pairs(kind: Kind, terms: list[_Pair]) -> Group:
    t, row = np.array([each.t for each in terms]), np.array([each.row for each in terms])
    alpha = torch.tensor([each.alpha for each in terms], dtype=torch.float64)
    return Group(kind, (t,), (row,), np.array([each.tails for each in terms]), alpha)


def _sums(terms: list[_Sum]) -> Group:
    both = np.array([each.cones for each in terms])
    cones, powers = both[..., 0], both[..., 1]
    t, row = np.array([each.t for each in terms]), np.array([each.row for each in terms])
    alpha = torch.ones(len(terms), dtype=torch.float64)
    return Group(Kind.LOG_SUM, (t, powers), (row, cones + 1, cones + 2), cones, alpha)

"""The plan of a reduction: which row defines which variable, which rows are bounds, and whether the reduction pays off.

A program with curved cones keeps them: their rows are rows K, with the reduced matrix A'; bounds stay rows there.  At mu = 0 its
cones may all leave it as smooth terms (`terms.py`), and what is left of them are the tails, which are curved rows too.

The cost of a program of the core, in operations an instance, for n variables, g general rows (p of them equalities) and as many
bounds as there are:

    dense(n, g, r) = n^3 + n^2 g + n r^2,   r = g + n if there are bounds       measured: 10^9 of these take 0.16 s
    sparse         = 5 10^4 (n + m)                              (the careful lane on a sparse program: 8 us a row or column)
                     3 10^5 (n + m) with soft rows               (50 us: an SVM of 500 rows, a lasso of 60 x 120)
    cells(n, g)    = 12 (n^3 + n^2 g)                            (soft rows, by the cell of the solution)

A cone program takes ten steps, each of which costs as much.  The reduction has its own cost: products k r^2 to form P' (k
variables taken out, r left) where E varies, k^2 r to form E where A_IJ is not diagonal.  It is made where it saves a third of the
operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dcl.cones.base import Block
from dcl.core.conic import ConicCore, conic_core
from dcl.program.affine import AffineMap, affine_map, take
from dcl.program.reduction.blocks import Bools, Floats, Ints
from dcl.program.reduction.elimination import Elimination, Partition, inverse
from dcl.program.reduction.matrices import Diagonal
from dcl.program.reduction.measure import Nonzeros, nonzeros
from dcl.program.reduction.pivots import Pivots
from dcl.program.reduction.pullback import Pullback
from dcl.program.reduction.redundant import dominated, moving, of_program, redundant
from dcl.program.reduction.shape import Shape
from dcl.program.reduction.terms import Terms
from dcl.program.reduction.working import Working

_SAVES = 0.7
_MOST_GENERAL, _MOST_VARIABLES = 1500, 700
_INTERIOR = 12.0
# Numbers in all blocks of one instance.
_MOST_STORED = 4_000_000
# Steps of a cone program, each of which costs as much as a quadratic program.
_STEPS = 10.0


@dataclass(frozen=True, eq=False)
class Side:
    """Bounds on one side: rows coefficient[k] x[variable[k]] <= b_k of the reduced program; a variable at most once.

    Between rows and bounds, multipliers and right-hand sides of a KKT system alike: times or over |coefficient|.
    """

    variable: Tensor
    coefficient: Tensor

    def bound(self, b: Tensor, n: int, absent: float) -> Tensor:
        """The bounds (B, n) for b (B, k)."""
        return b.new_full((b.shape[0], n), absent).index_copy_(1, self.variable, b / self.coefficient)

    def of_rows(self, h: Tensor, n: int) -> Tensor:
        """(B, k) of rows |coefficient| (+-x) <= h  ->  (B, n) of the bounds +-x; zero where there is none."""
        return h.new_zeros(h.shape[0], n).index_copy_(1, self.variable, h / self.coefficient.abs())

    def of_multipliers(self, z: Tensor, n: int) -> Tensor:
        """Multipliers (B, k) of the rows -> (B, n) of the bounds. Inverse of `to_rows`."""
        return z.new_zeros(z.shape[0], n).index_copy_(1, self.variable, z * self.coefficient.abs())

    def to_rows(self, z: Tensor) -> Tensor:
        """Multipliers (B, n) of the bounds -> (B, k) of the rows. Adjoint of `of_rows`."""
        return take(z, self.variable) / self.coefficient.abs()


@dataclass(frozen=True, eq=False)
class Cuts:
    """Soft rows: row `rows[k]` of K is  alpha t + a'x <= b,  and t is variable, and row, number `pivots[k]` of [J, R] and [I, K].

    Its multiplier is between 0 and the cap -q_t / alpha.  Where it is the cap, row and pivot change places: t is what the
    soft row says, and the pivot's row is slack.

    in_dual: is the program solved in the dual, or by the cell of its solution (dcl.layers.reduced_core)?
    """

    rows: Tensor
    pivots: Tensor
    alpha: Tensor
    in_dual: bool


@dataclass(frozen=True, eq=False)
class Order:
    """The program's variables and rows in the order of the points: those of the partition, then those of the terms.

    columns, lines: of the program's variables and rows, which stands where.  variables, rows: the inverse.
    """

    columns: Tensor
    lines: Tensor

    @cached_property
    def variables(self) -> Tensor:
        """Where each variable of the program stands."""
        return torch.argsort(self.columns)

    @cached_property
    def rows(self) -> Tensor:
        """Where each row of the program stands."""
        return torch.argsort(self.lines)


@dataclass(frozen=True, eq=False)
class Reduction:
    """An elimination with the rows K in the order [equalities, inequalities, curved rows, lower bounds, upper bounds].

    sizes: of each of these.  order: that of points.  terms: smooth ones, whose tails are the curved rows; the elimination is that
    of the program without them.  curved: other curved cones.  cone (m,): their number, -1 on rows of orthants; None: no cones.

    P, A: nonzeros of the program as given, in the order of the partition.
    tight: inequality rows that define a variable, in the order of the partition, (m,).  equations: these and the equalities.
    doubtful: those of them that define nothing that is asked for unless their multiplier is positive (rule 3 of pivots.py).
    moving: parameters in whose gradient redundant rows make a derivative that does not exist (redundant.py).
    has_twins: is an inequality row dropped that another one repeats?
    before: variables and rows.  after: variables, general rows, bounds.  saved: operations an instance.
    """

    elimination: Elimination
    P: Nonzeros
    A: Nonzeros
    sizes: tuple[int, int, int, int, int]
    order: Order
    terms: Terms | None
    curved: tuple[Block, ...]
    cone: Tensor | None
    lower: Side
    upper: Side
    cuts: Cuts | None
    tight: Tensor
    doubtful: Tensor
    equations: Tensor
    moving: frozenset[int]
    has_twins: bool
    before: tuple[int, int]
    after: tuple[int, int, int]
    saved: float

    @cached_property
    def kept(self) -> dict[tuple[bool, ...], Pullback | None]:
        """The ways back made so far, by the parameters that need a gradient."""
        return {}

    @cached_property
    def core(self) -> ConicCore | None:
        """That of the reduced program where it has curved cones; None where it lacks one of them."""
        zeros, others, *_ = self.sizes
        return conic_core([Block("zero", zeros), Block("nonnegative", others), *self.curved], self.after[0])

    @cached_property
    def has_tight(self) -> bool:
        """Does an inequality row define a variable?"""
        return bool(self.tight.any())


@dataclass(frozen=True, eq=False)
class _Bounds:
    rows: Ints
    variable: Ints
    coefficient: Floats


_NO_BOUNDS = _Bounds(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))


def _bounds(work: Working, orthant: int, others: Ints) -> tuple[_Bounds, _Bounds]:
    """Inequality rows that are left with one constant entry, but `others`; of two on one side of a variable the first."""
    there = work.present
    alone = (there.sum(1) == 1) & ~(work.V & there).any(1) & (work.rows < orthant) & ~np.isin(work.rows, others)
    alone[: work.zeros] = False
    places = np.nonzero(alone)[0]
    variable = there[places].argmax(1) if len(places) else np.zeros(0, dtype=np.int64)
    coefficient = work.W[places, variable]
    sides = []
    for sign in (-1.0, 1.0):
        of_side = np.nonzero(sign * coefficient > 0.0)[0]
        _, first = np.unique(variable[of_side], return_index=True)
        pick = of_side[first]
        sides.append(_Bounds(places[pick], variable[pick], coefficient[pick]))
    return sides[0], sides[1]


def _dense(n: int, general: int, bounds: int) -> float:
    return float(n) ** 3 + float(n) ** 2 * general + float(n) * (general + (n if bounds else 0)) ** 2


def _cells(n: int, general: int) -> float:
    """The interior point that finds the cell, and the program of the cell, which starts there."""
    return _INTERIOR * (float(n) ** 3 + float(n) ** 2 * general)


def plan(
    shape: Shape, found: tuple[Pivots, Working], *, terms: Terms | None, dense: bool, in_dual: bool, wanted_z: Tensor
) -> Reduction | None:
    """The reduction of a program by these pivots, None where it does not pay.

    terms: smooth ones, without which the pivots are.  dense: could the core take the program as it is?
    in_dual: is a program with soft rows solved in its dual?
    wanted_z: multipliers (m,) that are asked for.
    """
    m, n = shape.A.shape
    left_of = shape if terms is None else terms.left_of(shape)
    all_columns = np.arange(n) if terms is None else terms.variables
    all_rows = np.arange(m) if terms is None else terms.rows
    pivots, work = found
    circle = redundant(work)
    soft = np.array([s.row for s in pivots.soft], dtype=np.int64)
    weak = dominated(work, left_of, pivots.rows, pivots.columns, soft)
    dropped = np.concatenate([circle.dropped, weak.dropped])
    in_dual = in_dual and len(soft) > 0
    # all rows are those of the dual program; the solver of cone programs has no bounds
    as_rows = in_dual or (terms is None and bool(shape.curved))
    others = np.concatenate([soft, work.rows[dropped]])
    lower, upper = (_NO_BOUNDS, _NO_BOUNDS) if as_rows else _bounds(work, left_of.orthant, others)
    left = ~work.used
    left[dropped] = left[lower.rows] = left[upper.rows] = False
    left[work.rows >= left_of.orthant] = False
    general = np.nonzero(left)[0]
    equalities = int((general < work.zeros).sum())
    curved = np.arange(left_of.orthant, left_of.A.shape[0])
    if terms is not None:
        curved = np.searchsorted(terms.rows, terms.tails)
    R = work.columns[~work.gone]
    g = len(general) + len(curved)
    if len(R) == 0 or len(R) > _MOST_VARIABLES or g > _MOST_GENERAL:
        return None
    if in_dual and g > len(R):
        return None  # the dual's matrix is singular
    K = np.concatenate([work.rows[general], curved, work.rows[np.concatenate([lower.rows, upper.rows])]])
    partition = Partition(fixed=pivots.fixed, J=pivots.columns, R=R, I=pivots.rows, K=K, D=work.rows[dropped])
    blocks = {
        f"P_{a}{b}": left_of.P.block(getattr(partition, a), getattr(partition, b)) for a, b in ("JJ", "JR", "RR")
    } | {
        f"A_{a}{b}": left_of.A.block(getattr(partition, a), getattr(partition, b))
        for a, b in ("IR", "KJ", "KR", "DJ", "DR")
    }
    F = partition.fixed
    (I_F, I_S), (J_F, J_S) = ((t[:F], t[F:]) for t in (partition.I, partition.J))
    blocks |= {"A_FF": left_of.A.block(I_F, J_F), "A_SF": left_of.A.block(I_S, J_F), "A_SS": left_of.A.block(I_S, J_S)}
    if sum(block.stored for block in blocks.values()) > _MOST_STORED:
        return None
    M_S = inverse(blocks["A_SS"].at(()))
    k, r = len(partition.J), len(R)
    bounds = len(lower.rows) + len(upper.rows)
    if in_dual:
        cost = float(r) ** 3 + 2.0 * float(r) * g * (r + g) + _dense(g, 0, g)
    else:
        cost = _cells(r, g) if pivots.soft else _dense(r, g, bounds)
    before = _dense(n, m, 0) if dense and m <= _MOST_GENERAL else (3e5 if pivots.soft else 5e4) * (n + m)
    if shape.curved:
        cost = _STEPS * cost if terms is None else _STEPS * (cost - float(r) * len(curved) ** 2)
        before = _STEPS * before if dense and m <= _MOST_GENERAL else before
    if not blocks["A_IR"].constant:
        cost += float(k) * r * r + (0.0 if isinstance(M_S, Diagonal) else float(k) * k * r)
    if cost > _SAVES * before and not (len(dropped) and cost <= before):
        return None
    inside = np.cumsum(~work.gone) - 1

    def side(t: _Bounds) -> Side:
        return Side(torch.from_numpy(inside[t.variable]), torch.from_numpy(t.coefficient))

    in_circles, alike = (
        of_program(left_of, work.rows[rows], partition.I, partition.J) for rows in (circle.circles, weak.same)
    )
    if bool(wanted_z[torch.from_numpy(all_rows[np.union1d(in_circles, alike).astype(np.int64)])].any()):
        return None
    lines = all_rows[np.concatenate([partition.I, partition.K, partition.D])]
    columns = all_columns[np.concatenate([partition.J, partition.R])]
    if terms is not None:
        lines, columns = np.concatenate([lines, terms.gone_rows]), np.concatenate([columns, terms.gone_variables])
    inequality = lines >= shape.zeros
    taken = np.arange(m) < k
    return Reduction(
        Elimination(partition, blocks, M_S, g, _vectors(shape, lines, columns)),
        nonzeros(shape.P, columns, columns),
        nonzeros(shape.A, lines, columns),
        (equalities, len(general) - equalities, len(curved), len(lower.rows), len(upper.rows)),
        Order(torch.from_numpy(columns), torch.from_numpy(lines)),
        terms,
        () if terms is not None else shape.curved,
        _numbers(shape, lines, apart=terms is not None),
        side(lower),
        side(upper),
        _cuts(shape, pivots, K, in_dual) if pivots.soft else None,
        tight=torch.from_numpy(inequality & taken),
        doubtful=torch.from_numpy(np.isin(lines, all_rows[pivots.doubtful])),
        equations=torch.from_numpy(~inequality | taken | _holds(terms, lines, shape.orthant)),
        moving=moving(left_of, in_circles),
        has_twins=len(weak.same) > 0,
        before=(n, m),
        after=(r, g, bounds),
        saved=before - cost,
    )


def _numbers(shape: Shape, lines: Ints, *, apart: bool) -> Tensor | None:
    """The number of the curved cone of each row, -1 on rows of orthants.  apart: each row by itself."""
    if not shape.curved:
        return None
    sizes = [block.rows for block in shape.curved for _ in range(block.count)]
    numbers = np.repeat(np.arange(len(sizes)), sizes) if not apart else np.arange(sum(sizes))
    return torch.from_numpy(np.concatenate([np.full(shape.orthant, -1), numbers])[lines])


def _holds(terms: Terms | None, lines: Ints, orthant: int) -> Bools:
    """Inequality rows of terms, which hold with equality."""
    gone = np.zeros(0, np.int64) if terms is None else terms.gone_rows
    return np.isin(lines, gone) & (lines < orthant)


def _cuts(shape: Shape, pivots: Pivots, K: Ints, in_dual: bool) -> Cuts:
    """The soft rows."""
    alpha = {(int(i), int(j)): float(a) for i, j, a in zip(shape.A.rows, shape.A.cols, shape.A.values, strict=True)}
    place = {int(row): k for k, row in enumerate(K)}
    return Cuts(
        torch.tensor([place[s.row] for s in pivots.soft]),
        torch.tensor([s.pivot for s in pivots.soft]),
        torch.tensor([alpha[s.row, int(pivots.columns[s.pivot])] for s in pivots.soft], dtype=torch.float64),
        in_dual,
    )


def _vectors(shape: Shape, lines: Ints, columns: Ints) -> AffineMap:
    """theta -> (-q, b) of variables and rows in this order."""
    offset = np.concatenate([-shape.q.offset[columns], shape.b.offset[lines]])
    linear = sp.vstack([-shape.q.linear[columns], shape.b.linear[lines]], format="csr")
    return affine_map(offset, linear, shape.q.sizes)

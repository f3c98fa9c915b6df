"""Which rows define which variables: the rules of the reduction, for all values of the parameters.

1. An equality row with a constant entry at a free variable defines it.  Rows with no other entry come first: their variables
   are numbers (aliases of parameters), wherever they stand.  Variables of one equality row only come first (the
   residuals of sum_squares, epigraphs) are next: taking them out changes no other row.  Then Markowitz's order:
   (r - 1)(c - 1), for r entries in the row and c in the column, is the fill.
2. A variable without a cost that only inequality rows see, with one sign in all of them but one: Fourier-Motzkin combines
   that row with each of the others, which adds no row.  That is to take it for an equality: its multiplier is the sum of the
   others' (|u| <= 1, which CVXPY writes u <= t, -u <= t, t <= 1, becomes a box).  Its value is one of many, so neither it nor
   what it defines may be asked for.
3. A variable with a linear cost and one inequality row: that row holds with equality, its multiplier is the cost.  Where that
   is zero, its value is one of many too.
4. A variable t with a linear cost and two inequality rows of one sign, min t: t >= f_1, t >= f_2 (abs, max, pos, norm1, hinge):

       min c t  =  c f_1 + c max(f_2 - f_1, 0)

   row 1 defines t, and row 2 becomes soft: f_2 - f_1 <= 0 with its multiplier between 0 and c.

5. A variable without a cost that one inequality row t <= f and the head of one curved cone see, t of |u| <= t or z of
   y exp(x/y) <= z: that row holds with equality.  Where the cone is slack its value is one of many, as in rule 2.

Rules 2 to 5 change the log-barrier, and hold at mu = 0 only.  In rule 1 a variable that curved cones see is defined by variables
that no curved cone sees (aliases of affine maps, never one x_i of sum(x) = 1), and rules 2 to 4 leave all others of them alone.

A variable is free if no row bounds it alone; else its bound would become a row.  Chains whose map grows are cut: where a
constant coefficient of a definition would be above `_GROWTH`, its variable stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dcl.program.reduction.blocks import Bools, Ints
from dcl.program.reduction.shape import Shape
from dcl.program.reduction.working import Working, working

# x_j = sum of coefficients times what is left: larger ones lose digits.
_GROWTH = 100.0
# A pivot is at least this, relative to the largest constant entry of its row.
_PIVOT = 1e-2
# Entries of the dense working matrix, which each pivot looks through: of its equalities, and of all of its rows.
_MOST_WORK, _MOST_ENTRIES = 500_000, 4_000_000


@dataclass(frozen=True, eq=False)
class Soft:
    """Rule 4: inequality `row` of the program is soft, and its t is variable number `pivot` of the pivots."""

    row: int
    pivot: int


@dataclass(frozen=True, eq=False)
class Pivots:
    """Row rows[k] defines variable columns[k], the first `fixed` of them alone.  soft: see `Soft`.

    doubtful: rows of rule 3 whose variable, or another that it defines, is asked for.
    """

    fixed: int
    rows: Ints
    columns: Ints
    soft: tuple[Soft, ...]
    doubtful: Ints


def fixed(shape: Shape) -> tuple[Ints, Ints]:
    """Rule 1 for rows with one entry: rows and columns."""
    A = shape.A
    alone = np.bincount(A.rows, minlength=A.shape[0])[A.rows] == 1
    good = alone & (A.rows < shape.zeros) & ~A.varying & (A.values != 0.0) & ~shape.bounded[A.cols]
    columns, first = np.unique(A.cols[good], return_index=True)
    return A.rows[good][first], columns


def private(shape: Shape, taken: Ints) -> tuple[Ints, Ints]:
    """Rule 1 for variables that one equality row alone has, but those of the rows `taken`: rows and columns."""
    A = shape.A
    n_rows = np.bincount(A.cols, minlength=A.shape[1])
    largest = np.zeros(A.shape[0])
    sizes = np.where(A.varying, 0.0, np.abs(A.values))
    np.maximum.at(largest, A.rows, sizes)
    good = (n_rows[A.cols] == 1) & (A.rows < shape.zeros) & (sizes > 0.0) & (sizes >= _PIVOT * largest[A.rows])
    good &= ~np.isin(A.rows, taken)
    entries = np.nonzero(good)[0]
    entries = entries[np.lexsort((-sizes[entries], A.rows[entries]))]
    _, first = np.unique(A.rows[entries], return_index=True)
    entries = entries[first]
    return A.rows[entries], A.cols[entries]


class Search:
    """The pivots found so far, and the rows that are left."""

    def __init__(self, shape: Shape, first: tuple[Ints, Ints], second: tuple[Ints, Ints], wanted: Bools) -> None:
        """first, second: what `fixed` and `private` have found."""
        self.shape = shape
        m, n = shape.A.shape
        (fixed_rows, fixed_columns), (private_rows, private_columns) = first, second
        self.fixed = len(fixed_rows)
        self.rows, self.columns = [*fixed_rows, *private_rows], [*fixed_columns, *private_columns]
        self.soft: list[Soft] = []
        self.doubtful: list[int] = []
        costly = shape.costly
        owner, touched = np.zeros(m, dtype=bool), np.zeros(n, dtype=bool)
        owner[private_rows[costly[private_columns]]] = True
        touched[shape.A.cols[owner[shape.A.rows]]] = True
        left_rows, left_columns = np.setdiff1d(np.arange(m), self.rows), np.setdiff1d(np.arange(n), self.columns)
        self.work: Working = working(shape.A, shape.zeros, left_rows, left_columns, costly | touched, touched)
        self._bounded = shape.bounded[left_columns]
        # what is asked for, and what defines it; the pivots of the working matrix by their places there
        asks = np.zeros(m, dtype=bool)
        asks[private_rows[wanted[private_columns]]] = True
        asked = wanted.copy()
        asked[shape.A.cols[asks[shape.A.rows]]] = True
        self._asked: Bools = asked[left_columns]
        self._taken: list[tuple[int, int]] = []
        self._n_rows = np.bincount(shape.A.cols, minlength=n)
        self._curved: Bools = left_rows >= shape.orthant
        self._heads: Bools = shape.heads[left_rows]
        varying = shape.A.varying
        self._varying_rows, self._varying_cols = shape.A.rows[varying], shape.A.cols[varying]

    def _stays_constant(self, row: int, column: int) -> bool:
        """Is A_SS constant with this one?"""
        of_row = self._varying_cols[self._varying_rows == row]
        of_column = self._varying_rows[self._varying_cols == column]
        rows, columns = self.rows[self.fixed :], self.columns[self.fixed :]
        return not (np.isin(of_row, [*columns, column]).any() or np.isin(of_column, [*rows, row]).any())

    def _is_asked(self, j: int) -> bool:
        """Is column j of the working matrix asked for, or one that has been taken out and depends on it?"""
        depends = self.work.V[:, j] | (self.work.W[:, j] != 0.0)
        return bool(self._asked[j]) or any(depends[i] and self._asked[of] for i, of in self._taken)

    def _take(self, i: int, j: int) -> bool:
        """Row i defines column j (places in the working matrix), if it may."""
        work = self.work
        row, column = int(work.rows[i]), int(work.columns[j])
        if work.growth(i, j) > _GROWTH or not self._stays_constant(row, column):
            return False
        work.eliminate(i, j)
        self.rows.append(row)
        self.columns.append(column)
        self._taken.append((i, j))
        return True

    def _keeps_cones_apart(self, i: int, j: int) -> bool:
        """Is no other variable of row i than j seen by curved cones, or j not either?"""
        seen = np.nonzero(self.work.present[self._curved].any(0))[0]
        return j not in seen or int(self.work.present[i, seen].sum()) == 1

    def equalities(self) -> None:
        """Rule 1."""
        work = self.work
        rows = np.arange(work.zeros)
        allowed = np.repeat(~self._bounded[None, :], work.zeros, axis=0)
        while True:
            there = work.present[rows]
            fixed = np.where(work.V[rows] | ~there, 0.0, np.abs(work.W[rows]))
            good = allowed & (fixed > 0.0) & (fixed >= _PIVOT * fixed.max(1, initial=0.0, keepdims=True))
            i, j = np.nonzero(good)
            if len(i) == 0:
                return
            fill = (there.sum(1)[i] - 1) * (work.present.sum(0)[j] - 1)
            best = int(np.argmin(fill))
            if not (self._keeps_cones_apart(int(i[best]), int(j[best])) and self._take(int(i[best]), int(j[best]))):
                allowed[i[best], j[best]] = False

    def inequalities(self, *, cuts: bool) -> None:
        """Rules 2 to 5."""
        work, shape = self.work, self.shape
        in_P = np.zeros(shape.A.shape[1], dtype=bool)
        in_P[shape.P.rows] = True
        in_q = (shape.q.offset != 0.0) | shape.q.varying
        for j, column in enumerate(work.columns):
            if work.gone[j] or in_P[column] or work.touched[j]:
                continue
            rows = np.nonzero(work.present[:, j])[0]
            if len(rows) == 0 or rows[0] < work.zeros or work.V[rows, j].any():
                continue
            up = rows[work.W[rows, j] > 0.0]
            down = rows[work.W[rows, j] < 0.0]
            one, others = (up, down) if len(up) == 1 else (down, up)
            is_asked = self._is_asked(j)
            if self._curved[rows].any():
                if not in_q[column] and not is_asked and self._raises_a_head(rows, j):
                    self._take(int(rows[0]), j)
                continue
            if not in_q[column]:
                if len(one) == 1 and len(others) > 0 and not is_asked:
                    self._take(int(one[0]), j)
            elif len(rows) == 1:
                if self._take(int(rows[0]), j) and is_asked:
                    self.doubtful.append(int(work.rows[rows[0]]))
            elif cuts and len(rows) == 2 and 0 in (len(up), len(down)) and self._n_rows[column] == 2:
                first, second = sorted(rows, key=lambda row: int(work.present[row].sum()))
                if self._take(int(first), j):
                    self.soft.append(Soft(int(work.rows[second]), len(self.rows) - 1))
                    work.touch(work.present[second])

    def _raises_a_head(self, rows: Ints, j: int) -> bool:
        """Rule 5: are `rows`, which see variable j, one inequality t <= f and one head that t raises?"""
        if len(rows) != 2 or self._curved[rows[0]] or not self._heads[rows[1]]:
            return False
        W = self.work.W
        return bool(W[rows[0], j] > 0.0 and W[rows[1], j] < 0.0)


def choose(shape: Shape, *, on_path: bool, cuts: bool, wanted: Bools) -> tuple[Pivots, Working] | None:
    """The pivots, and the rows that are left; None where nothing is found.

    on_path: the rules that hold at mu > 0 only.  cuts: may rows become soft?  wanted: variables (n,) that are asked for.
    """
    first = fixed(shape)
    second = private(shape, first[0])
    m, n = shape.A.shape
    taken = len(first[0]) + len(second[0])
    if (shape.zeros - taken) * (n - taken) > _MOST_WORK or (m - taken) * (n - taken) > _MOST_ENTRIES or taken == n:
        return None
    search = Search(shape, first, second, wanted)
    search.equalities()
    if not on_path:
        search.inequalities(cuts=cuts)
    rows, columns, doubtful = (np.array(t, dtype=np.int64) for t in (search.rows, search.columns, search.doubtful))
    found = Pivots(search.fixed, rows, columns, tuple(search.soft), doubtful)
    return found, search.work

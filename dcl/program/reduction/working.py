"""The rows of a program while variables are taken out of them: what is known of each entry for all parameters.

    W, V: entry (i, j) of the rows that are left is W_ij where V_ij is false, and depends on a parameter where it is true

Taking out variable j with row i subtracts W_kj / W_ij times row i from each other row k that has j, also from those that have
taken out others: these are then what defines their variables by what is left.  An entry that cancels to rounding is zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dcl.program.reduction.blocks import Bools, Floats, Ints, MatrixSource

_ROUNDING = 1e-13


@dataclass(eq=False)
class Working:
    """rows, columns: what stands where in the program.  zeros: of the rows, the first are equalities.

    costly: columns with a cost.  touched: columns whose cost others have changed.  used: rows that have taken out a variable.
    gone: columns that are taken out.  present: entries that may be other than zero, in rows and columns that are left.
    """

    rows: Ints
    columns: Ints
    zeros: int
    W: Floats
    V: Bools
    costly: Bools
    touched: Bools
    used: Bools = field(init=False)
    gone: Bools = field(init=False)
    present: Bools = field(init=False)

    def __post_init__(self) -> None:
        self.used = np.zeros(len(self.rows), dtype=bool)
        self.gone = np.zeros(len(self.columns), dtype=bool)
        self.present = self.V | (self.W != 0.0)

    def touch(self, columns: Bools) -> None:
        """The cost of these columns changes."""
        self.costly |= columns
        self.touched |= columns

    def growth(self, i: int, j: int) -> float:
        """The largest constant coefficient of what defines a variable, if row i defined column j too."""
        row = np.where(self.V[i], 0.0, self.W[i]) / self.W[i, j]
        left = ~self.gone
        left[j] = False
        changed = np.nonzero(self.used & (self.W[:, j] != 0.0) & ~self.V[:, j])[0]
        used = np.where(self.V[changed], 0.0, self.W[changed]) - np.outer(self.W[changed, j], row)
        return max(float(np.abs(t[..., left]).max(initial=0.0)) for t in (row, used))

    def eliminate(self, i: int, j: int) -> None:
        """Take out column j with row i, whose entry is constant; rows that have taken out others are defined without it."""
        self.W[i] /= self.W[i, j]
        column = self.V[:, j] | (self.W[:, j] != 0.0)
        column[i] = False
        others = np.nonzero(column)[0]
        row_there = self.V[i] | (self.W[i] != 0.0)
        if len(others):
            factors, varying = self.W[others, j], self.V[others, j]
            before = np.abs(self.W[others]) + np.abs(np.outer(factors, self.W[i]))
            self.W[others] -= np.outer(factors, self.W[i])
            self.W[others] = np.where(np.abs(self.W[others]) <= _ROUNDING * before, 0.0, self.W[others])
            self.V[others] |= self.V[i] | (varying[:, None] & row_there[None, :])
            self.W[others, j], self.V[others, j] = 0.0, False
            self.present[others] = (self.V[others] | (self.W[others] != 0.0)) & ~(self.used[others, None] | self.gone)
        if self.costly[j]:
            self.touch(row_there)
        self.used[i], self.gone[j] = True, True
        self.present[i], self.present[:, j] = False, False


def working(A: MatrixSource, zeros: int, rows: Ints, columns: Ints, costly: Bools, touched: Bools) -> Working:
    """The rows and columns of A that are given; others with entries in these rows have been taken out."""
    row_at = np.full(A.shape[0], -1)
    row_at[rows] = np.arange(len(rows))
    col_at = np.full(A.shape[1], -1)
    col_at[columns] = np.arange(len(columns))
    i, j = row_at[A.rows], col_at[A.cols]
    inside = (i >= 0) & (j >= 0)
    W, V = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)), dtype=bool)
    W[i[inside], j[inside]] = np.where(A.varying, 0.0, A.values)[inside]
    V[i[inside], j[inside]] = A.varying[inside]
    return Working(rows, columns, int((rows < zeros).sum()), W, V, costly[columns], touched[columns])

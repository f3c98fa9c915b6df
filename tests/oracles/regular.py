"""Regular programs and their derivatives, by the equations of the active set and in high precision.

Let C x = d collect the rows that hold with equality: A x = b, the active rows of G x <= h, -x_i = -lb_i and x_i = ub_i
of the active bounds; w collects their multipliers (the other multipliers are zero, here and for all nearby data):

    K p = r,    K = [P C'; C 0],   p = (x, w),   r = (-q, d)

    tangent     K dp = dr - dK p                                            value: f = 1/2 x'Px + q'x,
    adjoint     K u = g,  then  <g, dp> = u'dr - u'dK p                     df = (Px + q)'dx + 1/2 x'dP x + x'dq

so the gradient with respect to r is u, and to the symmetric K it is -(u p' + p u')/2; C appears in K twice.
Data are taken as the float64 numbers they are; nothing is rounded before the result is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from flint import arb_mat, ctx, fmpq, fmpq_mat

Data = dict[str, Any]  # name -> array, None where the block is absent
DATA = ("P", "q", "A", "b", "G", "h", "lb", "ub")
MULTIPLIERS = {"y": "A", "z": "G", "z_lb": "lb", "z_ub": "ub"}
KINDS = ("qp", "qp_semidefinite", "lp", "equality", "unconstrained", "bounds")
SIZES = (1, 2, 5, 10, 30, 100)
BITS = 192  # 57 digits; a condition of 1e10 leaves 47


@dataclass(frozen=True)
class Field:
    """Where the linear algebra happens: entries of an array -> matrix, and the precision that is in force meanwhile."""

    matrix: Callable[[list[list[Any]]], Any]
    entry: Callable[[Any], Any]
    precision: Callable[[], AbstractContextManager[Any]]

    def of(self, array: np.ndarray) -> Any:
        rows = array if array.ndim == 2 else array[:, None]
        return self.matrix([[self.entry(v) for v in row] for row in rows.tolist()])


def rational(number: float | Fraction) -> fmpq:
    """The number itself: every float is a rational."""
    return fmpq(*Fraction(number).as_integer_ratio())


def _high() -> AbstractContextManager[Any]:
    return ctx.workprec(BITS)


HIGH = Field(arb_mat, lambda v: v, _high)
RATIONAL = Field(fmpq_mat, rational, _high)


def numbers(matrix: Any) -> np.ndarray:
    """The matrix, rounded to float64."""
    return np.array([[float(v) for v in row] for row in matrix.tolist()])


def rows_of(data: Mapping[str, Any], block: str) -> tuple[np.ndarray, np.ndarray]:
    """All rows (C, d) of one block, 'A', 'G', 'lb' or 'ub', as C x (= or <=) d; lb is -x <= -lb."""
    n = len(data["q"])
    side = data.get({"A": "b", "G": "h"}.get(block, block))
    if side is None:
        return np.zeros((0, n)), np.zeros(0)
    if block in ("A", "G"):
        return data[block], side
    sign = -1 if block == "lb" else 1
    return sign * np.eye(n, dtype=int), sign * side


@dataclass(frozen=True, eq=False)
class Regular:
    """A program with its active set: `active` has the indices of the active rows of G, lb and ub (missing: none)."""

    data: Data
    active: Mapping[str, np.ndarray]
    field: Field = HIGH

    @cached_property
    def n(self) -> int:
        return len(self.data["q"])

    @cached_property
    def index(self) -> dict[str, np.ndarray]:
        """Block -> indices of its rows that are in C, in C's order."""
        equalities = np.arange(len(rows_of(self.data, "A")[1]))
        return {"A": equalities} | {block: self.active.get(block, np.zeros(0, int)) for block in ("G", "lb", "ub")}

    @cached_property
    def part(self) -> dict[str, slice]:
        """Block -> its place in p = (x, w)."""
        ends = self.n + np.cumsum([len(rows) for rows in self.index.values()])
        return {block: slice(end - len(rows), end) for (block, rows), end in zip(self.index.items(), ends, strict=True)}

    @property
    def K(self) -> np.ndarray:
        P = self.data.get("P")
        C = np.vstack([rows_of(self.data, block)[0][rows] for block, rows in self.index.items()])
        return np.block([[np.zeros((self.n, self.n)) if P is None else P, C.T], [C, np.zeros((len(C), len(C)))]])

    @property
    def r(self) -> np.ndarray:
        d = [rows_of(self.data, block)[1][rows] for block, rows in self.index.items()]
        return np.concatenate([-self.data["q"], *d])

    @cached_property
    def condition(self) -> float:
        """2-norm condition number of K as it stands: no equilibration."""
        return float(np.linalg.cond(self.K.astype(float)))

    @cached_property
    def inverse(self) -> Any:
        """K^-1; ZeroDivisionError where K is singular."""
        with self.field.precision():
            return self.field.of(self.K).inv()

    @cached_property
    def point(self) -> Any:
        """p = (x, w), a column."""
        with self.field.precision():
            return self.inverse * self.field.of(self.r)

    @cached_property
    def _Px(self) -> Any:
        with self.field.precision():
            return self.field.of(self.K[: self.n, : self.n]) * self._x

    @cached_property
    def _x(self) -> Any:
        return self.field.matrix([[row[0]] for row in self.point.tolist()[: self.n]])

    @cached_property
    def slack(self) -> dict[str, dict[int, Any]]:
        """d - C x of every row of G, lb and ub with a finite side; the active ones are zero up to the precision."""
        slack = {}
        with self.field.precision():
            for block in ("G", "lb", "ub"):
                C, d = rows_of(self.data, block)
                kept = [i for i, side in enumerate(d.tolist()) if abs(side) != float("inf")]
                rows = (self.field.of(d[kept]) - self.field.of(C[kept]) * self._x).tolist() if kept else []
                slack[block] = dict(zip(kept, (row[0] for row in rows), strict=True))
        return slack

    @cached_property
    def margin(self) -> float:
        """Smallest multiplier of an active inequality or slack of an inactive one; positive: this set is optimal."""
        with self.field.precision():
            w = [row[0] for row in self.point.tolist()[self.part["A"].stop :]]
            inactive = [s for block in self.slack for i, s in self.slack[block].items() if i not in self.index[block]]
            return min((float(v) for v in (*w, *inactive)), default=float("inf"))

    @cached_property
    def solution(self) -> dict[str, Any]:
        """x, y, z, z_lb, z_ub (None where the block is absent) and value, correct to the last digits of float64."""
        with self.field.precision():
            q = self.field.of(self.data["q"])
            value = float(((self._Px + q + q).transpose() * self._x)[0, 0] / 2)
        return self.outputs(self.point) | {"value": value}

    def gradients(self, cotangents: Mapping[str, Any]) -> Data:
        """Gradients with respect to all data of sum <cotangent, output>, outputs as in `solution`; P's is symmetric.

        P's is given for P = None too (the zero matrix); other absent blocks have None.
        """
        with self.field.precision():
            x, q = self._x, self.field.of(self.data["q"])
            weight = self.field.of(np.array([cotangents.get("value", 0)]))[0, 0]
            g = self.field.of(self._stack(cotangents)).tolist()
            g[: self.n] = [[a[0] + weight * b[0]] for a, b in zip(g, (self._Px + q).tolist(), strict=False)]
            u = self.inverse * self.field.matrix(g)
            outer = u * self.point.transpose()
            both = -numbers(outer + outer.transpose())
            value = numbers((x * x.transpose()) * (weight / 2))
            value_q = numbers(x * weight)[:, 0]
        side = numbers(u)[:, 0]
        gradient: Data = {"P": both[: self.n, : self.n] / 2 + value, "q": value_q - side[: self.n]}
        for block, name in (("A", "b"), ("G", "h")):
            place = self.part[block]
            gradient[block] = self._scatter(block, both[place, : self.n])
            gradient[name] = self._scatter(block, side[place])
        gradient["lb"] = self._scatter("lb", -side[self.part["lb"]])
        gradient["ub"] = self._scatter("ub", side[self.part["ub"]])
        return gradient

    def tangent(self, perturbations: Mapping[str, Any]) -> dict[str, Any]:
        """Derivative of every output of `solution` along a change of the data (missing: 0; P: its symmetric part)."""
        change: Data = {}
        for name, base in (self.data | {"P": self.K[: self.n, : self.n]}).items():
            given = perturbations.get(name)
            change[name] = None if base is None else np.zeros(base.shape) if given is None else given
        moved = replace(self, data=change)
        dK = moved.K
        for block in ("lb", "ub"):  # of a bound only the side moves
            dK[self.part[block]] = 0
            dK[:, self.part[block]] = 0
        with self.field.precision():
            D = self.field.of(dK)
            dp = self.inverse * (self.field.of(moved.r) - (D + D.transpose()) / 2 * self.point)
            dx = self.field.matrix(dp.tolist()[: self.n])
            q, dq, dP = (self.field.of(array) for array in (self.data["q"], change["q"], change["P"]))
            dvalue = ((self._Px + q).transpose() * dx + self._x.transpose() * (dP * self._x / 2 + dq))[0, 0]
        return self.outputs(dp) | {"value": float(dvalue)}

    def outputs(self, p: Any) -> dict[str, Any]:
        """Split p, or a change of it, into x and the multipliers of whole blocks."""
        p = numbers(p)[:, 0]
        w = {name: self._scatter(block, p[self.part[block]]) for name, block in MULTIPLIERS.items()}
        return {"x": p[: self.n]} | w

    def _stack(self, cotangents: Mapping[str, Any]) -> np.ndarray:
        """(g_x, g_w): cotangents of inactive multipliers have no effect."""
        x = cotangents.get("x")
        stacked = [np.zeros(self.n, int) if x is None else x]
        for name, block in MULTIPLIERS.items():
            g = cotangents.get(name)
            rows = self.index[block]
            stacked.append(np.zeros(len(rows), int) if g is None else g[rows])
        return np.concatenate(stacked)

    def _scatter(self, block: str, values: np.ndarray) -> np.ndarray | None:
        """Values on the active rows, zero on the others of the block; None for an absent block."""
        if self.data.get({"A": "b", "G": "h"}.get(block, block)) is None:
            return None
        full = np.zeros((len(rows_of(self.data, block)[1]), *values.shape[1:]))
        full[self.index[block]] = values
        return full


def instance(kind: str, n: int, seed: int, condition: float = 1.0) -> Regular:
    """A random program of one of KINDS in n variables, regular at a solution that is built first.

    The margin of strict complementarity is 0.2, up to the rounding of the data.  Where `condition` exceeds that of a
    plain draw (1 to 5e3), eigenvalues, rows or columns are scaled until the condition of K comes just below it, as far
    as the size allows (for n = 1 and for half of n = 2 it does not; `Regular.condition` has the number reached).
    """
    rng = np.random.default_rng([seed, n, KINDS.index(kind)])
    for _ in range(200):
        draw = _draw(kind, n, rng)
        if draw(0.0).condition < 1e4:
            break
    else:
        raise RuntimeError(f"no regular draw of {kind}, n = {n}, seed = {seed}")
    low, high = 0.0, 9.0
    if draw(0.0).condition < condition / 2:
        for _ in range(8):  # the condition grows with the exponent t; the side below the target is kept
            middle = (low + high) / 2
            low, high = (middle, high) if draw(middle).condition <= condition else (low, middle)
    return draw(low)


def _counts(kind: str, n: int, rng: np.random.Generator) -> dict[str, int]:
    """Rows of A; rows of G, active rows of G; active bounds, -1 for a program without bounds."""
    if kind == "unconstrained":
        return {"p": 0, "m": 0, "k": 0, "bounds": -1}
    if kind == "equality":
        return {"p": max(1, n // 2), "m": 0, "k": 0, "bounds": -1}
    p = n // 5
    if kind == "bounds":
        m = int(rng.integers(0, 2)) * (n // 2)
        k = min(m, n // 5)
        return {"p": p, "m": m, "k": k, "bounds": int(rng.integers(0, n - p - k + 1) // 2 + n % 2)}
    if kind == "lp":
        bounds = int(rng.integers(0, 2)) * ((n - p) // 2)
        return {"p": p, "m": 2 * n, "k": n - p - bounds, "bounds": bounds or -1}
    least = 0 if kind == "qp" else n - n // 2 - p  # enough rows for P of rank n // 2
    return {"p": p, "m": n + 1, "k": int(rng.integers(least, max(least, (n - p) * 3 // 4) + 1)), "bounds": -1}


def _draw(kind: str, n: int, rng: np.random.Generator) -> Callable[[float], Regular]:
    """All random choices; what is left open is the exponent t of the scaling, from 1 down to 10^-t."""
    count = _counts(kind, n, rng)
    p, m, k = count["p"], count["m"], count["k"]
    x = rng.standard_normal(n)
    V, U = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    dense = np.vstack([U[: p + k], rng.standard_normal((m - k, n)) / np.sqrt(n)])
    integers = rng.integers(-8, 9, (n // 2, n)) / 8.0
    spread = rng.permutation(np.linspace(0, 1, n))
    row_spread = rng.permutation(np.linspace(1, 0, p + m))
    y, z, slack = rng.standard_normal(p), 0.2 + rng.exponential(0.5, k), 0.2 + rng.exponential(0.5, m - k)
    order = rng.permutation(m)
    scaled = str(rng.choice(["eigenvalues", "rows", "columns"] if p + m else ["eigenvalues", "columns"]))
    at_bound = rng.permutation(n)[: max(count["bounds"], 0)]
    upper = rng.random(n) < 0.5
    z_bound, gap_lb, gap_ub = (0.2 + rng.exponential(0.5, n) for _ in range(3))
    open_lb, open_ub = (rng.random(n) < 0.3 for _ in range(2))

    def build(t: float) -> Regular:
        # Semidefinite P must be so exactly: M'DM with 4-bit integers M and powers of two in D has no rounding.
        decay = 2.0 ** -np.round(np.log2(10.0) * t * spread)
        C = dense.copy()
        if scaled == "rows":
            C *= (10.0 ** -(t * row_spread))[:, None]
        elif scaled == "columns":
            C *= decay
        elif kind in ("lp", "equality"):
            C[: p + k] = (C[: p + k] * decay) @ V
        if kind == "lp":
            P = None
        elif kind == "qp_semidefinite":
            P = integers.T @ (integers * (decay[: n // 2, None] if scaled == "eigenvalues" else 1))
        else:
            P = (V * (decay if scaled == "eigenvalues" else 0.5 + spread)) @ V.T
            P = (P + P.T) / 2
        if P is not None and scaled == "columns":
            P = decay[:, None] * P * decay
        data: Data = dict.fromkeys(DATA)
        active = {"G": np.sort(np.argsort(order)[:k])}
        q = np.zeros(n) if P is None else -P @ x
        q -= C[: p + k].T @ np.concatenate([y, z])
        if p:
            data["A"], data["b"] = C[:p], C[:p] @ x
        if m:
            data["G"] = C[p:][order]
            data["h"] = data["G"] @ x + np.concatenate([np.zeros(k), slack])[order]
        if count["bounds"] >= 0:
            at_lb, at_ub = at_bound[~upper[at_bound]], at_bound[upper[at_bound]]
            lb, ub = np.where(open_lb, -np.inf, x - gap_lb), np.where(open_ub, np.inf, x + gap_ub)
            lb[at_lb], ub[at_ub] = x[at_lb], x[at_ub]
            q[at_lb] += z_bound[at_lb]
            q[at_ub] -= z_bound[at_ub]
            data["lb"], data["ub"] = lb, ub
            active |= {"lb": np.sort(at_lb), "ub": np.sort(at_ub)}
        return Regular(data | {"P": P, "q": q}, active)

    return build

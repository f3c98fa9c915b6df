"""Sparse direct factorization: LDL' of the equilibrated, shifted S, and refinement against S itself (`dcl.kkt.shifted`).

    S^ = E S E,   E = diag(max_j |S_ij|)^(-1/2), powers of two           N = null(S^),   null(S) = E N

What is known of N comes out of the same factor: two random vectors g tell whether S is singular, and along which entries,
without any basis of N or spectrum,

    spread_i = (projection onto N)_ii = mean of (P_N g)_i^2,    g normal

Minimum-norm least squares in the norm of S itself is r <- r - Pi r, x <- x - Pi x, with Pi the projection onto null(S),

    Pi y = E w,   w in N with P_N E^2 w = P_N E y          by conjugate gradients in N: one step where E is the same all over N

Nothing dense is formed: what costs time is a number of solves.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl.kkt.base import AbstractFactor, Conditioning
from dcl.kkt.eigen import EigenFactor
from dcl.kkt.saddle import Places, Saddle
from dcl.kkt.shifted import Shifted, norms

Array = NDArray[np.float64]
# Up to this order the eigenvalues decide where S is singular or nearly so: they take a millisecond.
EIGEN_LIMIT = 100
# Up to this order they also decide where S is nearly singular in the units of its rows, but not to the last digit: a null vector
# leaves more than _EXACTLY of itself.  The best units may make S regular (`dcl.kkt.balance`); order 300 takes 0.2 s.
UNITS_LIMIT = 900
_EXACTLY = 4e-15
# Above these estimates of the condition, the solves that they come from are refined, and S counts as nearly singular.
_ROUGH, _SUSPICIOUS = 1e5, 1e9
# A vector of size one is solved for if its residual is below this.
_SOLVED = 1e-6
_PROBES = 2
# The part of a normal vector in a null space of dimension one is 1 / sqrt(N) of it; this much of that is none.
_NOTHING = 1e-4
# A residual of a singular system below this, relative, is none.
_CONSISTENT = 1e-12
# What a projection onto the null space leaves there, with much to spare.
_PROJECTED, _ANY = 1e-8, 1e30
# Squared: of a normal vector, the least part in a null space that has a dimension.
_PART = 1e-6
# Conjugate gradients stop at residuals this small beside what is projected, below which r is not in N, or after so many steps.
_ENOUGH, _MOST_STEPS = 1e-12, 100
# So many random vectors, at most, span what `flat_directions` returns; its singular values below the second are zero.
_MOST_DIRECTIONS, _DIRECTION = 256, 1e-8


def _safe(size: Array) -> Array:
    return np.where(size > 0.0, size, 1.0)


def _ranks(w: Array) -> Array:
    """The dimensions that are seen of spans of random vectors w (B, N, probes), (B,)."""
    squares = np.linalg.eigvalsh(np.einsum("bnc,bnd->bcd", w, w))
    return np.asarray((squares > _PART).sum(-1), dtype=np.float64)


class SparseFactor(AbstractFactor):
    """S of the pattern `saddle` for H, B, T and shift as in `Saddle.values`; rows with `live` (B, k) False are zero.

    regular, best_units: as in `dcl.kkt.DenseFactor`.  It lives on the host; device is where the right-hand sides are, and what is
    told of the conditioning.
    """

    def __init__(
        self,
        saddle: Saddle,
        H: Array,
        B: Array,
        T: Array,
        live: NDArray[np.bool_],
        device: torch.device | str = "cpu",
        *,
        shift: Array | float = 0.0,
        regular: bool = False,
        best_units: bool = False,
    ) -> None:
        self._is_data = ((T == 0.0) | (T == 1.0)).all(-1) & best_units
        self._saddle, self._live, self._regular, self._device = saddle, live, regular, device
        values = saddle.values(H, B, T, shift)
        size = saddle.ldl.row_sizes(values)
        # a variable that no row sees, a row of zeros: 1 on the diagonal, and zeros in the right-hand sides
        self._free = size == 0.0
        values[:, -size.shape[1] :] += np.where(self._free, saddle.signs, 0.0)
        alive = np.concatenate([np.ones((len(T), saddle.n), dtype=bool), live], axis=1)
        self._held = (alive & ~self._free)[..., None]
        # powers of two: nothing is rounded
        self._E = np.exp2(np.round(-0.5 * np.log2(_safe(size))))
        rows, cols = saddle.entries
        self._scaled = Shifted(saddle, values * self._E[:, rows] * self._E[:, cols])
        self._eigen: dict[int, EigenFactor] = {}

    @cached_property
    def _null(self) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_]]:
        """Of each instance: random vectors of N (B, N, probes), zero if there are none; is S singular; is that unknown? (B,)."""
        batch, order = self._E.shape
        if self._regular:
            return np.zeros((batch, order, 1)), np.zeros(batch, dtype=bool), np.zeros(batch, dtype=bool)
        w, unsure = self._scaled.null_part(self._probes(_PROBES), _NOTHING / math.sqrt(order))
        return w, np.asarray(np.any(w != 0.0, axis=(1, 2))), np.asarray(unsure.any((1, 2)))

    def _probes(self, count: int) -> Array:
        """Normal vectors (B, N, count), zero in the rows that are not live."""
        g = np.random.default_rng(self._E.shape[1]).standard_normal((self._E.shape[1], count))
        return np.where(self._held & ~self._apart, g, 0.0)

    @property
    def _apart(self) -> NDArray[np.bool_]:
        """The instances of `_eigen`, (B, 1, 1)."""
        return np.isin(np.arange(len(self._E)), list(self._eigen))[:, None, None]

    # in the coordinates of S, (B, N, c)

    def _product(self, x: Array) -> Array:
        """S x."""
        E = self._E[..., None]
        return np.asarray(self._scaled.multiply(x / E) / E)

    def _null_component(self, y: Array) -> Array:
        """Pi y of the header."""
        E = self._E[..., None]
        r = self._scaled.null_part(E * y)[0]
        # where E is the same all over N, P_N E^2 r is a multiple of r
        again = E * E * r
        factor = np.einsum("bnc,bnc->bc", r, again)[:, None] / _safe(norms(r) ** 2)
        if (norms(again - factor * r) <= _ENOUGH * norms(again)).all():
            return np.asarray(E * r / _safe(factor))
        w, p, size = np.zeros_like(r), r, norms(r)
        best, least, enough = w, size, _ENOUGH * norms(E * y)
        for _ in range(_MOST_STEPS):
            if not (size > enough).any():
                break
            q = self._scaled.null_part(E * E * p)[0]
            curvature = np.einsum("bnc,bnc->bc", p, q)[:, None]
            goes = (size > enough) & (curvature > 0.0)
            step = np.where(goes, size * size / _safe(curvature), 0.0)
            w, r = w + step * p, r - step * q
            size, last = np.where(goes, norms(r), 0.0), size
            p = r + (size / _safe(last)) ** 2 * p
            # residuals of conjugate gradients rise on their way down
            better = goes & (size < least)
            best, least = np.where(better, w, best), np.where(better, size, least)
        return np.asarray(E * best)

    def _solve(self, r: Array) -> tuple[Array, Array]:
        """x = S^+ r for r (B, N, c), zero where not `_held`, and r - S x without the part of r that is not in the range."""
        E = self._E[..., None]
        singular = bool(self._null[1].any())
        # what is left of a right-hand side that is not in the range is seen, and taken out, below
        x = E * self._scaled.solve(E * r, enough=_ANY if singular else 0.0)
        rest = r - self._product(x)
        if not singular:
            return x, rest
        if (norms(rest) > _CONSISTENT * norms(r)).any():
            r = r - self._null_component(r)
            x = E * self._scaled.solve(E * r, enough=_PROJECTED)
            rest = r - self._product(x)
        return x - self._null_component(x), rest

    def _estimate(self) -> Array:
        """Condition in the 2-norm from a random vector and one power step, (B,); inf where solves are not accurate."""
        E, g = self._E[..., None], self._probes(1)
        if self._null[1].any():
            g = g - self._null_component(g)
        g = g / _safe(norms(g))
        forward = self._product(g)
        norm = norms(self._product(forward / _safe(norms(forward))))
        x = E * self._scaled.F(E * g)
        if self._null[1].any():
            x = x - self._null_component(x)
        rough = norm * norms(E * self._scaled.F(E * (x / _safe(norms(x)))))
        if not (rough > _ROUGH).any():
            return np.asarray(rough[:, 0, 0])
        x, rest = self._solve(g)
        condition = norm * norms(self._solve(x / _safe(norms(x)))[0])
        return np.asarray(np.where(norms(rest) <= _SOLVED, condition, np.inf)[:, 0, 0])

    # what a factor is asked

    @cached_property
    def _condition(self) -> Array:
        """(B,), and the spectrum of the small instances that are singular, or nearly so."""
        if self._regular:
            return np.ones(len(self._E))
        w, singular, unknown = self._null
        if EIGEN_LIMIT < self._E.shape[1] <= UNITS_LIMIT:
            nearly = (norms(self._scaled.multiply(w)) > _EXACTLY * norms(w)).any((1, 2))
            self._in_best_units((singular & nearly) | unknown)
        condition = np.where(unknown, np.inf, self._estimate())
        doubtful = singular | ~(condition < _SUSPICIOUS)
        if self._E.shape[1] <= EIGEN_LIMIT:
            for i in np.flatnonzero(doubtful | self._free.any(1)):
                self._eigen[int(i)] = self._spectrum(int(i))
        elif self._E.shape[1] <= UNITS_LIMIT:
            self._in_best_units(doubtful & ~singular)
        return condition

    def _in_best_units(self, doubtful: NDArray[np.bool_]) -> None:
        """The spectrum of those of the instances (B,) that their best units make regular; nothing else is done with them."""
        for i in np.flatnonzero(doubtful & self._is_data & ~self._free.any(1)):
            eigen = self._spectrum(int(i))
            if bool(eigen.conditioning.scaled):
                self._eigen[int(i)] = eigen
                for t in self._null:
                    t[i] = 0.0

    def _spectrum(self, i: int) -> EigenFactor:
        n, order = self._saddle.n, self._E.shape[1]
        rows, cols = self._saddle.entries
        S = np.zeros((order, order))
        np.add.at(
            S,
            (np.minimum(rows, cols), np.maximum(rows, cols)),
            self._scaled.values[i] / self._E[i, rows] / self._E[i, cols],
        )
        S[self._free[i], self._free[i]] = 0.0
        keep = np.flatnonzero(np.concatenate([np.ones(n, dtype=bool), self._live[i]]))
        t = torch.from_numpy((S + np.triu(S, 1).T)[np.ix_(keep, keep)]).unsqueeze(0)
        T = -t[:, n:, n:].diagonal(dim1=-2, dim2=-1)
        return EigenFactor(t[:, :n, :n], t[:, n:, :n], T, best_units=bool(self._is_data[i]))

    @property
    def conditioning(self) -> Conditioning:
        return self._conditioning

    @cached_property
    def _conditioning(self) -> Conditioning:
        n, condition = self._saddle.n, self._condition.copy()
        scaled = np.zeros(len(condition), dtype=bool)
        spread = np.where(self._free, 1.0, (self._null[0] ** 2).mean(-1))
        null_a, null_y = (
            _ranks(self._null[0][:, part]) + self._free[:, part].sum(1) for part in (slice(n), slice(n, None))
        )
        for i, eigen in self._eigen.items():
            exact, live = eigen.conditioning, self._live[i]
            condition[i], null_a[i], null_y[i] = exact.condition, exact.null_a, exact.null_y
            scaled[i] = exact.scaled
            spread[i, :n] = exact.spread[0].numpy()
            spread[i, n:][live] = exact.dependence[0].numpy()
        parts = condition, null_a, null_y, spread[:, :n], spread[:, n:], scaled
        return Conditioning(*(torch.from_numpy(t).to(self._device) for t in parts))

    def flat_directions(self, i: int, toward: Tensor) -> Tensor:
        n, order = self._saddle.n, self._E.shape[1]
        if not bool(self.conditioning.null_a[i] > 0):
            return toward.new_zeros(n, 0)
        if i in self._eigen:
            return self._eigen[i].flat_directions(0, toward.cpu()).to(toward.device)
        first = np.zeros((1, order, 1))
        first[0, :n, 0] = toward.cpu().numpy()
        count, one, free = 8, self._scaled.only(i), self._free[[i]][..., None]
        while True:
            random = np.random.default_rng(order).standard_normal((1, order, count))
            probes = self._E[[i]][..., None] * np.concatenate([first, random], axis=2)
            held = np.where(self._held[[i]], probes, 0.0)
            w = self._E[i, :n, None] * (one.null_part(held)[0] + np.where(free, probes, 0.0))[0, :n]
            U, values, _ = np.linalg.svd(w / _safe(np.linalg.norm(w, axis=0)), full_matrices=False)
            rank = int((values > _DIRECTION * values[0]).sum())
            if rank <= count or count >= min(n, _MOST_DIRECTIONS):
                return torch.from_numpy(U[:, :rank]).to(toward.device)
            count *= 4

    def solve(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lead, n = r1.shape[:-1], r1.shape[-1]
        count = math.prod(lead[:-1])
        r = torch.cat([r1, r2], -1).detach().cpu().numpy().reshape(count, lead[-1], self._E.shape[1]).transpose(1, 2, 0)
        full, r = r, np.where(self._held, r, 0.0)
        if self._E.shape[1] <= EIGEN_LIMIT or self._is_data.any():
            self._condition  # noqa: B018  # finds the instances of `_eigen`
        x, rest = self._solve(np.where(self._apart, 0.0, r))
        accuracy = (norms(rest) / _safe(norms(r)))[:, 0]
        for i, eigen in self._eigen.items():
            keep = np.concatenate([np.ones(n, dtype=bool), self._live[i]])
            right = torch.from_numpy(full[i][keep].T.copy()).unsqueeze(1)
            a, y, residual = eigen.solve(right[..., :n], right[..., n:])
            x[i][keep] = torch.cat([a, y], -1)[:, 0].T.numpy()
            accuracy[i] = residual[:, 0].numpy()
        out = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1))).to(r1.device).reshape(*lead, -1)
        return out[..., :n], out[..., n:], torch.from_numpy(accuracy.T.copy()).to(r1.device).reshape(lead)


def of_dense(H: Tensor, B: Tensor, T: Tensor, *, best_units: bool = False) -> SparseFactor:
    """The factor of dense H (B, n, n), B (B, k, n), T (B, k), on the places where any instance has a nonzero."""
    Hs, Bs, Ts = (t.detach().cpu().numpy() for t in (H, B, T))
    at_H, at_B = _places(Hs), _places(Bs)
    saddle = Saddle(Hs.shape[-1], Bs.shape[-2], at_H, at_B)
    live = (Bs != 0.0).any(-1) | (Ts < 1.0)
    return SparseFactor(
        saddle, Hs[:, at_H[0], at_H[1]], Bs[:, at_B[0], at_B[1]], Ts, live, T.device, best_units=best_units
    )


def _places(M: Array) -> Places:
    i, j = np.nonzero((M != 0.0).any(0))
    return i.astype(np.int64), j.astype(np.int64)

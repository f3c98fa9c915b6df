"""What the KKT matrix of the program as given says of a point that Newton's method on smooth terms has found.

The careful lane calls a derivative EXACT where S (dcl/kkt/system.py) is well-conditioned and every cone clear of the kinks of its
projection, in the units of `dcl.program.scaling`.  The quadratic model, a Schur complement of S, says neither: terms that are
flat, or steep, and rows of other units do not show in it.  But its factor solves with S.  At a point s = S a, z = Z b of an
exponential cone, with rays a = (r, 1, e^r), b = (-e^r, (r - 1) e^r, 1) of length one, D has the eigenvalues (dcl/cones/three.py)

    0 along a,   1 along b,   Z tb / (S ta + Z tb) along a x b,        ta = |b| / |a|^2,   tb = e^r |a| / |b|^2

and  S (u, y) = (r1, r2)  is  P u + A'w = r1,  w = D (w - h + A u)  for  h = D^(-1/2) r2,  w = D^(1/2) y.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dcl.layers.smooth_state import State
from dcl.program.reduction.measure import Given

Solve = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# The condition itself, and times the residual: what is above is ILL_CONDITIONED in the careful lane (dcl/point/degeneracy.py).
_CONDITIONED, _ERROR = 5e6, 1e-6
# As in dcl/core/certify.hpp and conic_certify.hpp: the width of a tie and how far from it a cone must be.
_TIE, _ROUNDING, _CLEAR = 1e-9, 1e-12, 100.0
_POWER_STEPS, _SURELY = 2, 1e5
_EPSILON, _FLOOR = 2.0**-52, 1e-5


class Units(NamedTuple):
    """Those of `dcl.program.scaling`: c (B or 1, 1) of the objective, E (B or 1, m) of rows."""

    c: Tensor
    E: Tensor


@dataclass(frozen=True, eq=False)
class _Frame:
    """D in the units of the header. rows (cones, 3): places of the cones' rows; Q (B, cones, 3, 3) by columns; root (B, m)."""

    rows: Tensor
    Q: Tensor
    root: Tensor

    def to_eigen(self, w: Tensor) -> Tensor:
        return self._turned(w, self.Q.mT)

    def from_eigen(self, w: Tensor) -> Tensor:
        return self._turned(w, self.Q)

    def _turned(self, w: Tensor, Q: Tensor) -> Tensor:
        part = (Q @ w[:, self.rows].unsqueeze(-1)).squeeze(-1)
        return w.index_copy(1, self.rows.flatten(), part.flatten(1))


def is_conditioned(
    solve: Solve,
    state: State,
    rows: Tensor,
    programs: Given,
    holds: Tensor,
    units: Units,
    residual: Tensor,
    inverse: Tensor,
) -> Tensor:
    """Would the careful lane not call the derivative ILL_CONDITIONED, nor WEAKLY_ACTIVE, (B,)?

    solve: (u, w) of  P u + A'w = g,  w = D (w - h + A u)  for g (B, n), h (B, m).  rows (cones, 3): places of its cones' rows.
    holds (B, m): rows of orthants that hold with equality.  residual (B,): of the point.  inverse (B,): a bound of |S^-1|.

    What rounding leaves of a slack is a residual too.  The condition is estimated only where the bound does not tell.
    """
    c, E = units
    s, z = state.cones()
    unit = E[:, rows[:, 0]].unsqueeze(-1)
    s, z = s * unit, z * (c.unsqueeze(-1) / unit)
    frame = _frame(s, z, rows, holds)
    residual = residual.maximum(_noise(s, z, (programs.b * E)[:, rows]))
    size = _size(programs, c, E, frame.root)
    is_clear = _is_clear(s, z, programs, E)

    def passes(condition: Tensor) -> Tensor:
        return (condition <= _CONDITIONED) & (condition * residual <= _ERROR)

    bounded = passes(inverse * size)
    if bool(bounded.all()):
        return bounded & is_clear
    return (bounded | passes(_estimate(solve, frame, units, programs.q.shape[-1], size))) & is_clear


def _estimate(solve: Solve, frame: _Frame, units: Units, n: int, size: Tensor) -> Tensor:
    """|S^-1| size, from a random vector and power steps, (B,)."""
    c, E = units
    m = frame.root.shape[-1]
    inverse_root = torch.where(frame.root > 0.0, 1.0 / frame.root, 0.0)

    def once(y: Tensor) -> Tensor:
        g, h = y.split([n, m], -1)
        u, w = solve(g / c, frame.from_eigen(inverse_root * h) / E)
        return torch.cat([u, inverse_root * frame.to_eigen(w * c / E)], -1)

    is_live = torch.nn.functional.pad(frame.root > 0.0, (n, 0), value=True)
    y, length = _probe(n + m) * is_live, torch.ones_like(frame.root[:, 0])
    for _ in range(_POWER_STEPS):
        y = once(y / y.norm(dim=-1, keepdim=True))
        length = y.norm(dim=-1)
        # a random y of length one has a part of 1 / sqrt(N) in every direction, roughly
        if bool((length * size <= _SURELY / math.sqrt(n + m)).all()):
            length = length * math.sqrt(n + m)
            break
    return (length * size).nan_to_num(nan=torch.inf)


def _probe(size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(size).standard_normal((1, size)))


def _power(size: Tensor) -> Tensor:
    """The power of two next to 1 / size, 1 for zero."""
    return torch.exp2(-torch.round(torch.log2(torch.where(size > 0.0, size, 1.0))))


def units_of(programs: Given, rows: Tensor) -> Units:
    """The units. rows (cones, 3): those of a cone have the same."""
    entries = programs.A_values.abs()
    sizes = entries.new_zeros(entries.shape[0], programs.b.shape[-1])
    sizes = sizes.scatter_reduce(1, programs.A.rows.expand(entries.shape[0], -1), entries, "amax")
    largest = sizes[:, rows].amax(-1, keepdim=True).expand(-1, -1, 3)
    return Units(
        _power(programs.objective.unsqueeze(-1)), _power(sizes.index_copy(1, rows.flatten(), largest.flatten(1)))
    )


def _frame(s: Tensor, z: Tensor, rows: Tensor, holds: Tensor) -> _Frame:
    S, Z = s.norm(dim=-1), z.norm(dim=-1)
    a, b = s / S.unsqueeze(-1), z / Z.unsqueeze(-1)
    long_a, long_b = S / s[..., 1], Z / z[..., 2]
    ta, tb = long_b / long_a.square(), s[..., 2] / s[..., 1] * long_a / long_b.square()
    d = Z * tb / (S * ta + Z * tb)
    Q = torch.stack([a, b, torch.linalg.cross(a, b)], -1)
    roots = torch.stack([torch.zeros_like(d), torch.ones_like(d), d.sqrt()], -1)
    root = holds.to(s.dtype).expand(s.shape[0], -1).index_copy(1, rows.flatten(), roots.flatten(1))
    return _Frame(rows, Q, root)


def _size(programs: Given, c: Tensor, E: Tensor, root: Tensor) -> Tensor:
    """A bound of |S|, in Frobenius norms; every row of a cone counts."""
    P = (programs.P_values * c).square().sum(-1)
    A = (programs.A_values * E[:, programs.A.rows]).square().sum(-1)
    return torch.sqrt(P + 2.0 * A + (root > 0.0).sum(-1))


def _noise(s: Tensor, z: Tensor, b: Tensor) -> Tensor:
    """Of a slack, relative to the terms of its row: s and z are parts of one v = z - s, and have no more digits than that."""
    rounding = _EPSILON * torch.maximum(s.norm(dim=-1), z.norm(dim=-1)).unsqueeze(-1)
    return (rounding / (_FLOOR + s.abs() + b.abs() + (b - s).abs())).flatten(1).amax(-1)


def _is_clear(s: Tensor, z: Tensor, programs: Given, E: Tensor) -> Tensor:
    edge = (s - z)[..., :2].clamp_min(0.0).norm(dim=-1)
    distance = torch.minimum(torch.minimum(s.norm(dim=-1), z.norm(dim=-1)), edge).amin(-1)
    largest = torch.maximum(z.norm(dim=-1).amax(-1), (programs.b * E).abs().amax(-1))
    return distance > _CLEAR * torch.clamp(_ROUNDING * largest, min=_TIE)

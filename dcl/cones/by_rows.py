"""The methods of a cone where mu is zero in some instances and positive in others: each kind is asked for by itself.

mu is as in `dcl.cones.base`, or a tensor (B or 1, 1) of which some entries are zero; tensors are (B, dim), vectors (..., B, dim).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.cones.base import AbstractCone, AbstractDerivative, Barrier, barrier_at, is_exact
from dcl.cones.orthant import Diagonal


@dataclass(frozen=True, eq=False)
class _ByRows(AbstractDerivative):
    """Derivatives of some instances each, `parts`, those of `places`."""

    d: Tensor
    places: tuple[Tensor, ...]
    parts: tuple[AbstractDerivative, ...]
    diagonal: bool = False

    def to_eigen(self, w: Tensor) -> Tensor:
        return self._each(w, lambda part, rows: part.to_eigen(rows))

    def from_eigen(self, w: Tensor) -> Tensor:
        return self._each(w, lambda part, rows: part.from_eigen(rows))

    def _each(self, w: Tensor, of: Callable[[AbstractDerivative, Tensor], Tensor]) -> Tensor:
        out = torch.empty_like(w)
        for place, part in zip(self.places, self.parts, strict=True):
            out = out.index_copy(-2, place, of(part, w.index_select(-2, place)))
        return out


def exact_instances(mu: Barrier, batch: int) -> Tensor | None:
    """Which of the instances are at mu = 0, (B,) boolean; None where none is."""
    if not isinstance(mu, Tensor):
        return None if mu > 0.0 else torch.ones(batch, dtype=torch.bool, device="cpu")
    zero = mu == 0.0
    return zero.squeeze(-1).expand(batch) if bool(zero.any()) else None


def project(cone: AbstractCone, v: Tensor, mu: Barrier) -> Tensor:
    """`cone.project`."""
    kinds = _kinds(mu, v)
    if kinds is None:
        return cone.project(v, mu)
    return _joined([(place, cone.project(v[place], at)) for place, at in kinds], v)


def dproject(cone: AbstractCone, v: Tensor, mu: Barrier, at_kink: Tensor) -> AbstractDerivative:
    """`cone.dproject`."""
    kinds = _kinds(mu, v)
    if kinds is None:
        return cone.dproject(v, mu, at_kink)
    parts = [(place, cone.dproject(v[place], at, at_kink[place])) for place, at in kinds]
    d = _joined([(place, part.d) for place, part in parts], v)
    if all(part.diagonal for _, part in parts):
        return Diagonal(d)
    return _ByRows(d, tuple(place for place, _ in parts), tuple(part for _, part in parts))


def curvature_product(cone: AbstractCone, v: Tensor, mu: Barrier, a: Tensor, w: Tensor) -> Tensor:
    """`cone.curvature_product`."""
    kinds = _kinds(mu, v)
    if kinds is None:
        return cone.curvature_product(v, mu, a, w)
    a, w = torch.broadcast_tensors(a, w)
    parts = [
        (place, cone.curvature_product(v[place], at, a.index_select(-2, place), w.index_select(-2, place)))
        for place, at in kinds
    ]
    return _joined(parts, a)


def _kinds(mu: Barrier, v: Tensor) -> list[tuple[Tensor, Barrier]] | None:
    """The instances at mu = 0 and those on the path, with their mu; None where the cone itself may be asked."""
    if is_exact(mu):
        return None
    zero = exact_instances(mu, v.shape[0])
    if zero is None:
        return None
    exact, on_path = (torch.nonzero(mask).squeeze(-1) for mask in (zero, ~zero))
    kinds: list[tuple[Tensor, Barrier]] = [(exact, 0.0), (on_path, barrier_at(mu, on_path))]
    return [(place, at) for place, at in kinds if place.numel()]


def _joined(parts: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """The instances of all parts, in a tensor like `like`."""
    out = torch.empty_like(like)
    for place, part in parts:
        out = out.index_copy(-2, place, part)
    return out

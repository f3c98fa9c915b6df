"""A block of the core's program as a function of a CVXPY problem's parameters, with its adjoint.

    block = affine map of theta                         in general: gathered, with numbers (dcl/program/affine.py)
    block = factor * parameter                          where that is all: the caller's tensor itself, not one copy
    P = factor * (parameter + parameter') / 2           that too: the core symmetrizes P, and its gradient of P is symmetric

Law: <block(t), y> = <t, adjoint(y)> for the linear part; for P, where y is symmetric.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dcl.frontends.cvxpy.form import CanonicalForm, unflatten_columns
from dcl.program.affine import AffineMap


class AbstractBlock(ABC):
    """One block. The tensors (*lead, *shape of the parameter) are contiguous, with one or B instances in front."""

    @property
    @abstractmethod
    def touching(self) -> tuple[int, ...]:
        """The parameters that it depends on."""

    @abstractmethod
    def __call__(self, given: Sequence[Tensor]) -> Tensor:
        """The block, (*lead, ...), contiguous, float64."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> dict[int, Tensor]:
        """The gradients of the parameters, of B or 1 times as many numbers as these, for that of the block."""


@dataclass(frozen=True, eq=False)
class Whole(AbstractBlock):
    """factor * parameter. shape, parameter_shape: those of the block and of the parameter."""

    parameter: int
    factor: float
    shape: tuple[int, ...]
    parameter_shape: tuple[int, ...]

    @property
    def touching(self) -> tuple[int, ...]:
        return (self.parameter,)

    def __call__(self, given: Sequence[Tensor]) -> Tensor:
        t = given[self.parameter]
        if self.shape != self.parameter_shape:
            t = t.reshape((*t.shape[: t.ndim - len(self.parameter_shape)], *self.shape))
        return self._times(t.to(torch.float64))

    def adjoint(self, y: Tensor) -> dict[int, Tensor]:
        return {self.parameter: self._times(y)}

    def _times(self, t: Tensor) -> Tensor:
        return t if self.factor == 1.0 else t * self.factor


@dataclass(frozen=True, eq=False)
class Gathered(AbstractBlock):
    """Any affine map. shape: that of the block."""

    affine: AffineMap
    form: CanonicalForm
    shape: tuple[int, ...]

    @property
    def touching(self) -> tuple[int, ...]:
        return self.affine.touching

    def __call__(self, given: Sequence[Tensor]) -> Tensor:
        thetas = thetas_of(self.form, given, self.affine)
        return self.affine.numbers(thetas).reshape((-1, *self.shape)).contiguous()

    def adjoint(self, y: Tensor) -> dict[int, Tensor]:
        domains = self.form.domains
        flat = y.reshape(-1, math.prod(self.shape))
        found = self.affine.adjoint(flat, [math.prod(domain.shape) for domain in domains])
        return {p: unflatten_columns(g, domains[p].shape) for p, g in found.items()}


def thetas_of(form: CanonicalForm, given: Sequence[Tensor], affine: AffineMap) -> list[Tensor]:
    """The parameters as the map takes them, float64; what it does not touch is left as it is."""
    return [form.flatten(t.to(torch.float64), p) if p in affine.touching else t for p, t in enumerate(given)]


def blocks_of(form: CanonicalForm) -> dict[str, AbstractBlock]:
    """The blocks P, q, A, b, G, h of a dense form with linear constraints, without those that it does not have."""
    structure = form.structure
    n, m, zeros = structure.n, structure.m, structure.cone.zeros
    blocks: dict[str, AbstractBlock] = {"q": _block(form, form.map_q, (n,))}
    if form.map_P.touching or bool(form.map_P.offset.any()):
        blocks["P"] = _block(form, form.map_P, (n, n))
    for names, first, last in ((("A", "b"), 0, zeros), (("G", "h"), zeros, m)):
        if last > first:
            rows = slice(first * n, last * n), slice(first, last)
            shapes = (last - first, n), (last - first,)
            for name, affine, part, shape in zip(names, (form.map_A, form.map_b), rows, shapes, strict=True):
                blocks[name] = _block(form, affine, shape, part)
    return blocks


def _block(form: CanonicalForm, affine: AffineMap, shape: tuple[int, ...], part: slice | None = None) -> AbstractBlock:
    """The entries `part` of an affine map, in rows of a block. P is the square one."""
    sizes = [math.prod(domain.shape) for domain in form.domains]
    if part is not None:
        affine = affine.part(part, sizes)
    gathered = Gathered(affine, form, shape)
    size = math.prod(shape)
    if len(affine.touching) != 1 or bool(affine.offset.any()):
        return gathered
    (p,) = affine.touching
    own = form.domains[p].shape
    if sizes[p] != size:
        return gathered
    # the place in theta_p of each entry of the parameter as it lies in memory
    places = np.arange(size).reshape(own, order="F").ravel()
    whole = sp.csr_array((np.ones(size), (np.arange(size), places)), shape=(size, size))
    if affine is form.map_P:
        flipped = np.arange(size).reshape(shape).T.ravel()
        whole = sp.csr_array(0.5 * (whole + whole[flipped]))
    start = sum(sizes[:p])
    found = affine.linear(sizes)[:, start : start + size]
    factor = float(found[0].sum() / whole[0].sum())
    if abs(found - factor * whole).max() == 0.0:
        return Whole(p, factor, shape, own)
    return gathered

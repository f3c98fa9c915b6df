"""A parametrized program in canonical form, with the maps from the user's tensors and to the user's variables.

    theta_p = column-major vec of parameter p        P, q, A, b, d = affine maps of theta (of log theta too, for a GP)
    x, z  ->  each requested variable or dual: entries of x or z, times weights, in the user's shape (GP: exp of x)
    value = sign (1/2 x'Px + q'x + d),  sign = -1 for Maximize;  exp of it for a GP

Pure torch: no CVXPY object is kept, so that a form can be pickled and copied.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl.frontends.cvxpy.domain import Domain
from dcl.program import ConeProgram, Structure
from dcl.program.affine import AffineMap, take
from dcl.program.pattern import DensePattern


def flatten_columns(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(..., *shape) -> (..., size) in column-major order, as CVXPY's vec. Adjoint: `unflatten_columns`."""
    if len(shape) == 1:
        return t
    lead = t.ndim - len(shape)
    order = (*range(lead), *reversed(range(lead, t.ndim)))
    return t.permute(order).reshape((*t.shape[:lead], math.prod(shape)))


def unflatten_columns(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(..., size) in column-major order -> (..., *shape). Adjoint: `flatten_columns`."""
    if len(shape) == 1:
        return t
    lead = t.ndim - 1
    t = t.reshape((*t.shape[:lead], *reversed(shape)))
    return t.permute((*range(lead), *reversed(range(lead, t.ndim))))


@dataclass(frozen=True, eq=False)
class Output:
    """One requested variable or dual, column-major: weights * source[index], or source[start : start + size].

    source is x, or z where `dual`.  index None: the consecutive entries from `start`.  weights None: all 1.
    """

    name: str
    shape: tuple[int, ...]
    dual: bool
    start: int
    index: Tensor | None
    weights: Tensor | None
    exp: bool

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """The value, (B, *shape)."""
        source = z if self.dual else x
        size = math.prod(self.shape)
        flat = source.narrow(-1, self.start, size) if self.index is None else take(source, self.index)
        if self.weights is not None:
            flat = flat * self.weights.to(flat.device)
        value = unflatten_columns(flat, self.shape)
        return value.exp() if self.exp else value

    def without(self, rows: NDArray[np.bool_] | None) -> Output:
        """The same output of z, zero where it reads one of the `rows` (m,), which bind nothing; None: there are none."""
        if rows is None:
            return self
        size = math.prod(self.shape)
        index = torch.arange(self.start, self.start + size, device="cpu") if self.index is None else self.index
        weights = torch.ones(size, dtype=torch.float64, device="cpu") if self.weights is None else self.weights
        return replace(self, weights=torch.where(torch.from_numpy(rows)[index], 0.0, weights))

    def is_all(self, size: int) -> bool:
        """Is it all of x, which has `size` entries, as it is?"""
        plain = self.index is None and self.weights is None and not (self.exp or self.dual)
        return plain and self.shape == (size,)

    def add_adjoint(self, g: Tensor, target: Tensor) -> None:
        """Add the adjoint of a g (B, *shape) to the target, x or z (B, ...), in place; not for `exp`."""
        flat = flatten_columns(g, self.shape)
        flat = flat.reshape(target.shape[0], math.prod(self.shape)).to(target.dtype)
        flat = flat if self.weights is None else flat * self.weights
        if self.index is None:
            target.narrow(-1, self.start, flat.shape[-1]).add_(flat)
        else:
            target.index_add_(-1, self.index, flat)


@dataclass(frozen=True)
class RowLabels:
    """Blocks of consecutive rows: block k starts at starts[k], its text is texts[k], its entries have shapes[k]."""

    starts: tuple[int, ...]
    texts: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def describe(self, row: int) -> str:
        """Name of a row, with the entry in a block of several rows."""
        block = bisect_right(self.starts, row) - 1
        shape = self.shapes[block]
        if math.prod(shape) <= 1:
            return self.texts[block]
        entry = tuple(int(i) for i in np.unravel_index(row - self.starts[block], shape, order="F"))
        return f"{self.texts[block]}, entry {entry[0] if len(entry) == 1 else entry}"


@dataclass(frozen=True, eq=False)
class CanonicalForm:
    """A CVXPY problem as affine maps onto one structure.

    structure: patterns of P and A, and the cone.  map_P, map_q, map_A, map_b, map_d: theta -> values, rows as in
    `ConeProgram` (map_P and map_A on their patterns, flattened per instance).  domains: name, shape and declared domain
    of each parameter, in the order of `parameters`.  logs: parameters whose logarithm enters too, as further inputs of
    the maps.  outputs: what `extract` returns, in the order of `variables`.  maximize, gp: how `value` reads.
    free: rows (m,) that bind nothing, since their side is the constant inf; None if there are none.
    """

    structure: Structure
    map_P: AffineMap
    map_q: AffineMap
    map_A: AffineMap
    map_b: AffineMap
    map_d: AffineMap
    domains: tuple[Domain, ...]
    logs: tuple[int, ...]
    outputs: tuple[Output, ...]
    maximize: bool
    gp: bool
    labels: RowLabels
    free: NDArray[np.bool_] | None = None

    @property
    def dense(self) -> bool:
        """Are P and A stored as full matrices, (B, m, n), or by their nonzeros, (B, nnz)?"""
        return isinstance(self.structure.A, DensePattern)

    def parameters_of(self, part: AffineMap) -> frozenset[int]:
        """Positions of the parameters, or of their logarithms, that one of the maps depends on."""
        count = len(self.domains)
        return frozenset(p if p < count else self.logs[p - count] for p in part.touching)

    def flatten(self, value: Tensor, p: int) -> Tensor:
        """Tensor (..., *shape_p) of parameter p as theta_p (B, size_p), B the product of the leading sizes."""
        flat = flatten_columns(value, self.domains[p].shape)
        return flat.reshape(math.prod(flat.shape[:-1]), flat.shape[-1])

    def program(self, thetas: Sequence[Tensor]) -> tuple[ConeProgram, Tensor]:
        """The programs for thetas[p] (B or 1, size_p), float64, and their constants d (B or 1,).

        Data that depend on shared parameters only stay shared: they have 1 in front.
        """
        inputs = [*thetas, *(thetas[p].log() for p in self.logs)]
        P, A = self.map_P(inputs), self.map_A(inputs)
        if self.dense:
            P, A = (
                t.reshape(t.shape[0], *pattern.shape) for t, pattern in ((P, self.structure.P), (A, self.structure.A))
            )
        program = ConeProgram(self.structure, P=P, q=self.map_q(inputs), A=A, b=self.map_b(inputs))
        return program, self.map_d(inputs).squeeze(-1)

    def extract(self, x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """The requested variables and duals, (B, *shape) each, for x (B, n) and z (B, m)."""
        return tuple(output(x, z) for output in self.outputs)

    def seen(self, x: Tensor) -> Tensor:
        """The requested variables of x (B, n) side by side, (B, k); x where there is none."""
        variables = [output(x, x).reshape(x.shape[0], -1) for output in self.outputs if not output.dual]
        return torch.cat(variables, -1) if variables else x

    def extract_adjoint(self, grads: Sequence[Tensor | None], x: Tensor, z: Tensor) -> None:
        """Adjoint of `extract` where nothing is exponentiated: adds to x (B, n) and z (B, m), which are changed in place."""
        for output, g in zip(self.outputs, grads, strict=True):
            if g is not None:
                output.add_adjoint(g, z if output.dual else x)

    def value(self, program: ConeProgram, d: Tensor, x: Tensor) -> Tensor:
        """Objective of the user's problem at x (B, n): (B,)."""
        value = program.objective(x) + d
        value = -value if self.maximize else value
        return value.exp() if self.gp else value

    def describe_row(self, row: int) -> str:
        """The user's name for row `row` of A, as in "constraint 2 (sum(x) == 1)" or "epigraph of abs(x), entry 3"."""
        return self.labels.describe(row)

    def check_domain(self, value: Tensor, p: int) -> None:
        """Raise InputError where `value` (..., *shape_p) is outside of the domain that parameter p declares."""
        self.domains[p].check(value)


def dense_storage(n: int, m: int, nonzeros: int) -> bool:
    """Full matrices where they are small (n + m <= 400), or filled by more than a tenth and not large (n + m <= 2000)."""
    return n + m <= 400 or (n + m <= 2000 and nonzeros > 0.1 * n * (n + m))


def output(name: str, shape: tuple[int, ...], E: sp.csr_array, start: int, *, dual: bool, exp: bool) -> Output:
    """The output E source[start : start + k], for E (size, k) with at most one nonzero in a row."""
    counts = np.diff(E.indptr)
    index = np.zeros(E.shape[0], dtype=np.int64)
    weights = np.zeros(E.shape[0])
    index[counts == 1], weights[counts == 1] = E.indices + start, E.data
    slice_ = np.array_equal(index, np.arange(start, start + index.size))
    return Output(
        name=name,
        shape=tuple(shape),
        dual=dual,
        start=start,
        index=None if slice_ else torch.from_numpy(index),
        weights=None if np.all(weights == 1.0) else torch.from_numpy(weights),
        exp=exp,
    )

"""Sparse torch tensors as arguments: the places of the nonzeros, one pattern for the whole batch, and the values on them.

    COO            (m, n), values (nnz,)             one matrix, shared by the batch
    CSR, CSC, COO  (*batch, m, n)                    every instance with nonzeros at the same places
    COO            (m, n, *batch), values (nnz, *batch)      the batch in dense dimensions, one pattern by construction

What is differentiated is a tensor of values, (*batch, nnz); the gradient goes back as a sparse tensor on the same pattern and in
the same layout, as torch does it.  A place that is not in the pattern is a constant zero.

P may have any pattern; 0.5 P + 0.5 P' is what counts, as with dense tensors: so a triangle alone is half of what is meant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function

from dcl.errors import InputError, UnsupportedError
from dcl.outcome.messages import AbstractCallContext, where
from dcl.program.affine import take
from dcl.program.pattern import SparsePattern
from dcl.torch_modes import is_plain, is_readable, is_wrapped, outside_of_transforms

_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)


@dataclass(frozen=True, eq=False)
class Entries:
    """A matrix argument: its pattern, whose rows and columns are on the CPU, and values (*batch, nnz) of its dtype and device."""

    pattern: SparsePattern
    values: Tensor

    @property
    def stand_in(self) -> Tensor:
        """A tensor of the shape (*batch, m, n), dtype and device of the argument, of one number: for checks of these."""
        return self.values.new_empty(()).expand(*self.values.shape[:-1], *self.pattern.shape)

    def dense(self) -> Tensor:
        """The matrices, (*batch, m, n), in differentiable operations."""
        lead = self.values.shape[:-1]
        flat = self.values.reshape(math.prod(lead), self.values.shape[-1])
        return self.pattern.dense(flat).reshape(*lead, *self.pattern.shape)


def is_sparse(t: object) -> bool:
    """Is t a tensor of another layout than the dense one?"""
    return isinstance(t, Tensor) and t.layout != torch.strided


def entries(name: str, t: Tensor) -> Entries:
    """The entries of a sparse tensor, or of a dense matrix (*batch, m, n), of which every entry is one.

    Raises InputError that names the argument: another layout, instances with different places; UnsupportedError inside of a
    transform of torch.func that maps it.
    """
    if not is_readable(t) and t.layout != torch.strided:
        raise UnsupportedError(
            f"torch.func.vmap over sparse {name}: apply vmap to its values, or pass a sparse batch without vmap"
        )
    if t.layout == torch.strided:
        m, n = t.shape[-2:]
        with outside_of_transforms():
            rows, cols = torch.arange(m, device="cpu").repeat_interleave(n), torch.arange(n, device="cpu").repeat(m)
        return Entries(SparsePattern((m, n), rows, cols), t.reshape(*t.shape[:-2], m * n))
    if t.layout not in _LAYOUTS:
        raise InputError(
            f"{name} has layout {t.layout}: pass {name}.to_sparse_csr() or {name}.to_dense()", argument=name
        )
    of = _of_coo if t.layout == torch.sparse_coo else _of_compressed
    if is_wrapped(t):
        return of(name, t)
    with outside_of_transforms():  # which take no compressed tensors, even where they do not change them
        return _of_known(t) or _remembered(t, of(name, t))


# The last few patterns of matrices without batch dimensions, by what is read at once; with the indices that they came from.
_Key = tuple[torch.layout, torch.Size, int]
_known: dict[_Key, list[tuple[tuple[Tensor, ...], SparsePattern]]] = {}
_KEYS, _PATTERNS = 32, 4


def _key(t: Tensor) -> _Key | None:
    """None for what is not remembered; an index that is made in inference mode would be of no use later."""
    if t.ndim > 2 or torch.is_inference_mode_enabled() or (t.layout == torch.sparse_coo and not t.is_coalesced()):
        return None
    return t.layout, t.shape, t._nnz()


def _of_known(t: Tensor) -> Entries | None:
    """The entries of t on a pattern that is known, if one has the same indices, number by number."""
    key = _key(t)
    if key is None or key not in _known:
        return None
    indices = _indices(t)
    for given, pattern in _known[key]:
        if all(
            a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
            for a, b in zip(given, indices, strict=True)
        ):
            return Entries(pattern, _values(t))
    return None


def _remembered(t: Tensor, found: Entries) -> Entries:
    """The same entries on a pattern of its own memory, which is kept: the caller may change his indices in place."""
    key = _key(t)
    if key is None:
        return found
    rows, cols = (index.clone() for index in (found.pattern.rows, found.pattern.cols))
    pattern = SparsePattern(found.pattern.shape, rows, cols)
    indices = tuple(index.clone() for index in _indices(t))
    _known[key] = [(indices, pattern), *_known.pop(key, [])[: _PATTERNS - 1]]
    while len(_known) > _KEYS:
        _known.pop(next(iter(_known)), None)
    return Entries(pattern, found.values)


def _of_coo(name: str, t: Tensor) -> Entries:
    if t.sparse_dim() < 2 or (t.sparse_dim() > 2 and t.dense_dim()):
        raise InputError(
            f"{name} has {t.sparse_dim()} sparse and {t.dense_dim()} dense dimensions: sparse COO tensors are "
            "(*batch, m, n) with all dimensions sparse, or (m, n, *batch) with dense batch dimensions",
            argument=name,
        )
    if not t.is_coalesced():
        given, t = t, t.coalesce()
        if t._nnz() < given._nnz():
            places, count = given._indices().unique(dim=1, return_counts=True)
            twice = tuple(places[:, int(count.argmax())].tolist())
            raise InputError(f"{name} has the entry {twice} more than once: pass {name}.coalesce()", argument=name)
    places, values = t._indices().cpu(), _values(t)
    if t.sparse_dim() == 2:
        m, n = t.shape[:2]
        return Entries(SparsePattern((m, n), places[0], places[1]), values.movedim(0, -1))
    *lead, m, n = t.shape
    batch = math.prod(lead)
    each = places.shape[1] // batch if batch else 0
    inner = places[-2:, : each * batch].reshape(2, batch, each)
    first = torch.arange(batch, device="cpu").repeat_interleave(each)
    # sorted: the places of each instance are consecutive, in one order
    of = torch.zeros_like(places[0])
    for size, place in zip(lead, places, strict=False):
        of = of * size + place
    if each * batch != places.shape[1] or not torch.equal(of, first) or bool((inner != inner[:, :1]).any()):
        raise _mixed(name)
    return Entries(SparsePattern((m, n), inner[0, :1].flatten(), inner[1, :1].flatten()), values.reshape(*lead, each))


def _of_compressed(name: str, t: Tensor) -> Entries:
    if t.dense_dim():
        raise InputError(f"{name} has {t.dense_dim()} dense dimensions: give it as (*batch, m, n)", argument=name)
    *lead, m, n = t.shape
    by_rows = t.layout == torch.sparse_csr
    starts, inner = (t.crow_indices(), t.col_indices()) if by_rows else (t.ccol_indices(), t.row_indices())
    starts, inner = (index.cpu().reshape(math.prod(lead), -1).to(torch.int64) for index in (starts, inner))
    if len(starts) > 1 and (bool((starts != starts[:1]).any()) or bool((inner != inner[:1]).any())):
        raise _mixed(name)
    if not len(starts):
        return Entries(SparsePattern((m, n), inner.flatten(), inner.flatten()), _values(t).reshape(*lead, 0))
    outer = torch.arange(m if by_rows else n, device="cpu").repeat_interleave(starts[0].diff())
    rows, cols = (outer, inner[0]) if by_rows else (inner[0], outer)
    return Entries(SparsePattern((m, n), rows, cols), _values(t))


def _mixed(name: str) -> InputError:
    return InputError(
        f"{name} has instances with different sparsity patterns: a batch shares one pattern, so store explicit zeros where "
        "an instance lacks an entry",
        argument=name,
    )


def check_places(name: str, pattern: SparsePattern) -> None:
    """Raise InputError for a place that is outside of the matrix, or there twice: torch does not look."""
    if pattern.is_sound:
        return
    (m, n), rows, cols = pattern.shape, pattern.rows, pattern.cols
    if bool((rows < 0).any() | (cols < 0).any() | (rows >= m).any() | (cols >= n).any()):
        raise InputError(f"{name} has indices outside its shape ({m}, {n})", argument=name)
    flat = pattern.flat.sort().values
    i, j = divmod(int(flat[torch.nonzero(flat[1:] == flat[:-1])[0]]), n)
    raise InputError(f"{name} has the entry ({i}, {j}) more than once", argument=name)


class _Values(Function):
    """The values of a sparse tensor, coalesced if COO; the gradient is a tensor of its layout."""

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        return (t._values() if t.layout == torch.sparse_coo else t.values()).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        (t,) = inputs
        ctx.layout, ctx.shape = t.layout, t.shape
        ctx.save_for_backward(*_indices(t))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        pack = _PackedAtOnce if is_plain() else _Packed
        return pack.apply(g, ctx.layout, ctx.shape, *ctx.saved_tensors)  # type: ignore[no-any-return]


class _ValuesAtOnce(Function):
    """`_Values` outside of transforms of torch.func: `setup_context` would cost 40 us."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        values = _Values.forward(t)
        _Values.setup_context(ctx, (t,), values)
        return values

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _Values.backward(ctx, g)


class _Packed(Function):
    """The sparse tensor of given values, for the gradient. torch's own sparse tensors have no second derivatives: an error."""

    @staticmethod
    def forward(values: Tensor, layout: torch.layout, shape: torch.Size, *indices: Tensor) -> Tensor:
        if layout == torch.sparse_coo:
            (places,) = indices
            return torch.sparse_coo_tensor(places, values, shape, is_coalesced=True, check_invariants=False)
        starts, inner = indices
        return torch.sparse_compressed_tensor(starts, inner, values, shape, layout=layout, check_invariants=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        raise UnsupportedError(
            "the gradient of a sparse argument cannot be differentiated again, because torch does not differentiate sparse "
            "tensors twice; for second derivatives in the other arguments, the sparse ones must not require a gradient"
        )


class _PackedAtOnce(Function):
    """`_Packed` outside of transforms."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, layout: torch.layout, shape: torch.Size, *indices: Tensor) -> Tensor:
        return _Packed.forward(values, layout, shape, *indices)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Packed.backward(ctx, g)


def _indices(t: Tensor) -> tuple[Tensor, ...]:
    if t.layout == torch.sparse_coo:
        return (t._indices(),)
    return (t.crow_indices(), t.col_indices()) if t.layout == torch.sparse_csr else (t.ccol_indices(), t.row_indices())


def _values(t: Tensor) -> Tensor:
    if is_wrapped(t):
        return _Values.apply(t)  # type: ignore[no-any-return]
    if t.requires_grad:
        return _ValuesAtOnce.apply(t)  # type: ignore[no-any-return]
    return t._values() if t.layout == torch.sparse_coo else t.values()


@dataclass(frozen=True, eq=False)
class Symmetric:
    """The values of 0.5 P + 0.5 P' on a symmetric pattern, from those of P.

    first, second: for each place of the pattern, those of (i, j) and (j, i) in P's values; their number where there is none.
    """

    pattern: SparsePattern
    first: Tensor
    second: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """(B, places) for values (B, nnz) of P."""
        padded = torch.cat([values, values.new_zeros(values.shape[0], 1)], -1)
        return 0.5 * take(padded, self.first) + 0.5 * take(padded, self.second)


def symmetric_of(P: SparsePattern) -> Symmetric:
    """The map for this pattern of P."""
    n = P.shape[0]
    rows, cols = P.coordinates()
    here, there = rows * n + cols, cols * n + rows
    places = np.union1d(here, there)
    order = np.argsort(here)

    def find(wanted: NDArray[np.int64]) -> Tensor:
        if not len(here):
            return torch.zeros(len(wanted), dtype=torch.int64, device="cpu")
        at = np.searchsorted(here, wanted, sorter=order).clip(max=len(here) - 1)
        return torch.from_numpy(np.where(here[order[at]] == wanted, order[at], len(here)))

    i, j = np.divmod(places, n)
    return Symmetric(SparsePattern(P.shape, torch.from_numpy(i), torch.from_numpy(j)), find(places), find(j * n + i))


def empty(m: int, n: int) -> SparsePattern:
    """The pattern of an m x n matrix of zeros."""
    none = torch.zeros(0, dtype=torch.int64, device="cpu")
    return SparsePattern((m, n), none, none)


def check_values(context: AbstractCallContext, values: Tensor, name: str, pattern: SparsePattern) -> None:
    """Raise InputError at the first value (B or 1, nnz) that is not finite, by its place in the matrix."""
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        i, k = bad[0].tolist()
        index, place = context.index_in(values, i), (int(pattern.rows[k]), int(pattern.cols[k]))
        value = float(values[i, k])
        raise InputError(f"{name}[{place[0]}, {place[1]}] is {value}{where(index)}", argument=name, index=index)

"""torch.func.vmap folded into the batch: (V, B, ...) becomes (V B, ...), so that it costs one batched call, no loop.

A primitive sees data and points with B or 1 in front, and vectors (..., B, k) with extra dimensions in front of B.  If
none but vectors are mapped, V becomes one more extra dimension, and the factor of the KKT matrix serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dcl.cones.base import Barrier


def in_front(t: Tensor, dim: int | None, ndim: int = 0) -> Tensor:
    """t with its mapped dimension first, then at least `ndim` others (ones are put between); None: t is not mapped."""
    if dim is None:
        return t
    t = t.movedim(dim, 0)
    return t.reshape(t.shape[0], *[1] * max(ndim + 1 - t.ndim, 0), *t.shape[1:])


def size_of_batch(tensors: Sequence[Tensor], dims: Sequence[int | None]) -> int:
    """B of tensors (B or 1, ...) of which those with a dimension in `dims` are mapped along it."""
    sizes = [t.shape[0] if dim is None else t.movedim(dim, 0).shape[1] for t, dim in zip(tensors, dims, strict=True)]
    return next((size for size in sizes if size != 1), 1)


@dataclass(frozen=True)
class Fold:
    """One mapped dimension of size V in front of a batch of B instances."""

    V: int
    B: int

    def barrier(self, mu: Barrier, dim: int | None) -> Barrier:
        """mu, the number 0 or a tensor of data."""
        return self.data(mu, dim) if isinstance(mu, Tensor) else mu

    def data(self, t: Tensor, dim: int | None) -> Tensor:
        """Data or points (B or 1, ...), mapped along `dim` or not (None), as (V B or 1, ...)."""
        if dim is None and t.shape[0] == 1:
            return t
        t = t.unsqueeze(0) if dim is None else t.movedim(dim, 0)
        return t.expand(self.V, self.B, *t.shape[2:]).reshape(self.V * self.B, *t.shape[2:])

    def vectors(self, t: Tensor, dim: int | None) -> Tensor:
        """Vectors (..., B, k), mapped or not, as (..., V B, k)."""
        t = t.unsqueeze(-3) if dim is None else t.movedim(dim, 0).movedim(0, -3)
        return t.expand(*t.shape[:-3], self.V, self.B, t.shape[-1]).flatten(-3, -2)

    def unfold(self, t: Tensor, dim: int) -> Tensor:
        """The inverse for results: dimension `dim` of size V B as V, B."""
        return t.unflatten(dim, (self.V, self.B))  # type: ignore[no-any-return]

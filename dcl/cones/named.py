"""Cones from their names: the inverse of `AbstractCone.blocks`, for front ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from dcl.cones.base import AbstractCone, Block
from dcl.cones.exponential import Exponential
from dcl.cones.orthant import Nonnegative, Zero
from dcl.cones.power import Power
from dcl.cones.product import Product
from dcl.cones.second_order import SecondOrder
from dcl.cones.semidefinite import Semidefinite

# The order of the rows of a `dcl.program.Structure`.
_MAKE: dict[str, Callable[[Block], AbstractCone]] = {
    "zero": lambda block: Zero(block.size),
    "nonnegative": lambda block: Nonnegative(block.size),
    "second_order": lambda block: SecondOrder(block.size, block.count),
    "semidefinite": lambda block: Semidefinite(block.size, block.count),
    "exponential": lambda block: Exponential(block.count),
    "power": lambda block: Power(block.alphas),
}


def named(blocks: Iterable[Block]) -> AbstractCone:
    """The product of the cones with these names, a zero cone and an orthant (perhaps of no rows) first.

    Equal neighbors become one cone, so that they are projected together.
    Raises ValueError if they are not sorted as `dcl.program.Structure` says.
    """
    blocks = list(blocks)
    kinds, order = [block.kind for block in blocks], list(_MAKE)
    if kinds != sorted(kinds, key=order.index):
        raise ValueError(f"cones out of order: {', '.join(kinds)}")
    merged = [Block(kind, sum(b.size for b in blocks if b.kind == kind)) for kind in ("zero", "nonnegative")]
    for (kind, size), equal in groupby([b for b in blocks if not b.is_orthant], lambda b: (b.kind, b.size)):
        same = list(equal)
        alphas = tuple(alpha for block in same for alpha in block.alphas)
        merged.append(Block(kind, size, sum(block.count for block in same), alphas))
    return Product(tuple(_MAKE[block.kind](block) for block in merged))


def describe(blocks: Iterable[Block]) -> str:
    """As in "2 zero, 5 nonnegative, 3 second-order(4), 1 semidefinite(3)", sizes as in `Block`; equal cones are counted."""
    counts: dict[str, int] = {}
    for block in blocks:
        kind = block.kind.replace("_", "-") + (
            f"({block.size})" if block.kind in ("second_order", "semidefinite") else ""
        )
        counts[kind] = counts.get(kind, 0) + (block.size if block.is_orthant else block.count)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)

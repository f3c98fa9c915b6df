"""A cone program in the form of SCS and diffcp -> the canonical form of `dcl.program`.

    minimize 1/2 x'Px + q'x   subject to   Ax + s = b,  s in K            dual z in K*:  Px + q + A'z = 0,  s'z = 0

K is a dict, its cones in this order whatever the order of the keys:

    z   zero rows                   l   nonnegative rows           q   list of sizes of second-order cones (t first)
    s   list of orders of semidefinite cones: the lower triangle, column by column, off-diagonal entries times sqrt(2)
    ep  number of exponential cones, y exp(x/y) <= z               p   list of exponents, x^a y^(1-a) >= |z|

P is symmetrized.  The canonical form has semidefinite rows by the upper triangle: a permutation in, its inverse out.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcl.cones import AbstractCone
from dcl.cones.base import Block
from dcl.cones.named import named
from dcl.cones.semidefinite import lower_from_upper
from dcl.errors import InputError, OptionError, UnsupportedError
from dcl.frontends.batching import Batching, batching
from dcl.frontends.constants import as_tensors
from dcl.frontends.sparse import check_values
from dcl.outcome.messages import AbstractCallContext, check_convex, check_finite, check_psd
from dcl.program import ConeProgram, dense_structure, symmetric
from dcl.program.pattern import SparsePattern
from dcl.program.rows import Rows

CORE = {"P": 2, "q": 1, "A": 2, "b": 1}

_KEYS = ("z", "l", "q", "s", "ep", "p")
_KINDS = {"q": "second_order", "s": "semidefinite"}
# Keys of SCS and diffcp that have no counterpart here; nothing in them is no harm.
_UNSUPPORTED = {
    "ed": "dual exponential cones",
    "bu": "box cones",
    "bl": "box cones",
    "bsize": "box cones",
    "cs": "complex semidefinite cones",
    "d": "log-determinant cones",
    "nuc_m": "nuclear-norm cones",
    "nuc_n": "nuclear-norm cones",
    "ell1": "l1-norm cones",
    "sl_n": "sum-of-largest cones",
    "sl_k": "sum-of-largest cones",
}


@dataclass(frozen=True)
class ConeDict:
    """K by its blocks, in the order of the rows, and the map between the caller's rows and the canonical ones."""

    blocks: tuple[Block, ...]
    cone: AbstractCone
    rows: Rows

    def describe_row(self, row: int) -> str:
        """As in "row 7 of A (second-order cone 1, entry 0)", for row `row` of the canonical program."""
        place = row if self.rows.order is None else int(self.rows.order[row])
        seen: dict[str, int] = {}
        for block in self.blocks:
            rows = block.rows * block.count
            if row < rows:
                kind = block.kind.replace("_", "-")
                if block.is_orthant:
                    return f"row {place} of A ({kind})"
                return f"row {place} of A ({kind} cone {seen.get(block.kind, 0) + row // block.rows})"
            seen[block.kind] = seen.get(block.kind, 0) + block.count
            row -= rows
        raise IndexError(row)


def parse(cones: Mapping[str, Any]) -> ConeDict:
    """The cones of the caller's dict.

    Raises OptionError for an unknown key or a value that cannot be meant, UnsupportedError for a cone that dcl does not have.
    """
    if not isinstance(cones, Mapping):
        raise OptionError(f"cones must be a dict, got {type(cones).__name__}", argument="cones")
    for key, value in cones.items():
        if key in _UNSUPPORTED:
            if value is not None and np.any(np.asarray(value, dtype=np.float64) != 0.0):
                raise UnsupportedError(
                    f"cones[{key!r}]: {_UNSUPPORTED[key]} are not supported; supported: {', '.join(_KEYS)}"
                )
        elif key not in _KEYS:
            raise OptionError(f"unknown cone {key!r}; valid keys: {', '.join(_KEYS)}", argument="cones")
    blocks = [Block("zero", _count(cones, "z")), Block("nonnegative", _count(cones, "l"))]
    for key, kind in _KINDS.items():
        blocks += [Block(kind, size) for size in _sizes(cones, key) if size > 0]
    exponentials, alphas = _count(cones, "ep"), _exponents(cones)
    blocks += [Block("exponential", 3, exponentials)] if exponentials else []
    blocks += [Block("power", 3, len(alphas), alphas)] if alphas else []
    order = _order(blocks)
    trivial = np.array_equal(order, np.arange(order.size))
    cone = named(blocks)
    return ConeDict(cone.blocks, cone, Rows(None if trivial else order))


def _count(cones: Mapping[str, Any], key: str) -> int:
    return _whole(cones.get(key, 0) or 0, key)


def _whole(value: Any, key: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise OptionError(
            f"cones[{key!r}] must be a nonnegative integer or a list of them, got {value!r}", argument="cones"
        )
    return number


def _list(cones: Mapping[str, Any], key: str) -> list[Any]:
    value = cones.get(key)
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise OptionError(f"cones[{key!r}] must be a list, got {value!r}", argument="cones")
    return list(value)


def _sizes(cones: Mapping[str, Any], key: str) -> list[int]:
    return [_whole(value, key) for value in _list(cones, key)]


def _exponents(cones: Mapping[str, Any]) -> tuple[float, ...]:
    values = _list(cones, "p")
    for value in values:
        if not isinstance(value, Real) or not -1.0 < float(value) < 1.0 or float(value) == 0.0:
            raise OptionError(f"cones['p'] must be exponents between 0 and 1, got {value!r}", argument="cones")
        if float(value) < 0.0:
            raise UnsupportedError(f"cones['p'] has {value!r}: dual power cones (negative exponents) are not supported")
    return tuple(float(value) for value in values)


def _order(blocks: Sequence[Block]) -> NDArray[np.int64]:
    pieces: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    start = 0
    for block in blocks:
        inner = np.arange(block.rows)
        if block.kind == "semidefinite":
            inner = np.argsort(lower_from_upper(block.size).numpy())
        pieces += [start + k * block.rows + inner for k in range(block.count)]
        start += block.rows * block.count
    return np.concatenate(pieces)


@dataclass(frozen=True, eq=False)
class ConeContext(AbstractCallContext):
    """Names of the arguments, in the order in which their tensors are given, and of the rows.

    patterns: of the matrices that are given as values (B or 1, nnz).
    """

    cones: ConeDict
    names: tuple[str, ...]
    patterns: Mapping[str, SparsePattern] = field(default_factory=dict)

    def check(self, program: ConeProgram, given: Sequence[Tensor]) -> None:
        for name, t in zip(self.names, given, strict=True):
            if name in self.patterns:
                check_values(self, t, name, self.patterns[name])
            else:
                check_finite(self, t, name)
        if "P" in self.names:
            P = given[self.names.index("P")]
            if "P" in self.patterns:
                check_convex(self, program, "P", P.dtype)
            else:
                check_psd(self, symmetric(P).to(torch.float64), "P", P.dtype)

    def describe_row(self, row: int) -> str:
        return self.cones.describe_row(row)


def present(arguments: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The arguments that are given, as tensors; only P may be absent. Raises InputError."""
    for name in ("q", "A", "b"):
        if arguments[name] is None:
            raise InputError(f"{name} is missing", argument=name)
    return as_tensors({name: value for name, value in arguments.items() if value is not None})


def plan(arguments: Mapping[str, Tensor], cones: ConeDict) -> tuple[Batching, int]:
    """Batching and number of variables. Raises InputError, DtypeError that name the argument at fault."""
    batch = batching([(name, t, CORE[name]) for name, t in arguments.items()])
    n, m = int(arguments["q"].shape[-1]), cones.cone.dim
    if n == 0:
        raise InputError("q has no entries: a program needs at least one variable", argument="q")
    expected = {"P": (n, n), "q": (n,), "A": (m, n), "b": (m,)}
    for name, t in arguments.items():
        if tuple(t.shape[t.ndim - CORE[name] :]) != expected[name]:
            raise InputError(
                f"{name} has shape {tuple(t.shape)}: its last dimension(s) must be {expected[name]} "
                f"(q has {n} entries, the cones {m} rows)",
                argument=name,
            )
    return batch, n


def assemble(
    arguments: Mapping[str, Tensor], cones: ConeDict, batch: Batching
) -> tuple[ConeProgram, ConeContext, tuple[Tensor, ...]]:
    """The canonical program, in torch operations; its context, and the tensors that the context looks at."""
    given = {name: batch.merge(t, CORE[name]) for name, t in arguments.items()}
    flat = {name: t.to(torch.float64) for name, t in given.items()}
    n = int(flat["q"].shape[-1])
    program = ConeProgram(
        dense_structure(cones.cone, n),
        P=symmetric(flat["P"]) if "P" in flat else flat["q"].new_zeros(1, n, n),
        q=flat["q"],
        A=cones.rows.to_canonical(flat["A"], -2),
        b=cones.rows.to_canonical(flat["b"]),
    )
    context = ConeContext(batch.shape, cones, tuple(flat), rows=cones.rows)
    return program.expanded(batch.size), context, tuple(given.values())

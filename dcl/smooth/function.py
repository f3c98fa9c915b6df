"""torch functions of one instance -> the canonical form of `dcl.smooth.program`.

y and the parameters may be tensors or nested dicts, tuples and lists of tensors.  Inside, y is one vector x (n,) and every tensor
that a function needs is one of theta: the parameters' leaves, the parameters and buffers of modules, and A and b of a pair.

    x = (y_1, ..., y_k) flattened,     f(x, *theta) = sign * objective(y, *params),     c = (equality, inequality) flattened
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from dcl.cones import orthant
from dcl.errors import DtypeError, InputError
from dcl.frontends.batching import Batching
from dcl.program import dense_structure
from dcl.smooth.program import SmoothProgram
from dcl.smooth.reach import check_graph, check_layers, reached, works_in
from dcl.torch_modes import first_instance, outside_of_transforms

Function = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """One of the user's functions: its name, what it is called by, and the tensors of its own, by name.

    call(y, params, own): own tensors as they come in theta.  columns: of the matrix of a pair.
    """

    name: str
    function: Callable[..., Any]
    call: Callable[[Any, Sequence[Any], Sequence[Tensor]], Any]
    own: dict[str, Tensor]
    columns: int | None = None


def part(name: str, given: Any) -> Part:
    """A module, whose parameters become tensors of its own; a pair (A, b); or any other callable."""
    if isinstance(given, nn.Module):
        tensors = dict(given.named_parameters()) | dict(given.named_buffers())

        def call_module(y: Any, params: Sequence[Any], own: Sequence[Tensor]) -> Any:
            return torch.func.functional_call(given, dict(zip(tensors, own, strict=True)), (y, *params))

        return Part(name, given, call_module, tensors)
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(t, Tensor) for t in given):
        A, b = given
        if A.ndim != 2 or b.shape != A.shape[:1]:
            raise InputError(
                f"{name} is a pair (A, b) with shapes {tuple(A.shape)} and {tuple(b.shape)}: A must be (p, n) for y flattened "
                "to n entries, b (p,)",
                argument=name,
            )

        def call_pair(y: Any, params: Sequence[Any], own: Sequence[Tensor]) -> Tensor:
            flat = torch.cat([t.reshape(-1) for t in tree_flatten(y)[0]])
            return own[0] @ flat - own[1]

        return Part(name, call_pair, call_pair, {"A": A, "b": b}, A.shape[1])
    if not callable(given):
        raise InputError(f"{name} must be a function of (y, *params), got {type(given).__name__}", argument=name)
    return Part(name, given, lambda y, params, own: given(y, *params), {})


@dataclass(frozen=True, eq=False)
class Tree:
    """How a nested structure of tensors and other things is taken apart: `spec`, and which leaves are tensors."""

    spec: TreeSpec
    fixed: tuple[Any, ...]

    @cached_property
    def is_leaf(self) -> bool:
        """Is it a tensor itself?"""
        return self.fixed == (None,) and self.spec.is_leaf()

    def put(self, tensors: Sequence[Tensor]) -> Any:
        """The structure with these tensors in it."""
        if self.is_leaf:
            return tensors[0]
        rest = iter(tensors)
        return tree_unflatten([next(rest) if t is None else t[0] for t in self.fixed], self.spec)


def take_apart(tree: Any) -> tuple[Tree, list[Tensor]]:
    """A Tree and its tensors; leaves that are no tensors stay in the Tree."""
    leaves, spec = tree_flatten(tree)
    fixed = tuple(None if isinstance(t, Tensor) else (t,) for t in leaves)
    return Tree(spec, fixed), [t for t in leaves if isinstance(t, Tensor)]


@dataclass(frozen=True, eq=False)
class Plan:
    """A call taken apart. theta: all tensors of it, (B or 1, ...), with `names`; start (B, n)."""

    program: SmoothProgram
    tree: Tree
    shapes: tuple[tuple[int, ...], ...]
    batch: Batching
    start: Tensor
    theta: tuple[Tensor, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[str, int], ...]
    pack: Callable[[Any], Tensor]
    unpack: Callable[..., tuple[Any, list[Any]]]

    def outputs(self, x: Tensor) -> Any:
        """y in the caller's structure and shapes, from x (B, n) in its final dtype."""
        sizes = [_size(shape) for shape in self.shapes]
        parts = torch.split(x, sizes, dim=-1)
        lead = x.shape[:-1]
        return self.tree.put([t.reshape((*lead, *shape)) for t, shape in zip(parts, self.shapes, strict=True)])


def _size(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def _leading(name: str, t: Tensor, batch_dims: int, batch: tuple[int, ...] | None) -> tuple[int, ...]:
    if t.ndim < batch_dims:
        raise InputError(
            f"{name} has shape {tuple(t.shape)}, but in_dims says that its first {batch_dims} dimension(s) are the batch",
            argument=name,
        )
    lead = tuple(t.shape[:batch_dims])
    if batch is not None and lead != batch:
        raise InputError(
            f"{name} has shape {tuple(t.shape)}: in_dims says that its first dimensions are the batch, but the batch is {batch} "
            "in the arguments before it; in in_dims=(0, None, ...) None marks what the whole batch shares",
            argument=name,
        )
    return lead


def _check_type(name: str, t: Tensor, *, floating: bool) -> None:
    if t.is_complex() or (floating and not t.dtype.is_floating_point):
        raise DtypeError(f"{name} must be real floating point, got {t.dtype}", argument=name)
    if t.layout != torch.strided:
        raise InputError(f"{name} has layout {t.layout}: pass {name}.to_dense()", argument=name)


def plan(
    parts: Sequence[Part],
    sign: float,
    y0: Any,
    params: Sequence[Any],
    in_dims: Sequence[int | None] | None,
    batch_dims: int,
) -> Plan:
    """The call taken apart, with every error that can be told from shapes, types and one evaluation."""
    flags = _flags(in_dims, len(params))
    tree, starts = take_apart(y0)
    if not starts or any(t is not None for t in tree.fixed):
        raise InputError("y0 must be a tensor, or a dict, tuple or list of tensors", argument="y0")
    named = [("y0" if len(starts) == 1 else f"y0 (tensor {k})", t, flags[0]) for k, t in enumerate(starts)]
    trees, counts = [], []
    for k, value in enumerate(params):
        one, tensors = take_apart(value)
        trees.append(one)
        counts.append(len(tensors))
        many = len(tensors) > 1
        named += [(f"params[{k}]" + (f" (tensor {j})" if many else ""), t, flags[1 + k]) for j, t in enumerate(tensors)]
    batch: tuple[int, ...] | None = None
    dtype, device = starts[0].dtype, starts[0].device
    for k, (name, t, mapped) in enumerate(named):
        _check_type(name, t, floating=k < len(starts))
        if mapped:
            batch = _leading(name, t, batch_dims, batch)
        if t.device != device:
            raise InputError(f"{name} is on {t.device}, y0 on {device}", argument=name)
        if t.dtype.is_floating_point:
            dtype = torch.promote_types(dtype, t.dtype)
    if any(flags) and batch is None:
        raise InputError(
            "in_dims marks only arguments without tensors, so the size of the batch is unknown", argument="in_dims"
        )
    layout = Batching(batch or (), dtype, device)

    def merged(t: Tensor, mapped: bool) -> Tensor:
        t = t.clone() if t.is_inference() else t
        t = t.to(torch.float64) if t.dtype.is_floating_point else t
        return t.reshape(layout.size, *t.shape[batch_dims:]) if mapped else t.unsqueeze(0)

    tensors = [merged(t, mapped) for _, t, mapped in named]
    names = [name for name, _, _ in named]
    k = len(starts)
    shapes = tuple(tuple(t.shape[1:]) for t in tensors[:k])
    start = torch.cat([t.reshape(t.shape[0], -1) for t in tensors[:k]], -1).detach().expand(layout.size, -1)
    if not start.shape[-1]:
        raise InputError("y0 has no entries", argument="y0")
    for given in parts:
        if given.columns not in (None, start.shape[-1]):
            raise InputError(
                f"{given.name}: A has {given.columns} columns, but y has {start.shape[-1]} entries", argument=given.name
            )
    theta = tensors[k:]
    theta += [merged(t, False) for one in parts for t in one.own.values()]
    names = names[k:] + [f"{one.name} ({key})" for one in parts for key in one.own]
    owned = [len(one.own) for one in parts]
    first = sum(counts)
    begins = [first + sum(owned[:k]) for k in range(len(parts))]

    sizes = [_size(shape) for shape in shapes]
    is_flat = tree.is_leaf and len(shapes[0]) == 1

    def unpack(x: Tensor, *theta: Tensor) -> tuple[Any, list[Any]]:
        # an operation that changes nothing costs as much as one that does, in each derivative once more
        pieces = [x] if is_flat else [t.reshape(s) for t, s in zip(torch.split(x, sizes), shapes, strict=True)]
        y = tree.put(pieces)
        groups: list[Any] = []
        place = 0
        for one, count in zip(trees, counts, strict=True):
            groups.append(one.put(theta[place : place + count]))
            place += count
        return y, groups

    def evaluate(k: int, x: Tensor, *theta: Tensor) -> Any:
        y, values = unpack(x, *theta)
        return parts[k].call(y, values, theta[begins[k] : begins[k] + owned[k]])

    rows = _try(parts, evaluate, start, theta, tuple(flags))
    groups = [i for i in range(1, len(parts)) if rows[i][1]]

    def f(x: Tensor, *theta: Tensor) -> Tensor:
        value: Tensor = evaluate(0, x, *theta)
        value = value.reshape(()) if value.ndim else value
        return -value if sign < 0.0 else value

    def c(x: Tensor, *theta: Tensor) -> Tensor:
        if not groups:
            return x.new_zeros(0)
        values = [evaluate(i, x, *theta) for i in groups]
        values = [t if t.ndim == 1 else t.reshape(-1) for t in values]
        return values[0] if len(values) == 1 else torch.cat(values)

    by_name = dict(rows[1:])
    structure = dense_structure(orthant(by_name.get("equality", 0), by_name.get("inequality", 0)), start.shape[-1])

    def pack(y: Any) -> Tensor:
        found, leaves = take_apart(y)
        if found.spec != tree.spec or tuple(tuple(t.shape) for t in leaves) != shapes:
            raise InputError("solver must return y with the structure and the shapes of y0", argument="solver")
        return torch.cat([t.reshape(-1) for t in leaves])

    return Plan(
        SmoothProgram(structure, f, c),
        tree,
        shapes,
        layout,
        start,
        tuple(theta),
        tuple(names),
        tuple(rows[1:]),
        pack,
        unpack,
    )


def _flags(in_dims: Sequence[int | None] | None, count: int) -> list[bool]:
    if in_dims is None:
        return [False] * (1 + count)
    if not isinstance(in_dims, (tuple, list)) or len(in_dims) != 1 + count or any(d not in (0, None) for d in in_dims):
        raise InputError(
            f"in_dims is {in_dims!r}: it must have {1 + count} entries, one for y0 and one for each of the {count} parameters, "
            "0 (its first dimensions are the batch) or None (shared by the batch)",
            argument="in_dims",
        )
    return [d == 0 for d in in_dims]


def _try(
    parts: Sequence[Part],
    evaluate: Callable[..., Any],
    start: Tensor,
    theta: Sequence[Tensor],
    mapped: tuple[bool, ...],
) -> list[tuple[str, int]]:
    """(name, number of rows) of each part, after one instance was evaluated and everything that can be wrong looked for."""
    if start.shape[0] == 0:
        raise InputError("y0 has a batch of size zero", argument="y0")
    for one in parts:
        check_layers(one.name, one.function, one.own.values())
    record = torch.is_grad_enabled()
    x_plain = first_instance(start)[0]
    plain = [first_instance(t)[0] for t in theta]
    rows = []
    with outside_of_transforms(), torch.enable_grad():
        x = x_plain.clone().requires_grad_()
        leaves = [t.clone().requires_grad_() if t.dtype.is_floating_point else t for t in plain]
        for k, one in enumerate(parts):
            try:
                out, again = (evaluate(k, x, *leaves) for _ in range(2))
            except (RuntimeError, TypeError) as error:
                dtype = works_in(partial(evaluate, k), x, leaves)
                if dtype is not None:
                    raise _of_another_precision(one, dtype) from None
                alone = (
                    ""
                    if any(mapped)
                    else "; without in_dims, y0 and the parameters are ONE instance: see in_dims for a batch"
                )
                raise InputError(
                    f"{one.name}(y, *params), with {len(mapped) - 1} parameter(s), fails on one instance: {error}{alone}",
                    argument=one.name,
                ) from error
            rows.append((one.name, _check_result(one, x, out, again, scalar=k == 0)))
            if record and out.numel():
                check_graph(one.name, one.function, out, [x, *leaves])
    return rows


def _of_another_precision(one: Part, dtype: torch.dtype) -> InputError:
    """The error for a function that works in this dtype only; it names the tensors of that dtype within its reach."""
    tensors = [name for name, thing in reached(one.function) if isinstance(thing, Tensor) and thing.dtype == dtype]
    names = ", ".join(map(repr, dict.fromkeys(tensors)))
    short = str(dtype).removeprefix("torch.")
    found = f"it uses {names} in {short}" if names else f"it makes or loads tensors in {short}"
    return InputError(
        f"{one.name} works in {short} only: {found}, while y and the parameters are in float64 inside. Pass these tensors as "
        f"parameters, {one.name}(y, *params), or convert them with .double(); a network as the {one.name} itself is converted",
        argument=one.name,
    )


def _check_result(one: Part, x: Tensor, out: Any, again: Any, *, scalar: bool) -> int:
    """The number of entries of a result; raises InputError for what is no differentiable, reproducible function of y."""
    name = one.name
    if not isinstance(out, Tensor):
        raise InputError(f"{name} must return a tensor, got {type(out).__name__}", argument=name)
    if not out.dtype.is_floating_point:
        raise InputError(f"{name} returns {out.dtype}, which cannot be differentiated", argument=name)
    if scalar and out.numel() != 1:
        raise InputError(
            f"{name} must return one number for one instance, got shape {tuple(out.shape)}; for a batch, give in_dims",
            argument=name,
        )
    first, second = (float(t.detach().reshape(-1)[0]) if t.numel() else 0.0 for t in (out, again))
    # equal but for the order of sums on a GPU
    if not torch.allclose(out.detach(), again.detach(), rtol=1e-9, atol=1e-12, equal_nan=True):
        raise InputError(
            f"{name} gives {first:.6g} and then {second:.6g} at the same point: it "
            "draws random numbers or changes state",
            argument=name,
        )
    graph = out.numel() and out.grad_fn is not None
    if out.numel() and (
        not graph or torch.autograd.grad(out.sum(), x, retain_graph=True, allow_unused=True)[0] is None
    ):
        raise InputError(
            f"{name} is not a differentiable function of y: no graph leads from y to its result (is y unused, or was something "
            "detached, rounded or converted to numbers?)",
            argument=name,
        )
    return out.numel()

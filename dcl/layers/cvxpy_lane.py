"""A CVXPY problem's way through the compiled core: parameters -> P, q, A, b -> x, z -> variables and duals, and its adjoint.

    theta_p = vec of parameter p        data = affine maps of theta        zero rows of A are equalities, the others inequalities
    value = sign (1/2 x'Px + q'x + d)   the core's value is without d

For forms that are stored dense and have no logarithms; for linear constraints, and for cones that the core has (`cone_lane`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.core import dense
from dcl.core.conic import ConicAnswer
from dcl.errors import InputError
from dcl.frontends.cvxpy import CanonicalForm
from dcl.layers.cvxpy_blocks import AbstractBlock, Gathered, Whole, blocks_of, thetas_of
from dcl.layers.lane import AbstractMap, Grads


@dataclass(frozen=True, eq=False)
class CvxpyMap(AbstractMap):
    """values: places of the optimal value among the outputs.  shared: is the parameter shared by the batch?

    dtype: the caller's.  blocks: of the core's program.  checked: parameters whose domain the core does not look at.
    bounded: parameters that must be finite where the core would accept an infinite number or not see it.
    """

    form: CanonicalForm
    values: tuple[int, ...]
    shared: tuple[bool, ...]
    dtype: torch.dtype
    blocks: Mapping[str, AbstractBlock]
    checked: tuple[int, ...]
    bounded: tuple[int, ...]

    def data(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        check(self.form, self.checked, self.bounded, given)
        return {name: block(given) for name, block in self.blocks.items()}

    def outputs(self, answer: dense.Answer | ConicAnswer, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        form = self.form
        z = torch.cat([answer.y, answer.z], -1) if any(output.dual for output in form.outputs) else answer.z
        found = list(form.extract(answer.x, z))
        if self.values:
            d = form.map_d.numbers(thetas_of(form, given, form.map_d)).squeeze(-1)
            value = answer.value + (d.reshape(answer.value.shape) if d.shape[0] > 1 else d.squeeze(0))
            for place in self.values:
                found.insert(place, -value if form.maximize else value)
        # a part of the core's memory would be a view, which autograd does not let the caller change in place
        return tuple([t.to(self.dtype, copy=t._is_view()) for t in found])

    def cotangents(self, grads: Grads) -> dict[str, Tensor]:
        form = self.form
        parts = [g for i, g in enumerate(grads) if i not in self.values]
        found: dict[str, Tensor] = {}
        if self._is_x(parts):
            found["x"] = parts[0].to(torch.float64).contiguous()  # type: ignore[union-attr]
        elif any(g is not None for g in parts):
            structure, zeros = form.structure, form.structure.cone.zeros
            batch = next(
                math.prod(g.shape[: g.ndim - len(output.shape)])
                for g, output in zip(parts, form.outputs, strict=True)
                if g is not None
            )
            x, z = (torch.zeros(batch, size, dtype=torch.float64, device="cpu") for size in (structure.n, structure.m))
            form.extract_adjoint(parts, x, z)
            found["x"] = x
            if any(output.dual for output in form.outputs):
                found |= {"y": z[:, :zeros].contiguous(), "z": z[:, zeros:].contiguous()}
        value = self._value(grads)
        return found if value is None else found | {"value": value}

    def _is_x(self, parts: Grads) -> bool:
        """Is the only output all of x as it is?"""
        return len(parts) == 1 and parts[0] is not None and self.form.outputs[0].is_all(self.form.structure.n)

    def _value(self, grads: Grads) -> Tensor | None:
        """The cotangent of 1/2 x'Px + q'x + d."""
        given = [g for i in self.values if (g := grads[i]) is not None]
        if not given:
            return None
        total = torch.stack(given).sum(0).to(torch.float64)
        return (-total if self.form.maximize else total).contiguous()

    def wanted(self, needed: Sequence[bool]) -> list[str]:
        return [name for name, block in self.blocks.items() if any(needed[p] for p in block.touching)]

    def gradients(self, blocks: Mapping[str, Tensor], grads: Grads, needed: Sequence[bool]) -> list[Tensor | None]:
        form = self.form
        terms = [self.blocks[name].adjoint(g) for name, g in blocks.items()]
        value = self._value(grads)
        if value is not None and form.map_d.touching:
            terms.append(Gathered(form.map_d, form, (1,)).adjoint(value))
        total: list[Tensor | None] = [None] * len(form.domains)
        for term in terms:
            for p, g in term.items():
                if not needed[p]:
                    continue
                if self.shared[p] and g.numel() > math.prod(form.domains[p].shape):
                    g = g.reshape(-1, *form.domains[p].shape).sum(0)
                so_far = total[p]
                total[p] = g if so_far is None else so_far + g.reshape(so_far.shape)
        return [None if g is None else g.to(self.dtype) for g in total]


def check(form: CanonicalForm, checked: Sequence[int], bounded: Sequence[int], given: Sequence[Tensor]) -> None:
    """Raise InputError where a parameter of `checked` is outside of its domain, or one of `bounded` is not finite."""
    for p in checked:
        form.check_domain(given[p], p)
    for p in bounded:
        if not _is_finite(given[p]):
            name = form.domains[p].name
            raise InputError(f"{name} is not finite", argument=name)


def is_direct(form: CanonicalForm) -> bool:
    """Are its data affine maps of the parameters, and its outputs entries of x and z?"""
    return not (form.gp or form.logs or any(output.exp for output in form.outputs))


def _is_finite(t: Tensor) -> bool:
    # a finite sum, which is one operation instead of five, has finite terms; finite terms may have an infinite sum
    return math.isfinite(float(t.sum())) or bool(torch.isfinite(t).all())


def cvxpy_map(
    form: CanonicalForm, values: tuple[int, ...], shared: tuple[bool, ...], dtype: torch.dtype
) -> CvxpyMap | None:
    """The map of a form to a program of the core, None where there is none."""
    if not form.dense or not is_direct(form):
        return None
    blocks = blocks_of(form)
    P = blocks.get("P")
    # the core looks at the eigenvalues of P, and lets h be infinite
    seen = {p for name in ("P", "q", "A", "G") if name in blocks for p in blocks[name].touching}
    unseen = {p for name in ("b", "h") if name in blocks for p in blocks[name].touching} | form.map_d.parameters
    checked = []
    for p, domain in enumerate(form.domains):
        inside = isinstance(P, Whole) and P.parameter == p and domain.sign * P.factor > 0.0
        bounded = domain.lower is not None or domain.upper is not None or domain.strict or domain.free is not None
        if bounded or (domain.sign and not inside):
            checked.append(p)
    finite = tuple(p for p in range(len(form.domains)) if p in checked or p in unseen or p not in seen)
    return CvxpyMap(form, values, shared, dtype, blocks, tuple(checked), finite)

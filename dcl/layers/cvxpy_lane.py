"""A CVXPY problem's way through the compiled core: parameters -> P, q, A, b -> x, z -> variables and duals, and its adjoint.

    theta_p = vec of parameter p        data = affine maps of theta        zero rows of A are equalities, the others inequalities
    value = sign (1/2 x'Px + q'x + d)   the core's value is without d

For forms that are stored dense, with cones that the core has and without logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dcl.core import dense
from dcl.core.conic import ConicAnswer, conic_core
from dcl.errors import InputError
from dcl.frontends.cvxpy import CanonicalForm
from dcl.frontends.cvxpy.form import unflatten_columns
from dcl.layers.lane import AbstractMap, Core, Grads


@dataclass(frozen=True, eq=False)
class CvxpyMap(AbstractMap):
    """values: places of the optimal value among the outputs.  shared: is the parameter shared by the batch?

    checked: parameters whose values the core does not check.
    """

    form: CanonicalForm
    values: tuple[int, ...]
    shared: tuple[bool, ...]
    checked: tuple[int, ...]
    core: Core = dense

    @property
    def _zeros(self) -> int:
        return self.form.structure.cone.zeros

    @cached_property
    def _quadratic(self) -> bool:
        """May P be other than zero?"""
        return bool(self.form.map_P.touching) or bool(self.form.map_P.offset.any())

    def _thetas(self, given: Sequence[Tensor]) -> list[Tensor]:
        return [self.form.flatten(t.to(torch.float64), p) for p, t in enumerate(given)]

    def data(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        form, zeros = self.form, self._zeros
        for p in self.checked:
            form.check_domain(given[p], p)
            if not bool(torch.isfinite(given[p]).all()):
                raise InputError(f"{form.domains[p].name} is not finite", argument=form.domains[p].name)
        program, _ = form.program(self._thetas(given))
        blocks = {"q": program.q.contiguous()}
        if self._quadratic:
            blocks["P"] = program.P.contiguous()
        if zeros:
            blocks |= {"A": program.A[:, :zeros].contiguous(), "b": program.b[:, :zeros].contiguous()}
        if form.structure.m > zeros:
            blocks |= {"G": program.A[:, zeros:].contiguous(), "h": program.b[:, zeros:].contiguous()}
        return blocks

    def outputs(self, answer: dense.Answer | ConicAnswer, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        form = self.form
        found = list(form.extract(answer.x, torch.cat([answer.y, answer.z], -1)))
        if self.values:
            d = form.map_d(self._thetas(given)).squeeze(-1)
            value = answer.value + d
            for place in self.values:
                found.insert(place, -value if form.maximize else value)
        return tuple(found)

    def cotangents(self, grads: Grads) -> dict[str, Tensor]:
        batch = next(g.shape[0] for g in grads if g is not None)
        structure, zeros = self.form.structure, self._zeros
        x, z = (torch.zeros(batch, size, dtype=torch.float64, device="cpu") for size in (structure.n, structure.m))
        self.form.extract_adjoint([g for i, g in enumerate(grads) if i not in self.values], x, z)
        found = {"x": x, "y": z[:, :zeros].contiguous(), "z": z[:, zeros:].contiguous()}
        value = self._value(grads)
        return found if value is None else found | {"value": value}

    def _value(self, grads: Grads) -> Tensor | None:
        """The cotangent of 1/2 x'Px + q'x + d."""
        given = [g for i in self.values if (g := grads[i]) is not None]
        if not given:
            return None
        total = torch.stack(given).sum(0).to(torch.float64)
        return (-total if self.form.maximize else total).contiguous()

    def wanted(self, needed: Sequence[bool]) -> list[str]:
        form, zeros = self.form, self._zeros
        maps = {"P": form.map_P, "q": form.map_q, "A": form.map_A, "b": form.map_b, "G": form.map_A, "h": form.map_b}
        there = {"P": True, "q": True, "A": zeros > 0, "b": zeros > 0}
        there |= dict.fromkeys(("G", "h"), form.structure.m > zeros)
        return [name for name, affine in maps.items() if there[name] and any(needed[p] for p in affine.touching)]

    def gradients(self, blocks: Mapping[str, Tensor], grads: Grads, needed: Sequence[bool]) -> list[Tensor | None]:
        form = self.form
        pieces = {
            "P": (form.map_P, [blocks[name] for name in ("P",) if name in blocks]),
            "q": (form.map_q, [blocks[name] for name in ("q",) if name in blocks]),
            "A": (form.map_A, [blocks[name] for name in ("A", "G") if name in blocks]),
            "b": (form.map_b, [blocks[name] for name in ("b", "h") if name in blocks]),
        }
        terms = [(affine, torch.cat(parts, 1).flatten(1)) for affine, parts in pieces.values() if parts]
        value = self._value(grads)
        if value is not None and form.map_d.touching:
            terms.append((form.map_d, value.unsqueeze(-1)))
        total: dict[int, Tensor] = {}
        sizes = [math.prod(domain.shape) for domain in form.domains]
        for affine, y in terms:
            for p, g in affine.adjoint(y, sizes).items():
                if needed[p]:
                    g = g.sum(0, keepdim=True) if self.shared[p] and g.shape[0] > 1 else g
                    total[p] = g if p not in total else total[p] + g
        return [
            unflatten_columns(total[p], domain.shape) if p in total else None for p, domain in enumerate(form.domains)
        ]


def cvxpy_map(form: CanonicalForm, values: tuple[int, ...], shared: tuple[bool, ...]) -> CvxpyMap | None:
    """The way of a form through the core, None where the core does not take it."""
    cone = form.structure.cone
    core = dense if cone.is_orthant else conic_core(cone.blocks, form.structure.n)
    if not form.dense or core is None or form.gp or form.logs:
        return None
    if any(output.exp for output in form.outputs):
        return None
    # the core looks at the eigenvalues of P, where that is the parameter and nothing else, and lets h be infinite
    P = form.map_P
    alone = len(P.touching) == 1 and not P.rest_rows.numel() and not bool(P.offset.any())
    others = form.map_q.parameters | form.map_A.parameters
    checked = []
    for p, domain in enumerate(form.domains):
        bounded = domain.lower is not None or domain.upper is not None or domain.strict or domain.free is not None
        seen = (p in others or p in P.parameters) and p not in form.map_b.parameters and p not in form.map_d.parameters
        if bounded or not seen or (domain.sign and not (alone and p in P.parameters)):
            checked.append(p)
    return CvxpyMap(form, values, shared, tuple(checked), core)

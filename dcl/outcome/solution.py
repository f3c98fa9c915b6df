"""An answer: the point, its residuals as measured by dcl, and whether its derivative can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from dcl.cones.base import Barrier
from dcl.errors import InputError, UnsupportedError, warn_deprecated
from dcl.point import Point, worst
from dcl.point.asked import Moving, Requested
from dcl.point.degeneracy import Degeneracy, classify, resolved
from dcl.program import ConeProgram
from dcl.program.pattern import DensePattern
from dcl.status import Status
from dcl.torch_modes import is_readable


@dataclass(frozen=True, eq=False)
class Solution:
    """An answer, detached from the graph. The first dimensions of every tensor are the batch dimensions of the call.

    `solution["x"]` is what the layer returns under that name: a variable of a CVXPY problem, or x, y, z, ... of a QPLayer.
    Every program is brought to the canonical form: minimize 1/2 x'Px + q'x subject to Ax + s = b, s in K. Its multipliers
    are z in K*.

    Attributes:
        outputs: what the layer returns, in its order; `names` are their names.
        canonical_x: the variables of that program, (*batch, n). For matrices and functions these are your own variables, and
            `x` is the same.
        z, s: its multipliers and slacks, (*batch, m). The order of the rows: for a `ConeLayer`, the rows of A and b; for a
            `QPLayer`, those of A, G, lb and ub (where a right-hand side is infinite, z is 0 and s is 1); for a CVXPY problem,
            those of its canonical form, which has more variables and rows than the problem.
        value: the optimal value, (*batch).
        status: `dcl.Status` as integers, (*batch).
        primal_residual, dual_residual, gap: relative, as measured by dcl, (*batch).
        iterations, seconds: of all solvers that were tried, (*batch).
        solver: position in `solvers` of the solver that found the point, (*batch).
        solvers: names of the solvers that were tried.
        certificate: None, or (*batch, n + m): the checked certificate of each infeasible instance. It is z (the last
            m) with z in K*, A'z = 0, b'z < 0, or x (the first n) with Px = 0, -Ax in K, q'x < 0. NaN elsewhere.

    Raises InputError for an unknown name.

    Example:
        >>> import torch, dcl
        >>> q = torch.tensor([[-1.0, -3.0], [-1.0, -1.0]])
        >>> result, solution = dcl.QPLayer()(torch.eye(2), q, lb=0.0, ub=2.0, return_solution=True)
        >>> solution["x"]
        tensor([[1., 2.],
                [1., 1.]])
        >>> solution.value
        tensor([-4.5000, -1.0000])
        >>> bool(solution.ok.all()), bool((solution.primal_residual < 1e-9).all())
        (True, True)
    """

    outputs: tuple[Tensor, ...]
    names: tuple[str, ...]
    canonical_x: Tensor
    z: Tensor
    s: Tensor
    value: Tensor
    status: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    gap: Tensor
    iterations: Tensor
    seconds: Tensor
    solver: Tensor
    solvers: tuple[str, ...]
    certificate: Tensor | None
    # in the units of `dcl.program.scaling`, the rows in dcl's own order
    _program: ConeProgram
    _v: Tensor
    _mu: Barrier
    requested: Requested | None = None
    moving: Moving | None = None
    known_degeneracy: Degeneracy | None = None
    is_own_x: bool = True
    # the units of x in _program, (B or 1, n), None for one
    _columns: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise InputError(f"the solution has no {name!r}; it has {', '.join(self.names)}", argument="name")
        return self.outputs[self.names.index(name)]

    @property
    def x(self) -> Tensor:
        """(*batch, n), x of the matrices or y of the function. For a CVXPY problem it is the older name of `canonical_x`."""
        if not self.is_own_x:
            warn_deprecated(
                "Solution.x",
                'solution["name"] for a variable, or solution.canonical_x for the variables of the canonical program',
            )
        return self.canonical_x

    @property
    def program(self) -> ConeProgram:
        """Older name; in the units of `dcl.program.scaling`."""
        warn_deprecated("Solution.program", "your own data (this attribute is in dcl's units)")
        return self._program

    @property
    def v(self) -> Tensor:
        """Older name; z - s in the units of `dcl.program.scaling`."""
        warn_deprecated("Solution.v", "solution.z - solution.s (this attribute is in dcl's units)")
        return self._v

    @property
    def mu(self) -> Barrier:
        """Older name; in the units of `dcl.program.scaling`."""
        warn_deprecated("Solution.mu", "the mu that you passed (this attribute is in dcl's units)")
        return self._mu

    @property
    def ok(self) -> Tensor:
        """(*batch) boolean: OPTIMAL."""
        # torch.compile takes the comparison of a tensor with an IntEnum for a constant, False (torch 2.13)
        return self.status == int(Status.OPTIMAL)

    @cached_property
    def _degeneracy(self) -> Degeneracy:
        if self.known_degeneracy is not None:
            return self.known_degeneracy
        if not is_readable(self._v):
            raise UnsupportedError(
                "gradient_kind is not known inside torch.func.vmap: return the Solution, and ask it outside"
            )
        program, v, mu = self._in_one_batch()
        x = self._x_in_units
        residual = torch.maximum(self.primal_residual, self.dual_residual).reshape(-1)
        masks = self.requested
        requested = masks and Requested(*(mask.reshape(-1, mask.shape[-1])[0] for mask in masks))
        return classify(resolved(Point(program, x, v, mu)), residual, requested, self.moving)

    @property
    def _x_in_units(self) -> Tensor:
        """The x (B, n) of `_program`."""
        x = self.canonical_x.reshape(-1, self.canonical_x.shape[-1])
        return x if self._columns is None else x / self._columns.reshape(-1, x.shape[-1])

    def _in_one_batch(self) -> tuple[ConeProgram, Tensor, Barrier]:
        """program, v and mu with one batch dimension; torch.func.vmap has put others in front."""
        lead = self._v.shape[:-1]

        def one(t: Tensor, core: int) -> Tensor:
            rest = t.shape[t.ndim - core :]
            return t.reshape(1, *rest) if t.numel() == rest.numel() else t.expand(*lead, *rest).reshape(-1, *rest)

        program, structure = self._program, self._program.structure
        core_P, core_A = (2 if isinstance(M, DensePattern) else 1 for M in (structure.P, structure.A))
        program = ConeProgram(
            structure, one(program.P, core_P), one(program.q, 1), one(program.A, core_A), one(program.b, 1)
        )
        return program, one(self._v, 1), one(self._mu, 1) if isinstance(self._mu, Tensor) else self._mu

    def _shaped(self, t: Tensor) -> Tensor:
        return t.reshape(self.status.shape)

    @property
    def gradient_kind(self) -> Tensor:
        """(*batch) `dcl.GradientKind` as integers; computed at the first access if no gradient was recorded."""
        return self._shaped(self._degeneracy.kind)

    @property
    def margin(self) -> Tensor:
        """(*batch) strict-complementarity margin, see `dcl.point.degeneracy`."""
        return self._shaped(self._degeneracy.margin)

    @property
    def condition(self) -> Tensor:
        """(*batch) estimated 2-norm condition of the KKT matrix."""
        return self._shaped(self._degeneracy.condition)

    def __repr__(self) -> str:
        if not is_readable(self._v):
            return "Solution(one instance inside torch.func.vmap)"
        residual = worst(torch.stack([self.primal_residual, self.dual_residual, self.gap], -1))
        groups = []
        for status in Status:
            those = residual[self.status == int(status)]
            if those.numel():
                size = float(those.max())
                reached = f" (worst residual {size:.1e})" if size < torch.inf else ""
                groups.append(f"{those.numel()} {status.name}{reached}")
        lines = [f"Solution({', '.join(groups) or 'empty batch'})"]
        shown = list(zip(self.names, self.outputs, strict=True))
        shown += [] if "value" in self.names else [("value", self.value)]
        return "\n".join(lines + [_line(name, t) for name, t in shown if t.numel()])


def _line(name: str, t: Tensor) -> str:
    """As in "  x (3, 2) = [[0.25, 0.75], ...", with dots where there are many entries."""
    shape = f" {tuple(t.shape)}" if t.ndim > 1 else ""
    array = t.detach().cpu().numpy()
    values = np.array2string(array, precision=6, threshold=16, edgeitems=2, separator=", ", suppress_small=True)
    return f"  {name}{shape} = " + " ".join(values.split())


_PLAIN = (
    "outputs", "canonical_x", "z", "s", "value", "status", "primal_residual", "dual_residual", "gap", "iterations", "seconds",
    "solver", "_v",
)  # fmt: skip
_OPTIONAL = ("certificate", "requested", "_columns")
_DATA = ("P", "q", "A", "b")
_DEGENERACY = ("kind", "margin", "weakest", "condition", "dependent", "barrier_helps")


def _flatten(solution: Solution) -> tuple[list[Any], Any]:
    """The tensors, and what is no tensor: solvers, structure, moving, mu = 0, and which of the optional parts are there."""
    # torch also makes trees of integers with this structure
    known, is_tensor = solution.known_degeneracy, not isinstance(solution._mu, float)
    optional = tuple(name for name in _OPTIONAL if getattr(solution, name) is not None)
    children = [getattr(solution, name) for name in (*_PLAIN, *optional)]
    children += [getattr(solution._program, name) for name in _DATA]
    children += [getattr(known, name) for name in _DEGENERACY] if known is not None else []
    children += [solution._mu] if is_tensor else []
    fixed = solution.solvers, solution._program.structure, solution.moving, solution.names, solution.is_own_x
    return children, (*fixed, optional, known is not None, is_tensor)


def _unflatten(children: Any, context: Any) -> Solution:
    solvers, structure, moving, names, own, optional, is_known, is_tensor = context
    rest = iter(children)

    def take(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: next(rest) for name in names}

    parts: dict[str, Any] = dict.fromkeys(_OPTIONAL) | take((*_PLAIN, *optional))
    program = ConeProgram(structure, **take(_DATA))
    known = Degeneracy(**take(_DEGENERACY)) if is_known else None
    mu = next(rest) if is_tensor else 0.0
    fixed = {"names": names, "is_own_x": own, "solvers": solvers, "moving": moving}
    return Solution(**parts, **fixed, _program=program, _mu=mu, known_degeneracy=known)


_pytree.register_pytree_node(Solution, _flatten, _unflatten, serialized_type_name="dcl.Solution")

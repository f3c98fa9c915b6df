"""Cone programs given as matrices and a dict of cones, as a torch layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Never

import torch
from torch import Tensor

from dcl.cones.named import describe
from dcl.core.conic import conic_core
from dcl.frontends import cone
from dcl.frontends.arguments import check_known
from dcl.frontends.constants import TensorLike
from dcl.frontends.sparse_program import Assembled, Form, Patterns, assemble_cone, cone_form
from dcl.layers.base import Arguments, Plan, Stated
from dcl.layers.calls import ConeCall
from dcl.layers.cone_lane import ConeMap, ConicWay
from dcl.layers.engine import Engine, LayerPoint, Settings, options
from dcl.layers.lane import AbstractWay
from dcl.layers.sparse import AbstractMatrixLayer
from dcl.layers.vertex import Linear, matrix_linear
from dcl.outcome.solution import Solution
from dcl.solvers.base import AbstractSolver


class ConeResult(NamedTuple):
    """Answer of a cone program, every entry differentiable: x (*batch, n), z (*batch, m) in K*, s (*batch, m) in K.

    Example:
        >>> import torch, dcl
        >>> A, b = -torch.eye(2), torch.zeros(2)  # x >= 0
        >>> result = dcl.ConeLayer({"l": 2})(torch.eye(2), torch.tensor([-1.0, 3.0]), A, b)
        >>> result.x[0], result.s[0], result.z[1]
        (tensor(1.), tensor(1.), tensor(3.))
    """

    x: Tensor
    z: Tensor
    s: Tensor


class ConeLayer(AbstractMatrixLayer):
    """The solution of a convex cone program, differentiable in all of its data.

        minimize 1/2 x'Px + q'x   subject to   Ax + s = b,  s in K             dual z in K*,  Px + q + A'z = 0

    The form, the cones and the order of rows are those of SCS and diffcp (there y is z, c is q).  Gradients are those of the
    KKT conditions (Agrawal et al. 2019, Differentiating through a cone program, without its homogeneous embedding).

    Args:
        cones: K as a dict. The rows of its cones come in this order: "z" zero rows, "l" nonnegative rows, "q" list of sizes of
            second-order cones (t, u), |u| <= t, "s" list of orders of semidefinite cones (lower triangle, column by column,
            off-diagonal entries times sqrt(2)), "ep" number of exponential cones (x, y, z), y exp(x/y) <= z, "p" list of
            exponents a of power cones (x, y, z), x^a y^(1-a) >= |z|.
        solver: name ("CLARABEL", "SCS", any case), an object such as `dcl.solvers.Clarabel(eps=1e-9)`, or None: dcl
            chooses by the rule of `dcl.solvers.choose`.
        solver_args: options of the solver: eps, max_iters, time_limit (seconds per instance), verbose, and its own options.
        mu: log-barrier parameter, 0 for the exact solution. A float, or a tensor with one entry >= 0 for each instance. A
            tensor may require a gradient.
        on_failure: what to do about an instance without a checked solution. "raise": a `SolveError`. "nan": it is NaN, and
            its gradient is zero. "last": it is the solver's last point (zeros if there is none), and its gradient is zero.
        on_degenerate: what to do where the derivative is not EXACT (`dcl.GradientKind`): "warn" (once per layer), "raise" or
            "ignore".
        straight_through: return the exact solution with the derivative of x(mu), mu > 0. This is biased: solution and
            derivative belong to different functions.
        verbose: print a line about each call, and let the solver print.

    Raises:
        OptionError: unknown cone, solver or option, or a solver that lacks one of the cones.  UnsupportedError: a cone of SCS
        that dcl does not have.  InputError: invalid on_failure or on_degenerate.

    Example:
        >>> import torch, dcl
        >>> point = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
        >>> P, A = torch.eye(2).double(), torch.cat([torch.zeros(1, 2), -torch.eye(2)]).double()
        >>> b = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)  # |x| <= 1
        >>> x, z, s = dcl.ConeLayer({"q": [3]})(P, -point, A, b)
        >>> x.detach()
        tensor([0.6000, 0.8000], dtype=torch.float64)
    """

    __call__: ConeCall

    def __init__(
        self,
        cones: Mapping[str, Any],
        solver: str | AbstractSolver | None = None,
        solver_args: dict[str, object] | None = None,
        *,
        mu: float | Tensor = 0.0,
        on_failure: str = "raise",
        on_degenerate: str = "warn",
        straight_through: bool = False,
        verbose: bool = False,
        **unknown: Never,
    ) -> None:
        super().__init__()
        check_known("ConeLayer", ConeLayer.__init__, unknown)
        self._cones = cone.parse(cones)
        args = options(solver_args, verbose)
        self._enroll(Engine(Settings(solver, args, mu, on_failure, on_degenerate, straight_through)))
        self._engine.check_cones(self._cones.cone)

    def forward(
        self,
        P: TensorLike | None,
        q: TensorLike,
        A: TensorLike,
        b: TensorLike,
        *,
        solver_args: dict[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        straight_through: bool | None = None,
        return_solution: bool = False,
        **unknown: Never,
    ) -> ConeResult | tuple[ConeResult, Solution]:
        """Solve the programs with these data.

        P (*batch, n, n) or None, q (*batch, n), A (*batch, m, n), b (*batch, m); batch dimensions broadcast.  P is
        symmetrized and must be positive semidefinite.  P and A may be sparse (COO, CSR, CSC; see `dcl.frontends.sparse`).
        Then a batch shares one sparsity pattern, and gradients are on that pattern.  dcl computes in float64; outputs have
        the dtype and the device of the arguments.

        Args:
            solver_args: options for this call; they override those of the layer.
            warm_start: a `Solution` of the same shapes to start from. True and False are accepted and ignored.
            mu: barrier parameter for this call.
            straight_through: as in the layer, for this call.
            return_solution: return `(result, Solution)`.

        Raises:
            InputError, DtypeError: name the argument and the batch index.  SolveError, DegenerateError: as `on_failure` and
            `on_degenerate` say.
        """
        check_known("layer", ConeLayer.forward, unknown)
        outputs, solution = self._answer(
            cone.present({"P": P, "q": q, "A": A, "b": b}),
            solver_args=solver_args,
            warm_start=warm_start,
            mu=mu,
            straight_through=straight_through,
            return_solution=return_solution,
        )
        result = ConeResult(*outputs)
        return result if solution is None else (result, solution)

    def extra_repr(self) -> str:
        cone = self._cones.cone
        return f"m={cone.dim}, cones=[{describe(cone.blocks)}], {self._engine.settings.describe()}"

    def _cores(self) -> Mapping[str, int]:
        return cone.CORE

    @property
    def _names(self) -> tuple[str, ...]:
        return ConeResult._fields

    @property
    def _has_own_x(self) -> bool:
        return True

    def _shown(self, name: str) -> str:
        return name

    def _plan(self, arguments: Arguments) -> Plan:
        batch, n = cone.plan(arguments, self._cones)
        m = self._cones.cone.dim
        return Plan(batch, ((n,), (m,), (m,)), n, m)

    def _way(self, arguments: Arguments, plan: Plan, exact: bool) -> AbstractWay | None:
        q = arguments["q"]
        core = conic_core(self._cones.blocks, q.shape[-1], lower=True) if plan.m else None
        return None if core is None else ConicWay(ConeMap(core, tuple(arguments), q.dtype), core, self._cones.rows)

    def _linear(self, arguments: Arguments) -> Linear | None:
        return matrix_linear(arguments) if self._cones.cone.is_orthant else None

    def _state(self, arguments: Arguments, plan: Plan) -> Stated:
        program, context, given = cone.assemble(arguments, self._cones, plan.batch)
        return Stated(program, 0.0, context, given)

    def _form(self, patterns: Patterns, plan: Plan) -> Form:
        return cone_form(patterns, self._cones)

    def _state_on(self, form: Form, arguments: Arguments, plan: Plan) -> Assembled:
        return assemble_cone(arguments, form, self._cones, plan.batch)

    def _outputs(self, stated: Stated, plan: Plan, point: LayerPoint) -> tuple[Tensor, ...]:
        rows = stated.context.rows
        return point.x, rows.multipliers(point.z, stated.given), rows.to_user(point.s)

    def solve(
        self,
        P: TensorLike | None,
        q: TensorLike,
        A: TensorLike,
        b: TensorLike,
        *,
        solver_args: dict[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        **unknown: Never,
    ) -> Solution:
        """The `Solution` for the arguments of `forward`, without gradients; `Solution.outputs` is (x, z, s)."""
        check_known("layer.solve", ConeLayer.solve, unknown)
        with torch.no_grad():
            _, solution = self(P, q, A, b, solver_args=solver_args, warm_start=warm_start, mu=mu, return_solution=True)
        return solution

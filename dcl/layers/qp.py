"""Quadratic and linear programs given as matrices, as a torch layer and as a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Never, overload

import torch
from torch import Tensor

from dcl.core import dense
from dcl.frontends import matrix
from dcl.frontends.arguments import check_known
from dcl.frontends.constants import TensorLike
from dcl.frontends.sparse import is_sparse
from dcl.frontends.sparse_program import Assembled, Form, Patterns, assemble_quadratic, quadratic_form
from dcl.layers import compiled
from dcl.layers.base import Arguments, Plan, Stated
from dcl.layers.calls import QPCall
from dcl.layers.engine import Engine, LayerPoint, Settings, options
from dcl.layers.lane import AbstractMap, AbstractWay, Grads, direct
from dcl.layers.sparse import AbstractMatrixLayer
from dcl.layers.vertex import Linear, matrix_linear
from dcl.outcome.solution import Solution
from dcl.solvers.base import AbstractSolver
from dcl.torch_modes import uncompiled


class QPResult(NamedTuple):
    """Answer of a quadratic program, every entry differentiable.

    x (*batch, n); multipliers y (*batch, p) of Ax = b, z (*batch, m) >= 0 of Gx <= h, z_lb and z_ub (*batch, n) >= 0 of
    the bounds (zero entries where a block is absent); value (*batch), 1/2 x'Px + q'x.

    Example:
        >>> import torch, dcl
        >>> result = dcl.solve_qp(torch.eye(2), torch.tensor([-1.0, -3.0]), lb=0.0, ub=2.0)
        >>> result.x, result.z_ub[1], result.value
        (tensor([1., 2.]), tensor(1.), tensor(-4.5000))
    """

    x: Tensor
    y: Tensor
    z: Tensor
    z_lb: Tensor
    z_ub: Tensor
    value: Tensor


@dataclass(frozen=True)
class _Map(AbstractMap):
    """The arguments are the blocks of the core, and its answer is the result."""

    names: tuple[str, ...]

    def data(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, given, strict=True))

    def outputs(self, answer: dense.Answer, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return answer[:6]

    def cotangents(self, grads: Grads) -> dict[str, Tensor]:
        pairs = zip(dense.OUTPUTS, grads, strict=True)
        return {name: g.contiguous() for name, g in pairs if g is not None}

    def wanted(self, needed: Sequence[bool]) -> list[str]:
        return [name for name, n in zip(self.names, needed, strict=True) if n]

    def gradients(self, blocks: Mapping[str, Tensor], grads: Grads, needed: Sequence[bool]) -> list[Tensor | None]:
        return [blocks.get(name) for name in self.names]


class QPLayer(AbstractMatrixLayer):
    """The argmin of a convex quadratic (or linear) program, differentiable in all of its data.

        minimize 1/2 x'Px + q'x   subject to   Ax = b,   Gx <= h,   lb <= x <= ub

    Gradients are those of the KKT conditions (Amos and Kolter 2017, OptNet, eq. 6), exact where the solution map is
    differentiable. Elsewhere `on_degenerate` decides what happens (see `dcl.GradientKind`).

    Args:
        solver: name ("DAQP", "PIQP", "OSQP", "CLARABEL", any case), an object such as `dcl.solvers.Clarabel(eps=1e-9)`,
            or None: dcl chooses by the rule of `dcl.solvers.choose`.
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
        OptionError: unknown solver or option.  InputError: invalid on_failure or on_degenerate.

    Example:
        >>> import torch, dcl
        >>> q = torch.tensor([-1.0, -3.0], dtype=torch.float64, requires_grad=True)
        >>> P, G, h = torch.eye(2).double(), torch.ones(1, 2).double(), torch.ones(1).double()
        >>> x = dcl.QPLayer()(P, q, G=G, h=h).x
        >>> x.detach()
        tensor([-0.5000,  1.5000], dtype=torch.float64)
    """

    __call__: QPCall

    def __init__(
        self,
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
        check_known("QPLayer", QPLayer.__init__, unknown)
        args = options(solver_args, verbose)
        self._enroll(Engine(Settings(solver, args, mu, on_failure, on_degenerate, straight_through)))

    def forward(
        self,
        P: TensorLike | None,
        q: TensorLike,
        *misplaced: object,
        A: TensorLike | None = None,
        b: TensorLike | None = None,
        G: TensorLike | None = None,
        h: TensorLike | None = None,
        lb: TensorLike | None = None,
        ub: TensorLike | None = None,
        solver_args: dict[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        straight_through: bool | None = None,
        return_solution: bool = False,
        **unknown: Never,
    ) -> QPResult | tuple[QPResult, Solution]:
        """Solve the programs with these data. All but P and q are given by name.

        P (*batch, n, n) or None, q (*batch, n), A (*batch, p, n), b (*batch, p), G (*batch, m, n), h (*batch, m), lb and ub
        (*batch, n).  Batch dimensions broadcast.  A block that is None or has zero rows is absent.

        P is symmetrized and must be positive semidefinite up to rounding.  dcl solves with the nearest semidefinite P; if
        that point does not solve the program with the given P, the instance fails.  P, A and G may be sparse (COO, CSR, CSC;
        see `dcl.frontends.sparse`).  Then a batch shares one sparsity pattern, and gradients are on that pattern.
        Rows with h = inf, lb = -inf or ub = inf are no restriction.  A number for lb or ub holds for all entries.  NumPy
        arrays, pandas objects and numbers are constants, in the dtype of the tensors.  dcl computes in float64; outputs have
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
        matrix.check_by_name("layer", misplaced)
        check_known("layer", QPLayer.forward, unknown)
        blocks = {"P": P, "q": q, "A": A, "b": b, "G": G, "h": h, "lb": lb, "ub": ub}
        outputs, solution = self._answer(
            matrix.present(blocks),
            solver_args=solver_args,
            warm_start=warm_start,
            mu=mu,
            straight_through=straight_through,
            return_solution=return_solution,
        )
        result = QPResult(*outputs)
        return result if solution is None else (result, solution)

    def extra_repr(self) -> str:
        return self._engine.settings.describe()

    def _cores(self) -> Mapping[str, int]:
        return matrix.CORE

    @property
    def _names(self) -> tuple[str, ...]:
        return QPResult._fields

    @property
    def _has_own_x(self) -> bool:
        return True

    def _shown(self, name: str) -> str:
        return name

    def _plan(self, arguments: Arguments) -> Plan:
        blocks, batch = matrix.plan(arguments)
        n, m = blocks.n, blocks.A + blocks.G + blocks.lb + blocks.ub
        outputs = ((n,), (blocks.A,), (blocks.G,), (blocks.lb,), (blocks.ub,), ())
        return Plan(batch, outputs, n, m, blocks)

    def _way(self, arguments: Arguments, plan: Plan, exact: bool) -> AbstractWay | None:
        return direct(_Map(tuple(arguments)), plan.m)

    def _linear(self, arguments: Arguments) -> Linear | None:
        return matrix_linear(arguments)

    def _state(self, arguments: Arguments, plan: Plan) -> Stated:
        program, context, given = matrix.assemble(arguments, plan.detail, plan.batch)
        return Stated(program, 0.0, context, given)

    def _form(self, patterns: Patterns, plan: Plan) -> Form:
        return quadratic_form(patterns, plan.detail)

    def _state_on(self, form: Form, arguments: Arguments, plan: Plan) -> Assembled:
        return assemble_quadratic(arguments, form, plan.detail, plan.batch)

    def _outputs(self, stated: Stated, plan: Plan, point: LayerPoint) -> tuple[Tensor, ...]:
        z = stated.context.rows.multipliers(point.z, stated.given)
        return point.x, *plan.detail.split(z), self._value(stated, point)

    def solve(
        self,
        P: TensorLike | None,
        q: TensorLike,
        *misplaced: object,
        A: TensorLike | None = None,
        b: TensorLike | None = None,
        G: TensorLike | None = None,
        h: TensorLike | None = None,
        lb: TensorLike | None = None,
        ub: TensorLike | None = None,
        solver_args: dict[str, object] | None = None,
        warm_start: Solution | bool | None = None,
        mu: float | Tensor | None = None,
        **unknown: Never,
    ) -> Solution:
        """The `Solution` for the arguments of `forward`, without gradients."""
        matrix.check_by_name("layer.solve", misplaced)
        check_known("layer.solve", QPLayer.solve, unknown)
        options: dict[str, Any] = {"solver_args": solver_args, "warm_start": warm_start, "mu": mu}
        with torch.no_grad():
            _, solution = self(P, q, A=A, b=b, G=G, h=h, lb=lb, ub=ub, **options, return_solution=True)
        return solution


@overload
def solve_qp(
    P: TensorLike | None,
    q: TensorLike,
    *,
    A: TensorLike | None = None,
    b: TensorLike | None = None,
    G: TensorLike | None = None,
    h: TensorLike | None = None,
    lb: TensorLike | None = None,
    ub: TensorLike | None = None,
    solver: str | AbstractSolver | None = None,
    solver_args: dict[str, object] | None = None,
    mu: float | Tensor = 0.0,
    on_failure: str = "raise",
    on_degenerate: str = "warn",
    warm_start: Solution | bool | None = None,
    return_solution: Literal[False] = False,
) -> QPResult: ...


@overload
def solve_qp(
    P: TensorLike | None,
    q: TensorLike,
    *,
    A: TensorLike | None = None,
    b: TensorLike | None = None,
    G: TensorLike | None = None,
    h: TensorLike | None = None,
    lb: TensorLike | None = None,
    ub: TensorLike | None = None,
    solver: str | AbstractSolver | None = None,
    solver_args: dict[str, object] | None = None,
    mu: float | Tensor = 0.0,
    on_failure: str = "raise",
    on_degenerate: str = "warn",
    warm_start: Solution | bool | None = None,
    return_solution: Literal[True],
) -> tuple[QPResult, Solution]: ...


def solve_qp(
    P: TensorLike | None,
    q: TensorLike,
    *misplaced: object,
    A: TensorLike | None = None,
    b: TensorLike | None = None,
    G: TensorLike | None = None,
    h: TensorLike | None = None,
    lb: TensorLike | None = None,
    ub: TensorLike | None = None,
    solver: str | AbstractSolver | None = None,
    solver_args: dict[str, object] | None = None,
    mu: float | Tensor = 0.0,
    on_failure: str = "raise",
    on_degenerate: str = "warn",
    warm_start: Solution | bool | None = None,
    return_solution: bool = False,
    **unknown: Never,
) -> QPResult | tuple[QPResult, Solution]:
    """`QPLayer(solver, solver_args, mu=..., ...)(P, q, A=A, ...)` in one call. Arguments and errors are the same.

    Example:
        >>> import torch, dcl
        >>> P, q = torch.eye(2), torch.tensor([-1.0, -3.0], requires_grad=True)
        >>> x = dcl.solve_qp(P, q, G=torch.ones(1, 2), h=torch.ones(1)).x  # x1 + x2 <= 1
        >>> x.detach(), torch.autograd.grad(x[0], q)[0]
        (tensor([-0.5000,  1.5000]), tensor([-0.5000,  0.5000]))
    """
    matrix.check_by_name("solve_qp", misplaced)
    check_known("solve_qp", solve_qp, unknown)
    settings = (solver, solver_args, on_failure, on_degenerate)
    blocks = {"P": P, "q": q, "A": A, "b": b, "G": G, "h": h, "lb": lb, "ub": ub}
    dense = not any([is_sparse(t) for t in blocks.values()])
    if dense and compiled.fits(None, warm_start, mu, False, return_solution):
        return QPResult(*compiled.call(compiled.number_of_new(_layer, *settings), matrix.present(blocks), mu))
    return _solved(settings, blocks, mu=mu, warm_start=warm_start, return_solution=return_solution)


def _layer(
    solver: str | AbstractSolver | None, solver_args: dict[str, object] | None, on_failure: str, on_degenerate: str
) -> QPLayer:
    return QPLayer(solver, solver_args, on_failure=on_failure, on_degenerate=on_degenerate)


@uncompiled(compiled.UNFIT)
def _solved(settings: tuple[Any, ...], blocks: dict[str, Any], **options: Any) -> QPResult | tuple[QPResult, Solution]:
    return _layer(*settings)(**blocks, **options)  # type: ignore[no-any-return]

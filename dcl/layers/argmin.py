"""The argmin of a torch function, as a torch layer and as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Never, overload

import torch
from torch import Tensor, nn

from dcl.cones.base import Barrier
from dcl.errors import InputError, OptionError, UnsupportedError
from dcl.frontends.arguments import check_known
from dcl.implicit import project
from dcl.layers.barrier import check_path
from dcl.layers.calls import ArgminCall, Y
from dcl.layers.engine import Engine, LayerPoint, Settings, warm
from dcl.outcome.messages import check_finite, entry, where
from dcl.outcome.solution import Solution
from dcl.point import Point
from dcl.program import ConeProgram
from dcl.smooth import function
from dcl.smooth.failures import AbstractSmoothContext
from dcl.smooth.program import SmoothProgram, Theta
from dcl.smooth.solve import SmoothCall, smooth_solve
from dcl.smooth.start import SCIPY
from dcl.torch_modes import check_no_trace, check_order, is_readable, is_recorded, uncompiled

HESSIANS = ("exact", "diagonal")
LINEAR_SOLVES = (None, "cg")
STATIONARY = ("minimum", "any")


@dataclass(frozen=True, eq=False)
class _Context(AbstractSmoothContext):
    batch_shape: tuple[int, ...]
    names: tuple[str, ...]
    parts: tuple[tuple[str, int], ...]

    def check(self, program: ConeProgram, given: Sequence[Tensor]) -> None:
        for name, t in zip(self.names, given, strict=True):
            if t.dtype.is_floating_point:
                check_finite(self, t, name)

    def check_start(self, program: SmoothProgram, start: Tensor, theta: Theta) -> None:
        for name, t in (("y0", start), *zip(self.names, theta, strict=True)):
            if t.dtype.is_floating_point:
                check_finite(self, t, name)
        try:
            f, g, c, J = program.first(start, theta, transformed=True)  # as the backward pass will
        except RuntimeError as error:
            raise InputError(
                f"the objective or a constraint cannot be differentiated with torch.func (for a batch, torch.func.vmap): {error}",
                argument="objective",
            ) from error
        rows = dict(self.parts)
        h = rows.get("equality", 0)
        for name, value, slope in (
            ("objective", f.unsqueeze(-1), g), ("equality", c[:, :h], J[:, :h]), ("inequality", c[:, h:], J[:, h:]),
        ):  # fmt: skip
            for t, what in ((value, "it"), (slope.flatten(1), "its gradient")):
                bad = torch.nonzero(~torch.isfinite(t))
                if bad.numel():
                    index = self.index(int(bad[0, 0]))
                    raise InputError(
                        f"y0 is outside the domain of {name}{where(index)}: {what} is {float(t[tuple(bad[0])])} there (a "
                        "log or a root of something negative? a norm at zero?); choose a start inside",
                        argument="y0",
                        index=index,
                    )

    def describe_row(self, row: int) -> str:
        return entry(self.parts, row)


class ArgminLayer(nn.Module):
    """The argmin (argmax) over y of a smooth torch function, differentiable in its parameters.

        minimize f(y, *params)   subject to   equality(y, *params) = 0,   inequality(y, *params) <= 0

    dy/dparams comes from the implicit function theorem on the KKT conditions (Gould et al. 2016, lemmas 3.1 to 4.2); with
    mu > 0 it is the derivative of the log-barrier's minimizer (eq. 64 there, with t = 1 / mu).  It does not depend on how y
    was found.

    Args:
        objective: function of ONE instance, `objective(y, *params)` -> one number, of torch operations that can be
            differentiated twice; batches go through torch.func.vmap.  Or an nn.Module: its parameters are differentiated too.
        equality: function (y, *params) -> tensor of any shape, zero at the solution; or a pair (A, b), A (p, n), b (p,), for
            A y = b with y flattened to n entries.
        inequality: function (y, *params) -> tensor of any shape, at most zero at the solution.
        maximize: the argmax.  Solution.value is the objective's own value.
        mu: log-barrier parameter, 0 for the exact solution. A float, or a tensor with one positive entry for each instance.
        solver: None (Newton's method; L-BFGS first where y is large), "newton", the name of a method of
            scipy.optimize.minimize ("L-BFGS-B", "BFGS", "CG", "Newton-CG", "SLSQP", "trust-constr"), or a function
            `solver(y0, *params) -> y` of one instance.  What it finds is refined by Newton's method and checked.
        hessian: "exact", or "diagonal": use only the diagonal of the Hessian in the gradient, which is an approximation
            (section 6 of Gould et al.).
        linear_solve: None, or "cg": Hessian-vector products and conjugate gradients instead of matrices, for y of 1,000 to
            1,000,000 entries without constraints.
        stationary: "minimum" requires a minimum (second-order conditions are checked). "any" accepts any stationary point
            with a nonsingular KKT matrix: Newton's method from y0 goes to the one that y0 is near.
        in_dims: as in torch.func.vmap. None for a single instance, or one entry for y0 and for each parameter: 0 (the first
            dimensions of its tensors are the batch) or None (shared by the batch).
        batch_dims: the number of batch dimensions, if in_dims is given.
        on_failure: what to do about an instance without a checked argmin. "raise": a `NoMinimumError`. "nan": it is NaN, and
            its gradient is zero. "last": it is the last point, and its gradient is zero.
        on_degenerate: what to do where the derivative is not EXACT (`dcl.GradientKind`): "warn" (once per layer), "raise" or
            "ignore".

    Raises:
        OptionError, InputError: invalid settings.  UnsupportedError: constraints with linear_solve="cg".

    Example:
        >>> import torch, dcl
        >>> def objective(y, a):
        ...     return (y - a).square().sum() + y.pow(4).sum()
        >>> a = torch.tensor([3.0, -18.0], dtype=torch.float64, requires_grad=True)
        >>> y = dcl.ArgminLayer(objective)(torch.zeros(2).double(), a)
        >>> y.detach()
        tensor([ 1., -2.], dtype=torch.float64)
        >>> torch.autograd.grad(y[0], a)[0]  # 2 / (2 + 12 y^2)
        tensor([0.1429, 0.0000], dtype=torch.float64)
    """

    __call__: ArgminCall

    def __init__(
        self,
        objective: Callable[..., Tensor],
        equality: Callable[..., Tensor] | tuple[Tensor, Tensor] | None = None,
        inequality: Callable[..., Tensor] | None = None,
        *,
        maximize: bool = False,
        mu: float | Tensor = 0.0,
        solver: str | Callable[..., Any] | None = None,
        hessian: str = "exact",
        linear_solve: str | None = None,
        stationary: str = "minimum",
        in_dims: Sequence[int | None] | None = None,
        batch_dims: int = 1,
        on_failure: str = "raise",
        on_degenerate: str = "warn",
        **unknown: Never,
    ) -> None:
        super().__init__()
        check_known("ArgminLayer", ArgminLayer.__init__, unknown)
        self._engine = Engine(Settings(mu=mu, on_failure=on_failure, on_degenerate=on_degenerate))
        _one_of("hessian", hessian, HESSIANS)
        _one_of("linear_solve", linear_solve, LINEAR_SOLVES)
        _one_of("stationary", stationary, STATIONARY)
        self._solver = _known(solver)
        if isinstance(self._solver, str) and self._solver != "newton":
            if stationary == "any":
                raise OptionError(f"{solver} looks for minima: stationary='any' needs solver=None", argument="solver")
            if (equality is not None or inequality is not None) and not SCIPY[self._solver]:
                raise OptionError(
                    f"{solver} takes no constraints; of SciPy's methods SLSQP and trust-constr do", argument="solver"
                )
        if linear_solve == "cg" and (equality is not None or inequality is not None):
            raise UnsupportedError('linear_solve="cg" is for problems without constraints: it uses the Hessian alone')
        if isinstance(batch_dims, bool) or not isinstance(batch_dims, int) or batch_dims < 1:
            raise InputError(f"batch_dims is {batch_dims!r}: it must be a positive integer", argument="batch_dims")
        # modules are registered, so that layer.parameters() has what is differentiated
        self.objective, self.equality, self.inequality = objective, equality, inequality
        self._parts()
        self._sign = -1.0 if maximize else 1.0
        self._hessian, self._linear_solve, self._minimum = hessian, linear_solve or "direct", stationary == "minimum"
        self._in_dims, self._batch_dims = in_dims, batch_dims

    def extra_repr(self) -> str:
        """The functions that are no modules, which torch shows itself, and what differs from the defaults."""
        parts = {"objective": self.objective, "equality": self.equality, "inequality": self.inequality}
        shown = [
            f"{name}={getattr(one, '__name__', type(one).__name__)}"
            for name, one in parts.items()
            if one is not None and not isinstance(one, torch.nn.Module)
        ]
        usual = {"hessian": (self._hessian, "exact"), "linear_solve": (self._linear_solve, "direct")}
        usual["batch_dims"] = (str(self._batch_dims), "1")
        shown += [f"{name}={value}" for name, (value, default) in usual.items() if value != default]
        shown += ["maximize=True"] if self._sign < 0.0 else []
        shown += [] if self._minimum else ["stationary=any"]
        shown += [] if self._in_dims is None else [f"in_dims={tuple(self._in_dims)}"]
        solver = self._solver if self._solver is None or isinstance(self._solver, str) else "user"
        return ", ".join([*shown, replace(self._engine.settings, solver=solver).describe()])

    def _parts(self) -> list[function.Part]:
        given = {"objective": self.objective, "equality": self.equality, "inequality": self.inequality}
        return [function.part(name, one) for name, one in given.items() if one is not None or name == "objective"]

    def forward(
        self,
        y0: Any,
        *params: Any,
        mu: float | Tensor | None = None,
        warm_start: Solution | None = None,
        return_solution: bool = False,
        **unknown: Never,
    ) -> Any:
        """The argmin for these parameters, in the structure and the shapes of y0.

        y0: where the search starts, a tensor (*batch, *any shape) or a dict, tuple or list of them.  params: tensors or nested
        structures of them, handed to the functions as they are.  dcl computes in float64; the dtype of y is the widest of y0 and
        the parameters.  If there are several minima, y is the one that the search from y0 finds.

        Args:
            mu: barrier parameter for this call.
            warm_start: a `Solution` of this layer for parameters nearby: Newton's method starts at its point and multipliers. If
                that ends at a solution, the search from y0 is skipped.  Not for linear_solve="cg": there pass y0 instead.
            return_solution: return `(y, Solution)`.  Its x is y flattened; z has the multipliers of the equalities, then
                of the inequalities.

        Raises:
            InputError, DtypeError: name the argument.  NoMinimumError: one of NotStationaryError, DivergedError, FlatError,
            SaddleError, LocallyInfeasibleError where all failed instances are alike.  DegenerateError: as set.
        """
        check_known("layer", ArgminLayer.forward, unknown)
        return self._uncompiled(y0, params, mu, warm_start, return_solution)

    @uncompiled(
        "ArgminLayer is not part of a compiled graph: with fullgraph=False it runs uncompiled inside a compiled function"
    )
    def _uncompiled(self, *call: Any) -> Any:
        if torch.is_inference_mode_enabled():  # finding y takes derivatives in y
            with torch.inference_mode(False), torch.no_grad():
                return self._evaluate(*call)
        return self._evaluate(*call)

    def _evaluate(
        self,
        y0: Any,
        params: tuple[Any, ...],
        mu: float | Tensor | None,
        warm_start: Solution | None,
        return_solution: bool,
    ) -> Any:
        check_no_trace()
        engine = self._engine
        plan = function.plan(self._parts(), self._sign, y0, params, self._in_dims, self._batch_dims)
        chosen = engine.barrier(mu, plan.batch.shape)
        if isinstance(chosen, Tensor):
            check_path(chosen)
            chosen = chosen.to(plan.start.device)
        solver = self._solver
        if callable(solver):
            solver = _of_one_instance(solver, plan)
        check_order(plan.theta)
        call = SmoothCall(
            program=plan.program,
            context=_Context(plan.batch.shape, plan.names, plan.rows),
            solver=solver,
            minimum=self._minimum,
            hessian=self._hessian,
            linear_solve=self._linear_solve,
            on_failure=engine.settings.on_failure,
            on_degenerate=engine.on_degenerate,
            sign=self._sign,
            record=is_recorded(plan.theta),
            explain=return_solution,
            warm=None if warm_start is None or self._linear_solve == "cg" else _warm(warm_start, plan),
        )
        x, v, at_kink, report = smooth_solve(call, chosen, plan.start, plan.theta)
        engine.note(call.outcome)
        result = plan.outputs(engine.settle(report, x, plan.batch))
        if not return_solution:
            return result
        point = self._point(plan, call, x.detach(), v.detach(), chosen, at_kink, report)
        value = self._sign * plan.program.f_and_c(point.x, [t.detach() for t in plan.theta])[0]
        leaves = function.take_apart(result)[1]
        names = ["y"] if len(leaves) == 1 else [f"y (tensor {k})" for k in range(len(leaves))]
        return result, engine.solution(point, leaves, value.reshape(plan.batch.shape), plan.batch, names)

    def _point(
        self, plan: function.Plan, call: SmoothCall, x: Tensor, v: Tensor, mu: Barrier, at_kink: Tensor, report: Tensor
    ) -> LayerPoint:
        """The answer, with the quadratic program that agrees with this one at the solution."""
        found, structure = call.outcome.found, plan.program.structure
        z = project(structure, mu, v, at_kink)
        if self._linear_solve == "cg":  # H is not at hand, and would not fit
            H = x.new_zeros(1, 1, 1).expand(1, structure.n, structure.n)
            A, b = x.new_zeros(1, 0, structure.n), x.new_zeros(1, 0)
            local = Point(ConeProgram(structure, H, torch.zeros_like(x), A, b), x, v, mu)
        elif found is None:  # inside of torch.func.vmap
            local = Point(plan.program.local(x, v, mu, [t.detach() for t in plan.theta]), x, v, mu)
        else:
            local = found.verdict.point
        return LayerPoint(
            x=x,
            z=z,
            s=z - v,
            report=report,
            program=local.program,
            v=local.v,
            mu=local.mu,
            at_kink=at_kink,
            solvers=call.names,
            degeneracy=call.outcome.degeneracy,
        )

    def solve(self, y0: Any, *params: Any, mu: float | Tensor | None = None, **unknown: Never) -> Solution:
        """The `Solution` for the arguments of `forward`, without gradients."""
        check_known("layer.solve", ArgminLayer.solve, unknown)
        with torch.no_grad():
            _, solution = self(y0, *params, mu=mu, return_solution=True)
        return solution


@overload
def argmin(
    objective: Callable[..., Tensor],
    y0: Y,
    *params: Any,
    return_solution: Literal[False] = False,
    **settings: Any,
) -> Y: ...


@overload
def argmin(
    objective: Callable[..., Tensor],
    y0: Y,
    *params: Any,
    return_solution: Literal[True],
    **settings: Any,
) -> tuple[Y, Solution]: ...


def argmin(
    objective: Callable[..., Tensor],
    y0: Any,
    *params: Any,
    return_solution: bool = False,
    **settings: Any,
) -> Any:
    """`ArgminLayer(objective, **settings)(y0, *params)` in one call. Arguments and errors are the same.

    Example:
        >>> import torch, dcl
        >>> a = torch.tensor([3.0, -1.0], requires_grad=True)
        >>> y = dcl.argmin(lambda y, a: (y - a).square().sum(), torch.zeros(2), a, inequality=lambda y, a: y - 1.0)
        >>> y.detach(), torch.autograd.grad(y[1], a)[0][1]
        (tensor([ 1., -1.]), tensor(1.))
    """
    layer: Any = ArgminLayer(objective, **settings)
    return layer(y0, *params, return_solution=return_solution)


def _one_of(name: str, value: object, valid: Sequence[object]) -> None:
    if value not in valid:
        raise OptionError(f"{name} is {value!r}; valid: {', '.join(map(repr, valid))}", argument=name)


def _known(solver: object) -> Any:
    """The solver's name in lower case, or the callable. Raises OptionError for anything else."""
    if solver is None or (callable(solver) and not isinstance(solver, str)):
        return solver
    names = ("newton", *SCIPY)
    if not isinstance(solver, str) or solver.lower() not in names:
        raise OptionError(f"solver is {solver!r}; valid: None, a function, {', '.join(names)}", argument="solver")
    return solver.lower()


def _warm(solution: object, plan: function.Plan) -> Tensor | None:
    """x, z and s of a solution side by side, (B, n + 2 m); None where torch.func.vmap maps it."""
    parts = [t.to(plan.start) for t in warm(solution, plan.batch.size, plan.program.structure)]
    return torch.cat(parts, -1) if all(is_readable(t) for t in parts) else None


def _of_one_instance(solver: Callable[..., Any], plan: function.Plan) -> Callable[..., Tensor]:
    """solver(y0, *params) as a function (x (n,), *theta) -> (n,)."""

    def flat(x: Tensor, *theta: Tensor) -> Tensor:
        y, params = plan.unpack(x, *theta)
        return plan.pack(solver(y, *params))

    return flat

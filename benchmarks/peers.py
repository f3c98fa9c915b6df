"""The layers that are timed: each one made ready for a shape, then called with tensors (B, ...) and returning x (B, n).

What decides a fair comparison, package by package, stands beside each `_make` function.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import torch
from qp_families import Shape
from torch import Tensor

Layer = Callable[..., Tensor]
Problem = tuple[cp.Problem, list[cp.Parameter], cp.Variable]
MATRICES = ("P", "q", "A", "b", "G", "h")
ROOT = ("L", "q", "A", "b", "G", "h")
TIGHT = 1e-10


@dataclass(frozen=True)
class Peer:
    """One layer: its name in the table, the distributions it needs, what it takes (P, or the root L), how it is made.

    work: the most instances x n^2 that it is given in one call: slow layers get fewer instances.
    """

    name: str
    needs: tuple[str, ...]
    make: Callable[[Shape], Layer]
    takes: tuple[str, ...] = MATRICES
    work: int = 10**9

    def missing(self) -> list[str]:
        """The distributions that are not installed."""
        return [name for name in self.needs if version(name) is None]

    def batch(self, shape: Shape, batch: int) -> int:
        """How many instances of this shape it is given in a call."""
        return max(1, min(batch, self.work // shape.n**2))


def version(distribution: str) -> str | None:
    """The installed version of a distribution, None if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cvxpy_problem(shape: Shape, root: bool) -> Problem:
    """The family in CVXPY: the problem, its parameters in the order of `MATRICES` or `ROOT`, the variable.

    All constraints are written with parameters on the left (`G @ x <= h`): cvxpylayers 1.2.0 with solver="MOREAU" and
    CVXPY 1.9 drops cones on plain variables such as `x >= 0`.
    """
    n, m, p = shape.n, shape.m, shape.p
    x = cp.Variable(n)
    P = cp.Parameter((n, n), name="L") if root else cp.Parameter((n, n), PSD=True, name="P")
    q, A, b = cp.Parameter(n, name="q"), cp.Parameter((p, n), name="A"), cp.Parameter(p, name="b")
    G, h = cp.Parameter((m, n), name="G"), cp.Parameter(m, name="h")
    square = cp.sum_squares(P @ x) if root else cp.quad_form(x, P)
    problem = cp.Problem(cp.Minimize(0.5 * square + q @ x), [A @ x == b, G @ x <= h])
    return problem, [P, q, A, b, G, h], x


def build_problems(size: int) -> dict[str, Callable[[], Problem]]:
    """Makers of fresh problems whose size x size matrices are parameters."""

    def given() -> tuple[cp.Variable, cp.Parameter, cp.Parameter]:
        return cp.Variable(size), cp.Parameter((size, size), name="A"), cp.Parameter(size, name="b")

    def constrained() -> Problem:
        x, A, b = given()
        return cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x <= b]), [A, b], x

    def least_squares() -> Problem:
        x, A, b = given()
        return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [cp.sum(x) == 1]), [A, b], x

    return {
        "A @ x <= b": constrained,
        "sum_squares(A @ x - b)": least_squares,
        "the QP, all data": lambda: cvxpy_problem(Shape(size, size, size // 2), root=True),
    }


def _make_dcl(shape: Shape) -> Layer:
    """As a user writes it: default options, all checks on."""
    import dcl

    layer = dcl.QPLayer()
    return lambda P, q, A, b, G, h: layer(P, q, A, b, G, h).x


def _make_dcl_cvxpy(shape: Shape, root: bool) -> Layer:
    import dcl

    problem, parameters, x = cvxpy_problem(shape, root)
    layer = dcl.CvxpyLayer(problem, parameters, [x])
    return lambda *data: layer(*data)[0]


def _make_moreau(shape: Shape) -> Layer:
    """solver="auto" (its active-set method for these sizes), default tolerances 1e-6 and 1e-8 tightened.

    It keeps its factorization where P and A did not change since the last call; here they change with every call.
    """
    import moreau
    import moreau.torch

    n, rows = shape.n, shape.m + shape.p
    settings = moreau.Settings(
        solver="auto",
        device="cpu",
        enable_grad=True,
        ipm_settings=moreau.IPMSettings(tol_gap_abs=TIGHT, tol_gap_rel=TIGHT, tol_feas=TIGHT),
        active_set_settings=moreau.ActiveSetSettings(primal_tol=TIGHT),
    )
    solver = moreau.torch.Solver(
        n=n,
        m=rows,
        P_row_offsets=torch.arange(0, n * n + 1, n),
        P_col_indices=torch.arange(n).repeat(n),
        A_row_offsets=torch.arange(0, rows * n + 1, n),
        A_col_indices=torch.arange(n).repeat(rows),
        cones=moreau.Cones(num_zero_cones=shape.p, num_nonneg_cones=shape.m),
        settings=settings,
    )

    def layer(P: Tensor, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        rows = torch.cat([A, G], 1)
        return solver.solve(P.flatten(1), rows.flatten(1), q, torch.cat([b, h], 1)).x

    return layer


def _cvxpylayers(solver: str | None, solver_args: dict[str, object]) -> Callable[[Shape], Layer]:
    """Needs the root form: a parametric quad_form(x, P) is not DPP there.

    Its default is diffcp with SCS at eps 1e-4 and derivatives by LSQR; "mode dense" takes a direct solve instead.
    """

    def make(shape: Shape) -> Layer:
        from cvxpylayers.torch import CvxpyLayer

        problem, parameters, x = cvxpy_problem(shape, root=True)
        layer = CvxpyLayer(problem, parameters, [x], solver=solver, solver_args=solver_args)
        return lambda *data: layer(*data)[0]

    return make


def _make_qpth(shape: Shape) -> Layer:
    """Its default options: eps 1e-12, at most 20 iterations."""
    from qpth.qp import QPFunction

    function = QPFunction(verbose=-1)
    return lambda P, q, A, b, G, h: function(P, q, G, h, A, b)


def _make_proxsuite(shape: Shape) -> Layer:
    """eps 1e-9 is its default; its backward pass defaults to 1e-4 and rounds gradients to torch's default dtype."""
    from proxsuite.torch.qplayer import QPFunction

    function = QPFunction(eps=1e-9, eps_backward=1e-9)
    lower = torch.full((shape.m,), -1e20, dtype=torch.float64)
    return lambda P, q, A, b, G, h: function(P, q, A, b, G, lower, h)[0]


DCL = "dcl.QPLayer"
_MOREAU: dict[str, object] = {"ipm_settings": {"tol_gap_abs": TIGHT, "tol_gap_rel": TIGHT, "tol_feas": TIGHT}}
_DENSE: dict[str, object] = {"eps": 1e-8, "mode": "dense"}
PEERS = (
    Peer(DCL, ("dcl",), _make_dcl),
    Peer("dcl.CvxpyLayer, quad_form(x, P)", ("dcl",), lambda shape: _make_dcl_cvxpy(shape, root=False)),
    Peer("dcl.CvxpyLayer, sum_squares(L x)", ("dcl",), lambda shape: _make_dcl_cvxpy(shape, root=True), ROOT),
    Peer("moreau.torch, auto", ("moreau",), _make_moreau),
    Peer("cvxpylayers + MOREAU", ("cvxpylayers", "moreau"), _cvxpylayers("MOREAU", _MOREAU), ROOT, 100_000),
    Peer("cvxpylayers, default", ("cvxpylayers", "diffcp"), _cvxpylayers(None, {}), ROOT, 40_000),
    Peer("cvxpylayers, eps 1e-8", ("cvxpylayers", "diffcp"), _cvxpylayers(None, {"eps": 1e-8}), ROOT, 40_000),
    Peer("cvxpylayers, eps 1e-8, mode dense", ("cvxpylayers", "diffcp"), _cvxpylayers(None, _DENSE), ROOT, 40_000),
    Peer("qpth", ("qpth",), _make_qpth),
    Peer("proxsuite", ("proxsuite",), _make_proxsuite),
)

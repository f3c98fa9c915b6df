"""The layers that are timed: each made ready for a work, then called with the tensors (B, ...) of `DATA`, returning x (B, n).

What decides a fair comparison, package by package, stands beside each `_make` function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import torch
from contest import AbstractPeer, Layer
from cvxpylayers_settings import NEEDS, SETTINGS, TIGHT
from qp_works import DATA, Work
from torch import Tensor

Problem = tuple[cp.Problem, list[cp.Parameter], cp.Variable]
ALL = tuple(DATA)


@dataclass(frozen=True)
class Peer(AbstractPeer):
    """families: those that it can solve.  root: it takes L instead of P = L'L."""

    families: tuple[str, ...] = ALL
    root: bool = False

    def takes(self, work: Work) -> tuple[str, ...]:
        return tuple("L" if self.root and name == "P" else name for name in DATA[work.family])


def cvxpy_problem(work: Work, root: bool) -> Problem:
    """The family in CVXPY: the problem, its parameters in the order of `DATA`, the variable.

    Every constraint has a parameter in it: cvxpylayers 1.2.0 with solver="MOREAU" and CVXPY 1.9 drops cones on plain
    variables such as `x >= 0`, but keeps `x >= lb` with a parameter lb.
    """
    n, m, p = work.shape.n, work.shape.m, work.shape.p
    x = cp.Variable(n)
    shapes = {"q": (n,), "A": (p, n), "b": (p,), "G": (m, n), "h": (m,), "lb": (n,), "ub": (n,)}
    given = {name: cp.Parameter(shape, name=name) for name, shape in shapes.items() if name in DATA[work.family]}
    if work.family == "box":
        constraints = [x >= given["lb"], x <= given["ub"]]
    else:
        constraints = [given["A"] @ x == given["b"], given["G"] @ x <= given["h"]]
    if work.family == "lp":
        return cp.Problem(cp.Minimize(given["q"] @ x), constraints), list(given.values()), x
    P = cp.Parameter((n, n), name="L") if root else cp.Parameter((n, n), PSD=True, name="P")
    square = cp.sum_squares(P @ x) if root else cp.quad_form(x, P)
    return cp.Problem(cp.Minimize(0.5 * square + given["q"] @ x), constraints), [P, *given.values()], x


def _make_empty(work: Work) -> Layer:
    """Torch's overhead: an autograd Function that computes nothing, with the same tensors in and out."""

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, *data: Tensor) -> Tensor:
            ctx.save_for_backward(*data)
            return data[place].new_zeros(data[place].shape)

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, *x: Tensor) -> tuple[Tensor, ...]:
            return tuple(torch.empty_like(t) for t in ctx.saved_tensors)  # type: ignore[attr-defined]

    place = DATA[work.family].index("q")
    return lambda *data: Empty.apply(*data)  # type: ignore[no-untyped-call,no-any-return]


def _make_dcl(mu: float) -> Callable[[Work], Layer]:
    """As a user writes it: default options, all checks on."""

    def make(work: Work) -> Layer:
        import dcl

        layer = dcl.QPLayer(mu=mu)
        if work.family == "qp":
            return lambda P, q, A, b, G, h: layer(P, q, A=A, b=b, G=G, h=h).x
        if work.family == "lp":
            return lambda q, A, b, G, h: layer(None, q, A=A, b=b, G=G, h=h).x
        return lambda P, q, lb, ub: layer(P, q, lb=lb, ub=ub).x

    return make


def _make_dcl_cvxpy(root: bool) -> Callable[[Work], Layer]:
    def make(work: Work) -> Layer:
        import dcl

        problem, parameters, x = cvxpy_problem(work, root)
        layer = dcl.CvxpyLayer(problem, parameters, [x])
        return lambda *data: layer(*data)[0]

    return make


def _make_moreau(work: Work, solver: str = "auto") -> Layer:
    """solver "auto" takes its active-set method for QPs and its interior point for LPs; tolerances 1e-6 and 1e-8 tightened.

    For LPs the active-set method is faster and sometimes wrong, so both are timed.  It keeps its factorization where P
    and A did not change since the last call; here they change with every call.  Derivatives are prepared only if asked for.
    """
    import moreau
    import moreau.torch

    n, m, p = work.shape.n, work.shape.m, work.shape.p
    settings = moreau.Settings(
        solver=solver,
        device="cpu",
        enable_grad=work.backward,
        ipm_settings=moreau.IPMSettings(tol_gap_abs=TIGHT, tol_gap_rel=TIGHT, tol_feas=TIGHT),
        active_set_settings=moreau.ActiveSetSettings(primal_tol=TIGHT),
    )
    dense, diagonal = torch.arange(n).repeat(max(n, m + p)), torch.arange(n).repeat(2)
    P_entries, A_entries = n if work.family != "lp" else 0, 1 if work.family == "box" else n
    ready: Any = moreau.torch.Solver(
        n=n,
        m=m + p,
        P_row_offsets=torch.arange(n + 1) * P_entries,
        P_col_indices=dense[: n * P_entries],
        A_row_offsets=torch.arange(m + p + 1) * A_entries,
        A_col_indices=diagonal if work.family == "box" else dense[: n * (m + p)],
        cones=moreau.Cones(num_zero_cones=p, num_nonneg_cones=m),
        settings=settings,
    )

    def qp(P: Tensor, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        x: Tensor = ready.solve(P.flatten(1), torch.cat([A, G], 1).flatten(1), q, torch.cat([b, h], 1)).x
        return x

    def lp(q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        x: Tensor = ready.solve(q.new_zeros(len(q), 0), torch.cat([A, G], 1).flatten(1), q, torch.cat([b, h], 1)).x
        return x

    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(n)

    def box(P: Tensor, q: Tensor, lb: Tensor, ub: Tensor) -> Tensor:
        x: Tensor = ready.solve(P.flatten(1), signs.expand(len(q), -1), q, torch.cat([ub, -lb], 1)).x
        return x

    layers: dict[str, Layer] = {"qp": qp, "lp": lp, "box": box}
    return layers[work.family]


def _make_moreau_active_set(work: Work) -> Layer:
    return _make_moreau(work, "active_set")


def _make_cvxpylayers(name: str) -> Callable[[Work], Layer]:
    """Needs the root form: a parametric quad_form(x, P) is not DPP there."""

    def make(work: Work) -> Layer:
        from cvxpylayers.torch import CvxpyLayer

        problem, parameters, x = cvxpy_problem(work, root=True)
        layer = CvxpyLayer(problem, parameters, [x], **SETTINGS[name])
        return lambda *data: layer(*data)[0]

    return make


def _make_qpth(work: Work) -> Layer:
    """Its default options: eps 1e-12, at most 20 iterations.  P must be positive definite, so no LPs."""
    from qpth.qp import QPFunction

    function, none = QPFunction(verbose=-1), torch.empty(0, dtype=torch.float64)
    if work.family == "qp":
        return lambda P, q, A, b, G, h: function(P, q, G, h, A, b)
    eye = torch.eye(work.shape.n, dtype=torch.float64)
    rows = torch.cat([eye, -eye])
    return lambda P, q, lb, ub: function(P, q, rows, torch.cat([ub, -lb], 1), none, none)


def _make_proxsuite(work: Work) -> Layer:
    """eps 1e-9 is its default; its backward pass defaults to 1e-4 and rounds gradients to torch's default dtype.

    Of the LPs it takes some for infeasible and returns its last point without a word: they show as wrong.
    """
    from proxsuite.torch.qplayer import QPFunction

    function = QPFunction(eps=1e-9, eps_backward=1e-9)
    n, none = work.shape.n, torch.empty(0, dtype=torch.float64)
    below = torch.full((work.shape.m,), -1e20, dtype=torch.float64)
    zero, eye = torch.zeros(n, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    if work.family == "qp":
        return lambda P, q, A, b, G, h: function(P, q, A, b, G, below.expand_as(h), h)[0]
    if work.family == "lp":
        return lambda q, A, b, G, h: function(zero.expand(len(q), -1, -1), q, A, b, G, below.expand_as(h), h)[0]
    return lambda P, q, lb, ub: function(P, q, none, none, eye.expand(len(q), -1, -1), lb, ub)[0]


DCL, OVERHEAD = "dcl.QPLayer", "torch: an empty Function"
_STRICT = ("qp", "box")
PEERS = (
    Peer(OVERHEAD, (), _make_empty, answers=False),
    Peer(DCL, ("dcl",), _make_dcl(0.0)),
    Peer("dcl.CvxpyLayer", ("dcl",), _make_dcl_cvxpy(root=False)),
    Peer("dcl.CvxpyLayer, P = L'L", ("dcl",), _make_dcl_cvxpy(root=True), families=("qp",), root=True),
    Peer("moreau.torch", ("moreau",), _make_moreau),
    Peer("moreau.torch, active set", ("moreau",), _make_moreau_active_set, families=("lp",)),
    Peer("proxsuite", ("proxsuite",), _make_proxsuite),
    Peer("qpth", ("qpth",), _make_qpth, families=_STRICT),
    *(
        Peer(name, NEEDS[name], _make_cvxpylayers(name), root=True)
        for name in (
            "cvxpylayers + MOREAU",
            "cvxpylayers, default",
            "cvxpylayers, eps 1e-8",
            "cvxpylayers, 1e-8, dense",
        )
    ),
)
CENTRAL = (
    PEERS[1],
    *(Peer(f"{DCL}, mu {mu:.0e}", ("dcl",), _make_dcl(mu), mu=mu) for mu in (1e-1, 1e-3, 1e-6)),
)


def peers_of(work: Work) -> tuple[Peer, ...]:
    """The layers for a work."""
    return CENTRAL if work.central else tuple(peer for peer in PEERS if work.family in peer.families)

"""The packages as a user keeps them in a torch model: one small QP whose data are tensors, behind one signature.

    minimize 1/2 x'Px + q'x   subject to   Ax = b,   Gx <= h          P = diag(1, 2, 3) is fixed

Each package is called as its documentation has it; where moreau.torch wants vectors in the same batch, they are expanded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import torch
from machine import version
from torch import Tensor, nn

N, M, EQUALITIES = 3, 3, 1
DIAGONAL = (1.0, 2.0, 3.0)
EPS = 1e-8


def problem() -> tuple[cp.Problem, list[cp.Parameter], cp.Variable]:
    """The program in CVXPY, its parameters in the order q, A, b, G, h."""
    x, q, A, b = cp.Variable(N), cp.Parameter(N), cp.Parameter((EQUALITIES, N)), cp.Parameter(EQUALITIES)
    G, h = cp.Parameter((M, N)), cp.Parameter(M)
    squares = sum(d * cp.square(x[i]) for i, d in enumerate(DIAGONAL))
    return cp.Problem(cp.Minimize(0.5 * squares + q @ x), [A @ x == b, G @ x <= h]), [q, A, b, G, h], x


class Net(nn.Module):
    """(q, A, b, G, h) -> x, with a weight that is added to q."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(N, dtype=torch.float64))

    def forward(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        """The answer of the package."""
        return self.solve(q + self.weight.to(q.dtype), A, b, G, h)

    def solve(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        """As above, for the data themselves."""
        raise NotImplementedError

    def P(self, like: Tensor) -> Tensor:
        """P in the dtype of `like`."""
        return torch.diag(torch.tensor(DIAGONAL, dtype=like.dtype))


def _lead(*tensors: tuple[Tensor, int]) -> torch.Size:
    """The batch shape of tensors with so many core dimensions each."""
    return torch.broadcast_shapes(*(t.shape[: t.ndim - core] for t, core in tensors))


class DclCvxpy(Net):
    """dcl.CvxpyLayer."""

    def __init__(self) -> None:
        import dcl

        super().__init__()
        program, parameters, x = problem()
        self.layer = dcl.CvxpyLayer(program, parameters, [x])

    def solve(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        return self.layer(q, A, b, G, h)[0]


class DclQP(Net):
    """dcl.QPLayer."""

    def __init__(self) -> None:
        import dcl

        super().__init__()
        self.layer = dcl.QPLayer()

    def solve(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        return self.layer(self.P(q), q, A=A, b=b, G=G, h=h).x


class DclCone(Net):
    """dcl.ConeLayer; A and G are stacked."""

    def __init__(self) -> None:
        import dcl

        super().__init__()
        self.layer = dcl.ConeLayer({"z": EQUALITIES, "l": M})

    def solve(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        def stacked(top: Tensor, bottom: Tensor, core: int) -> Tensor:
            lead = _lead((top, core), (bottom, core))
            return torch.cat([t.expand(*lead, *t.shape[t.ndim - core :]) for t in (top, bottom)], -core)

        return self.layer(self.P(q), q, stacked(A, G, 2), stacked(b, h, 1)).x


class Cvxpylayers(Net):
    """cvxpylayers.torch.CvxpyLayer with its default solver, at eps 1e-8."""

    def __init__(self) -> None:
        from cvxpylayers.torch import CvxpyLayer

        super().__init__()
        program, parameters, x = problem()
        self.layer = CvxpyLayer(program, parameters, [x], solver_args={"eps": EPS})

    def solve(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        return self.layer(q, A, b, G, h)[0]


class Qpth(Net):
    """qpth: a new QPFunction in every call, as its README has it."""

    def solve(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        from qpth.qp import QPFunction

        x = QPFunction(verbose=-1)(self.P(q), q, G, h, A, b)
        return x if _lead((q, 1), (A, 2), (b, 1), (G, 2), (h, 1)) else x[0]


class Proxsuite(Net):
    """proxsuite: a new QPFunction in every call, as its documentation has it, with a tight backward pass."""

    def solve(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        from proxsuite.torch.qplayer import QPFunction

        x = QPFunction(eps=1e-9, eps_backward=1e-9)(self.P(q), q, A, b, G, torch.full_like(h, -1e20), h)[0]
        return x if _lead((q, 1), (A, 2), (b, 1), (G, 2), (h, 1)) else x[0]


class Moreau(Net):
    """moreau.torch.Solver, its tolerances tightened."""

    def __init__(self) -> None:
        import moreau
        import moreau.torch

        super().__init__()
        rows = EQUALITIES + M
        settings = moreau.Settings(
            solver="auto",
            device="cpu",
            enable_grad=True,
            ipm_settings=moreau.IPMSettings(tol_gap_abs=EPS, tol_gap_rel=EPS, tol_feas=EPS),
            active_set_settings=moreau.ActiveSetSettings(primal_tol=EPS),
        )
        self.solver = moreau.torch.Solver(
            n=N,
            m=rows,
            P_row_offsets=torch.arange(N + 1),
            P_col_indices=torch.arange(N),
            A_row_offsets=torch.arange(0, rows * N + 1, N),
            A_col_indices=torch.arange(N).repeat(rows),
            cones=moreau.Cones(num_zero_cones=EQUALITIES, num_nonneg_cones=M),
            settings=settings,
        )

    def solve(self, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        lead = _lead((q, 1), (A, 2), (b, 1), (G, 2), (h, 1))
        q, b, h = (t.expand(*lead, -1) for t in (q, b, h))
        matrices = _lead((A, 2), (G, 2))
        A, G = (t.expand(*matrices, -1, -1) for t in (A, G))
        P = torch.tensor(DIAGONAL, dtype=q.dtype).expand(*matrices, -1)
        return self.solver.solve(P, torch.cat([A, G], -2).flatten(-2), q, torch.cat([b, h], -1)).x


@dataclass(frozen=True)
class Peer:
    """A column of the table: its title, the distributions it needs, how its net is made."""

    name: str
    needs: tuple[str, ...]
    make: Callable[[], Net]

    def missing(self) -> list[str]:
        """The distributions that are not installed."""
        return [name for name in self.needs if version(name) is None]


PEERS = (
    Peer("dcl.CvxpyLayer", ("dcl",), DclCvxpy),
    Peer("dcl.QPLayer", ("dcl",), DclQP),
    Peer("dcl.ConeLayer", ("dcl",), DclCone),
    Peer("cvxpylayers", ("cvxpylayers", "diffcp"), Cvxpylayers),
    Peer("qpth", ("qpth",), Qpth),
    Peer("proxsuite", ("proxsuite",), Proxsuite),
    Peer("moreau.torch", ("moreau",), Moreau),
)

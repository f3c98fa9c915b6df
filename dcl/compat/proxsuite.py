"""`proxsuite.torch.qplayer.QPFunction` on top of `dcl.QPLayer`.

    minimize 1/2 x'Qx + p'x   subject to   Ax = b (lams),   l <= Gx <= u (nus)
    stationarity:  Qx + p + A'lams + G'nus = 0,     nus >= 0 where Gx = u,   nus <= 0 where Gx = l

A bound of size 1e20 and more is infinite, as in proxsuite.  The two sides are the rows [G; -G] of `dcl.QPLayer` with
right-hand sides [u; -l] and multipliers z: nus = z_u - z_l.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcl.compat import block, ignore
from dcl.errors import UnsupportedError
from dcl.layers.qp import QPLayer, QPResult

_EPS = 1e-9
_INFINITE = 1e20


class QPFunction:
    """Drop-in for `proxsuite.torch.qplayer.QPFunction`: options first, then called with `(Q, p, A, b, G, l, u)`.

    Differences: every answer is checked, an infeasible program raises `dcl.SolveError` with a checked certificate,
    gradients are not rounded to float32.  The gradient of a tensor without batch dimension is the sum over the batch.

    Args:
        eps: accuracy asked of the solver; at its default, dcl's own (answers are refined to about 1e-12 either way).
        maxIter, eps_backward, rho_backward, mu_backward: of proxsuite's own method; ignored, with one
            `CompatibilityWarning` if changed.
        omp_parallel: accepted; dcl spreads a batch over its own bounded pool either way.
        structural_feasibility: must be True.

    Raises:
        UnsupportedError: structural_feasibility=False, the closest feasible program, which dcl does not have.

    Example:
        >>> import torch
        >>> from dcl.compat.proxsuite import QPFunction
        >>> Q, p, e = torch.eye(2).double(), torch.tensor([[-1.0, -3.0]]).double(), torch.tensor([])
        >>> l, u = torch.tensor([-2.0]).double(), torch.tensor([1.0]).double()
        >>> x, lams, nus = QPFunction()(Q, p, e, e, torch.ones(1, 2).double(), l, u)
        >>> x, nus
        (tensor([[-0.5000,  1.5000]], dtype=torch.float64), tensor([[1.5000]], dtype=torch.float64))
    """

    def __init__(
        self,
        eps: float = _EPS,
        maxIter: int = 1000,
        eps_backward: float = 1e-4,
        rho_backward: float = 1e-6,
        mu_backward: float = 1e-6,
        omp_parallel: bool = False,
        structural_feasibility: bool = True,
    ) -> None:
        if not structural_feasibility:
            raise UnsupportedError(
                "structural_feasibility=False (the closest feasible program) is not available in dcl; "
                "with structural_feasibility=True an infeasible instance raises dcl.SolveError, which names it"
            )
        ignore(
            "proxsuite",
            {
                "maxIter": (maxIter, 1000),
                "eps_backward": (eps_backward, 1e-4),
                "rho_backward": (rho_backward, 1e-6),
                "mu_backward": (mu_backward, 1e-6),
            },
        )
        self._layer = QPLayer(solver_args=None if eps == _EPS else {"eps": eps})

    def __call__(
        self,
        Q: Tensor,
        p: Tensor,
        A: Tensor | None,
        b: Tensor | None,
        G: Tensor | None,
        l: Tensor | None,  # noqa: E741  proxsuite's name
        u: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The answer x (B, n) and its multipliers lams (B, p), nus (B, m).

        For Q (B, n, n), p (B, n), A (B, p, n), b (B, p), G (B, m, n), l and u (B, m), any of them without B; B is 1 if
        none has it, as in proxsuite.  An empty tensor or None means absent (for l and u: no bound on that side).
        Errors: see `dcl.QPLayer`, which knows u and -l as the two parts of h.
        """
        G, lower, upper = block(G, l, u)
        bounds = ((1.0, _bound(upper, 1.0)), (-1.0, _bound(lower, -1.0)))
        sides = [(sign, bound) for sign, bound in bounds if bound is not None]
        rows = torch.cat([sign * G for sign, _ in sides], -2) if G is not None and sides else None
        h = _stack([bound for _, bound in sides]) if sides else None
        result: QPResult = self._layer(Q, p, *block(A, b), rows, h)
        m = 0 if G is None else G.shape[-2]
        nus = result.z.new_zeros(*result.z.shape[:-1], m)
        for k, (sign, _) in enumerate(sides):
            nus = nus + sign * result.z[..., k * m : (k + 1) * m]
        x, lams, nus = (t if t.ndim > 1 else t.unsqueeze(0) for t in (result.x, result.y, nus))
        return x, lams, nus


def _bound(side: Tensor | None, sign: float) -> Tensor | None:
    """The side times sign, infinite from 1e20 on; None if it is absent, or constant and binds nowhere."""
    if side is None or side.numel() == 0:
        return None
    side = sign * side
    free = side >= _INFINITE
    if not side.requires_grad and bool(free.all()):
        return None
    return torch.where(free, torch.inf, side)


def _stack(sides: list[Tensor]) -> Tensor:
    """The sides one after the other, the shared ones expanded to the batch of the others."""
    batch = max((side.shape[:-1] for side in sides), key=torch.Size.numel)
    return torch.cat([side.expand(*batch, side.shape[-1]) for side in sides], -1)

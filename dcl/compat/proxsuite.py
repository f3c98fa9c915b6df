"""`proxsuite.torch.qplayer.QPFunction` on top of `dcl.QPLayer`.

    minimize 1/2 x'Qx + p'x   subject to   Ax = b (lams),   l <= Gx <= u (nus)
    stationarity:  Qx + p + A'lams + G'nus = 0,     nus >= 0 where Gx = u,   nus <= 0 where Gx = l

A bound of size 1e20 and more is infinite, as in proxsuite.  The two sides are the rows [G; -G] of `dcl.QPLayer` with
right-hand sides [u; -l] and multipliers z: nus = z_u - z_l.  With structural_feasibility=False an infeasible program is
replaced by the closest feasible one (`dcl.compat.closest`):

    Ax = b + s_e,   l + s_i <= Gx <= u + s_i    with the least |s_e|^2 + |s_l|^2 + |s_u|^2,   s_i = s_u - s_l,  s_l, s_u >= 0
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from dcl.compat import block, ignore
from dcl.compat.replace import replace_infeasible
from dcl.errors import DegenerateWarning, level_of_caller
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
        structural_feasibility: False: an infeasible instance (with a checked certificate) is answered by the closest
            feasible program, and s_e, s_i are returned too, zero for the feasible ones.  Any batch, and exact gradients of all
            outputs; proxsuite 0.8 takes one G, and weights |s_e| ten times |s_i|, the ratio of its last penalties.
            The multipliers of that program are unique up to multiples of (s_e, s_i), of which proxsuite adds a large one;
            here the shortest ones for its equalities and violated rows are returned.

    Example:
        >>> import torch
        >>> from dcl.compat.proxsuite import QPFunction
        >>> Q, p, e = torch.eye(2).double(), torch.tensor([[-1.0, -3.0]]).double(), torch.tensor([])
        >>> l, u = torch.tensor([-2.0]).double(), torch.tensor([1.0]).double()
        >>> x, lams, nus = QPFunction()(Q, p, e, e, torch.ones(1, 2).double(), l, u)
        >>> x, nus
        (tensor([[-0.5000,  1.5000]], dtype=torch.float64), tensor([[1.5000]], dtype=torch.float64))
        >>> A, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([0.0, 1.0]).double()
        >>> x, lams, nus, s_e, s_i = QPFunction(structural_feasibility=False)(Q, p, A, b, e, e, e)
        >>> x, s_e
        (tensor([[0.5000, 3.0000]], dtype=torch.float64), tensor([[ 0.5000, -0.5000]], dtype=torch.float64))
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
        ignore(
            "proxsuite",
            {
                "maxIter": (maxIter, 1000),
                "eps_backward": (eps_backward, 1e-4),
                "rho_backward": (rho_backward, 1e-6),
                "mu_backward": (mu_backward, 1e-6),
            },
        )
        self._layer = QPLayer(
            solver_args=None if eps == _EPS else {"eps": eps}, on_failure="raise" if structural_feasibility else "nan"
        )
        self._structural_feasibility = structural_feasibility
        self._has_warned = False

    def __call__(
        self,
        Q: Tensor,
        p: Tensor,
        A: Tensor | None,
        b: Tensor | None,
        G: Tensor | None,
        l: Tensor | None,  # noqa: E741  proxsuite's name
        u: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """The answer x (B, n) and its multipliers lams (B, p), nus (B, m); then the shifts s_e (B, p), s_i (B, m), if asked for.

        For Q (B, n, n), p (B, n), A (B, p, n), b (B, p), G (B, m, n), l and u (B, m), any of them without B; B is 1 if
        none has it, as in proxsuite.  An empty tensor or None means absent (for l and u: no bound on that side).
        Errors: see `dcl.QPLayer`, which knows u and -l as the two parts of h.
        """
        G, lower, upper = block(G, l, u)
        bounds = ((1.0, _bound(upper, 1.0)), (-1.0, _bound(lower, -1.0)))
        sides = [(sign, bound) for sign, bound in bounds if bound is not None]
        rows = torch.cat([sign * G for sign, _ in sides], -2) if G is not None and sides else None
        h = _stack([bound for _, bound in sides]) if sides else None
        signs = [sign for sign, _ in sides] if rows is not None else []
        m = 0 if G is None else G.shape[-2]
        data = (Q, p, *block(A, b), rows, h)
        blocks: dict[str, Any] = dict(zip(("P", "q", "A", "b", "G", "h"), data, strict=True))
        if self._structural_feasibility:
            result: QPResult = self._layer(**blocks)
            outputs: tuple[Tensor, ...] = (result.x, result.y, _both(signs, m, result.z))
        else:
            result, solution = self._layer(**blocks, return_solution=True)
            answer = replace_infeasible(result, solution, data, owner=[i for _ in signs for i in range(m)])
            self._warn_of(answer.doubts)
            outputs = (answer.x, answer.y, _both(signs, m, answer.z), answer.s_e, _both(signs, m, answer.s_i))
        return tuple(t if t.ndim > 1 else t.unsqueeze(0) for t in outputs)

    def _warn_of(self, doubts: tuple[str, ...]) -> None:
        if doubts and not self._has_warned:
            self._has_warned = True
            text = "\n  ".join(["the derivative of the closest feasible program may be wrong.", *doubts])
            warnings.warn(f"{text}\n  (this warning is shown once)", DegenerateWarning, stacklevel=level_of_caller())


def _both(signs: list[float], m: int, rows: Tensor) -> Tensor:
    """(..., m) from what belongs to the rows of the sides, one after the other: upper less lower."""
    both = rows.new_zeros(*rows.shape[:-1], m)
    for k, sign in enumerate(signs):
        both = both + sign * rows[..., k * m : (k + 1) * m]
    return both


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

"""`qpth.qp.QPFunction` on top of `dcl.QPLayer`.

    minimize 1/2 x'Qx + p'x   subject to   Gx <= h,   Ax = b

The letters are qpth's; P, q of dcl are Q, p here.
"""

from __future__ import annotations

from enum import Enum

from torch import Tensor

from dcl.compat import block, ignore
from dcl.layers.qp import QPLayer, QPResult

_EPS = 1e-12


class QPSolvers(Enum):
    """The names of qpth's solvers, so that programs that mention them run."""

    PDIPM_BATCHED = 1
    CVXPY = 2


class QPFunction:
    """Drop-in for `qpth.qp.QPFunction`: options first, then called with `(Q, p, G, h, A, b)`.

    Differences: Q may be singular (positive semidefinite is enough), programs with equalities only and linear programs
    are solved, every answer is checked, derivatives of any order are right.  **The gradient of a tensor without batch
    dimension is the sum over the batch**, as in the rest of torch; in qpth it is the mean.

    Args:
        eps: accuracy asked of the solver; at its default, dcl's own (answers are refined to about 1e-12 either way).
        verbose: above 0, let the solver print.
        notImprovedLim, maxIter, solver, check_Q_spd: of qpth's own method; ignored, with one `CompatibilityWarning` if
            changed.  Q is always checked to be positive semidefinite.

    Example:
        >>> import torch
        >>> from dcl.compat.qpth import QPFunction
        >>> Q, p, e = torch.eye(2).double(), torch.tensor([[-1.0, -3.0]]).double(), torch.tensor([])
        >>> QPFunction(verbose=-1)(Q, p, torch.ones(1, 2).double(), torch.ones(1).double(), e, e)
        tensor([[-0.5000,  1.5000]], dtype=torch.float64)
    """

    def __init__(
        self,
        eps: float = _EPS,
        verbose: int = 0,
        notImprovedLim: int = 3,
        maxIter: int = 20,
        solver: Enum = QPSolvers.PDIPM_BATCHED,
        check_Q_spd: bool = True,
    ) -> None:
        ignore(
            "qpth",
            {
                "notImprovedLim": (notImprovedLim, 3),
                "maxIter": (maxIter, 20),
                "solver": (solver.name, QPSolvers.PDIPM_BATCHED.name),
                "check_Q_spd": (check_Q_spd, True),
            },
        )
        self._layer = QPLayer(solver_args=None if eps == _EPS else {"eps": eps}, verbose=verbose > 0)

    def __call__(
        self, Q: Tensor, p: Tensor, G: Tensor | None, h: Tensor | None, A: Tensor | None, b: Tensor | None
    ) -> Tensor:
        """The answer x (B, n).

        For Q (B, n, n), p (B, n), G (B, m, n), h (B, m), A (B, p, n), b (B, p), any of them without B; B is 1 if none
        has it, as in qpth.  An empty tensor or None means absent.  Errors: see `dcl.QPLayer`.
        """
        (A, b), (G, h) = block(A, b), block(G, h)
        result: QPResult = self._layer(Q, p, A=A, b=b, G=G, h=h)
        return result.x if result.x.ndim > 1 else result.x.unsqueeze(0)

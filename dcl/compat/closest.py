"""The closest feasible quadratic program, for `dcl.compat.proxsuite` with structural_feasibility=False.

    minimize 1/2 x'Qx + p'x   subject to   Ax = b + s_e,   Cx <= u + s_i                                (1)

where (s_e, s_i >= 0) are the least shifts, in the 2-norm, that let (1) have a feasible point.  They are unique.  Let Ex = e
stand for the equalities and the violated rows J = {s_i > 0}.  The shifts are their own multipliers, so that E's = 0 for
s = Ex - e: what is feasible for (1) are the least-squares solutions of Ex = e that satisfy the other rows, N,

    minimize 1/2 x'Qx + p'x   subject to   E'(Ex - e) = 0,   C_N x <= u_N                               (2)

There are no shifts in (2), and it is feasible for all data near: `dcl.QPLayer` differentiates it in all of them at once.  Of
its n equations rank(E) are independent: M'(Ex - e) = 0 with M = E W, where W = V R^-1 is kept constant: V spans the rows of
E, by the singular values of E with rows of size one, and EV = MR is its QR decomposition.

    multipliers     Qx + p + E'y + C_N'z = 0     with y = M lambda

The multipliers of (1) are unique only up to multiples of s, since E's = 0: y is the shortest, orthogonal to s.

Source: Bambade, Schramm, Taylor, Carpentier 2024, Leveraging augmented-Lagrangian techniques for differentiating over
infeasible quadratic programs in machine learning (ICLR).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.layers.qp import QPLayer
from dcl.status import GradientKind, Status

# A shift below this, relative to the largest, is none; so is a singular value of E with rows of size one.
_NONE = 1e-9
_RANK_VARIES = (
    "the violated rows and the equalities are linearly dependent: the derivative with respect to A and G holds only for "
    "changes that keep them dependent (with other changes the closest point jumps, as it does for two parallel lines when "
    "one is turned)"
)


@dataclass(frozen=True, eq=False)
class Data:
    """Q (B, n, n), p (B, n), A (B, p, n), b (B, p), C (B, m, n), u (B, m), in float64."""

    Q: Tensor
    p: Tensor
    A: Tensor
    b: Tensor
    C: Tensor
    u: Tensor

    def rows(self, index: Tensor) -> Data:
        """The instances `index`."""
        return Data(*(t[index] for t in (self.Q, self.p, self.A, self.b, self.C, self.u)))


@dataclass(frozen=True, eq=False)
class Closest:
    """The answers of (1): x (B, n), y (B, p), z (B, m), s_e (B, p), s_i (B, m), NaN where status says that there is none.

    status, kind (B,): `dcl.Status` and `dcl.GradientKind` of (2).
    rank_varies (B,): a change of A or C may change the rank of E, and then x jumps.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    s_e: Tensor
    s_i: Tensor
    status: Tensor
    kind: Tensor
    rank_varies: Tensor

    def doubts(self, matrices_vary: bool) -> Iterator[tuple[int, str]]:
        """Each instance whose derivative is not that of a smooth map, and why. matrices_vary: are A, C differentiated?"""
        for i, (kind, rank_varies) in enumerate(zip(self.kind.tolist(), self.rank_varies.tolist(), strict=True)):
            if kind != GradientKind.EXACT:
                yield i, f"{GradientKind(kind).name}: {GradientKind(kind).message}"
            if rank_varies and matrices_vary:
                yield i, _RANK_VARIES


def closest(data: Data, owner: Tensor) -> Closest:
    """Solve (1) for programs that are infeasible; differentiable in all data.

    owner (m,): a number for each row of C, equal for rows made of the same data, as the two sides of l <= Gx <= u are.
    """
    shifts, status = _least_shifts(data)
    violated = shifts[:, data.b.shape[-1] :] > _NONE * shifts.abs().amax(-1, keepdim=True)
    groups, answers = [], []
    for rows in sorted(set(map(tuple, violated.tolist()))):
        pattern = torch.tensor(rows, dtype=torch.bool, device=violated.device)
        index = torch.nonzero((violated == pattern).all(-1)).flatten()
        E = torch.cat([data.A[index], data.C[index][:, pattern]], -2).detach()
        ranks = torch.linalg.matrix_rank(_of_size_one(E), rtol=_NONE)
        for rank in ranks.unique().tolist():
            groups.append(index[ranks == rank])
            answers.append(_of_pattern(data.rows(groups[-1]), pattern, rank, owner))
    order = torch.cat(groups).argsort()
    x, y, z, s_e, s_i, second, kind, rank_varies = (torch.cat(parts)[order] for parts in zip(*answers, strict=True))
    status = torch.where(status == int(Status.OPTIMAL), second, status)
    return Closest(x, y, z, s_e, s_i, status, kind, rank_varies)


def _least_shifts(data: Data) -> tuple[Tensor, Tensor]:
    """(s_e, s_i) (B, p + m), and its status: minimize |s|^2 / 2 subject to Ax - s_e = b, Cx - s_i <= u."""
    (batch, p, n), m = data.A.shape, data.C.shape[-2]
    P = torch.diag(torch.cat([data.b.new_zeros(n), data.b.new_ones(p + m)]))
    shift = -torch.eye(p + m, dtype=P.dtype, device=P.device).expand(batch, -1, -1)
    rows = torch.cat([torch.cat([data.A, data.C], -2), shift], -1).detach()
    layer = QPLayer(on_failure="nan")
    b, h = data.b.detach(), data.u.detach()
    solution = layer.solve(P, P.new_zeros(n + p + m), A=rows[:, :p], b=b, G=rows[:, p:], h=h)
    return solution.outputs[0][:, n:], solution.status


def _of_pattern(data: Data, pattern: Tensor, rank: int, owner: Tensor) -> tuple[Tensor, ...]:
    """The entries of `Closest`, for instances that violate the same rows and have an E of the same rank."""
    (batch, p, n), m = data.A.shape, len(pattern)
    E = torch.cat([data.A, data.C[:, pattern]], -2)
    e = torch.cat([data.b, data.u[:, pattern]], -1)
    V = torch.linalg.svd(_of_size_one(E.detach()), full_matrices=False).Vh[:, :rank].mT
    R = torch.linalg.qr(E.detach() @ V).R
    M = E @ torch.linalg.solve_triangular(R, V, upper=True, left=False)
    layer = QPLayer(on_failure="nan", on_degenerate="ignore")
    result, solution = layer(
        data.Q,
        data.p,
        A=M.mT @ E,
        b=_times(M.mT, e),
        G=data.C[:, ~pattern],
        h=data.u[:, ~pattern],
        return_solution=True,
    )
    y, s = _times(M, result.y), _times(E, result.x) - e
    # back to the order of the rows of C
    place = torch.cat([torch.nonzero(pattern), torch.nonzero(~pattern)]).flatten().argsort()
    z = torch.cat([y[:, p:], result.z], -1)[:, place]
    s_i = torch.cat([s[:, p:], s.new_zeros(batch, m - s.shape[-1] + p)], -1)[:, place]
    rank_varies = torch.full_like(solution.ok, rank < min(p + owner[pattern].unique().numel(), n))
    return result.x, y[:, :p], z, s[:, :p], s_i, solution.status, solution.gradient_kind, rank_varies


def _of_size_one(rows: Tensor) -> Tensor:
    """The same rows, each divided by its norm; what counts as dependent does not depend on their units."""
    size: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / size.clamp(min=torch.finfo(rows.dtype).tiny)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)

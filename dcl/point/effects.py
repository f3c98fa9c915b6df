"""Whether a tie moves what was asked for: D there is anything between two values, and the derivative may not notice.

In the coordinates Q of D, with q_i the i-th column of Q (a unit vector for rows of an orthant, an eigenvector for other cones),
another value of d_i adds a multiple of c q_i' to K, c = (A'q_i, q_i).  So a linear function E of the solution keeps
its derivative E K^-1 if and only if

    E K^-1 c = 0

and if that holds at each tie it holds for all values at all of them: by Sherman and Morrison, and where a value makes K singular,
by K w = (a, b) - (multiple of c).  There solutions are flat along w with E w = 0 (the epigraph t of |x| <= t <= r where t costs
nothing), and (a, b) must be in the range: data that change the slope along w, (dP x + dq + dA'z)'w, decide where on the flat face
the solution is.  So E has, besides what was asked for, the entries of x that moving data multiply (`Moving.columns`).

Of curved cones three things more are needed, or the tie counts:
    q_i is fixed      one tie in the cone, of a second-order or semidefinite one: its eigenvalue 0 is simple, and the limits of D
                      at nearby data have d_i in [0, 1] and the same Q.  At the apex they have any Q.
    z is unique       D depends on z, so z has to be continuous in the data.  The rows of Q'A with d = 1 or a tie are
                      independent: S with d = 1 at the ties determines the multipliers.
    v is settled      Newton's next step changes no other v_i by a fourth of it: where many constraints meet, the point may
                      be right to 1e-8 and |v_i| not be larger.
Rows of orthants need none of them: there a tie that leaves x alone, K (0, dv) = c, depends on others, and is told apart.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcl.cones.base import Revalued
from dcl.kkt import assemble
from dcl.point import Point
from dcl.point.asked import Moving, Requested
from dcl.program import ConeProgram, magnitude

# A change of the requested entries below this, relative to all entries, is none.
MOVES = 1e-9
# Above so many ties they are looked at together, by so many random combinations of the requested entries.
_MANY, _COMBINATIONS = 32, 3
# Entries of the right-hand sides that are solved for together.
_AT_ONCE = 1_000_000
# Cones whose D at a simple eigenvalue 0 has one value that is not determined.
_SPECTRAL = ("second_order", "semidefinite")
# Newton's next step may change v_i by this factor at a point of curved cones with ties that do not count.
_SETTLED = 0.25


def effect_of_ties(
    point: Point, tied: Tensor, requested: Requested | None, moving: Moving | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How much d at `tied` changes the requested entries' derivative, relative; does it leave x alone; is it doubtful?

    (B, m) each, by rows of orthants and eigenvalues of other cones.  Infinite where a tie of a curved cone counts without
    looking.  Doubtful: a multiplier was asked for, or a row moves, of those that are dependent,
    A'(dz - e_i) = 0; which they are is the fourth.  Zero and false for rows without a tie.
    """
    x, z, none = torch.ones_like(point.x, dtype=torch.bool), torch.ones_like(tied), torch.zeros_like(tied)
    changing = torch.ones_like(tied[0])
    if requested is not None:
        x, z = requested.x.to(x.device).expand_as(x), requested.z.to(x.device).expand_as(z)
        if moving is not None:
            x = x | moving.columns(active_rows(point.program, torch.where(tied, 0.0, point.kkt.D.d)))
            changing = (requested.z | moving.rows()).to(x.device)
    count = int(tied.sum(-1).max())
    if requested is not None and count > _MANY:
        effect, repeats, doubtful, others = _effect_of_many(point, x, z), none, none, none
    else:
        effect, repeats, doubtful, others = _effect_of_each(point, tied, count, x, z, changing)
    effect = torch.where(tied, effect, 0.0)
    if point.program.structure.cone.is_orthant:
        return effect, repeats & tied, doubtful & tied, others
    counts = ~_is_regular(point, tied).unsqueeze(-1) | repeats
    return torch.where(tied & counts, torch.inf, effect), none, none, none


def _effect_of_each(
    point: Point, tied: Tensor, count: int, x: Tensor, z: Tensor, changing: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`effect_of_ties` by a solve for each of the `count` first ties; rows that are not tied hold anything.

    x (B, n), z (B, m): masks of what was asked for.  changing (m,): of the multipliers and rows that may be doubtful.
    """
    kkt, (batch, m) = point.kkt, point.v.shape
    rows = tied.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :count]
    effect, repeats, doubtful, others = torch.zeros_like(point.v), *(torch.zeros_like(tied) for _ in range(3))
    for columns in rows.T.split(max(1, _AT_ONCE // (batch * (m + point.x.shape[-1])))):
        e = kkt.D.from_eigen(effect.new_zeros(len(columns), batch, m).scatter(-1, columns.unsqueeze(-1), 1.0))
        dx, dv, _ = kkt.tangent(point.program.ATz(e), e)
        dz = kkt.D.apply(dv)
        moved = torch.maximum(magnitude(dx * x), magnitude(dz * z))
        size = torch.maximum(magnitude(dx), magnitude(dv)).clamp(min=torch.finfo(e.dtype).tiny)
        repeat = magnitude(dx) <= MOVES * size
        part = (dz - e).abs() > MOVES * size.unsqueeze(-1)
        is_tied = tied.gather(-1, columns.T).T
        others |= ((repeat & is_tied).unsqueeze(-1) & part).any(0)
        effect = effect.scatter(-1, columns.T, (moved / size).T)
        repeats = repeats.scatter(-1, columns.T, repeat.T)
        doubtful = doubtful.scatter(-1, columns.T, (repeat & (part & changing).any(-1)).T)
    return effect, repeats, doubtful, others


def _effect_of_many(point: Point, x: Tensor, z: Tensor) -> Tensor:
    """The effect of every row at once, (B, m): c' K^-T E'g for random g, which is zero only where E K^-1 c is."""
    kkt, generator = point.kkt, np.random.default_rng(point.v.shape[-1])
    gx, gz = (
        torch.from_numpy(generator.standard_normal((_COMBINATIONS, 1, mask.shape[-1]))).to(point.v) * mask
        for mask in (x, z)
    )
    ux, uv, _ = kkt.adjoint(gx, kkt.D.apply(gz))
    size = torch.maximum(magnitude(ux), magnitude(uv)).clamp(min=torch.finfo(ux.dtype).tiny)
    return (kkt.D.to_eigen(point.program.Ax(ux) + uv).abs() / size.unsqueeze(-1)).amax(0)


def _is_regular(point: Point, tied: Tensor) -> Tensor:
    """Where the three conditions of curved cones hold, (B,)."""
    program, start = point.program, 0
    simple = torch.ones(len(tied), dtype=torch.bool, device=tied.device)
    for block in program.structure.cone.blocks:
        stop = start + block.rows * block.count
        if not block.is_orthant:
            most = 1 if block.kind in _SPECTRAL else 0
            of_each = tied[:, start:stop].reshape(len(tied), block.count, block.rows).sum(-1)
            simple &= (of_each <= most).all(-1)
        start = stop
    if not bool((simple & tied.any(-1)).any()):
        return simple
    held = assemble(program, point.v, Revalued(torch.where(tied, 1.0, point.kkt.D.d), point.kkt.D))
    distance = program.structure.cone.kink_distance(point.v)
    step = point.kkt.D.to_eigen(point.newton()[1]).abs()
    settled = ((step <= _SETTLED * distance) | tied).all(-1)
    return simple & settled & (held.conditioning.null_y == 0)


def first_rows(program: ConeProgram, rows: Tensor) -> Tensor:
    """The first row of the cone of each of `rows` (k,): an eigenvalue has no row of its own; rows of orthants, and -1, stay."""
    first: list[int] = []
    for block in program.structure.cone.blocks:
        size = 1 if block.is_orthant else block.rows
        start = len(first)
        first += [start + k - k % size for k in range(block.rows * block.count)]
    table = torch.tensor([*first, -1], dtype=torch.int64).to(rows.device)
    return table[rows]


def active_rows(program: ConeProgram, d: Tensor) -> Tensor:
    """Which rows hold, (B, m): d > 0; all rows of a curved cone where one of its eigenvalues d (B, m) is above zero."""
    active = d > 0.0
    if program.structure.cone.is_orthant:
        return active
    index = first_rows(program, torch.arange(d.shape[-1], device=d.device)).expand_as(d)
    return torch.zeros_like(d).scatter_add(-1, index, active.to(d.dtype)).gather(-1, index) > 0.0

"""Smooth terms at a point: what the rows and variables say that have left the program with them (dcl/program/reduction/terms.py).

With u the tails, psi, its gradient p, and sigma = -1 for relative, 1 for exp terms:

    relative, exp    head  alpha t + s = b,  s = sigma psi,  z = sigma lambda        tails  s = u,  z = -lambda p
    log sum          t = psi,  a = p;   inequality z = lambda;   tails  s = u - t,  z = -lambda p;
                     rows 1:  s = 1,  z = -lambda p (1 - s_tail);   powers  s = p,  z = lambda

The derivative, for right-hand sides g of variables and h of rows:  w_tails = c + W (C u - h_tails),  W = lambda psi'', where

    relative, exp    w_head = g_t / alpha,    c = -sigma w_head p,    u_t = (h_head - sigma p'ds) / alpha,   ds = h_tails - C u
    log sum          s = u - psi,  eta = h_i + sum(h_powers) - sum(p (1 - s) h_ones),
                     w_i = p'g_a - g_t - lambda (eta - p's h_ones),    dlambda = w_i - g_a,
                     c = -p (dlambda + lambda (eta - s h_ones)),       ds_tails = ds - p'ds + eta
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.core.smooth import Kind
from dcl.program.reduction.blocks import Ints
from dcl.program.reduction.terms import Group


@dataclass(frozen=True, eq=False)
class GroupState:
    """One group at a point: lam, psi (B, T), u, p (B, T, N)."""

    group: Group
    lam: Tensor
    u: Tensor
    psi: Tensor
    p: Tensor

    @property
    def is_sum(self) -> bool:
        """Is it a log sum?"""
        return self.group.kind is Kind.LOG_SUM

    @property
    def sigma(self) -> float:
        """Of the header."""
        return -1.0 if self.group.kind is Kind.RELATIVE else 1.0

    @property
    def off(self) -> Tensor:
        """s of the tails of a log sum, (B, T, N)."""
        return self.u - self.psi.unsqueeze(-1)

    def curvature(self, y: Tensor) -> Tensor:
        """W y, (B, T, N)."""
        lam = self.lam.unsqueeze(-1)
        if self.is_sum:
            return lam * self.p * (y - (self.p * y).sum(-1, keepdim=True))
        ratio = (self.u[..., 0] / self.u[..., 1]).unsqueeze(-1)
        v = torch.cat([torch.ones_like(ratio), -ratio], -1)
        bend = 1.0 / self.u[..., :1] if self.sigma < 0.0 else ratio.exp() / self.u[..., 1:]
        return lam * bend * (v * y).sum(-1, keepdim=True) * v

    def tails(self) -> tuple[Tensor, Tensor]:
        """Slacks and multipliers of the tails."""
        return self.off if self.is_sum else self.u, -self.lam.unsqueeze(-1) * self.p

    def point(self, h: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Variables, slacks of the rows and their multipliers, by the parts of the group; h: sides of these rows."""
        lam, alpha = self.lam, self.group.alpha
        if not self.is_sum:
            s = self.sigma * self.psi
            return [(h[0] - s) / alpha], [s], [self.sigma * lam]
        rest = lam.unsqueeze(-1).expand_as(self.p)
        rows = [lam, -rest * self.p * (1.0 - self.off), rest]
        return [self.psi, self.p], [torch.zeros_like(lam), torch.ones_like(self.p), self.p], rows

    def shift(self, g: tuple[Tensor, ...], h: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """c of the header, and what `derivative` needs: w_head, or w_i and eta."""
        p, lam = self.p, self.lam
        if not self.is_sum:
            w = g[0] / self.group.alpha
            return -self.sigma * w.unsqueeze(-1) * p, (w,)
        h_i, ones, powers = h
        off = self.off
        eta = h_i + powers.sum(-1) - (p * (1.0 - off) * ones).sum(-1)
        w_i = (p * g[1]).sum(-1) - g[0] - lam * (eta - (p * off * ones).sum(-1))
        slope = w_i.unsqueeze(-1) - g[1]
        return -p * (slope + lam.unsqueeze(-1) * (eta.unsqueeze(-1) - off * ones)), (w_i, eta)

    def derivative(
        self, known: tuple[Tensor, ...], g: tuple[Tensor, ...], h: tuple[Tensor, ...], ds: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """u of the variables and w of the rows; ds (B, T, N): h_tails - C u."""
        p = self.p
        if not self.is_sum:
            (w,) = known
            return [(h[0] - self.sigma * (p * ds).sum(-1)) / self.group.alpha], [w]
        (w_i, eta), (_, ones, powers) = known, h
        mean = (p * ds).sum(-1)
        off, tails = self.off, ds - mean.unsqueeze(-1) + eta.unsqueeze(-1)
        slope = w_i.unsqueeze(-1) - g[1]
        moved = self.lam.unsqueeze(-1) * p * off * (tails - off * ones)
        a = p * (tails + (1.0 - off) * ones) - powers
        return [mean - eta, a], [w_i, moved - slope * p * (1.0 - off), slope]

    def cones(self) -> tuple[Tensor, Tensor]:
        """s and z of its cones, (B, cones, 3) each."""
        lam, p, u = self.lam, self.p, self.u
        if self.is_sum:
            rest, off = lam.unsqueeze(-1).expand_as(p), self.off
            s, z = (off, torch.ones_like(p), p), (-rest * p, -rest * p * (1.0 - off), rest)
        elif self.sigma < 0.0:
            s, z = (-self.psi, u[..., 0], u[..., 1]), (-lam, -lam * p[..., 0], -lam * p[..., 1])
        else:
            s, z = (u[..., 0], u[..., 1], self.psi), (-lam * p[..., 0], -lam * p[..., 1], lam)
        one, other = (torch.stack(t, -1).flatten(1, -2) for t in (s, z))
        return one, other


def group_state(group: Group, lam: Tensor, u: Tensor) -> GroupState:
    """lam (B or 1, T) and u (B, T, N)."""
    lam = lam.expand(u.shape[:-1])
    if group.kind is Kind.LOG_SUM:
        return GroupState(group, lam, u, torch.logsumexp(u, -1), torch.softmax(u, -1))
    one, two = u[..., 0], u[..., 1]
    if group.kind is Kind.RELATIVE:
        log = one.log() - two.log()
        return GroupState(group, lam, u, one * log, torch.stack([log + 1.0, -one / two], -1))
    power = (one / two).exp()
    return GroupState(group, lam, u, two * power, torch.stack([power, power * (1.0 - one / two)], -1))


@dataclass(frozen=True, eq=False)
class State:
    """All groups. Vectors of their variables and rows are (B, .), group by group, of the tails (B, k)."""

    groups: tuple[GroupState, ...]

    def curvature(self, y: Tensor) -> Tensor:
        """W y, (B, k)."""
        return self._joined([g.curvature(t) for g, t in self._tails(y)])

    def tails(self) -> tuple[Tensor, Tensor]:
        """Slacks and multipliers of the tails, (B, k)."""
        found = [g.tails() for g in self.groups]
        return self._joined([s for s, _ in found]), self._joined([z for _, z in found])

    def point(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Variables, slacks of the rows, multipliers of the rows, for the sides h of the rows."""
        found = [g.point(t) for g, t in zip(self.groups, self._rows(h), strict=True)]
        x, s, z = (self._joined([part for each in found for part in each[k]]) for k in range(3))
        return x, s, z

    def shift(self, g: Tensor, h: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """c (B, k), and what `derivative` needs."""
        parts = zip(self.groups, self._variables(g), self._rows(h), strict=True)
        found = [state.shift(variables, rows) for state, variables, rows in parts]
        return self._joined([c for c, _ in found]), [known for _, known in found]

    def derivative(self, known: list[tuple[Tensor, ...]], g: Tensor, h: Tensor, ds: Tensor) -> tuple[Tensor, Tensor]:
        """u of the variables, w of the rows."""
        parts = zip(self._tails(ds), known, self._variables(g), self._rows(h), strict=True)
        found = [state.derivative(k, variables, rows, t) for (state, t), k, variables, rows in parts]
        u, w = (self._joined([part for each in found for part in each[i]]) for i in (0, 1))
        return u, w

    def cones(self) -> tuple[Tensor, Tensor]:
        """s and z of all cones, group by group, (B, cones, 3) each."""
        found = [g.cones() for g in self.groups]
        batch = max(s.shape[0] for s, _ in found)
        one, other = (torch.cat([pair[k].expand(batch, -1, -1) for pair in found], 1) for k in (0, 1))
        return one, other

    @property
    def is_tight(self) -> Tensor:
        """Is every lambda positive, (B,)?"""
        return torch.stack([(g.lam > 0.0).all(-1) for g in self.groups]).all(0)

    def _tails(self, y: Tensor) -> list[tuple[GroupState, Tensor]]:
        sizes = [g.group.shape[0] * g.group.shape[1] for g in self.groups]
        parts = y.split(sizes, -1)
        return [(g, t.reshape(t.shape[0], *g.group.shape)) for g, t in zip(self.groups, parts, strict=True)]

    def _variables(self, t: Tensor) -> list[tuple[Tensor, ...]]:
        return split(t, [g.group.variables for g in self.groups])

    def _rows(self, t: Tensor) -> list[tuple[Tensor, ...]]:
        return split(t, [g.group.rows for g in self.groups])

    def _joined(self, parts: list[Tensor]) -> Tensor:
        batch = max(t.shape[0] for t in parts)
        return torch.cat([t.reshape(t.shape[0], -1).expand(batch, -1) for t in parts], -1)


def split(t: Tensor, groups: Sequence[tuple[Ints, ...]]) -> list[tuple[Tensor, ...]]:
    """(B, .) in the parts of each group, (B, T) or (B, T, N)."""
    pieces = iter(t.split([part.size for group in groups for part in group], -1))
    return [tuple(next(pieces).reshape(t.shape[0], *part.shape) for part in group) for group in groups]

"""Central finite differences of the polished solve: the reference that no derivative code of dcl takes part in.

    (f(t + h e) - f(t - h e)) / 2h,  h = STEP (1 + |t|),  for every entry of the data, or for a random part of many

The two one-sided slopes are kept: where they differ by more than curvature makes them, the solution map has a kink.
The points of one tensor are solved as one batch where the layer says which dimensions are batch dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcl.compare.subject import Layer, Loss, Result, Subject, called, core_dimensions, has_engine, with_engine
from dcl.errors import DclError, InputError

STEP = 1e-5
_CHUNK = 128


@dataclass(frozen=True, eq=False)
class Differences:
    """At the entries `index` of the flat gradient: central, forward and backward slopes; NaN where a neighbor has no solution."""

    index: Tensor
    central: Tensor
    forward: Tensor
    backward: Tensor

    @property
    def known(self) -> Tensor:
        """Entries with both neighbors, boolean."""
        return torch.isfinite(self.central)

    @property
    def kink(self) -> float:
        """Largest difference of the one-sided slopes, relative to the largest slope; rounding where both are smooth."""
        size = torch.maximum(self.forward.abs(), self.backward.abs())[self.known]
        if not size.numel() or not bool(size.max() > 0.0):
            return 0.0
        return float((self.forward - self.backward)[self.known].abs().max() / size.max())


def differences(subject: Subject, loss: Loss, at: Tensor, entries: int, generator: torch.Generator) -> Differences:
    """Slopes of the loss, which is `at` here, in `entries` entries of the leaves at most (drawn at random of more)."""
    layer = with_engine(subject.layer, on_failure="nan")[0] if has_engine(subject.layer) else subject.layer
    cores = core_dimensions(subject.layer, subject.tensors)
    # an infinite bound has no slope
    finite = torch.nonzero(torch.cat([torch.isfinite(t.detach()).reshape(-1).cpu() for t in subject.leaves])).squeeze(
        -1
    )
    chosen_at = torch.randperm(len(finite), generator=generator)[:entries].sort().values
    index = finite[chosen_at]
    values = torch.full((2, len(index)), torch.nan, dtype=torch.float64)
    steps = torch.zeros(len(index), dtype=torch.float64)
    start = 0
    for position, leaf in zip(subject.wanted, subject.leaves, strict=True):
        mine = torch.nonzero((index >= start) & (index < start + leaf.numel())).squeeze(-1)
        for part in mine.split(_CHUNK) if mine.numel() else ():
            base = leaf.detach().reshape(-1)
            chosen = index[part] - start
            h = STEP * (1.0 + base[chosen].abs())
            steps[part] = h.cpu()
            for side, sign in enumerate((1.0, -1.0)):
                moved = base.repeat(len(part), 1)
                moved[torch.arange(len(part)), chosen] += sign * h
                points = moved.reshape(-1, *leaf.shape)
                values[side, part] = _losses(layer, subject, loss, position, points, cores).cpu()
        start += leaf.numel()
    f = float(at)
    forward, backward = (values[0] - f) / steps, (f - values[1]) / steps
    return Differences(index, 0.5 * (forward + backward), forward, backward)


def _losses(
    layer: Layer, subject: Subject, loss: Loss, position: int, points: Tensor, cores: list[int] | None
) -> Tensor:
    """The loss with tensor `position` replaced by each of the points (K, *shape): (K,)."""
    tensors = [None if t is None else t.detach() for t in subject.tensors]
    with torch.no_grad():
        if cores is None:
            return torch.tensor(
                [_one(layer, [*tensors[:position], p, *tensors[position + 1 :]], loss) for p in points],
                dtype=torch.float64,
            )
        ranks = [t.ndim - core for t, core in zip(tensors, cores, strict=False) if t is not None]
        lead = points.ndim - 1 - cores[position]
        shape = points.shape
        points = points.reshape(shape[0], *[1] * (max(ranks) - lead), *shape[1:])
        before, after = tensors[:position], tensors[position + 1 :]
        try:
            result: Result = called(layer, [*before, points, *after], mu=0.0)
        except InputError:  # one of them is outside of what its parameter declares
            return torch.stack([_alone(layer, [*before, p, *after], loss) for p in points.split(1)])
        return torch.stack([loss(_instance(result, k)) for k in range(shape[0])])


def _alone(layer: Layer, tensors: list[Tensor | None], loss: Loss) -> Tensor:
    """The loss of a batch of one, NaN where the data cannot be used."""
    try:
        return loss(_instance(called(layer, tensors, mu=0.0), 0))
    except InputError:
        return torch.tensor(torch.nan, dtype=torch.float64)


def _one(layer: Layer, tensors: list[Tensor | None], loss: Loss) -> float:
    """The loss of one call, NaN where it fails."""
    try:
        result, _ = called(layer, tensors, mu=0.0, return_solution=True)
    except DclError:
        return float("nan")
    return float(loss(result))


def _instance(result: Result, k: int) -> Result:
    if isinstance(result, Tensor):
        return result[k]
    parts = [t[k] for t in result]
    return tuple(parts) if type(result) is tuple else type(result)(*parts)

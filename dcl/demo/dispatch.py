"""A model that reads digits and learns a dispatcher's rule, from nothing but what he shipped.

Each day ten customers write the amount that they want, 0 to 9, on a slip: real handwriting.  The dispatcher has a limited
total.  What he ships is, rounded to whole units,

    x(d) = argmin_x  1/2 sum_i w_i (x_i - d_i)^2     subject to     sum_i x_i <= total,   x >= 0

with priorities w and a total that we do not know.  Of past days we have the slips, as images, and the shipments; nobody
tells us which digit a slip shows.  The task: say what he ships on other days, for slips of other handwriting.

The layer's model is a small network that reads one slip, d_i = reader(slip_i), then the quadratic program above as a
`dcl.QPLayer`, in which w and the total are learned with the reader, through the argmin.  The baseline is the same reader,
then two dense layers in place of the program.  Two more baselines: a ridge regression from all pixels to the shipments,
and the mean shipment of each customer.  A fifth of the past days is kept to stop each training where it is best.

Data: 1,797 handwritten digits (Alpaydin and Kaynak 1998), as shipped with scikit-learn.  One half is for the past days, the
other for the days that are judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import dcl

CUSTOMERS, JUDGED = 10, 300
TOTAL, SPREAD = 28.0, 0.7  # units; standard deviation of log w
LAYER_RATE, DENSE_RATE, DENSE_DECAY = 1e-2, 1e-2, 1.0
CHECKED_EVERY = 5  # steps between two looks at the days kept for stopping


@dataclass(frozen=True, eq=False)
class Days:
    """Slips (days, CUSTOMERS, 64), the digits on them (days, CUSTOMERS), whole units shipped (days, CUSTOMERS)."""

    slips: Tensor
    digits: Tensor
    shipped: Tensor

    def __getitem__(self, days: slice) -> Days:
        return Days(self.slips[days], self.digits[days], self.shipped[days])

    def error(self, predicted: Tensor) -> float:
        """Root mean square error of a shipment, in units."""
        return float((predicted.detach() - self.shipped).square().mean().sqrt())


def ship(program: dcl.QPLayer, wanted: Tensor, priorities: Tensor, total: Tensor) -> Tensor:
    """The dispatcher's rule before rounding: wanted (*batch, CUSTOMERS), priorities (CUSTOMERS,), total () -> x like wanted."""
    row = torch.ones(1, CUSTOMERS, dtype=wanted.dtype)
    result = program(torch.diag(priorities), -priorities * wanted, G=row, h=total.reshape(1), lb=0.0)
    return result.x


def load(seed: int, days: int) -> tuple[Days, Days, Tensor]:
    """`days` past days, JUDGED other days with other handwriting, and the dispatcher's priorities (CUSTOMERS,)."""
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    data = load_digits()
    images = torch.from_numpy(data.data / 16.0)
    digits = torch.from_numpy(data.target).to(images.dtype)
    priorities = torch.exp(SPREAD * torch.randn(CUSTOMERS, generator=generator, dtype=images.dtype))
    total = torch.tensor(TOTAL, dtype=images.dtype)
    halves = torch.randperm(len(digits), generator=generator).tensor_split(2)
    parts = []
    for half, count in zip(halves, (days, JUDGED), strict=True):
        drawn = half[torch.randint(len(half), (count, CUSTOMERS), generator=generator)]
        shipped = ship(dcl.QPLayer(), digits[drawn], priorities, total)
        parts.append(Days(images[drawn], digits[drawn], shipped.round()))
    return parts[0], parts[1], priorities


class Reader(nn.Module):
    """One slip (*batch, 64) -> the amount that it asks for (*batch), of which the model only knows that it is about 0 to 9."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)).double()

    def forward(self, slips: Tensor) -> Tensor:
        """The amounts."""
        amounts: Tensor = 4.5 + 3.0 * self.network(slips).squeeze(-1)
        return amounts


class WithLayer(nn.Module):
    """The reader, then the program with learned priorities and total."""

    def __init__(self, past: Days) -> None:
        super().__init__()
        self.reader = Reader()
        self.log_priorities = nn.Parameter(torch.zeros(CUSTOMERS, dtype=torch.float64))
        self.total = nn.Parameter(past.shipped.sum(-1).mean())
        self.program = dcl.QPLayer(on_degenerate="ignore")

    def forward(self, slips: Tensor) -> Tensor:
        """Shipments (days, CUSTOMERS) for slips (days, CUSTOMERS, 64)."""
        return ship(self.program, self.reader(slips), self.log_priorities.exp(), self.total)


class Dense(nn.Module):
    """The same reader, then two dense layers."""

    def __init__(self, past: Days) -> None:
        super().__init__()
        self.reader = Reader()
        self.head = nn.Sequential(nn.Linear(CUSTOMERS, 64), nn.ReLU(), nn.Linear(64, CUSTOMERS)).double()
        self.mean = past.shipped.mean(0)

    def forward(self, slips: Tensor) -> Tensor:
        """Shipments (days, CUSTOMERS) for slips (days, CUSTOMERS, 64)."""
        shipped: Tensor = self.mean + self.head((self.reader(slips) - 4.5) / 3.0)
        return shipped


def fit(model: nn.Module, past: Days, steps: int, rate: float, decay: float, tick: Callable[[], object]) -> None:
    """Adam on the mean square error over four fifths of the days; the state that is best on the last fifth stays."""
    first = len(past.slips) * 4 // 5
    fitting, stopping = past[:first], past[first:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    best, state = float("inf"), {}
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        (model(fitting.slips) - fitting.shipped).square().mean().backward()
        optimizer.step()
        tick()
        if step % CHECKED_EVERY == 0 or step == steps:
            with torch.no_grad():
                error = stopping.error(model(stopping.slips))
            if error < best:
                best, state = error, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One seed.

    errors: by method, root mean square error of a shipment on the judged days, in units.  floor: that of the true rule with
    the true digits, which is what rounding leaves.  readings (JUDGED * CUSTOMERS,):
    what the layer's reader reads, digits: what is written.  priorities, learned (CUSTOMERS,): true and learned, each with
    geometric mean one, since only ratios matter.  total: learned.
    """

    errors: dict[str, float]
    floor: float
    readings: Tensor
    digits: Tensor
    priorities: Tensor
    learned: Tensor
    total: float


def _normalized(priorities: Tensor) -> Tensor:
    return priorities / priorities.log().mean().exp()


def experiment(seed: int, days: int, steps: int, tick: Callable[[], object]) -> Outcome:
    """All methods on one seed: `steps` gradient steps for the layer, three times as many for the network; `tick` after each."""
    import numpy as np
    from sklearn.linear_model import RidgeCV

    past, judged, priorities = load(seed, days)
    ridge = RidgeCV(np.logspace(-1, 3, 9)).fit(past.slips.flatten(1).numpy(), past.shipped.numpy())
    torch.manual_seed(seed)
    dense = Dense(past)
    fit(dense, past, 3 * steps, DENSE_RATE, DENSE_DECAY, tick)
    torch.manual_seed(seed)
    layer = WithLayer(past)
    fit(layer, past, steps, LAYER_RATE, 0.0, tick)
    with torch.no_grad():
        errors = {
            "mean of each customer": judged.error(past.shipped.mean(0)),
            "ridge regression": judged.error(torch.from_numpy(ridge.predict(judged.slips.flatten(1).numpy()))),
            "network": judged.error(dense(judged.slips)),
            "network with the layer": judged.error(layer(judged.slips)),
        }
        return Outcome(
            errors=errors,
            floor=judged.error(
                ship(dcl.QPLayer(), judged.digits, priorities, torch.tensor(TOTAL, dtype=torch.float64))
            ),
            readings=layer.reader(judged.slips).flatten(),
            digits=judged.digits.flatten(),
            priorities=_normalized(priorities),
            learned=_normalized(layer.log_priorities.detach().exp()),
            total=float(layer.total.detach()),
        )

"""Where does the time of one call go: to the core, to torch, or to dcl's Python?

    python benchmarks/where_does_the_time_go.py [--turns T]

Forward and backward of dense QPs, one instance and 128, through QPLayer and through CvxpyLayer with quad_form; the forward pass
alone too.  The core's share is timed inside of the calls.  Torch's is the time of an autograd Function with as many tensors
in and out that computes nothing, with the same loss.  All take turns.  Times are those of the process, the shortest of the
turns, so that other programs hardly count.  The answers of the last turn are checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from machine import machine
from qp_families import Programs, random_programs
from qp_peers import cvxpy_problem
from qp_works import DATA, Shape, Work
from torch import Tensor

import dcl
from dcl.core import dense

SHAPES = (Shape(10, 10, 5), Shape(50, 50, 10), Shape(100, 100, 50))
BATCHES = (1, 128)
PROGRAMS = 8
TOLERANCE = 1e-8
ROWS = (
    "QPLayer", "the core, solve", "the core, adjoint", "torch", "Python",
    "CvxpyLayer", "Python beyond that of QPLayer",
    "QPLayer, forward alone", "the core in it",
)  # fmt: skip


@dataclass
class Stopwatch:
    """The core, with the seconds of its calls."""

    core: Any
    seconds: dict[str, float] = field(default_factory=dict)

    def solve(self, *args: Any) -> Any:
        return self._timed("solve", self.core.solve, *args)

    def adjoint(self, *args: Any) -> Any:
        return self._timed("adjoint", self.core.adjoint, *args)

    def _timed(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        start = time.process_time()
        found = call(*args)
        self.seconds[name] = time.process_time() - start
        return found


class Empty(torch.autograd.Function):
    """Six tensors in, outputs of the shapes of QPLayer's out, and nothing computed."""

    @staticmethod
    def forward(ctx: Any, *data: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*data)
        _, q, _, b, _, h = data
        return tuple(torch.empty_like(t) for t in (q, b, h, q, q, q))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors)


def layers(shape: Shape, batch: int) -> dict[str, Callable[..., Tensor]]:
    """What takes turns: from the data to x."""
    problem, parameters, x = cvxpy_problem(Work("qp", shape, batch), root=False)
    qp, cvxpy = dcl.QPLayer(), dcl.CvxpyLayer(problem, parameters, [x])
    return {
        "torch": lambda *data: Empty.apply(*data)[0],  # type: ignore[no-untyped-call,no-any-return]
        "QPLayer": lambda P, q, A, b, G, h: qp(P, q, A=A, b=b, G=G, h=h).x,
        "CvxpyLayer": lambda *data: cvxpy(*data)[0],
    }


def timed(programs: Programs, shape: Shape, batch: int, turns: int) -> tuple[dict[str, float], float]:
    """Microseconds of each of `ROWS` for a call, and the largest error of an answer or a gradient."""
    rows = np.arange(batch) % len(programs)
    w = torch.from_numpy(programs.w)
    data = [torch.from_numpy(programs.data[name][rows]).requires_grad_() for name in DATA["qp"]]
    series: dict[str, list[float]] = {row: [] for row in ROWS}
    error, watch = 0.0, Stopwatch(dense._extension)
    dense._extension = watch
    try:
        todo = layers(shape, batch)
        for turn in range(-3, turns):
            for name, layer in todo.items():
                start = time.process_time()
                x = layer(*data)
                gradients = torch.autograd.grad((x @ w).sum(), data)
                series[name].append(time.process_time() - start)
                if name == "QPLayer":
                    series["the core, solve"].append(watch.seconds["solve"])
                    series["the core, adjoint"].append(watch.seconds["adjoint"])
                if turn == turns - 1 and name != "torch":
                    named = {key: g.numpy() for key, g in zip(DATA["qp"], gradients, strict=True)}
                    error = max(error, *programs.answers[0.0].errors(rows, x.detach().numpy(), named))
            with torch.no_grad():
                start = time.process_time()
                todo["QPLayer"](*data)
                series["QPLayer, forward alone"].append(time.process_time() - start)
                series["the core in it"].append(watch.seconds["solve"])
    finally:
        dense._extension = watch.core
    found = {row: 1e6 * min(times[3:]) for row, times in series.items() if times}
    core = found["the core, solve"] + found["the core, adjoint"]
    found["Python"] = found["QPLayer"] - core - found["torch"]
    found["Python beyond that of QPLayer"] = found["CvxpyLayer"] - found["QPLayer"]
    return found, error


def main(arguments: Sequence[str] | None = None) -> int:
    """Time and print; 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--turns", type=int, default=200, help="calls of each at n = 10, fewer where they take long (200)"
    )
    turns = parser.parse_args(arguments).turns
    torch.set_num_threads(1)
    print(machine(), flush=True)
    columns, worst = [], 0.0
    for batch in BATCHES:
        for shape in SHAPES:
            programs = random_programs("qp", shape, PROGRAMS)
            column, error = timed(programs, shape, batch, max(5, turns * 10 // shape.n // (4 if batch > 1 else 1)))
            columns.append((f"batch {batch}, n {shape.n}", column))
            worst = max(worst, error)
    print("\n| microseconds a call | " + " | ".join(title for title, _ in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row in ROWS:
        print(f"| {row} | " + " | ".join(f"{column[row]:.0f}" for _, column in columns) + " |")
    print(f"\nlargest error of an answer or a gradient: {worst:.1e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

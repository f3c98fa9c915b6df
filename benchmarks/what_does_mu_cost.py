"""What does mu > 0 cost: x(mu) and its gradient against the exact ones, for batches of dense QPs?

    python benchmarks/what_does_mu_cost.py [--quick] [--turns T] [--seed K]

The same programs at mu = 0 and at several mu, in turns, in one process; medians, and ratios within each turn.  Every turn has
other programs.  Processor time, of one thread (OMP_NUM_THREADS=1).  Every x(mu) that is timed is checked in NumPy, in the user's
units: feasible, s z = mu in every inequality, stationary.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from machine import machine
from qp_families import random_programs
from qp_works import DATA, Shape

import dcl

SHAPES = ((Shape(10, 10, 5), 128), (Shape(50, 50, 10), 128), (Shape(100, 100, 50), 64), (Shape(10, 10, 5), 1))
MUS = (0.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)


def turn(layer: dcl.QPLayer, data: list[torch.Tensor], w: torch.Tensor, mu: float) -> tuple[float, float, dcl.QPResult]:
    """Seconds of the processor, forward and backward, and the answer."""
    start = time.process_time()
    P, q, *rest = data
    result = layer(P, q, **dict(zip(("A", "b", "G", "h"), rest, strict=True)), mu=mu)
    middle = time.process_time()
    torch.autograd.grad((result.x @ w).sum(), data)
    return middle - start, time.process_time() - middle, result


def residual(data: list[torch.Tensor], result: dcl.QPResult, mu: float) -> float:
    """Largest violation of the equations of the central path, relative to 1 + the multipliers."""
    P, q, A, b, G, h = (t.detach().numpy() for t in data)
    x, y, z = (t.detach().numpy() for t in (result.x, result.y, result.z))

    def times(M: np.ndarray, t: np.ndarray) -> np.ndarray:
        return np.einsum("...ij,...j->...i", M, t)

    stationary = times(0.5 * (P + np.swapaxes(P, -1, -2)), x) + q
    stationary = stationary + times(np.swapaxes(A, -1, -2), y) + times(np.swapaxes(G, -1, -2), z)
    slack = h - times(G, x)
    size = 1.0 + np.abs(np.concatenate([y, z], -1)).max(-1, keepdims=True)
    violations = (
        stationary / size,
        times(A, x) - b,
        (slack * z - mu) / size,
        np.minimum(slack, 0.0),
        np.minimum(z, 0.0),
    )
    return max(float(np.abs(v).max()) for v in violations)


def main() -> None:
    """Print one table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches, few turns")
    parser.add_argument("--turns", type=int, default=10, metavar="T", help="repetitions (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="other random programs")
    args = parser.parse_args()
    turns = 3 if args.quick else args.turns
    print(machine())
    layer = dcl.QPLayer(on_degenerate="ignore")
    for shape, batch in SHAPES[:2] if args.quick else SHAPES:
        batch = min(batch, 16) if args.quick else batch
        programs = random_programs("qp", shape, batch * 2, args.seed)
        w = torch.from_numpy(programs.w)
        seconds: dict[float, list[tuple[float, float]]] = {mu: [] for mu in MUS}
        worst = dict.fromkeys(MUS, 0.0)
        rng = np.random.default_rng(args.seed)
        for number in range(turns + 1):
            rows = rng.permutation(2 * batch)[:batch]
            data = [torch.from_numpy(programs.data[name][rows]).requires_grad_() for name in DATA["qp"]]
            for mu in MUS:
                forward, backward, result = turn(layer, data, w, mu)
                worst[mu] = max(worst[mu], residual(data, result, mu))
                if number:  # the first turn only warms up
                    seconds[mu].append((forward, backward))
        print(f"\ndense QP {shape}, batch {batch}: ms an instance, median of {turns} turns")
        print(f"{'mu':>8} {'forward':>9} {'backward':>9} {'both, x exact':>14} {'violation':>10}")
        for mu in MUS:
            ratio = median(sum(a) / sum(e) for a, e in zip(seconds[mu], seconds[0.0], strict=True))
            forward, backward = (1e3 / batch * median(column) for column in zip(*seconds[mu], strict=True))
            print(f"{mu:8.0e} {forward:9.4f} {backward:9.4f} {ratio:14.2f} {worst[mu]:10.1e}")


if __name__ == "__main__":
    main()

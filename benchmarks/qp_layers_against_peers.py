"""How long does forward + backward of a QP layer take an instance, and how wrong is the answer?

    python benchmarks/qp_layers_against_peers.py [--quick] [--csv FILE] [--batch B] [--seconds S] [--only NAME ...]

The same programs go through every layer, in the same run, in turns;
every answer that is timed is checked.  See README.md.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import report
import torch
from peers import PEERS, Layer, Peer, build_problems, version
from qp_families import Programs, Shape, random_programs

SHAPES = (Shape(10, 10, 5), Shape(50, 50, 10), Shape(100, 100, 50))
LEAST = 3


@dataclass
class Run:
    """One layer on one family: seconds of each repetition, the largest errors, or why there is nothing."""

    peer: Peer
    batch: int
    layer: Layer | None = None
    trouble: str = ""
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    error_x: float = 0.0
    error_gradient: float = 0.0

    def is_due(self, seconds: float) -> bool:
        """Whether it takes part in the next turn: until its time is used up, but at least LEAST times."""
        if self.layer is None or self.trouble:
            return False
        return len(self.forward) < LEAST or sum(self.forward) + sum(self.backward) < seconds

    def turn(self, programs: Programs, first: int, *, counts: bool = True) -> None:
        """Forward and backward on programs first, ..., first + batch - 1; errors always count, times if `counts`."""
        rows = slice(first, first + self.batch)
        data = [torch.from_numpy(programs.data[name][rows].copy()).requires_grad_() for name in self.peer.takes]
        w = torch.from_numpy(programs.w)
        try:
            start = time.perf_counter()
            x = self.layer(*data)  # type: ignore[misc]
            middle = time.perf_counter()
            gradients = torch.autograd.grad((x @ w).sum(), data)
            end = time.perf_counter()
        except Exception as error:  # noqa: BLE001  a layer that breaks is a result; the others go on
            self.trouble = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:60]}"
            return
        if counts:
            self.forward.append(middle - start)
            self.backward.append(end - middle)
        named = {name: g.numpy() for name, g in zip(self.peer.takes, gradients, strict=True)}
        error_x, error_gradient = programs.errors(rows, x.detach().numpy(), named)
        self.error_x = max(self.error_x, np.nan_to_num(error_x, nan=np.inf))
        self.error_gradient = max(self.error_gradient, np.nan_to_num(error_gradient, nan=np.inf))


def run_family(peers: Sequence[Peer], shape: Shape, batch: int, turns: int, seconds: float, seed: int) -> list[Run]:
    """All layers on one family, turn by turn; each turn has programs that no layer saw in the turn before."""
    programs = random_programs(shape, batch + turns, seed)
    runs = []
    for peer in peers:
        run = Run(peer, peer.batch(shape, batch))
        missing = peer.missing()
        if missing:
            run.trouble = f"{', '.join(missing)} not installed"
        else:
            try:
                run.layer = peer.make(shape)
            except Exception as error:  # noqa: BLE001  see Run.turn
                run.trouble = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:60]}"
        runs.append(run)
    for turn in range(-1, turns):
        for run in runs:
            if run.is_due(seconds):
                run.turn(programs, turn % (turns + 1), counts=turn >= 0)
    return runs


def time_builds(size: int, repetitions: int) -> list[tuple[str, list[float] | str]]:
    """Seconds to construct a CvxpyLayer whose matrices, size x size, are parameters; a fresh problem each time."""
    results: list[tuple[str, list[float] | str]] = []
    for what, make in build_problems(size).items():
        for package, solver in (("dcl", None), ("cvxpylayers", None), ("cvxpylayers", "MOREAU")):
            name = f"{what}: {package}" + (f" + {solver}" if solver else "")
            missing = [d for d in (package, *([solver.lower()] if solver else [])) if version(d) is None]
            if missing:
                results.append((name, f"{', '.join(missing)} not installed"))
                continue
            layer = importlib.import_module("dcl" if package == "dcl" else "cvxpylayers.torch").CvxpyLayer
            seconds = []
            for _ in range(repetitions + 1):
                problem, parameters, x = make()
                start = time.perf_counter()
                layer(problem, parameters, [x], solver=solver)
                seconds.append(time.perf_counter() - start)
            results.append((name, seconds[1:]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches, two shapes, a second a layer")
    parser.add_argument("--csv", metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--batch", type=int, help="instances a call (128; with --quick 32)")
    parser.add_argument("--turns", type=int, help="most repetitions a layer (30; with --quick 10)")
    parser.add_argument("--seconds", type=float, help="time a layer may use on a family (6; with --quick 1)")
    parser.add_argument("--threads", type=int, help="torch's threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="only layers whose name contains a NAME")
    options = parser.parse_args()
    quick = options.quick
    batch, turns = options.batch or (32 if quick else 128), options.turns or (10 if quick else 30)
    seconds = options.seconds or (1.0 if quick else 6.0)
    if options.threads:
        torch.set_num_threads(options.threads)
    peers = [peer for peer in PEERS if not options.only or any(part in peer.name for part in options.only)]

    warnings.filterwarnings("ignore", message="solver='auto' resolved to ACTIVE_SET")  # moreau: what the table says

    print(report.machine())
    lines: list[dict[str, object]] = []
    families = [(shape, batch) for shape in (SHAPES[:2] if quick else SHAPES)] + [(SHAPES[0], 1)]
    for shape, size in families:
        runs = run_family(peers, shape, size, 5 * turns if size == 1 else turns, seconds, options.seed)
        lines += report.rows(shape, runs)
        print("\n" + report.table(shape, size, lines[-len(runs) :]), flush=True)
    builds = time_builds(30 if quick else 100, 1 if quick else 3)
    print("\n" + report.build_table(30 if quick else 100, builds))
    if options.csv:
        report.write_csv(options.csv, lines, builds)


if __name__ == "__main__":
    main()

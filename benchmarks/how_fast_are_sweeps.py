"""How much faster is a sweep of 10,000 small quadratic programs, with gradients, than a loop of `problem.solve()`?

    minimize gamma w'Sigma w - mu'w   subject to   sum(w) = 1,  0 <= w <= cap          mu and cap differ from row to row

The sweep returns solutions, multipliers, statuses and the gradient of the optimal value in mu and cap, or that of c'w; the
loop returns solutions only.  Every answer is checked: rows of the sweep against cvxpy's own (Clarabel at 1e-10, on --checked
rows), value gradients against cvxpy's multipliers, gradients of c'w against central differences of single calls.

    python benchmarks/how_fast_are_sweeps.py [--rows 10000] [--n 6] [--loop 300] [--checked 200]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from machine import machine

import dcl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=6)
    parser.add_argument("--loop", type=int, default=300, help="rows of the loop that are timed")
    parser.add_argument("--checked", type=int, default=200, help="rows that are checked against cvxpy")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    rng = np.random.default_rng(0)
    n = args.n
    M = rng.standard_normal((n, n))
    w, mu, cap = cp.Variable(n, name="w"), cp.Parameter(n, name="mu"), cp.Parameter(name="cap")
    problem = cp.Problem(
        cp.Minimize(cp.quad_form(w, M @ M.T / n + np.eye(n)) - mu @ w), [cp.sum(w) == 1, w >= 0, w <= cap]
    )
    mus, caps = rng.standard_normal((args.rows, n)), np.linspace(1.25 / n, 0.95, args.rows)
    c = rng.standard_normal(n)
    program = dcl.ParametricProgram(problem)
    values = {mu: mus, cap: caps}

    def set_row(i: int) -> None:
        mu.value, cap.value = mus[i], caps[i]

    def loop(**options: Any) -> None:
        for i in np.linspace(0, args.rows - 1, args.loop).astype(int):
            set_row(i)
            problem.solve(**options)

    set_row(0)
    problem.solve()  # compiles
    problem.solve(solver=cp.CLARABEL)
    works: dict[str, tuple[Callable[[], Any], int]] = {
        "sweep, no gradient": (lambda: program.sweep(values, progress=False), args.rows),
        "sweep, gradient of the value": (lambda: program.sweep(values, progress=False, gradient="value"), args.rows),
        "sweep, gradient of c'w": (lambda: program.sweep(values, progress=False, gradient={w: c}), args.rows),
        "loop of problem.solve()": (loop, args.loop),
        "loop of problem.solve(CLARABEL)": (lambda: loop(solver=cp.CLARABEL), args.loop),
    }
    times = {name: [] for name in works}
    for _ in range(3):  # interleaved: the machine may be busy
        for name, (work, count) in works.items():
            began = time.process_time()
            work()
            times[name].append((time.process_time() - began) / count * 1e6)
    best = {name: min(each) for name, each in times.items()}
    slow = best["loop of problem.solve()"]
    print(f"\n{args.rows:,} programs, n = {n}; CPU time, best of 3\n")
    print(f"{'':34}{'us a row':>10}{'of the loop':>14}")
    for name, each in best.items():
        print(f"{name:34}{each:10.1f}{slow / each:13.1f}x")

    found, by_weights = (
        program.sweep(values, progress=False, gradient="value"),
        program.sweep(values, progress=False, gradient={w: c}),
    )
    errors: dict[str, float] = dict.fromkeys(["x", "value", "d value / d mu", "d value / d cap", "d c'w / d mu"], 0.0)

    def worst(name: str, error: Any) -> None:
        errors[name] = max(errors[name], float(np.max(np.abs(error))))

    for i in np.linspace(0, args.rows - 1, args.checked).astype(int):
        set_row(i)
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
        worst("x", found["w"][i] - w.value)
        worst("value", found.value[i] - problem.value)
        worst("d value / d mu", found.gradient["mu"][i] + w.value)
        worst("d value / d cap", found.gradient["cap"][i] + problem.constraints[2].dual_value.sum())
        if found.found.active[i].sum() == found.found.active[max(0, i - 1)].sum():
            e, step = rng.standard_normal(n), 1e-6
            ends = [program.solve({mu: mus[i] + sign * step * e, cap: caps[i]}) for sign in (1.0, -1.0)]
            worst("d c'w / d mu", by_weights.gradient["mu"][i] @ e - c @ (ends[0]["w"] - ends[1]["w"]) / (2 * step))
    print(f"\nstatus OPTIMAL: {int(found.ok.sum()):,} of {args.rows:,}; largest residual {found.residual.max():.0e}")
    print(
        f"largest error over {args.checked} rows: " + ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    )


if __name__ == "__main__":
    main()

"""How far do sparse layers go: what do building, forward and backward cost on chains of up to 100,000 variables?

    python benchmarks/how_far_do_sparse_layers_go.py [--sizes N ...] [--repetitions R]

An oscillator with states x_t and inputs u_t, the start a parameter,

    minimize sum |x_t|^2 + 0.1 u_t^2 + r u_t   subject to   x_0 given,  x_(t+1) = A x_t + B u_t,  |u_t| <= 1/2

with the bounds on u as two rows (box) or as cp.abs(u) <= 1/2 (abs), which adds free epigraph variables, and with redundant rows
that say x_0 once more (redundant).  Each row of the table is a process of its own.  Seconds of processor time, the least of the
repetitions: building (and CVXPY's own get_problem_data beside it), forward, backward, the solver's share; and the peak of
the memory above that of the imports.  Answers are checked: gradients against differences, residuals by dcl.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

from machine import machine

FORMS = ("box", "abs", "redundant")


def problem(n: int, form: str):  # cvxpy is imported by the process that measures
    """The chain with about n variables, its parameters and its inputs."""
    import cvxpy as cp
    import numpy as np

    T = n // 3
    A, B = np.array([[1.0, 0.1], [-0.05, 0.98]]), np.array([[0.0], [0.1]])
    X, U, start, r = cp.Variable((T + 1, 2)), cp.Variable((T, 1)), cp.Parameter(2), cp.Parameter()
    rows = [X[0] == start, X[1:] == X[:-1] @ A.T + U @ B.T]
    rows += [cp.abs(U) <= 0.5] if form == "abs" else [U <= 0.5, U >= -0.5]
    rows += [2.0 * X[0] == 2.0 * start] if form == "redundant" else []
    cost = cp.sum_squares(X) + 0.1 * cp.sum_squares(U) + r * cp.sum(U)
    return cp.Problem(cp.Minimize(cost), rows), [start, r], [U]


def measure(n: int, form: str, repetitions: int) -> dict[str, float]:
    """One row of the table."""
    import cvxpy as cp
    import numpy as np
    import torch

    import dcl

    torch.set_num_threads(1)
    clock, before = time.process_time, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = {}
    chain, parameters, variables = problem(n, form)
    began = clock()
    layer = dcl.CvxpyLayer(chain, parameters, variables, on_degenerate="ignore")
    out["build"] = clock() - began
    start = torch.tensor([3.0, 0.5], dtype=torch.float64, requires_grad=True)
    r = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)

    def loss(start: torch.Tensor) -> torch.Tensor:
        return layer(start, r)[0].pow(2).sum()

    out["forward"] = out["backward"] = np.inf
    for _ in range(repetitions):
        began = clock()
        value = loss(start)
        middle = clock()
        (slope,) = torch.autograd.grad(value, start)
        out["forward"], out["backward"] = min(out["forward"], middle - began), min(out["backward"], clock() - middle)
    out["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    _, solution = layer(start, r, return_solution=True)
    out["residual"] = float(torch.maximum(solution.primal_residual, solution.dual_residual))
    with torch.no_grad():
        ahead, behind = (loss(start + s * torch.tensor([1e-5, 0.0])) for s in (1.0, -1.0))
    out["difference"] = abs(float(ahead - behind) / 2e-5 / float(slope[0]) - 1.0)
    for parameter in parameters:
        parameter.value = np.zeros(parameter.shape)
    began = clock()
    problem_again, given, _ = problem(n, form)
    for parameter in given:
        parameter.value = np.zeros(parameter.shape)
    problem_again.get_problem_data(cp.CLARABEL)
    out["cvxpy"] = clock() - began
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000, 100_000])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.sizes[0], options.forms[0], options.repetitions)))
        return
    print(machine())
    columns = ("cvxpy", "build", "forward", "backward", "memory", "residual", "difference")
    print(f"{'n':>8} {'form':>10} " + " ".join(f"{name:>10}" for name in columns))
    for form in options.forms:
        for n in options.sizes:
            command = [sys.executable, __file__, "--one", "--sizes", str(n), "--forms", form]
            command += ["--repetitions", str(options.repetitions)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{n:>8} {form:>10} " + " ".join(f"{row[name]:>10.3g}" for name in columns), flush=True)


if __name__ == "__main__":
    main()

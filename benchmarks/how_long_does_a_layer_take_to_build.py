"""How long does it take to construct a CvxpyLayer whose matrices are parameters?

    python benchmarks/how_long_does_a_layer_take_to_build.py [--size N] [--repetitions R]

Seconds, medians, a fresh problem each time, for dcl and cvxpylayers (its default solver, and MOREAU).
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from statistics import median

import cvxpy as cp
from machine import machine, version
from qp_peers import Problem, cvxpy_problem
from qp_works import Shape, Work

PACKAGES = (("dcl", None), ("cvxpylayers", None), ("cvxpylayers", "MOREAU"))


def problems(size: int) -> dict[str, Callable[[], Problem]]:
    """Makers of fresh problems whose size x size matrices are parameters."""

    def given() -> tuple[cp.Variable, cp.Parameter, cp.Parameter]:
        return cp.Variable(size), cp.Parameter((size, size), name="A"), cp.Parameter(size, name="b")

    def constrained() -> Problem:
        x, A, b = given()
        return cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x <= b]), [A, b], x

    def least_squares() -> Problem:
        x, A, b = given()
        return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [cp.sum(x) == 1]), [A, b], x

    return {
        "A @ x <= b": constrained,
        "sum_squares(A @ x - b)": least_squares,
        "the QP, all data": lambda: cvxpy_problem(Work("qp", Shape(size, size, max(1, size // 2)), 1), root=True),
    }


def seconds(package: str, solver: str | None, make: Callable[[], Problem], repetitions: int) -> float:
    """Median time of a construction, after one that does not count."""
    layer = importlib.import_module("dcl" if package == "dcl" else "cvxpylayers.torch").CvxpyLayer
    spent = []
    for _ in range(repetitions + 1):
        problem, parameters, x = make()
        start = time.perf_counter()
        layer(problem, parameters, [x], solver=solver)
        spent.append(time.perf_counter() - start)
    return median(spent[1:])


def main() -> None:
    """Print one line for each problem and package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100, metavar="N", help="the matrices are N x N (default: 100)")
    parser.add_argument("--repetitions", type=int, default=5, metavar="R", help="(default: 5)")
    args = parser.parse_args()
    print(machine())
    for what, make in problems(args.size).items():
        for package, solver in PACKAGES:
            # dcl need not be installed where its sources are imported
            needs = [name for name in (package, solver and solver.lower()) if name and name != "dcl"]
            missing = [name for name in needs if version(name) is None]
            shown = f"{seconds(package, solver, make, args.repetitions):10.3f}" if not missing else "not installed"
            print(f"{what:24} {package + (f' + {solver}' if solver else ''):24} {shown}", flush=True)


if __name__ == "__main__":
    main()

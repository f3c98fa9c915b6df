"""Which real problems does dcl solve right?

    python benchmarks/real_problems.py [COLLECTION ...] [--solver NAME] [--largest N] [--only NAME ...] [--dense]

Every file of Maros-Meszaros, MPC and Netlib in ../shared/data (or $DCL_DATA) through `dcl.QPLayer`, its matrices as sparse
tensors (as dense ones with --dense), gradients recorded.
The value is compared with a reference that dcl has no part in (tests/oracles/real_data.py).  Verdicts:

    right      OPTIMAL, and the value agrees to 1e-6 of 1 + |value|, or to twice the difference of the two solvers that
               make the reference (QBEACONF: 1.8e-6); or infeasible, and reported so with a certificate
    honest     no number: a status other than OPTIMAL, for a problem that has a solution; or infeasible without a proof
    unknown    OPTIMAL, but the reference solvers disagree with each other
    WRONG      OPTIMAL, with another value; or a number for an infeasible problem
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

import dcl
from dcl import GradientKind, Status

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from oracles.real_data import COLLECTIONS, Problem, Reference, data_folder, problems, reference

VALUE = 1e-6


@dataclass(frozen=True)
class Row:
    """What dcl made of one problem; nan and "-" where there is no point."""

    name: str
    n: int
    rows: int
    status: str
    solver: str = "-"
    residual: float = float("nan")
    value: float = float("nan")
    error: float = float("nan")
    kind: str = "-"
    condition: float = float("nan")
    forward: float = float("nan")
    backward: float = float("nan")
    verdict: str = ""


def rows_of(problem: Problem) -> int:
    """Constraint rows, finite bounds included."""
    sides = (problem.data[name] for name in ("b", "h", "lb", "ub"))
    return sum(int(abs(side[abs(side) < float("inf")]).size) for side in sides if side is not None)


def examine(problem: Problem, known: Reference, solver: str | None = None, dense: bool = False) -> Row:
    """Solve, differentiate the sum of x, and judge."""
    leaves = {
        name: (t if dense or t.ndim < 2 else t.to_sparse()).requires_grad_()
        for name, t in (
            (name, torch.tensor(t, dtype=torch.float64)) for name, t in problem.data.items() if t is not None
        )
    }
    head = (problem.name, problem.n, rows_of(problem))
    layer = dcl.QPLayer(solver, on_degenerate="ignore")
    began = time.perf_counter()
    try:
        result, solution = layer(**({"P": None} | leaves), return_solution=True)
    except dcl.SolveError as error:
        status, seconds = error.statuses[0], time.perf_counter() - began
        proved = status == Status.PRIMAL_INFEASIBLE and error.certificates[0] is not None
        if status in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE):
            verdict = "right" if proved and known.status == "infeasible" else "honest"
            if known.status == "optimal":
                verdict = "WRONG"
        else:
            verdict = "honest"
        return Row(*head, status.name, forward=seconds, verdict=verdict)
    forward, began = time.perf_counter() - began, time.perf_counter()
    result.x.sum().backward()
    backward, value = time.perf_counter() - began, result.value.item()
    error = float("nan") if known.value is None else abs(value - known.value) / (1 + abs(known.value))
    return Row(
        *head,
        Status(int(solution.status)).name,
        solution.solvers[int(solution.solver)],
        max(t.item() for t in (solution.primal_residual, solution.dual_residual, solution.gap)),
        value,
        error,
        GradientKind(int(solution.gradient_kind)).name,
        solution.condition.item(),
        forward,
        backward,
        {"infeasible": "WRONG", "unknown": "unknown"}.get(
            known.status, "right" if error <= max(VALUE, 2 * known.agreement) else "WRONG"
        ),
    )


def print_head() -> None:
    print(
        f"{'name':<12} {'n':>5} {'rows':>5}  {'status':<18} {'solver':<8} {'residual':>8} {'value':>15} {'error':>8}"
        f"  {'gradient':<15} {'cond':>7} {'fwd ms':>8} {'bwd ms':>8}  verdict"
    )


def print_row(r: Row) -> None:
    print(
        f"{r.name:<12} {r.n:>5} {r.rows:>5}  {r.status:<18} {r.solver:<8} {r.residual:>8.1e} {r.value:>15.8g} "
        f"{r.error:>8.1e}  {r.kind:<15} {r.condition:>7.0e} {1e3 * r.forward:>8.1f} {1e3 * r.backward:>8.1f}  {r.verdict}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", nargs="*", default=COLLECTIONS, help=", ".join(COLLECTIONS))
    parser.add_argument("--solver", help="DAQP, PIQP, OSQP or CLARABEL instead of the rule")
    parser.add_argument("--largest", type=int, default=10**9, help="skip problems with more variables")
    parser.add_argument("--only", nargs="*", help="these problems")
    parser.add_argument("--dense", action="store_true", help="dense tensors")
    options = parser.parse_args()
    if unknown := set(options.collection) - set(COLLECTIONS):
        parser.error(f"unknown collection {', '.join(sorted(unknown))}; there are {', '.join(COLLECTIONS)}")
    if data_folder() is None:
        parser.error("no ../shared/data beside the repository, and DCL_DATA is not set")
    print(f"dcl {dcl.__version__}, torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    everything: list[Row] = []
    for collection in options.collection:
        print(f"\n{collection}")
        print_head()
        for problem in problems(collection, options.largest):
            if not options.only or problem.name in options.only:
                everything.append(examine(problem, reference(problem), options.solver, options.dense))
                print_row(everything[-1])
    for what, of in (("verdicts", "verdict"), ("gradients", "kind"), ("solvers", "solver")):
        counts = Counter(getattr(r, of) for r in everything)
        print(f"\n{what}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()), end="")
    print()


if __name__ == "__main__":
    main()

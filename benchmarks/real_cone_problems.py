"""Which real cone programs does dcl solve right?

    python benchmarks/real_cone_problems.py [COLLECTION ...] [--solver NAME] [--only NAME ...] [--dense]

Every file of SDPLIB and CBLIB in ../shared/data (or $DCL_DATA) through `dcl.ConeLayer`, A as a sparse tensor (as a dense one
with --dense), gradients recorded.  The value is
compared with one that dcl has no part in (published, and Clarabel called directly), and numpy measures the point on the
data of the file (tests/oracles/cone_data.py: `certificate`, `violation`).  Verdicts:

    right      OPTIMAL, the residuals as numpy measures them are small, and the value is the known one to 1e-5 of 1 + |value|,
               or as closely as it is known; or infeasible, with a certificate that numpy confirms
    honest     no number: a status other than OPTIMAL
    WRONG      OPTIMAL with another value, or with residuals that numpy does not find small; infeasible without being so
    too large  with --dense: the KKT matrix, order n + rows, has more than 0.1 GB
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import dcl
from dcl import GradientKind, Status

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from oracles.cone_data import (
    COLLECTIONS,
    SDPLIB,
    Cbf,
    Reference,
    Rows,
    Sdpa,
    certificate,
    load,
    names,
    reference,
    sparse_tensor,
)
from oracles.cone_data import infeasibility as infeasibility_of
from oracles.real_data import data_folder

VALUE = 1e-5
RESIDUAL = 1e-6
GIGABYTES = 0.1  # of a dense KKT matrix; more takes minutes
# What is known of these values is not more, see oracles.cone_data.SDPLIB.
UNCERTAIN = {name: 1e-2 for name in SDPLIB if name.startswith("hinf")} | {"hinf13": 3e-2}
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """What dcl made of one problem; nan and "-" where there is no point.

    residual: the worst of `certificate`; violation: of the file's own constraints, at x; error: of the value.
    """

    name: str
    n: int
    rows: int
    cones: str
    status: str
    solver: str = "-"
    residual: float = NAN
    violation: float = NAN
    value: float = NAN
    error: float = NAN
    kind: str = "-"
    condition: float = NAN
    forward: float = NAN
    backward: float = NAN
    verdict: str = ""


def cones_of(rows: Rows) -> str:
    """As in "z2 l1 q2x3 s6x2 ep8"."""
    found = [f"{key}{rows.cones[key]}" for key in ("z", "l") if rows.cones.get(key)]
    for key in ("q", "s"):
        sizes = Counter(rows.cones.get(key, []))
        found += [f"{key}{size}x{count}" for size, count in sorted(sizes.items())[:3]]
        found += [f"{key}..."] if len(sizes) > 3 else []
    return " ".join(found + ([f"ep{rows.cones['ep']}"] if rows.cones.get("ep") else []))


def examine(name: str, file: Sdpa | Cbf, rows: Rows, solver: str | None = None, dense: bool = False) -> Row:
    """Solve, differentiate the sum of x, and judge."""
    head = (name, len(rows.q), len(rows.b), cones_of(rows))
    A = torch.tensor(rows.A.toarray()) if dense else sparse_tensor(rows.A)
    q, A, b = (t.requires_grad_() for t in (torch.tensor(rows.q), A, torch.tensor(rows.b)))
    layer = dcl.ConeLayer(rows.cones, solver, on_degenerate="ignore")
    began = time.perf_counter()
    try:
        result, solution = layer(None, q, A, b, return_solution=True)
    except dcl.SolveError as error:
        seconds, status = time.perf_counter() - began, error.statuses[0]
        verdict = "honest"
        if status == Status.PRIMAL_INFEASIBLE:
            verdict = "right" if infeasibility_of(rows) <= RESIDUAL else "WRONG"
        if status == Status.DUAL_INFEASIBLE:
            verdict = "WRONG"
        return Row(*head, status.name, forward=seconds, verdict=verdict)
    forward, began = time.perf_counter() - began, time.perf_counter()
    result.x.sum().backward()
    backward = time.perf_counter() - began
    x, z, s = (t.detach().numpy() for t in result)
    value, proof, violation = file.objective(x), certificate(rows, x, z, s), file.violation(x)
    known = known_value(name, rows)
    error = abs(value - known) / (1.0 + abs(known))
    right = error <= UNCERTAIN.get(name, VALUE) and max(proof.worst, violation) <= RESIDUAL
    return Row(
        *head,
        Status(int(solution.status)).name,
        solution.solvers[int(solution.solver)],
        proof.worst,
        violation,
        value,
        error,
        GradientKind(int(solution.gradient_kind)).name,
        solution.condition.item(),
        forward,
        backward,
        "right" if right else "WRONG",
    )


def known_value(name: str, rows: Rows) -> float:
    """The published value, else Clarabel's if its certificate is good, else nan."""
    if name in SDPLIB:
        return SDPLIB[name]
    found: Reference = reference(rows)
    return found.value if found.certificate.worst <= RESIDUAL else float(np.nan)


def print_head() -> None:
    print(
        f"{'name':<17} {'n':>5} {'rows':>6}  {'cones':<22} {'status':<18} {'solver':<8} {'residual':>8} {'violation':>9} "
        f"{'value':>14} {'error':>8}  {'gradient':<15} {'cond':>7} {'fwd ms':>8} {'bwd ms':>8}  verdict"
    )


def print_row(r: Row) -> None:
    print(
        f"{r.name:<17} {r.n:>5} {r.rows:>6}  {r.cones:<22} {r.status:<18} {r.solver:<8} {r.residual:>8.1e} "
        f"{r.violation:>9.1e} {r.value:>14.8g} {r.error:>8.1e}  {r.kind:<15} {r.condition:>7.0e} "
        f"{1e3 * r.forward:>8.1f} {1e3 * r.backward:>8.1f}  {r.verdict}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", nargs="*", default=list(COLLECTIONS), help=", ".join(COLLECTIONS))
    parser.add_argument("--solver", help="CLARABEL or SCS instead of the rule")
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
        for name in names(collection):
            if options.only and name not in options.only:
                continue
            file = load(collection, name)
            rows = file.rows()
            if options.dense and rows.gigabytes > GIGABYTES:
                status = f"{rows.gigabytes:.2g} GB"
                everything.append(Row(name, len(rows.q), len(rows.b), cones_of(rows), status, verdict="too large"))
            else:
                everything.append(examine(name, file, rows, options.solver, options.dense))
            print_row(everything[-1])
    for what, of in (("verdicts", "verdict"), ("gradients", "kind")):
        counts = Counter(getattr(r, of) for r in everything)
        print(f"\n{what}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()), end="")
    print()


if __name__ == "__main__":
    main()

"""`dcl solve FILE`: one program for one value of each parameter, or for a row of values for each instance."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from dcl.cli.arguments import add_program, output
from dcl.cli.terminal import fitting, width

if TYPE_CHECKING:
    from dcl.programs import ProgramSolution

_EXAMPLES = """
examples:
  dcl solve portfolio.py --set gamma=0.3
  dcl solve portfolio.py --data scenarios.csv --out weights.csv
  dcl solve qp.json --json
  dcl solve afiro.mps

exit status: 0 solved, 2 wrong input, 3 infeasible, 4 unbounded, 5 no answer that passes the check
"""
_ENTRIES, _ROWS, _COLUMNS = 20, 20, 6
_ROUNDING = 1e-14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = "Solve a program, check the answer, and print its variables and multipliers."
    add_program(parser, examples=_EXAMPLES)
    parser.add_argument("--out", type=output, metavar="OUT", help="write everything to a .csv, .json or .npz file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Solve, print, write. Returns the exit status."""
    from dcl.cli import write
    from dcl.cli.program import asked, exit_status

    work = asked(args)
    solution = work.program.solve(work.values)
    found = as_dict(solution)
    if args.out is not None:
        write.save(args.out, found, *as_table(solution, work.labels))
    if args.json:
        print(write.text(found))
    else:
        print(_many(solution, work.labels) if solution.batch else _one(solution))
        if args.out is not None:
            print(f"\nwritten: {args.out}")
    status = exit_status(solution.known.status.reshape(-1).tolist())
    if status and not args.json and not solution.batch:
        print(f"dcl solve: {solution.failure}", file=sys.stderr)
    return status


def as_dict(solution: ProgramSolution) -> dict[str, Any]:
    """Everything, by name: status, value, residuals, variables, multipliers, what binds."""
    from dcl.status import Status

    known, model = solution.known, solution.model
    codes = known.status.reshape(-1).tolist()
    names = [Status(code).name for code in codes]
    return {
        "status": names if solution.batch else names[0],
        "value": solution.value,
        "variables": {entry.name: solution[entry.name] for entry in model.variables},
        "multipliers": {
            entry.name: t.numpy()
            for entry, t in zip(model.duals, known.outputs[len(model.variables) :], strict=False)
        },
        "constraints": [one.label or one.text for one in model.constraints],
        "binding": solution.binding,
        "residuals": {
            "primal": solution.primal_residual, "dual": solution.dual_residual, "gap": solution.gap,
        },
        "parameters": dict(solution.parameters),
    }  # fmt: skip


def as_table(solution: ProgramSolution, labels: list[str] | None) -> tuple[list[str], list[list[Any]]]:
    """For CSV: a row for each entry; of a batch, a row for each instance."""
    if not solution.batch:
        entries = zip((*solution.model.variables, *solution.model.duals), solution.known.outputs, strict=False)
        rows = [
            [entry.name, place, value]
            for entry, t in entries
            for place, value in zip(solution.axes.places(entry), t.reshape(-1).tolist(), strict=True)
        ]
        return ["name", "entry", "value"], rows
    from dcl.programs.frames import columns_of
    from dcl.status import Status

    columns: dict[str, Any] = {} if labels is None else {"row": labels}
    columns["status"] = [Status(code).name for code in solution.known.status.tolist()]
    columns["value"] = solution.value.tolist()
    outputs = zip((*solution.model.variables, *solution.model.duals), solution.known.outputs, strict=False)
    for entry, t in outputs:
        columns |= {name: column.tolist() for name, column in columns_of(entry, t.numpy(), solution.axes).items()}
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _one(solution: ProgramSolution) -> str:
    from dcl.programs.text import entries, number, table

    known, model = solution.known, solution.model
    solver = known.solvers[int(known.solver)] if known.solvers else ""
    if not solution.ok:
        return str(solution.status.name)
    outputs, value, _ = solution.certain
    head = f"{solution.status.name}  value {number(value, 8)}"
    worst = max(solution.primal_residual, solution.dual_residual, solution.gap)
    head += f"  (worst residual {worst:.0e}, {float(known.seconds) * 1e3:.1f} ms, {solver})"
    rows = [
        [name, cell]
        for entry, array in zip(model.variables, outputs, strict=False)
        for name, cell in zip(solution.axes.names(entry), entries(array, 6), strict=True)
    ]
    lines = [head, "", table(["variable", "value"], rows[:_ENTRIES])]
    if len(rows) > _ENTRIES:
        lines.append(f"... and {len(rows) - _ENTRIES} more entries: --out FILE has all")
    multipliers = []
    duals = list(zip(model.duals, outputs[len(model.variables) :], strict=True))
    for place, one in enumerate(model.constraints):
        if one.duals:
            parts = [solution.on_a_line(*duals[k], digits=4) for k in one.duals]
            text = f"{one.label}: {one.text}" if one.label else one.text
            multipliers.append([f"{place}", _short(text), "; ".join(parts)])
    if multipliers:
        lines += ["", table(["constraint", "", "multiplier"], multipliers[:_ENTRIES], left=3)]
        if len(multipliers) > _ENTRIES:
            lines.append(f"... and {len(multipliers) - _ENTRIES} more constraints: --out FILE has all")
    if solution.binding:
        lines += ["", "binding: " + "\n         ".join(solution.binding)]
    return "\n".join(lines)


def _short(text: str, most: int = 48) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _many(solution: ProgramSolution, labels: list[str] | None) -> str:
    from dcl.programs.text import number, table
    from dcl.status import Status

    columns, rows = as_table(solution, labels)
    first = columns.index("status")
    kept = list(range(min(len(columns), first + 2 + _COLUMNS)))
    head = [columns[k] for k in kept] if labels is not None else ["row", *(columns[k] for k in kept)]
    # what rounding leaves of entries that are zero
    numbers = [abs(row[k]) for row in rows for k in kept if not isinstance(row[k], str) and math.isfinite(row[k])]
    noise = _ROUNDING * max(numbers, default=0.0)

    def cell(value: Any) -> str:
        return value if isinstance(value, str) else number(0.0 if abs(value) <= noise else value)

    cells = [([] if labels is not None else [str(i)]) + [cell(row[k]) for k in kept] for i, row in enumerate(rows)]
    shown = fitting([head, *cells[:_ROWS]], reversed(range(head.index("value") + 1, len(head))), width())
    lines = [table([head[k] for k in shown], [[row[k] for k in shown] for row in cells[:_ROWS]], left=2)]
    if len(rows) > _ROWS:
        lines.append(f"... and {len(rows) - _ROWS} more rows: --out FILE has all")
    left = len(columns) - len(kept) + len(head) - len(shown)
    if left:
        lines.append(f"... and {left} more column{'s' if left > 1 else ''}: --out FILE has all")
    counts = {one.name: int((solution.known.status == one).sum()) for one in Status}
    lines.append("\n" + ", ".join(f"{count:,} {name}" for name, count in counts.items() if count))
    return "\n".join(lines)

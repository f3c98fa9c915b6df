"""`dcl sweep FILE --over NAME=...`: a program for many values, with failures as rows, resumable."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcl.cli.arguments import add_program, check_drawing, output, picture, points, positive
from dcl.cli.terminal import fitting, width, wrapped

if TYPE_CHECKING:
    from dcl.programs import Sweep

_EXAMPLES = """
--over NAME=START:STOP:COUNT      evenly spaced; also of one entry, mu[2]=0:1:11
--over NAME=log:START:STOP:COUNT  evenly spaced logarithms
--over NAME=1,2,5                 these values
several --over make a grid, in which the last one moves fastest

examples:
  dcl sweep portfolio.py --over gamma=log:0.01:10:50 --plot paths.png
  dcl sweep lp.json --over "h[0]=0:10:1000" --path chunks --out rows.csv
  dcl sweep portfolio.py --data scenarios.csv --gradient --backend loky

exit status: that of solve, for the first row without a solution
"""
_ROWS, _COLUMNS = 24, 6
_ROUNDING = 1e-14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = "Solve a program for many values of its parameters. A row without a solution has its status."
    add_program(parser, examples=_EXAMPLES)
    parser.add_argument("--over", action="append", default=[], type=points, metavar="NAME=POINTS", help="see below")
    parser.add_argument(
        "--gradient", action="store_true", help="also the gradient of the optimal value in the parameters"
    )
    parser.add_argument(
        "--path",
        type=Path,
        metavar="FOLDER",
        help="folder for finished chunks; run the same command again to continue",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="joblib backend for chunks: loky, threading, dask or ray (default: one process)",
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="number of workers of the backend (default: all cores)"
    )
    parser.add_argument("--out", type=output, metavar="OUT", help="write all rows to a .csv, .json or .npz file")
    parser.add_argument("--plot", type=picture, metavar="OUT", help="draw the solution paths (.png, .pdf, .svg)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Sweep, print, write. Returns the exit status."""
    from dcl.cli import write
    from dcl.cli.program import asked, exit_status
    from dcl.cli.values import grid
    from dcl.errors import InputError

    if bool(args.over) == (args.data is not None):
        raise InputError("give either --over NAME=POINTS or --data FILE.csv", argument="over")
    check_drawing(args.plot, "programs")
    work = asked(args)
    rows = grid(args.over, work.places) if args.over else work.rows
    try:
        found = work.program.sweep(
            {**work.places.base, **rows},
            gradient="value" if args.gradient else None,
            path=args.path,
            backend=args.backend,
            workers=args.workers,
        )
    except KeyboardInterrupt:
        if args.path is not None:
            print(f"dcl sweep: stopped; run the same command again to continue from {args.path}", file=sys.stderr)
        raise
    table = as_table(found)
    if args.out is not None:
        write.save(args.out, as_dict(found), *table)
    if args.plot is not None:
        found.plot(args.plot)
    if args.json:
        print(write.text(as_dict(found)))
    else:
        print(_text(found, *table))
        for name, path in (("rows", args.out), ("figure", args.plot)):
            if path is not None:
                print(f"{name}: {path}")
    return exit_status(found.status.tolist())


def as_dict(found: Sweep) -> dict[str, Any]:
    """Everything, by name."""
    from dcl.status import Status

    model = found.model
    outputs = found.found.outputs
    return {
        "status": [Status(code).name for code in found.status.tolist()],
        "value": found.value,
        "residual": found.residual,
        "parameters": dict(found.parameters),
        "variables": {entry.name: array for entry, array in zip(model.variables, outputs, strict=False)},
        "multipliers": {
            entry.name: array for entry, array in zip(model.duals, outputs[len(model.variables) :], strict=False)
        },
        "gradient": dict(found.gradient),
        "changes": found.changes,
    }


def as_table(found: Sweep) -> tuple[list[str], list[list[Any]]]:
    """A row for each row, columns as in `Sweep.to_pandas`, which is not needed."""
    from dcl.programs.frames import sweep_columns

    columns = sweep_columns(found)
    lists = [column if isinstance(column, list) else column.tolist() for column in columns.values()]
    return list(columns), [list(row) for row in zip(*lists, strict=True)]


def _text(found: Sweep, columns: list[str], rows: list[list[Any]]) -> str:
    import numpy as np

    from dcl.programs.text import number, table

    # swept entries that do not move, and what is left of the columns, are in the file
    still = {
        name
        for k, name in enumerate(columns)
        if k < columns.index("status") and len(rows) > 1 and all(row[k] == rows[0][k] for row in rows)
    }
    duals = {name for entry in found.model.duals for name in found.axes.names(entry)}
    kept = [k for k, name in enumerate(columns) if name not in still | duals and name != "residual"]
    shown_columns = kept[: kept.index(columns.index("value")) + 1 + _COLUMNS]
    left, kept = len(kept) - len(shown_columns), shown_columns
    changed = set(found.changes.tolist())
    shown = list(range(len(rows)))
    if len(rows) > _ROWS:
        shown = sorted({int(i) for i in np.linspace(0, len(rows) - 1, _ROWS)})
    # what rounding leaves of entries that are zero
    numbers = [abs(row[k]) for row in rows for k in kept if not isinstance(row[k], str) and math.isfinite(row[k])]
    noise = _ROUNDING * max(numbers, default=0.0)

    def cell(value: Any) -> str:
        return value if isinstance(value, str) else number(0.0 if abs(value) <= noise else value)

    cells = []
    for last, i in zip([-1, *shown], shown, strict=False):
        mark = "*" if any(row in changed for row in range(last + 1, i + 1)) else ""
        cells.append([str(i), *(cell(rows[i][k]) for k in kept), mark])
    head = ["row", *(columns[k] for k in kept)]
    # the last column, of stars, has no heading
    least = head.index("value") + 1
    fit = fitting([head, *cells], reversed(range(least, len(head))), width() - 3)
    left += len(head) - len(fit)
    lines = [table([*(head[k] for k in fit), ""], [[*(row[k] for k in fit), row[-1]] for row in cells], left=0)]
    if len(rows) > len(shown):
        lines.append(f"{len(shown)} of {len(rows):,} rows: --out FILE has all")
    if left:
        lines.append(f"{left} more column{'s' if left > 1 else ''}, and multipliers: --out FILE has all")
    if changed:
        lines.append("* other constraints are active than in the row above")
    return "\n".join([*lines, "", wrapped(repr(found))])

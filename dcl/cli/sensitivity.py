"""`dcl sensitivity FILE`: which entries of the parameters move value and solution most, and how far each may move."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from dcl.cli.arguments import add_program, output, positive
from dcl.cli.terminal import fitting, width, wrapped

if TYPE_CHECKING:
    from dcl.programs import Sensitivity

# the columns that a narrow terminal leaves out, one after the other
_LESS = ("|x|, +1 %", "value, +1 %", "moves most", "|d x|")

_EXAMPLES = """
examples:
  dcl sensitivity portfolio.py --set gamma=0.3
  dcl sensitivity lp.json --range

--range adds, for each entry, how far it may go down and up until other constraints are active (linear and quadratic
programs; "-" where it enters P or A, along which the solution is not piecewise affine; "not unique" where the active
constraints are not unique at this point, so that there is no range).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = "Derivatives of the optimal value and of the solution in every entry of every parameter."
    add_program(parser, data=False, examples=_EXAMPLES)
    parser.add_argument("--top", type=positive, default=20, metavar="N", help="rows of the table (default: 20)")
    parser.add_argument(
        "--range", action="store_true", help="also how far each entry may move with the same active set"
    )
    parser.add_argument("--out", type=output, metavar="OUT", help="write all rows to a .csv, .json or .npz file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Solve, print the table, write it. Returns the exit status."""
    import sys

    from dcl.cli import write
    from dcl.cli.program import asked, exit_status

    work = asked(args)
    solution = work.program.solve(work.values)
    if not solution.ok:
        print(f"dcl sensitivity: {solution.failure}", file=sys.stderr)
        return exit_status([int(solution.status)])
    table = solution.sensitivity()
    rows: list[dict[str, Any]] = [dict(vars(effect)) for effect in table]
    if args.range:
        ends = {} if args.mu else table_of_ranges(solution)
        for row in rows:
            row["low"], row["high"] = ends.get(row["name"], (None, None))
    found = {"status": solution.status.name, "value": solution.value, "effects": rows, "binding": table.binding}
    if args.out is not None:
        names = list(rows[0]) if rows else ["name"]
        columns = {"status": solution.status.name, **{name: [row[name] for row in rows] for name in names}}
        write.save(
            args.out, found if args.out.suffix != ".npz" else columns, names, [list(row.values()) for row in rows]
        )
    if args.json:
        print(write.text(found))
        return 0
    print(f"{solution.status.name}  value {solution.value:.8g}\n")
    print(_text(table, rows[: args.top], args.range))
    if args.out is not None:
        print(f"\nwritten: {args.out}")
    return 0


def table_of_ranges(solution: Any) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each entry with the same active constraints; NaN where they are not unique.

    Entries that change P or A are left out.
    """
    import numpy as np

    from dcl.errors import DegenerateError, UnsupportedError

    found = {}
    for parameter in solution.model.parameters:
        value = solution.parameters[parameter.name]
        for label, place in zip(solution.axes.names(parameter), np.ndindex(*parameter.shape), strict=True):
            step = np.zeros(parameter.shape)
            step[place] = 1.0
            try:
                low, high = solution.active_range({parameter.name: step})
            except UnsupportedError:
                continue
            except DegenerateError:
                low = high = np.nan
            found[label] = float(value[place]) + low, float(value[place]) + high
    return found


def _text(found: Sensitivity, rows: list[dict[str, Any]], with_ranges: bool) -> str:
    """The table of these rows, with two columns more if asked; what is too wide for the terminal is left out, and named."""
    from dcl.programs.sensitivity import HEAD, cells, foot
    from dcl.programs.text import number, table

    def end(at: float | None) -> str:
        if at is None:
            return "-"
        return "not unique" if math.isnan(at) else number(at, 4)

    head = [*HEAD, *(["from", "to"] if with_ranges else [])]
    lines = cells(found, len(rows))
    if with_ranges:
        lines = [[*line, end(row["low"]), end(row["high"])] for line, row in zip(lines, rows, strict=True)]
    kept = fitting([head, *lines], [head.index(name) for name in _LESS], width())
    text = [table([head[k] for k in kept], [[line[k] for k in kept] for line in lines])]
    if len(kept) < len(head):
        left = "; ".join(name for k, name in enumerate(head) if k not in kept)
        text.append(f"left out: {left} (--out FILE has all)")
    return "\n".join([*text, *map(wrapped, foot(found, len(rows)))])

"""`python -m dcl demo [--steps N] [--seed S] [--output FILE.png] [--csv FILE]`."""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dcl.cli.terminal import width

if TYPE_CHECKING:
    from dcl.demo.dispatch import Outcome

HELP = "learn a rule for decisions, and to read digits, from decisions alone (handwritten digits)"
_NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
DAYS = (30, 60, 120, 240)
SEEDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = (
        "Ten customers write the amounts that they want on slips, and a dispatcher with a limited total ships. From the images "
        "of the slips and from what was shipped, a model with a dcl layer learns to read the slips and the dispatcher's rule. "
        "It is compared with models without a layer on other days and other handwriting, for several numbers of past days."
    )
    parser.add_argument("--steps", type=_positive, default=150, metavar="N", help="gradient steps (default: 150)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help=f"the first of {SEEDS} seeds (default: 0)")
    parser.add_argument(
        "--output", type=_file, default=Path("dcl-demo.png"), metavar="FILE", help="figure (default: dcl-demo.png)"
    )
    parser.add_argument("--csv", type=_file, metavar="FILE", help="also write the error of every run")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: the folder does not exist, or the name is a folder")
    return path


def run(args: argparse.Namespace) -> int:
    """Run all experiments, print the table, write the figure. Returns the exit status."""
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        print(
            f'dcl demo needs {", ".join(missing)}, not installed here: pip install "dcl-layers[demo]"', file=sys.stderr
        )
        return 2

    import torch
    from matplotlib.figure import Figure
    from tqdm import tqdm

    from dcl.demo import dispatch, figure

    if args.output.suffix[1:].lower() not in Figure().canvas.get_supported_filetypes():
        print(f"dcl demo: --output {args.output}: unknown kind of picture; use .png, .pdf or .svg", file=sys.stderr)
        return 2
    # matrices this small gain little from a second thread, and lose a factor of ten to it on a busy machine
    torch.set_num_threads(1)
    start = time.perf_counter()
    runs = [(days, args.seed + k) for days in DAYS for k in range(SEEDS)]
    outcomes = {}
    total = len(runs) * args.steps * 4
    # disable=None: no bar where stderr is no terminal
    with tqdm(total=total, desc="learning from shipments", unit="step", leave=False, disable=None) as bar:
        for days, seed in runs:
            outcomes[days, seed] = dispatch.experiment(seed, days, args.steps, bar.update)
    print(table(outcomes, width()))
    print(f"\n{len(runs)} runs in {time.perf_counter() - start:.0f} seconds")
    figure.draw(outcomes, args.output)
    print(f"figure: {args.output}")
    if args.csv is not None:
        _write_csv(outcomes, args.csv)
        print(f"errors of every run: {args.csv}")
    return 0


def table(outcomes: dict[tuple[int, int], Outcome], most: float = math.inf) -> str:
    """Errors on the judged days by method and number of past days: the mean, and the least and largest of the seeds.

    most: columns of the terminal; where the table is wider, the means alone.
    """
    whole = _table(outcomes, with_range=True)
    return whole if max(map(len, whole.splitlines())) <= most else _table(outcomes, with_range=False)


def _table(outcomes: dict[tuple[int, int], Outcome], with_range: bool) -> str:
    seeds = len({seed for _, seed in outcomes})
    by_days = {days: [o for (d, _), o in outcomes.items() if d == days] for days, _ in outcomes}
    of_each = "(least to largest)" if with_range else "(--csv FILE: each)"
    title = f"error of a shipment on held-out days (units), mean of {seeds} seeds {of_each}"
    head = ["past days to learn from", *(str(days) for days in by_days)]
    methods = list(next(iter(outcomes.values())).errors)
    rows = [head]
    for method in methods:
        cells = [[outcome.errors[method] for outcome in group] for group in by_days.values()]
        ranges = [f" ({min(c):.2f} to {max(c):.2f})" if with_range else "" for c in cells]
        rows.append([method, *(f"{sum(c) / len(c):.2f}{r}" for c, r in zip(cells, ranges, strict=True))])
    floors = [[outcome.floor for outcome in group] for group in by_days.values()]
    rows.append(["rule and digits known", *(f"{sum(c) / len(c):.2f}" for c in floors)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]])


def _write_csv(outcomes: dict[tuple[int, int], Outcome], path: Path) -> None:
    """One row for each number of days, seed and method."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["days", "seed", "method", "error"])
        for (days, seed), outcome in outcomes.items():
            writer.writerows([days, seed, method, error] for method, error in outcome.errors.items())

"""`python -m dcl demo [--steps N] [--seed S] [--output FILE.png] [--csv FILE]`."""

from __future__ import annotations

import argparse
import csv
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcl.demo.regression import Outcome

HELP = "learn one penalty per feature of a constrained regression through its argmin (diabetes data)"
_NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
_SHUFFLED = 2  # shuffled copies of the ten features in the second run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = (
        "Learns one penalty per feature of a sign- and budget-constrained regression by gradient descent on the "
        "cross-validation loss, through the argmin, and compares the test error with that of the best single penalty. "
        "Two runs: the ten features alone, and with shuffled columns among them that carry no information."
    )
    parser.add_argument("--steps", type=_positive, default=40, metavar="N", help="gradient steps (default: 40)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the random splits (default: 0)")
    parser.add_argument(
        "--output", type=_file, default=Path("dcl-demo.png"), metavar="FILE", help="figure (default: dcl-demo.png)"
    )
    parser.add_argument("--csv", type=_file, metavar="FILE", help="also write the test error of every split")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: no such folder, or a folder itself")
    return path


def run(args: argparse.Namespace) -> int:
    """Run both experiments, print the table, write the figure. Returns the exit status."""
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        print(f'dcl demo needs {", ".join(missing)}, not installed here: pip install "dcl-layers[demo]"', file=sys.stderr)
        return 2

    import torch
    from matplotlib.figure import Figure
    from tqdm import tqdm

    from dcl.demo import figure, regression

    if args.output.suffix[1:].lower() not in Figure().canvas.get_supported_filetypes():
        print(f"dcl demo: --output {args.output}: no such kind of picture; use .png, .pdf or .svg", file=sys.stderr)
        return 2
    # matrices this small gain little from a second thread, and lose a factor of ten to it on a busy machine
    torch.set_num_threads(1)
    outcomes = {}
    data = {copies: regression.load(args.seed, copies) for copies in (0, _SHUFFLED)}
    with tqdm(total=len(data) * args.steps, desc="learning through the argmin", unit="step", leave=False) as bar:
        for copies, loaded in data.items():
            outcomes[_name(copies)] = regression.experiment(loaded, args.steps, bar.update)
    print(_table(outcomes))
    figure.draw(outcomes, next(iter(data.values())).error, list(regression.FEATURES), args.output)
    print(f"\nfigure: {args.output}")
    if args.csv is not None:
        _write_csv(outcomes, args.csv)
        print(f"errors of every split: {args.csv}")
    return 0


def _name(copies: int) -> str:
    from dcl.demo.regression import FEATURES

    return f"{len(FEATURES)} features" + (f" + {copies * len(FEATURES)} shuffled" if copies else "")


def _table(outcomes: dict[str, Outcome]) -> str:
    """Test errors (mean and standard error over the splits), the paired difference, and what it cost."""
    rows: dict[str, list[str]] = {}
    for outcome in outcomes.values():
        count = len(outcome.single)
        for method, error in outcome.errors.items():
            rows.setdefault(method, []).append(f"{error.mean():.2f} ± {error.std() / count**0.5:.2f}")
        *_, single, learned = outcome.errors.values()
        gain = learned - single
        rows.setdefault("per feature minus single", []).append(f"{gain.mean():+.2f} ± {gain.std() / count**0.5:.2f}")
        rows.setdefault("  lower in", []).append(f"{int((gain < 0).sum())} of {count} splits")
        fall = f"{outcome.single_loss.mean():.4f} -> {outcome.curve[-1].mean():.4f}"
        rows.setdefault("validation loss, single -> learned", []).append(fall)
        rows.setdefault("argmins solved and checked", []).append(f"{outcome.solves:,}")
        rows.setdefault("seconds", []).append(f"{outcome.seconds:.1f}")
    splits = next(iter(outcomes.values())).single.shape[0]
    title = f"test error (RMSE), {splits} random halves"
    wide = max(map(len, [title, *rows]))
    columns = [max(len(name), *(len(cells[k]) for cells in rows.values())) for k, name in enumerate(outcomes)]

    def line(head: str, cells: list[str]) -> str:
        return "  ".join([head.ljust(wide), *(cell.rjust(width) for cell, width in zip(cells, columns, strict=True))])

    rule = "-" * (wide + sum(columns) + 2 * len(columns))
    body = [line(head, cells) for head, cells in rows.items()]
    return "\n".join([line(title, list(outcomes)), rule, *body[:3], rule, *body[3:]])


def _write_csv(outcomes: dict[str, Outcome], path: Path) -> None:
    """One row for each data set, split and method."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "split", "method", "test_rmse"])
        for name, outcome in outcomes.items():
            for method, error in outcome.errors.items():
                writer.writerows([name, split, method, value] for split, value in enumerate(error.tolist()))

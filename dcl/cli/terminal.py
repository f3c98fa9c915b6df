"""What fits on the terminal: the columns of a table, and long lines. Where the output is no terminal, all is kept as it is."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from textwrap import wrap

_BETWEEN = 2  # spaces between two columns
_DEEPEST = 24  # a label wider than this has its text below it, not beside it


def width() -> float:
    """Columns of the terminal; infinite where the output is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf


def fitting(lines: Sequence[Sequence[str]], order: Iterable[int], room: float) -> list[int]:
    """The columns of a table that are kept: those of `order` are dropped, one after the other, until it fits in `room`."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    kept = list(range(len(widths)))
    for column in order:
        if sum(widths[k] for k in kept) + _BETWEEN * (len(kept) - 1) <= room:
            break
        kept.remove(column)
    return kept


def wrapped(text: str) -> str:
    """The text with lines that are too long continued, what follows a label ("advice    ", "binding: ") below itself."""
    most = width()
    return "\n".join(line if len(line) <= most else _continued(line, int(most)) for line in text.split("\n"))


def _continued(line: str, most: int) -> str:
    label = re.match(r"\s*\S+(?: \S+)*?\s{2,}(?=\S)|\s*[a-z]+: |\s*", line)
    start = label.end() if label is not None else 0
    if start > min(_DEEPEST, most // 2):
        start = 0
    rows = wrap(line[start:], most - start, break_long_words=False, break_on_hyphens=False)
    return "\n".join((line[:start] if k == 0 else " " * start) + row for k, row in enumerate(rows))

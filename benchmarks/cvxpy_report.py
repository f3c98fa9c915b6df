"""The summaries of `how_fast_are_cvxpy_layers.py`: dcl beside the best peer, and programs written in two ways."""

from __future__ import annotations

from collections.abc import Sequence

from cvxpy_peers import DCL, UNREDUCED
from cvxpy_programs import FAMILIES
from cvxpy_works import Work
from lines import Line, base, digits, grid, number, ratio

Results = Sequence[tuple[Work, list[Line]]]


def overview(done: Results) -> str:
    """A row for each work: the best right peer, dcl with and without its reduction."""
    heads = ["", "batch", "best right peer", "ms", "dcl", "ratio", "error x", "error grad", "reduce=False", "ratio"]
    rows = []
    for work, lines in done:
        to = base(work, lines)
        ours, unreduced = (next((line for line in lines if line.layer == name), None) for name in (DCL, UNREDUCED))
        best = [to.layer, digits(to.ms)] if to else ["none", ""]
        errors = [number(error, ".0e") for error in (ours.error_x, ours.error_gradient)] if ours else ["", ""]
        rows.append(
            [work.subject, str(work.batch), *best, *_shown(ours, to), *errors, *_shown(unreduced, to)],
        )
    return grid("forward + backward, ms an instance, relative to the best right peer", heads, rows, texts=3)


def _shown(line: Line | None, to: Line | None) -> list[str]:
    """Time and ratio, or what is in the way."""
    if line is None:
        return ["", ""]
    if not line.is_right:
        return [line.verdict.split(":")[0], ""]
    return [digits(line.ms), number(ratio(line, to), ".2f")]


def twins(done: Results) -> str:
    """Time relative to the same programs written in a simpler way, right answers only."""
    right = {(work, line.layer): line for work, lines in done for line in lines if line.is_right}
    rows = []
    for (work, layer), line in right.items():
        simpler = right.get((Work(FAMILIES[work.family].twin, work.size, work.batch), layer))
        if simpler is not None:
            named = FAMILIES[simpler.work.family].named(work.size)
            rows.append([f"{work.subject} / {named}", layer, str(work.batch), f"{line.ms / simpler.ms:.2f}"])
    return grid("time relative to the same programs written in a simpler way", ["", "layer", "batch", "ratio"], rows)

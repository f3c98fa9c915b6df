"""Times the layers on one work after the other, in turns, and checks every answer.

A turn is a stretch of calls for each layer, one layer after the other in random order, so that a busy machine slows all
alike.  The programs are the same for all layers, and others in every call, so that no layer can keep a factorization.
Tensors are made before a stretch, answers checked and garbage collected after it: between its calls nothing is done.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from typing import Any

import numpy as np
import torch
from contest import LEAST, AbstractPeer, AbstractWork, Effort, Layer, NotThereError, Programs
from lines import LEFT_OUT, Done, Line
from torch import Tensor

STRETCH = 0.02


@dataclass
class Run:
    """One layer on one work: seconds of each repetition, the largest errors, what it warned of, or why there is nothing.

    clock: of the wall, or of the processor, for one thread on a busy machine.
    """

    peer: AbstractPeer
    work: AbstractWork
    clock: Callable[[], float] = time.perf_counter
    layer: Layer | None = None
    trouble: str = ""
    warned: set[str] = field(default_factory=set)
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    error_x: float = 0.0
    error_gradient: float = 0.0

    def prepare(self) -> None:
        """Make the layer."""
        missing = self.peer.missing()
        if missing:
            self.trouble = f"not installed: {', '.join(missing)}"
            return
        try:
            with self._listening():
                self.layer = self.peer.make(self.work)
        except NotThereError as error:
            self.trouble = f"{LEFT_OUT}: {error}"
        except Exception as error:  # noqa: BLE001  a layer that breaks is a result; the others go on
            self.trouble = _said(error)

    def is_due(self, effort: Effort) -> bool:
        """Whether it takes part in the next turn; one call is enough where it takes longer than a call should."""
        if self.layer is None or self.trouble:
            return False
        spent = sum(self.forward) + sum(self.backward)
        return spent < effort.seconds or (len(self.forward) < LEAST and spent < effort.call)

    def calls(self) -> int:
        """How many calls make a stretch: STRETCH seconds, at most ten."""
        last = self.forward[-1] + self.backward[-1] if self.forward else STRETCH
        return max(1, min(10, int(STRETCH / last)))

    def stretch(self, programs: Programs, first: int, calls: int, *, counts: bool) -> None:
        """Calls in a row, on programs first, first + 1, ...; errors always count, times if `counts`."""
        with self._listening():
            self._stretch(programs, first, calls, counts)

    def _stretch(self, programs: Programs, first: int, calls: int, counts: bool) -> None:
        w = torch.from_numpy(programs.w)
        some = [(first + call + np.arange(self.work.batch)) % len(programs) for call in range(calls)]
        given = [self._tensors(programs, rows) for rows in some]
        answers = []
        for data in given:
            try:
                forward, backward, x, gradients = self._timed(data, w)
            except Exception as error:  # noqa: BLE001  see prepare
                self.trouble = _said(error)
                return
            answers.append((x, gradients))
            if counts:
                self.forward.append(forward)
                self.backward.append(backward)
        if self.peer.answers:
            for rows, (x, gradients) in zip(some, answers, strict=True):
                self._check(programs, rows, x, gradients)

    def _timed(self, data: Sequence[Tensor], w: Tensor) -> tuple[float, float, Tensor, tuple[Tensor, ...]]:
        """Seconds of forward and of backward, x, the gradients of w'x."""
        assert self.layer is not None
        if not self.work.backward:
            with torch.no_grad():
                start = self.clock()
                x = self.layer(*data)
                return self.clock() - start, 0.0, x, ()
        start = self.clock()
        x = self.layer(*data)
        middle = self.clock()
        gradients = torch.autograd.grad((x @ w).sum(), data)
        return middle - start, self.clock() - middle, x, gradients

    def _tensors(self, programs: Programs, rows: np.ndarray) -> list[Tensor]:
        names = self.peer.takes(self.work)
        return [torch.from_numpy(programs.data[name][rows]).requires_grad_(self.work.backward) for name in names]

    def _check(self, programs: Programs, rows: np.ndarray, x: Tensor, gradients: Sequence[Tensor]) -> None:
        names = self.peer.takes(self.work) if self.work.backward else ()
        named = {name: g.numpy() for name, g in zip(names, gradients, strict=True)}
        error_x, error_gradient = programs.answers[self.peer.mu].errors(rows, x.detach().numpy(), named)
        self.error_x, self.error_gradient = max(self.error_x, error_x), max(self.error_gradient, error_gradient)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Warnings are results, too; what moreau says of its choice, and dcl of LPs at vertices, is none."""
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", message="solver='auto' resolved to ACTIVE_SET")
            warnings.filterwarnings(
                "ignore", message="the gradient with respect to .* is zero: the solution of a linear"
            )
            yield
        self.warned |= {warning.category.__name__ for warning in heard}

    def line(self) -> Line:
        """What the tables need of it."""
        scale = 1e3 / self.work.batch
        both = [scale * (f + b) for f, b in zip(self.forward, self.backward, strict=True)]
        done = bool(both) and not self.trouble
        return Line(
            self.work,
            self.peer.name,
            is_dcl=self.peer.is_dcl,
            answers=self.peer.answers,
            trouble=self.trouble,
            warned=" ".join(sorted(self.warned)),
            repetitions=len(both),
            ms=median(both) if done else math.nan,
            ms_least=min(both) if done else math.nan,
            ms_forward=scale * median(self.forward) if done else math.nan,
            ms_backward=scale * median(self.backward) if done and self.work.backward else math.nan,
            error_x=self.error_x if self.peer.answers and done else math.nan,
            error_gradient=self.error_gradient if self.peer.answers and done and self.work.backward else math.nan,
        )


def _said(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:60]}"


class Expectations:
    """What a call will take, from the works that were timed before."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str, int], dict[int, float]] = {}

    def note(self, run: Run) -> None:
        """Remember its time an instance."""
        if run.forward:
            spent = median(f + b for f, b in zip(run.forward, run.backward, strict=True)) / run.work.batch
            key = run.peer.name, run.work.family, run.work.size
            self._seconds.setdefault(key, {})[run.work.batch] = spent

    def seconds(self, run: Run) -> float:
        """Those of the nearest smaller batch at this size; at a new size, those of the size before, with the square of n."""
        family, n, batch = run.work.family, run.work.size, run.work.batch
        sizes = [size for name, of, size in self._seconds if (name, of) == (run.peer.name, family) and size <= n]
        if not sizes:
            return 0.0
        known = self._seconds[run.peer.name, family, max(sizes)]
        nearest = max((b for b in known if b <= batch), default=min(known))
        return known[nearest] * batch * (n / max(sizes)) ** 2


def time_works(
    works: Iterable[AbstractWork],
    only: Sequence[str],
    effort: Effort,
    peers_of: Callable[[Any], Sequence[AbstractPeer]],
    programs_of: Callable[[Sequence[Any], int], Programs],
) -> Iterator[Done]:
    """The lines of each work, as soon as they are there; `only` layers whose name contains one of these, or all.

    programs_of: from works with equal pools, and a seed, to their programs.
    """
    expected = Expectations()
    for _, group in groupby(works, key=lambda work: work.pool):
        together = list(group)
        programs = programs_of(together, effort.seed)
        for work in together:
            runs = [Run(peer, work) for peer in peers_of(work) if not only or any(part in peer.name for part in only)]
            time_work(runs, programs, effort, expected)
            yield work, [run.line() for run in runs]


def time_work(runs: Sequence[Run], programs: Programs, effort: Effort, expected: Expectations) -> None:
    """Fill the runs, turn by turn."""
    rng = np.random.default_rng(effort.seed)
    for run in runs:
        expectation = expected.seconds(run)
        if expectation > effort.call:
            run.trouble = f"{LEFT_OUT}: about {expectation:.1f} s a call"
        else:
            run.prepare()
    first = 0
    with garbage_stays():
        for turn in range(-1, effort.turns):
            due = [run for run in runs if run.is_due(effort)]
            calls = [run.calls() for run in due]
            for place in rng.permutation(len(due)):
                due[place].stretch(programs, first, calls[place], counts=turn >= 0)
                gc.collect()
            first += max(calls, default=0)
    for run in runs:
        expected.note(run)


@contextmanager
def garbage_stays() -> Iterator[None]:
    """Nothing is collected but by `gc.collect`, which does not look at what there was before."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()

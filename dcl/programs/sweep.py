"""Sweeps: a program for many values of its parameters, in chunks, resumable, on one core or many machines.

    rows -> gaps that no finished chunk fills -> chunks -> solved, each started from the row before it -> saved -> joined

Chunks start small and grow until one takes about a second, so that little is lost when the process is killed.  A backend is
one of joblib's (`loky`, `threading`, `dask`, `ray`): it gets chunks of equal size, and the chunks of a worker that dies are
given out again.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcl.errors import DegenerateError, DegenerateWarning, InputError, UnsupportedError, level_of_caller
from dcl.frontends.batching import batching
from dcl.outcome.messages import check_finite
from dcl.programs.chunk import Chunk, Start, Work, joined
from dcl.programs.model import Model
from dcl.programs.names import Entry, find
from dcl.programs.store import Store, fingerprint, gaps
from dcl.programs.values import Axes, Given, axes, given
from dcl.status import GradientKind

_SECONDS = 0.5  # of a chunk
_FIRST = 64
_MOST = 4096
_ENTRIES = 1 << 24  # of the matrices of a chunk
_ATTEMPTS = 3
_PARTS = 4  # chunks for each worker
_SHOWN = 5  # rows that are named


@dataclass(frozen=True, eq=False)
class Job:
    """A sweep to be done: the values of every parameter, (rows, *shape) where swept and (*shape) where not."""

    work: Work
    values: tuple[Given, ...]
    rows: int

    def tensors(self, start: int, stop: int) -> list[Tensor]:
        """The values of the rows from start to stop."""
        pairs = zip(self.values, self.work.swept, strict=True)
        return [torch.from_numpy(one.array[start:stop] if swept else one.array) for one, swept in pairs]

    @property
    def largest(self) -> int:
        """How many rows a chunk may have: the matrices of all of them fit into some memory."""
        structure = self.work.model.form.structure
        return max(1, min(_MOST, _ENTRIES // (structure.n + structure.m) ** 2))

    @property
    def fingerprint(self) -> str:
        """What identifies the sweep on disk."""
        model, work = self.work.model, self.work
        settings = model.layer._engine.settings
        text = repr((settings.describe(), settings.solver_args, work.swept, sorted(work.cotangents), work.wanted))
        if not model.form.structure.cone.is_orthant:
            text += "; a column of activity for each curved cone"
        mu = settings.mu.numpy() if isinstance(settings.mu, Tensor) else np.array(settings.mu)
        weights = [work.cotangents[k].numpy() for k in sorted(work.cotangents)]
        return fingerprint(model.form, text, [*(one.array for one in self.values), mu, *weights])


def job(model: Model, values: Sequence[Given], labels: Axes, gradient: object, wanted: Sequence[int] | None) -> Job:
    """Check everything before anything is solved. Raises InputError that names the parameter and the row."""
    swept, rows = [], None
    for entry, one in zip(model.parameters, values, strict=True):
        lead = one.array.shape[: one.array.ndim - len(entry.shape)]
        if len(lead) > 1:
            raise InputError(
                f"{entry.name} has {len(lead)} batch dimensions: a sweep has one, so reshape a grid to a list",
                argument=entry.name,
            )
        if lead and rows not in (None, lead[0]):
            raise InputError(
                f"{entry.name} has {lead[0]} rows, a parameter before it has {rows}: give one value for each row of the sweep",
                argument=entry.name,
            )
        rows = lead[0] if lead else rows
        swept.append(bool(lead))
    if rows is None:
        raise InputError("nothing is swept: give a parameter an array with one value for each row", argument="values")
    cotangents = _cotangents(model, gradient, labels)
    if isinstance(model.mu, Tensor) and model.mu.numel() > 1:
        raise InputError("a sweep takes one mu for all rows: give the program a number", argument="mu")
    work = Work(
        model.with_settings(on_failure="nan", on_degenerate="ignore"),
        tuple(swept),
        cotangents,
        tuple(range(len(model.parameters)) if wanted is None else wanted) if cotangents else (),
    )
    made = Job(work, tuple(values), rows)
    if rows:
        tensors = made.tensors(0, rows)
        context = _context(model, tensors)
        for p, (entry, t) in enumerate(zip(model.parameters, tensors, strict=True)):
            check_finite(context, t if swept[p] else t.unsqueeze(0), entry.name)
            model.form.check_domain(t, p)
    return made


def _context(model: Model, tensors: Sequence[Tensor]) -> Any:
    """What names a row in a message."""
    from dcl.layers.cvxpy import _Context

    batch = batching((e.name, t, len(e.shape)) for e, t in zip(model.parameters, tensors, strict=True))
    return _Context(batch.shape, model.form)


def _cotangents(model: Model, gradient: object, labels: Axes) -> dict[int, Tensor]:
    if gradient is None:
        return {}
    if isinstance(gradient, str) and gradient == "value":  # a CVXPY object would make an expression of ==
        return {len(model.variables) + len(model.duals): torch.ones((), dtype=torch.float64)}
    if not isinstance(gradient, Mapping):
        raise InputError('gradient must be "value", or a dict {variable: weights}', argument="gradient")
    found = {}
    for key, weights in gradient.items():
        place = find(model.variables, key, "variable")
        entry = model.variables[place]
        one = given(weights, Entry(entry.id, entry.name, ()))
        axes([entry], [one], labels)
        found[place] = torch.from_numpy(np.array(np.broadcast_to(one.array, entry.shape)))
    return found


def run(job: Job, *, progress: bool, path: str | Path | None, backend: str | None, workers: int | None) -> Chunk:
    """All rows, solved or loaded from `path`."""
    store = None if path is None else Store(Path(path))
    done: dict[int, Chunk] = {}
    if store is not None:
        store.claim(job.fingerprint, job.rows)
        done = _apart(store.load())
    missing = gaps([(start, start + chunk.count) for start, chunk in done.items()], job.rows)
    solve = _in_turn(job, missing) if backend is None else _by_joblib(job, missing, backend, workers)
    with _bar(job.rows, job.rows - sum(stop - start for start, stop in missing), progress) as advance:
        for start, chunk in solve:
            if store is not None:
                store.save(start, chunk)
            done[start] = chunk
            advance(chunk)
    if not done:  # no rows
        return job.work.run(job.tensors(0, 0))[0]
    return joined([done[start] for start in sorted(done)])


def _apart(found: Mapping[int, Chunk]) -> dict[int, Chunk]:
    """Without chunks that overlap others: two processes may have worked on one folder at the same time."""
    kept: dict[int, Chunk] = {}
    at = 0
    for start in sorted(found):
        if start >= at:
            kept[start], at = found[start], start + found[start].count
    return kept


def _in_turn(job: Job, missing: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Chunk]]:
    """The chunks one after the other, each started from the last row of the one before."""
    begin: Start | None = None
    size = min(_FIRST, job.largest)
    for at, stop in missing:
        while at < stop:
            count = min(size, stop - at)
            chunk, begin = job.work.run(job.tensors(at, at + count), begin)
            yield at, chunk
            at += count
            taken = float(chunk.seconds.sum())
            size = int(min(job.largest, max(1.0, count * min(8.0, _SECONDS / max(taken, 1e-9)))))


def _alone(work: Work, tensors: list[Tensor]) -> Chunk:
    """A chunk in a worker. In a process of its own: on one thread, since others would wait for those of its neighbors."""
    if parent_process() is None:
        return work.run(tensors)[0]
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        return work.run(tensors)[0]


def _by_joblib(
    job: Job, missing: Sequence[tuple[int, int]], backend: str, workers: int | None
) -> Iterator[tuple[int, Chunk]]:
    """The chunks as the workers of a backend of joblib finish them."""
    if find_spec("joblib") is None:
        raise UnsupportedError('backend needs joblib: pip install "dcl-layers[programs]"')
    import joblib

    count = workers or joblib.cpu_count()
    size = max(1, min(job.largest, -(-job.rows // (_PARTS * count))))
    todo = {at: min(at + size, stop) for start, stop in missing for at in range(start, stop, size)}

    for attempt in range(_ATTEMPTS):
        if not todo:
            return
        try:
            with _parallel(joblib, backend, workers) as parallel:
                calls = [joblib.delayed(_numbered)(at, job.work, job.tensors(at, stop)) for at, stop in todo.items()]
                for at, found in _finished(parallel, calls, count):
                    del todo[at]
                    yield at, found
        except BrokenProcessPool:
            # a worker was killed: what it had is given out again
            if attempt == _ATTEMPTS - 1:
                raise


@contextmanager
def _parallel(joblib: Any, backend: str, workers: int | None) -> Iterator[Any]:
    """joblib's Parallel on this backend; the configuration finds backends of other packages too."""
    try:
        configuration = joblib.parallel_config(backend=backend, n_jobs=workers or -1)
    except (ValueError, ImportError) as error:
        raise InputError(f"backend {backend!r}: {' '.join(str(error).split())}", argument="backend") from None
    with configuration:
        try:
            parallel = joblib.Parallel(return_as="generator_unordered")
        except ValueError:  # Ray's backend returns lists only (ray 2.60)
            parallel = joblib.Parallel()
        yield parallel


def _finished(parallel: Any, calls: Sequence[Any], count: int) -> Iterator[tuple[int, Chunk]]:
    """The chunks as they are finished; of a backend that returns lists only, as many at a time as there are workers."""
    if parallel.return_as != "list":
        yield from parallel(calls)
        return
    for first in range(0, len(calls), count):
        yield from parallel(calls[first : first + count])


def _numbered(at: int, work: Work, tensors: list[Tensor]) -> tuple[int, Chunk]:
    return at, _alone(work, tensors)


def report(chunk: Chunk, model: Model) -> None:
    """Warn of rows whose gradient is not exact, or raise, as on_degenerate of the program says."""
    how = model.layer._engine.settings.on_degenerate
    doubtful = np.flatnonzero(chunk.kind != int(GradientKind.EXACT))
    if how == "ignore" or not len(doubtful):
        return
    lines = []
    for kind in sorted(set(chunk.kind[doubtful].tolist())):
        rows = np.flatnonzero(chunk.kind == kind)
        shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
        lines.append(
            f"{GradientKind(kind).name} in {len(rows)} of {chunk.count} rows ({shown}): {GradientKind(kind).message}"
        )
    message = "the gradient is not unique or not accurate.\n  " + "\n  ".join(lines)
    if how == "raise":
        raise DegenerateError(message, indices=[(int(row),) for row in doubtful])
    warnings.warn(message, DegenerateWarning, stacklevel=level_of_caller())


@contextmanager
def _bar(rows: int, done: int, progress: bool) -> Iterator[Any]:
    """What to call with each chunk: a progress bar on a terminal, nothing elsewhere."""
    if not progress or find_spec("tqdm") is None or not sys.stderr.isatty():
        yield lambda chunk: None
        return
    from tqdm import tqdm

    failed = 0
    with tqdm(total=rows, initial=done, desc="sweep", unit="row", leave=False) as bar:

        def advance(chunk: Chunk) -> None:
            nonlocal failed
            failed += int((chunk.status != 0).sum())
            if failed:
                bar.set_postfix_str(f"{failed} without a solution", refresh=False)
            bar.update(chunk.count)

        yield advance

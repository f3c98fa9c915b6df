"""Finished chunks of a sweep on disk, so that nothing that was computed is lost when the process is killed.

    path/sweep.json                    what is swept, by a fingerprint of the program, its settings and all values
    path/rows_START_STOP.npz           one file for each finished chunk

A file is written beside its place, flushed to the disk and then renamed, which is atomic: there is no half-written chunk.
Rows are found by the names of the files, so that a sweep may be resumed with chunks of other sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dcl.errors import InputError
from dcl.frontends.cvxpy.form import CanonicalForm
from dcl.program.pattern import DensePattern
from dcl.programs.chunk import Chunk

_NAME = re.compile(r"rows_(\d+)_(\d+)\.npz")
_PLAIN = ("status", "residual", "active", "kind", "seconds")


@dataclass(frozen=True)
class Store:
    """A folder of finished chunks. Law: what `load` returns after `save` is what was saved, bit by bit."""

    path: Path

    def save(self, start: int, chunk: Chunk) -> None:
        """Put the chunk of the rows from `start` on in its place."""
        arrays: dict[str, Any] = {name: getattr(chunk, name) for name in _PLAIN}
        arrays |= {f"output_{k}": a for k, a in enumerate(chunk.outputs)}
        arrays |= {f"gradient_{k}": a for k, a in enumerate(chunk.gradients)}
        self._write(f"rows_{start:09d}_{start + chunk.count:09d}.npz", lambda file: np.savez(file, **arrays))

    def load(self) -> dict[int, Chunk]:
        """The finished chunks by their first rows; a file that cannot be read counts as not there."""
        found = {}
        for file in sorted(self.path.iterdir()):
            match = _NAME.fullmatch(file.name)
            if match is None:
                continue
            try:
                with file.open("rb") as opened, np.load(opened) as arrays:
                    outputs = sum(name.startswith("output_") for name in arrays)
                    gradients = sum(name.startswith("gradient_") for name in arrays)
                    chunk = Chunk(
                        outputs=tuple(arrays[f"output_{k}"] for k in range(outputs)),
                        gradients=tuple(arrays[f"gradient_{k}"] for k in range(gradients)),
                        **{name: arrays[name] for name in _PLAIN},
                    )
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
                continue
            found[int(match[1])] = chunk
        return found

    def claim(self, fingerprint: str, rows: int) -> None:
        """Make the folder, for this sweep. Raises InputError if it has another one's chunks, or cannot be written."""
        about = {"fingerprint": fingerprint, "rows": rows}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            note = self.path / "sweep.json"
            if note.exists():
                if json.loads(note.read_text(encoding="utf-8")) != about:
                    raise InputError(
                        f"{self.path} has the chunks of another sweep (other values, settings or problem): choose another "
                        "path, or delete it",
                        argument="path",
                    )
                return
            if any(_NAME.fullmatch(file.name) for file in self.path.iterdir()):
                raise InputError(
                    f"{self.path} has chunks of a sweep but no sweep.json: choose another path", argument="path"
                )
            self._write("sweep.json", lambda file: file.write(json.dumps(about).encode()))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"{self.path} cannot hold the chunks of a sweep: {error}", argument="path") from None

    def _write(self, name: str, fill: Any) -> None:
        handle, temporary = tempfile.mkstemp(prefix=".unfinished_", dir=self.path)
        try:
            with os.fdopen(handle, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def gaps(found: Iterable[tuple[int, int]], rows: int) -> list[tuple[int, int]]:
    """The rows (start, stop) that are missing between the ones found."""
    missing, at = [], 0
    for start, stop in sorted(found):
        if start > at:
            missing.append((at, start))
        at = max(at, stop)
    return missing if at >= rows else [*missing, (at, rows)]


def fingerprint(form: CanonicalForm, settings: str, parts: Sequence[Any]) -> str:
    """A digest of the canonical program, the settings and the arrays of a sweep; names, which CVXPY counts up, do not enter."""
    digest = hashlib.sha256(settings.encode())
    cone = [(block.kind, block.size, block.count, block.alphas) for block in form.structure.cone.blocks]
    digest.update(repr((form.structure.n, cone, form.logs, form.maximize, form.gp)).encode())
    for affine in (form.map_P, form.map_q, form.map_A, form.map_b, form.map_d):
        digest.update(repr(affine.touching).encode())
        for t in (
            affine.offset, affine.constants, affine.index, affine.weights, affine.rest_rows, affine.rest_cols,
            affine.rest_weights,
        ):  # fmt: skip
            _add(digest, None if t is None else t.numpy())
    for pattern in (form.structure.P, form.structure.A):
        if not isinstance(pattern, DensePattern):
            for places in pattern.coordinates():
                _add(digest, places)
    for output in form.outputs:
        digest.update(repr((output.shape, output.dual, output.start, output.exp)).encode())
        for t in (output.index, output.weights):
            _add(digest, None if t is None else t.numpy())
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()


def _add(digest: Any, array: Any) -> None:
    if array is None:
        digest.update(b"none")
        return
    array = np.ascontiguousarray(array)
    digest.update(repr((array.dtype.str, array.shape)).encode())
    digest.update(array.tobytes())

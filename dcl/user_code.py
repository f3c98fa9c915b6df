"""Errors in the user's Python file that a command runs: one line with the place, and no traceback."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from dcl.errors import DclError, InputError


class UserCode:
    """A context in which the file at `path` runs. Raises InputError for its errors, but passes on those of dcl."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or error is None or issubclass(kind, DclError):
            return
        if issubclass(kind, SystemExit):
            raise InputError(
                f"{self._path} ends the program (sys.exit) before it is read: put that under if __name__ == '__main__'",
                argument="file",
            ) from None
        if not issubclass(kind, Exception):
            return
        lines = [entry.lineno for entry in traceback.extract_tb(trace) if Path(entry.filename) == self._path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{self._path}, line {line}" if line else f"{self._path}"
        raise InputError(f"{where}: {kind.__name__}: {error}", argument="file") from None

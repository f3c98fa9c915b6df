"""Layers with the signatures of other packages, on top of `dcl.QPLayer`: `dcl.compat.qpth`, `dcl.compat.proxsuite`.

To run a program written for one of them, change its import.  Answers are checked (`dcl.SolveError` instead of a wrong
number), an option that has no counterpart is ignored with one `dcl.CompatibilityWarning`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor

from dcl.errors import CompatibilityWarning, level_of_caller


def ignore(package: str, options: Mapping[str, tuple[object, object]]) -> None:
    """Warn once, at the user's line, of those options (name -> (given, default)) that were changed."""
    changed = [name for name, (given, default) in options.items() if given != default]
    if changed:
        warnings.warn(
            f"options {', '.join(changed)} of {package} have no counterpart in dcl and are ignored",
            CompatibilityWarning,
            stacklevel=level_of_caller(),
        )


def block(matrix: Tensor | None, *sides: Tensor | None) -> tuple[Tensor | None, ...]:
    """A block of constraints as `dcl.QPLayer` takes it: None, None, ... if its matrix is None or has no entries."""
    if matrix is None or matrix.numel() == 0:
        return (None, *(None for _ in sides))
    return (matrix, *sides)

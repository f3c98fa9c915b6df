"""Errors for unknown arguments of a layer, with a list of the valid ones. Python names only the wrong one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from dcl.errors import OptionError

# What other packages call them.
_ELSEWHERE = {
    "lower": "lb", "upper": "ub", "l": "lb", "u": "ub", "Q": "P", "H": "P", "p": "q", "c": "q", "g": "q", "C": "G", "d": "h",
    "A_eq": "A", "b_eq": "b", "A_ub": "G", "b_ub": "h", "A_in": "G", "initvals": "warm_start", "K": "cones",
}  # fmt: skip


def check_known(name: str, function: Callable[..., Any], unknown: Mapping[str, object]) -> None:
    """Raise OptionError where a function, which the caller knows by `name`, was given arguments that it does not take."""
    if not unknown:
        return
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    valid = [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds and p.name != "self"]
    first = next(iter(unknown))
    meant = [_ELSEWHERE[first]] if _ELSEWHERE.get(first) in valid else get_close_matches(first, valid, 1, 0.7)
    raise OptionError(
        f"{name} has no argument {', '.join(map(repr, unknown))}"
        + (f" (did you mean {meant[0]}?)" if meant else "")
        + f"; valid: {', '.join(valid)}"
        + ("; pass options of a solver as solver_args={...}" if "solver_args" in valid else ""),
        argument=first,
    )

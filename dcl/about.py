"""What is installed, for bug reports, and whether the compiled core runs."""

from __future__ import annotations

import platform
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from dcl import core
from dcl.errors import SlowWarning, level_of_caller

_PACKAGES = ("torch", "numpy", "scipy", "cvxpy", "clarabel", "daqp", "highspy", "osqp", "piqp", "scs")
_ABSENT = "not installed"


@dataclass(frozen=True)
class Info:
    """What is installed; `print` it.

    Attributes:
        core: the instruction set that the compiled core was built for; "" if there is no core.
        reason: why there is no core; "" if there is one.
        threads: how many instances are solved at a time (torch's number of threads).
        versions: of Python, dcl and the packages it uses; "not installed" for a missing solver.

    Example:
        >>> import dcl
        >>> found = dcl.info()
        >>> found.threads >= 1, bool(found.core) != bool(found.reason)
        (True, True)
    """

    core: str
    reason: str
    threads: int
    versions: dict[str, str]

    def __repr__(self) -> str:
        compiled = f"compiled core: {self.core}" if self.core else f"no compiled core: {self.reason}"
        width = max(map(len, self.versions))
        rows = [f"  {name.ljust(width)}  {number}" for name, number in self.versions.items()]
        return "\n".join([compiled, f"threads: {self.threads}", "versions:", *rows])


def info() -> Info:
    """Which path calls take, the number of threads, and versions.

    Example:
        >>> import dcl
        >>> dcl.info().versions["dcl"] == dcl.__version__
        True
    """
    # not the metadata: this code may be a checkout that is not installed
    versions = {"python": platform.python_version(), "dcl": import_module("dcl").__version__}
    return Info(
        core=core.variant,
        reason=core.reason,
        threads=torch.get_num_threads(),
        versions=versions | {name: _version(name) for name in _PACKAGES},
    )


def _version(name: str) -> str:
    if find_spec(name) is None:
        return _ABSENT
    try:
        return version(name)
    except PackageNotFoundError:
        return _ABSENT


@cache
def warn_of_slow_path() -> None:
    """Say once that there is no compiled core, unless it was switched off on purpose."""
    if not core.switched_off:
        warnings.warn(
            f"dcl runs without its compiled core, which makes it many times slower: {core.reason}. See dcl.info()",
            SlowWarning,
            stacklevel=level_of_caller(),
        )

"""On what a benchmark was run: versions, processor, cores, how busy the machine is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = (
    "dcl",
    "moreau",
    "cvxpylayers",
    "diffcp",
    "scs",
    "qpth",
    "proxsuite",
    "cvxpy",
    "clarabel",
    "torch",
    "numpy",
)


def version(package: str) -> str | None:
    """The version of an installed package, None if there is none; of dcl that of this checkout, installed or not."""
    if package == "dcl":  # its distribution is called dcl-layers
        import dcl  # not before: how_much_faster_than_before.py has processes with other versions

        return dcl.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> list[int]:
    """The cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


def machine() -> str:
    """Two lines for the head of a table."""
    absent = {name: "as it stands" if find_spec(name) else "not installed" for name in _PACKAGES}
    versions = ", ".join(f"{name} {version(name) or absent[name]}" for name in _PACKAGES)
    busy = f", load average at the start {os.getloadavg()[0]:.1f}" if sys.platform != "win32" else ""
    return f"{versions}\nPython {platform.python_version()}, {_processor()}, {len(cores())} cores{busy}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"

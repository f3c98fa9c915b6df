"""The compiled core: batches of dense convex programs in C++, linear, quadratic and conic: the fast lane of `dcl`.

    available   whether the core was built, can run here, and is not switched off
    reason      why not, in words; "" where it is available
    switched_off  by DCL_CORE
    variant     "x86-64-v3" or "baseline": the instruction set it was built for; "" where it is not available

The environment variable DCL_CORE=off, read at import, switches it off.  `dcl.core.dense` and `dcl.core.conic` have its functions.
The mathematics is in the headers beside this file, one topic each: data.hpp to adjoint.hpp, conic_data.hpp to conic_adjoint.hpp.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

_ABSENT = (
    "the imported package has no built core. Either there was no C++ compiler when dcl was installed, or Python was started "
    "in a clone and imports the sources instead of the installed package (start it elsewhere, or install with -e)"
)


def _load() -> tuple[ModuleType | None, str, str]:
    """The extension module that this processor runs, why there is none, and the module's variant."""
    if switched_off:
        return None, "switched off by the environment variable DCL_CORE", ""
    try:
        cpu = importlib.import_module("dcl.core._core_cpu")
    except ImportError as error:
        return None, f"{_ABSENT} ({error})", ""
    variant, name = ("x86-64-v3", "_core_v3") if cpu.runs_v3() else ("baseline", "_core_baseline")
    try:
        return importlib.import_module(f"dcl.core.{name}"), "", variant
    except ImportError as error:
        return None, f"{name} cannot be loaded: {error}", ""


switched_off = os.environ.get("DCL_CORE", "").lower() in ("off", "0", "no", "false")
extension, reason, variant = _load()
available: bool = extension is not None

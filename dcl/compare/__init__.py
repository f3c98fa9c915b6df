"""Which gradient to trust: exact, barrier, straight-through, another engine and differences side by side; one point explained."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcl.compare.diagnosis import diagnose
    from dcl.compare.gradients import compare_gradients
    from dcl.compare.points import Diagnosis, PointDiagnosis
    from dcl.compare.table import Comparison, Row

__all__ = ["Comparison", "Diagnosis", "PointDiagnosis", "Row", "compare_gradients", "diagnose"]

# The help of the command `dcl compare` does not wait for torch.
_MODULES = {
    "Comparison": "table", "Row": "table", "Diagnosis": "points", "PointDiagnosis": "points",
    "compare_gradients": "gradients", "diagnose": "diagnosis",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dcl.compare' has no attribute {name!r}")
    value = getattr(import_module(f"dcl.compare.{_MODULES[name]}"), name)
    globals()[name] = value
    return value

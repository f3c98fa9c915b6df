"""Which gradient to trust: exact, barrier, straight-through, another engine and differences side by side; one point explained."""

from dcl.compare.diagnosis import diagnose
from dcl.compare.gradients import compare_gradients
from dcl.compare.points import Diagnosis, PointDiagnosis
from dcl.compare.table import Comparison, Row

__all__ = ["Comparison", "Diagnosis", "PointDiagnosis", "Row", "compare_gradients", "diagnose"]

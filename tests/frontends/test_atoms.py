"""Every atom of benchmarks/atoms.py: CVXPY's point, no constraint lost, the gradient of differences (docs/atoms.md)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from atoms import ATOMS, examine  # noqa: E402 -- it lies beside the package

POINT = 1e-9  # 4e-15 but for eye_minus_inv, whose condition is above the limit
VIOLATION = 1e-9
GRADIENT = 1e-5
# EXACT but for this one, whose gradient is right all the same: a condition number above the limit
KINDS = {"gp: eye_minus_inv": "ILL_CONDITIONED"}
# Half a second each and more: cones without a closed projection, factors of matrices
SLOW = ("(approx=False)", "gp:", "log", "exp", "entr", "Cone")
QUICK = {"exp", "log_sum_exp", "ExpCone", "gp: posynomial", "log_det"}


def slow(name: str) -> bool:
    return name not in QUICK and any(word in name for word in SLOW)


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "entry", [pytest.param(a, id=a.name, marks=pytest.mark.slow if slow(a.name) else ()) for a in ATOMS]
)
def test_atom(entry):
    row = examine(entry)
    assert not row.error
    assert row.point <= POINT
    assert row.violation <= VIOLATION
    assert row.gradient <= GRADIENT
    assert row.kind == KINDS.get(entry.name, "EXACT")


def test_there_are_at_least_sixty_under_different_names():
    names = [a.name for a in ATOMS]
    assert len(set(names)) == len(names) >= 60


def test_the_table_lists_them_all():
    text = (ROOT / "docs" / "atoms.md").read_text(encoding="utf-8")
    listed = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert listed == [a.name for a in ATOMS]

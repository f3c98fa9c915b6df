"""benchmarks/how_much_faster_than_before.py: the versions that are asked for, right answers, ratios of the same turns."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "how_much_faster_than_before.py"


SLOWER = """

import time

_forward = QPLayer.forward


def _works_more(*args, **words):
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    return _forward(*args, **words)


QPLayer.forward = _works_more
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False)


def test_a_folder_without_dcl_is_refused(tmp_path: Path) -> None:
    done = run(ROOT, tmp_path)
    assert done.returncode == 2
    assert "no checkout of dcl" in done.stderr


@pytest.mark.slow
def test_a_copy_that_works_more_is_slower_and_right(tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(ROOT / "dcl", before / "dcl")
    layer = before / "dcl" / "layers" / "qp.py"
    layer.write_text(layer.read_text() + SLOWER)
    done = run(before, ROOT, "--short", "--turns", 3, "--batches", 1, "--peers", "QPLayer")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("dense QP")]
    assert len(rows) == 3
    for *_, before_ms, now_ms, ratio, error in rows:
        assert float(before_ms) > 3.0  # 0.05 s of the processor, in a batch of 16 at most
        assert float(ratio) > 2.0 > float(now_ms) / float(before_ms)
        assert float(error) < 1e-9

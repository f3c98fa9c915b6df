"""docs/torch.md: every row of its table has its test, no cell of dcl's is silent or wrong, its example prints what it shows."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "torch.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
TITLES, *FEATURES = ROWS
# where torch itself cannot
LIMITS_OF_TORCH = {
    "`jacfwd` of `jacfwd`": "error (UnsupportedError)",
    "double backward, compiled": "error (RuntimeError)",
    "`forward_ad`, compiled": "error (NotImplementedError)",
}
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)


def test_the_table_is_whole():
    assert TITLES[:5] == ["feature", "test", "dcl.CvxpyLayer", "dcl.QPLayer", "dcl.ConeLayer"]
    assert len(TITLES) == 9
    assert all(len(row) == len(TITLES) for row in FEATURES)
    assert {row[0] for row in FEATURES} >= LIMITS_OF_TORCH.keys()


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: row[0])
def test_every_feature_works_and_has_its_test(row):
    file, name = row[1].strip("`").split("::")
    functions = [n.name for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.FunctionDef)]
    assert name in functions
    assert row[2:5] == [LIMITS_OF_TORCH.get(row[0], "yes")] * 3


@pytest.mark.slow
@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_example_prints_what_is_shown(code, printed, tmp_path):
    script = tmp_path / "example.py"
    script.write_text(code)  # a spawned process imports it
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed
    assert len(EXAMPLES) == PAGE.count("```python")

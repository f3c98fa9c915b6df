"""What a type checker tells a user: `mypy --strict` passes on a client file, and refuses wrong uses of what calls return."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "tests" / "typed_client.py"
WRONG = {  # a use, and what mypy says of it
    "dcl.QPLayer()(P, q).slack": '"QPResult" has no attribute "slack"',
    "dcl.QPLayer()(P, q, return_solution=True).x": 'has no attribute "x"',
    "dcl.QPLayer()(P, q, lower=0.0)": 'No overload variant of "__call__" of "QPCall"',
    "dcl.ConeLayer({})(P, q)": 'No overload variant of "__call__" of "ConeCall"',
    "dcl.CvxpyLayer(problem, [], [])(q).x": 'has no attribute "x"',
    "dcl.argmin(f, q) + 'text'": "Unsupported operand types",
    "dcl.solve_qp(P, q).status": '"QPResult" has no attribute "status"',
    "dcl.QPLayr()": 'Module has no attribute "QPLayr"',
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Torch's types are read once for all tests."""
    return tmp_path_factory.mktemp("mypy")


def checked(path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    settings = cache / "user.ini"  # a user's own: nothing of pyproject.toml
    # silent: of an installed package mypy reads the types, and reports no errors
    settings.write_text("""[mypy]
strict = true
[mypy-cvxpy.*]
ignore_missing_imports = true
follow_imports = skip
[mypy-dcl.*]
follow_imports = silent
""")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(cache), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
def test_a_client_passes_mypy_strict(cache: Path) -> None:
    done = checked(CLIENT, cache)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_client_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(CLIENT)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.stdout) == ("", "8 True 0.0 PRIMAL_INFEASIBLE\n")


@pytest.mark.slow
def test_wrong_uses_are_errors(cache: Path, tmp_path: Path) -> None:
    head = [
        "import cvxpy as cp",
        "import torch",
        "import dcl",
        "",
        "",
        "def f(y: torch.Tensor) -> torch.Tensor: return y",
        "",
    ]
    head += ["", "def main(P: torch.Tensor, q: torch.Tensor, problem: cp.Problem) -> None:"]
    (tmp_path / "client.py").write_text("\n".join([*head, *(f"    {use}" for use in WRONG), ""]))
    lines = checked(tmp_path / "client.py", cache).stdout.splitlines()
    for number, (use, message) in enumerate(WRONG.items(), len(head) + 1):
        found = [line for line in lines if f":{number}: error:" in line]
        assert any(message in line for line in found), f"{use}: {found}"

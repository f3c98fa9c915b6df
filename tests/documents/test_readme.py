"""What README.md and docs/ say is so: examples print what is shown, links lead somewhere, set-up commands fit the files."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
# a block of Python, and the block of text right after it: what the first one prints
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
COMMANDS = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*)\n```", README))


def test_every_python_block_shows_what_it_prints() -> None:
    assert len(EXAMPLES) == README.count("```python") >= 2


# runs each example in a namespace of its own; what it is given and what it writes are JSON
RUN = """
import contextlib, io, json, sys
printed = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec", dont_inherit=True), {"__name__": "__main__"})
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """What the examples print. One fresh process for all of them: most of the time of each was that of its imports."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        input=json.dumps([code for code, _ in EXAMPLES]),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_print_what_is_shown(printed: list[str], number: int) -> None:
    assert printed[number] == EXAMPLES[number][1]


def test_the_two_commands_do_all_the_set_up() -> None:
    assert set(COMMANDS) == {"demo", "test"}
    for name, command in COMMANDS.items():
        make, install, use = (shlex.split(part) for part in command.split("&&"))
        assert make == ["python3", "-m", "venv", ".venv"]
        assert install[:4] == [".venv/bin/pip", "install", "-c", "constraints.txt"]
        assert install[-1] == f".[{name}]"
        assert name in PROJECT["optional-dependencies"]
        assert use[:2] == [".venv/bin/python", "-m"]


@pytest.mark.skipif(sys.platform == "win32", reason="a bash script")
def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (awk,) = re.findall(r"test_command=\$\((awk .*)\)", script)
    found = subprocess.run(["bash", "-c", awk], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == COMMANDS["test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def test_constraints_pin_every_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    for needed in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        assert _names(needed) - {"dcl-layers"} <= _names(pins)
    assert "torch==2.13.0" in pins


def test_the_distribution_is_not_that_of_somebody_else() -> None:
    """`dcl` on PyPI is another package: nothing may tell a user, or pip, to install it."""
    assert PROJECT["name"] == "dcl-layers"
    assert set(PROJECT["scripts"]) == {"dcl"}
    files = [ROOT / "pyproject.toml", *PAGES, *(ROOT / "dcl").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]
    name = r"(?<![\w/.-])dcl"  # but not a path that ends so
    for file in files:
        found = re.findall(
            rf"{name}\[[a-z,]+\]|pip install [^`\n&,]*{name}(?![\w/.-])", file.read_text(encoding="utf-8")
        )
        assert found == [], f"{file}: {found}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
    for name in re.findall(r"`((?:dcl|tests|benchmarks|docs)/[\w./]*)`", text):
        assert (ROOT / name).exists(), f"{page.name}: {name}"

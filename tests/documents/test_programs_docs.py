"""docs/programs.md and docs/command_line.md: every example is run, and prints what is shown."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch

from dcl.__main__ import COMMANDS, main

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROGRAMS, COMMAND_LINE = ((DOCS / name).read_text(encoding="utf-8") for name in ("programs.md", "command_line.md"))
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PROGRAMS, re.DOTALL)
FILES = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", COMMAND_LINE, re.DOTALL)
CALLS = re.findall(r"```sh\ndcl (.*?)\n```\n\n```text\n(.*?)```", COMMAND_LINE, re.DOTALL)


def steady(text: str) -> str:
    """Without what rounding, clock and machine decide: residuals, times, which solver answers, spaces at the ends of lines."""
    text = re.sub(r"\b(CORE|DAQP|CLARABEL)\b", "SOLVER", text)  # there may be no compiled core
    text = re.sub(r"worst residual [\d.e+-]+(, [\d.]+ ms)?", "worst residual ...", text)
    text = re.sub(r"(primal|dual|gap) [\d.e+-]+", r"\1 ...", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def ran(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), {"__name__": "example"})
    return printed.getvalue()


def called(words: str, folder: Path) -> str:
    for name, content in FILES:
        (folder / name).write_text(content, encoding="utf-8")
    given = [str(folder / word) if (folder / word).is_file() else word for word in shlex.split(words)]
    printed, threads = io.StringIO(), torch.get_num_threads()
    with contextlib.redirect_stdout(printed):
        assert main(given) == 0
    torch.set_num_threads(threads)
    return printed.getvalue()


@pytest.mark.parametrize(("code", "shown"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_programs(code: str, shown: str) -> None:
    assert steady(ran(code)) == steady(shown)


@pytest.mark.parametrize(("words", "shown"), CALLS, ids=[words for words, _ in CALLS])
def test_command_line(words: str, shown: str, tmp_path: Path) -> None:
    assert steady(called(words, tmp_path)) == steady(shown)


def test_every_example_shows_what_it_prints() -> None:
    assert len(EXAMPLES) == PROGRAMS.count("```python") == 3
    assert len(CALLS) == COMMAND_LINE.count("```sh") == 5
    assert all(f"dcl {name}" in COMMAND_LINE for name in COMMANDS)

"""The transcripts of the site: every block of a page prints, word for word, what the page shows after it.

The blocks of a page are run in order, in one namespace, as a reader would; files are those that the page shows.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch

from dcl.__main__ import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDERS = ("quickstart", "guides", "lessons", "extending")
PAGES = [DOCS / "index.md", DOCS / "install.md", DOCS / "checked.md"]
PAGES += [page for folder in FOLDERS for page in sorted((DOCS / folder).glob("*.md")) if page.stem != "index"]
BLOCK = re.compile(r"```(python|sh)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def steady(text: str) -> str:
    """Without what rounding, clock and machine decide: residuals, times, which solver answers, spaces at the ends of lines."""
    text = re.sub(r"compiled core: (True|False)", "compiled core: ...", text)
    text = re.sub(r"worst residual [\d.e+-]+(, [\d.]+ ms, \w+)?", "worst residual ...", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def ran(kind: str, code: str, space: dict[str, object]) -> str:
    printed, threads = io.StringIO(), torch.get_num_threads()
    with contextlib.redirect_stdout(printed):
        if kind == "python":
            exec(compile(code, "page", "exec", dont_inherit=True), space)
        else:
            assert main(shlex.split(code.removeprefix("dcl "))) == 0
    torch.set_num_threads(threads)
    return printed.getvalue()


@pytest.mark.sample(7)
@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_transcripts(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, space = page.read_text(encoding="utf-8"), {"__name__": "page"}
    monkeypatch.chdir(tmp_path)
    for name, content in FILE.findall(text):
        (tmp_path / name).write_text(content, encoding="utf-8")
    compared = 0
    for kind, code, shown in BLOCK.findall(text):
        if kind == "sh" and not code.startswith("dcl "):  # the set-up, see test_readme.py
            continue
        assert steady(ran(kind, code, space)) == steady(shown)
        compared += bool(shown)
    assert compared


def test_every_user_and_every_task_has_a_page() -> None:
    there = {str(page.relative_to(DOCS)).removesuffix(".md") for page in PAGES}
    users = {"researcher", "control", "quant", "student", "operations"}
    tasks = {"decide", "predict", "control", "tune", "transport", "learn_a_constraint"}
    assert {f"quickstart/{name}" for name in users} | {f"guides/{name}" for name in tasks} <= there
    for folder in FOLDERS:  # a page that its index does not list is a page that nobody finds
        index = (DOCS / folder / "index.md").read_text(encoding="utf-8")
        for page in (DOCS / folder).glob("*.md"):
            assert page.stem == "index" or f"({page.name})" in index

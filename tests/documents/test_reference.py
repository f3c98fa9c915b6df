"""The reference is complete: every public name is on a page, says what its arguments are, and has an example that runs.

`tests/house/test_house.py` runs the examples; `test_site.py` compares the signatures that the built pages show.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import dcl

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"
NAMES = [f"dcl.{name}" for name in dcl.__all__ if name != "solvers"]
NAMES += [f"dcl.solvers.{name}" for name in dcl.solvers.__all__]
NAMES += ["dcl.compat.qpth.QPFunction", "dcl.compat.proxsuite.QPFunction"]
UNSEEN = ("self", "misplaced", "unknown")  # the last two only serve messages
DIRECTIVE = re.compile(r"^\.\. auto(?:class|function|exception):: (\S+)", re.MULTILINE)
DOCUMENTED = [
    name for page in sorted(PAGES.glob("*.md")) for name in DIRECTIVE.findall(page.read_text(encoding="utf-8"))
]


def found(name: str) -> Any:
    module, attribute = name.rsplit(".", 1)
    return getattr(importlib.import_module(module), attribute)


def callables() -> dict[str, tuple[Any, str]]:
    """What has arguments, and the docstring that says what they are: constructors, functions, public methods."""
    calls: dict[str, tuple[Any, str]] = {}
    for name in NAMES:
        thing = found(name)
        doc = inspect.getdoc(thing) or ""
        if not inspect.isclass(thing):
            calls[name] = thing, doc
            continue
        if "Args:" in doc:
            calls[name] = thing.__init__, doc
        for method, function in vars(thing).items():
            if inspect.isfunction(function) and not method.startswith("_") and method != "extra_repr":
                calls[f"{name}.{method}"] = function, inspect.getdoc(function) or ""
    return calls


CALLS = callables()


def test_every_public_name_is_on_one_page() -> None:
    assert sorted(DOCUMENTED) == sorted(NAMES)


def test_the_table_of_names_is_complete() -> None:
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w.]+)`", index))
    for name in NAMES:
        short = name.removeprefix("dcl.").removeprefix("solvers.")
        assert short in listed, f"reference/index.md does not list {short}"


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example(name: str) -> None:
    doc = inspect.getdoc(found(name)) or ""
    assert ">>>" in doc, f"{name} has no example"
    assert doc.split("\n")[0].rstrip()[-1] in ".?:;`", f"{name}: the first line is no sentence: {doc.splitlines()[0]}"


@pytest.mark.parametrize("name", CALLS)
def test_arguments_are_those_of_the_code(name: str) -> None:
    function, doc = CALLS[name]
    assert doc, f"{name} has no docstring"
    parameters = [p for p in inspect.signature(function).parameters if p not in UNSEEN]
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", doc, re.MULTILINE)
    documented = re.findall(r"^ {4}(\w+(?:, \w+)*): ", section.group(1), re.MULTILINE) if section else []
    stale = {one for names in documented for one in names.split(", ")} - set(parameters)
    assert not stale, f"{name} documents arguments that it does not have: {stale}"
    if section is None:  # "as there", or an argument that the sentence names
        return
    unknown = [p for p in parameters if not re.search(rf"\b{p}\b", doc)]
    assert not unknown, f"{name} does not say what {unknown} are"

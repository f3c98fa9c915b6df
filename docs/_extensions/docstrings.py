"""From the docstrings as we write them to what autodoc and napoleon read.

Our docstrings are plain text, with the sections of Google's style.  What differs from reStructuredText:

- `x` in single backticks is code, and a link where it is a public name of dcl;
- an indented paragraph is a formula, with its line breaks;
- stars, bars and trailing underscores mean themselves: x* is a solution, |x| a norm, (*batch, n) a shape;
- "Raises:" has several errors in a line, as in "InputError, DtypeError: ...  SolveError: ...".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sphinx.application import Sphinx

import dcl

_SECTIONS = ("Args:", "Raises:", "Returns:", "Example:", "Examples:", "Attributes:")
_CODE = re.compile(r"`+([^`]+)`+")
_RAISED = re.compile(r"(?:^|\s{1,2})((?:\w*(?:Error|Interrupt)|StopIteration)(?:, \w+Error)*): ")


def _inline(text: str) -> str:
    """A line outside of formulas and examples."""
    parts, at = [], 0
    for found in _CODE.finditer(text):
        parts += [_escaped(text[at : found.start()]), _code(found.group(1)), ""]
        at = found.end()
        if text[at : at + 1].isalnum():  # as in `Solution`s
            parts[-1] = "\\ "
    return "".join([*parts, _escaped(text[at:])])


def _escaped(text: str) -> str:
    text = re.sub(r"([*|])", r"\\\1", text)
    return re.sub(r"(\w)_(?=\W|$)", r"\1\\_", text)


def _code(text: str) -> str:
    name = text.removeprefix("dcl.")
    first = name.split(".")[0].split("(")[0]
    if name == text and first not in dcl.__all__:
        return f"``{text}``"
    if re.fullmatch(r"\w+", name) and name in dcl.__all__ and name != "solvers":
        return f":py:obj:`~dcl.{name}`"
    return f"``{text}``"


def _raised(text: str) -> Iterator[str]:
    """The paragraph of "Raises:" as a list."""
    yield "**Raises**"
    yield ""
    pieces = _RAISED.split(" " + text)
    for names, meaning in zip(pieces[1::2], pieces[2::2], strict=True):
        links = ", ".join(f":py:exc:`~dcl.{n}`" if n in dcl.__all__ else f"``{n}``" for n in names.split(", "))
        yield f"- {links}: {_inline(meaning.strip())}"
    if len(pieces) == 1:
        yield _inline(text)
    yield ""


def convert(lines: list[str]) -> list[str]:
    """The lines of a docstring, as reStructuredText with the sections of Google's style."""
    out: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        blank_before = at == 0 or not lines[at - 1].strip()
        if line.strip() in ("Raises:",) and not line.startswith(" "):
            at += 1
            raised = []
            while at < len(lines) and (lines[at].startswith(" ") or (raised == [] and not lines[at].strip())):
                raised.append(lines[at].strip())
                at += 1
            out += _raised(" ".join(raised))
        elif line.strip() in _SECTIONS and not line.startswith(" "):
            out.append(line)
            at += 1
            verbatim = line.startswith("Example")
            while at < len(lines) and (lines[at].startswith(" ") or not lines[at].strip()):
                out.append(lines[at] if verbatim else _inline(lines[at]))
                at += 1
        elif line.startswith("    ") and blank_before:
            while out and not out[-1].strip():
                out.pop()
            out += ["", "::", ""]
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                out.append(lines[at])
                at += 1
            out += [""]
        elif line.startswith("Raises ") or not line.strip():
            out.append(_inline(line))
            at += 1
        else:
            out.append(_inline(line))
            at += 1
    return out


def _process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = convert(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Before napoleon, which listens at 500."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

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

# `dcl.frontends.constants.TensorLike`, which Python writes out, and parameters that only serve messages
_READABLE = {
    r"Tensor \| HasArray \| float": "TensorLike",
    r", \*\*unknown: [\w.~]+": "",
    r"\*misplaced: object": "*",
}
# what calls return: nobody makes one, so how it is made is left out
_RESULTS = ("Solution", "Comparison", "Diagnosis", "PointDiagnosis", "Info", "ProgramSolution", "Sensitivity", "Sweep")
_SECTIONS = ("Args:", "Raises:", "Returns:", "Example:")
_PROPERTIES: dict[str, list[str]] = {}  # name -> lines, on their way past napoleon
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


def _attributes(lines: list[str]) -> Iterator[str]:
    """The entries of "Attributes:", a name or several before a colon, as a list."""
    yield "**Attributes**"
    yield ""
    for line in lines:
        entry = re.fullmatch(r"    ([\w, ]+): (.*)", line)
        if entry:
            names = ", ".join(f"``{name}``" for name in entry.group(1).split(", "))
            yield f"- {names}: {_inline(entry.group(2))}"
        else:
            yield f"  {_inline(line.strip())}"
    yield ""


def convert(lines: list[str]) -> list[str]:
    """The lines of a docstring, as reStructuredText with the sections of Google's style."""
    out: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        blank_before = at == 0 or not lines[at - 1].strip()
        if line == "Raises:":
            at += 1
            raised = []
            while at < len(lines) and (lines[at].startswith(" ") or (raised == [] and not lines[at].strip())):
                raised.append(lines[at].strip())
                at += 1
            out += _raised(" ".join(raised))
        elif line == "Attributes:":
            at += 1
            start = at
            while at < len(lines) and lines[at].startswith(" "):
                at += 1
            out += _attributes(lines[start:at])
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
        else:
            out.append(_inline(line))
            at += 1
    return out


def _process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = convert(lines)
    if what in ("property", "attribute"):
        _PROPERTIES[name] = list(lines)


def _restore(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in the first line of a property for its type: ours have sentences there."""
    lines[:] = _PROPERTIES.pop(name, lines)


def _signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    if what == "class" and name.removeprefix("dcl.") in _RESULTS:
        return "", returned
    if signature is None:
        return None
    for written, read in _READABLE.items():
        signature = re.sub(written, read, signature)
    return signature, returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Before and after napoleon, which listens at 500."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

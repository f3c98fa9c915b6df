"""Pages that are written outside of `docs`, and links to them.

A page of the repository links to `../benchmarks/README.md`; on the site that is the page `benchmarks`, which includes it.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

# where a link in a page may lead -> the page of the site
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}
_LINK = re.compile(r"\]\(((?:\.\./)+)([\w/.]+\.md)(#[\w-]+)?\)")


def _mended(app: Sphinx, page: str, source: list[str]) -> None:
    depth = page.count("/")

    def link(found: re.Match[str]) -> str:
        up, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        if up.count("..") != depth + 1 or target not in PAGES:  # stays inside of docs
            return found.group(0)
        return f"]({'../' * depth}{PAGES[target]}{anchor})"

    source[0] = _LINK.sub(link, source[0])


def _included(app: Sphinx, path: object, parent: str, source: list[str]) -> None:
    """A page from outside links to `docs/x.md` or `../docs/x.md`, and to the pages above."""
    text = re.sub(r"\]\((?:\.\./)?docs/([^)]*)\)", r"](\1)", source[0])
    source[0] = re.sub(r"\]\((?:\.\./)?((?:benchmarks/)?\w+\.md)\)", lambda m: f"]({PAGES.get(m[1], m[1])})", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen to what is read."""
    app.connect("source-read", _mended)
    app.connect("include-read", _included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

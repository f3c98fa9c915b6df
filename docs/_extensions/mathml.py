"""Formulas as MathML, which browsers draw by themselves: no script, nothing to download, legible without a network.

The translation from LaTeX is that of docutils.
"""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOG = logging.getLogger(__name__)


def _translated(node: nodes.Element, text: str, *, as_block: bool) -> str:
    """MathML; a warning that shows the formula where docutils cannot read it, which `-W` makes an error."""
    text = re.sub(r"\\[bB]igg?[lr]?(?=[^a-zA-Z])", "", text)  # sizes of brackets, which browsers find by themselves
    try:
        return str(tex2mathml(text, as_block=as_block))
    except MathError as error:
        LOG.warning("formula %r: %s", text, error, location=node)
        return text


def _inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(_translated(node, node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(writer: HTML5Translator, node: nodes.math_block) -> None:
    text = node.astext()
    if "\\\\" in text and "\\begin" not in text:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    writer.body.append(f'<div class="math">{_translated(node, text, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, which `html_math_renderer` chooses."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Formulas at build time, so that no page needs a script for them: a Python-Markdown extension.

`$...$` and `$$...$$` become MathML; symbols as the plain text writes them, V_x or V_{y|x}, get their subscripts.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as etree

import latex2mathml.converter
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString


class _Formula(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:
        display = "block" if m.group(0).startswith("$$") else "inline"
        text = latex2mathml.converter.convert(m.group("formula"), display=display)
        etree.fromstring(text)  # well formed, or the build stops here
        return self.md.htmlStash.store(text), m.start(0), m.end(0)


class _Symbol(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[etree.Element, int, int]:
        element = etree.Element("span")
        element.text = AtomicString(m["letter"])
        etree.SubElement(element, "sub").text = AtomicString(m["below"].strip("{}"))
        return element, m.start(0), m.end(0)


class MathML(Extension):
    """LaTeX between dollar signs, as GitHub reads it (`$5 and $6` stays as it is), and plain symbols."""

    def extendMarkdown(self, md: Markdown) -> None:
        block = r"\$\$(?P<formula>[^$]+)\$\$"
        inline = r"(?<![\\$\w])\$(?P<formula>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\d$])"
        symbol = r"(?<![\w`/.-])(?P<letter>[^\W\d_]\u0302?)_(?P<below>\{[^{}\s]+\}|[^\W_]{1,3})(?![\w/])"
        md.inlinePatterns.register(_Symbol(symbol, md), "symbol", 75)  # after code, links and HTML
        md.inlinePatterns.register(_Formula(block, md), "mathml-block", 186)  # before escapes and emphasis
        md.inlinePatterns.register(_Formula(inline, md), "mathml", 185)


def makeExtension(**options: object) -> MathML:
    """What Python-Markdown calls."""
    return MathML(**options)

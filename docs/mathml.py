"""Formulas at build time, so that no page needs a script for them: a Python-Markdown extension.

`$...$` and `$$...$$` hold LaTeX, as GitHub reads it, and become MathML. So do the quoted formulas of the theory page,
which are plain text there (`> Var = V_x / N_p + V_{y|x} / (N_p K)`). Symbols in a sentence, V_x, get subscripts.
"""

from __future__ import annotations

import re
import unicodedata
import xml.etree.ElementTree as etree

import latex2mathml.converter
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from markdown.util import AtomicString

FUNCTIONS = {"Var", "Cov", "Beta", "Bin", "MSW", "MSB", "MS"}
SIGNS = {
    "−": "-",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "→": r"\to ",
    "∈": r"\in ",
    "Σ": r"\sum ",
    "∫": r"\int ",
    "~": r"\sim ",
}
HAT = "\u0302"


def latex_of(formula: str) -> str:
    """A formula in plain text as LaTeX: √(...), x², V_{y|x}, S_ij, K_eff, L̂, K\\*; words are words."""
    text = re.sub(r"(?<![_^])\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", r"\\{\1\\}", formula)
    text = re.sub(r"√(\w)", r"\\sqrt{\1}", re.sub(r"\\?\*", "^*", text))
    while (start := text.find("√(")) >= 0:
        end = _closing(text, start + 1)
        text = f"{text[:start]}\\sqrt{{{text[start + 2 : end]}}}{text[end + 1 :]}"
    for kind, sign in (("<super>", "^"), ("<sub>", "_")):
        digits = "".join(
            c for c in map(chr, range(0xA0, 0x20A0)) if unicodedata.decomposition(c).startswith(kind)
        )
        text = re.sub(
            f"[{digits}]+", lambda m, sign=sign: f"{sign}{{{unicodedata.normalize('NFKC', m[0])}}}", text
        )
    text = re.sub(rf"(\w){HAT}", r"\\hat{\1}", text)
    text = re.sub(r"([_^])([^\W_]{2,}'?)", lambda m: f"{m[1]}{{{_index(m[2])}}}", text)
    text = re.sub(r"\^−(\w)", r"^{-\1}", text)
    text = re.sub(
        r"(?<![\\{A-Za-z])[A-Za-z]{2,}(?:[ -][a-z]{2,})*:?(?![}A-Za-z\d])", lambda m: _word(m[0]), text
    )
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    depth, spaced = 0, ""
    for before, after in zip(text, text[1:] + " ", strict=True):
        depth += (before in "([") - (before in ")]")
        spaced += before + ("\\quad" if before in ",;" and after == " " and not depth else "")
    return spaced


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"a parenthesis does not close: {text}")


def _index(below: str) -> str:
    """Letters that count something, as ij or KK', or a word, as eff."""
    return below if len(below.strip("'")) < 3 or set(below) <= set("ijkm'") else rf"\text{{{below}}}"


def _word(text: str) -> str:
    if text == "dz":
        return r"\,dz"
    if text == "max":
        return r"\max"
    return rf"\operatorname{{{text}}}" if text in FUNCTIONS else rf"\text{{ {text} }}"


class _Quotes(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        fenced, out = False, []
        for line in lines:
            fenced ^= line.startswith("```")
            quote = line.startswith("> ") and not fenced and "$" not in line
            if (
                quote and re.search(r"[=≤≥_]", line) and len(re.findall(r"\b[a-z]{3,}\b", line)) < 9
            ):  # no prose
                line = f"> $${latex_of(line[2:])}$$"
            out.append(line)
        return out


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
    """LaTeX between dollar signs (`$5 and $6` stays as it is), quoted formulas, and symbols."""

    def extendMarkdown(self, md: Markdown) -> None:
        block = r"\$\$(?P<formula>[^$]+)\$\$"
        inline = r"(?<![\\$\w])\$(?P<formula>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\d$])"
        symbol = r"(?<![\w`.])(?P<letter>[^\W\d_]\u0302?)_(?P<below>\{[^{}\s]+\}|kept|[A-Za-z0-9]{1,3})(?![A-Za-z0-9_])"
        md.preprocessors.register(_Quotes(md), "formulas", 28)  # before fences are taken out
        md.inlinePatterns.register(_Symbol(symbol, md), "symbol", 75)  # after code, links and HTML
        md.inlinePatterns.register(_Formula(block, md), "mathml-block", 186)  # before escapes and emphasis
        md.inlinePatterns.register(_Formula(inline, md), "mathml", 185)


def makeExtension(**options: object) -> MathML:
    """What Python-Markdown calls."""
    return MathML(**options)

"""Text as tokens and back: byte-level byte-pair encoding, as GPT-2 has it, with every digit a word of its own.

Text is cut into words; a word's bytes, each written as one printable letter, are merged pair by pair in the order of
the merge table. Words are cut as by the pre-tokeniser that llama.cpp calls "smollm". Marks such as `<|im_start|>` are
one token each.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

# GPT-2's pattern over classes of letters: L letter, N digit, s white space that is no blank, O other. A digit is cut
# off first: it takes no blank before it.
_WORD = re.compile(r" ?L+|N| ?O+|[ s]+(?![LO])|[ s]+")
_SHORT = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
_SPACE = "\t\n\v\f\r\x85"


class BytePairs:
    """A vocabulary and its merge table.

    Attributes:
        tokens: the tokens by number, in the printable form of their bytes.
        merges: pairs in the order of merging, each as two parts and a blank between.
        marks: tokens that stand for themselves and are never part of a word.
    """

    def __init__(self, tokens: Sequence[str], merges: Iterable[str], marks: Iterable[str] = ()):
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.ranks = {tuple(pair.split(" ")): i for i, pair in enumerate(merges)}
        self.marks = set(marks)

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self.marks, key=len, reverse=True))) or "(?!)")

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; marks in it count as marks."""
        found, at = [], 0
        for match in self._marks.finditer(text):
            found += self._plain(text[at : match.start()])
            found.append(self.ids[match[0]])
            at = match.end()
        return found + self._plain(text[at:])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; what is no valid UTF-8 (half a letter at the end, say) becomes U+FFFD."""
        parts = []
        for i in ids:
            token = self.tokens[i]
            parts.append(token.encode() if token in self.marks else bytes(_BYTES[letter] for letter in token))
        return b"".join(parts).decode(errors="replace")

    def _plain(self, text: str) -> list[int]:
        merged = (self._merged([_LETTERS[byte] for byte in word.encode()]) for word in words(text))
        return [self.ids[part] for parts in merged for part in parts]

    def _merged(self, parts: list[str]) -> list[str]:
        last = len(self.ranks)
        while len(parts) > 1:
            rank, at = min((self.ranks.get(pair, last), i) for i, pair in enumerate(pairwise(parts)))
            if rank == last:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts


def words(text: str) -> list[str]:
    """The pieces of a text within which pairs are merged; joined they are the text."""
    classes = "".join(map(_class, text))
    found, at = [], 0
    while at < len(text):
        match = _SHORT.match(text, at) or _WORD.match(classes, at)
        assert match is not None  # every class begins a word
        found.append(text[at : match.end()])
        at = match.end()
    return found


def _class(letter: str) -> str:
    kind = unicodedata.category(letter)[0]
    if letter == " ":
        return " "
    if kind == "Z" or letter in _SPACE:
        return "s"
    return kind if kind in "LN" else "O"


def _printable() -> list[str]:
    """GPT-2's letter for each byte: itself where it is printable, else the next free one from U+0100 on."""
    kept = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) if byte in kept else chr(256 + others.index(byte)) for byte in range(256)]


_LETTERS = _printable()
_BYTES = {letter: byte for byte, letter in enumerate(_LETTERS)}

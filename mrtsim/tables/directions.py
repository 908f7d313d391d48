"""Whether a column's name says that more of it is better, or less."""

from __future__ import annotations

import re

LOW = re.compile(r"rank(ing)?|loss(es)?|nll|perplexity|ppl|errors?|cost|distance|regret")
HIGH = re.compile(
    r"scores?|rewards?|acc(uracy)?|correct|pass(ed)?|success|solved|match|em|f1|bleu|rouge|ratings?|quality|wins?"
)


def sounds_low(name: str) -> bool:
    """Whether a column's name, or the path to it, sounds like a loss or a rank, and not like a score."""
    return _has(name, LOW) and not _has(name, HIGH)


def sounds_high(name: str) -> bool:
    """Whether a column's name, or the path to it, sounds like a score or a reward, and not like a loss."""
    return _has(name, HIGH) and not _has(name, LOW)


def _has(name: str, words: re.Pattern[str]) -> bool:
    return any(words.fullmatch(word) for word in re.split(r"[^a-z0-9]+", name.casefold()))

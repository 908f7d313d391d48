"""Whether a column's name says that more of it is better, or less."""

from __future__ import annotations

import re

LOW = {
    "rank",
    "ranking",
    "loss",
    "losses",
    "nll",
    "perplexity",
    "ppl",
    "error",
    "errors",
    "cost",
    "distance",
    "regret",
}
HIGH = {
    "score",
    "scores",
    "reward",
    "rewards",
    "accuracy",
    "acc",
    "correct",
    "passed",
    "pass",
    "success",
    "solved",
    "match",
    "em",
    "f1",
    "bleu",
    "rouge",
    "rating",
    "ratings",
    "quality",
    "win",
    "wins",
}


def sounds_low(name: str) -> bool:
    """Whether a column's name, or the path to it, sounds like a loss or a rank, and not like a score."""
    return bool(_words(name) & LOW) and not _words(name) & HIGH


def sounds_high(name: str) -> bool:
    """Whether a column's name, or the path to it, sounds like a score or a reward, and not like a loss."""
    return bool(_words(name) & HIGH) and not _words(name) & LOW


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.casefold()))

"""A claim of the paper, turned into a statement that an interval can settle."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """What the interval says about one statement."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not settled"


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval (95 % unless the text says otherwise).

    What is null in a stored result (infinite or undefined there) becomes NaN, and settles nothing.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, math.nan)

    @classmethod
    def from_standard_error(
        cls, value: float, standard_error: float, z: float = 1.959963984540054
    ) -> Estimate:
        """A normal interval."""
        return cls(value, value - z * standard_error, value + z * standard_error)


@dataclass(frozen=True)
class Prediction:
    """One testable statement: what was reported, what we find, the exact value where one exists, the outcome.

    Phrase it so that "holds" speaks for the claim (`report.verdict` counts on it), and the same in every preset.
    `claim` is the number of the paper's claim (1 to 11). `primary` marks the statements that the claim stands or
    falls with; the others are about its limits, or `context`: about the paper's own numbers, or about something beside
    the claim, which cannot change the verdict.
    """

    claim: int
    statement: str
    ours: Estimate
    outcome: Outcome
    reported: float | None = None
    exact: float | None = None
    primary: bool = True
    note: str = ""
    context: bool = False

    @property
    def kind(self) -> str:
        """primary, limit or context."""
        return "context" if self.context else "primary" if self.primary else "limit"


def less(ours: Estimate, bound: float) -> Outcome:
    """Is the quantity below the bound? Holds or fails only where the whole interval says so."""
    if ours.high < bound:
        return Outcome.HOLDS
    return Outcome.FAILS if ours.low > bound else Outcome.OPEN


def greater(ours: Estimate, bound: float) -> Outcome:
    """Is the quantity above the bound?"""
    return less(Estimate(-ours.value, -ours.high, -ours.low), -bound)


def agrees(value: float, exact: float, standard_error: float, tolerance: float = 4.0) -> Outcome:
    """Does a simulated value agree with its exact one, within `tolerance` standard errors?"""
    if not math.isfinite(value) or not math.isfinite(standard_error):
        return Outcome.OPEN
    return Outcome.HOLDS if abs(value - exact) <= tolerance * standard_error else Outcome.FAILS


def near(ours: Estimate, target: float, factor: float) -> Outcome:
    """Is the quantity within this factor of the target? Holds or fails only where the whole interval says so."""
    sides = (greater(ours, target / factor), less(ours, target * factor))
    if Outcome.FAILS in sides:
        return Outcome.FAILS
    return Outcome.OPEN if Outcome.OPEN in sides else Outcome.HOLDS


@cache
def published() -> dict[str, Any]:
    """The paper's numbers, by experiment (`reported.toml`)."""
    return tomllib.loads((Path(__file__).parent / "reported.toml").read_text(encoding="utf-8"))

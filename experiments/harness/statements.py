"""A claim of the paper, turned into a statement that an interval can settle.

A statement is a quantity, our estimate of it, and the relation that speaks for the claim: "EMSE of the loss, DKoN /
RKoN, K = 4" with the relation "< 1". Its outcome follows from the interval alone. It is told from others, and found
again in another preset, by its id, which never changes.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, normal_quantile


class Outcome(StrEnum):
    """What the interval says about one statement."""

    HOLDS = "holds"
    FAILS = "fails"
    OPEN = "open"


class Role(StrEnum):
    """What a statement means for the verdict on its claim.

    primary: what the paper asserts, in its own setting; where a training run is judged, the same with overfitting taken
    out (at the best validation step) beside it. limit: how far the assertion reaches (other K, budgets, strategies,
    real data). context: about the paper's own numbers, or beside the claim; it does not count.
    """

    PRIMARY = "primary"
    LIMIT = "limit"
    CONTEXT = "context"


class Source(StrEnum):
    """Where the value comes from that an estimate is compared with."""

    EXACT = "exact"
    REPORTED = "reported"
    BOUND = "bound"
    MEASURED = "measured elsewhere"


@dataclass(frozen=True)
class Relation:
    """The values of a quantity that speak for the claim: those between `low` and `high`.

    `value` is what the quantity is compared with and `source` where that comes from; `text` says it in symbols. Of an
    `equivalence`, "equal up to a margin", the 90 % interval must lie within the margin (5 % on each side) for it to
    hold, and the 99.9 % interval outside for it to fail: each true equality would otherwise be refuted in up to 10 % of
    runs. Every other relation is judged by the 95 % interval.
    """

    low: float
    high: float
    text: str
    value: float
    source: Source
    equivalence: bool = False

    def judge(self, ours: Estimate) -> Outcome:
        """Holds where the whole interval lies between the limits, fails where none of it does, else it is open."""
        inner = outer = (ours.low, ours.high)
        if self.equivalence:
            inner, outer = at_confidence(ours, 0.9), at_confidence(ours, 0.999)
        if any(map(math.isnan, (ours.value, *inner))):
            return Outcome.OPEN
        if self.low < inner[0] and inner[1] < self.high:
            return Outcome.HOLDS
        return Outcome.FAILS if outer[1] < self.low or outer[0] > self.high else Outcome.OPEN


def below(bound: float, source: Source = Source.BOUND, text: str = "") -> Relation:
    """The quantity is less than the bound."""
    return Relation(-math.inf, bound, text or f"< {_short(bound)}", bound, source)


def above(bound: float, source: Source = Source.BOUND, text: str = "") -> Relation:
    """The quantity is greater than the bound."""
    return Relation(bound, math.inf, text or f"> {_short(bound)}", bound, source)


def between(low: float, high: float, source: Source = Source.BOUND) -> Relation:
    """The quantity lies strictly between two numbers."""
    return Relation(low, high, f"in ({_short(low)}, {_short(high)})", 0.5 * (low + high), source)


def within_factor(factor: float, target: float, source: Source) -> Relation:
    """The quantity is within this factor of the target."""
    return Relation(
        target / factor, target * factor, f"within ×{factor:g} of {_short(target)}", target, source
    )


def equals(
    value: float, *, source: Source = Source.EXACT, relative: float = 0.0, absolute: float = 0.0
) -> Relation:
    """The quantity equals the value, up to a margin: an equivalence.

    Args:
        value: what the quantity should be.
        source: where the value comes from.
        relative: margin as a share of the value.
        absolute: margin in the quantity's unit, for a value at or near 0.

    Returns:
        The relation, an equivalence.
    """
    margin = absolute + relative * abs(value)
    if not margin > 0:
        raise ValueError("an equivalence needs a margin")
    share = f"{100 * relative:g} %" if relative else _short(absolute)
    return Relation(
        value - margin, value + margin, f"= {_short(value)} ± {share}", value, source, equivalence=True
    )


def at_confidence(ours: Estimate, confidence: float) -> tuple[float, float]:
    """The interval at another confidence: the sides of the 95 % interval, scaled as those of a normal one.

    Below 95 % the sides of a t interval shrink by more, so that this is never too narrow for one.
    """
    scale = normal_quantile(confidence) / normal_quantile(0.95)
    return ours.value - scale * (ours.value - ours.low), ours.value + scale * (ours.high - ours.value)


@dataclass(frozen=True)
class Prediction:
    """One statement about a claim.

    Attributes:
        id: a name that never changes, such as `lottery.std-ratio.last.k8`; it begins with the experiment's.
        claim: the number of the paper's claim, 1 to 11.
        quantity: what is estimated, in words and symbols: "EMSE of the loss, DKoN / RKoN, K = 4".
        ours: our estimate with its 95 % interval.
        relation: what speaks for the claim.
        role: what the statement means for the verdict.
        unit: of the quantity, such as "nats"; empty for a pure number.
        reported: what the paper (or a run of its code) has for the quantity.
        note: what a reader should know beside it.
    """

    id: str
    claim: int
    quantity: str
    ours: Estimate
    relation: Relation
    role: Role
    unit: str = ""
    reported: float | None = None
    note: str = ""

    @property
    def outcome(self) -> Outcome:
        """What our interval says."""
        return self.relation.judge(self.ours)

    @property
    def exact(self) -> float | None:
        """The exact value that the quantity is compared with, where there is one."""
        return self.relation.value if self.relation.source is Source.EXACT else None


def check(experiment: str, claims: Iterable[int], predictions: Iterable[Prediction]) -> None:
    """Refuse predictions with repeated or foreign ids, or on a claim that the experiment does not name.

    Raises:
        InputError: with one message that names the first such prediction.
    """
    found = list(predictions)
    repeated = [name for name, count in Counter(p.id for p in found).items() if count > 1]
    if repeated:
        raise InputError(f"experiment {experiment}: the id {repeated[0]!r} is given to two statements")
    for p in found:
        if p.claim not in known_claims():
            raise InputError(
                f"experiment {experiment}: {p.id!r} is about claim {p.claim}, but claims.toml has "
                f"{', '.join(map(str, known_claims()))}"
            )
        if p.claim not in claims:
            raise InputError(
                f"experiment {experiment}: {p.id!r} is about claim {p.claim}, which is not among its CLAIMS"
            )
        if not p.id.startswith(f"{experiment}."):
            raise InputError(f"experiment {experiment}: the id {p.id!r} must begin with {experiment + '.'!r}")


def verdict(predictions: Iterable[Prediction]) -> str:
    """The verdict on a claim from its primary statements; the first of these rules that applies.

    holds: every primary holds. holds in part: some hold, some fail. does not hold: at least one fails and none holds.
    holds so far: some hold, none fails, others are open. open: no primary is settled.
    """
    count = Counter(p.outcome for p in predictions if p.role is Role.PRIMARY)
    holding, failing, unsettled = (count[o] for o in (Outcome.HOLDS, Outcome.FAILS, Outcome.OPEN))
    if holding and not failing and not unsettled:
        return "holds"
    if holding and failing:
        return "holds in part"
    if failing:
        return "does not hold"
    return "holds so far" if holding else "open"


def read(cell: Mapping[str, Any], index: int | None = None) -> Estimate:
    """The estimate in a stored cell {estimate, low, high, standard_error}, or number `index` of lists of them.

    A cell without limits has a normal interval. What is null (infinite or undefined) becomes NaN, and settles nothing.
    """

    def part(name: str) -> float:
        value = cell.get(name)
        value = value if index is None or value is None else value[index]
        return math.nan if value is None else float(value)

    if "low" not in cell:
        return Estimate.from_standard_error(part("estimate"), part("standard_error"))
    return Estimate(part("estimate"), part("low"), part("high"), part("standard_error"))


def number(value: float) -> Estimate:
    """A number without uncertainty: a count, or what is computed exactly."""
    return Estimate(value, value, value)


def known_claims() -> dict[int, dict[str, Any]]:
    """The paper's claims by number (`claims.toml`)."""
    return {int(number): claim for number, claim in _claims_file().items() if number.isdecimal()}


def not_tested() -> list[str]:
    """What of the paper is not tested here, and why."""
    return _claims_file()["not_tested"]


@cache
def _claims_file() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "claims.toml").read_text(encoding="utf-8"))


@cache
def published() -> dict[str, Any]:
    """The paper's numbers, by experiment (`reported.toml`)."""
    return tomllib.loads((Path(__file__).parent / "reported.toml").read_text(encoding="utf-8"))


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", "−", 1) if value < 0 else f"{value:.4g}"

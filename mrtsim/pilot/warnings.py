"""When not to trust the numbers of a pilot: what each warning rests on, and how it is said."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrtsim.pilot.intervals import Limits
    from mrtsim.pilot.mean_squares import MeanSquares
    from mrtsim.pilot.sums import PromptSums
    from mrtsim.variance import VarianceComponents

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

FEW = 20  # effective prompts (groups) from which on intervals with normal effects held what they promise
SMALL = 50  # below this many, pilots of skewed losses that look harmless cover least
# Least |skewness| of means that counts, and the same times sqrt(prompts): 3 to 5 % of normal pilots exceed both.
SKEWED = 0.6
SKEWED_SCALED = 5.2
# Means of this many prompts or more that lie within this share of a response's standard deviation are equal by design.
ALIKE, ALIKE_MEANS = 10, 1e-3
HEAVY = 2.5  # kurtosis - 1 of contributions as a multiple of the usual one

# Least coverage, in per cent, of nominal 95 % intervals over the designs of experiments/coverage.py with equal numbers
# of responses: 6 prompts (few), or 20 and more. A test compares them with the stored results.
COVERAGE = {
    "few, normal": 93,
    "few, skewed": 71,
    "few, rare": 45,
    "prompts, V_x": 72,
    "prompts, K*": 75,
    "responses, V_y|x": 63,
    "responses, K*": 69,
}


class Risk(NamedTuple):
    """Which intervals may be short, by the shape of the data; one flag per pilot.

    Attributes:
        between: those of V_x (V_g with groups) and of the ratio: the means of prompts (groups) are skewed or far out.
        response: those of V_{y|x} and of the ratio: few prompts have most of the spread between responses.
        prompt: that of V_{x|g}: few groups have most of the spread between their prompts. False without groups.
    """

    between: Flags
    response: Flags
    prompt: Flags

    @property
    def ratio(self) -> Flags:
        """The ratio, and so K*, rests on both."""
        return self.between | self.response


def at_risk(squares: MeanSquares) -> Risk:
    """Whose intervals the skewness and kurtosis of a pilot put in doubt; for many pilots at once."""
    clusters = squares.between.contributions
    skewed = np.abs(squares.skewness) > max(SKEWED, SKEWED_SCALED / math.sqrt(clusters))
    return Risk(
        between=skewed | (squares.between.excess > HEAVY),
        response=np.asarray(squares.response.excess > HEAVY),
        prompt=np.asarray(False if squares.prompts is None else squares.prompts.excess > HEAVY),
    )


def pilot_warnings(
    sums: PromptSums,
    squares: MeanSquares,
    planning: VarianceComponents,
    limits: Limits,
    *,
    confidence: float,
    redundancy: float,
) -> Iterator[str]:
    """What a reader must know before acting on the estimates of a pilot.

    Args:
        sums: the pilot.
        squares: its weighted mean squares.
        planning: the components of one prompt of the corpus, with V_x (with groups r V_g + V_{x|g}) as `prompt`.
        limits: the confidence limits.
        confidence: their level.
        redundancy: r, prompts per group; 0 where the groups stay the same.
    """
    grouped = sums.starts is not None
    between = "V_x"
    if grouped:
        between = f"{redundancy:.3g} V_g + V_x|g" if redundancy else "V_x|g"
    level = f"{100 * confidence:g} %"
    if _same_means(sums):
        yield (
            "all prompts have the same mean loss, as ranks within a prompt have, pairs of a chosen and a rejected "
            "response, and rewards less their prompt's mean (advantages). Such losses say nothing about prompts: V_x, "
            "K* and the standard error cannot be used, so take the losses themselves"
        )
    elif np.isinf(limits.ratio[0]):
        yield (
            "the responses to a prompt differ more than independent ones would: even the upper "
            f"{level} limit of {between} is below 0. That is rare by chance; were the responses drawn independently?"
        )
    elif planning.prompt <= 0:
        yield (
            f"{between} is estimated at {planning.prompt:.3g}, not above 0: no plan can rest on that; cap the "
            "responses per prompt, plan at a confidence limit, or run a larger pilot"
        )
    elif np.isinf(limits.ratio[1]):
        yield (
            f"at {level} confidence the data do not rule out {between} = 0, so K* has no upper limit: a pilot of more "
            f"{'groups' if grouped else 'prompts'} would give one"
        )
    yield from repeated(sums.copies)
    yield from _few(squares, level, grouped)
    yield from _shape(squares, level, grouped)
    yield from _chosen_counts(sums)


def _same_means(sums: PromptSums) -> bool:
    """Whether the means of the prompts are equal, or nearly, where the responses to a prompt are not."""
    if sums.vectors or sums.counts.size < ALIKE:
        return False
    spread = math.sqrt(sums.within.sum() / max(sums.counts.sum() - sums.counts.size, 1))
    return bool(np.ptp(sums.means) < ALIKE_MEANS * spread)


def repeated(copies: int, where: str = "", what: str = "loss") -> Iterator[str]:
    """Responses that are there more than once.

    Args:
        copies: how often each is, at least (`PromptSums.copies`).
        where: which model they are of, with a colon; empty where there is one.
        what: what a row holds.
    """
    if copies > 1:
        yield (
            f"{where}in all prompts every {what} stands {copies} times, or a multiple of that. Rows that were written "
            "more than once are no further responses, nor are responses drawn at temperature 0: keep one of each, or "
            "the responses to a prompt look more alike than they are"
        )


def _few(squares: MeanSquares, level: str, grouped: bool) -> Iterator[str]:
    """Too few prompts or groups, by effective numbers, or too few to show what is rare."""
    unit, n = ("group" if grouped else "prompt"), squares.between.contributions
    effective = {"V_g" if grouped else "V_x": squares.between.effective}
    if squares.prompts is not None:
        effective["V_x|g"] = squares.prompts.effective
    effective["V_y|x"] = squares.response.effective
    worth = {name: round(float(value)) for name, value in effective.items() if value < FEW}
    unseen = (
        f"a pilot of {n} {unit}s cannot show rare large losses, warned of or not: a kind of {unit} that makes up "
        f"{100 * (1 - 0.05 ** (1 / n)):.0f} % of the corpus is absent from one such pilot in 20"
    )
    if worth:
        few = f"{n} {unit}s are few"
        if any(value != n for value in worth.values()):
            few = f"the {n} {unit}s are worth only " + ", ".join(
                f"{value} of equal weight for {name}" for name, value in worth.items()
            )
        yield (
            f"{few}, so the {level} intervals of {', '.join(worth)} and K* rest on little: 95 % intervals from 6 "
            f"prompts held K* in at least {COVERAGE['few, normal']} % of simulated pilots where the effects were "
            f"normal, but in as few as {COVERAGE['few, skewed']} % where prompts were log-normal (sigma 1) and "
            f"{COVERAGE['few, rare']} % where one in ten was large; {unseen}"
        )
    elif n < SMALL:
        yield unseen


def _shape(squares: MeanSquares, level: str, grouped: bool) -> Iterator[str]:
    """Losses of a shape for which intervals are short."""
    unit, n, risk = ("group" if grouped else "prompt"), squares.between.contributions, at_risk(squares)
    short = f"the {level} intervals of {{}} may be too short"
    if risk.between:
        reason = f"skewness {float(squares.skewness):.2g}"
        if squares.between.excess > HEAVY:
            reason += f", and few {unit}s hold most of their squared deviations"
        yield (
            f"{short.format('V_g and K*' if grouped else 'V_x and K*')}: the means of the {unit}s are skewed or far "
            f"out ({reason}). With log-normal prompts (sigma 1) 95 % intervals held V_x in as few as "
            f"{COVERAGE['prompts, V_x']} % and K* in as few as {COVERAGE['prompts, K*']} % of simulated pilots; "
            f"a pilot of {n} {unit}s cannot show how large the largest are"
        )
    if risk.prompt:
        yield f"{short.format('V_x|g')}: few groups hold most of the spread between the prompts of a group"
    if risk.response:
        yield (
            f"{short.format('V_y|x and K*')}: few {unit}s hold most of the spread between responses. With log-normal "
            f"responses (sigma 1.5) 95 % intervals held V_y|x in as few as {COVERAGE['responses, V_y|x']} % and K* in "
            f"as few as {COVERAGE['responses, K*']} % of simulated pilots; a pilot of this size cannot show how far "
            "the rarest responses lie"
        )


def _chosen_counts(sums: PromptSums) -> Iterator[str]:
    """Numbers of responses that go with the losses."""
    several = sums.counts > 1
    spread = sums.within[several] / (sums.counts[several] - 1)
    of_means = [] if sums.vectors else [(sums.counts, sums.means, "mean")]
    for counts, value, what in (*of_means, (sums.counts[several], spread, "spread")):
        if np.ptp(counts) > 0 and np.ptp(value) > 0 and counts.size > 10:
            correlation = float(np.corrcoef(counts, value)[0, 1])
            if abs(correlation) * math.sqrt(counts.size - 1) > 3.29:  # one in a thousand by chance
                yield (
                    f"prompts with more responses have another {what} (correlation {correlation:.2f}): if the number "
                    "of responses was chosen by the losses, all estimates are biased"
                )

"""How large a pilot should be: what its interval of K* and the plan made from it will be like, before it is run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mrtsim.errors import InputError
from mrtsim.estimates import t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrtsim.pilot.sums import PromptSums
    from mrtsim.plan.allocate import Cost

    Floats = NDArray[np.float64]

DRAWS = 1_000  # simulated pilots per design: probabilities are right within 0.03
CLOSED_FORM = 1_000  # prompts from which on the interval of normal losses has a closed form that is as good
VALUES_AT_ONCE = 2**22
MOST_VALUES = 10**8  # simulated; larger pilots are drawn less often, as each says more


@dataclass(frozen=True)
class PilotDesign:
    """What a pilot of this size would show.

    Attributes:
        n_prompts: prompts of the pilot (with `resume` those that are added).
        responses_per_prompt: responses to each of them.
        cost: of these prompts and responses; None without costs.
        no_upper_limit: probability that the interval of K* has no upper limit.
        median_ratio_of_limits: median over pilots of K*'s upper over its lower limit; infinite where half have none.
        refused: probability that V_x is estimated at 0 or below, on which no plan can rest.
        expected_regret: mean excess variance of the plan over the best one at equal budget, as a share of it, over the
            pilots that are not refused; K is whole and N_p continuous. None without costs, or where all are refused.
    """

    n_prompts: int
    responses_per_prompt: int
    cost: float | None
    no_upper_limit: float
    median_ratio_of_limits: float
    refused: float
    expected_regret: float | None


def plan_pilot(
    ratio: float,
    n_prompts: int,
    responses_per_prompt: int,
    *,
    cost: Cost | None = None,
    confidence: float = 0.95,
    skewness_x: float = 0.0,
    skewness_response: float = 0.0,
    resume: PromptSums | None = None,
    seed: int = 0,
) -> PilotDesign:
    """Predict the interval of K* and the regret of the plan for a pilot of n_prompts x responses_per_prompt.

    Simulates the sums of 1,000 pilots (of very large skewed ones fewer) and the intervals that `estimate_components`
    prints; from 1,000 prompts on, a closed form for normal losses (`docs/theory.md` 4.5). The regret is exact for
    normal losses.

    Args:
        ratio: a guess of V_{y|x} / V_x.
        n_prompts: at least 2 (1 with `resume`).
        responses_per_prompt: at least 2 (1 with `resume`).
        cost: of a prompt and of a response, for the pilot and for the plan.
        confidence: level of the interval.
        skewness_x: of the prompts' means; 0 is normal, else log-normal.
        skewness_response: of the responses to a prompt, likewise.
        resume: the sums of a pilot without groups, to which these prompts are added. Its own prompts stay as they are,
            and V_{y|x} is its mean square within prompts.
        seed: of the simulated pilots; fixed, so that the answer is always the same.

    Raises:
        InputError: a number is out of range, or `resume` has groups.
    """
    least = 2 if resume is None else 1
    for name, value in (("n_prompts", n_prompts), ("responses_per_prompt", responses_per_prompt)):
        if not (value == int(value) and value >= least):
            raise InputError(f"{name} is {value}; it must be a whole number of at least {least}")
    for name, value, low in (
        ("ratio", ratio, 0.0),
        ("skewness_x", skewness_x, None),
        ("skewness_response", skewness_response, None),
    ):
        if not math.isfinite(value) or (low is not None and value <= low):
            raise InputError(
                f"{name} is {value}; it must be a finite number{'' if low is None else ' above 0'}"
            )
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    if resume is not None and resume.starts is not None:
        raise InputError(
            "a pilot with groups cannot be resumed here: give the sums of its prompts without groups"
        )
    n_prompts, responses = int(n_prompts), int(responses_per_prompt)
    spent = None if cost is None else n_prompts * (cost.prompt + responses * cost.response)
    normal = resume is None and skewness_x == skewness_response == 0
    if normal and n_prompts >= CLOSED_FORM:
        unbounded, width = _closed_form(ratio, n_prompts, responses, confidence)
        estimates = _normal_estimates(ratio, n_prompts, responses)
    else:
        unbounded, width, estimates = _simulated(
            ratio, n_prompts, responses, confidence, (skewness_x, skewness_response), resume, seed
        )
        if normal:  # an estimate of V_x near 0 is rare and its regret large: a thousand draws show too few
            estimates = _normal_estimates(ratio, n_prompts, responses)
    planned = estimates[np.isfinite(estimates)]
    regret = None if cost is None or planned.size == 0 else float(plan_regret(planned, ratio, cost).mean())
    return PilotDesign(
        n_prompts=n_prompts,
        responses_per_prompt=responses,
        cost=spent,
        no_upper_limit=unbounded,
        median_ratio_of_limits=width,
        refused=1 - planned.size / estimates.size,
        expected_regret=regret,
    )


def cheapest_pilot(designs: Iterable[PilotDesign], tolerance: float) -> PilotDesign | None:
    """The cheapest design whose plan loses and whose pilot fails little enough.

    Both the expected regret and the probability that no plan can rest on the pilot are at most `tolerance`. None where
    no design is good enough.

    Raises:
        InputError: the designs have no costs, or the tolerance is not a positive share.
    """
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}; it is a share above 0, such as 0.05")
    good = []
    for design in designs:
        if design.cost is None:
            raise InputError("the cheapest pilot depends on the costs: give a cost to plan_pilot")
        if design.expected_regret is not None and max(design.expected_regret, design.refused) <= tolerance:
            good.append(design)
    return min(good, key=lambda design: (design.cost, design.expected_regret), default=None)


def plan_regret(ratios: Floats, truth: float, cost: Cost) -> Floats:
    """Excess variance, as a share, of plans on estimated ratios where the true ratio is `truth`.

    At equal budget and with N_p continuous the variance is proportional to (1 + ratio/K) (C_p + K C_r), and the best
    whole K is the K with K (K - 1) <= K*^2 <= K (K + 1).

    Args:
        ratios: estimates of V_{y|x} / V_x, of any shape.
        truth: the true ratio.
        cost: C_p and C_r.
    """
    if cost.response == 0 or cost.prompt == 0:  # the best K is infinite, or 1, whatever the ratio
        return np.zeros_like(ratios)

    def best(ratio: Floats | float) -> Floats:
        return np.maximum(
            1.0, np.ceil((np.sqrt(1 + 4 * np.asarray(ratio) * cost.prompt / cost.response) - 1) / 2)
        )

    def variance(k: Floats) -> Floats:
        return (1 + truth / k) * (cost.prompt + k * cost.response)

    return variance(best(ratios)) / variance(best(truth)) - 1


def _closed_form(ratio: float, n_prompts: int, responses: int, confidence: float) -> tuple[float, float]:
    """The share without an upper limit and the median ratio of K*'s limits, for normal losses and many prompts.

    F = MSB / MSW is 1 + R V_x / V_{y|x} times an F variable; its logarithm has the variance
    2 / (P - 1) + 2 / (P (R - 1)), from which the jackknife hardly differs.
    """
    from scipy import special

    degrees = n_prompts - 1, n_prompts * (responses - 1)
    times = 1 + responses / ratio
    half = t_quantile(degrees[0], confidence) * math.sqrt(2 / degrees[0] + 2 / degrees[1])
    unbounded = float(special.fdtr(*degrees, math.exp(half) / times))
    middle = times * float(special.fdtri(*degrees, 0.5))
    if middle <= math.exp(half):
        return unbounded, math.inf
    return unbounded, math.sqrt((middle * math.exp(half) - 1) / (middle * math.exp(-half) - 1))


def _normal_estimates(ratio: float, n_prompts: int, responses: int) -> Floats:
    """10,000 equally likely estimates of the ratio for normal losses; infinite where V_x is estimated at 0 or below."""
    from scipy import special

    chances = (np.arange(10_000) + 0.5) / 10_000
    f = (1 + responses / ratio) * special.fdtri(n_prompts - 1, n_prompts * (responses - 1), chances)
    return np.where(f > 1, responses / np.maximum(f - 1, 1e-300), np.inf)


def _simulated(
    ratio: float,
    n_prompts: int,
    responses: int,
    confidence: float,
    skewness: tuple[float, float],
    resume: PromptSums | None,
    seed: int,
) -> tuple[float, float, Floats]:
    """Share of pilots without an upper limit, median ratio of K*'s limits, and estimated ratios."""
    from mrtsim.pilot.estimate import anova_components
    from mrtsim.pilot.intervals import DEFAULT, interval_method

    method, rng = interval_method(DEFAULT), np.random.default_rng(seed)
    lows, highs, estimates = [], [], []
    values = n_prompts * (responses if skewness[1] else 1) + (0 if resume is None else resume.n_prompts)
    draws = max(min(DRAWS, MOST_VALUES // values), 100)
    for n in _blocks(draws, n_prompts + (0 if resume is None else resume.n_prompts)):
        pilots = _pilots(ratio, n_prompts, responses, skewness, resume, rng, n)
        low, high = method(pilots, confidence, 1.0).ratio
        _, prompt, response = anova_components(pilots)
        lows.append(low)
        highs.append(high)
        estimates.append(np.where(prompt > 0, response / np.maximum(prompt, 1e-300), np.inf))
    low, high = np.concatenate(lows), np.concatenate(highs)
    with np.errstate(invalid="ignore"):
        wide = np.where(np.isinf(high), np.inf, np.sqrt(high / low))
    return (
        float(np.isinf(high).mean()),
        float(np.quantile(wide, 0.5, method="higher")),
        np.concatenate(estimates),
    )


def _blocks(draws: int, prompts: int) -> Iterator[int]:
    at_once = max(1, VALUES_AT_ONCE // prompts)
    for begin in range(0, draws, at_once):
        yield min(at_once, draws - begin)


def _pilots(
    ratio: float,
    n_prompts: int,
    responses: int,
    skewness: tuple[float, float],
    resume: PromptSums | None,
    rng: np.random.Generator,
    n: int,
) -> PromptSums:
    """Sums of n simulated pilots, in units of V_{y|x} = 1 or of the resumed pilot's."""
    from mrtsim.pilot.sums import PromptSums

    means = effects(rng, (n, n_prompts), skewness[0]) / math.sqrt(ratio)
    if skewness[1] == 0:
        means += rng.standard_normal((n, n_prompts)) / math.sqrt(responses)
        within = rng.chisquare(responses - 1, (n, n_prompts)) if responses > 1 else np.zeros((n, n_prompts))
    else:
        first, within = np.zeros((n, n_prompts)), np.zeros((n, n_prompts))
        for j in range(responses):  # Welford: a response at a time, so that memory does not grow with them
            gap = effects(rng, (n, n_prompts), skewness[1]) - first
            first += gap / (j + 1)
            within += gap**2 * (j / (j + 1))
        means += first
    counts = np.full(n_prompts, float(responses))
    if resume is None:
        return PromptSums(counts, means, within)
    unit = float(resume.within.sum() / (resume.counts - 1).sum())

    def joined(old: Floats, new: Floats) -> Floats:
        return np.concatenate([np.broadcast_to(old, (n, resume.n_prompts)), new], axis=-1)

    centre = resume.means.mean()
    return PromptSums(
        np.concatenate([resume.counts, counts]),
        joined(resume.means - centre, math.sqrt(unit) * means),
        joined(resume.within, unit * within),
    )


def effects(rng: np.random.Generator, shape: tuple[int, ...], skewness: float) -> Floats:
    """Effects of mean 0, variance 1 and this skewness: normal where it is 0, else log-normal.

    Args:
        rng: draws them.
        shape: of the answer.
        skewness: of their distribution.
    """
    z = rng.standard_normal(shape)
    if skewness == 0:
        return z
    # The skewness of a log-normal is x^3 + 3 x with x^2 = exp(sigma^2) - 1.
    root = float(np.cbrt(math.sqrt(skewness**2 / 4 + 1) + abs(skewness) / 2))
    x = root - 1 / root
    sigma = math.sqrt(math.log1p(x**2))
    return math.copysign(1.0, skewness) * (np.exp(sigma * z - sigma**2 / 2) - 1) / x

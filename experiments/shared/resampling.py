"""Intervals over training seeds and test prompts, both resampled, for what is read off the errors of many designs."""

from __future__ import annotations

import math

import numpy as np

from experiments.harness.intervals import LEVEL
from mrtsim.estimates import Estimate, normal_quantile
from mrtsim.pilot.estimate import PilotEstimate
from mrtsim.plan.allocate import Cost

RESAMPLES = 4_000


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Means of (designs, seeds, prompts) over both, (1 + RESAMPLES, designs): as they are, then resampled twice over.

    Designs share seeds and prompts, so that what they have in common cancels in differences.
    """
    rng = np.random.default_rng(0)
    _, seeds, n = values.shape
    weights = [rng.multinomial(m, np.full(m, 1 / m), RESAMPLES) / m for m in (seeds, n)]
    drawn = np.einsum("bs,dsp,bp->bd", weights[0], values, weights[1], optimize=True)
    return np.concatenate([values.mean((1, 2))[None], drawn])


def k_star_draws(pilot: PilotEstimate, cost: Cost) -> np.ndarray:
    """(1 + RESAMPLES,): a pilot's K*, then log-normal draws with its interval; NaN where an end is 0 or infinite."""
    found = pilot.k_star(cost)
    known = found.low > 0 and math.isfinite(found.high)
    spread = math.log(found.high / found.low) / (2 * normal_quantile(LEVEL)) if known else math.nan
    # Both pilots rest on the same responses, so they share their draws.
    drawn = found.value * np.exp(spread * np.random.default_rng(1).normal(size=RESAMPLES))
    return np.concatenate([[found.value if math.isfinite(found.value) else math.nan], drawn])


def estimate_of(draws: np.ndarray) -> Estimate:
    """The first draw as the estimate, with the percentile interval of the others."""
    low, high = np.quantile(draws[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(draws[0]), float(min(low, draws[0])), float(max(high, draws[0])))


def estimates_of(draws: np.ndarray) -> list[Estimate]:
    """`estimate_of` every column of draws (1 + RESAMPLES, columns)."""
    return [estimate_of(column) for column in draws.T]


def law_r_squared(prompts: np.ndarray, ks: np.ndarray, ratios: np.ndarray, means: np.ndarray) -> np.ndarray:
    """R^2 of a line through the designs' divergences in 1/N_p + ratio / (N_p K), for each draw.

    Args:
        prompts: N_p, (designs,).
        ks: K, (designs,).
        ratios: V_{y|x} / V_x, (draws,).
        means: divergences, (draws, designs).

    Returns:
        (draws,).
    """
    x = 1 / prompts + ratios[:, None] / (prompts * ks)
    x, y = x - x.mean(1, keepdims=True), means - means.mean(1, keepdims=True)
    return (x * y).sum(1) ** 2 / ((x * x).sum(1) * (y * y).sum(1))

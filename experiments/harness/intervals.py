"""Intervals of what replicates say: means, standard deviations, medians, and which setting is best.

Losses of trained networks have heavy tails, so everything but the mean is bootstrapped over replicates; resamples are
seeded, and settings that share their random numbers are resampled together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2_000
_CHUNK = 2**20  # numbers resampled at once


def t_quantile(n: int) -> float:
    """Half the width of an interval from n independent values, in standard errors."""
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1))


def mean(values: np.ndarray) -> dict[str, float]:
    """Mean of (replicates,) with its t interval."""
    values = np.asarray(values, float)
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    half = t_quantile(len(values)) * error
    centre = float(values.mean())
    return {"value": centre, "low": centre - half, "high": centre + half}


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], Any],
    resamples: int = RESAMPLES,
    *,
    vectorized: bool = False,
) -> dict[str, Any]:
    """A statistic of (replicates, ...) with its percentile interval; it may return numbers or arrays.

    A `vectorized` statistic is of (..., replicates, settings), and is called on many resamples at once.
    """
    # With few replicates a resample can repeat one of them throughout: ratios of its spreads are undefined.
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = resampled(values, statistic, resamples, vectorized=vectorized)
        low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return {"value": statistic(np.asarray(values, float)), "low": low, "high": high}


def resampled(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], Any],
    resamples: int = RESAMPLES,
    *,
    vectorized: bool = False,
) -> np.ndarray:
    """The statistic of resampled replicates, (resamples, ...)."""
    values, rng = np.asarray(values, float), np.random.default_rng(0)
    chosen = rng.integers(0, len(values), (resamples, len(values)))
    if not vectorized:
        return np.stack([statistic(values[rows]) for rows in chosen])
    chunks = np.array_split(chosen, -(-resamples * values.size // _CHUNK))
    return np.concatenate([statistic(values[rows]) for rows in chunks])


def describe(values: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation and median of (replicates, settings), each a list over settings of intervals."""
    spread = bootstrap(values, partial(np.std, axis=-2, ddof=1), vectorized=True)
    middle = bootstrap(values, partial(np.median, axis=-2), vectorized=True)
    return {
        "mean": [mean(column) for column in values.T],
        "std": [
            dict(zip(spread, map(float, cell), strict=True)) for cell in zip(*spread.values(), strict=True)
        ],
        "median": [
            dict(zip(middle, map(float, cell), strict=True)) for cell in zip(*middle.values(), strict=True)
        ],
    }


def best(values: np.ndarray, labels: list[int], chosen: int) -> dict[str, Any]:
    """Which of the settings (replicates, settings) has the least mean, and what choosing `chosen` instead costs.

    `probability` is the bootstrap distribution of the best label, `low` to `high` its central interval; `regret` is
    the mean at `chosen` less the least mean, and `relative_regret` that over what the best saves against the first, at
    most 1.
    """
    names, at = np.asarray(labels), labels.index(chosen)

    def regret(means: np.ndarray) -> tuple[float, float]:
        gap = float(means[at] - means.min())
        saved = float(means[0] - means.min())
        return gap, gap / max(gap, saved) if gap > 0 else 0.0

    means = resampled(values, partial(np.mean, axis=-2), vectorized=True)
    winners = means.argmin(1)
    regrets = np.array([regret(row) for row in means])
    tail = (1 - LEVEL) / 2
    # Whole numbers: the smallest label with at least that much probability below or at it.
    low, high = np.quantile(names[winners], [tail, 1 - tail], method="inverted_cdf")
    answer: dict[str, Any] = {
        "value": int(names[np.asarray(values).mean(0).argmin()]),
        "low": int(low),
        "high": int(high),
        "probability": (np.bincount(winners, minlength=len(names)) / len(winners)).tolist(),
        "chosen": chosen,
    }
    for i, name in enumerate(("regret", "relative_regret")):
        low, high = np.quantile(regrets[:, i], [tail, 1 - tail], method="inverted_cdf")
        value = regret(np.asarray(values).mean(0))[i]
        answer[name] = {"value": value, "low": float(low), "high": float(high)}
    return answer

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

from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, t_quantile

LEVEL = 0.95
RESAMPLES = 2_000
_CHUNK = 2**20  # numbers resampled at once


def mean(values: Any, confidence: float = LEVEL) -> Estimate:
    """Mean of (replicates,) with its t interval; without two values the interval is the whole line."""
    values = np.asarray(values, float)
    centre, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(centre, -np.inf, np.inf)
    half = t_quantile(n - 1, confidence) * float(values.std(ddof=1) / np.sqrt(n))
    return Estimate(centre, centre - half, centre + half)


def ratio_of_means(values: np.ndarray, base: np.ndarray) -> Estimate:
    """Ratio of the means of two (replicates,) that share their replicates, with a jackknife t interval."""
    n = len(values)
    ratio = float(values.sum() / base.sum())
    without = (values.sum() - values) / (base.sum() - base)
    error = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    half = t_quantile(n - 1) * error
    return Estimate(ratio, ratio - half, ratio + half)


def largest_distance(distances: np.ndarray, half: np.ndarray) -> Estimate:
    """The largest of several distances (0 or above), from the half-widths of intervals that hold for all at once."""
    return Estimate(
        float(distances.max()),
        float(np.maximum(distances - half, 0).max()),
        float((distances + half).max()),
    )


def with_error(found: Any) -> dict[str, float]:
    """The JSON form of a value with the standard error of its numerical evaluation."""
    return {"estimate": found.value, "standard_error": found.standard_error}


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], Any],
    resamples: int = RESAMPLES,
    *,
    vectorized: bool = False,
) -> dict[str, Any]:
    """A statistic of (replicates, ...) with its percentile interval.

    Args:
        values: (replicates, ...); replicates are resampled whole.
        statistic: maps (replicates, ...) to a number or an array; if `vectorized`, (resamples, replicates, ...) to
            (resamples, ...).
        resamples: how many.
        vectorized: whether the statistic takes many resamples at once.

    Returns:
        `estimate`, `low` and `high`, each of the statistic's shape.
    """
    # With few replicates a resample can repeat one of them throughout: ratios of its spreads are undefined.
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = resampled(values, statistic, resamples, vectorized=vectorized)
        low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return {"estimate": statistic(np.asarray(values, float)), "low": low, "high": high}


def held(found: dict[str, Any]) -> dict[str, Any]:
    """A `bootstrap` whose interval holds its estimate: that of a maximum, or of a place on a grid, may not."""
    return found | {
        "low": np.minimum(found["low"], found["estimate"]),
        "high": np.maximum(found["high"], found["estimate"]),
    }


def resampled(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], Any],
    resamples: int = RESAMPLES,
    *,
    vectorized: bool = False,
) -> np.ndarray:
    """The statistic of resampled replicates, (resamples, ...); the arguments of `bootstrap`."""
    values = np.asarray(values, float)
    if len(values) < 2:
        raise InputError(f"an interval needs at least 2 replicates, not {len(values)}")

    def of_rows(rows: np.ndarray, axis: int) -> np.ndarray:
        """Resamples last, as SciPy has it, of row numbers (..., replicates)."""
        if rows.ndim == 1 or vectorized:
            drawn = np.asarray(statistic(values[rows]))
        else:
            drawn = np.stack([statistic(values[of_one]) for of_one in rows])
        return np.moveaxis(drawn, 0, -1) if rows.ndim > 1 else drawn

    # Row numbers, not values, are resampled, so that what a replicate holds stays together.
    found = stats.bootstrap(
        (np.arange(len(values)),),
        of_rows,
        n_resamples=resamples,
        batch=max(1, _CHUNK // values.size),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return np.moveaxis(found.bootstrap_distribution, -1, 0)


def describe(values: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation and median of (replicates, settings), each a list over settings of intervals."""
    deviation = bootstrap(values, partial(np.std, axis=-2, ddof=1), vectorized=True)
    middle = bootstrap(values, partial(np.median, axis=-2), vectorized=True)
    return {
        "mean": [mean(column) for column in values.T],
        "std": cells(deviation),
        "median": cells(middle),
    }


def cells(estimates: dict[str, Any]) -> list[dict[str, float]]:
    """Intervals of a list of numbers as a list of intervals."""
    return [
        dict(zip(estimates, map(float, cell), strict=True)) for cell in zip(*estimates.values(), strict=True)
    ]


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
        "estimate": int(names[np.asarray(values).mean(0).argmin()]),
        "low": int(low),
        "high": int(high),
        "probability": (np.bincount(winners, minlength=len(names)) / len(winners)).tolist(),
        "chosen": chosen,
    }
    for i, name in enumerate(("regret", "relative_regret")):
        low, high = np.quantile(regrets[:, i], [tail, 1 - tail], method="inverted_cdf")
        value = regret(np.asarray(values).mean(0))[i]
        answer[name] = {"estimate": value, "low": float(low), "high": float(high)}
    return answer

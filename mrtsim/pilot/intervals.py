"""Confidence limits of the variance components and of their ratio, by methods that are registered by name.

`weighted` is what `estimate_components` uses; the others are there to be compared with it (`docs/coverage.md`). A
method of your own is one function: `@register_interval_method("name")`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mrtsim.errors import InputError
from mrtsim.estimates import t_quantile
from mrtsim.pilot.mean_squares import MeanSquare, MeanSquares, weighted_mean_squares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrtsim.pilot.sums import PromptSums

    Floats = NDArray[np.float64]
    Pair = tuple[Floats, Floats]

DEFAULT = "weighted"
MOST_INFLATION = 1.5  # of a limit's distance, on the log scale, by what the sample's kurtosis says
FARTHEST = 2.5  # on the log scale: inflation takes no limit beyond exp(2.5) times the estimate


@dataclass(frozen=True)
class Limits:
    """Confidence limits (low, high), each of the shape of the pilot's leading axes; not cut at 0.

    Attributes:
        ratio: V_{y|x} / (r V_g + V_{x|g}), which is V_{y|x} / V_x without groups.
        icc: (V_g + V_{x|g}) / (V_g + V_{x|g} + V_{y|x}).
        response: V_{y|x}.
        prompt: V_x, or V_{x|g} with groups.
        group: V_g; None without groups.
    """

    ratio: Pair
    icc: Pair
    response: Pair
    prompt: Pair
    group: Pair | None


IntervalMethod = Callable[["PromptSums", float, float], Limits]
_methods: dict[str, IntervalMethod] = {}


def register_interval_method(name: str) -> Callable[[IntervalMethod], IntervalMethod]:
    """Decorator: make `function(sums, confidence, redundancy) -> Limits` an interval method of this name.

    `sums` is a `PromptSums`, whose leading axes (independent pilots) the limits must have. The coverage study
    iterates over all registered methods.
    """

    def register(function: IntervalMethod) -> IntervalMethod:
        if name in _methods:
            raise InputError(f"there is an interval method {name!r} already: choose another name")
        _methods[name] = function
        return function

    return register


def interval_methods() -> dict[str, IntervalMethod]:
    """Every registered method by its name; the default first."""
    from mrtsim.pilot import classical_intervals  # noqa: F401

    return dict(_methods)


def interval_method(name: str) -> IntervalMethod:
    """The method of this name.

    Raises:
        InputError: there is none.
    """
    methods = interval_methods()
    if name not in methods:
        raise InputError(f"interval is {name!r}; choose one of {', '.join(methods)}")
    return methods[name]


@register_interval_method(DEFAULT)
def weighted(sums: PromptSums, confidence: float, redundancy: float) -> Limits:
    """Weighted mean squares, jackknife, tails, and MOVER with their correlation (`docs/theory.md` 4.3).

    Args:
        sums: the pilot, or several of one design.
        confidence: level of the intervals.
        redundancy: r, prompts per group in the corpus that the ratio is for.
    """
    return limits_of(weighted_mean_squares(sums), confidence, redundancy)


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def limits_of(squares: MeanSquares, confidence: float, redundancy: float, *, inflate: bool = True) -> Limits:
    """Limits from mean squares and their values without each cluster.

    The logarithm of each mean square has the variance J that the delete-one-cluster jackknife finds, plus T, what the
    skewness of few clusters announces; upwards E >= T, what their kurtosis says (`inflation`). Quantiles are those of
    t with as many degrees of freedom as clusters of equal weight would have. Sums of mean squares get limits by MOVER
    (Zou and Donner 2008) with the correlation of their logarithms where it widens them.

    V_x <= 0 is a valid outcome: the ratio is then infinite, and so is its upper limit; the lower limit is too where
    even the upper limit of V_x is below 0. Where the data bound nothing the limits are 0 and infinity.

    Args:
        squares: of one or many pilots.
        confidence: two-sided level.
        redundancy: r, prompts per group.
        inflate: false leaves E at T.
    """
    s, m = squares.between, squares.response
    logs = {"S": np.log(s.without), "M": np.log(m.without)}
    bounds_s = _Bounds.of(s, logs["S"], confidence, inflate)
    bounds_m = _Bounds.of(m, logs["M"], confidence, inflate)
    h = squares.between_response
    if squares.prompts is None:
        excess = s.value / (h * m.value)
        relative = logs["S"] - np.log(squares.between_response_without) - logs["M"]
        error = jackknife_covariance(relative, relative) + s.common
        low, high = around(
            excess, bounds_s.quantile, error + s.tail + bounds_m.inflation, error + bounds_s.inflation
        )
        shared = 1 / (h * np.maximum(high - 1, 0)), 1 / (h * np.maximum(low - 1, 0))
        prompt = _sum_limits((1.0, bounds_s), (-h, bounds_m))
        return Limits(
            ratio=shared, icc=icc_limits(shared), response=bounds_m.limits, prompt=prompt, group=None
        )

    a = squares.prompts
    logs["A"] = np.log(a.without)
    bounds_a = _Bounds.of(a, logs["A"], confidence, inflate)
    p, h_a = squares.between_prompt, squares.prompt_response
    group = _sum_limits((1.0, bounds_s), (-p, bounds_a), (p * h_a - h, bounds_m))
    # The same in units of M
    over_m = [
        _Bounds.relative(x, log - logs["M"], bounds, m, bounds_m.inflation)
        for x, log, bounds in ((s, logs["S"], bounds_s), (a, logs["A"], bounds_a))
    ]

    def ratio(r: float) -> Pair:
        low, high = _sum_limits((r, over_m[0]), (1 - r * p, over_m[1]))
        shift = r * h + (1 - r * p) * h_a
        return 1 / np.maximum(high - shift, 0), 1 / np.maximum(low - shift, 0)

    return Limits(
        ratio=ratio(redundancy),
        icc=icc_limits(ratio(1.0)),
        response=bounds_m.limits,
        prompt=_sum_limits((1.0, bounds_a), (-h_a, bounds_m)),
        group=group,
    )


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def mean_square_limits(x: MeanSquare, confidence: float) -> Pair:
    """Limits of one mean square, as `limits_of` has them."""
    return _Bounds.of(x, np.log(x.without), confidence, inflate=True).limits


@dataclass(frozen=True)
class _Bounds:
    """Limits of one positive statistic X on the log scale, with what sums of several need."""

    value: Floats
    limits: Pair
    logs: Floats  # log X without each cluster
    variance: Floats  # J + T
    quantile: Floats
    inflation: Floats  # E

    @classmethod
    def of(cls, x: MeanSquare, logs: Floats, confidence: float, inflate: bool) -> _Bounds:
        error = jackknife_covariance(logs, logs) + x.common
        quantile = t_quantile(x.clusters - 1, confidence)
        variance = error + x.tail
        e = inflation(x, error, quantile, confidence) if inflate else x.tail + 0 * error
        return cls(x.value, around(x.value, quantile, variance, error + e), logs, variance, quantile, e)

    @classmethod
    def relative(cls, x: MeanSquare, logs: Floats, own: _Bounds, m: MeanSquare, e_m: Floats) -> _Bounds:
        """The limits of X / M."""
        error, value = jackknife_covariance(logs, logs) + x.common, x.value / m.value
        limits = around(value, own.quantile, error + x.tail + e_m, error + own.inflation)
        return cls(value, limits, logs, error + x.tail, own.quantile, own.inflation)


def inflation(x: MeanSquare, error: Floats, quantile: Floats, confidence: float) -> Floats:
    """E, variance of log X upwards: by Satterthwaite's degrees of freedom relative to those of normal effects.

    A mean square of n contributions of kurtosis k has 2 (n - 1) / (k - 1) degrees of freedom. Its limit is moved out
    by as much as t of these exceeds t of the usual ones, at most by half, and never beyond exp(2.5) times the estimate.

    Args:
        x: the mean square.
        error: variance of log X by the jackknife.
        quantile: of t, for the usual degrees of freedom.
        confidence: level of the interval.
    """
    degrees = 2.0 * (x.contributions - 1)
    shown = t_quantile(degrees / np.maximum(x.kurtosis - 1, 1e-9), confidence)
    longer = shown / t_quantile(degrees / x.usual_excess, confidence)
    longer = np.clip(np.nan_to_num(longer, nan=1.0), 1.0, MOST_INFLATION)
    tail = x.tail + 0 * error
    most = np.maximum((FARTHEST / quantile) ** 2 - error, tail)
    return np.minimum(np.maximum(tail, (longer**2 - 1) * error), most)


def _sum_limits(*terms: tuple[Floats | float, _Bounds]) -> Pair:
    def correlation(j: int, k: int) -> Floats:
        x, y = terms[j][1], terms[k][1]
        return jackknife_covariance(x.logs, y.logs) / np.sqrt(x.variance * y.variance)

    return mover(*((coefficient, x.value, x.limits) for coefficient, x in terms), correlation=correlation)


def mover(
    *terms: tuple[Floats | float, Floats, Pair], correlation: Callable[[int, int], Floats] | None = None
) -> Pair:
    """Limits of sum c_k X_k from those of the X_k (method of variance estimates recovery, Zou and Donner 2008).

    Args:
        terms: coefficient, value and (low, high) of each X_k.
        correlation: of X_j and X_k, by their places; taken into account where it widens the limits. None is 0.
    """
    value, below, above = np.zeros(()), np.zeros(()), np.zeros(())
    distances: list[Pair] = []
    for coefficient, x, limits in terms:
        # not 0 times an infinite limit
        ends = [np.where(np.equal(coefficient, 0), 0.0, coefficient * (end - x)) for end in limits]
        down, up = -np.minimum(*ends), np.maximum(*ends)
        value, below, above = value + coefficient * x, below + down**2, above + up**2
        distances.append((down, up))
    if correlation is not None:
        for j, k in itertools.combinations(range(len(terms)), 2):
            r = np.sign(terms[j][0]) * np.sign(terms[k][0]) * correlation(j, k)
            (down, up), (other_down, other_up) = distances[j], distances[k]
            below = below + np.where(r > 0, 2 * r * down * other_down, 0.0)
            above = above + np.where(r > 0, 2 * r * up * other_up, 0.0)
    return value - np.sqrt(below), value + np.sqrt(above)


def around(value: Floats, quantile: Floats, below: Floats, above: Floats) -> Pair:
    """X exp(-q sqrt(below)), X exp(q sqrt(above)); 0 and infinity where the data cannot bound X.

    Args:
        value: X, the estimate.
        quantile: q.
        below: variance of log X downwards.
        above: variance of log X upwards.
    """
    low, high = value * np.exp(-quantile * np.sqrt(below)), value * np.exp(quantile * np.sqrt(above))
    known = np.isfinite(below) & np.isfinite(above) & (value > 0) & np.isfinite(quantile)
    return np.where(known, low, 0.0), np.where(known, high, np.inf)


def jackknife_covariance(left: Floats, right: Floats) -> Floats:
    """Delete-one-cluster jackknife covariance."""
    clusters = left.shape[-1]
    centred = left - left.mean(axis=-1, keepdims=True)
    other = centred if right is left else right - right.mean(axis=-1, keepdims=True)
    return (clusters - 1) / clusters * np.einsum("...i,...i->...", centred, other)


def icc_limits(ratio: Pair) -> Pair:
    """Limits of the icc from those of V_{y|x} / (V_g + V_{x|g})."""
    return 1 / (1 + ratio[1]), 1 / (1 + ratio[0])

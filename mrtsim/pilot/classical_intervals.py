"""Interval methods to compare the default with: that of version 0.1.0, the plain jackknife, F, and the bootstrap.

They rest on unweighted mean squares: `between` compares totals of prompt means over groups (ultimate clusters; without
groups it is the variance of the prompt means), `prompts` prompts within their group, `response` responses to one
prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from mrtsim.estimates import t_quantile
from mrtsim.pilot.intervals import (
    Limits,
    around,
    icc_limits,
    jackknife_covariance,
    mover,
    register_interval_method,
)
from mrtsim.pilot.mean_squares import shape, unseen_tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrtsim.pilot.sums import PromptSums

    Floats = NDArray[np.float64]
    Pair = tuple[Floats, Floats]
    Total = Callable[[Floats], Floats]

RESAMPLES = 200
CELLS_AT_ONCE = 2**24


class UnweightedMeanSquares(NamedTuple):
    """Mean squares with expectations

    between: between_group V_g + V_{x|g} + between_response V_{y|x},
    prompts:                    V_{x|g} + prompts_response V_{y|x},
    response:                                         V_{y|x}.

    `prompts` is None without groups.
    """

    between: Floats
    between_group: Floats
    between_response: Floats
    prompts: Floats | None
    prompts_response: Floats | None
    response: Floats

    def target(self, redundancy: float) -> Pair:
        """S and h with E S = r V_g + V_{x|g} + h V_{y|x}, r the redundancy (V_x + h V_{y|x} without groups)."""
        if self.prompts is None or self.prompts_response is None:
            return self.between, self.between_response
        share = redundancy / self.between_group
        return (
            share * self.between + (1 - share) * self.prompts,
            share * self.between_response + (1 - share) * self.prompts_response,
        )

    def excess(self, redundancy: float) -> Floats:
        """F = S / (h V_{y|x}), which estimates 1 + (r V_g + V_{x|g}) / (h V_{y|x}); MSB/MSW where balanced."""
        s, h = self.target(redundancy)
        return s / (h * self.response)


def over_clusters(values: Floats) -> Floats:
    """Sum over clusters, (..., clusters) -> (..., 1)."""
    return values.sum(axis=-1, keepdims=True)


def leave_one_out(values: Floats) -> Floats:
    """Sums over all clusters but each in turn, (..., clusters) -> (..., clusters)."""
    return over_clusters(values) - values


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def unweighted_mean_squares(sums: PromptSums, total: Total = over_clusters) -> UnweightedMeanSquares:
    """The mean squares of a pilot, or of the pilots that other ways to add clusters make of it.

    A cluster is a group, or a prompt without groups. `total` adds the clusters' contributions on the last axis: all of
    them, all but one (the jackknife), or with random weights (the bootstrap).
    """
    inverse = sums.per_cluster(1 / sums.counts)
    size = sums.group_sizes
    deviations, totals = _deviations(sums)
    n, n2, n3 = total(size), total(size**2), total(size**3)
    shift = total(deviations) / n
    squares = total(deviations**2) - 2 * shift * total(deviations * size) + shift**2 * n2
    degrees = n - n2 / n

    prompts = prompts_response = None
    if sums.starts is not None:
        within_groups = sums.per_cluster((sums.means - sums.per_prompt(totals / size)) ** 2)
        prompts = total(within_groups) / total(size - 1)
        prompts_response = total((1 - 1 / size) * inverse) / total(size - 1)
    return UnweightedMeanSquares(
        between=squares / degrees,
        between_group=(n2 - 2 * n3 / n + (n2 / n) ** 2) / degrees,
        between_response=(total(inverse) * (1 + n2 / n**2) - 2 * total(inverse * size) / n) / degrees,
        prompts=prompts,
        prompts_response=prompts_response,
        response=total(sums.per_cluster(sums.within)) / total(sums.per_cluster(sums.counts - 1)),
    )


def _deviations(sums: PromptSums) -> Pair:
    """Each cluster's total of prompt means, less what its size alone would give; and the totals."""
    size, totals = sums.group_sizes, sums.per_cluster(sums.means)
    return totals - size * (over_clusters(totals) / size.sum()), totals


@register_interval_method("0.1.0")
def version_0_1_0(sums: PromptSums, confidence: float, redundancy: float) -> Limits:
    """The method of version 0.1.0: unweighted, jackknife with a tail from skewness, MOVER without correlation.

    Args:
        sums: the pilot, or several of one design.
        confidence: level of the intervals.
        redundancy: r, prompts per group in the corpus that the ratio is for.
    """
    return _jackknifed(
        sums, confidence, redundancy, unseen_tail(*shape(_deviations(sums)[0]), sums.group_sizes.size)
    )


@register_interval_method("jackknife")
def jackknife(sums: PromptSums, confidence: float, redundancy: float) -> Limits:
    """The plain delete-one-cluster jackknife of log mean squares, t of clusters - 1; sums by MOVER.

    Args:
        sums: the pilot, or several of one design.
        confidence: level of the intervals.
        redundancy: r, prompts per group in the corpus that the ratio is for.
    """
    return _jackknifed(sums, confidence, redundancy, None)


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _jackknifed(sums: PromptSums, confidence: float, redundancy: float, tail: Floats | None) -> Limits:
    full, without = unweighted_mean_squares(sums), unweighted_mean_squares(sums, leave_one_out)
    size = sums.group_sizes

    def bounded(
        function: Callable[[UnweightedMeanSquares], Floats], weights: Floats, extra: Floats | None = None
    ) -> tuple[Floats, Pair]:
        value, logs = function(full)[..., 0], np.log(function(without))
        clusters = size.size if tail is None else weights.sum() ** 2 / (weights**2).sum()
        quantile = t_quantile(clusters - 1, confidence)
        variance = jackknife_covariance(logs, logs) + (0.0 if extra is None else extra)
        return value, around(value, quantile, variance, variance)

    between = bounded(lambda m: m.between, size, tail)
    response = bounded(lambda m: m.response, sums.per_cluster(sums.counts - 1))
    prompts = None if full.prompts is None else bounded(lambda m: cast("Floats", m.prompts), size - 1)
    return _limits(
        full,
        between,
        prompts,
        response,
        lambda r: bounded(lambda m: m.excess(r), size, tail)[1],
        redundancy,
    )


@register_interval_method("F")
@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def f_interval(sums: PromptSums, confidence: float, redundancy: float) -> Limits:
    """Chi-square and F limits, exact for normal losses of equal variance in balanced pilots; V_x by MOVER.

    Source: Searle, Casella and McCulloch 1992, section 3.6; Burdick and Graybill 1992.

    Args:
        sums: the pilot, or several of one design.
        confidence: level of the intervals.
        redundancy: r, prompts per group in the corpus that the ratio is for.
    """
    from scipy import special

    full = unweighted_mean_squares(sums)
    ends = np.array([(1 + confidence) / 2, (1 - confidence) / 2])
    clusters = sums.group_sizes.size
    degrees_response = sums.counts.sum() - sums.n_prompts

    def chi_square(value: Floats, degrees: float) -> tuple[Floats, Pair]:
        quantiles = special.chdtri(degrees, 1 - ends) / degrees
        return value[..., 0], (value[..., 0] / quantiles[0], value[..., 0] / quantiles[1])

    f = special.fdtri(clusters - 1, degrees_response, ends)
    return _limits(
        full,
        chi_square(full.between, clusters - 1),
        None if full.prompts is None else chi_square(full.prompts, sums.n_prompts - clusters),
        chi_square(full.response, degrees_response),
        lambda r: (full.excess(r)[..., 0] / f[0], full.excess(r)[..., 0] / f[1]),
        redundancy,
    )


def _limits(
    full: UnweightedMeanSquares,
    between: tuple[Floats, Pair],
    prompts: tuple[Floats, Pair] | None,
    response: tuple[Floats, Pair],
    excess: Callable[[float], Pair],
    redundancy: float,
) -> Limits:
    """Limits of the components and ratios from those of the mean squares and of F at a redundancy."""

    def ratio(r: float) -> Pair:
        h, (low, high) = full.target(r)[1][..., 0], excess(r)
        return 1 / (h * np.maximum(high - 1, 0)), 1 / (h * np.maximum(low - 1, 0))

    h_between = full.between_response[..., 0]
    if prompts is None or full.prompts_response is None:
        prompt, group = mover((1.0, *between), (-h_between, *response)), None
    else:
        h_prompts, c = full.prompts_response[..., 0], full.between_group[..., 0]
        prompt = mover((1.0, *prompts), (-h_prompts, *response))
        group = mover((1 / c, *between), (-1 / c, *prompts), ((h_prompts - h_between) / c, *response))
    return Limits(
        ratio=ratio(redundancy), icc=icc_limits(ratio(1.0)), response=response[1], prompt=prompt, group=group
    )


@register_interval_method("bootstrap")
@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def bootstrap(sums: PromptSums, confidence: float, redundancy: float) -> Limits:
    """Percentiles over 200 resamples of whole clusters, the same resamples for every pilot of one design.

    Args:
        sums: the pilot, or several of one design.
        confidence: level of the intervals.
        redundancy: r, prompts per group in the corpus that the ratio is for.
    """
    clusters = sums.group_sizes.size
    rng = np.random.default_rng(0)
    blocks = []
    at_once = max(1, CELLS_AT_ONCE // clusters)
    for begin in range(0, RESAMPLES, at_once):
        n = min(at_once, RESAMPLES - begin)
        weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), n).astype(np.float64).T
        drawn = unweighted_mean_squares(sums, lambda values, w=weights: values @ w)
        blocks.append(_components(drawn, redundancy))
    drawn = {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}

    def percentiles(name: str) -> Pair:
        known = np.nan_to_num(drawn[name], posinf=np.inf, neginf=-np.inf)
        low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
        return low, high

    shared, total = percentiles("inverse ratio"), percentiles("inverse ratio, r = 1")
    ratio = 1 / np.maximum(shared[1], 0), 1 / np.maximum(shared[0], 0)
    return Limits(
        ratio=ratio,
        icc=(1 - 1 / (1 + np.maximum(total[0], 0)), 1 - 1 / (1 + np.maximum(total[1], 0))),
        response=percentiles("response"),
        prompt=percentiles("prompt"),
        group=percentiles("group") if "group" in drawn else None,
    )


def _components(drawn: UnweightedMeanSquares, redundancy: float) -> dict[str, Floats]:
    """Components and inverse ratios of resamples."""

    def inverse(r: float) -> Floats:
        s, h = drawn.target(r)
        return s / drawn.response - h

    found = {
        "inverse ratio": inverse(redundancy),
        "inverse ratio, r = 1": inverse(1.0),
        "response": drawn.response,
    }
    if drawn.prompts is None or drawn.prompts_response is None:
        return found | {"prompt": drawn.between - drawn.between_response * drawn.response}
    prompt = drawn.prompts - drawn.prompts_response * drawn.response
    group = (drawn.between - prompt - drawn.between_response * drawn.response) / drawn.between_group
    return found | {"prompt": prompt, "group": group}

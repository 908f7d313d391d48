"""Weighted mean squares of a pilot and their values without one cluster: what intervals and warnings rest on.

A cluster is what is independent of the others: a prompt, or a whole group of prompts where there are groups.
With weights w of the clusters and any value v per cluster, let

    W = sum w,  c = W - sum w^2 / W,  [v] = (sum w v - sum w^2 v / W) / c,  S = sum w (y - mean_w y)^2 / c;

then S has the expectation [Var y] for fixed weights (Searle, Casella and McCulloch 1992, section 3.6). The weights are
those of least variance at the estimated components, as in `docs/theory.md` 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrtsim.pilot.sums import PromptSums

    Floats = NDArray[np.float64]

LEAST_RATIO = (
    0.3  # least V_x / V_{y|x} of the weights: below it single responses would outweigh whole prompts
)
KURTOSIS_OF_SQUARES = 15.0  # of the square of a normal deviation


@dataclass(frozen=True)
class MeanSquare:
    """A mean square with what its limits need; the leading axes are independent pilots.

    Attributes:
        value: (...).
        without: its value without each cluster, (..., clusters).
        clusters: how many clusters of equal weight would know it as well, (...): degrees of freedom plus one.
        effective: how many clusters of equal weight carry its information, (...): what "few" is judged by.
        kurtosis: of the clusters' (for V_{y|x} the prompts') standardised contributions, (...).
        contributions: how many there are.
        normal_kurtosis: what their kurtosis would be with normal effects and endless data.
        tail: variance of its logarithm that this pilot cannot show, (...): see `unseen_tail`.
        common: variance of its logarithm that all clusters share, so that leaving one out does not show it: 2/m of
            vectors that are random sketches of m dimensions.
    """

    value: Floats
    without: Floats
    clusters: Floats
    effective: Floats
    kurtosis: Floats
    contributions: int
    normal_kurtosis: float
    tail: Floats | float = 0.0
    common: float = 0.0

    @property
    def usual_excess(self) -> float:
        """The 75 % point of `kurtosis` - 1 in pilots of this size with normal effects (a fit to simulations)."""
        k, n = self.normal_kurtosis, self.contributions
        return (k - 1) * n / (n + 2 * k - 5)

    @property
    def excess(self) -> Floats:
        """Kurtosis - 1 as a multiple of `usual_excess`."""
        return (self.kurtosis - 1) / self.usual_excess


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares between groups, between the prompts of a group and between the responses to a prompt.

    With groups their expectations are, in this order,

        V_g + between_prompt V_{x|g} + between_response V_{y|x},   V_{x|g} + prompt_response V_{y|x},   V_{y|x};

    without groups `prompts` is None, and `between` has the expectation V_x + between_response V_{y|x}.
    `between_response_without` is that coefficient without each cluster. `skewness` is that of the clusters'
    standardised means, `components` the estimates (V_g, V_{x|g}, V_{y|x}) or (0, V_x, V_{y|x}) that go with the
    mean squares.
    """

    between: MeanSquare
    response: MeanSquare
    between_response: Floats
    between_response_without: Floats
    skewness: Floats
    prompts: MeanSquare | None = None
    between_prompt: Floats | float = 0.0
    prompt_response: Floats | float = 0.0


class Weighted:
    """Weighted sums over clusters, (..., clusters), of all clusters or without each in turn."""

    def __init__(self, weights: Floats) -> None:
        self.weights = weights
        self.total = _sum(weights)
        self.degrees = self.total - _sum(weights**2) / self.total

    def deviations(self, values: Floats) -> Floats:
        """Values less their weighted mean."""
        return values - _sum(self.weights * values) / self.total

    def expected(self, values: Floats) -> Floats:
        """[v], the expectation of the mean square where cluster g has variance v_g; (..., 1)."""
        return _sum((self.weights - self.weights**2 / self.total) * values) / self.degrees

    def mean_square(self, squares: Floats) -> Floats:
        """The mean square of squared deviations, (..., 1)."""
        return _sum(self.weights * squares) / self.degrees

    def _degrees_without(self) -> tuple[Floats, Floats]:
        rest = self.total - self.weights
        return rest, rest - (_sum(self.weights**2) - self.weights**2) / rest

    def expected_without(self, values: Floats) -> Floats:
        """[v] without each cluster."""
        rest, degrees = self._degrees_without()
        first, second = self.weights * values, self.weights**2 * values
        return (_sum(first) - first - (_sum(second) - second) / rest) / degrees

    def mean_square_without(self, squares: Floats) -> Floats:
        """The mean square without each cluster, the weights held fixed."""
        rest, degrees = self._degrees_without()
        own = self.weights * squares
        return (_sum(own) - own * self.total / rest) / degrees


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def weighted_mean_squares(sums: PromptSums, response: MeanSquare | None = None) -> MeanSquares:
    """The mean squares of a pilot, or of many pilots of one design at once.

    `response` is the mean square M between responses where it is not that of `sums`: a prompt's mean then has the
    variance M / counts given the prompt.
    """
    response = response_mean_square(sums) if response is None else response
    return _of_prompts(sums, response) if sums.starts is None else _of_groups(sums, response)


def _of_prompts(sums: PromptSums, response: MeanSquare) -> MeanSquares:
    n = sums.counts
    m = response.value[..., None]
    by = Weighted(np.ones(n.shape[-1]))
    if np.ptp(n) > 0:
        for _ in range(2):
            s = by.mean_square(sums.squares_about_mean(by.weights))
            theta = np.maximum((s - by.expected(1 / n) * m) / m, LEAST_RATIO)
            by = Weighted(n / (1 + theta * n))
    squares = sums.squares_about_mean(by.weights)
    s, h = by.mean_square(squares), by.expected(1 / n)
    variance = np.maximum(s - h * m, 0) + m / n
    theta = np.maximum(s / m - h, 0)
    z = None if sums.vectors else by.deviations(sums.means) / np.sqrt(variance)
    skewness, tail = _skewed(z)
    between = MeanSquare(
        value=s[..., 0],
        without=by.mean_square_without(squares),
        clusters=_effective(by.weights * variance),
        effective=_effective((n / (1 + theta * n)) ** 2),
        kurtosis=shape(squares / variance, centre=True)[1],
        contributions=n.shape[-1],
        normal_kurtosis=KURTOSIS_OF_SQUARES,
        tail=tail,
        common=_sketched(sums),
    )
    return MeanSquares(
        between=between,
        response=response,
        between_response=h[..., 0],
        between_response_without=by.expected_without(1 / n),
        skewness=skewness,
    )


def response_mean_square(*samples: PromptSums) -> MeanSquare:
    """M, the mean square between the responses to a prompt; of two models on the same prompts the sum of both."""
    parts = [(s.per_cluster(s.within), s.per_cluster(s.counts - 1)) for s in samples]
    values = [_sum(own) / degrees.sum() for own, degrees in parts]
    both = np.sum([degrees for _, degrees in parts], axis=0)
    several = both > 0
    spread = np.sum([own - d * value for (own, d), value in zip(parts, values, strict=True)], axis=0)
    clusters = np.asarray(_effective(both))
    return MeanSquare(
        value=np.sum(values, axis=0)[..., 0],
        without=np.sum([(_sum(own) - own) / (d.sum() - d) for own, d in parts], axis=0),
        clusters=clusters,
        effective=clusters,
        kurtosis=shape(spread[..., several] / np.sqrt(both[several]), centre=True)[1],
        contributions=int(several.sum()),
        normal_kurtosis=3 + 12 * float((1 / both[several]).mean()),
        common=max(map(_sketched, samples)),
    )


def _of_groups(sums: PromptSums, response: MeanSquare) -> MeanSquares:
    n, r = sums.counts, sums.group_sizes
    m = response.value[..., None]
    u, theta_group, by = np.ones(n.shape[-1]), np.zeros(1), None
    for last in (False, False, True):
        size = sums.per_cluster(u)  # U_g
        centres = sums.per_cluster(u * sums.means) / size
        squares = sums.per_cluster(u * sums.squared(sums.means - sums.per_prompt(centres)))  # Q_g
        shares = sums.per_cluster(u**2) / size
        degrees = size - shares
        noise = sums.per_cluster(u / n) - sums.per_cluster(u**2 / n) / size
        a, h_a = _sum(squares) / _sum(degrees), _sum(noise) / _sum(degrees)
        by = Weighted(size / (1 + theta_group * size) if by else np.ones(r.size))
        own_prompt = shares / size  # sum u^2 / U^2: what a group's mean has of V_{x|g}
        own_response = sums.per_cluster(u**2 / n) / size**2
        deviations = by.deviations(centres)
        squares_between = sums.squared(deviations)
        b, p, h_b = by.mean_square(squares_between), by.expected(own_prompt), by.expected(own_response)
        v_prompt = a - h_a * m
        v_group = b - p * a + (p * h_a - h_b) * m
        theta_group = np.maximum(v_group / m, 0)
        if not last:
            u = n / (1 + np.maximum(v_prompt / m, LEAST_RATIO) * n)

    v_prompt, v_group = np.maximum(v_prompt, 0), np.maximum(v_group, 0)
    variance = v_group + v_prompt * own_prompt + m * own_response
    skewness, tail = _skewed(None if sums.vectors else deviations / np.sqrt(variance))
    several = r > 1
    expected = v_prompt * degrees + m * noise
    spread = (squares / expected - 1)[..., several] * np.sqrt(r[several] - 1)
    within_groups = _effective(r - 1)
    between = MeanSquare(
        value=b[..., 0],
        without=by.mean_square_without(squares_between),
        clusters=_effective(by.weights * variance),
        effective=_effective((size / (1 + theta_group * size)) ** 2),
        kurtosis=shape(squares_between / variance, centre=True)[1],
        contributions=r.size,
        normal_kurtosis=KURTOSIS_OF_SQUARES,
        tail=tail,
        common=_sketched(sums),
    )
    prompts = MeanSquare(
        value=a[..., 0],
        without=(_sum(squares) - squares) / (_sum(degrees) - degrees),
        clusters=within_groups,
        effective=within_groups,
        kurtosis=shape(spread, centre=True)[1],
        contributions=int(several.sum()),
        normal_kurtosis=3 + 12 * float((1 / (r[several] - 1)).mean()),
        common=_sketched(sums),
    )
    return MeanSquares(
        between=between,
        response=response,
        between_response=h_b[..., 0],
        between_response_without=by.expected_without(own_response),
        skewness=skewness,
        prompts=prompts,
        between_prompt=p[..., 0],
        prompt_response=h_a[..., 0],
    )


def _skewed(z: Floats | None) -> tuple[Floats, Floats]:
    """Skewness of standardised means and the tail that it announces; vectors have neither."""
    if z is None:
        return np.zeros(()), np.zeros(())
    skewness, kurtosis = shape(z)
    return skewness, unseen_tail(skewness, kurtosis, z.shape[-1])


def _sketched(sums: PromptSums) -> float:
    """Variance that a random sketch adds to the logarithm of a trace, in the worst case of one direction."""
    return 0.0 if sums.sketch is None else 2 / sums.sketch


def unseen_tail(skewness: Floats, kurtosis: Floats, clusters: int) -> Floats:
    """Variance of a log mean square that few clusters cannot show, from their skewness.

    The jackknife knows the kurtosis of the clusters at hand, about (kurtosis - 1) / clusters; a skewed distribution
    has more of it than a small sample shows. Where a log-normal with the sample's skewness has a higher kurtosis than
    the sample (and than a normal), the difference over the number of clusters is added. The rule, with the log-normal
    as the yardstick, was chosen by the coverage study, not derived.

    Args:
        skewness: of the clusters.
        kurtosis: of the clusters.
        clusters: how many there are.
    """
    skewness = np.abs(skewness)
    # A log-normal's skewness is x^3 + 3 x with x^2 = exp(sigma^2) - 1: Cardano's root, then its kurtosis.
    root = np.cbrt(np.sqrt(skewness**2 / 4 + 1) + skewness / 2)
    w = 1 + (root - 1 / root) ** 2
    lognormal = w**4 + 2 * w**3 + 3 * w**2 - 3
    return np.maximum(lognormal - np.maximum(kurtosis, 3), 0) / clusters


def shape(values: Floats, *, centre: bool = False) -> tuple[Floats, Floats]:
    """Skewness and kurtosis on the last axis, about 0 or about the mean; 0 where all values are."""
    if centre:
        values = values - values.mean(axis=-1, keepdims=True)
    largest = np.abs(values).max(axis=-1, keepdims=True)
    scaled = values / np.where(largest > 0, largest, 1.0)
    squares = scaled * scaled
    second = squares.mean(axis=-1)
    second = np.where(second > 0, second, 1.0)
    n = values.shape[-1]
    third, fourth = (np.einsum("...i,...i->...", squares, x) / n for x in (scaled, squares))
    return third / second**1.5, fourth / second**2


def _sum(values: Floats) -> Floats:
    return values.sum(axis=-1, keepdims=True)


def _effective(weights: Floats) -> Floats:
    """How many equal weights are worth as much, (sum w)^2 / sum w^2."""
    return weights.sum(axis=-1) ** 2 / (weights**2).sum(axis=-1)

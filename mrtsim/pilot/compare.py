"""Two models on the same prompts: their difference with its interval, its components, and what the design can show.

With D(x) = mu_A(x) - mu_B(x), V_D = Var D and W_m = E s_m^2 the difference of the mean losses over N prompts has the
variance (V_D + W_A/K_A + W_B/K_B) / N where responses are independent given the prompt. Where they come in pairs
(shared seeds), the pairs' differences are analysed as one sample: (V_D + W/K) / N with W = E Var(l_A - l_B | x).
Sources: Miller (2024, arXiv:2411.00640); Cochran (1977), *Sampling Techniques*, sections 10.3 and 10.6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mrtsim.display import Display, plain
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.pilot.common_prompts import CommonPrompts, common_prompts, rounding
from mrtsim.pilot.estimate import anova_components, component_estimate
from mrtsim.pilot.intervals import limits_of, mean_square_limits
from mrtsim.pilot.mean_squares import (
    LEAST_RATIO,
    MeanSquare,
    MeanSquares,
    Weighted,
    response_mean_square,
    weighted_mean_squares,
)
from mrtsim.pilot.sums import PromptSums, given_prompts_error
from mrtsim.pilot.text import comparison_rows, comparison_text, warning_lines
from mrtsim.pilot.warnings import FEW, HEAVY, SMALL, at_risk, repeated
from mrtsim.plan.power import Detectable, Rule
from mrtsim.variance import DifferenceComponents

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

# Of experiments/comparisons.py, in per cent; a test compares them with the stored results.
LOG_NORMAL_HELD = {20: 87, 50: 90, 200: 93}
LOG_NORMAL_POWER = (76, 97)


@dataclass(frozen=True)
class Comparison(Display):
    """The difference of two models on the same prompts; `print` it for the text of `mrtsim compare`.

    Attributes:
        difference: mean of model A less that of model B, with its t interval; limits and standard error are NaN where
            they are not known, the limits also where no difference was seen at all (a standard error of 0).
        components: V_D, W_A, W_B (with pairs also W), raw estimates; NaN what is not known.
        prompt: V_D with its interval, or V_{D|g} where the prompts come in groups; None where it is not known.
        group: V_g of the difference; None without groups.
        response_a: W_A; None where model A has one response per prompt.
        response_b: W_B.
        response: W of the difference of a pair; None without pairs.
        correlation: rho, of the two models' mean losses per prompt, without the noise of responses; NaN where it is
            not known or outside [-1, 1].
        mean_a: mean loss of model A over prompts, weighted as the difference is.
        mean_b: of model B.
        detectable: the least difference that this design shows with the power asked for.
        n_prompts: prompts of both models.
        n_dropped: prompts of one model only, left out.
        n_responses_a: responses of model A to the prompts of both.
        n_responses_b: of model B.
        n_groups: groups of prompts; None without.
        equal_responses: whether both models have equally many responses to every prompt.
        redundancy: r, prompts per group; 1 without groups.
        population: P of a given set of prompts, or None.
        rule: confidence and power.
        warnings: what a reader must know before acting on the numbers.
    """

    difference: Estimate
    components: DifferenceComponents
    prompt: Estimate | None
    group: Estimate | None
    response_a: Estimate | None
    response_b: Estimate | None
    response: Estimate | None
    correlation: float
    mean_a: float
    mean_b: float
    detectable: Detectable
    n_prompts: int
    n_dropped: int
    n_responses_a: int
    n_responses_b: int
    n_groups: int | None
    equal_responses: bool
    redundancy: float
    population: int | None
    rule: Rule
    warnings: tuple[str, ...]

    @property
    def planning(self) -> DifferenceComponents:
        """The components for `allocate_comparison`: of one prompt of the corpus, r V_g + V_{D|g}, and of responses.

        Raises:
            InputError: a component is not known.
        """
        unknown = [name for name, w in (("A", self.response_a), ("B", self.response_b)) if w is None]
        if unknown and self.response is None:
            raise InputError(
                f"model {' and model '.join(unknown)} has one response per prompt, so its spread between responses is "
                "not known and nothing can be planned: sample two or more for some prompts"
            )
        c = self.components
        return replace(c, difference=c.difference + self.redundancy * c.group, group=0.0)

    def advantage(self, *, higher_is_better: bool = False) -> Estimate:
        """How much better A is than B, with its one-sided lower limit at the confidence level as `low`.

        Losses: mean of B less mean of A; where higher is better, mean of A less mean of B. A is not inferior by a
        margin m where `low` is above -m.
        """
        value = self.difference.value if higher_is_better else -self.difference.value
        error = self.difference.standard_error
        one_sided = Estimate.from_standard_error(
            value, error, self.detectable.degrees_of_freedom, 2 * self.rule.confidence - 1
        )
        return Estimate(value, one_sided.low if error > 0 else math.nan, math.inf, error)

    def _rows(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return comparison_rows(self)

    def __str__(self) -> str:
        return "\n".join([comparison_text(self), *warning_lines(self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        components = {"difference": self.prompt, "response_a": self.response_a, "response_b": self.response_b}
        components |= {
            name: value for name, value in (("response", self.response), ("group", self.group)) if value
        }
        record = {
            "difference": self.difference,
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "components": components,
            "correlation": self.correlation,
            "detectable": self.detectable.difference,
            "detectable_large_sample": self.detectable.large_sample,
            "degrees_of_freedom": self.detectable.degrees_of_freedom,
            "confidence": self.rule.confidence,
            "power": self.rule.power,
            "n_prompts": self.n_prompts,
            "n_dropped": self.n_dropped,
            "n_responses_a": self.n_responses_a,
            "n_responses_b": self.n_responses_b,
            "warnings": self.warnings,
        }
        if self.n_groups is not None:
            record |= {"n_groups": self.n_groups, "redundancy": self.redundancy}
        return plain(record)

    def plot(self) -> Axes:
        """Draw the difference and what this design can detect, in a new figure of pyplot."""
        from mrtsim.plotting import plot_estimates

        level = f"{100 * self.rule.confidence:g} %"
        axes = plot_estimates(
            [("A - B", self.difference)], f"mean loss of A less that of B, with its {level} interval"
        )
        if math.isfinite(self.detectable.difference):
            for end in (-1, 1):
                axes.axvline(end * self.detectable.difference, linestyle=":", color="grey")
            axes.set_title("dotted: the least difference that this design detects", fontsize="medium")
        return axes


def compare_models(
    losses_a: ArrayLike,
    losses_b: ArrayLike,
    prompts_a: ArrayLike | None = None,
    prompts_b: ArrayLike | None = None,
    pairs: Any = None,
    *,
    groups: Any = None,
    confidence: float = 0.95,
    power: float = 0.8,
    population: int | None = None,
    redundancy: float | None = None,
) -> Comparison:
    """Compare two models by their losses (or rewards) of responses to the same prompts.

    Args:
        losses_a: (rows_a,), one row per response of model A in any order; or (prompts, responses) without prompts.
        losses_b: (rows_b,), of model B.
        prompts_a: (rows_a,), which prompt each row belongs to: text or numbers. Prompts of one model only are dropped
            and counted.
        prompts_b: (rows_b,).
        pairs: where responses come in pairs (the same seed for both models), the name of each row's pair, unique per
            prompt and model: two arrays (rows_a,) and (rows_b,), or one for both models, or True where row i of A (of
            two-dimensional losses each entry) belongs to that of B.
        groups: which group of near-duplicate prompts each row belongs to, as two arrays or one for both models; one
            label per prompt where losses are two-dimensional.
        confidence: level of the intervals.
        power: of `detectable`.
        population: P, where the difference on a given set of P prompts is meant, of which these are a random sample or
            (with as many prompts) all: then only the responses count, and each prompt needs two of each model.
        redundancy: prompts per group of the corpus; by default sum r_g^2 / sum r_g of these groups.

    Returns:
        The difference, its components with intervals, and what to know before acting on them.

    Raises:
        InputError: fewer than two common prompts, a loss that is not finite, a pair that is double or incomplete, a
            prompt in two groups, or an argument that is out of range.
    """
    rule = Rule(confidence, power)
    data = common_prompts((losses_a, prompts_a), (losses_b, prompts_b), pairs, groups)
    sizes = data.a.group_sizes
    if redundancy is None:
        redundancy = float((sizes**2).sum() / sizes.sum())
    elif data.a.starts is None or not (math.isfinite(redundancy) and redundancy >= 1):
        raise InputError("redundancy is the number of prompts in a group, at least 1, and needs groups")
    return _analyse(data, population, redundancy, rule)


# Estimates


def _analyse(data: CommonPrompts, population: int | None, redundancy: float, rule: Rule) -> Comparison:
    d = data.differences
    w_a, w_b, w_pair = (None if sums is None else _response(sums) for sums in (data.a, data.b, data.pair))
    known = all(w is not None for w in ([w_a, w_b] if data.pair is None else [w_pair]))
    noise = response_noise(data.samples) if known else None
    sums, squares = difference_mean_squares(d, data.samples, noise)
    weights = np.ones(d.size)
    if noise is not None and population is None:
        weights = prompt_weights(sums.counts, d, squares.response.value)
    share = weights / weights.sum()
    value, square, freedom = mean_difference(d, share, data.a)
    if population is not None:
        square, freedom = given_prompts_error(d, data.samples, population)
    largest = max(float(np.abs(part.means).max()) for part in (data.a, data.b))
    error = math.sqrt(square) if square > rounding(largest) / d.size else 0.0
    value = float(value)
    difference = Estimate(value, standard_error=error)
    detectable = Detectable(math.nan, math.nan, error**2, freedom)
    if error > 0 and freedom > 0:
        difference = Estimate.from_standard_error(value, error, freedom, rule.confidence)
        detectable = Detectable(rule.noncentrality(freedom) * error, rule.z * error, error**2, freedom)
    v_d, v_g = _between(data, sums, noise)
    components = DifferenceComponents(
        v_d,
        *(math.nan if w is None else w for w in (w_a, w_b)),
        response=None if data.pair is None else math.nan if w_pair is None else w_pair,
        group=v_g,
    )
    prompt = group = None
    if noise is not None:
        limits = limits_of(squares, rule.confidence, redundancy)
        prompt = component_estimate(v_d, limits.prompt)
        group = None if limits.group is None else component_estimate(v_g, limits.group)
    return Comparison(
        difference=difference,
        components=components,
        prompt=prompt,
        group=group,
        response_a=_response_estimate(data.a, w_a, rule),
        response_b=_response_estimate(data.b, w_b, rule),
        response=None if data.pair is None else _response_estimate(data.pair, w_pair, rule),
        correlation=_correlation(data, noise, w_a, w_b),
        mean_a=float(share @ data.a.means),
        mean_b=float(share @ data.b.means),
        detectable=detectable,
        n_prompts=d.size,
        n_dropped=data.dropped,
        n_responses_a=int(data.a.counts.sum()),
        n_responses_b=int(data.b.counts.sum()),
        n_groups=data.a.n_groups,
        equal_responses=bool(np.all(data.a.counts == data.b.counts)),
        redundancy=redundancy,
        population=population,
        rule=rule,
        warnings=tuple(_warnings(data, squares, v_d + redundancy * v_g, error)),
    )


def _response(sums: PromptSums) -> float | None:
    """W, the mean square between the responses to a prompt; None where every prompt has one."""
    degrees = float((sums.counts - 1).sum())
    return float(sums.within.sum()) / degrees if degrees else None


def _response_estimate(sums: PromptSums, w: float | None, rule: Rule) -> Estimate | None:
    if not w:  # where no response differs there is no interval
        return None if w is None else Estimate(w)
    return component_estimate(w, mean_square_limits(response_mean_square(sums), rule.confidence))


def response_noise(samples: Sequence[PromptSums]) -> Floats:
    """Variance of each prompt's mean difference given the prompt, W_A / K_A,i + W_B / K_B,i: (..., prompts)."""
    parts = [s.within.sum(axis=-1, keepdims=True) / (s.counts - 1).sum() / s.counts for s in samples]
    return np.sum(parts, axis=0)


def difference_mean_squares(
    d: Floats, samples: Sequence[PromptSums], noise: Floats | None
) -> tuple[PromptSums, MeanSquares]:
    """The differences as the sums of one sample, and their mean squares; leading axes are independent comparisons.

    The mean square between responses is W_A + W_B (of pairs W), and a prompt counts as many responses as give its
    difference the noise that it has: (W_A + W_B) / (W_A / K_A,i + W_B / K_B,i), which is K_i where both have as many.
    With unequal ones the jackknife neglects that this rests on the estimated W_A : W_B.

    Args:
        d: differences of the mean losses, (..., prompts).
        samples: the independent samples of responses that they rest on.
        noise: their variance given the prompt; None where it is not known.
    """
    starts = samples[0].starts
    if noise is not None and noise.any():
        response = response_mean_square(*samples)
        total = response.value[..., None]
        counts = samples[0].counts
        if any(np.any(sums.counts != counts) for sums in samples):
            counts = total / noise
        sums = PromptSums(counts, d, total * (counts - 1), starts)
        return sums, weighted_mean_squares(sums, response)
    # No noise, or none that is known: all that varies is D.
    sums = PromptSums(np.full(d.shape[-1], 2.0), d, np.zeros(d.shape), starts)
    clusters = sums.group_sizes.size
    nothing = 1e-12 * np.maximum(d.var(axis=-1), 1e-200)
    silent = MeanSquare(
        value=nothing,
        without=np.repeat(nothing[..., None], clusters, axis=-1),
        clusters=np.asarray(float(clusters)),
        effective=np.asarray(float(clusters)),
        kurtosis=np.zeros(nothing.shape),
        contributions=clusters,
        normal_kurtosis=15.0,
    )
    return sums, weighted_mean_squares(sums, silent)


def prompt_weights(counts: Floats, d: Floats, response: Floats) -> Floats:
    """Weights of least variance, as for the mean squares of a pilot; equal where the counts are. (..., prompts)

    Args:
        counts: responses per prompt, (prompts,).
        d: differences, (..., prompts).
        response: mean square of responses, (...).
    """
    by = Weighted(np.ones(d.shape))
    if np.ptp(counts) > 1e-9 * counts.max():
        m = np.asarray(response)[..., None]
        for _ in range(2):
            excess = by.mean_square(by.deviations(d) ** 2) - by.expected(1 / counts) * m
            by = Weighted(counts / (1 + np.maximum(excess / m, LEAST_RATIO) * counts))
    return by.weights


def mean_difference(d: Floats, share: Floats, clusters: PromptSums) -> tuple[Any, Any, float]:
    """The weighted mean difference, its squared standard error, and the degrees of freedom of that.

    The error is that of the delete-one-cluster jackknife: S / sqrt(P) with equal weights and without groups.

    Args:
        d: differences, (..., prompts).
        share: weights that add up to 1, (..., prompts).
        clusters: sums that know the groups of the prompts.
    """
    value = (share * d).sum(axis=-1)
    own = clusters.per_cluster(share * (d - value[..., None]))
    weight = clusters.per_cluster(share)
    n = own.shape[-1]
    return value, (n - 1) / n * ((own / (1 - weight)) ** 2).sum(axis=-1), n - 1.0


def _between(data: CommonPrompts, sums: PromptSums, noise: Floats | None) -> tuple[float, float]:
    """V_D (within groups) and V_g by equating mean squares with their expectations; may be negative."""
    if noise is None:
        return math.nan, 0.0 if sums.starts is None else math.nan
    if data.pair is None and sums.starts is None:
        return float(np.var(sums.means, ddof=1) - noise.mean()), 0.0
    group, prompt, _ = anova_components(sums)
    return float(prompt), float(group)


def _correlation(data: CommonPrompts, noise: Floats | None, w_a: float | None, w_b: float | None) -> float:
    """rho = (V_A + V_B - V_D) / (2 sqrt(V_A V_B)), each a sample variance less the noise of responses."""
    if noise is None or w_a is None or w_b is None:
        return math.nan
    v_a, v_b, v_d = (
        float(np.var(means, ddof=1) - np.mean(own))
        for means, own in (
            (data.a.means, w_a / data.a.counts),
            (data.b.means, w_b / data.b.counts),
            (data.differences, noise),
        )
    )
    if min(v_a, v_b) <= 0:
        return math.nan
    rho = (v_a + v_b - v_d) / (2 * math.sqrt(v_a * v_b))
    return rho if -1 <= rho <= 1 else math.nan


def _warnings(data: CommonPrompts, squares: MeanSquares, effective: float, error: float) -> Iterator[str]:
    """What a reader must know before acting on the numbers, by the rules of a pilot (`mrtsim.pilot.warnings`)."""
    grouped = data.a.starts is not None
    unit, n = ("group" if grouped else "prompt"), squares.between.contributions
    if error == 0:
        yield (
            "no difference between the models varies in these data, so there is no standard error and no interval: is "
            "one model compared with itself?"
        )
        return
    if effective <= 0:
        yield (
            f"V_D is estimated at {effective:.3g}, not above 0: the difference does not vary over prompts beyond the "
            "noise of responses, and no plan can rest on that; cap the responses per prompt, or compare on more "
            f"{unit}s"
        )
    for model, sums in (("A", data.a), ("B", data.b)):
        yield from repeated(sums.copies, f"model {model}: ")
    few = float(squares.between.effective)
    if few < FEW - 1e-6:  # rounding
        worth = (
            f"{n} {unit}s are few"
            if round(few) == n
            else f"the {n} {unit}s are worth only {few:.0f} of equal weight"
        )
        yield (
            f"{worth}: t intervals of a difference held it in 93 to 97 % of simulated comparisons from {FEW} on where "
            "differences were normal or binary"
        )
    if n < SMALL:
        share = 100 * (1 - 0.05 ** (1 / n))
        yield (
            f"a comparison on {n} {unit}s cannot show rare large differences, warned of or not: a kind of {unit} that "
            f"makes up {share:.0f} % of the population is absent from one such comparison in 20"
        )
    risk = at_risk(squares)
    if risk.between:
        reason = f"skewness {float(squares.skewness):.2g}"
        if squares.between.excess > HEAVY:
            reason += f", and few {unit}s hold most of their squared deviations"
        yield (
            f"the difference's interval and power may be off: the differences of the {unit}s are skewed or far out "
            f"({reason}). With log-normal differences (sigma 1) 95 % t intervals held the mean in "
            f"{', '.join(f'{held} % on {size}' for size, held in LOG_NORMAL_HELD.items())} prompts of simulated "
            f"comparisons, and the power promised as 80 % was {LOG_NORMAL_POWER[0]} to {LOG_NORMAL_POWER[1]} %"
        )
    if risk.response:
        yield f"the intervals of W may be too short: few {unit}s hold most of the spread between responses"

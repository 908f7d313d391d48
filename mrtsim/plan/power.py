"""Power: the chance of a design to show a difference, and the least difference that it shows.

A difference D is shown where its t interval excludes 0 on the right side. With an estimate of variance v and a
standard error on f degrees of freedom that has the chance P(T > t_{1-a/2, f}), T noncentral t with noncentrality
D / sqrt(v): exact for normal prompt means. Sources: Miller (2024, arXiv:2411.00640) for evaluations; Cochran (1977),
*Sampling Techniques*, sections 10.3 and 10.6, for the variance; Johnson, Kotz and Balakrishnan (1995), chapter 31, for
noncentral t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrtsim.errors import InputError
from mrtsim.variance import DifferenceComponents, VarianceComponents

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

ROUNDING = 1e-11  # of a power


@dataclass(frozen=True)
class Rule:
    """How a difference is judged: the level of the interval, the chance asked for, one side or two.

    Attributes:
        confidence: level of the interval (one-sided: of the limit).
        power: chance to show the difference.
        one_sided: whether only one limit counts, as in a test of non-inferiority.

    Raises:
        InputError: a level outside (0, 1), or a power that no difference at all would have.
    """

    confidence: float = 0.95
    power: float = 0.8
    one_sided: bool = False

    def __post_init__(self) -> None:
        for name, value in (("confidence", self.confidence), ("power", self.power)):
            if not 0 < value < 1:
                raise InputError(f"{name} is {value!r}; it must lie between 0 and 1, such as 0.8")
        if self.power <= self.level + ROUNDING:
            raise InputError(
                f"at {100 * self.confidence:g} % confidence no difference at all has a power of {self.level:g}: "
                f"{self.power:g} must be above it"
            )

    @property
    def level(self) -> float:
        """The chance to show a difference of 0 on the side in question."""
        return (1 - self.confidence) if self.one_sided else (1 - self.confidence) / 2

    @property
    def z(self) -> float:
        """z_{1-a/2} + z_P: the noncentrality needed were the standard error known."""
        from scipy.special import ndtri

        return float(ndtri(1 - self.level) + ndtri(self.power))

    def power_at(self, noncentrality: ArrayLike, freedom: ArrayLike) -> Floats:
        """The power at a difference of `noncentrality` standard errors; 0 where there are no degrees of freedom."""
        from scipy import special

        shift, freedom = np.broadcast_arrays(np.asarray(noncentrality, float), np.asarray(freedom, float))
        known = freedom > 0
        df = np.where(known, freedom, 1.0)
        t = special.stdtrit(df, 1 - self.level)
        power = 1 - special.nctdtr(df, np.minimum(shift, 1e3), t)
        # Beyond the range of nctdtr the numerator of T hardly varies beside its denominator.
        power = np.where(np.isnan(power), special.chdtr(df, df * np.square(shift / t)), power)
        return np.where(known, power, 0.0)

    def noncentrality(self, freedom: float) -> float:
        """The noncentrality at which the power is reached; infinite without degrees of freedom."""
        from scipy import special

        if not freedom > 0:
            return math.inf
        t = special.stdtrit(freedom, 1 - self.level)
        x = float(special.nctdtrinc(freedom, 1 - self.power, t))
        for _ in range(3):  # nctdtrinc stops at 1e-8
            step = 1e-4 * max(1.0, abs(x))
            ends = self.power_at(np.array([x - step, x, x + step]), freedom)
            x += float((self.power - ends[1]) * 2 * step / (ends[2] - ends[0]))
        return x


@dataclass(frozen=True)
class Sampling:
    """What a design's estimate varies by, and how well its standard error is known.

    Attributes:
        between: V_x of the mean, or V_D of a difference (with groups r V_g + V_{x|g}).
        responses: W of each independent sample of responses, of one or of two models.
        population: P of a given set of prompts, or None.
        redundancy: r, prompts per group; whole groups are the independent units.
        first: K of the first sample, where only that of the second is free.
    """

    between: float
    responses: tuple[float, ...]
    population: int | None = None
    redundancy: float = 1.0
    first: int | None = None

    def counts(self, k: Any) -> tuple[Any, ...]:
        """K of each sample of responses where the free one is k."""
        return (k,) * len(self.responses) if self.first is None else (self.first, k)

    def line(self) -> tuple[float, float]:
        """a and b with N Var = a + b / k in the population."""
        if self.first is None:
            return self.between, sum(self.responses)
        return self.between + self.responses[0] / self.first, self.responses[1]

    def moments(self, n: Any, k: Any) -> tuple[Floats, Floats]:
        """Variance and degrees of freedom of N prompts with K responses.

        Of a given set of P prompts the share f = N / P is known: (1 - f) of the variance of a prompt's mean is left,
        with the degrees of freedom of the prompts (groups), and f of that of responses, with those of the responses
        (Cochran 10.3; the two are combined by Satterthwaite's rule).
        """
        n = np.asarray(n, float)
        share = n / self.population if self.population else np.zeros_like(n)
        noise = [w / c for w, c in zip(self.responses, self.counts(np.asarray(k, float)), strict=True)]
        prompts = (1 - share) * (self.between + sum(noise)) / n
        response = [share * e / n for e in noise]
        variance = prompts + sum(response)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [(prompts, n / self.redundancy - 1)]
            parts += [
                (v, n * (c - 1)) for v, c in zip(response, self.counts(np.asarray(k, float)), strict=True)
            ]
            scatter = sum(np.where(v == 0, 0.0, np.where(df > 0, v * v / df, np.inf)) for v, df in parts)
            freedom = np.where(scatter == 0, np.maximum(n / self.redundancy - 1, 0), variance**2 / scatter)
        return variance, freedom


@dataclass(frozen=True)
class Detectable:
    """The least difference that a design shows with a given power; `float()` gives `difference`.

    Attributes:
        difference: by noncentral t, which knows that the standard error is an estimate; infinite where it has no
            degrees of freedom.
        large_sample: (z_{1-a/2} + z_P) sqrt(variance).
        variance: of the estimated difference.
        degrees_of_freedom: of its standard error.
    """

    difference: float
    large_sample: float
    variance: float
    degrees_of_freedom: float

    def __float__(self) -> float:
        return self.difference


def detectable_difference(
    components: DifferenceComponents | VarianceComponents | Sequence[float],
    n_prompts: int,
    k_a: int,
    k_b: int | None = None,
    *,
    correlation: float | None = None,
    confidence: float = 0.95,
    power: float = 0.8,
    one_sided: bool = False,
    population: int | None = None,
    redundancy: float = 1.0,
) -> Detectable:
    """The least difference that N_p prompts with K_A and K_B responses show with a given power.

    Args:
        components: V_D, W_A and W_B of two models (`compare_models` estimates them, or three numbers); or V_x and
            V_{y|x} of one model, whose mean is compared with a constant, or with another model like it where
            `correlation` is given.
        n_prompts: N_p, common to both models.
        k_a: K_A, responses per prompt of model A (or of the one model).
        k_b: K_B; by default K_A.
        correlation: rho, of two models' mean losses per prompt: V_D = 2 V_x (1 - rho), W = V_{y|x} each.
        confidence: level of the interval that must exclude 0.
        power: chance that it does.
        one_sided: whether one limit is judged, as for non-inferiority.
        population: P, for the difference on a given set of P prompts.
        redundancy: r, prompts per group; the standard error then rests on N_p / r groups.

    Returns:
        The difference by noncentral t and by the normal distribution, the variance and its degrees of freedom.

    Raises:
        InputError: a number out of range, or a correlation where two models are given.
    """
    rule = Rule(confidence, power, one_sided)
    sampling = sampling_of(components, correlation, population, redundancy)
    n, ks = (
        whole_number("n_prompts", n_prompts),
        (whole_number("k_a", k_a), whole_number("k_b", k_a if k_b is None else k_b)),
    )
    if population is not None and n > population:
        raise InputError(f"n_prompts = {n} is more than population = {population}")
    if len(sampling.responses) == 1:
        if ks[0] != ks[1]:
            raise InputError("k_b belongs to a second model: one sample of responses (or pairs) has one K")
    elif ks[0] != ks[1]:
        sampling = Sampling(sampling.between, sampling.responses, population, redundancy, first=ks[0])
    return detectable(sampling, n, ks[-1], rule)


def detectable(sampling: Sampling, n: int, k: int, rule: Rule) -> Detectable:
    """The least difference that a sampling design shows.

    Args:
        sampling: what the estimate varies by.
        n: N_p.
        k: K, or K_B where K_A is fixed.
        rule: confidence, power and sides of the test.
    """
    variance, freedom = (float(x) for x in sampling.moments(n, k))
    error = math.sqrt(variance)
    return Detectable(
        rule.noncentrality(freedom) * error if error else 0.0, rule.z * error, variance, freedom
    )


def sampling_of(
    components: DifferenceComponents | VarianceComponents | Sequence[float],
    correlation: float | None,
    population: int | None = None,
    redundancy: float = 1.0,
) -> Sampling:
    """The variances of a mean, of a difference, or of the difference of two models like one (see the module).

    Args:
        components: of one model or of a difference.
        correlation: rho, where the difference of two models like the one is meant.
        population: P, of a given set of prompts.
        redundancy: r, prompts per group.

    Raises:
        InputError: components that are not 0 or above, or a correlation that is out of range or does not belong.
    """
    if redundancy < 1 or not math.isfinite(redundancy):
        raise InputError(f"redundancy is the number of prompts in a group, at least 1, not {redundancy!r}")
    if population is not None:
        population = whole_number("population", population)
        if redundancy != 1:
            raise InputError(
                "population describes simple random draws of prompts: it does not go with redundancy"
            )
    if not isinstance(components, DifferenceComponents | VarianceComponents):
        components = DifferenceComponents(*(float(v) for v in components))
    if isinstance(components, DifferenceComponents):
        if correlation is not None:
            raise InputError(
                "correlation makes two models out of one: here the components of a difference are given"
            )
        between = components.difference + redundancy * components.group
        responses = components.samples
    else:
        between, responses = components.prompt + redundancy * components.group, (components.response,)
        if correlation is not None:
            if not -1 <= correlation <= 1:
                raise InputError(f"correlation is {correlation!r}; it must lie between -1 and 1")
            between, responses = 2 * (1 - correlation) * between, responses * 2
    for name, value in (("between prompts", between), *(("of the responses", w) for w in responses)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"the variance {name} must be a finite number, 0 or above, not {value!r}")
    return Sampling(between, responses, population, redundancy)


def whole_number(name: str, value: Any) -> int:
    """A count of at least 1, or an InputError that calls it by `name`."""
    try:
        whole = int(value)
        valid = whole == value and 1 <= whole <= 10**15
    except (TypeError, ValueError, OverflowError):
        whole, valid = 0, False
    if not valid:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    return whole

"""Plans for a power: the cheapest design that shows a difference, and the least difference that a design shows.

A difference D is shown where its t interval excludes 0 on the right side. With an estimate of variance v and a
standard error on f degrees of freedom that has the chance P(T > t_{1-a/2, f}), T noncentral t with noncentrality
D / sqrt(v): exact for normal prompt means. Sources: Miller (2024, arXiv:2411.00640) for evaluations; Cochran (1977),
*Sampling Techniques*, sections 10.3 and 10.6, for the variance; Johnson, Kotz and Balakrishnan (1995), chapter 31, for
noncentral t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mrtsim.errors import InputError
from mrtsim.plan.allocate import LEAST, MOST, Cost, Plan, RegretCurve
from mrtsim.plan.text import Case
from mrtsim.variance import DifferenceComponents, VarianceComponents

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

MOST_PROMPTS = 10**12
MOST_CANDIDATES = 20_000  # values of K; a wider window is thinned, and `gap` says what that may cost
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
class PowerPlan(Plan):
    """A plan for a power: `Plan`, and what it can show.

    Attributes:
        power: chance to show the difference asked for (noncentral t).
        detectable: the least difference that it shows with the power asked for (noncentral t).
        large_sample_detectable: the same were the standard error known, z sqrt(variance).
        curve: what other K cost.
    """

    power: float
    detectable: float
    large_sample_detectable: float
    curve: RegretCurve = field(repr=False, compare=False)


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
    n, ks = _whole("n_prompts", n_prompts), (_whole("k_a", k_a), _whole("k_b", k_a if k_b is None else k_b))
    if population is not None and n > population:
        raise InputError(f"n_prompts = {n} is more than population = {population}")
    if len(sampling.responses) == 1:
        if ks[0] != ks[1]:
            raise InputError("k_b belongs to a second model: one sample of responses (or pairs) has one K")
    elif ks[0] != ks[1]:
        sampling = Sampling(sampling.between, sampling.responses, population, redundancy, first=ks[0])
    return detectable(sampling, n, ks[-1], rule)


def detectable(sampling: Sampling, n: int, k: int, rule: Rule) -> Detectable:
    """`detectable_difference` of a sampling design.

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
        population = _whole("population", population)
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


def allocate_for_power(
    components: DifferenceComponents | VarianceComponents,
    cost: Cost,
    detect: float,
    *,
    power: float = 0.8,
    confidence: float = 0.95,
    correlation: float | None = None,
    one_sided: bool = False,
    max_responses: int | None = None,
    max_prompts: int | None = None,
    population: int | None = None,
    n_prompts: int | None = None,
    responses_per_prompt: int | None = None,
    redundancy: float = 1.0,
) -> PowerPlan:
    """The cheapest whole-number plan that shows a difference of `detect` with a given power.

    Every (N_p, K) has its power by noncentral t; the search over K takes for each the least N_p. A normal approximation
    would need about z^2 / 2 prompts fewer, where z is the quantile of the interval.

    Args:
        components: of one model, whose mean is compared with a constant, or with another model like it where
            `correlation` is given; or of a difference. 0 is allowed, negative estimates are not.
        cost: C_p, and C_r of one response (with two models: to each, and K is that of each model).
        detect: the difference D to show, above 0; for non-inferiority the margin plus the advantage.
        power: chance to show it.
        confidence: level of the interval that must exclude 0.
        correlation: rho, of two models' mean losses per prompt.
        one_sided: whether one limit is judged, as for non-inferiority.
        max_responses: the largest K.
        max_prompts: the largest N_p.
        population: P, for a given set of P prompts.
        n_prompts: N_p, where it is fixed and only K is asked for.
        responses_per_prompt: K, where it is fixed and only N_p is asked for.
        redundancy: r, prompts per group; the standard error then rests on N_p / r groups.

    Returns:
        The plan; among equals of the least cost that of the least variance, then of the smallest K.

    Raises:
        InputError: a number out of range; caps that leave no plan of that power (with the least difference that they
            allow); no finite optimum (free responses) without `max_responses`.
    """
    sampling = sampling_of(components, correlation, population, redundancy)
    limits = Caps(max_responses, max_prompts, population, n_prompts, responses_per_prompt)
    prices = (
        cost.prompt,
        cost.response * (len(sampling.responses) if isinstance(components, VarianceComponents) else 1),
    )
    rule, kept = Rule(confidence, power, one_sided), {"redundancy": redundancy, "population": population}
    case = Case(components, cost, kept, float(detect), rule, correlation)
    plan = Search(sampling, float(detect), rule, *prices, limits).plan()
    return replace(plan, _case=case)


@dataclass(frozen=True)
class Caps:
    """The ranges of N_p and K, by the keywords of `allocate`."""

    max_responses: int | None = None
    max_prompts: int | None = None
    population: int | None = None
    n_prompts: int | None = None
    responses_per_prompt: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                _whole(name, value)
        if self.n_prompts and self.responses_per_prompt:
            raise InputError("with both N_p and K fixed nothing is left to choose: see detectable_difference")
        for fixed, caps in (
            ("n_prompts", ("max_prompts", "population")),
            ("responses_per_prompt", ("max_responses",)),
        ):
            for cap in caps:
                if (getattr(self, fixed) or 0) > (getattr(self, cap) or math.inf):
                    raise InputError(
                        f"{fixed} = {getattr(self, fixed)} is more than {cap} = {getattr(self, cap)}"
                    )

    @property
    def most_prompts(self) -> float:
        return self.n_prompts or min(self.max_prompts or math.inf, self.population or math.inf)

    @property
    def most_responses(self) -> float:
        return self.responses_per_prompt or self.max_responses or math.inf


@dataclass(frozen=True)
class Search:
    """The search for the cheapest plan of a power: for each K the least N_p, over the K that could be best."""

    sampling: Sampling
    effect: float
    rule: Rule
    c_prompt: float
    c_response: float
    caps: Caps

    def __post_init__(self) -> None:
        if not (math.isfinite(self.effect) and self.effect > 0):
            raise InputError(f"the difference to detect must be a finite number above 0, not {self.effect!r}")
        a, b = self.sampling.line()
        for name, value in (("difference to detect", self.effect), ("variance", a), ("variance", b)):
            if value and not LEAST <= value <= MOST:
                raise InputError(
                    f"a {name} of {value!r} is out of range: choose units that put it between 1e-50 and 1e50"
                )
        if self.c_prompt == 0 == self.c_response:
            raise InputError(
                "prompts and responses cost nothing, so no plan is cheapest: give a cost above 0"
            )

    def power(self, n: Any, k: Any) -> Floats:
        variance, freedom = self.sampling.moments(n, k)
        with np.errstate(divide="ignore"):
            return self.rule.power_at(self.effect / np.sqrt(variance), freedom)

    def shows(self, n: Any, k: Any) -> NDArray[np.bool_]:
        return self.power(n, k) >= self.rule.power - ROUNDING

    def price(self, k: Any) -> Any:
        """What a prompt and its responses cost."""
        return self.c_prompt + self.c_response * k

    def prompts(self, k: Floats) -> Floats:
        """The least N_p for each K; infinite where the caps have none."""
        if self.caps.n_prompts:
            return np.where(self.shows(self.caps.n_prompts, k), float(self.caps.n_prompts), np.inf)
        most = min(self.caps.most_prompts, MOST_PROMPTS)
        start = np.clip(np.ceil(self.bound(k) * (1 - 1e-9)), self.fewest(), most)
        return least(lambda n: self.shows(n, k), start, most)

    def responses(self, n: Any) -> Floats:
        """The least K for N_p prompts; infinite where the caps have none."""
        low = np.full(np.shape(n), float(self.caps.responses_per_prompt or 1))
        return least(lambda k: self.shows(n, k), low, min(self.caps.most_responses, MOST_PROMPTS))

    def fewest(self) -> int:
        """The fewest prompts with degrees of freedom."""
        return self.caps.n_prompts or math.floor(self.sampling.redundancy) + 1

    def bound(self, k: Any) -> Any:
        """N_p were it not whole and the standard error known, which no plan can undercut."""
        a, b = self.sampling.line()
        target = (self.effect / self.rule.z) ** 2
        if self.sampling.population:
            target += self.sampling.between / self.sampling.population
        return (a + b / np.asarray(k, float)) / target

    def cost_bound(self, k: Any) -> Any:
        """The least cost of any plan with K, a convex function where the bound on N_p is."""
        return np.maximum(self.bound(k), self.fewest()) * self.price(np.asarray(k, float))

    def range_of_k(self) -> tuple[float, float]:
        """The K that could have a plan.

        Raises:
            InputError: none has.
        """
        low, high = float(self.caps.responses_per_prompt or 1), min(self.caps.most_responses, MOST_PROMPTS)
        if self.caps.most_prompts <= MOST_PROMPTS:
            low = float(self.responses(self.caps.most_prompts))
            if low == math.inf:
                raise self.unreachable()
        else:
            low = float(self.responses(MOST_PROMPTS))
            if low == math.inf:
                raise InputError(
                    f"a difference of {self.effect:g} needs more than {MOST_PROMPTS:g} prompts: ask for a larger one"
                )
        return low, high

    def unreachable(self) -> InputError:
        n, k = min(self.caps.most_prompts, MOST_PROMPTS), self.caps.most_responses
        limit = detectable(self.sampling, int(n), int(k) if k < math.inf else 10**15, self.rule).difference
        caps = f"{n:g} prompts" + (f" and {k:g} responses per prompt" if k < math.inf else "")
        return InputError(
            f"unreachable: the least detectable difference is {limit:.4g} with {caps} and a power of "
            f"{self.rule.power:g}, not {self.effect:g}"
        )

    def start(self, low: float, high: float) -> float:
        """K* within its range, or the K at which the fewest prompts do where K* is farther."""
        a, b = self.sampling.line()
        with np.errstate(divide="ignore", invalid="ignore"):
            best = math.sqrt(b * self.c_prompt / (a * self.c_response)) if a * self.c_response else math.inf
        if b == 0 or self.c_prompt == 0:
            best = low
        if best == math.inf:
            best = float(self.responses(self.fewest()))
        return min(max(math.floor(best) if best < math.inf else best, low), high)

    def candidates(self, low: float, high: float, most: float, start: float) -> Floats:
        """The K from low to high whose bound on the cost is at most `most`, thinned where they are many.

        Args:
            low: the least K.
            high: the largest K.
            most: a cost that some plan reaches.
            start: K where the bound is least.
        """
        ends = []
        for direction, end in ((-1, low), (1, high)):
            k, step = start, 1.0
            while k != end and self.cost_bound(k) <= most:
                k = max(end, k - step) if direction < 0 else min(end, k + step)
                step *= 2
            inside, outside = (k, k) if self.cost_bound(k) <= most else (start, k)
            while abs(outside - inside) > 1:
                middle = math.floor((inside + outside) / 2)
                inside, outside = (middle, outside) if self.cost_bound(middle) <= most else (inside, middle)
            ends.append(inside)
        if ends[1] - ends[0] < MOST_CANDIDATES:
            return np.arange(ends[0], ends[1] + 1)
        most, fewest = self.prompts(np.array(ends))
        if most - fewest < MOST_CANDIDATES:  # of the K with the same N_p only the least can be best
            ks = self.responses(np.arange(fewest, most + 1))
            return np.unique(ks[np.isfinite(ks)])
        return np.unique(np.linspace(ends[0], ends[1], MOST_CANDIDATES).round())

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def solve(self) -> tuple[Floats, Floats, int, float]:
        """K, N_p of each, the place of the best, and its gap."""
        low, high = self.range_of_k()
        if self.caps.n_prompts:
            ks = np.array([low])
        elif self.c_response == 0 and self.sampling.line()[1] > 0:
            if self.caps.most_responses == math.inf:
                raise InputError(
                    "K has no finite optimum, because a response costs nothing: set max_responses"
                )
            ks = np.array([high])
        else:
            start = self.start(low, high)
            first = self.prompts(np.array([start]))[0]
            ks = self.candidates(low, high, 1.1 * float(first * self.price(start)) * (1 + 1e-12), start)
        n = self.prompts(ks)
        costs = n * self.price(ks)
        equal = costs <= costs.min() * (1 + 1e-12)
        variance = np.where(equal, self.sampling.moments(np.where(equal, n, 2), ks)[0], np.inf)
        best = int(np.lexsort((ks, variance))[0])
        thinned = ks.size == MOST_CANDIDATES
        gap = max(0.0, 1 - float(self.cost_bound(ks).min() / costs[best])) if thinned else 0.0
        return ks, n, best, gap

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def plan(self) -> PowerPlan:
        """The cheapest plan."""
        ks, n, best, gap = self.solve()
        prompts, k = int(n[best]), int(ks[best])
        costs = n * self.price(ks)
        found = detectable(self.sampling, prompts, k, self.rule)
        close, wide = run(ks, costs, best, 0.05), run(ks, costs, best, 0.10)
        a, b = self.sampling.line()
        with np.errstate(divide="ignore", invalid="ignore"):
            k_star = float(np.sqrt(np.float64(b * self.c_prompt) / np.float64(a * self.c_response)))
        return PowerPlan(
            n_prompts=prompts,
            responses_per_prompt=k,
            variance=found.variance,
            cost=float(costs[best]),
            k_star=k_star,
            efficiency=math.nan,
            k_range_5pct=close,
            k_range_10pct=wide,
            bound_by=("power", *self.limiting(prompts, k)),
            gap=gap,
            power=float(self.power(prompts, k)),
            detectable=found.difference,
            large_sample_detectable=found.large_sample,
            curve=self.curve({1, 2, k - 1, k, k + 1, *close, *wide, 2 * wide[1]}),
        )

    def limiting(self, n: int, k: int) -> Iterator[str]:
        """The caps that the plan meets."""
        caps = self.caps
        if caps.n_prompts is None and n == caps.most_prompts:
            yield "max_prompts" if n == caps.max_prompts else "population"
        if caps.responses_per_prompt is None and k == caps.max_responses:
            yield "max_responses"

    def curve(self, responses: Collection[int]) -> RegretCurve:
        """What each K within the caps needs, and its excess cost as a share of the least among them."""
        low, high = self.caps.responses_per_prompt or 1, self.caps.most_responses
        ks = np.array(sorted(k for k in responses if low <= k <= high), float)
        n = self.prompts(ks)
        known = np.isfinite(n)
        variance = np.where(known, self.sampling.moments(np.where(known, n, 2), ks)[0], np.inf)
        costs = n * self.price(ks)
        regret = costs / costs.min() - 1
        return RegretCurve(ks.astype(np.int64), np.where(known, n, 0.0), variance, costs, regret)


def run(ks: Floats, costs: Floats, best: int, slack: float) -> tuple[int, int]:
    """The run of K around the best whose cost is within `slack` of it.

    Args:
        ks: K, increasing.
        costs: of each.
        best: place of the best.
        slack: excess cost that is still good, as a share.
    """
    good = costs <= costs[best] * (1 + slack)
    low = high = best
    while low > 0 and good[low - 1]:
        low -= 1
    while high < ks.size - 1 and good[high + 1]:
        high += 1
    return int(ks[low]), int(ks[high])


def least(holds: Callable[[Any], Any], start: Floats, most: float) -> Floats:
    """The least whole numbers from `start` to `most` at which a monotone test holds; infinite where none.

    Args:
        holds: a test of arrays of whole numbers.
        start: where each search starts.
        most: where all end.
    """
    low, high, step = start - 1, start, 1.0
    missing = ~holds(high)
    while np.any(missing & (high < most)):
        low, high = np.where(missing, high, low), np.where(missing, np.minimum(high + step, most), high)
        missing, step = missing & ~holds(high), 2 * step
    while np.any(high - low > 1):
        middle = np.floor((low + high) / 2)
        good = holds(middle) & (middle > low)
        low, high = np.where(good, low, np.where(high - low > 1, middle, low)), np.where(good, middle, high)
    return np.where(missing, np.inf, high)


def _whole(name: str, value: Any) -> int:
    try:
        whole = int(value)
        valid = whole == value and 1 <= whole <= 10**15
    except (TypeError, ValueError, OverflowError):
        whole, valid = 0, False
    if not valid:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    return whole

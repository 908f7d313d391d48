"""Plans for a power: the cheapest whole-number design that shows a difference (`mrtsim.plan.power` says how likely)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mrtsim.errors import InputError
from mrtsim.plan.allocate import LEAST, MOST, Cost, Plan, RegretCurve
from mrtsim.plan.power import ROUNDING, Rule, Sampling, detectable, sampling_of, whole_number
from mrtsim.plan.text import Case
from mrtsim.variance import DifferenceComponents, VarianceComponents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MOST_PROMPTS = 10**12
MOST_CANDIDATES = 20_000  # values of K; a wider window is thinned, and `gap` says what that may cost


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
                whole_number(name, value)
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

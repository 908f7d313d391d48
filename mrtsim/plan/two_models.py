"""How many prompts, and how many responses of each of two models, a comparison should have.

Var(difference) = (V_D + W_A / K_A + W_B / K_B) / N_p at a cost of N_p (C_p + K_A c_A + K_B c_B). With K_A = K_B, or
with pairs of responses, this is `allocate` with V_x = V_D, V_{y|x} = W_A + W_B and C_r = c_A + c_B. Otherwise K_A is
searched around its continuous optimum sqrt(W_A C_p / (V_D c_A)), and for each K_A the best (N_p, K_B) is that of
`allocate` with V_x = V_D + W_A / K_A and C_p + K_A c_A (Cochran 1977, section 10.6, with one more sample).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from mrtsim.errors import InputError
from mrtsim.plan.allocate import LEAST, MOST, Cost, Plan, allocate
from mrtsim.plan.integer_search import BudgetProblem, TargetProblem
from mrtsim.plan.power import Rule, Sampling, detectable, sampling_of
from mrtsim.plan.power_search import Caps, PowerPlan, Search, allocate_for_power
from mrtsim.variance import DifferenceComponents, VarianceComponents

FARTHEST = 10**9  # responses per prompt
MOST_STEPS = 20_000  # values of K_A


@dataclass(frozen=True)
class ComparisonPlan:
    """A whole-number plan for the comparison of two models.

    Attributes:
        n_prompts: N_p, common to both models.
        responses_a: K_A, responses per prompt of model A.
        responses_b: K_B.
        variance: of the estimated difference.
        cost: N_p (C_p + K_A c_A + K_B c_B).
        k_star_a: sqrt(W_A C_p / (V_D c_A)), the best K_A were nothing whole (with equal K: the common K*).
        k_star_b: the same of model B.
        detectable: the least difference that the plan shows with the power asked for (noncentral t).
        large_sample_detectable: the same were the standard error known.
        power: chance to show the difference asked for; NaN where none was.
        equal: the plan of equal K with what else is known of it; None where K_A and K_B were chosen apart.
    """

    n_prompts: int
    responses_a: int
    responses_b: int
    variance: float
    cost: float
    k_star_a: float
    k_star_b: float
    detectable: float
    large_sample_detectable: float
    power: float
    equal: Plan | None


def allocate_comparison(
    components: DifferenceComponents,
    cost: Cost,
    cost_b: float | None = None,
    *,
    budget: float | None = None,
    target_variance: float | None = None,
    detect: float | None = None,
    rule: Rule | None = None,
    max_responses: int | None = None,
    max_prompts: int | None = None,
    n_prompts: int | None = None,
    population: int | None = None,
    redundancy: float = 1.0,
) -> ComparisonPlan:
    """The best plan of a comparison for a budget, or the cheapest for a target variance or a power.

    Args:
        components: V_D, W_A, W_B, all 0 or above.
        cost: C_p, and c_A of one response of model A.
        cost_b: c_B of one response of model B. Where it is given, and responses do not come in pairs, K_A and K_B are
            chosen apart; else both models have the same K. By default c_B = c_A.
        budget: the most to spend. Give this, `target_variance` or `detect`.
        target_variance: the variance of the difference to reach at the least cost.
        detect: the difference to show, above 0, at the least cost (for non-inferiority the margin plus the advantage).
        rule: confidence, power and sides of the test; by default 95 %, 80 %, two.
        max_responses: the largest K_A and K_B.
        max_prompts: the largest N_p.
        n_prompts: N_p, where it is fixed.
        population: P, for the difference on a given set of P prompts.
        redundancy: r, prompts per group.

    Raises:
        InputError: as `allocate` and `allocate_for_power`.
    """
    if sum(goal is not None for goal in (budget, target_variance, detect)) != 1:
        raise InputError("give one of a budget, a target variance and a difference to detect")
    for name, value in (("budget", budget), ("target variance", target_variance)):
        if value is not None and not LEAST <= value <= MOST:
            raise InputError(f"a {name} of {value!r} is out of range: it must lie between 1e-50 and 1e50")
    rule = rule or Rule()
    sampling = sampling_of(components, None, population, redundancy)
    caps = Caps(max_responses, max_prompts, population, n_prompts)
    goal = budget, target_variance, detect
    if cost_b is None or len(sampling.responses) == 1:
        both = cost.response + (cost.response if cost_b is None else cost_b)
        return _equal(components, sampling, Cost(cost.prompt, both), goal, rule, caps)
    return _apart(sampling, cost, Cost(0.0, cost_b).response, goal, rule, caps)


def _equal(
    components: DifferenceComponents, sampling: Sampling, cost: Cost, goal: Any, rule: Rule, caps: Caps
) -> ComparisonPlan:
    budget, target, detect = goal
    keywords: dict[str, Any] = vars(caps) | {"redundancy": sampling.redundancy}
    if detect is None:
        one = VarianceComponents(components.difference, sum(sampling.responses), components.group)
        plan = allocate(one, cost, budget=budget, target_variance=target, **keywords)
    else:
        plan = allocate_for_power(
            components,
            cost,
            detect,
            power=rule.power,
            confidence=rule.confidence,
            one_sided=rule.one_sided,
            **keywords,
        )
    found = detectable(sampling, plan.n_prompts, plan.responses_per_prompt, rule)
    return ComparisonPlan(
        n_prompts=plan.n_prompts,
        responses_a=plan.responses_per_prompt,
        responses_b=plan.responses_per_prompt,
        variance=plan.variance,
        cost=plan.cost,
        k_star_a=plan.k_star,
        k_star_b=plan.k_star,
        detectable=found.difference,
        large_sample_detectable=found.large_sample,
        power=plan.power if isinstance(plan, PowerPlan) else math.nan,
        equal=plan,
    )


def _apart(
    sampling: Sampling, cost: Cost, cost_b: float, goal: Any, rule: Rule, caps: Caps
) -> ComparisonPlan:
    search = _Apart(sampling, cost.prompt, (cost.response, cost_b), goal, rule, caps)
    n, k_a, k_b = search.solve()
    found = detectable(replace(sampling, first=k_a), n, k_b, rule)
    detect = goal[2]
    stars = [
        math.sqrt(w * cost.prompt / (sampling.between * c)) if sampling.between * c else math.inf
        for w, c in zip(sampling.responses, search.prices, strict=True)
    ]
    return ComparisonPlan(
        n_prompts=n,
        responses_a=k_a,
        responses_b=k_b,
        variance=found.variance,
        cost=n * (cost.prompt + k_a * cost.response + k_b * cost_b),
        k_star_a=stars[0],
        k_star_b=stars[1],
        detectable=found.difference,
        large_sample_detectable=found.large_sample,
        power=math.nan if detect is None else float(search.power_search(k_a).power(n, k_b)),
        equal=None,
    )


@dataclass(frozen=True)
class _Apart:
    """Exact search over (K_A, K_B): K_A outward from the least continuous bound until it passes the best plan."""

    sampling: Sampling
    c_prompt: float
    prices: tuple[float, float]
    goal: tuple[float | None, float | None, float | None]
    rule: Rule
    caps: Caps

    def solve(self) -> tuple[int, int, int]:
        """(N_p, K_A, K_B) of the best plan.

        Raises:
            InputError: no plan, or no best one.
        """
        if min(self.prices) == 0 and self.caps.max_responses is None:
            raise InputError("K has no finite optimum, because a response costs nothing: set max_responses")
        if self.sampling.between == 0 == self.c_prompt and self.caps.max_responses is None:
            raise InputError(
                "K has no finite optimum, because V_D and the cost of a prompt are 0: set max_responses"
            )
        low, high = self.feasible()
        start = _lowest(self.bound, low, high)
        best: Any = None
        for step in (1, -1):
            k_a = start if step > 0 else start - 1
            while low <= k_a <= high:
                if abs(k_a - start) > MOST_STEPS:
                    raise InputError(
                        f"more than {MOST_STEPS:,} numbers of responses could be best: set max_responses, or plan "
                        "with the same K for both models"
                    )
                if best is not None and self.bound(k_a) > float(best[0][0]) * (1 + 1e-9):
                    break
                found = self.inner(k_a)
                if found is not None and (best is None or found < best):
                    best = found
                k_a += step
        if best is None:
            raise InputError(self.nothing())
        (*_, k_a, k_b), n = best
        return n, k_a, k_b

    # For one K_A the rest is a problem of one K.

    def power_search(self, k_a: int) -> Search:
        assert self.goal[2] is not None
        return Search(
            replace(self.sampling, first=k_a),
            self.goal[2],
            self.rule,
            self.c_prompt + k_a * self.prices[0],
            self.prices[1],
            self.caps,
        )

    def inner(self, k_a: int) -> tuple[Any, int] | None:
        """((objective, what decides among equals, K_A, K_B), N_p) of the best plan with K_A."""
        if self.goal[2] is not None:
            search = self.power_search(k_a)
            try:
                ks, n, best, _ = search.solve()
            except InputError:
                return None
            k, prompts = int(ks[best]), int(n[best])
            cost = round(prompts * (search.c_prompt + k * self.prices[1]), 9)
            return (cost, float(search.sampling.moments(prompts, k)[0]), k_a, k), prompts
        problem = self.problem(k_a)
        limit, reached = problem.least_limit()
        if not (problem.limit > limit or (problem.limit == limit and reached)) or problem.missing_cap():
            return None
        n, k, _ = problem.solve()
        objectives = problem.variance(n, k), problem.cost(n, k)
        return (*(objectives if self.goal[0] is not None else objectives[::-1]), k_a, k), n  # type: ignore[return-value]

    def problem(self, k_a: int) -> BudgetProblem | TargetProblem:
        between, w_a, w_b = map(_exact, (self.sampling.between, *self.sampling.responses))
        c_p, c_a, c_b = map(_exact, (self.c_prompt, *self.prices))
        a, p = between + w_a / k_a, c_p + k_a * c_a
        offset = between / self.caps.population if self.caps.population else Fraction(0)
        budget, target, _ = self.goal
        limit = _exact(budget) if budget is not None else _exact(target) + offset
        variances = (a, w_b) if budget is not None else (a, w_b, limit)
        costs = (p, c_b, limit) if budget is not None else (p, c_b)
        variance_unit = math.lcm(*(v.denominator for v in variances))
        cost_unit = math.lcm(*(v.denominator for v in costs))
        return (BudgetProblem if budget is not None else TargetProblem)(
            a=int(a * variance_unit),
            b=int(w_b * variance_unit),
            p=int(p * cost_unit),
            r=int(c_b * cost_unit),
            limit=int(limit * (cost_unit if budget is not None else variance_unit)),
            n_min=self.caps.n_prompts or 1,
            n_max=self.caps.most_prompts,
            k_min=1,
            k_max=self.caps.most_responses,
            variance_unit=variance_unit,
            cost_unit=cost_unit,
            offset=offset,
        )

    # What no plan with K_A undercuts, were the rest not whole.

    @property
    def target(self) -> float:
        """The variance to reach, plus what a given set of prompts takes off."""
        _, target, detect = self.goal
        value = target if detect is None else (detect / self.rule.z) ** 2
        return (value or 0.0) + self.offset

    @property
    def offset(self) -> float:
        return self.sampling.between / self.caps.population if self.caps.population else 0.0

    def bound(self, k_a: int) -> float:
        w_b, c_b = self.sampling.responses[1], self.prices[1]
        a, p = self.sampling.between + self.sampling.responses[0] / k_a, self.c_prompt + k_a * self.prices[0]
        n, most = self.caps.n_prompts, self.caps.most_responses
        budget = self.goal[0]
        if n is None:
            k_b = min(max(1.0, math.sqrt(w_b * p / (a * c_b)) if a * c_b else math.inf), most)
            product = (a + w_b / k_b) * (p + k_b * c_b if k_b < math.inf else p)
            if budget is None:
                return product / self.target
            return max(product / budget, a / self.caps.most_prompts) - self.offset
        if budget is not None:
            k_b = min((budget / n - p) / c_b if c_b else math.inf, most)
            return (a + w_b / k_b) / n - self.offset if k_b >= 1 else math.inf
        spare = n * self.target - a
        if spare < 0 or (w_b and (spare == 0 or w_b / spare > most)):
            return math.inf
        return n * (p + max(1.0, w_b / spare if w_b else 1.0) * c_b)

    def feasible(self) -> tuple[int, int]:
        """The least and largest K_A worth a look."""
        w_a, c_a = self.sampling.responses[0], self.prices[0]
        most = min(self.caps.most_responses, FARTHEST)
        if self.goal[0] is not None:
            if c_a:
                room = self.goal[0] / (self.caps.n_prompts or 1) - self.c_prompt - self.prices[1]
                most = min(most, room / c_a * (1 + 1e-9))
            return 1, max(1, math.floor(most))
        low = 1.0
        if self.caps.most_prompts < math.inf:
            spare = self.caps.most_prompts * self.target - self.sampling.between
            low = w_a / spare if spare > 0 else math.inf
            if low > most:
                raise InputError(self.nothing())
        return max(1, math.floor(low)), int(most)

    def nothing(self) -> str:
        budget, target, detect = self.goal
        n, k = self.caps.most_prompts, self.caps.most_responses
        if budget is not None:
            least = (self.caps.n_prompts or 1) * (self.c_prompt + sum(self.prices))
            return f"a budget of {budget!r} does not buy one response of each model: the least budget is {least!r}"
        a = self.sampling.between + (sum(self.sampling.responses) / k)
        if detect is None:
            return (
                f"no plan within the caps has a variance of {target!r}: the least variance is "
                f"{'' if k < math.inf else 'above '}{a / n - self.offset!r}"
            )
        most = int(min(k, 10**15))
        limit = detectable(replace(self.sampling, first=most), int(n), most, self.rule).difference
        return (
            f"unreachable: the least detectable difference is {limit:.4g} with {n:g} prompts and a power of "
            f"{self.rule.power:g}, not {detect:g}"
        )


def _lowest(value: Callable[[int], float], low: int, high: int) -> int:
    """Where a function of whole numbers that falls, then rises, is least."""
    while high - low > 2:
        middle = (low + high) // 2
        left, right = value(middle), value(middle + 1)
        if left > right or left == math.inf:  # only a K below what is feasible has no bound
            low = middle
        else:
            high = middle + 1
    return min(range(low, high + 1), key=value)


def _exact(value: Any) -> Fraction:
    """The decimal that a number prints as."""
    return Fraction(repr(float(value)))

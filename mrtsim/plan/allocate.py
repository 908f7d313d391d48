"""Plans over prompts and responses: the best whole numbers for a budget or a target variance (NumPy alone).

N_p prompts with K responses each cost N_p (C_p + K C_r) and leave the variance (V_x + V_{y|x}/K) / N_p. Plans are
found in exact rational arithmetic, a number standing for the decimal it prints as: three prompts of 0.1 fit into
0.3. Sources: Cochran (1977), *Sampling Techniques*, 3rd ed., sections 10.6 and 10.7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.display import Display
from mrtsim.errors import InputError
from mrtsim.plan.integer_search import BudgetProblem, Problem, TargetProblem
from mrtsim.plan.text import Case, plan_rows, plan_text
from mrtsim.variance import VarianceComponents, check_components

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST, MOST = 1e-50, 1e50  # between these no answer leaves the range of a double
MOST_COUNT = 10**18


@dataclass(frozen=True)
class Cost:
    """What one prompt and one response cost, in one unit of the caller's choice (dollars, seconds, labels).

    Attributes:
        prompt: C_p, per prompt.
        response: C_r, per response.
        group: C_g, per group of prompts (a document, a template). With it `allocate` chooses the prompts per group;
            None for plans over prompts and responses alone.

    Raises:
        InputError: a cost that is not finite or below 0.
    """

    prompt: float
    response: float
    group: float | None = None

    def __post_init__(self) -> None:
        _exact("the cost of a prompt", self.prompt)
        _exact("the cost of a response", self.response)
        if self.group is not None:
            _exact("the cost of a group", self.group)

    @classmethod
    def from_tokens(
        cls,
        *,
        prompt_tokens: float,
        response_tokens: float,
        price_in: float,
        price_out: float,
        shared_prefix: bool = True,
        prompt: float = 0.0,
        response: float = 0.0,
    ) -> Cost:
        """Costs from mean token counts and prices per million tokens.

        With a shared prefix a prompt is read once for all its responses: C_p = prompt_tokens x price_in and
        C_r = response_tokens x price_out. Without it, and in training without packing, every response pays for both,
        so that C_p = 0: then K = 1 is always best, unless the number of prompts is capped.

        Args:
            prompt_tokens: mean length of a prompt.
            response_tokens: mean length of a response.
            price_in: price per million tokens read.
            price_out: price per million tokens generated.
            shared_prefix: whether a prompt's tokens are paid for once.
            prompt: a further cost per prompt (writing it, say).
            response: a further cost per response (judging it, say).

        Raises:
            InputError: a number that is not finite or below 0.
        """
        read = _exact("prompt_tokens", prompt_tokens) * _exact("price_in", price_in) / 10**6
        written = _exact("response_tokens", response_tokens) * _exact("price_out", price_out) / 10**6
        fixed = _exact("the cost of a prompt", prompt), _exact("the cost of a response", response)
        if shared_prefix:
            return cls(float(fixed[0] + read), float(fixed[1] + written))
        return cls(float(fixed[0]), float(fixed[1] + read + written))


@dataclass(frozen=True)
class Plan(Display):
    """A whole-number plan and what there is to know about it; `print` it for the text of `mrtsim allocate`.

    Attributes:
        n_prompts: N_p.
        responses_per_prompt: K.
        variance: of the estimate, in squared units of the loss.
        cost: N_p (C_p + K C_r), in the unit of `Cost`.
        k_star: the continuous optimum, infinite or NaN in degenerate cases.
        efficiency: the variance of the best K = 1 plan at the same budget over this plan's; NaN with a target.
        k_range_5pct: the run of whole K around this one whose variance (with a target: cost) is within 5 %.
        k_range_10pct: the same, within 10 %.
        bound_by: what keeps the plan from being better: "budget" or "target_variance", and those caps whose
            removal alone would change it.
        gap: 0 where the plan is proven best. With millions of both prompts and responses the search may give up the
            proof after 20,000 candidates; no plan is then better by more than this share of the variance (with a
            target: of the cost).
        n_groups: M, where the group size was chosen; else None, as the two that follow.
        prompts_per_group: r; n_prompts is M r, and `k_range_5pct` and `k_range_10pct` are for groups of this size.
        r_star: the continuous optimum of r, at least 1.
    """

    n_prompts: int
    responses_per_prompt: int
    variance: float
    cost: float
    k_star: float
    efficiency: float
    k_range_5pct: tuple[int, int]
    k_range_10pct: tuple[int, int]
    bound_by: tuple[str, ...]
    gap: float
    n_groups: int | None = field(default=None, kw_only=True)
    prompts_per_group: int | None = field(default=None, kw_only=True)
    r_star: float | None = field(default=None, kw_only=True)
    _case: Case | None = field(default=None, kw_only=True, repr=False, compare=False)

    def _rows(self) -> tuple[tuple[()], list[tuple[str, str, str]]]:
        return (), plan_rows(self)

    def __str__(self) -> str:
        return plan_text(self)

    def plot(self) -> Axes:
        """Draw variance (with a target: cost) against K, or the power against N_p, in a new figure of pyplot.

        Raises:
            InputError: a plan that was not made by `allocate` or `allocate_for_power`.
        """
        from mrtsim.plotting import plot_plan

        return plot_plan(self)


@dataclass(frozen=True)
class RegretCurve:
    """What other K cost at equal budget (or at an equal target); one entry per K in every array.

    `regret` is the excess of the variance (with a target: of the cost) over that of the best whole K, as a share of
    it. A K that nothing in reach allows has 0 prompts and infinite variance, cost and regret.
    """

    responses_per_prompt: NDArray[np.int64]
    n_prompts: NDArray[np.int64]
    variance: NDArray[np.float64]
    cost: NDArray[np.float64]
    regret: NDArray[np.float64]


def optimal_responses(components: VarianceComponents, cost: Cost, *, redundancy: float = 1.0) -> float:
    """K* = sqrt(V_{y|x} C_p / (V_x C_r)), the best K were N_p and K not whole (Cochran 10.6).

    With groups of `redundancy` near-duplicate prompts, V_x is r V_g + V_{x|g}. The answer may lie below 1, is infinite
    where V_x C_r = 0, and NaN where V_{y|x} C_p = 0 as well: then it is undetermined.

    Args:
        components: V_x, V_{y|x} and V_g.
        cost: C_p and C_r.
        redundancy: r, prompts per group.

    Raises:
        InputError: a component below 0 or not finite, redundancy below 1.
    """
    _two_levels(cost)
    between, within = _components(components, redundancy)
    p, r = _exact("the cost of a prompt", cost.prompt), _exact("the cost of a response", cost.response)
    if between * r == 0:
        return math.nan if within * p == 0 else math.inf
    return math.sqrt(within * p / (between * r))


def allocate(
    components: VarianceComponents,
    cost: Cost,
    *,
    budget: float | None = None,
    target_variance: float | None = None,
    max_responses: int | None = None,
    max_prompts: int | None = None,
    population: int | None = None,
    candidates: int | None = None,
    n_prompts: int | None = None,
    responses_per_prompt: int | None = None,
    max_group_size: int | None = None,
    group_population: float | None = None,
    redundancy: float = 1.0,
) -> Plan:
    """The best whole-number plan for a budget, or the cheapest for a target variance.

    With a budget no plan of the same or lower cost has a lower variance; among equals the cheapest, then the smallest K
    is taken. With a target no cheaper plan reaches it; among equals the least variance, then the smallest K. The time
    does not grow with the budget: the search goes outward from K*, and stops where the continuous bound
    (V_x + V_{y|x}/K)(C_p + K C_r) passes the best plan found. With a cost per group the plan has three levels, M groups
    of r prompts with K responses each (see `mrtsim.plan.three_levels`).

    Args:
        components: V_x, V_{y|x} and, with `redundancy` or a cost per group, V_g; 0 is allowed, negative estimates are
            not.
        cost: C_p and C_r, and C_g where the prompts per group are to be chosen; 0 is allowed.
        budget: the most to spend. Give this or `target_variance`.
        target_variance: the variance to reach at the least cost.
        max_responses: the largest K.
        max_prompts: the largest N_p.
        population: P, for the loss of a given set of P prompts (see `estimator_variance`).
        candidates: N, for the loss of given pools of N responses per prompt.
        n_prompts: N_p, where it is fixed and only K is asked for.
        responses_per_prompt: K, where it is fixed and only N_p is asked for.
        max_group_size: the largest r, with a cost per group.
        group_population: M_tot, for the loss of a given set of M_tot groups from which the plan's are drawn without
            replacement: V_g / M becomes (1 - M/M_tot) V_g / M, with V_g the component (divisor M_tot - 1).
        redundancy: r, the (mean) number of near-duplicate prompts in a group.

    Raises:
        InputError: a number out of range; a budget that does not buy one prompt with one response; a target that the
            caps put out of reach; no finite optimum (C_r = 0, or V_x = C_p = 0) without `max_responses`.
    """
    constraints = _Constraints(
        budget,
        target_variance,
        max_responses,
        max_prompts,
        population,
        candidates,
        n_prompts,
        responses_per_prompt,
        group_population,
    )
    others = {**vars(constraints), "redundancy": redundancy, "max_group_size": max_group_size}
    others.pop("responses_per_prompt")  # other K are shown beside a fixed one
    case = Case(components, cost, others)
    if cost.group is not None:
        if redundancy != 1:
            raise InputError(
                "with a cost per group the plan chooses the prompts per group: leave redundancy out"
            )
        from mrtsim.plan.three_levels import ThreeLevels

        return replace(ThreeLevels.of(components, cost, constraints, max_group_size).plan(), _case=case)
    if max_group_size is not None:
        raise InputError("max_group_size needs a cost per group")
    problem = _problem(components, cost, constraints, redundancy)
    n, k, gap = problem.solve()
    variance = problem.variance(n, k)
    efficiency = math.nan
    if budget is not None and variance:
        caps = replace(
            constraints, n_prompts=None, max_prompts=n_prompts or max_prompts, responses_per_prompt=1
        )
        single = _problem(components, cost, caps, redundancy)
        efficiency = float(single.variance(single.prompts(1), 1) / variance)
    return Plan(
        n_prompts=n,
        responses_per_prompt=k,
        variance=float(variance),
        cost=float(problem.cost(n, k)),
        k_star=optimal_responses(components, cost, redundancy=redundancy),
        efficiency=efficiency,
        k_range_5pct=problem.run(n, k, Fraction(1, 20)),
        k_range_10pct=problem.run(n, k, Fraction(1, 10)),
        bound_by=tuple(_bound_by(problem, constraints, n, k)),
        gap=gap,
        _case=case,
    )


def regret_curve(
    components: VarianceComponents,
    cost: Cost,
    responses_per_prompt: ArrayLike | None = None,
    *,
    redundancy: float = 1.0,
    max_group_size: int | None = None,
    **constraints: Any,
) -> RegretCurve:
    """What every K in `responses_per_prompt` gives at equal budget (or target), and its regret.

    With a cost per group the group size is that of the best plan.

    Args:
        components: as in `allocate`.
        cost: as in `allocate`.
        responses_per_prompt: whole K of at least 1; by default up to twice the 10 % range, thinned where it is long.
        redundancy: as in `allocate`.
        max_group_size: as in `allocate`.
        **constraints: `budget` or `target_variance`, and the caps of `allocate`.

    Raises:
        InputError: as `allocate`.
    """
    if cost.group is not None:
        from mrtsim.plan.three_levels import ThreeLevels

        levels = ThreeLevels.of(components, cost, _Constraints(**constraints), max_group_size)
        size = levels.solve()[1]
        problem = levels.at(size)
        assert problem is not None
    else:
        size, problem = 1, _problem(components, cost, _Constraints(**constraints), redundancy)
    best_n, best_k, _ = problem.solve()
    if responses_per_prompt is None:
        low, high = problem.run(best_n, best_k, Fraction(1, 10))
        most = int(min(max(2 * high, high + 4), problem.most_k(), MOST_COUNT))
        spread = np.arange(1, most + 1) if most <= 60 else np.geomspace(1, most, 60).round()
        chosen = sorted({*map(int, spread), *(k for k in (low, best_k, high) if k <= most)})
    else:
        chosen = [_count("responses_per_prompt", k) for k in np.ravel(responses_per_prompt)]
    rows = []
    best = problem.objective(best_n, best_k)
    for k in chosen:
        n = problem.prompts(k)
        if n:
            regret = _excess(problem.objective(n, k), best)
            rows.append((float(n * size), float(problem.variance(n, k)), float(problem.cost(n, k)), regret))
        else:
            rows.append((0.0, math.inf, math.inf, math.inf))
    n_prompts, variance, price, regret = np.array(rows, float).reshape(-1, 4).T
    return RegretCurve(np.array(chosen, dtype=np.int64), n_prompts, variance, price, regret)


@dataclass(frozen=True)
class _Constraints:
    """The keywords of `allocate`, by the same names."""

    budget: float | None = None
    target_variance: float | None = None
    max_responses: int | None = None
    max_prompts: int | None = None
    population: int | None = None
    candidates: int | None = None
    n_prompts: int | None = None
    responses_per_prompt: int | None = None
    group_population: float | None = None

    def __post_init__(self) -> None:
        if (self.budget is None) == (self.target_variance is None):
            raise InputError("give either a budget or a target variance")
        if self.n_prompts is not None and self.responses_per_prompt is not None:
            raise InputError("with both N_p and K fixed nothing is left to choose: see estimator_variance")
        for name in (
            "max_responses",
            "max_prompts",
            "population",
            "candidates",
            "n_prompts",
            "responses_per_prompt",
        ):
            if getattr(self, name) is not None:
                _count(name, getattr(self, name))
        if self.group_population is not None:
            if self.population is not None:
                raise InputError("population and group_population describe two targets: give one of them")
            if not _exact("group_population", self.group_population) >= 1:
                raise InputError(
                    f"group_population is the number of groups there are, at least 1, not {self.group_population!r}"
                )
        for fixed, caps in (
            ("n_prompts", ("max_prompts", "population")),
            ("responses_per_prompt", ("max_responses", "candidates")),
        ):
            for cap in caps:
                if getattr(self, fixed) is not None and getattr(self, fixed) > (
                    getattr(self, cap) or math.inf
                ):
                    raise InputError(
                        f"{fixed} = {getattr(self, fixed)} is more than {cap} = {getattr(self, cap)}"
                    )

    def prompts_between(self) -> tuple[int, float]:
        if self.n_prompts is not None:
            return self.n_prompts, self.n_prompts
        return 1, min(self.max_prompts or math.inf, self.population or math.inf)

    def responses_between(self) -> tuple[int, float]:
        if self.responses_per_prompt is not None:
            return self.responses_per_prompt, self.responses_per_prompt
        return 1, min(self.max_responses or math.inf, self.candidates or math.inf)


def _problem(
    components: VarianceComponents, cost: Cost, constraints: _Constraints, redundancy: float
) -> Problem:
    """The problem in integers, checked to have a solution."""
    _two_levels(cost)
    a, b = _components(components, redundancy)
    p, r = _exact("the cost of a prompt", cost.prompt), _exact("the cost of a response", cost.response)
    population, candidates = constraints.population, constraints.candidates
    if population and redundancy != 1 and components.group:
        raise InputError(
            "population describes simple random draws of prompts: it does not go with redundancy"
        )
    offset = (a + (b / candidates if candidates else 0)) / population if population else Fraction(0)
    groups = None
    if constraints.group_population is not None:
        groups = _exact("group_population", constraints.group_population)
        offset = exact_components(components)[0] / groups
    if constraints.budget is not None:
        kind, limit = BudgetProblem, _exact("budget", constraints.budget)
        variance_unit, cost_unit = _unit(a, b), _unit(p, r, limit)
        scaled_limit = limit * cost_unit
    else:
        kind, limit = TargetProblem, _exact("target_variance", constraints.target_variance) + offset
        variance_unit, cost_unit = _unit(a, b, limit), _unit(p, r)
        scaled_limit = limit * variance_unit
    n_min, n_max = constraints.prompts_between()
    k_min, k_max = constraints.responses_between()
    if groups:
        n_max = min(n_max, math.floor(_exact("redundancy", redundancy) * groups))
        if n_min > n_max:
            raise InputError(f"n_prompts = {n_min} is more than the {n_max} prompts that the groups hold")
    problem = kind(
        a=int(a * variance_unit),
        b=int(b * variance_unit),
        p=int(p * cost_unit),
        r=int(r * cost_unit),
        limit=int(scaled_limit),
        n_min=n_min,
        n_max=n_max,
        k_min=k_min,
        k_max=k_max,
        variance_unit=variance_unit,
        cost_unit=cost_unit,
        offset=offset,
    )
    if (cap := problem.missing_cap()) == "max_responses":
        why = "a response costs nothing" if r == 0 else "V_x and the cost of a prompt are 0"
        raise InputError(f"K has no finite optimum, because {why}: set max_responses")
    if cap:
        raise InputError(
            "N_p has no finite optimum, because prompts and responses cost nothing: set max_prompts"
        )
    least, reached = problem.least_limit()
    if problem.limit > least or (problem.limit == least and reached):
        return problem
    if kind is BudgetProblem:
        what = "one prompt with one response" if n_min == k_min == 1 else f"{n_min} x {k_min} responses"
        raise InputError(
            f"a budget of {constraints.budget!r} does not buy {what}: the least budget is "
            f"{_at_least(least / cost_unit)!r}"
        )
    variance = least / variance_unit - offset
    raise InputError(
        f"no plan within the caps has a variance of {constraints.target_variance!r}: the least variance is "
        + (repr(_at_least(variance)) if reached else f"above {float(variance)!r}")
    )


def _bound_by(problem: Problem, constraints: _Constraints, n: int, k: int) -> Iterator[str]:
    """What keeps the plan (n, k) from being better; see `Plan`."""
    if isinstance(problem, TargetProblem):
        if (n, k) != (problem.n_min, problem.k_min):
            yield "target_variance"
    elif not (n == problem.n_max and (k == problem.k_max or problem.b == 0)) and problem.a + problem.b:
        yield "budget"
    for free, cap, names in (
        (constraints.n_prompts is None, "n_max", ("max_prompts", "population")),
        (constraints.responses_per_prompt is None, "k_max", ("max_responses", "candidates")),
    ):
        if free and getattr(problem, cap) < math.inf:
            relaxed = replace(problem, **{cap: math.inf})
            if relaxed.missing_cap() or relaxed.objective(*relaxed.solve()[:2]) < problem.objective(n, k):
                bound = getattr(problem, cap)
                yield next((n for n in names if getattr(constraints, n) == bound), "group_population")


def _two_levels(cost: Cost) -> None:
    if cost.group is not None:
        raise InputError("a cost per group is for `allocate` and `regret_curve`: leave it out here")


def exact_cost(cost: Cost) -> tuple[Fraction, Fraction, Fraction]:
    """C_g (0 without one), C_p and C_r as the decimals that they print as."""
    return (
        _exact("the cost of a group", cost.group or 0),
        _exact("the cost of a prompt", cost.prompt),
        _exact("the cost of a response", cost.response),
    )


def integer_costs(cost: Cost, budget: float) -> tuple[int, int, int, int]:
    """C_p, C_r and the budget as whole numbers of one unit, and how many of it make up 1."""
    _two_levels(cost)
    exact = (
        _exact("the cost of a prompt", cost.prompt),
        _exact("the cost of a response", cost.response),
        _exact("budget", budget),
    )
    unit = _unit(*exact)
    p, r, limit = (int(value * unit) for value in exact)
    return p, r, limit, unit


def _unit(*values: Fraction) -> int:
    return math.lcm(*(value.denominator for value in values))


def _components(components: VarianceComponents, redundancy: float) -> tuple[Fraction, Fraction]:
    """The variance between prompts, r V_g + V_{x|g}, and that of responses."""
    check_components(components)
    r = _exact("redundancy", redundancy)
    if r < 1:
        raise InputError(f"redundancy is the number of prompts in a group, at least 1, not {redundancy:g}")
    group, prompt, response = exact_components(components)
    return prompt + r * group, response


def exact_components(components: VarianceComponents) -> tuple[Fraction, Fraction, Fraction]:
    """V_g, V_{x|g} and V_{y|x}; negative estimates are refused."""
    parts = []
    for name, symbol in (("group", "V_g"), ("prompt", "V_x"), ("response", "V_{y|x}")):
        value = getattr(components, name)
        try:
            parts.append(_exact(f"the {name} component {symbol}", value))
        except InputError as error:
            if value < 0:
                raise InputError(
                    f"{error}: plan at a confidence limit, or with 0 and max_responses"
                ) from None
            raise
    return parts[0], parts[1], parts[2]


def _exact(name: str, value: Any) -> Fraction:
    """The decimal that a number prints as, or the fraction it is; 0 or between LEAST and MOST."""
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"{name} must be a finite number, 0 or above, not {value!r}")
    if number and not LEAST <= number <= MOST:
        raise InputError(
            f"{name} = {number!r} is out of range: choose units that put it between 1e-50 and 1e50"
        )
    return value if isinstance(value, Fraction) else Fraction(repr(number))


def _count(name: str, value: Any) -> int:
    try:
        whole = int(value)
        valid = whole == value and 1 <= whole <= MOST_COUNT
    except (TypeError, ValueError, OverflowError):
        whole, valid = 0, False
    if not valid:
        raise InputError(f"{name} must be a whole number from 1 to 1e18, not {value!r}")
    return whole


def _at_least(value: Fraction) -> float:
    """The nearest double that is not below an exact number, so that what a message names will do."""
    nearest = float(value)
    return nearest if Fraction(repr(nearest)) >= value else math.nextafter(nearest, math.inf)


def _excess(value: Fraction, best: Fraction) -> float:
    if best:
        return float(value / best - 1)
    return 0.0 if value == 0 else math.inf

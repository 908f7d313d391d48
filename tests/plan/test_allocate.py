"""The planner against brute force over every (N_p, K), against theory, and against hostile input."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mrtsim.errors import InputError
from mrtsim.plan import integer_search as staircase
from mrtsim.plan.allocate import (
    Cost,
    allocate,
    optimal_responses,
    regret_curve,
)
from mrtsim.variance import VarianceComponents, estimator_variance, grouped_estimator_variance

TOY = VarianceComponents(prompt=0.187, response=1.329)
TOY_COST = Cost(prompt=4.0, response=1.0)


# -- brute force -----------------------------------------------------------------------------------------------------


def random_instance(rng):
    """Small whole numbers, so that ties are common, times a unit that floats do not hold exactly."""
    a, b, g = np.round(rng.integers(1, 60, 3) * (rng.random(3) < (0.85, 0.85, 0.2)) / 100, 2)
    p, r = rng.integers(1, 8, 2) * (rng.random(2) < 0.85)
    unit = rng.choice([0.1, 1.0, 0.7])
    caps = {}
    if rng.random() < 0.4 or p == r == 0:
        caps[rng.choice(["max_prompts", "population"])] = int(rng.integers(1, 13))
    if rng.random() < 0.4 or r == 0 or (a + g == 0 and p == 0):
        caps[rng.choice(["max_responses", "candidates"])] = int(rng.integers(1, 13))
    redundancy = 1.0 if "population" in caps else float(rng.choice([1.0, 2.5]))
    fixed = rng.random()
    if fixed < 0.1:
        caps["n_prompts"] = int(
            rng.integers(1, min(caps.get("max_prompts", 6), caps.get("population", 6)) + 1)
        )
    elif fixed < 0.2:
        caps["responses_per_prompt"] = int(
            rng.integers(1, min(caps.get("max_responses", 6), caps.get("candidates", 6)) + 1)
        )
    return VarianceComponents(float(a), float(b), float(g)), (int(p), int(r)), float(unit), caps, redundancy


def grid(components, whole_cost, caps, redundancy, most):
    """Every plan of a whole-number cost of at most `most`: N, K, variance (target's constant included), cost."""
    p, r = whole_cost
    n = np.arange(1, int(min(most // (p + r) if p + r else 99, 99)) + 1)
    k = np.arange(1, int(min((most - p) // r if r else 99, 99)) + 1)
    if "n_prompts" in caps:
        n = n[n == caps["n_prompts"]]
    if "responses_per_prompt" in caps:
        k = k[k == caps["responses_per_prompt"]]
    n = n[n <= min(caps.get("max_prompts", 99), caps.get("population", 99))]
    k = k[k <= min(caps.get("max_responses", 99), caps.get("candidates", 99))]
    n, k = (axis.ravel() for axis in np.meshgrid(n, k))
    cost = n * (p + k * r)
    n, k, cost = (axis[cost <= most] for axis in (n, k, cost))
    finite = {name: caps[name] for name in ("population", "candidates") if name in caps}
    if not n.size:
        return n, k, np.zeros(0), cost
    total = VarianceComponents(components.prompt + redundancy * components.group, components.response)
    variance = estimator_variance(total, n, k, **finite)
    return n, k, np.where(variance < 1e-15, 0.0, variance), cost


def ranks(values):
    """Values that rounding alone tells apart become equal: exact ones differ by more than 1e-8 of the largest."""
    order = np.argsort(values)
    steps = np.diff(values[order]) > 1e-12 * values[order][1:]
    answer = np.empty(len(values), int)
    answer[order] = np.concatenate([[0], np.cumsum(steps)])
    return answer


def run_around(k, objective, best, slack):
    """The run of whole K around the best plan in which some plan's objective is within the slack."""
    least = {}
    for each, value in zip(k.tolist(), objective.tolist(), strict=True):
        least[each] = min(value, least.get(each, math.inf))
    limit = objective[best] * (1 + slack) * (1 + 1e-11) + 1e-15
    low = high = int(k[best])
    while least.get(low - 1, math.inf) <= limit:
        low -= 1
    while least.get(high + 1, math.inf) <= limit:
        high += 1
    return low, high


@pytest.mark.parametrize("seed", range(6))
def test_budget_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    refused = 0
    for _ in range(1000):
        components, (p, r), unit, caps, redundancy = random_instance(rng)
        most = int(rng.integers(1, 90))
        n, k, variance, cost = grid(components, (p, r), caps, redundancy, most)
        arguments = {"budget": round(most * unit, 1), "redundancy": redundancy, **caps}
        planned_cost = Cost(round(p * unit, 1), round(r * unit, 1))
        if not n.size:
            refused += 1
            with pytest.raises(InputError, match="the least budget is"):
                allocate(components, planned_cost, **arguments)
            continue
        best = np.lexsort((k, cost, ranks(variance)))[0]
        plan = allocate(components, planned_cost, **arguments)
        case = f"{components} {planned_cost} {arguments}"
        assert (plan.n_prompts, plan.responses_per_prompt) == (n[best], k[best]), case
        assert plan.variance == pytest.approx(variance[best], rel=1e-9, abs=1e-14), case
        assert plan.cost == pytest.approx(cost[best] * unit, rel=1e-12), case
        assert plan.gap == 0
        assert plan.k_range_5pct == run_around(k, variance, best, 0.05), case
        assert plan.k_range_10pct == run_around(k, variance, best, 0.10), case
        free = {name: value for name, value in caps.items() if name != "n_prompts"}
        if "n_prompts" in caps:  # one response each, of no more prompts than there are
            free["max_prompts"] = caps["n_prompts"]
        singles = grid(components, (p, r), {**free, "responses_per_prompt": 1}, redundancy, most)[2]
        if plan.variance > 0:
            assert plan.efficiency == pytest.approx(singles.min() / plan.variance, rel=1e-9), case
        else:
            assert math.isnan(plan.efficiency)
    assert refused < 500


@pytest.mark.parametrize("seed", range(6))
def test_target_equals_brute_force(seed):
    rng = np.random.default_rng(100 + seed)
    for _ in range(1000):
        components, (p, r), unit, caps, redundancy = random_instance(rng)
        # a target that some plan of a cost of at most 60 reaches
        n, k, variance, cost = grid(components, (p, r), caps, redundancy, 60)
        if not n.size:
            continue
        target = math.ceil(variance[rng.integers(n.size)] * 1000 - 1e-9) / 1000
        n, k, variance, cost = grid(components, (p, r), caps, redundancy, 66)
        reached = np.where(variance <= target * (1 + 1e-12) + 1e-15)[0]
        n, k, variance, cost = (axis[reached] for axis in (n, k, variance, cost))
        best = np.lexsort((k, ranks(variance), cost))[0]
        planned_cost = Cost(round(p * unit, 1), round(r * unit, 1))
        arguments = {"target_variance": target, "redundancy": redundancy, **caps}
        plan = allocate(components, planned_cost, **arguments)
        case = f"{components} {planned_cost} {arguments}"
        assert (plan.n_prompts, plan.responses_per_prompt) == (n[best], k[best]), case
        assert plan.variance == pytest.approx(variance[best], rel=1e-9, abs=1e-14), case
        assert plan.cost == pytest.approx(cost[best] * unit, rel=1e-12), case
        assert plan.gap == 0
        assert math.isnan(plan.efficiency)
        assert plan.k_range_5pct == run_around(k, cost.astype(float), best, 0.05), case
        assert plan.k_range_10pct == run_around(k, cost.astype(float), best, 0.10), case


# -- the continuous theory -------------------------------------------------------------------------------------------


def test_k_star_and_its_degenerate_values():
    assert optimal_responses(TOY, TOY_COST) == pytest.approx(math.sqrt(1.329 * 4 / 0.187))
    assert optimal_responses(VarianceComponents(0, 1), Cost(1, 1)) == math.inf
    assert optimal_responses(VarianceComponents(1, 1), Cost(1, 0)) == math.inf
    assert optimal_responses(VarianceComponents(1, 0), Cost(1, 1)) == 0
    assert optimal_responses(VarianceComponents(1, 1), Cost(0, 1)) == 0
    assert math.isnan(optimal_responses(VarianceComponents(0, 1), Cost(0, 1)))
    three = VarianceComponents(prompt=0.1, response=1.329, group=0.2)
    assert optimal_responses(three, TOY_COST, redundancy=4) == pytest.approx(math.sqrt(1.329 * 4 / 0.9))


@pytest.mark.parametrize(("k", "ratio"), [*product([1, 2, 3, 5, 20, 1000], [0.25, 1.0, 9.0])])
def test_cochran_optimum(k, ratio):
    # Cochran 10.6 where K* is whole: the variance is the minimum (sqrt(V_x C_p) + sqrt(V_{y|x} C_r))^2 / B.
    components, cost = VarianceComponents(1.0, k * k / ratio), Cost(ratio, 1.0)
    plan = allocate(components, cost, budget=1e12 * (ratio + k))
    assert plan.k_star == pytest.approx(k, rel=1e-12)
    assert plan.responses_per_prompt == k
    least = (math.sqrt(ratio) + math.sqrt(components.response)) ** 2 / (1e12 * (ratio + k))
    assert plan.variance == pytest.approx(least, rel=1e-11)


@given(st.floats(0.01, 1e4), st.floats(0.01, 100))
def test_large_budget_rounds_k_star_by_cochrans_rule(ratio, price):
    # With N_p continuous the best whole K has K (K-1) <= K*^2 <= K (K+1).
    plan = allocate(VarianceComponents(1.0, ratio), Cost(price, 1.0), budget=1e15)
    k = plan.responses_per_prompt
    assert k * (k - 1) <= ratio * price * (1 + 1e-6)
    assert ratio * price <= k * (k + 1) * (1 + 1e-6)


def test_two_responses_beat_one_exactly_above_a_squared_k_star_of_two():
    for square, k in ((1.999, 1), (2.001, 2)):
        plan = allocate(VarianceComponents(1.0, square), Cost(1.0, 1.0), budget=1e12)
        assert plan.responses_per_prompt == k


def test_finite_sets_leave_k_star_and_scale_the_variance_to_zero():
    # The whole population with whole pools has no sampling error (Cochran 10.3).
    plan = allocate(TOY, TOY_COST, budget=1e6, population=20, candidates=6)
    assert (plan.n_prompts, plan.responses_per_prompt, plan.variance) == (20, 6, 0.0)
    assert plan.bound_by == ("population", "candidates")
    large = allocate(TOY, TOY_COST, budget=400, population=10**6, candidates=10**6)
    assert large.responses_per_prompt == allocate(TOY, TOY_COST, budget=400).responses_per_prompt
    exact = allocate(TOY, TOY_COST, target_variance=0.0, population=20, candidates=6)
    assert (exact.n_prompts, exact.responses_per_prompt) == (20, 6)


def test_redundant_prompts_shift_the_plan_to_more_prompts():
    three = VarianceComponents(prompt=0.1, response=1.5, group=0.4)
    single, groups = (allocate(three, TOY_COST, budget=900, redundancy=r) for r in (1, 4))
    assert groups.responses_per_prompt < single.responses_per_prompt
    n = 4 * (groups.n_prompts // 4)  # whole groups
    assert grouped_estimator_variance(three, [4] * (n // 4), groups.responses_per_prompt) == pytest.approx(
        groups.variance * groups.n_prompts / n, rel=1e-12
    )


# -- whole-number arithmetic -----------------------------------------------------------------------------------------


def test_three_tenths_buy_three_tenths():
    plan = allocate(VarianceComponents(1, 0), Cost(0.05, 0.05), budget=0.3)
    assert (plan.n_prompts, plan.cost) == (3, 0.3)  # 0.3 / 0.1 rounds to 2.99...
    assert allocate(VarianceComponents(1, 0), Cost(0.07, 0.03), target_variance=0.1).n_prompts == 10


def test_equal_variance_goes_to_the_cheapest_then_to_the_smallest_k():
    # 3/3 with K = 1 and 2/2 with K = 2: the same variance at 6 and at 6 or 5
    assert allocate(VarianceComponents(1, 2), Cost(1, 1), budget=6).responses_per_prompt == 1
    cheaper = allocate(VarianceComponents(1, 2), Cost(1, 0.5), budget=4.5)
    assert (cheaper.responses_per_prompt, cheaper.cost) == (2, 4.0)
    # V_x = C_p = 0: only N_p K counts
    assert (
        allocate(VarianceComponents(0, 1), Cost(0, 1), budget=12, max_responses=5).responses_per_prompt == 1
    )


@pytest.mark.parametrize("budget", [1e6, 1e9, 1e12, 1e15])
@pytest.mark.parametrize("v_prompt", [0.187, 1e-4, 1e-8])
def test_search_does_not_grow_with_the_budget(budget, v_prompt, monkeypatch):
    monkeypatch.setattr(staircase, "MOST_CORNERS", 3000)
    for cost in (TOY_COST, Cost(4.0, 0.001), Cost(0.001, 4.0)):
        plan = allocate(VarianceComponents(v_prompt, 1.329), cost, budget=budget)
        assert plan.gap == 0
        assert (
            allocate(VarianceComponents(v_prompt, 1.329), cost, target_variance=plan.variance * 1.01).gap == 0
        )


def test_ranges_are_found_without_walking_them(monkeypatch):
    steps = []
    for kind in (staircase.BudgetProblem, staircase.TargetProblem):
        for name in ("step_up", "step_down"):
            plain = getattr(kind, name)
            monkeypatch.setattr(kind, name, lambda *args, plain=plain: steps.append(1) or plain(*args))
    wide = VarianceComponents(774.0, 1e12)
    for goal in ({"target_variance": 0.0098, "population": 10**6}, {"budget": 1e12, "max_prompts": 10**6}):
        low, high = allocate(wide, Cost(0.7, 0.0024), **goal).k_range_10pct
        assert high - low > 10_000
    assert len(steps) < 300


def test_gap_bounds_what_a_stopped_search_leaves(monkeypatch):
    components, cost = VarianceComponents(1e-4, 1.0), Cost(1.0, 1.0)
    goals = [{"budget": b} for b in (20123.0, 31337.0, 9973.0)] + [
        {"target_variance": v} for v in (1.0007e-4, 2.31e-4)
    ]
    exact = [allocate(components, cost, **goal) for goal in goals]
    assert not any(plan.gap for plan in exact)
    monkeypatch.setattr(staircase, "MOST_CORNERS", 1)
    stopped = [allocate(components, cost, **goal) for goal in goals]
    assert any(plan.gap for plan in stopped)
    for best, plan, goal in zip(exact, stopped, goals, strict=True):
        name = "variance" if "budget" in goal else "cost"
        assert getattr(plan, name) * (1 - plan.gap) <= getattr(best, name) * (1 + 1e-12)


# -- properties ------------------------------------------------------------------------------------------------------

variances = st.floats(1e-3, 1e3)
costs = st.floats(0.01, 100)


@given(variances, variances, costs, costs, st.floats(1, 1e4), st.floats(1, 3))
def test_more_budget_never_means_more_variance(v_x, v_y, c_p, c_r, times, more):
    components, cost = VarianceComponents(v_x, v_y), Cost(c_p, c_r)
    budget = (c_p + c_r) * times * 1.001
    plan = allocate(components, cost, budget=budget)
    assert plan.cost <= budget * (1 + 1e-15)
    assert allocate(components, cost, budget=budget * more).variance <= plan.variance
    assert plan.efficiency >= 1
    assert plan.k_range_10pct[0] <= plan.k_range_5pct[0] <= plan.responses_per_prompt
    assert plan.responses_per_prompt <= plan.k_range_5pct[1] <= plan.k_range_10pct[1]
    # never below the continuous optimum
    least = (math.sqrt(v_x * c_p) + math.sqrt(v_y * c_r)) ** 2 / budget
    assert plan.variance >= least * (1 - 1e-12)


@given(variances, variances, costs, costs, st.floats(1, 1e4))
def test_duality(v_x, v_y, c_p, c_r, times):
    components, cost = VarianceComponents(v_x, v_y), Cost(c_p, c_r)
    plan = allocate(components, cost, budget=(c_p + c_r) * times * 1.001)
    target = math.nextafter(plan.variance, math.inf)  # the exact variance may lie above the double
    dual = allocate(components, cost, target_variance=target)
    assert dual.variance <= target
    assert dual.cost <= plan.cost
    back = allocate(components, cost, budget=math.nextafter(dual.cost, math.inf))
    assert back.variance <= dual.variance


@given(variances, variances, costs, costs, st.floats(1.0001, 100))
def test_k_star_falls_with_the_prompt_variance(v_x, v_y, c_p, c_r, more):
    few, many = (optimal_responses(VarianceComponents(v, v_y), Cost(c_p, c_r)) for v in (v_x * more, v_x))
    assert few < many


@given(
    st.integers(1, 999),
    st.integers(1, 999),
    st.integers(1, 99),
    st.integers(1, 99),
    st.integers(0, 5000),
    st.data(),
)
def test_units_do_not_matter(v_x, v_y, c_p, c_r, extra, data):
    variance_unit, cost_unit = (10.0 ** data.draw(st.integers(-12, 12)) for _ in range(2))

    def plan(u, w):
        # through decimals, so that the numbers are the same in other units
        scaled = [
            float(f"{x}e{round(math.log10(unit))}") for x, unit in ((v_x, u), (v_y, u), (c_p, w), (c_r, w))
        ]
        budget = float(f"{c_p + c_r + extra}e{round(math.log10(w))}")
        return allocate(VarianceComponents(*scaled[:2]), Cost(*scaled[2:]), budget=budget)

    one, other = plan(1.0, 1.0), plan(variance_unit, cost_unit)
    assert (one.n_prompts, one.responses_per_prompt) == (other.n_prompts, other.responses_per_prompt)
    assert (one.k_range_5pct, one.k_range_10pct, one.bound_by) == (
        other.k_range_5pct,
        other.k_range_10pct,
        other.bound_by,
    )
    assert other.variance == pytest.approx(one.variance * variance_unit, rel=1e-12)
    assert other.cost == pytest.approx(one.cost * cost_unit, rel=1e-12)
    assert other.efficiency == pytest.approx(one.efficiency, rel=1e-12)


# -- regret ----------------------------------------------------------------------------------------------------------


def test_regret_curve_agrees_with_the_plans_of_each_k():
    for goal in ({"budget": 400.0}, {"target_variance": 0.02}, {"budget": 90.0, "max_prompts": 12}):
        curve = regret_curve(TOY, TOY_COST, range(1, 13), **goal)
        best = allocate(TOY, TOY_COST, **goal)
        for i, k in enumerate(curve.responses_per_prompt):
            plan = allocate(TOY, TOY_COST, responses_per_prompt=int(k), **goal)
            assert (curve.n_prompts[i], curve.variance[i], curve.cost[i]) == (
                plan.n_prompts,
                plan.variance,
                plan.cost,
            )
            compared = ("variance", "cost")["target_variance" in goal]
            excess = getattr(plan, compared) / getattr(best, compared) - 1
            assert curve.regret[i] == pytest.approx(excess, abs=1e-12)
        assert curve.regret[best.responses_per_prompt - 1] == 0


def test_regret_of_what_cannot_be_had():
    curve = regret_curve(TOY, TOY_COST, [1, 6, 7], budget=10.0)
    assert curve.n_prompts.tolist() == [2, 1, 0]
    assert np.isinf([curve.variance[2], curve.cost[2], curve.regret[2]]).all()
    assert regret_curve(TOY, TOY_COST, budget=10.0).responses_per_prompt.tolist() == [1, 2, 3, 4, 5, 6]
    # Where the best leaves no variance at all, anything that leaves some is infinitely worse.
    whole = regret_curve(TOY, TOY_COST, [5, 6], budget=1e6, population=20, candidates=6)
    assert whole.variance[1] == 0 < whole.variance[0]
    assert whole.regret.tolist() == [math.inf, 0]
    long = regret_curve(VarianceComponents(1e-9, 1.0), TOY_COST, budget=1e12).responses_per_prompt
    assert len(long) < 70
    assert np.all(np.diff(long) > 0)


def test_what_bound_the_plan():
    assert allocate(TOY, TOY_COST, budget=400).bound_by == ("budget",)
    assert allocate(TOY, TOY_COST, budget=400, max_responses=4).bound_by == ("budget", "max_responses")
    assert allocate(TOY, TOY_COST, budget=400, max_responses=50, max_prompts=500).bound_by == ("budget",)
    assert allocate(TOY, TOY_COST, budget=400, max_prompts=10).bound_by == ("budget", "max_prompts")
    assert allocate(TOY, TOY_COST, budget=400, max_prompts=10, max_responses=2).bound_by == (
        "max_prompts",
        "max_responses",
    )
    assert allocate(TOY, TOY_COST, target_variance=100.0).bound_by == ()
    assert allocate(TOY, TOY_COST, target_variance=0.02, candidates=2).bound_by == (
        "target_variance",
        "candidates",
    )


# -- costs and pilots ------------------------------------------------------------------------------------------------


def test_token_costs():
    tokens = {"prompt_tokens": 900, "response_tokens": 250, "price_in": 0.5, "price_out": 1.5}
    assert Cost.from_tokens(**tokens) == Cost(0.00045, 0.000375)
    apart = Cost.from_tokens(**tokens, shared_prefix=False, response=0.01)
    assert (apart.prompt, apart.response) == (0.0, pytest.approx(0.010825))
    assert allocate(TOY, apart, budget=10).responses_per_prompt == 1
    assert Cost.from_tokens(**tokens, prompt=0.1) == Cost(0.10045, 0.000375)
    with pytest.raises(InputError, match="prompt_tokens must be a finite number, 0 or above, not -1"):
        Cost.from_tokens(**{**tokens, "prompt_tokens": -1})


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a budget or a target"),
        ({"budget": 400, "target_variance": 0.1}, "either a budget or a target"),
        (
            {"budget": 4.9},
            r"a budget of 4.9 does not buy one prompt with one response: the least budget is 5\.0",
        ),
        ({"budget": 0}, "the least budget is 5.0"),
        ({"budget": 40, "n_prompts": 9}, "9 x 1 responses: the least budget is 45.0"),
        ({"budget": math.nan}, "budget must be a finite number"),
        ({"budget": -1.0}, "budget must be a finite number, 0 or above, not -1.0"),
        ({"budget": "400"}, "budget must be a finite number"),
        ({"budget": 1e60}, "choose units"),
        ({"budget": 400, "max_responses": 0}, "max_responses must be a whole number from 1"),
        ({"budget": 400, "max_prompts": 2.5}, "max_prompts must be a whole number"),
        ({"budget": 400, "max_prompts": math.inf}, "max_prompts must be a whole number"),
        ({"budget": 400, "candidates": "eight"}, "candidates must be a whole number.*not 'eight'"),
        ({"budget": [400]}, r"budget must be a finite number, 0 or above, not \[400\]"),
        ({"budget": 400, "n_prompts": 5, "responses_per_prompt": 5}, "nothing is left to choose"),
        ({"budget": 400, "n_prompts": 5, "population": 4}, "n_prompts = 5 is more than population = 4"),
        ({"budget": 400, "responses_per_prompt": 5, "max_responses": 4}, "more than max_responses = 4"),
        ({"budget": 400, "redundancy": 0.5}, "redundancy is the number of prompts in a group"),
        ({"target_variance": 0.0}, "stays above|above 0.0"),
        ({"target_variance": 0.001, "max_prompts": 10}, r"the least variance is above 0\.0187"),
    ],
)
def test_errors_name_the_remedy(arguments, message):
    with pytest.raises(InputError, match=message):
        allocate(TOY, TOY_COST, **arguments)


def test_groups_are_not_simple_random_draws():
    grouped = VarianceComponents(0.1, 1.0, group=0.3)
    with pytest.raises(InputError, match=r"population .* does not go with redundancy"):
        allocate(grouped, TOY_COST, budget=400, population=90, redundancy=2)
    # Without a component of groups redundancy says nothing.
    assert allocate(TOY, TOY_COST, budget=400, population=90, redundancy=2) == allocate(
        TOY, TOY_COST, budget=400, population=90
    )


def test_negative_estimates_are_refused():
    with pytest.raises(InputError, match=r"the response component .* must be a finite number") as error:
        allocate(VarianceComponents(0.1, math.inf), TOY_COST, budget=400)
    assert "max_responses" not in str(
        error.value
    )  # the remedy for a negative estimate is none for an infinite one
    with pytest.raises(InputError, match=r"0 or above, not -0\.1: plan at a confidence limit"):
        allocate(VarianceComponents(-0.1, 1.0), TOY_COST, budget=400)
    with pytest.raises(InputError, match="cost of a response must be"):
        Cost(1.0, -1.0)


def test_no_finite_optimum_without_a_cap():
    free, no_prompt_cost, nothing = Cost(1, 0), Cost(0, 1), Cost(0, 0)
    for goal in ({"budget": 10.0}, {"target_variance": 0.5}):
        with pytest.raises(InputError, match="a response costs nothing: set max_responses"):
            allocate(TOY, free, **goal)
        with pytest.raises(InputError, match="V_x and the cost of a prompt are 0: set max_responses"):
            allocate(VarianceComponents(0, 1), no_prompt_cost, **goal)
        with pytest.raises(InputError, match="cost nothing: set max_prompts"):
            allocate(TOY, nothing, max_responses=3, **goal)
        assert allocate(TOY, free, max_responses=7, **goal).responses_per_prompt == 7
        assert allocate(TOY, nothing, max_responses=3, max_prompts=9, **goal).n_prompts == 9
    assert allocate(VarianceComponents(0, 1), Cost(2, 3), budget=100).n_prompts == 1  # legal here


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 30), st.sampled_from(["caps", "finite"]))
def test_the_least_variance_that_an_error_names_is_reached(n, k, v, kind):
    names = ("max_prompts", "max_responses") if kind == "caps" else ("population", "candidates")
    caps = dict(zip(names, (n, k), strict=True))
    components = VarianceComponents(v / 7, 1.3)
    if kind == "finite":
        assume(n > 1)
        plan = allocate(components, TOY_COST, target_variance=0.0, **caps)
        assert (plan.n_prompts, plan.responses_per_prompt, plan.variance) == (n, k, 0.0)
        return
    with pytest.raises(InputError, match="the least variance is") as error:
        allocate(components, TOY_COST, target_variance=1e-9, **caps)
    plan = allocate(components, TOY_COST, target_variance=float(str(error.value).split()[-1]), **caps)
    assert (plan.n_prompts, plan.responses_per_prompt) == (n, k)

"""Plans over groups, prompts per group and responses per prompt, against brute force."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mrtsim.errors import InputError
from mrtsim.plan.allocate import Cost, allocate, optimal_responses, regret_curve
from mrtsim.variance import VarianceComponents

README = VarianceComponents(prompt=0.1332, response=0.4926, group=0.06378)


def law(components, m, r, k):
    return components.group / m + components.prompt / (m * r) + components.response / (m * r * k)


def test_readme_pilot():
    plan = allocate(README, Cost(2.0, 1.0, group=4.0), budget=400.0)
    assert (plan.n_groups, plan.prompts_per_group, plan.responses_per_prompt) == (28, 2, 3)
    assert plan.n_prompts == 56
    assert plan.variance == pytest.approx(0.0075886, abs=5e-8)
    assert plan.cost == 28 * (4 + 2 * 2 + 2 * 3)
    bound = (math.sqrt(0.06378 * 4) + math.sqrt(0.1332 * 2) + math.sqrt(0.4926)) ** 2 / 400
    assert bound == pytest.approx(0.0074226, abs=5e-8)
    assert bound < plan.variance
    assert plan.r_star == pytest.approx(math.sqrt(0.1332 * 4 / (0.06378 * 2)))
    assert plan.k_star == pytest.approx(math.sqrt(0.4926 * 2 / 0.1332))


def test_groups_that_cost_nothing_hold_one_prompt():
    plan = allocate(README, Cost(4.0, 1.0, group=0.0), budget=400.0)
    assert (plan.prompts_per_group, plan.r_star) == (1, 1.0)
    assert plan.k_star == pytest.approx(3.16, abs=0.005)  # not 3.85, which is K* at r* = 0
    flat = allocate(
        VarianceComponents(README.prompt + README.group, README.response), Cost(4.0, 1.0), budget=400.0
    )
    assert (plan.n_groups, plan.responses_per_prompt) == (flat.n_prompts, flat.responses_per_prompt)
    assert plan.variance == pytest.approx(flat.variance)


costs = st.integers(0, 8)


@given(
    st.integers(1, 40),
    st.integers(0, 60),
    st.integers(0, 90),
    costs,
    costs,
    st.integers(1, 8),
    st.integers(0, 90),
    st.one_of(st.none(), st.integers(1, 5)),
    st.one_of(st.none(), st.integers(1, 4)),
    st.one_of(st.none(), st.integers(1, 12)),
)
def test_budget_equals_brute_force(v_g, v_x, v_r, c_g, c_p, c_r, extra, most_r, most_k, most_n):
    components = VarianceComponents(v_x / 10, v_r / 10, v_g / 10)
    cost, budget = Cost(c_p / 10, c_r / 10, group=c_g / 10), (c_g + c_p + c_r + extra) / 10
    plan = allocate(
        components, cost, budget=budget, max_group_size=most_r, max_responses=most_k, max_prompts=most_n
    )
    r, k = np.meshgrid(np.arange(1, (most_r or 99) + 1), np.arange(1, (most_k or 99) + 1))
    m = round(10 * budget) // (c_g + r * (c_p + k * c_r))
    m = np.minimum(m, (most_n or 10**9) // r)
    best = law(components, m[m > 0], r[m > 0], k[m > 0]).min()
    assert plan.variance == pytest.approx(best, rel=1e-12)
    assert plan.n_groups
    assert plan.prompts_per_group
    assert plan.n_prompts == plan.n_groups * plan.prompts_per_group
    assert plan.variance == pytest.approx(
        law(components, plan.n_groups, plan.prompts_per_group, plan.responses_per_prompt)
    )
    assert plan.cost <= budget * (1 + 1e-12)
    assert plan.gap == 0
    # dual: the variance that the budget buys costs no more than the budget
    dual = allocate(
        components,
        cost,
        target_variance=plan.variance * (1 + 1e-12),
        max_group_size=most_r,
        max_responses=most_k,
        max_prompts=most_n,
    )
    assert dual.cost <= plan.cost * (1 + 1e-12)
    # monotone: more budget never buys more variance
    richer = allocate(
        components, cost, budget=1.5 * budget, max_group_size=most_r, max_responses=most_k, max_prompts=most_n
    )
    assert richer.variance <= plan.variance * (1 + 1e-12)


@given(
    st.integers(1, 40),
    st.integers(0, 40),
    st.integers(0, 40),
    costs,
    costs,
    st.integers(1, 8),
    st.floats(0.05, 3),
)
@example(1, 0, 0, 0, 0, 1, 1 / 3)
def test_target_equals_brute_force(v_g, v_x, v_r, c_g, c_p, c_r, share):
    components = VarianceComponents(v_x / 10, v_r / 10, v_g / 10)
    target = share * (v_g + v_x + v_r) / 10
    plan = allocate(components, Cost(c_p, c_r, group=c_g), target_variance=target)
    assert plan.variance <= target * (1 + 1e-12)
    # exact: the numbers are the decimals that they print as, and a target of 0.0333 is met by 4 groups of 0.1, not by 3
    least = math.inf
    for r, k in itertools.product(range(1, 30), repeat=2):
        one = (v_g * r * k + v_x * k + v_r) / Fraction(10 * r * k)
        m = max(1, math.ceil(one / Fraction(repr(target))))
        least = min(least, m * (c_g + r * (c_p + k * c_r)))
    assert plan.cost <= least


def test_large_problems_are_proven_or_bounded():
    plan = allocate(README, Cost(2.0, 1.0, group=4.0), budget=4e7)
    assert plan.gap < 1e-6
    rare = VarianceComponents(0.1332, 0.4926, group=1e-6)
    plan = allocate(rare, Cost(2.0, 1.0, group=4.0), budget=4e5)
    assert plan.gap < 1e-3
    assert plan.prompts_per_group == pytest.approx(plan.r_star, rel=0.2)
    # one group of 200,000 x 3: too many sizes to try them all
    one = VarianceComponents(0.1, 0.4, group=1e-20)
    plan = allocate(one, Cost(2.0, 1.0, group=1.0), budget=1e6)
    assert 0 < plan.gap < 0.1
    assert plan.variance * (1 - plan.gap) <= law(one, 1, 199_999, 3) * (1 + 1e-9)
    many = allocate(VarianceComponents(0.1, 0.4, group=1e-14), Cost(2.0, 1.0, group=1e6), budget=1e13)
    assert many.gap > 0  # r* is beyond a million prompts per group


def test_caps_that_bind_are_named():
    cost = Cost(2.0, 1.0, group=4.0)
    free = allocate(README, cost, budget=400.0, max_group_size=50, max_responses=50, max_prompts=10_000)
    assert free.bound_by == ("budget",)
    capped = allocate(README, cost, budget=400.0, max_group_size=1, max_responses=1)
    assert capped.bound_by == ("budget", "max_responses", "max_group_size")
    assert (capped.prompts_per_group, capped.responses_per_prompt, capped.efficiency) == (1, 1, 1.0)
    alone = allocate(VarianceComponents(0.1, 0.4), cost, budget=400.0, max_group_size=6)
    assert alone.prompts_per_group == 6


def test_regret_at_the_best_group_size():
    cost = Cost(2.0, 1.0, group=4.0)
    curve = regret_curve(README, cost, [1, 2, 3, 4], budget=400.0)
    assert curve.n_prompts.tolist() == [80, 66, 56, 50]
    for k, n, variance in zip(curve.responses_per_prompt, curve.n_prompts, curve.variance, strict=True):
        assert variance == pytest.approx(law(README, n / 2, 2, k))
    assert np.all(curve.regret >= 0)
    assert curve.regret[2] == 0


def test_fixed_responses():
    plan = allocate(README, Cost(2.0, 1.0, group=4.0), budget=400.0, responses_per_prompt=5)
    assert plan.responses_per_prompt == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 6.0}, "the least budget is 7.0"),
        ({"budget": 40.0, "redundancy": 4.0}, "leave redundancy out"),
        ({"budget": 40.0, "population": 4}, "population does not go with a cost per group"),
        ({"budget": 40.0, "n_prompts": 4}, "n_prompts does not go with a cost per group"),
        ({"budget": 40.0, "max_group_size": 0}, "max_group_size must be a whole number"),
        ({}, "either a budget or a target variance"),
        ({"target_variance": 1e-3, "max_prompts": 4}, "the least variance is above"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        allocate(README, Cost(2.0, 1.0, group=4.0), **options)


def test_what_has_no_optimum_is_refused():
    cost = Cost(2.0, 1.0, group=4.0)
    with pytest.raises(InputError, match="V_g = 0 would put all prompts into one group: set max_group_size"):
        allocate(VarianceComponents(0.1, 0.4), cost, budget=40.0)
    with pytest.raises(InputError, match="plan at a confidence limit"):
        allocate(VarianceComponents(0.1, 0.4, group=-0.1), cost, budget=40.0, max_group_size=3)
    with pytest.raises(InputError, match="set max_group_size"):
        allocate(README, Cost(0.0, 0.0, group=4.0), budget=40.0, max_responses=3)
    with pytest.raises(InputError, match="set max_responses"):
        allocate(README, Cost(1.0, 0.0, group=4.0), budget=40.0)
    with pytest.raises(InputError, match="max_group_size needs a cost per group"):
        allocate(README, Cost(1.0, 1.0), budget=40.0, max_group_size=4)
    with pytest.raises(InputError, match="the cost of a group must be a finite number"):
        Cost(1.0, 1.0, group=-1.0)
    with pytest.raises(InputError, match="a cost per group is for"):
        optimal_responses(README, cost)


def test_prompts_of_one_group_are_what_many_small_units_are():
    """Scaling all costs and the budget, or all components, scales the answer and nothing else."""
    one = allocate(README, Cost(2.0, 1.0, group=4.0), budget=400.0)
    scaled = VarianceComponents(*(7 * value for value in (README.prompt, README.response, README.group)))
    other = allocate(scaled, Cost(0.2, 0.1, group=0.4), budget=40.0)
    assert (one.n_groups, one.prompts_per_group, one.responses_per_prompt) == (
        other.n_groups,
        other.prompts_per_group,
        other.responses_per_prompt,
    )
    assert other.variance == pytest.approx(7 * one.variance)


def finite_law(components, m, r, k, total):
    return law(components, m, r, k) - components.group / total


@pytest.mark.parametrize("seed", range(20))
def test_a_given_set_of_groups(seed):
    """(1 - M/M_tot) V_g / M, whatever decides the group size; against brute force, for a budget and for a target."""
    rng = np.random.default_rng([31, seed])
    components = VarianceComponents(*(round(float(x), 2) for x in rng.uniform(0.05, 2, 3)))
    prices = [round(float(x), 1) for x in rng.uniform(0.3, 2, 3)]
    total, budget = int(rng.integers(2, 9)), round(float(rng.uniform(8, 30)), 1)
    m, r, k = np.meshgrid(np.arange(1, total + 1), np.arange(1, 60), np.arange(1, 60), indexing="ij")
    cost = m * (prices[0] + r * prices[1] + r * k * prices[2])
    variance = finite_law(components, m, r, k, total)
    best = variance[cost <= budget * (1 + 1e-12)].min()
    three = Cost(prices[1], prices[2], group=prices[0])
    plan = allocate(components, three, budget=budget, group_population=total)
    assert plan.variance == pytest.approx(best, rel=1e-9)
    assert plan.n_groups is not None
    assert plan.n_groups <= total
    target = float(np.quantile(variance, 0.7))
    found = allocate(components, three, target_variance=target, group_population=total)
    assert found.cost == pytest.approx(cost[variance <= target].min(), rel=1e-9)
    # r = 2 prompts per group, as they come: N_p prompts are N_p / 2 groups
    n = np.arange(1, 2 * total + 1)[:, None]
    k = np.arange(1, 100)
    spread = (
        2 * components.group + components.prompt + components.response / k
    ) / n - components.group / total
    affordable = n * (prices[1] + k * prices[2]) <= budget
    two = allocate(
        components, Cost(prices[1], prices[2]), budget=budget, redundancy=2, group_population=total
    )
    assert two.variance == pytest.approx(spread[affordable].min(), rel=1e-9)
    assert two.n_prompts <= 2 * total
    free = allocate(components, Cost(prices[1], prices[2]), budget=budget, redundancy=2)
    better = free.variance - components.group / total < two.variance * (1 - 1e-12)
    assert ("group_population" in two.bound_by) == better


def test_every_group_there_is():
    """All groups: V_g is no error, as where the same groups get more prompts."""
    plan = allocate(README, Cost(2.0, 1.0, group=0.0), budget=1e4, group_population=28)
    assert plan.n_groups == 28
    assert plan.bound_by == ("budget", "group_population")
    same = (README.prompt + README.response / plan.responses_per_prompt) / plan.n_prompts
    assert plan.variance == pytest.approx(same, rel=1e-9)
    with pytest.raises(InputError, match="two targets"):
        allocate(README, Cost(2.0, 1.0), budget=9.0, group_population=28, population=99)
    with pytest.raises(InputError, match="at least 1"):
        allocate(README, Cost(2.0, 1.0), budget=9.0, group_population=0.5)
    with pytest.raises(InputError, match="the 56 prompts that the groups hold"):
        allocate(README, Cost(2.0, 1.0), budget=999.0, group_population=28, redundancy=2, n_prompts=57)

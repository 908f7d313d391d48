"""What must hold of every allocation rule: caps never help, money never hurts, budget and target invert each other."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mrtsim.errors import InputError
from mrtsim.plan.allocate import Cost, allocate, optimal_responses, regret_curve
from mrtsim.testing import check_allocator
from mrtsim.variance import VarianceComponents, estimator_variance

# Whole numbers: ties are common, and what is equal is exactly equal.
components = st.builds(
    VarianceComponents, st.integers(0, 30).map(float), st.integers(0, 30).map(float), st.just(0.0)
)
prices = st.builds(Cost, st.integers(0, 9).map(float), st.integers(1, 9).map(float))
budgets = st.integers(18, 400).map(float)
CAPS = ("max_responses", "max_prompts", "population", "candidates", "n_prompts", "responses_per_prompt")
cap = st.tuples(st.sampled_from(CAPS), st.integers(1, 12))


def plan(*arguments, **options):
    """The plan, or None where there is none."""
    try:
        return allocate(*arguments, **options)
    except InputError:
        return None


def as_tuple(c, cost, budget):
    found = allocate(c, cost, budget=budget)
    return found.n_prompts, found.responses_per_prompt


def test_the_planner_is_best_on_every_small_instance():
    check_allocator(as_tuple)


@given(components, prices, budgets, cap)
def test_a_cap_or_a_fixed_number_never_helps(c, cost, budget, limit):
    free = plan(c, cost, budget=budget)
    assume(free is not None)
    name, value = limit
    finite = {name: value} if name in ("population", "candidates") else {}
    capped = plan(c, cost, budget=budget, **{name: value})
    if capped is not None:
        # Against a finite target the variance is another one: compare what the plan would leave in the population.
        left = estimator_variance(c, capped.n_prompts, capped.responses_per_prompt)
        assert left >= free.variance * (1 - 1e-12)
        assert capped.variance <= left * (1 + 1e-12) if finite else capped.variance >= free.variance
    if not finite and free.variance:
        target = math.nextafter(free.variance, math.inf)
        cheapest, dearer = (
            plan(c, cost, target_variance=target),
            plan(c, cost, target_variance=target, **{name: value}),
        )
        assert cheapest.cost <= free.cost
        assert dearer is None or dearer.cost >= cheapest.cost


@given(components, prices, budgets, st.integers(1, 60), st.sampled_from(["prompt", "response"]))
def test_the_plan_follows_the_component_that_grows(c, cost, budget, more, which):
    """In whole numbers too: of the points (1/N_p, 1/(N_p K)) a larger weight on one coordinate picks a smaller one."""
    larger = VarianceComponents(
        c.prompt + more * (which == "prompt"), c.response + more * (which == "response")
    )
    first, second = plan(c, cost, budget=budget), plan(larger, cost, budget=budget)
    assume(first is not None and second is not None)
    assume(c.prompt + c.response > 0)
    if which == "prompt":
        assert second.n_prompts >= first.n_prompts
        assert second.responses_per_prompt <= first.responses_per_prompt
    else:
        assert second.n_prompts * second.responses_per_prompt >= first.n_prompts * first.responses_per_prompt
        assert second.responses_per_prompt >= first.responses_per_prompt
    assert second.variance >= first.variance


@given(components, prices, budgets, st.integers(1, 5), st.sampled_from(["prompt", "response"]))
def test_dearer_prompts_or_responses_never_help(c, cost, budget, more, which):
    dearer = Cost(cost.prompt + more * (which == "prompt"), cost.response + more * (which == "response"))
    first, second = plan(c, cost, budget=budget), plan(c, dearer, budget=budget)
    assume(first is not None and second is not None)
    assert second.variance >= first.variance


@given(components, prices, st.integers(1, 200), st.integers(1, 100), st.one_of(st.none(), cap))
def test_an_easier_target_is_never_dearer(c, cost, target, more, limit):
    options = {} if limit is None else dict([limit])
    hard = plan(c, cost, target_variance=target / 100, **options)
    assume(hard is not None)
    easy = plan(c, cost, target_variance=(target + more) / 100, **options)
    assert easy.cost <= hard.cost


@given(components, prices, budgets, st.integers(0, 200), cap)
def test_budget_and_target_invert_each_other_under_any_cap(c, cost, budget, more, limit):
    options = dict([limit])
    bought = plan(c, cost, budget=budget, **options)
    assume(bought is not None)
    assert plan(c, cost, budget=budget + more, **options).variance <= bought.variance
    target = math.nextafter(bought.variance, math.inf)  # the exact variance may lie above the double
    assume(target > 1e-50)
    reached = plan(c, cost, target_variance=target, **options)
    assert reached.cost <= bought.cost
    back = plan(c, cost, budget=reached.cost, **options)
    assert back.variance <= reached.variance
    assert back.variance == pytest.approx(bought.variance, rel=1e-12)


@given(components, prices, st.floats(1, 10), st.floats(1.001, 10))
def test_k_star_moves_with_each_number(c, cost, r, more):
    three = VarianceComponents(c.prompt + 1, c.response + 1, group=2.0)
    cost = Cost(cost.prompt + 1, cost.response)
    base = optimal_responses(three, cost, redundancy=r)
    assert optimal_responses(three, cost, redundancy=r * more) < base
    assert optimal_responses(three, Cost(cost.prompt * more, cost.response), redundancy=r) > base
    assert optimal_responses(three, Cost(cost.prompt, cost.response * more), redundancy=r) < base
    louder = VarianceComponents(three.prompt, three.response * more, three.group)
    assert optimal_responses(louder, cost, redundancy=r) > base
    # Only ratios count.
    scaled = VarianceComponents(4 * three.prompt, 4 * three.response, 4 * three.group)
    doubled = Cost(2 * cost.prompt, 2 * cost.response)
    assert optimal_responses(scaled, doubled, redundancy=r) == pytest.approx(base, rel=1e-12)


@given(components, prices, budgets, st.booleans())
def test_regret_is_an_excess_over_the_best(c, cost, budget, target):
    best = plan(c, cost, budget=budget)
    assume(best is not None and best.variance > 0)
    goal = {"target_variance": math.nextafter(best.variance, math.inf)} if target else {"budget": budget}
    curve = regret_curve(c, cost, **goal)
    assert np.all(curve.regret >= 0)
    assert curve.regret.min() == 0
    bought = curve.n_prompts > 0
    n, k = curve.n_prompts[bought], curve.responses_per_prompt[bought]
    assert curve.variance[bought] == pytest.approx(estimator_variance(c, n, k), rel=1e-12)
    assert curve.cost[bought] == pytest.approx(n * (cost.prompt + k * cost.response), rel=1e-12)
    limit = curve.variance <= goal["target_variance"] if target else curve.cost <= budget
    assert np.all(limit[bought])

"""pass@k: unbiased by enumeration, exact variance, components, plans against brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mrtsim.errors import InputError
from mrtsim.pilot.pass_at_k import (
    PassAtKComponents,
    allocate_pass_at_k,
    estimate_pass_at_k,
    pass_at_k,
    pass_at_k_variance,
)
from mrtsim.plan.allocate import Cost

BETA = PassAtKComponents.of_beta(0.6, 1.8, 4)


@pytest.mark.parametrize(
    ("p", "n", "k"), [(0.3, 7, 3), (0.2, 10, 10), (0.6, 5, 1), (0.15, 12, 4), (0.05, 9, 5)]
)
def test_estimate_and_variance_by_enumeration(p, n, k):
    counts = np.arange(n + 1)
    chance = stats.binom.pmf(counts, n, p)
    estimates = pass_at_k(counts, n, k)
    mean = chance @ estimates
    assert mean == pytest.approx(1 - (1 - p) ** k)
    assert pass_at_k_variance(p, n, k) == pytest.approx(chance @ (estimates - mean) ** 2)


def test_each_estimate_is_the_share_of_subsets_with_a_success():
    for n, c, k in ((6, 2, 3), (5, 0, 2), (5, 5, 5), (7, 1, 7)):
        outcomes = [1] * c + [0] * (n - c)
        subsets = list(itertools.combinations(outcomes, k))
        assert pass_at_k(c, n, k) == pytest.approx(np.mean([max(s) for s in subsets]))
    assert isinstance(pass_at_k(2, 6, 3), float)
    assert pass_at_k([0, 6], [6, 6], 3).tolist() == [0.0, 1.0]
    assert pass_at_k(3, 10**9, 1) == pytest.approx(3e-9)


def test_the_delta_method_is_wrong():
    p, n = 0.2, 10
    assert pass_at_k_variance(p, n, 10) > 3 * 100 * p * 0.8**19 / n
    large = pass_at_k_variance(p, 10**6, 10)
    assert large == pytest.approx(100 * p * 0.8**19 / 10**6, rel=1e-3)


def test_known():
    assert BETA.value == pytest.approx(0.52585, abs=5e-6)
    assert BETA.prompt == pytest.approx(0.11843, abs=5e-6)
    assert BETA.response(4) == pytest.approx(0.13090, abs=5e-6)
    assert BETA.response(16) == pytest.approx(0.02490, abs=5e-6)
    for c_prompt, n, trials in ((0, 800, 4), (4, 355, 5)):
        plan = allocate_pass_at_k(BETA, Cost(c_prompt, 1), budget=3200)
        assert (plan.n_prompts, plan.responses_per_prompt, plan.gap) == (n, trials, 0)


def test_extreme_rates():
    sure = PassAtKComponents.of_beta(1e308, 1e308, 3)  # one rate of a half for all
    assert sure.value == pytest.approx(1 - 0.5**3)
    assert sure.prompt == pytest.approx(0)
    apart = PassAtKComponents.of_beta(1e-300, 3e-300, 3)  # a quarter always succeeds, the others never
    assert apart.value == pytest.approx(0.25)
    assert apart.prompt == pytest.approx(0.25 * 0.75)
    assert apart.response(7) == pytest.approx(0)


def test_variance_over_prompts_by_enumeration():
    """Two kinds of prompts: the law of total variance, with W(n) from the moments."""
    rates, weights, k, n = np.array([0.1, 0.7]), np.array([0.6, 0.4]), 2, 5
    q = 1 - rates
    moments = [float(weights @ q**m) for m in range(k, 2 * k + 1)]
    components = PassAtKComponents(k, moments[-1] - moments[0] ** 2, tuple(moments))
    counts = np.arange(n + 1)
    chance = weights @ np.array([stats.binom.pmf(counts, n, p) for p in rates])
    estimates = pass_at_k(counts, n, k)
    variance = chance @ (estimates - chance @ estimates) ** 2
    assert components.variance(1, n) == pytest.approx(variance)
    assert components.variance(7, n) == pytest.approx(variance / 7)
    assert components.response(n) == pytest.approx(weights @ pass_at_k_variance(rates, n, k))
    assert components.variance(7, n, population=7) == pytest.approx(components.response(n) / 7)


def test_components_from_counts_are_unbiased_by_enumeration():
    """Over all pilots of two prompts, each of two kinds."""
    rates, weights, k, n = np.array([0.15, 0.6]), np.array([0.7, 0.3]), 2, 4
    q = 1 - rates
    true = float(weights @ q ** (2 * k) - (weights @ q**k) ** 2)
    counts = np.arange(n + 1)
    chance = weights @ np.array([stats.binom.pmf(counts, n, p) for p in rates])
    prompt = response = square = 0.0
    for a, b in itertools.product(counts, counts):
        found = estimate_pass_at_k([a, b], n, k)
        assert found.source == "counts"
        prompt += chance[a] * chance[b] * found.components.prompt
        response += chance[a] * chance[b] * found.components.response(9)
        square += chance[a] * chance[b] * found.value.standard_error**2
    assert prompt == pytest.approx(true)
    assert response == pytest.approx(weights @ pass_at_k_variance(rates, 9, k))
    assert square == pytest.approx((true + weights @ pass_at_k_variance(rates, n, k)) / 2)


def test_too_few_for_counts_uses_the_beta_fit():
    rng = np.random.default_rng(0)
    rates = rng.beta(0.6, 1.8, 4000)
    beta = estimate_pass_at_k(rng.binomial(5, rates), 5, 4)
    assert beta.source == "beta"
    assert math.isnan(beta.standard_error_given)
    assert beta.components.prompt == pytest.approx(BETA.prompt, rel=0.1)
    assert beta.components.response(4) == pytest.approx(BETA.response(4), rel=0.1)
    counts = estimate_pass_at_k(rng.binomial(8, rates), 8, 4)
    assert counts.source == "counts"
    assert counts.components.prompt == pytest.approx(BETA.prompt, rel=0.1)
    assert counts.standard_error_given == pytest.approx(math.sqrt(BETA.response(8) / 4000), rel=0.1)
    few = estimate_pass_at_k([1, 2, 0, 3], [5, 5, 2, 5], 4)
    assert (few.n_prompts, few.n_dropped) == (3, 1)


def test_interval_covers():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        found = estimate_pass_at_k(rng.binomial(8, rng.beta(0.6, 1.8, 60)), 8, 4).value
        hits += found.low <= BETA.value <= found.high
    assert 0.92 <= hits / 400 <= 0.985


def test_degenerate_pilots():
    apart = estimate_pass_at_k([0, 5, 5], 5, 4)
    assert apart.components.response(5) == pytest.approx(0)
    assert apart.components.prompt == pytest.approx(1 / 3 - 1 / 9)
    same = estimate_pass_at_k([2, 2, 2], 5, 4)
    assert same.components.prompt == pytest.approx(0, abs=1e-12)
    right = estimate_pass_at_k([5, 5], 5, 4)
    assert (right.value.value, right.value.standard_error) == (1, 0)
    assert right.components.response(4) == 0


@given(
    st.floats(0.1, 5), st.floats(0.1, 5), st.integers(1, 6), st.integers(0, 6), st.integers(1, 4), st.integers(0, 150),
    st.one_of(st.none(), st.integers(6, 12)),
)  # fmt: skip
def test_plans_equal_brute_force(alpha, beta, k, c_prompt, c_response, extra, most):
    components = PassAtKComponents.of_beta(alpha, beta, k)
    cost, budget = Cost(c_prompt / 4, c_response / 4), (c_prompt + k * c_response + extra) / 4
    plan = allocate_pass_at_k(components, cost, budget=budget, max_responses=most)
    options = []
    for n in range(k, min(most or 10**6, int(4 * budget) // c_response) + 1):
        prompts = int(4 * budget) // (c_prompt + n * c_response)
        if prompts:
            options.append((components.variance(prompts, n), n, prompts))
    assert plan.variance == pytest.approx(min(options)[0], rel=1e-12)
    assert plan.cost <= budget
    dual = allocate_pass_at_k(
        components, cost, target_variance=plan.variance * (1 + 1e-9), max_responses=most
    )
    assert dual.cost <= plan.cost + 1e-9
    assert dual.variance <= plan.variance * (1 + 1e-8)
    more = allocate_pass_at_k(components, cost, budget=budget + 5, max_responses=most)
    assert more.variance <= plan.variance * (1 + 1e-12)


def test_w_falls_with_n_no_faster_than_its_bound():
    for k in (1, 3, 8):
        components = PassAtKComponents.of_beta(0.4, 1.1, k)
        w = np.array([components.response(n) for n in range(k, 60)])
        assert np.all(np.diff(w) < 0)
        assert np.all(
            w * np.arange(k, 60) >= k**2 * (components.moments[-2] - components.moments[-1]) - 1e-12
        )


def test_a_given_benchmark():
    cost = Cost(4, 1)
    plan = allocate_pass_at_k(BETA, cost, budget=3200, population=100)
    assert (plan.n_prompts, plan.responses_per_prompt) == (100, 28)
    assert plan.variance == pytest.approx(BETA.response(28) / 100)
    least = allocate_pass_at_k(BETA, cost, target_variance=3e-4, population=100)
    n = least.responses_per_prompt
    assert BETA.response(n) / 100 <= 3e-4 < BETA.response(n - 1) / 100
    with pytest.raises(
        InputError, match="does not buy 100 prompts with 4 responses each: the least budget is 800"
    ):
        allocate_pass_at_k(BETA, cost, budget=700, population=100)
    with pytest.raises(InputError, match="no number of responses reaches the target"):
        allocate_pass_at_k(BETA, cost, target_variance=1e-4, population=100, max_responses=9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(1, 3, 4), "at least 4 responses per prompt, not 3"),
        (lambda: pass_at_k(1, 3, 0), "k must be a whole number"),
        (lambda: pass_at_k(4, 3, 1), "successes must be whole numbers from 0 to trials"),
        (lambda: pass_at_k_variance(0.5, 3, 4), "at least 4"),
        (lambda: pass_at_k_variance(1.5, 4, 4), "between 0 and 1"),
        (lambda: estimate_pass_at_k([1, 1], [3, 3], 4), "0 of 2 have as many, and the most is 3"),
        (lambda: estimate_pass_at_k([1, 1], [1, 1], 1), "one response"),
        (lambda: estimate_pass_at_k([1, 1], [3, 3], 1, confidence=1.0), "between 0 and 1"),
        (lambda: PassAtKComponents.of_beta(0, 1, 2), "alpha must be"),
        (lambda: BETA.response(3), "at least 4"),
        (lambda: BETA.variance(3, 4, population=4), "population = n_prompts"),
        (lambda: allocate_pass_at_k(BETA, Cost(1, 1)), "either a budget or a target"),
        (lambda: allocate_pass_at_k(BETA, Cost(1, 1), budget=-1), "above 0"),
        (lambda: allocate_pass_at_k(BETA, Cost(1, 1), budget=4), "the least budget is 5"),
        (lambda: allocate_pass_at_k(BETA, Cost(1, 0), budget=4), "set max_responses"),
        (lambda: allocate_pass_at_k(BETA, Cost(1, 1), budget=9, max_responses=3), "at least 4"),
        (
            lambda: allocate_pass_at_k(PassAtKComponents(1, -0.1, (0.5, 0.2)), Cost(1, 1), budget=9),
            "V_x is not above 0: set max_responses",
        ),
    ],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()

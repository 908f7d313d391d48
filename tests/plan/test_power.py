"""Plans for a power: known numbers, every plan against all plans, and the power against simulated t tests."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from mrtsim import (
    Cost,
    DifferenceComponents,
    InputError,
    VarianceComponents,
    allocate_comparison,
    allocate_for_power,
    detectable_difference,
)
from mrtsim.plan.power import Rule, Sampling, detectable
from mrtsim.plan.power_search import Caps, Search

README_PILOT = VarianceComponents(0.1949, 0.4926)


def normal_count(components, k, detect, rule):
    """Prompts by the normal distribution, before rounding."""
    return (components.prompt + components.response / k) / (detect / rule.z) ** 2


# Known numbers (sources in the test names)


def test_miller_969_questions_before_the_correction():
    """Miller (2024), section 5: omega^2 = 1/9, D = .03, 80 %, as public reimplementations print it."""
    rule = Rule()
    assert math.ceil(normal_count(VarianceComponents(1 / 9, 0.0), 1, 0.03, rule)) == 969
    plan = allocate_for_power(VarianceComponents(1 / 9, 0.0), Cost(1.0, 1.0), 0.03)
    assert (plan.n_prompts, plan.responses_per_prompt) == (971, 1)
    assert plan.n_prompts == math.ceil(
        normal_count(VarianceComponents(1 / 9, 0), 1, 0.03, rule) + 1.96**2 / 2
    )


def test_miller_uniform_difficulty():
    """V_x = 1/12, V_{y|x} = 1/6: K = 2, 4, 6 removes 1/3, 1/2, 5/9 of the variance."""
    single = detectable_difference(VarianceComponents(1 / 12, 1 / 6), 100, 1).variance
    for k, removed in ((2, 1 / 3), (4, 1 / 2), (6, 5 / 9)):
        variance = detectable_difference(VarianceComponents(1 / 12, 1 / 6), 100, k).variance
        assert 1 - variance / single == pytest.approx(removed)


def test_detectable_differences_of_198_questions():
    for k, known in ((1, 0.13273), (10, 0.07567)):
        found = detectable_difference((1 / 9, 1 / 6, 1 / 6), 198, k)
        assert found.large_sample == pytest.approx(known, abs=5e-6)
        assert found.degrees_of_freedom == 197
        assert float(found) == found.difference > found.large_sample


def test_two_models_like_the_pilot():
    found = detectable_difference(README_PILOT, 57, 3, correlation=0.5)
    assert found.large_sample == pytest.approx(0.26844, abs=5e-6)
    same = detectable_difference(DifferenceComponents(0.1949, 0.4926, 0.4926), 57, 3, 3)
    assert same.difference == found.difference


def test_power_without_the_correction():
    """A normal count has .704, .757, .784 of the power .8 at N = 10, 20, 50."""
    rule = Rule()
    for n, power in ((10, 0.704), (20, 0.757), (50, 0.784)):
        assert rule.power_at(rule.z, n - 1) == pytest.approx(power, abs=6e-4)


def test_the_normal_correction_and_noncentral_t():
    """ceil(N + z^2 / 2) is the least N by noncentral t in 16 of 18 cases, a prompt short in 2."""
    cases = list(itertools.product((0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6), (0.8, 0.9)))
    short = []
    for detect, power in cases:
        components = VarianceComponents(1.0, 0.0)
        plan = allocate_for_power(components, Cost(1.0, 1.0), detect, power=power, responses_per_prompt=1)
        count = normal_count(components, 1, detect, Rule(power=power))
        corrected = math.ceil(count + special.ndtri(0.975) ** 2 / 2)
        assert plan.n_prompts - corrected in (0, 1)
        had = stats.nct.sf(stats.t.ppf(0.975, corrected - 1), corrected - 1, detect * math.sqrt(corrected))
        if corrected < plan.n_prompts:
            assert had < power
            short.append((detect, power))
        else:
            assert had >= power - 1e-9
    assert short == [(0.35, 0.8), (0.4, 0.8)]


def test_noncentral_t_agrees_with_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power").TTestPower()
    for n, effect in ((5, 1.5), (20, 0.7), (200, 0.2)):
        both = power.power(effect, n, 0.05)  # either side: the wrong one adds 1e-5 and less
        assert Rule().power_at(effect * math.sqrt(n), n - 1) == pytest.approx(both, abs=2e-5)
        one = power.power(effect, n, 0.05, alternative="larger")
        assert Rule(one_sided=True).power_at(effect * math.sqrt(n), n - 1) == pytest.approx(one, abs=1e-6)


def test_the_power_is_had():
    """20,000 simulated comparisons of the plan: its power within 3 standard errors."""
    rng = np.random.default_rng(0)
    components, replicates = DifferenceComponents(0.5, 1.0, 2.0), 20_000
    plan = allocate_comparison(components, Cost(3.0, 1.0), 2.0, detect=0.9)
    n, noise = (
        plan.n_prompts,
        components.response_a / plan.responses_a + components.response_b / plan.responses_b,
    )
    d = 0.9 + rng.standard_normal((replicates, n)) * math.sqrt(components.difference + noise)
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / math.sqrt(n))
    had = np.mean(t > stats.t.ppf(0.975, n - 1))
    assert had == pytest.approx(plan.power, abs=3 * math.sqrt(plan.power * (1 - plan.power) / replicates))
    assert plan.power >= 0.8


# The variance


def test_variance_of_a_comparison_by_enumeration():
    """Prompts of weight .6 and .4, success rates of two models: all samples of 2 prompts, K_A = 2, K_B = 1."""
    weights, rates_a, rates_b = (0.6, 0.4), (0.2, 0.9), (0.3, 0.5)
    mean = {"a": np.dot(weights, rates_a), "b": np.dot(weights, rates_b)}
    gaps = np.subtract(rates_a, rates_b)
    components = DifferenceComponents(
        difference=float(np.dot(weights, (gaps - mean["a"] + mean["b"]) ** 2)),
        response_a=float(np.dot(weights, [p * (1 - p) for p in rates_a])),
        response_b=float(np.dot(weights, [p * (1 - p) for p in rates_b])),
    )
    assert (components.difference, components.response_a, components.response_b) == pytest.approx(
        (0.06, 0.132, 0.226)
    )
    one = []  # (probability, difference) of one prompt's outcomes
    for weight, a, b in zip(weights, rates_a, rates_b, strict=True):
        for outcome in itertools.product((0, 1), repeat=3):
            chance = [a if x else 1 - a for x in outcome[:2]] + [b if outcome[2] else 1 - b]
            one.append((weight * math.prod(chance), sum(outcome[:2]) / 2 - outcome[2]))
    pairs = [(p * q, (x + y) / 2) for (p, x), (q, y) in itertools.product(one, one)]
    first = sum(p * x for p, x in pairs)
    variance = sum(p * x**2 for p, x in pairs) - first**2
    assert variance == pytest.approx(0.176)
    assert detectable_difference(components, 2, 2, 1).variance == pytest.approx(variance)


def test_variance_on_given_prompts_by_enumeration():
    """All samples of 2 of 3 given prompts and of one or two responses: the finite target."""
    pools = [(0.0, 1.0), (1.0, 3.0), (2.0, 6.0)]  # each response equally likely, with replacement
    means = [sum(pool) / 2 for pool in pools]
    target = sum(means) / 3
    within = sum((a - b) ** 2 / 4 for a, b in pools) / 3
    between = float(np.var(means, ddof=1))
    for n, k in ((2, 2), (3, 2), (3, 1)):
        errors = []
        for chosen in itertools.combinations(range(3), n):
            for draws in itertools.product(*(itertools.product(pools[i], repeat=k) for i in chosen)):
                errors.append(np.mean([np.mean(draw) for draw in draws]) - target)
        found = detectable_difference(VarianceComponents(between, within), n, k, population=3).variance
        assert found == pytest.approx(np.mean(np.square(errors)))


# Every plan against all plans


def brute(sampling, effect, rule, prices, caps, most_k=25):
    best = None
    for k in range(1, most_k + 1):
        search = Search(sampling, effect, rule, *prices, caps)
        ns = np.arange(caps.n_prompts or 2, min(caps.most_prompts, 300) + 1)
        good = search.shows(ns, k)
        if good.any():
            n = int(ns[good.argmax()])
            key = (round(n * search.price(k), 9), float(sampling.moments(n, k)[0]), k, n)
            best = key if best is None or key < best else best
    return best


def test_the_plan_is_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    for i in range(50):
        between, response = rng.exponential(1, 2) * rng.choice([0.1, 1.0, 3.0])
        prices = float(rng.integers(0, 6)), float(rng.integers(1, 4))
        rule = Rule(rng.choice([0.9, 0.95, 0.99]), rng.choice([0.6, 0.8, 0.9]), bool(rng.integers(2)))
        population = int(rng.integers(3, 40)) if i % 3 == 0 else None
        caps = Caps(
            max_prompts=int(rng.integers(2, 30)) if i % 4 == 0 else None,
            population=population,
            max_responses=int(rng.integers(1, 8)) if i % 5 == 0 else None,
        )
        sampling, effect = Sampling(between, (response,), population), rng.uniform(1.2, 3)
        best = brute(sampling, effect, rule, prices, caps, caps.max_responses or 25)
        search = Search(sampling, effect, rule, *prices, caps)
        if best is None and not (
            caps.most_prompts < math.inf and search.responses(caps.most_prompts) < math.inf
        ):
            with pytest.raises(InputError, match="unreachable"):
                search.plan()
            continue
        plan = search.plan()
        found = (round(plan.cost, 9), plan.variance, plan.responses_per_prompt, plan.n_prompts)
        if best is None:
            assert plan.responses_per_prompt > 25
        else:
            assert found[2:] == best[2:], (i, best, found)


@pytest.mark.parametrize("seed", range(4))
def test_two_numbers_of_responses_equal_brute_force(seed):
    """(N_p, K_A, K_B) of a budget, a target and a power, with caps and given prompts."""
    rng = np.random.default_rng(seed)

    def exact(x):
        return Fraction(repr(float(x)))

    for i in range(30):
        v_d, w_a, w_b = (
            round(float(x), 3) for x in rng.exponential(1, 3) * rng.choice([0.1, 1, 3], 3) + 0.001
        )
        c_p, c_a, c_b = int(rng.integers(0, 8)), *(float(rng.choice([0.1, 0.5, 1, 2, 3])) for _ in "ab")
        kind = i % 3
        goal = (
            {"budget": float(rng.integers(10, 100))},
            {"target_variance": round(float(rng.uniform(0.05, 0.5)), 3)},
            {"detect": float(rng.uniform(0.8, 3))},
        )[kind]
        caps = {"max_responses": int(rng.integers(1, 13))}
        if rng.random() < 0.3:
            caps["population"] = int(rng.integers(3, 30))
        if rng.random() < 0.3:
            caps["n_prompts"] = int(rng.integers(2, caps.get("population", 20) + 1))
        elif rng.random() < 0.3:
            caps["max_prompts"] = int(rng.integers(2, 30))
        fixed, offset = caps.get("n_prompts"), exact(v_d) / caps["population"] if "population" in caps else 0
        most = min(caps.get("max_prompts", 10**6), caps.get("population", 10**6))
        best = None
        for k_a, k_b in itertools.product(range(1, caps["max_responses"] + 1), repeat=2):
            one = exact(v_d) + exact(w_a) / k_a + exact(w_b) / k_b
            price = c_p + k_a * exact(c_a) + k_b * exact(c_b)
            if kind == 0:
                n = min(most, exact(goal["budget"]) // price)
                n = n if fixed is None else fixed if fixed <= n else 0
                key = (one / n - offset, n * price, k_a, k_b, n) if n else None
            elif kind == 1:
                n = math.ceil(one / (exact(goal["target_variance"]) + offset))
                n = n if fixed is None else fixed if n <= fixed else math.inf
                key = (n * price, one / n - offset, k_a, k_b, n) if n <= most else None
            else:
                sampling = Sampling(v_d, (w_a, w_b), caps.get("population"), first=k_a)
                search = Search(sampling, goal["detect"], Rule(), 1.0, 1.0, Caps())
                ns = np.arange(2, min(most, 400) + 1) if fixed is None else np.array([fixed])
                good = search.shows(ns, k_b)
                n = int(ns[good.argmax()])
                key = (round(float(n * price), 9), float(sampling.moments(n, k_b)[0]), k_a, k_b, n)
                key = key if good.any() else None
            if key is not None and (best is None or key < best):
                best = key
        components = DifferenceComponents(v_d, w_a, w_b)
        if best is None:
            with pytest.raises(InputError):
                allocate_comparison(components, Cost(c_p, c_a), c_b, **goal, **caps)
            continue
        plan = allocate_comparison(components, Cost(c_p, c_a), c_b, **goal, **caps)
        assert (plan.responses_a, plan.responses_b, plan.n_prompts) == best[2:], (i, best, plan)
        assert plan.variance == pytest.approx(float(best[0] if kind == 0 else best[1]), abs=1e-12)


def test_unequal_optimum_and_its_bound():
    """(V_D, W_A, W_B) = (.1, .2, .2), costs (4, 1, 3): K* = (2.8284, 1.6330), bound x budget = 3.43830."""
    components, budget = DifferenceComponents(0.1, 0.2, 0.2), 1e6
    plan = allocate_comparison(components, Cost(4.0, 1.0), 3.0, budget=budget)
    assert (plan.k_star_a, plan.k_star_b) == pytest.approx((2.8284, 1.6330), abs=5e-5)
    bound = (math.sqrt(0.1 * 4) + math.sqrt(0.2 * 1) + math.sqrt(0.2 * 3)) ** 2
    assert bound == pytest.approx(3.43830, abs=5e-6)
    assert bound <= plan.variance * budget < 1.01 * bound
    assert (plan.responses_a, plan.responses_b) == (3, 2)
    equal = allocate_comparison(
        components, Cost(4.0, 2.0), budget=budget
    )  # the same cost of a response to each
    assert equal.variance > plan.variance


def test_equal_responses_are_the_plan_of_one_sample():
    components = DifferenceComponents(0.1, 0.2, 0.3)
    plan = allocate_comparison(components, Cost(4.0, 1.0), budget=400.0)
    from mrtsim import allocate

    one = allocate(VarianceComponents(0.1, 0.5), Cost(4.0, 2.0), budget=400.0)
    assert (plan.n_prompts, plan.responses_a, plan.responses_b) == (
        one.n_prompts,
        *[one.responses_per_prompt] * 2,
    )
    assert plan.equal == one
    pairs = DifferenceComponents(0.1, 0.2, 0.3, response=0.05)
    paired = allocate_comparison(
        pairs, Cost(4.0, 1.0), 3.0, budget=400.0
    )  # pairs have one K, whatever they cost
    one = allocate(VarianceComponents(0.1, 0.05), Cost(4.0, 4.0), budget=400.0)
    assert (paired.n_prompts, paired.responses_a) == (one.n_prompts, one.responses_per_prompt)


# Properties

POSITIVE = st.floats(0.01, 10)
COSTS = st.just(0.0) | st.floats(0.01, 5)


@settings(deadline=None, max_examples=60)
@given(POSITIVE, POSITIVE, COSTS, st.floats(0.1, 5), st.floats(0.2, 3), st.floats(0.3, 0.95))
def test_dual(between, response, c_prompt, c_response, detect, power):
    """The plan for a power has it, one prompt less does not, and what it can show asks for the same plan."""
    components, cost = VarianceComponents(between, response), Cost(c_prompt, c_response)
    plan = allocate_for_power(components, cost, detect, power=power)
    k = plan.responses_per_prompt
    assert plan.power >= power - 1e-9
    assert plan.detectable <= detect * (1 + 1e-7)
    fewer = detectable_difference(components, plan.n_prompts - 1, k, power=power)
    assert fewer.difference > detect * (1 - 1e-7)
    again = allocate_for_power(components, cost, plan.detectable * (1 + 1e-7), power=power)
    assert again.cost <= plan.cost * (1 + 1e-12)
    same = allocate_for_power(
        components, cost, plan.detectable * (1 + 1e-7), power=power, responses_per_prompt=k
    )
    assert same.n_prompts == plan.n_prompts


@settings(deadline=None, max_examples=40)
@given(POSITIVE, POSITIVE, COSTS, st.floats(0.1, 5), st.floats(5, 300), st.floats(1, 3))
def test_a_larger_budget_never_shows_less(between, response, c_prompt, c_response, budget, factor):
    components, cost = DifferenceComponents(between, response, response / 2), Cost(c_prompt, c_response)
    least = 2 * (c_prompt + 2.1 * c_response)
    small = allocate_comparison(components, cost, budget=least + budget)
    large = allocate_comparison(components, cost, budget=(least + budget) * factor)
    assert large.variance <= small.variance
    assert large.large_sample_detectable <= small.large_sample_detectable


@settings(deadline=None, max_examples=40)
@given(POSITIVE, POSITIVE, st.floats(0.3, 3), st.floats(0.01, 100))
def test_units_do_not_matter(between, response, detect, unit):
    cost = Cost(2.0, 1.0)
    plan = allocate_for_power(VarianceComponents(between, response), cost, detect)
    scaled = allocate_for_power(
        VarianceComponents(between * unit**2, response * unit**2), cost, detect * unit
    )
    assert scaled.cost == pytest.approx(plan.cost)
    assert scaled.detectable == pytest.approx(plan.detectable * unit) or scaled.cost == plan.cost


@settings(deadline=None, max_examples=30)
@given(POSITIVE, POSITIVE, POSITIVE, st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0.5, 3))
def test_swapping_the_models_swaps_the_plan(v_d, w_a, w_b, c_a, c_b, detect):
    plan = allocate_comparison(DifferenceComponents(v_d, w_a, w_b), Cost(2.0, c_a), c_b, detect=detect)
    swapped = allocate_comparison(DifferenceComponents(v_d, w_b, w_a), Cost(2.0, c_b), c_a, detect=detect)
    assert swapped.cost == pytest.approx(plan.cost)
    assert swapped.variance == pytest.approx(plan.variance)
    assert (swapped.k_star_a, swapped.k_star_b) == pytest.approx((plan.k_star_b, plan.k_star_a))


def test_more_power_of_a_sample_of_any_size():
    sampling, rule = Sampling(0.2, (1.0,)), Rule()
    search = Search(sampling, 0.5, rule, 1.0, 1.0, Caps())
    n, k = np.arange(2, 200), np.arange(1, 60)
    assert np.all(np.diff(search.power(n, 3)) >= -1e-9)
    assert np.all(np.diff(search.power(30, k)) >= -1e-9)
    given_prompts = Search(Sampling(0.2, (1.0,), 200), 0.5, rule, 1.0, 1.0, Caps(population=200))
    assert np.all(np.diff(given_prompts.power(n, 3)) >= -1e-9)


# Groups, given prompts, edges


def test_groups_are_the_units():
    """With r prompts per group the standard error has N / r - 1 degrees of freedom."""
    components = VarianceComponents(0.5, 1.0, group=0.3)
    plan = allocate_for_power(components, Cost(4.0, 1.0), 0.8, redundancy=4)
    found = detectable_difference(components, plan.n_prompts, plan.responses_per_prompt, redundancy=4)
    assert found.degrees_of_freedom == pytest.approx(plan.n_prompts / 4 - 1)
    assert found.variance == pytest.approx((4 * 0.3 + 0.5 + 1.0 / plan.responses_per_prompt) / plan.n_prompts)
    assert plan.power >= 0.8
    independent = allocate_for_power(VarianceComponents(4 * 0.3 + 0.5, 1.0), Cost(4.0, 1.0), 0.8)
    assert plan.n_prompts > independent.n_prompts


def test_given_prompts_need_responses_only():
    """Of a given benchmark only responses count: (W_A / K_A + W_B / K_B) / P, with their degrees of freedom."""
    components = DifferenceComponents(0.5, 1.0, 2.0)
    found = detectable_difference(components, 40, 4, 3, population=40)
    assert found.variance == pytest.approx((1.0 / 4 + 2.0 / 3) / 40)
    parts = (1.0 / 4 / 40, 40 * 3), (2.0 / 3 / 40, 40 * 2)
    freedom = found.variance**2 / sum(v**2 / df for v, df in parts)
    assert found.degrees_of_freedom == pytest.approx(freedom)
    plan = allocate_comparison(components, Cost(0.0, 1.0), detect=0.3, population=40, n_prompts=40)
    assert plan.n_prompts == 40
    fewer = detectable_difference(components, 40, plan.responses_a - 1, population=40)
    assert plan.detectable <= 0.3 < fewer.difference
    assert math.isinf(detectable_difference(components, 40, 1, population=40).difference)  # K >= 2


def test_what_fixed_prompts_can_never_show():
    components = VarianceComponents(0.187, 1.329)
    with pytest.raises(InputError, match=r"unreachable: the least detectable difference is 0\.1748"):
        allocate_for_power(components, Cost(4.0, 1.0), 0.15, n_prompts=50)
    limit = Rule().noncentrality(49) * math.sqrt(0.187 / 50)
    assert limit == pytest.approx(0.1748, abs=5e-5)
    plan = allocate_for_power(components, Cost(4.0, 1.0), 0.15, n_prompts=100)
    assert detectable_difference(components, 100, plan.responses_per_prompt - 1).difference > 0.15
    with pytest.raises(InputError, match="unreachable"):
        allocate_comparison(
            DifferenceComponents(0.187, 1.329, 1.329), Cost(4.0, 1.0), 2.0, detect=0.1, max_prompts=50
        )


def test_one_sided_tests_need_fewer():
    components, cost = VarianceComponents(0.187, 1.329), Cost(4.0, 1.0)
    two = allocate_for_power(components, cost, 0.2)
    one = allocate_for_power(components, cost, 0.2, one_sided=True)
    assert one.cost < two.cost
    assert one.large_sample_detectable == pytest.approx(
        (special.ndtri(0.95) + special.ndtri(0.8)) * math.sqrt(one.variance)
    )


def test_large_and_degenerate_numbers():
    million = allocate_for_power(VarianceComponents(1.0, 1.0), Cost(1.0, 1.0), 1e-4)
    normal = 2 * (Rule().z / 1e-4) ** 2 + special.ndtri(0.975) ** 2 / 2
    assert million.n_prompts == pytest.approx(normal, rel=1e-9)
    many = allocate_for_power(VarianceComponents(1e-4, 1.0), Cost(100.0, 0.001), 0.02)
    costs = [
        n * (100 + 0.001 * Search(Sampling(1e-4, (1.0,)), 0.02, Rule(), 100.0, 0.001, Caps()).responses(n))
        for n in range(2, 60)
    ]
    assert (many.cost, many.gap) == (pytest.approx(min(costs)), 0.0)
    nothing = allocate_for_power(VarianceComponents(0.0, 0.0), Cost(1.0, 1.0), 0.1)
    assert (nothing.n_prompts, nothing.responses_per_prompt, nothing.power) == (2, 1, 1.0)
    assert detectable_difference(VarianceComponents(0.0, 0.0), 5, 2).difference == 0
    assert math.isinf(detectable_difference(VarianceComponents(1.0, 1.0), 1, 5).difference)
    assert Rule().power_at(60.0, 5.0) == pytest.approx(1.0)
    assert detectable(Sampling(1.0, (1.0,)), 10**9, 1, Rule()).difference == pytest.approx(
        Rule().z * math.sqrt(2e-9), rel=1e-6
    )


@pytest.mark.parametrize(
    ("components", "cost", "detect", "message"),
    [
        ((0.187, 1.329), (4, 1), 1e-300, "out of range"),
        ((0.187, 1.329), (4, 1), 1e300, "out of range"),
        ((0.187, 1.329), (4, 1), 1e-9, "needs more than"),
        ((1e-40, 1e40), (4, 1), 1.0, "needs more than"),
        ((1.0, 1.0), (1e30, 1e-30), 0.5, None),
        ((0.0, 1.0), (1e10, 1e-10), 1e-3, None),
    ],
)
def test_extreme_numbers_are_answered_or_refused(components, cost, detect, message):
    arguments = VarianceComponents(*components), Cost(*cost), detect
    if message is None:
        assert allocate_for_power(*arguments).power >= 0.8
    else:
        with pytest.raises(InputError, match=message):
            allocate_for_power(*arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, cost: allocate_for_power(c, cost, 0.0), "above 0"),
        (lambda c, cost: allocate_for_power(c, cost, math.nan), "finite"),
        (lambda c, cost: allocate_for_power(c, cost, 0.1, power=0.02), "no difference at all"),
        (lambda c, cost: allocate_for_power(c, cost, 0.1, power=1.0), "between 0 and 1"),
        (lambda c, cost: allocate_for_power(c, cost, 0.1, correlation=1.5), "between -1 and 1"),
        (lambda c, cost: allocate_for_power(c, Cost(0.0, 0.0), 0.1), "cost nothing"),
        (lambda c, cost: allocate_for_power(c, Cost(1.0, 0.0), 0.1), "max_responses"),
        (lambda c, cost: allocate_for_power(c, cost, 0.1, max_prompts=0), "max_prompts"),
        (lambda c, cost: allocate_for_power(c, cost, 0.1, n_prompts=5, max_prompts=4), "more than"),
        (lambda c, cost: allocate_for_power(c, cost, 0.1, n_prompts=5, responses_per_prompt=4), "both"),
        (lambda c, cost: allocate_for_power(c, cost, 0.1, population=9, redundancy=2), "redundancy"),
        (lambda c, cost: allocate_for_power(VarianceComponents(-0.1, 1.0), cost, 0.1), "0 or above"),
        (lambda c, cost: detectable_difference((0.1, 0.2, 0.2), 9, 2, correlation=0.5), "correlation"),
        (lambda c, cost: detectable_difference(c, 9, 2, 3), "k_b"),
        (lambda c, cost: detectable_difference(c, 9, 2, population=5), "more than population"),
        (lambda c, cost: detectable_difference(c, 0, 2), "n_prompts"),
        (lambda c, cost: allocate_comparison((0.1, 0.1, 0.1), cost), "give one of"),
        (lambda c, cost: allocate_comparison((0.1, 0.1, 0.1), cost, 1.0, budget=1.0), "least budget"),
        (lambda c, cost: allocate_comparison((0.1, 0.1, 0.1), cost, 1.0, budget=1e99), "out of range"),
        (
            lambda c, cost: allocate_comparison((1e-12, 1, 1), Cost(9, 1), 1.0, budget=1e9),
            "set max_responses",
        ),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(InputError, match=message):
        call(VarianceComponents(0.2, 1.0), Cost(4.0, 1.0))

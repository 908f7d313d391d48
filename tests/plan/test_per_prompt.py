"""K_i of each prompt against brute force, and what must hold whatever the numbers."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrtsim.errors import InputError
from mrtsim.plan import per_prompt
from mrtsim.plan.per_prompt import allocate_per_prompt


def least(a, c, budget, low, high, h):
    """The least sum a / (K - h) of whole K at whole costs, by trying all K that Neyman's real numbers do not exclude.

    The prompts come in the order of their costs; the cheapest, the last, takes all that is left.
    """
    order = np.argsort(-c, kind="stable")
    a, c = a[order], [int(cost) for cost in c[order]]
    rest = np.append(np.cumsum(np.multiply(c, low)[::-1])[::-1], 0).tolist()
    fixed = np.append(np.cumsum(np.multiply(c, h)[::-1])[::-1], 0).tolist()
    roots = np.append(np.cumsum(np.sqrt(a * c)[::-1])[::-1], 0).tolist()
    best = np.inf

    def extend(i, left, value):
        nonlocal best
        if value + roots[i] ** 2 / (left - fixed[i]) >= best * (1 - 1e-12):
            return
        if i == len(c) - 1:
            k = min(high, left // c[i])
            best = min(best, value + a[i] / (k - h))
            return
        for k in range(low, min(high, (left - rest[i + 1]) // c[i]) + 1):
            extend(i + 1, left - k * c[i], value + a[i] / (k - h))

    extend(0, budget, 0.0)
    return best


def check_against_brute_force(rng, repeats):
    for _ in range(repeats):
        n, h = int(rng.integers(2, 6)), int(rng.integers(0, 2))
        s = rng.exponential(1, n) * rng.integers(0, 2 if rng.random() < 0.2 else 9, n)
        cents = rng.integers(1, 300, n) if rng.random() < 0.8 else np.full(n, rng.integers(1, 300))
        low = h + int(rng.integers(1, 3))
        high = 10**6 if rng.random() < 0.6 else low + int(rng.integers(0, 6))
        budget = int(low * cents.sum() * rng.uniform(1, 5))
        plan = allocate_per_prompt(
            s, budget / 100, cents / 100, min_responses=low, max_responses=high, offset=h
        )
        a = np.square(s / n)
        case = f"{s} {cents} {budget} {low} {high} {h}"
        assert plan.gap == 0, case
        assert plan.variance == pytest.approx(least(a, cents, budget, low, high, h), rel=1e-9), case
        assert plan.variance == pytest.approx(np.sum(a / (plan.responses - h))), case
        assert cents @ plan.responses <= budget, case
        assert low <= plan.responses.min(), case
        assert plan.responses.max() <= high, case
        assert plan.cost == pytest.approx(cents @ plan.responses / 100), case


def test_equals_brute_force():
    check_against_brute_force(np.random.default_rng(1), 300)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(10))
def test_equals_brute_force_in_ten_thousand_instances(seed):
    check_against_brute_force(np.random.default_rng([2, seed]), 1000)


def test_known():
    plan = allocate_per_prompt([0.465, 1.013], 4.29, [0.32, 1.9])
    assert plan.responses.tolist() == [1, 2]
    assert plan.gap == 0


@pytest.mark.parametrize(("n", "seconds"), [(1_000, 1.0), (10_000, 20.0)])
@pytest.mark.parametrize("wide", [False, True])
def test_large_instances_are_proven_or_bounded_in_time(n, seconds, wide):
    rng = np.random.default_rng(n)
    s = rng.exponential(1, n)
    c = 10 ** rng.uniform(-2, 2, n) if wide else rng.uniform(0.2, 3, n)
    budget = float(4 * c.sum())
    allocate_per_prompt(s[:9], budget, c[:9])
    begin = time.process_time()
    plan = allocate_per_prompt(s, budget, c)
    assert time.process_time() - begin < 2 * seconds  # of a machine that may be busy; measured: a tenth of it
    assert plan.gap < (1e-5 if wide else 1e-6)  # costs over four decades
    assert c @ plan.responses <= budget * (1 + 1e-11)
    assert plan.variance < plan.uniform_variance
    # the bound of Lagrange duality at any price, without the code: at Neyman's K, as real numbers
    real = (s / n @ np.sqrt(c)) ** 2 / budget
    assert plan.variance >= real


def test_a_stopped_search_says_what_it_may_have_missed(monkeypatch):
    rng = np.random.default_rng(4)
    s, cents = rng.exponential(1, 5), rng.integers(1, 300, 5)
    exact = allocate_per_prompt(s, 30.0, cents / 100)
    assert exact.gap == 0
    monkeypatch.setattr(per_prompt, "MOST_WORK", 0)
    stopped = allocate_per_prompt(s, 30.0, cents / 100)
    assert stopped.gap > 0
    assert stopped.variance * (1 - stopped.gap) <= exact.variance <= stopped.variance
    monkeypatch.setattr(per_prompt, "MOST_WORK", 10**7)
    monkeypatch.setattr(per_prompt, "MOST_STATES", 2)
    monkeypatch.setattr(per_prompt, "BEAM", (1, 1))
    for _ in range(100):
        s, cents = rng.exponential(1, 4), rng.integers(30, 300, 4)
        narrow = allocate_per_prompt(s, 20.0, cents / 100)
        best = least(np.square(s / 4), cents, 2000, 1, 10**6, 0)
        assert narrow.variance * (1 - narrow.gap) <= best * (1 + 1e-9)


def test_approaches_neymans_proportions():
    rng = np.random.default_rng(5)
    s, c, w = rng.lognormal(size=50), rng.lognormal(size=50), rng.lognormal(size=50)
    for prices, weights in ((np.ones(50), None), (c, None), (c, w)):
        plan = allocate_per_prompt(s, 1e7, prices, weights=weights)
        share = (np.full(50, 1 / 50) if weights is None else weights) * s
        ideal = share / np.sqrt(prices)
        ideal *= 1e7 / (prices @ ideal)
        assert plan.responses == pytest.approx(ideal, abs=1.0 + 1e-6, rel=1e-4)
        assert plan.variance == pytest.approx((share @ np.sqrt(prices)) ** 2 / 1e7, rel=1e-5)
        assert plan.gap < 1e-6


def test_the_same_for_all_prompts_loses():
    plan = allocate_per_prompt([1.0, 3.0], 4)
    assert plan.responses.tolist() == [1, 3]
    assert (plan.variance, plan.uniform_variance) == (pytest.approx(1.0), pytest.approx(10 / 8))
    capped = allocate_per_prompt([1.0, 3.0], 40, max_responses=3)
    assert capped.variance == capped.uniform_variance == pytest.approx(10 / 12)


def test_edges():
    assert allocate_per_prompt([1.0, 0.0], 100).responses.tolist() == [99, 1]
    assert allocate_per_prompt([1.0, 2.0], 100, max_responses=3).responses.tolist() == [3, 3]
    assert allocate_per_prompt([1.0, 1.0], 3).responses.tolist() == [2, 1]  # equal gains: the first prompt
    assert allocate_per_prompt([0.0], 7).variance == 0
    assert allocate_per_prompt([0.0, 0.0], 7).gap == 0
    assert allocate_per_prompt(2.0, 7).responses.tolist() == [7]
    assert allocate_per_prompt([1.0, 1.0], 0.6, 0.1).cost == 0.6  # tenths are exact
    assert allocate_per_prompt([1.0, 1.0], 6, offset=1, min_responses=2).responses.tolist() == [3, 3]
    assert allocate_per_prompt([1e-40, 1e40], 3100, [1e-3, 1e3]).responses.tolist() == [100_000, 3]
    assert allocate_per_prompt(np.ones(3), 1e12).responses.sum() == 10**12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: allocate_per_prompt([1.0, 1.0, 1.0], 2.9), "each prompt 1 response: the least is 3"),
        (
            lambda: allocate_per_prompt([1.0, 1.0], 3, min_responses=2),
            "each prompt 2 responses: the least is 4",
        ),
        (lambda: allocate_per_prompt([1.0, 1.0], 10, [1.0, 0.0]), "one cost above 0"),
        (lambda: allocate_per_prompt([1.0, 1.0], 10, [1.0, 1.0, 1.0]), "one spread per prompt"),
        (lambda: allocate_per_prompt([], 10), "one spread per prompt"),
        (lambda: allocate_per_prompt([1.0, float("nan")], 10), "spreads must be 0 or between"),
        (lambda: allocate_per_prompt([1.0, -1.0], 10), "spreads must be 0 or between"),
        (lambda: allocate_per_prompt(["a"], 10), "spreads must be numbers"),
        (lambda: allocate_per_prompt([1.0, 1.0], 10, weights=[1.0]), "one weight per prompt"),
        (lambda: allocate_per_prompt([1.0], 1e30), "buys more than"),
        (lambda: allocate_per_prompt([1.0], float("nan")), "budget must be a finite number"),
        (
            lambda: allocate_per_prompt([1.0], 9, offset=1),
            "min_responses must be a whole number of at least 2",
        ),
        (lambda: allocate_per_prompt([1.0], 9, min_responses=3, max_responses=2), "at least 3, not 2"),
        (lambda: allocate_per_prompt([1.0], 9, min_responses=1.5), "min_responses must be a whole number"),
        (lambda: allocate_per_prompt([1.0], 9, offset=-1), "offset must be a whole number of at least 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


spreads = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=6)
fees = st.lists(st.integers(1, 6).map(float), min_size=6, max_size=6)


@given(spreads, fees, st.integers(0, 60), st.integers(0, 60))
def test_more_budget_never_means_more_variance(s, fee, extra, more):
    c = np.array(fee[: len(s)])
    few, many = (allocate_per_prompt(s, c.sum() + spare, c) for spare in (extra, extra + more))
    assert many.variance <= few.variance * (1 + 1e-12)
    capped = allocate_per_prompt(s, c.sum() + extra, c, max_responses=3)
    assert few.variance <= capped.variance * (1 + 1e-12)
    assert capped.responses.max() <= 3


@given(
    spreads, fees, st.integers(0, 60), st.sampled_from([0.25, 8.0]), st.sampled_from([0.5, 16.0]), st.data()
)
def test_units_and_the_order_of_prompts_do_not_matter(s, fee, extra, unit, money, data):
    s, c = np.array(s), np.array(fee[: len(s)])
    budget = c.sum() + extra
    plain = allocate_per_prompt(s, budget, c)
    scaled = allocate_per_prompt(unit * s, money * budget, money * c)
    assert scaled.variance == pytest.approx(unit**2 * plain.variance, rel=1e-12)
    order = data.draw(st.permutations(range(len(s))))
    shuffled = allocate_per_prompt(s[order], budget, c[order])
    assert shuffled.variance == pytest.approx(plain.variance, rel=1e-12)
    assert shuffled.cost <= budget


@given(spreads, st.integers(0, 60))
def test_a_noisier_prompt_never_gets_fewer_responses(s, extra):
    found = allocate_per_prompt(s, len(s) + extra)
    for i, j in itertools.permutations(range(len(s)), 2):
        if s[i] > s[j]:
            assert found.responses[i] >= found.responses[j]

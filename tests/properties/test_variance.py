"""What must hold of every formula for the variance of the estimate, whatever the components and the design."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mrtsim.selection.exact_laws import rkon_pool_variance
from mrtsim.variance import (
    VarianceComponents,
    effective_responses,
    estimator_variance,
    grouped_estimator_variance,
    icc,
    mrt_gain,
    unequal_estimator_variance,
)

counts = st.integers(1, 40)
parts = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
components = st.builds(VarianceComponents, prompt=parts, response=parts, group=parts)
lists = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def two_levels(c):
    """The same without groups."""
    return replace(c, group=0.0)


# Each formula as a function of the components and drawn numbers, so that every law below is asked of each.
FORMULAS = {
    "plain": lambda c, n, k, sizes: estimator_variance(c, n, k),
    "correlated": lambda c, n, k, sizes: estimator_variance(c, n, k, response_correlation=0.3),
    "redundant": lambda c, n, k, sizes: estimator_variance(c, n, k, redundancy=2.5),
    "finite": lambda c, n, k, sizes: estimator_variance(c, n, k, population=n + 3, candidates=k + 2),
    "unequal": lambda c, n, k, sizes: unequal_estimator_variance(c, sizes),
    "rows": lambda c, n, k, sizes: unequal_estimator_variance(c, sizes, weighting="response"),
    "grouped": lambda c, n, k, sizes: grouped_estimator_variance(c, sizes, k),
}
everywhere = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


@everywhere
@given(components, counts, counts, lists, st.sampled_from([0.25, 4.0, 1024.0]))
def test_parts_add_up_and_units_are_squared(formula, c, n, k, sizes, factor):
    whole = formula(c, n, k, sizes)
    alone = [
        VarianceComponents(c.prompt, 0.0),
        VarianceComponents(0.0, c.response),
        VarianceComponents(0.0, 0.0, c.group),
    ]
    assert whole == pytest.approx(sum(formula(part, n, k, sizes) for part in alone), rel=1e-12)
    scaled = VarianceComponents(factor * c.prompt, factor * c.response, factor * c.group)
    assert formula(scaled, n, k, sizes) == factor * whole
    assert whole >= 0


@everywhere
@given(components, counts, counts, lists)
def test_any_design_lies_between_one_response_and_no_repetition(formula, c, n, k, sizes):
    # One loss varies most; the mean of as many independent ones varies least.
    one = c.prompt + c.response + 2.5 * c.group
    assert formula(c, n, k, sizes) <= one * (1 + 1e-12)
    if formula is not FORMULAS["finite"]:  # which is 0 where nothing is left to draw
        rows = {
            FORMULAS["grouped"]: sum(sizes) * k,
            FORMULAS["unequal"]: sum(sizes),
            FORMULAS["rows"]: sum(sizes),
        }
        independent = (c.prompt + c.response + c.group) / rows.get(formula, n * k)
        assert formula(c, n, k, sizes) >= independent * (1 - 1e-12)


@given(components, counts, counts, st.floats(1, 20))
def test_more_of_anything_never_means_more_variance_and_redundancy_never_less(c, n, k, r):
    here = estimator_variance(c, n, k, redundancy=r)
    assert estimator_variance(c, n + 1, k, redundancy=r) <= here
    assert estimator_variance(c, n, k + 1, redundancy=r) <= here
    assert estimator_variance(c, n, k, redundancy=r + 1) >= here
    # A prompt more is worth at least a response more: it brings both.
    assert estimator_variance(c, 2 * n, k, redundancy=r) <= estimator_variance(c, n, 2 * k, redundancy=r)


@given(components, counts, counts, st.integers(0, 9), st.integers(0, 9))
def test_a_finite_target_is_never_harder_and_is_met_exactly_by_all_of_it(c, n, k, more_prompts, more):
    c = two_levels(c)
    finite = estimator_variance(c, n, k, population=n + more_prompts, candidates=k + more)
    assert finite <= estimator_variance(c, n, k) * (1 + 1e-12) + c.response * 1e-15
    assert estimator_variance(c, n, k, population=n, candidates=k) == 0


@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=4, max_size=4), min_size=1, max_size=4), st.integers(1, 4)
)
def test_random_k_of_a_pool_is_the_finite_target_with_every_prompt(pools, k):
    # All prompts and K of N of each: the mean over prompts of (1 - K/N) S_i^2 / K, over N_p.
    pools = np.array(pools, float)
    s2 = pools.var(axis=1, ddof=1)
    c = VarianceComponents(prompt=3.0, response=float(s2.mean()))
    finite = estimator_variance(c, len(pools), k, population=len(pools), candidates=4)
    assert rkon_pool_variance(pools, k).sum() / len(pools) ** 2 == pytest.approx(finite, rel=1e-12, abs=1e-14)


@given(components, counts, counts)
def test_formulas_agree_where_their_designs_do(c, n, k):
    expected = estimator_variance(c, n, k)
    for value in (
        unequal_estimator_variance(c, [k] * n),
        unequal_estimator_variance(c, [k] * n, weighting="response"),
        unequal_estimator_variance(c, [k] * n, response_variances=[c.response] * n),
        grouped_estimator_variance(c, [1] * n, k),
        estimator_variance(c, n, k, response_correlation=0.0, redundancy=1.0),
    ):
        assert value == pytest.approx(expected, rel=1e-12)
    assert grouped_estimator_variance(c, [n], k) == pytest.approx(
        estimator_variance(c, n, k, redundancy=n), rel=1e-12
    )
    # One group of exact duplicates is one prompt with all the responses.
    duplicates = replace(c, prompt=0.0)
    assert grouped_estimator_variance(duplicates, [n], k) == pytest.approx(
        estimator_variance(duplicates, 1, n * k), rel=1e-12
    )


@given(components, lists)
def test_unequal_numbers_of_responses_cost_variance(c, sizes):
    total, prompts = sum(sizes), len(sizes)
    by_prompt = unequal_estimator_variance(c, sizes)
    by_row = unequal_estimator_variance(c, sizes, weighting="response")
    between = c.prompt + c.group
    # Prompts weighted equally share V_x best, rows weighted equally share V_{y|x} best (Cauchy-Schwarz), and equal
    # numbers do both at once.
    ideal = between / prompts + c.response / total
    assert min(by_prompt, by_row) >= ideal * (1 - 1e-12)
    assert by_prompt - between / prompts == pytest.approx(
        c.response * float(sum(Fraction(1, k) for k in sizes)) / prompts**2, rel=1e-9, abs=1e-9 * between
    )
    assert by_row - c.response / total == pytest.approx(
        between * sum(k * k for k in sizes) / total**2, rel=1e-9, abs=1e-9 * c.response
    )


@given(components, lists, st.randoms(use_true_random=False))
def test_the_order_of_prompts_and_groups_does_not_matter(c, sizes, random):
    shuffled = random.sample(sizes, len(sizes))
    for function in (
        unequal_estimator_variance,
        lambda c, sizes: grouped_estimator_variance(c, sizes, 2),
        lambda c, sizes: unequal_estimator_variance(c, sizes, weighting="response"),
    ):
        assert function(c, shuffled) == pytest.approx(function(c, sizes), rel=1e-12)


@given(st.integers(2, 60), st.floats(0, 1), st.floats(0, 1))
def test_correlation_costs_responses(k, low, high):
    floor = -1 / (k - 1)
    low, high = sorted(floor + (1 - floor) * share for share in (low, high))
    assume(low > floor * (1 - 1e-9))
    few, many = effective_responses(k, high), effective_responses(k, low)
    assert few <= many * (1 + 1e-12)
    assert few >= 1 - 1e-12
    assert many * (1 + (k - 1) * low) == pytest.approx(k, rel=1e-6)


@given(components, st.floats(1, 50), st.floats(1, 50))
def test_gain_and_icc_share_one_whole(c, r, s):
    assume(c.prompt + c.response + c.group > 0)
    r, s = sorted((r, s))
    assert 0 <= mrt_gain(c, s) <= mrt_gain(c, r) <= 1
    assert mrt_gain(c, 1.0) + icc(c) == pytest.approx(1.0)
    assert math.isclose(icc(c), icc(VarianceComponents(c.prompt + c.group, c.response)))

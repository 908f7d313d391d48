"""Every variance formula against enumeration, or against w' Sigma w with the covariance matrix written out."""

from itertools import combinations, product

import numpy as np
import pytest

from mrtsim.errors import InputError
from mrtsim.variance import (
    VarianceComponents,
    effective_responses,
    estimator_variance,
    grouped_estimator_variance,
    icc,
    mrt_gain,
    selected_components,
    unequal_estimator_variance,
)

THREE = VarianceComponents(prompt=0.7, response=2.0, group=1.1)


def covariance(prompt_of, group_of, components, response_variances=None, correlation=0.0):
    """Covariance matrix of the losses of rows with these prompts and groups."""
    prompt_of, group_of = np.asarray(prompt_of), np.asarray(group_of)
    same_prompt = prompt_of[:, None] == prompt_of
    spread = np.full(len(prompt_of), components.response)
    if response_variances is not None:
        spread = np.asarray(response_variances)[prompt_of]
    within = np.sqrt(spread[:, None] * spread) * np.where(np.eye(len(prompt_of), dtype=bool), 1, correlation)
    same_group = group_of[:, None] == group_of
    return components.group * same_group + (components.prompt + within) * same_prompt


def variance_of_mean(sigma, weights=None):
    weights = np.full(len(sigma), 1 / len(sigma)) if weights is None else weights
    return weights @ sigma @ weights


def test_law_by_enumeration():
    # Two prompts drawn with replacement from three, two responses each from a discrete conditional.
    values = np.array([[0.0, 1.0, 5.0], [2.0, 2.5, 3.0], [-1.0, 4.0, 0.0]])
    probabilities = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.25, 0.25, 0.5]])
    prompts = np.array([0.5, 0.2, 0.3])
    means = (probabilities * values).sum(1)
    conditional = (probabilities * values**2).sum(1) - means**2
    components = VarianceComponents(
        prompt=prompts @ means**2 - (prompts @ means) ** 2, response=prompts @ conditional
    )
    first = second = 0.0
    for i, j in product(range(3), repeat=2):
        for a, b, c, d in product(range(3), repeat=4):
            chance = (
                prompts[i] * prompts[j] * probabilities[i, [a, b]].prod() * probabilities[j, [c, d]].prod()
            )
            mean = (values[i, a] + values[i, b] + values[j, c] + values[j, d]) / 4
            first, second = first + chance * mean, second + chance * mean**2
    assert estimator_variance(components, 2, 2) == pytest.approx(second - first**2, rel=1e-12)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 3), (4, 1), (1, 3)])
def test_finite_target_by_enumeration(n, k):
    rng = np.random.default_rng(7)
    pools = rng.normal(size=(4, 3)) * rng.uniform(0.5, 2, (4, 1)) + rng.normal(size=(4, 1))
    s2 = pools.var(axis=1, ddof=1).mean()
    components = VarianceComponents(prompt=pools.mean(axis=1).var(ddof=1) - s2 / 3, response=s2)
    estimates = [
        np.mean([pools[i, list(kept)].mean() for i, kept in zip(drawn, choice, strict=True)])
        for drawn in combinations(range(4), n)
        for choice in product(list(combinations(range(3), k)), repeat=n)
    ]
    # Every draw is equally likely, and the estimate is unbiased for the mean of the pools.
    assert np.mean(estimates) == pytest.approx(pools.mean(), rel=1e-12)
    assert estimator_variance(components, n, k, population=4, candidates=3) == pytest.approx(
        np.var(estimates), rel=1e-12, abs=1e-15
    )


def test_finite_target_of_one_side_only():
    components = VarianceComponents(0.3, 1.7)
    assert estimator_variance(components, 5, 2, candidates=8) == pytest.approx(
        estimator_variance(components, 5, 2), rel=1e-14
    )  # the pool means' extra V/N is what the K-subset lacks: prompts are drawn anew
    assert estimator_variance(components, 5, 2, population=9) == pytest.approx(
        0.3 / 5 * (1 - 5 / 9) + 1.7 / 10
    )
    assert estimator_variance(components, 5, 2, population=10**12, candidates=10**12) == pytest.approx(
        estimator_variance(components, 5, 2), rel=1e-10
    )


@pytest.mark.parametrize("correlation", [-0.4, 0.0, 0.3, 1.0])
def test_correlated_responses(correlation):
    prompt_of = np.repeat(np.arange(4), 3)
    components = VarianceComponents(0.7, 2.0)
    sigma = covariance(prompt_of, prompt_of, components, correlation=correlation)
    assert estimator_variance(components, 4, 3, response_correlation=correlation) == pytest.approx(
        variance_of_mean(sigma), rel=1e-12
    )


@pytest.mark.parametrize("k", range(2, 60))
def test_effective_responses_at_the_ends_of_the_range(k):
    assert effective_responses(k, -1 / (k - 1)) == np.inf  # also where 1 + (K-1) rho rounds to 1e-16
    assert effective_responses(k, np.nextafter(-1 / (k - 1), -2)) == np.inf
    assert effective_responses(k, 1.0) == pytest.approx(1)
    assert effective_responses(k, 0.0) == k
    with pytest.raises(InputError, match="between"):
        effective_responses(k, -1.001 / (k - 1))
    with pytest.raises(InputError, match="between"):
        effective_responses(k, 1.001)


def test_one_response_has_no_correlation_with_another():
    assert effective_responses(1, -0.9) == 1
    assert estimator_variance(
        VarianceComponents(1, 1), 3, [1, 2], response_correlation=-1.0
    ) == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("weighting", ["prompt", "response"])
@pytest.mark.parametrize("spread", [None, [0.1, 4.0, 1.0]])
def test_unequal_responses(weighting, spread):
    k = np.array([1, 4, 2])
    prompt_of = np.repeat(np.arange(3), k)
    components = VarianceComponents(0.7, 2.0)
    sigma = covariance(prompt_of, prompt_of, components, response_variances=spread)
    weights = 1 / (3 * k[prompt_of]) if weighting == "prompt" else np.full(7, 1 / 7)
    assert unequal_estimator_variance(
        components, k, weighting=weighting, response_variances=spread
    ) == pytest.approx(variance_of_mean(sigma, weights), rel=1e-12)


def test_equal_responses_agree_in_every_formula():
    components = VarianceComponents(0.7, 2.0)
    expected = estimator_variance(components, 5, 3)
    for weighting in ("prompt", "response"):
        assert unequal_estimator_variance(components, [3] * 5, weighting=weighting) == pytest.approx(expected)
    assert estimator_variance(THREE, 12, 2, redundancy=3) == pytest.approx(
        grouped_estimator_variance(THREE, [3] * 4, 2), rel=1e-12
    )


@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 4], [3, 1, 2]])
def test_groups_of_redundant_prompts(sizes):
    group_of_prompt = np.repeat(np.arange(len(sizes)), sizes)
    prompt_of = np.repeat(np.arange(sum(sizes)), 2)
    sigma = covariance(prompt_of, group_of_prompt[prompt_of], THREE)
    assert grouped_estimator_variance(THREE, sizes, 2) == pytest.approx(variance_of_mean(sigma), rel=1e-12)


def test_exact_duplicates_are_further_responses():
    components = VarianceComponents(prompt=0.0, response=2.0, group=1.1)
    assert estimator_variance(components, 12, 2, redundancy=3) == pytest.approx(
        estimator_variance(VarianceComponents(1.1, 2.0), 4, 6), rel=1e-12
    )


def test_gain_is_the_share_that_many_responses_remove():
    for r in (1, 2, 5):
        one, many = (estimator_variance(THREE, 10, k, redundancy=r) for k in (1, 10**9))
        assert mrt_gain(THREE, r) == pytest.approx((one - many) / one, rel=1e-6)
        assert one - many == pytest.approx(THREE.response / 10, rel=1e-6)  # does not depend on r
    assert np.all(np.diff(mrt_gain(THREE, [1, 2, 4])) < 0)
    assert np.ptp(mrt_gain(VarianceComponents(0.7, 2.0), [1, 2, 4])) == 0
    assert np.isnan(mrt_gain(VarianceComponents(0, 0)))


def test_icc_is_a_correlation():
    sigma = covariance([0, 0, 1], [0, 0, 0], THREE)
    # Over all prompts, two responses of one prompt share its group and its prompt effect.
    assert icc(THREE) == pytest.approx(sigma[0, 1] / sigma[0, 0])
    assert np.isnan(icc(VarianceComponents(0, 0)))


def test_selected_components_by_enumeration():
    # Keep the 2 best of 3 draws; per prompt, the reward is a fixed ranking of the four possible responses.
    losses = np.array([[1.0, 0.0, 3.0, 2.0], [5.0, 2.0, 1.0, 1.5]])
    draws = np.array([0.4, 0.3, 0.2, 0.1])
    means, variances, correlations, estimate_moments = [], [], [], []
    for row in losses:
        moments = np.zeros(4)  # E first, E first^2, E first * second, E mean^2, kept in random order
        for pool in product(range(4), repeat=3):
            a, b = (row[i] for i in sorted(pool, reverse=True)[:2])
            moments += draws[list(pool)].prod() * np.array(
                [(a + b) / 2, (a * a + b * b) / 2, a * b, ((a + b) / 2) ** 2]
            )
        means.append(moments[0])
        variances.append(moments[1] - moments[0] ** 2)
        correlations.append((moments[2] - moments[0] ** 2) / variances[-1])
        estimate_moments.append(moments[[0, 3]])
    weights = np.array([0.25, 0.75])
    first, second = weights @ np.array(estimate_moments)
    components = selected_components(means, variances, 2, response_correlations=correlations, weights=weights)
    assert estimator_variance(components, 1, 2) == pytest.approx(second - first**2, rel=1e-12)
    assert estimator_variance(components, 6, 2) == pytest.approx((second - first**2) / 6, rel=1e-12)


def test_arguments_broadcast():
    components = VarianceComponents(0.187, 1.329)
    grid = estimator_variance(components, np.array([[10], [20]]), [1, 2, 4])
    assert grid.shape == (2, 3)
    assert grid[1, 2] == estimator_variance(components, 20, 4)
    assert isinstance(estimator_variance(components, 20, 4), float)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: estimator_variance(c, 0, 1), "n_prompts must be whole numbers of at least 1, not 0"),
        (lambda c: estimator_variance(c, 2, 1.5), "responses_per_prompt must be whole numbers"),
        (lambda c: estimator_variance(c, float("nan"), 1), "not nan"),
        (lambda c: estimator_variance(c, 5, 1, population=4), "n_prompts = 5 is more than population = 4"),
        (
            lambda c: estimator_variance(c, 5, 9, candidates=8),
            "responses_per_prompt = 9 is more than candidates",
        ),
        (lambda c: estimator_variance(c, 5, 2, population=9, response_correlation=0.1), "do not go with"),
        (lambda c: estimator_variance(c, 5, 2, candidates=9, redundancy=2), "do not go with"),
        (
            lambda c: estimator_variance(c, 5, 2, redundancy=0.5),
            "redundancy is the number of prompts in a group",
        ),
        (lambda c: unequal_estimator_variance(c, [[1, 2]]), "one number per prompt"),
        (lambda c: unequal_estimator_variance(c, []), "one number per prompt"),
        (lambda c: unequal_estimator_variance(c, [1, 2], weighting="rows"), "not 'rows'"),
        (lambda c: unequal_estimator_variance(c, [1, 2], response_variances=[1.0]), "has shape"),
        (lambda c: unequal_estimator_variance(c, [1], response_variances=[-1.0]), "0 or above, not -1"),
        (lambda c: grouped_estimator_variance(c, [], 1), "one number per group"),
        (lambda c: selected_components([1.0], [1.0, 2.0], 2), "one number per prompt"),
        (lambda c: selected_components([1.0], [1.0], 2, weights=[0.0]), "one number per prompt"),
        (lambda c: selected_components([1.0], [1.0], 3, response_correlations=[-0.9]), "between -0.5 and 1"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InputError, match=message):
        call(THREE)

"""Squeezed variances: the fit recovers its prior, and plans from them do not lose to the same K for all."""

import math

import numpy as np
import pytest
from scipy import special

from mrtsim.errors import InputError
from mrtsim.pilot.squeeze import squeeze_variances
from mrtsim.plan.per_prompt import allocate_per_prompt


@pytest.mark.parametrize(("freedom", "prior"), [(3, 8.0), (15, 4.0), (2, 30.0)])
def test_recovers_the_prior(freedom, prior):
    rng = np.random.default_rng(1)
    true = 2.0 * prior / rng.chisquare(prior, 200_000)
    sample = true * rng.chisquare(freedom, true.size) / freedom
    fit = squeeze_variances(sample, freedom)
    assert fit.prior_freedom == pytest.approx(prior, rel=0.1)
    assert fit.prior_variance == pytest.approx(2.0, rel=0.02)
    assert fit.variances == pytest.approx(
        (fit.prior_freedom * fit.prior_variance + freedom * sample) / (fit.prior_freedom + freedom)
    )
    # what squeezing is for: closer to the truth than the raw variances
    assert np.mean(np.log(fit.variances / true) ** 2) < 0.95 * np.mean(np.log(sample / true) ** 2)


def test_moments_by_hand():
    s2, d = np.array([1.0, 2.0, 8.0, 0.5]), 3
    fit = squeeze_variances(s2, d)
    e = np.log(s2) - special.digamma(d / 2) + math.log(d / 2)
    excess = e.var(ddof=1) - special.polygamma(1, d / 2)
    assert excess > 0
    assert special.polygamma(1, fit.prior_freedom / 2) == pytest.approx(excess)
    half = fit.prior_freedom / 2
    assert math.log(fit.prior_variance) == pytest.approx(e.mean() + special.digamma(half) - math.log(half))


def test_equal_variances_are_taken_as_equal():
    fit = squeeze_variances([1.0, 1.1, 0.9, 1.0], [3, 3, 3, 6])
    assert fit.prior_freedom == math.inf
    assert fit.variances == pytest.approx([(3 + 3.3 + 2.7 + 6) / 15] * 4)


def test_prompts_with_one_response_and_with_equal_ones():
    fit = squeeze_variances([0.0, math.nan, 4.0, 9.0, 100.0], [3, 0, 3, 3, 3])
    assert fit.variances[1] == pytest.approx(fit.prior_variance)
    assert 0 < fit.variances[0] < fit.variances[2] < fit.variances[3]


@pytest.mark.parametrize(
    ("variances", "freedom", "message"),
    [
        ([1.0], [3], "two prompts or more"),
        ([1.0, 1.0], [3, 0], "two prompts or more"),
        ([0.0, 0.0], [3, 3], "all variances are 0"),
        ([1.0, -1.0], [3, 3], "0 or above"),
        ([[1.0, 1.0]], [[3, 3]], "one variance"),
    ],
)
def test_refusals(variances, freedom, message):
    with pytest.raises(InputError, match=message):
        squeeze_variances(variances, freedom)


def loss_of_planning(true, rng, pilot):
    """Variances of plans from raw and from squeezed spreads over that of K = 8 for all, at equal cost."""
    ratios = []
    for _ in range(60):
        sample = true * rng.chisquare(pilot - 1, true.size) / (pilot - 1)
        row = []
        for spread in (sample, squeeze_variances(sample, pilot - 1).variances):
            k = allocate_per_prompt(np.sqrt(spread), 8 * true.size).responses
            row.append((true / k).sum() / (true / 8).sum())
        ratios.append(row)
    return np.mean(ratios, axis=0)


def test_raw_variances_lose_where_spreads_are_equal():
    rng = np.random.default_rng(2)
    raw, squeezed = loss_of_planning(np.ones(200), rng, 4)
    assert raw > 1.05
    assert squeezed < 1.005
    different = rng.lognormal(0, 1, 200)
    raw, squeezed = loss_of_planning(different, rng, 4)
    assert squeezed < raw < 1


def test_pooling_the_pilot_with_what_it_planned_biases_the_mean():
    rng = np.random.default_rng(3)
    prompts, repeats = 60, 150
    pooled, fresh = np.empty((2, repeats))
    for r in range(repeats):
        pilot = rng.lognormal(0, 1, (prompts, 4)) - math.exp(0.5)
        k = allocate_per_prompt(pilot.std(axis=1, ddof=1), 8 * prompts, min_responses=4).responses
        extra = [rng.lognormal(0, 1, n) - math.exp(0.5) for n in k]
        fresh[r] = np.mean([x.mean() for x in extra])
        pooled[r] = np.mean([np.append(p, x).mean() for p, x in zip(pilot, extra, strict=True)])
    error = pooled.std(ddof=1) / math.sqrt(repeats), fresh.std(ddof=1) / math.sqrt(repeats)
    assert pooled.mean() < -5 * error[0]
    assert abs(fresh.mean()) < 4 * error[1]

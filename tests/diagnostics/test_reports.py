"""Reports on arrays against enumeration and repetition."""

import itertools

import numpy as np
import pytest

from mrtsim.diagnostics.reports import estimator_error, mode_coverage, paired_difference
from mrtsim.errors import InputError
from tests.diagnostics.shared import within


@pytest.mark.parametrize("trials", [2, 3, 5])
def test_bias_variance_and_emse_are_unbiased_by_enumeration(trials):
    """Over every sequence of Bernoulli trials, and every sampled truth of two, the estimates average to the exact."""
    p, target = 0.3, 0.1
    bias = variance = emse = sampled = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=trials):
        chance = np.prod([p if o else 1 - p for o in outcome])
        draws = np.array(outcome)[:, None]
        report = estimator_error(draws, [target])
        bias += chance * report.bias_squared.value
        variance += chance * report.variance.value
        emse += chance * report.emse.value
        assert report.raw_bias_squared + np.var(outcome) == pytest.approx(report.emse.value)
        for pair in itertools.product((0.0, 1.0), repeat=2):
            weight = chance * np.prod([target if o else 1 - target for o in pair])
            truth = np.mean(pair)
            report = estimator_error(draws, [truth], truth_variance=np.var(pair, ddof=1) / 2)
            sampled += weight * report.bias_squared.value
    np.testing.assert_allclose([bias, sampled], (p - target) ** 2, atol=1e-14)
    np.testing.assert_allclose(variance, p * (1 - p), atol=1e-14)
    np.testing.assert_allclose(emse, p * (1 - p) + (p - target) ** 2, atol=1e-14)


def test_standard_errors_are_those_of_repetition():
    rng = np.random.default_rng(0)
    truth = np.array([0.0, 1.0, 2.0])
    reports = [
        estimator_error(truth + 0.2 + rng.standard_exponential((150, 3)), truth, batches=30)
        for _ in range(400)
    ]
    for name, expected in (("bias_squared", 1.44), ("variance", 1.0), ("emse", 2.44)):
        _errors_are_those_of_repetition([getattr(r, name) for r in reports], expected)


def _errors_are_those_of_repetition(found, expected):
    """`found` are the estimates of 400 repetitions."""
    spread = np.std([m.value for m in found], ddof=1)
    assert abs(np.mean([m.value for m in found]) - expected) < 4 * spread / 20
    # 400 repetitions give a standard deviation to 5 %; each jackknife has 13 % of noise of its own.
    assert np.sqrt(np.mean([m.standard_error**2 for m in found])) == pytest.approx(spread, rel=0.2)
    return spread


@pytest.mark.parametrize(("shifts", "sign", "least", "most"), [((0.5, 0.2), 1, 0, 0.6), ((3, 2), -1, 1.1, 2)])
def test_paired_differences_know_what_the_two_share(shifts, sign, least, most):
    """Two that share draws differ by less than two of their own would, and two that mirror them by more."""
    rng = np.random.default_rng(0)
    gaps, apart = [], []
    for _ in range(400):
        common = rng.standard_exponential((150, 3)) - 1
        one, other = (
            estimator_error(shift + part * common + 0.3 * rng.normal(size=(150, 3)), np.zeros(3), batches=30)
            for shift, part in zip(shifts, (1, sign), strict=True)
        )
        gaps.append(paired_difference(one.emse, other.emse))
        apart.append(np.hypot(one.emse.standard_error, other.emse.standard_error))
    spread = _errors_are_those_of_repetition(gaps, shifts[0] ** 2 - shifts[1] ** 2)
    assert least < spread / np.sqrt(np.mean(np.square(apart))) < most


def test_a_paired_difference_is_antisymmetric_and_nothing_with_itself():
    rng = np.random.default_rng(1)
    one, other = (estimator_error(rng.normal(size=(60, 2)), np.zeros(2)).emse for _ in range(2))
    gap, back = paired_difference(one, other), paired_difference(other, one)
    assert gap.value == -back.value == one.value - other.value
    assert gap.standard_error == back.standard_error > 0
    assert paired_difference(one, one).standard_error == 0
    assert len(gap.left_out) == 50
    fewer = estimator_error(rng.normal(size=(60, 2)), np.zeros(2), batches=20).emse
    with pytest.raises(InputError, match="50 and 20 batches"):
        paired_difference(one, fewer)


def test_gradients_are_measured_in_norms_and_cosines():
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((2, 4))
    draws = truth + 0.5 + rng.standard_normal((300, 2, 4))
    report = estimator_error(draws, truth)
    np.testing.assert_allclose(report.variance.value, draws.var(0, ddof=1).sum(-1).mean())
    raw = np.square(draws.mean(0) - truth).sum(-1)
    np.testing.assert_allclose(report.raw_bias_squared, raw.mean())
    np.testing.assert_allclose(report.prompt_bias_squared, raw - draws.var(0, ddof=1).sum(-1) / 300)
    cosine = [
        [d @ t / np.linalg.norm(d) / np.linalg.norm(t) for d, t in zip(trial, truth, strict=True)]
        for trial in [draws.mean(0), *draws]
    ]
    np.testing.assert_allclose(report.cosine_of_draws.value, np.mean(cosine[1:]))
    np.testing.assert_allclose(report.prompt_cosine, cosine[0])
    assert estimator_error(draws[..., 0], truth[:, 0]).cosine_of_mean is None


@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_k_eff_is_that_of_the_correlation(correlation):
    rng, k = np.random.default_rng(2), 6
    common = rng.standard_normal((20_000, 3, 1))
    values = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.standard_normal((20_000, 3, k))
    report = estimator_error(values.mean(-1), np.zeros(3), singles=values[..., 2])
    within(report.k_eff, k / (1 + (k - 1) * correlation))


def test_mode_coverage_counts_what_is_kept():
    modes = np.array([[[0, 0], [1, 2]], [[0, 1], [2, 2]], [[0, 0], [2, 2]]])
    weights = np.array([0.5, 0.25, 0.25])
    report = mode_coverage(modes, weights)
    assert report.share.value == pytest.approx((1 + 2 + 2 + 1 + 1 + 1) / 6 / 3)
    variation = [0.5, 0.5, 0.25, 0.75, 0.5, 0.75]
    assert report.total_variation.value == pytest.approx(np.mean(variation))
    np.testing.assert_allclose(report.frequencies, [5 / 12, 2 / 12, 5 / 12])
    many = mode_coverage(np.random.default_rng(0).choice(3, (50_000, 1, 2), p=weights), weights)
    within(many.share, many.rkon_share)
    within(many.total_variation, many.rkon_total_variation)
    within(many.kl, 0.0)


def test_total_variation_of_one_random_response_is_two_thirds():
    """Section 7 of the theory: RKoN's own distance is not 0."""
    report = mode_coverage(np.zeros((4, 2, 1), int), np.full(3, 1 / 3))
    assert report.rkon_total_variation == pytest.approx(2 / 3)
    assert report.total_variation.value == pytest.approx(2 / 3)
    assert report.kl.value == pytest.approx(np.log(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimator_error(np.zeros((3, 2)), np.zeros(3)), "a truth for each prompt"),
        (lambda: estimator_error(np.zeros((1, 2)), np.zeros(2)), "two trials"),
        (lambda: estimator_error(np.zeros((3, 2)), np.zeros(2), singles=np.zeros((3, 1))), "singles must"),
        (lambda: estimator_error(np.full((3, 2), np.nan), np.zeros(2)), "estimates must be finite"),
        (lambda: mode_coverage(np.zeros((2, 2)), [1.0]), "whole numbers"),
        (lambda: mode_coverage(np.ones((2, 2, 2), int), [1.0]), "between 0 and 0"),
        (lambda: mode_coverage(np.ones((2, 2, 2), int), np.ones((3, 2))), "weights must be"),
    ],
)
def test_bad_arrays_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()

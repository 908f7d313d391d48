"""Diagnostics against enumeration, automatic differentiation, and the exact laws."""

from __future__ import annotations

import dataclasses
import doctest
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mrtsim.diagnostics import reports, simulate
from mrtsim.diagnostics.exact import exact
from mrtsim.diagnostics.problem import Problem, gradient_cosines
from mrtsim.diagnostics.reports import estimator_error, mode_coverage, paired_difference, similarity_k_eff
from mrtsim.diagnostics.simulate import (
    Setting,
    _batch_of_trials,
    _groups,
    _kept_similarity,
    compare_strategies,
    measure,
    response_similarity,
)
from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll, squared_loss
from mrtsim.models import MDN, MLP
from mrtsim.selection.registry import strategies

TOY = GaussianModes()


@pytest.fixture(scope="module")
def prompts():
    return np.asarray(TOY.sample_prompts(jax.random.key(0), 6), np.float64)


@pytest.fixture(scope="module")
def problem(prompts):
    return Problem.of(TOY, mdn_nll, MDN(jax.random.key(1), width=16), prompts)


def within(measured, expected, errors=4.0):
    assert abs(measured.value - expected) <= errors * measured.standard_error, (measured, expected)


@pytest.mark.parametrize("module", [reports, simulate])
def test_the_docstring_examples_run(module):
    found = doctest.testmod(module)
    assert found.attempted > 5
    assert found.failed == 0


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


def test_similarity_and_its_score():
    similarity = np.asarray(response_similarity(jnp.array([0.0, 1.0, 4.0])))
    np.testing.assert_allclose(similarity, [[1, 0.75, 0], [0.75, 1, 0.25], [0, 0.25, 1]])
    np.testing.assert_allclose(np.asarray(response_similarity(jnp.ones((2, 3)))), 1)
    np.testing.assert_allclose(similarity_k_eff(0.585, 8), 8 / (1 + 7 * 0.585))
    np.testing.assert_allclose(similarity_k_eff(-0.2, 8), 8)
    assert similarity_k_eff(np.array(0.3), 1) == 1


def test_coordinates_keep_the_inner_products_of_parameter_gradients(problem, prompts):
    with jax.enable_x64(True):
        responses = TOY.sample_responses(jax.random.key(3), jnp.asarray(prompts), 4)[0]
        rows = eqx.filter_jit(Problem.rows)(problem, responses)
        vectors = problem.coordinates(rows[..., 1:])
        cosines = eqx.filter_jit(gradient_cosines)(mdn_nll, problem.model, jnp.asarray(prompts), responses)

        def loss(model, p, i):
            return mdn_nll(model, jnp.asarray(prompts)[p : p + 1], responses[p : p + 1])[0, i]

        gradient = eqx.filter_jit(eqx.filter_grad(loss))
        for p in range(2):
            gradients = [ravel_pytree(gradient(problem.model, p, i))[0] for i in range(4)]
            expected = np.array([[a @ b for a in gradients] for b in gradients])
            np.testing.assert_allclose(vectors[p] @ vectors[p].T, expected, rtol=1e-9, atol=1e-12)
            norms = np.sqrt(np.diag(expected))
            np.testing.assert_allclose(cosines[p], expected / np.outer(norms, norms), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(rows[p, 1, 0], loss(problem.model, p, 1), rtol=1e-12)
        mean = eqx.filter_grad(lambda m: mdn_nll(m, jnp.asarray(prompts), responses).mean())
        whole = eqx.filter_jit(mean)(problem.model)
        np.testing.assert_allclose(
            problem.batch(rows[..., 1:].mean(1)), ravel_pytree(whole)[0], rtol=1e-9, atol=1e-12
        )


def test_the_truth_is_the_expectation(problem, prompts):
    with jax.enable_x64(True):
        law = TOY.expectation(lambda y: mdn_nll(problem.model, jnp.asarray(prompts), y), prompts, smooth=True)
    np.testing.assert_allclose(problem.true_loss, law.value, rtol=1e-10)
    assert problem.truth_error < 1e-9
    for strategy_name in ("rkon", "bkon"):
        report = exact(problem, strategy_name, n_candidates=8, k=3, chunk=4)
        np.testing.assert_allclose(report.loss.truth, problem.true_loss, rtol=1e-10)
        assert report.weights_error < 1e-10


@pytest.mark.parametrize(("name", "n", "k"), [("rkon", 8, 3), ("bkon", 8, 3), ("bkon", 32, 4)])
def test_measured_equals_exact(problem, name, n, k):
    found = measure(problem, name, n_candidates=n, k=k, trials=3000, key=jax.random.key(4))
    expected = exact(problem, name, n_candidates=n, k=k)
    for measured, moments in ((found.loss, expected.loss), (found.gradient, expected.gradient)):
        within(measured.bias_squared, moments.bias_squared.mean())
        within(measured.variance, moments.variance.mean())
        within(measured.emse, moments.emse.mean())
        within(measured.k_eff, moments.single_variance.mean() / moments.variance.mean())
    within(found.batch_gradient.bias_squared, expected.batch_bias_squared)
    within(found.batch_gradient.variance, expected.batch_variance)
    if name == "bkon":
        within(found.gradient.cosine_of_mean, expected.gradient.cosine.mean())
        within(found.batch_gradient.cosine_of_mean, expected.batch_cosine)
    else:
        assert found.gradient.cosine_of_mean.value > 0.999
        within(found.coverage.total_variation, found.coverage.rkon_total_variation)
        within(found.coverage.share, found.coverage.rkon_share)


def test_a_finite_distribution_with_ties():
    table = Categorical()
    prompts, _ = table.support()
    problem = Problem.of(table, squared_loss, MLP(jax.random.key(0), in_size=1, width=4), prompts)
    found = measure(problem, "bkon", n_candidates=5, k=2, trials=4000, key=jax.random.key(1))
    expected = exact(problem, "bkon", n_candidates=5, k=2)
    within(found.loss.bias_squared, expected.loss.bias_squared.mean())
    within(found.loss.variance, expected.loss.variance.mean())
    within(found.gradient.variance, expected.gradient.variance.mean())


def test_settings_compared_are_settings_measured(problem):
    """Side by side, whatever their order, K, options and code in common, and on the pools of `measure`."""
    settings = [
        Setting("dbkon", 3, {"alpha": 0.1}),
        Setting("rkon", 1),
        Setting("gumbel", 2, {"temperature": 1.0}),
        Setting("dbkon", 5),
        Setting("dbkon", 3, {"alpha": 2.0}),
        Setting("rkon", 1),
        Setting("bkon", 8),
        Setting("dbkon", 1, {"alpha": 2.0}),
        Setting("dkon", 2),
        Setting("dkon", 5),
        # Not nested: 6 of 8 do not pass the filter.
        Setting("filtered-max-min", 6),
        Setting("filtered-max-min", 2),
    ]
    shared = {"n_candidates": 8, "trials": 200, "key": jax.random.key(4)}
    reports = compare_strategies(problem, settings, **shared)
    assert reports[1].loss.emse == reports[5].loss.emse
    assert paired_difference(reports[1].loss.emse, reports[5].loss.emse).standard_error == 0
    for (name, k, options), together in zip(settings, reports, strict=True):
        alone = measure(problem, name, k=k, options=options, **shared)
        assert (together.strategy, together.k) == (name, k)
        np.testing.assert_allclose(
            _numbers(together), _numbers(alone), rtol=1e-9, atol=1e-12, err_msg=f"{name}, K = {k}"
        )
    different = [reports[i].loss.variance.value for i in (0, 3, 4)]
    assert len(set(different)) == 3


def _numbers(report):
    plain = dataclasses.asdict(report)
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(plain) if not isinstance(leaf, str)]
    return np.concatenate(leaves).astype(float)


def test_similarity_is_that_of_the_pairs_kept():
    pool = jnp.array([[0.0, 1.0, 3.0, 10.0], [2.0, 2.0, 2.0, 2.0]])
    kept = jnp.array([[2, 0, 1, 3], [0, 1, 2, 3]])
    ks = np.array([1, 3])
    found = _kept_similarity(pool, jnp.take_along_axis(pool, kept, axis=1), ks)
    matrix = np.asarray(response_similarity(pool))
    pairs = [matrix[0, i, j] for i, j in ((0, 1), (0, 3), (1, 3))]
    np.testing.assert_allclose(found, [1.0, (np.mean(pairs) + 1.0) / 2], rtol=1e-6)


def test_another_reward_selects_otherwise(prompts):
    def likelihood(x, y):
        return TOY.log_density(x, y)

    model = MDN(jax.random.key(1), width=16)
    problem = Problem.of(TOY, mdn_nll, model, prompts, reward=likelihood)
    found = measure(problem, "bkon", n_candidates=8, k=2, trials=3000, key=jax.random.key(5))
    expected = exact(problem, "bkon", n_candidates=8, k=2)
    within(found.loss.bias_squared, expected.loss.bias_squared.mean())
    within(found.loss.variance, expected.loss.variance.mean())
    assert found.coverage.share.value > 0.5  # every mode has a maximum of the likelihood


@pytest.mark.parametrize("name", sorted(strategies()))
def test_every_strategy_is_measured_and_keeping_all_is_unbiased(problem, name):
    found = measure(problem, name, n_candidates=4, k=4, trials=1000, key=jax.random.key(6))
    within(found.loss.bias_squared, 0.0)
    within(found.loss.k_eff, 4.0)
    within(found.coverage.total_variation, found.coverage.rkon_total_variation)
    assert found.trials == 1000


def test_losses_that_are_not_factored_agree(prompts, problem):
    other = Problem.of(TOY, mdn_nll, problem.model, prompts, factored=False)
    np.testing.assert_allclose(other.true_loss, problem.true_loss, rtol=1e-10)
    np.testing.assert_allclose(other.true_batch, problem.true_batch, atol=1e-10)
    settings = {"n_candidates": 8, "k": 3, "trials": 20, "key": jax.random.key(7)}
    one, two = (measure(p, "bkon", **settings) for p in (problem, other))
    for quantity in ("loss", "gradient", "batch_gradient"):
        a, b = getattr(one, quantity), getattr(two, quantity)
        for x, y in ((a.bias_squared, b.bias_squared), (a.variance, b.variance)):
            np.testing.assert_allclose([x.value, x.standard_error], [y.value, y.standard_error], rtol=1e-6)
    a, b = one.gradient.cosine_of_draws, two.gradient.cosine_of_draws
    np.testing.assert_allclose([a.value, a.standard_error], [b.value, b.standard_error], rtol=1e-6)


def test_a_weight_penalty_needs_the_parameters(prompts):
    def penalised(model, x, y):
        return mdn_nll(model, x, y) + 0.1 * jnp.square(model.network.layers[0].weight).sum()

    model = MDN(jax.random.key(1), width=4)
    with pytest.raises(InputError, match="factored=False"):
        Problem.of(TOY, penalised, model, prompts)
    problem = Problem.of(TOY, penalised, model, prompts, factored=False)
    found = measure(problem, "rkon", n_candidates=4, k=2, trials=200, key=jax.random.key(0))
    within(found.gradient.bias_squared, 0.0)
    with pytest.raises(InputError, match="factored"):
        exact(problem, "rkon", n_candidates=4, k=2)


def test_memory_does_not_grow_with_the_trials(problem):
    sizes = []
    for trials in (8, 800):
        run, options = _groups([Setting("dbkon", 4)], 32, trials, 8)
        with jax.enable_x64(True):
            call = eqx.filter_jit(_batch_of_trials).lower(jax.random.key(0), problem, run, options)
            sizes.append(call.compile().compiled.memory_analysis())
    assert sizes[1].output_size_in_bytes == sizes[0].output_size_in_bytes
    # What grows is the list of the chunks' keys: 64 times less than the trials' own sums would be.
    assert sizes[1].temp_size_in_bytes < 1.2 * sizes[0].temp_size_in_bytes


def test_the_same_key_gives_the_same_bits(problem):
    settings = {"n_candidates": 8, "k": 3, "trials": 20, "key": jax.random.key(7)}
    one, two = (measure(problem, "rkon", **settings) for _ in range(2))
    assert one.loss.emse == two.loss.emse
    assert one.gradient.cosine_of_draws == two.gradient.cosine_of_draws


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 9}, "k = 9 must lie between 1 and n_candidates = 8"),
        ({"trials": 1}, "trials = 1"),
        ({"name": "none"}, "no strategy 'none'"),
    ],
)
def test_bad_settings_are_refused(problem, change, message):
    settings = {"name": "rkon", "n_candidates": 8, "k": 3, "trials": 20, "key": jax.random.key(7)} | change
    with pytest.raises(InputError, match=message):
        measure(problem, settings.pop("name"), **settings)
    if "name" in change:
        with pytest.raises(InputError, match="measure it"):
            exact(problem, "dbkon", n_candidates=8, k=3)


def test_nothing_to_compare_is_refused(problem):
    with pytest.raises(InputError, match="no settings to compare"):
        compare_strategies(problem, [], n_candidates=8, trials=20, key=jax.random.key(7))

"""Simulated strategies: several at once, their reports, and what is refused."""

import dataclasses
import doctest

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrtsim.diagnostics import reports, simulate
from mrtsim.diagnostics.exact import exact
from mrtsim.diagnostics.problem import Problem
from mrtsim.diagnostics.reports import paired_difference, similarity_k_eff
from mrtsim.diagnostics.simulate import (
    Setting,
    _batch_of_trials,
    _groups,
    _kept_similarity,
    compare_strategies,
    measure,
    response_similarity,
)
from mrtsim.errors import InputError
from mrtsim.losses import squared_loss
from mrtsim.models import MLP
from mrtsim.selection.registry import strategies
from mrtsim.testing import check_distribution
from tests.diagnostics.shared import Bare, within


@pytest.mark.parametrize("module", [reports, simulate])
def test_the_docstring_examples_run(module):
    found = doctest.testmod(module)
    assert found.attempted > 5
    assert found.failed == 0


def test_similarity_and_its_score():
    similarity = np.asarray(response_similarity(jnp.array([0.0, 1.0, 4.0])))
    np.testing.assert_allclose(similarity, [[1, 0.75, 0], [0.75, 1, 0.25], [0, 0.25, 1]])
    np.testing.assert_allclose(np.asarray(response_similarity(jnp.ones((2, 3)))), 1)
    np.testing.assert_allclose(similarity_k_eff(0.585, 8), 8 / (1 + 7 * 0.585))
    np.testing.assert_allclose(similarity_k_eff(-0.2, 8), 8)
    assert similarity_k_eff(np.array(0.3), 1) == 1


def test_settings_compared_are_settings_measured(problem):
    """Side by side, whatever their order, K, options and code in common, and on the pools of `measure`."""
    settings = [
        Setting("dbkon", 3, {"alpha": 0.1}),
        Setting("rkon", 1),
        Setting("dbkon", 5),
        Setting("dbkon", 3, {"alpha": 2.0}),
        Setting("rkon", 1),
        # Not nested: 6 of 8 do not pass the filter.
        Setting("filtered-max-min", 6),
        Setting("filtered-max-min", 2),
    ]
    shared = {"n_candidates": 8, "trials": 100, "key": jax.random.key(4)}
    reports = compare_strategies(problem, settings, **shared)
    assert reports[1].loss.emse == reports[4].loss.emse
    assert paired_difference(reports[1].loss.emse, reports[4].loss.emse).standard_error == 0
    for (name, k, options), together in zip(settings, reports, strict=True):
        alone = measure(problem, name, k=k, options=options, **shared)
        assert (together.strategy, together.k) == (name, k)
        np.testing.assert_allclose(
            _numbers(together), _numbers(alone), rtol=1e-9, atol=1e-12, err_msg=f"{name}, K = {k}"
        )
    different = [reports[i].loss.variance.value for i in (0, 2, 3)]
    assert len(set(different)) == 3


def test_reports_of_different_k_are_paired_number_by_number(problem):
    one, four = compare_strategies(
        problem,
        [Setting("rkon", 1), Setting("rkon", 4)],
        n_candidates=8,
        trials=60,
        key=jax.random.key(4),
    )
    gap = paired_difference(one.similarity_k_eff, four.similarity_k_eff)
    assert one.similarity_k_eff.value == 1
    assert gap.value == 1 - four.similarity_k_eff.value
    assert gap.standard_error == pytest.approx(four.similarity_k_eff.standard_error)
    assert np.isnan(paired_difference(one.similarity, four.similarity).value)  # one response has no pair
    assert len(paired_difference(one.loss.emse, four.loss.emse).left_out) == 50


def test_a_distribution_with_the_protocol_alone_is_diagnosed():
    check_distribution(Bare(), draws=20_000)
    prompts = np.asarray(Bare().sample_prompts(jax.random.key(0), 3))
    model = MLP(jax.random.key(1), in_size=1, width=4)
    posed = Problem.of(Bare(), squared_loss, model, prompts)
    found = measure(posed, "rkon", n_candidates=4, k=2, trials=500, key=jax.random.key(2))
    within(found.loss.bias_squared, 0.0)
    assert found.coverage is None
    with pytest.raises(InputError, match="Bare lacks quadrature, which an exact law needs"):
        exact(posed, "rkon", n_candidates=4, k=2)


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


@pytest.fixture(scope="module")
def keeping_all(problem):
    """Each strategy where K = N; one program compiles in a third of the time of six."""
    settings = [Setting(name, 4) for name in sorted(strategies())]
    reports = compare_strategies(problem, settings, n_candidates=4, trials=1000, key=jax.random.key(6))
    return {report.strategy: report for report in reports}


@pytest.mark.parametrize("name", sorted(strategies()))
def test_every_strategy_is_measured_and_keeping_all_is_unbiased(keeping_all, name):
    found = keeping_all[name]
    within(found.loss.bias_squared, 0.0)
    within(found.loss.k_eff, 4.0)
    within(found.coverage.total_variation, found.coverage.rkon_total_variation)
    assert found.trials == 1000


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

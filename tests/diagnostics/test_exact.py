"""What is measured against the exact laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrtsim.diagnostics.exact import exact
from mrtsim.diagnostics.problem import Problem
from mrtsim.diagnostics.simulate import (
    measure,
)
from mrtsim.distributions.categorical import Categorical
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll, squared_loss
from mrtsim.models import MDN, MLP
from mrtsim.selection import registry
from mrtsim.selection.exact_laws import rkon_law
from tests.diagnostics.shared import TOY, within


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


def test_a_law_is_registered_with_its_strategy(problem, monkeypatch):
    monkeypatch.setattr(registry, "_LAWS", dict(registry._LAWS))

    @registry.register_law("gumbel")
    def hot(distribution, prompts, n_candidates, k, reward, *, temperature):
        assert temperature == np.inf  # where it is RKoN
        return rkon_law(distribution, prompts, n_candidates, k)

    found = exact(problem, "gumbel", n_candidates=8, k=3, temperature=np.inf)
    np.testing.assert_array_equal(
        found.loss.variance, exact(problem, "rkon", n_candidates=8, k=3).loss.variance
    )
    with pytest.raises(InputError, match="strategy 'rkon' already has a law"):
        registry.register_law("rkon")(hot)

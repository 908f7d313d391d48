"""The truth and the geometry of gradients against automatic differentiation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mrtsim.diagnostics.exact import exact
from mrtsim.diagnostics.problem import LinearisedModel, Problem, gradient_cosines
from mrtsim.diagnostics.simulate import (
    measure,
)
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll, squared_loss
from mrtsim.models import MDN, MLP
from tests.diagnostics.shared import TOY, Bare, within


def test_coordinates_keep_the_inner_products_of_parameter_gradients(problem, prompts):
    with jax.enable_x64(True):
        responses = TOY.sample_responses(jax.random.key(3), jnp.asarray(prompts), 4)[0]
        rows = eqx.filter_jit(LinearisedModel.rows)(problem.gradients, responses)
        vectors = problem.gradients.coordinates(rows[..., 1:])
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
            problem.gradients.batch(rows[..., 1:].mean(1)), ravel_pytree(whole)[0], rtol=1e-9, atol=1e-12
        )


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


def test_a_distribution_without_an_expectation_is_told_so(prompts):
    class Sampled:
        def sample_prompts(self, key, n): ...

        def sample_responses(self, key, prompts, n): ...

        def reward(self, prompts, responses): ...

    with pytest.raises(InputError, match="Sampled lacks expectation, which"):
        Problem.of(Sampled(), mdn_nll, MDN(jax.random.key(1), width=4), prompts)


def test_an_error_in_a_distribution_is_its_own():
    class Broken(Bare):
        def expectation(self, fn, prompts):
            return self.no_such_thing

    with pytest.raises(AttributeError, match="no_such_thing") as caught:
        Problem.of(Broken(), squared_loss, MLP(jax.random.key(0), in_size=1, width=4), np.zeros((2, 1)))
    assert not isinstance(caught.value, InputError)

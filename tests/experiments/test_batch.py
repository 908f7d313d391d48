"""Inside one update: the gradient's exact components against simulated batches."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments import batch
from experiments.shared.mdn_training import TOY, judge, sobol_prompts
from experiments.shared.training import Recipe, fit
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN


def steep(key):
    """A network with the steep outputs of an overfitted one."""
    model = MDN(key)
    return eqx.tree_at(lambda m: m.network.layers[-1].weight, model, replace_fn=lambda w: 6 * w)


def test_gradient_components_are_those_of_simulated_batches():
    points = TOY.prompts_at(jnp.asarray(sobol_prompts(64), jnp.float32))
    model = steep(jax.random.key(10))
    components = eqx.filter_jit(batch.gradient_components)(model, points)
    exact = {name: float(value) for name, value in components.items()}

    def gradient(key, n, k):
        prompt_key, response_key = jax.random.split(key)
        prompts = points[jax.random.randint(prompt_key, (n,), 0, len(points))]
        responses, _ = TOY.sample_responses(response_key, prompts, k)
        slope = eqx.filter_grad(lambda m: jnp.mean(mdn_nll(m, prompts, responses)))(model)
        return ravel_pytree(eqx.filter(slope, eqx.is_array))[0]

    for n, k in ((2, 1), (2, 6)):
        draws = jax.jit(jax.vmap(lambda key, n=n, k=k: gradient(key, n, k)))(
            jax.random.split(jax.random.key(11), 3_000)
        )
        draws = np.asarray(draws, np.float64)
        squares = np.sum((draws - draws.mean(0)) ** 2, axis=1)
        # The prompts are drawn from the 64 with replacement: their variance has divisor 64.
        expected = (exact["prompt"] * 63 / 64 + exact["response"] / k) / n
        assert squares.mean() == pytest.approx(expected, abs=5 * squares.std() / np.sqrt(3_000)), (n, k)
        # The squared norm of the mean of T draws exceeds the truth by their variance over T.
        assert np.sum(draws.mean(0) ** 2) - squares.mean() / 3_000 == pytest.approx(exact["signal"], rel=0.1)


def test_what_pads_an_update_changes_nothing():
    """More rows than a split uses are drawn and left out: the first step's gradient is that of the used ones alone."""
    points = TOY.prompts_at(jnp.asarray(sobol_prompts(64), jnp.float32))
    recipe = Recipe(steps=1, validate_every=1, learning_rate=0.1)
    n, k, key = 3, 4, jax.random.key(5)

    def curve(rows):
        found = eqx.filter_jit(batch.train_online)(key, n, k, points, batch.Shape(rows, recipe))
        return np.asarray(found["nll"])

    assert curve(12) != pytest.approx(curve(12)[::-1])  # the step does move the loss
    # The draws depend on how many there are, so that the runs are compared through the batch they took.
    model_key, batch_key = jax.random.split(key)
    step_key = jax.random.split(batch_key, 1)[0]
    prompt_key, response_key = jax.random.split(step_key)
    rows = 20
    prompts = TOY.sample_prompts(prompt_key, rows)[np.arange(rows) // k]
    responses, _ = TOY.sample_responses(response_key, prompts, 1)
    trained = fit(
        MDN(model_key), lambda m, _: jnp.mean(mdn_nll(m, prompts[: n * k], responses[: n * k])), recipe
    ).last
    assert curve(rows)[-1] == pytest.approx(float(judge(trained, points)["nll"]), rel=1e-5)


def test_prompts_in_an_update():
    config = batch.Config()
    assert [config.prompts(4.0, k) for k in config.responses] == [32, 26, 20, 13, 8]
    assert [config.prompts(0.0, k) for k in config.responses] == [64, 32, 16, 8, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": (2, 4)}, "from 1 on"),
        ({"sequences": 16}, "2 prompts with K = 16"),
    ],
)
def test_configs_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(batch.Config(), **changes)

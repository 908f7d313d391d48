"""Learners and losses: initialisation, gradients, densities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import integrate, stats

from mrtsim.losses import mdn_nll, squared_loss
from mrtsim.models import MDN, MLP


def arrays(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


def in_float64(model):
    return jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_array(a) else a, model)


@pytest.mark.parametrize(
    ("learner", "layers"),
    [(MLP, [(32, 5), (32, 32), (1, 32)]), (MDN, [(64, 5), (64, 64), (15, 64)])],
)
def test_initialisation_is_uniform_within_one_over_root_fan_in(learner, layers):
    models = jax.vmap(lambda key: arrays(learner(key)))(jax.random.split(jax.random.key(0), 40))
    assert len(models) == 2 * len(layers)
    for weight, bias, shape in zip(models[::2], models[1::2], layers, strict=True):
        assert weight.shape[1:] == shape
        assert bias.shape[1:] == shape[:1]
        for parameter in (weight, bias):
            scaled = np.asarray(parameter, np.float64).ravel() * np.sqrt(shape[1])
            assert np.abs(scaled).max() <= 1
            # The probability of a smaller p value is 1e-4, and the seed is fixed.
            assert stats.kstest(scaled, stats.uniform(-1, 2).cdf).pvalue > 1e-4
    # Draws are independent between layers: none repeats another.
    flat = np.concatenate(
        [
            np.asarray(p)[0].ravel() * np.sqrt(s)
            for p, s in zip(models, np.repeat([s[1] for s in layers], 2), strict=True)
        ]
    )
    assert len(np.unique(flat)) > 0.999 * flat.size


def test_initialisation_repeats_from_its_key():
    one, two, other = (arrays(MDN(jax.random.key(seed))) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("learner", "loss"), [(MLP, squared_loss), (MDN, mdn_nll)])
def test_gradients_agree_with_finite_differences(learner, loss):
    with jax.enable_x64(True):
        model = in_float64(learner(jax.random.key(0)))
        prompts = jax.random.normal(jax.random.key(1), (7, 5), jnp.float64)
        responses = jax.random.normal(jax.random.key(2), (7, 3), jnp.float64)
        flat, unravel = ravel_pytree(eqx.filter(model, eqx.is_array))
        static = eqx.filter(model, eqx.is_array, inverse=True)

        def objective(flat):
            return loss(eqx.combine(unravel(flat), static), prompts, responses).mean()

        gradient = jax.jit(jax.grad(objective))(flat)
        directions = jax.random.normal(jax.random.key(3), (20, flat.size), jnp.float64)
        step = 1e-6
        difference = jax.jit(
            jax.vmap(lambda d: (objective(flat + step * d) - objective(flat - step * d)) / (2 * step))
        )
        numeric = np.asarray(difference(directions))
        exact = np.asarray(directions @ gradient)
    np.testing.assert_allclose(numeric, exact, rtol=1e-6, atol=1e-8)


def test_mdn_density_integrates_to_one_and_its_loss_is_the_mixtures():
    with jax.enable_x64(True):
        model = in_float64(MDN(jax.random.key(0)))
        # Steeper heads make the three parts differ by much more than at the start.
        model = eqx.tree_at(lambda m: m.network.layers[-1].weight, model, replace_fn=lambda w: 10 * w)
        prompts = jax.random.normal(jax.random.key(1), (4, 5), jnp.float64)
        grid = jnp.linspace(-60, 60, 24_001)
        nll = np.asarray(eqx.filter_jit(mdn_nll)(model, prompts, jnp.broadcast_to(grid, (4, grid.size))))
        mixture = [np.asarray(part) for part in model(prompts)]
        grid = np.asarray(grid)
    log_weights, means, log_scales = mixture
    assert np.exp(log_scales).max() < 10, "the grid must cover the mixture"
    np.testing.assert_allclose(integrate.trapezoid(np.exp(-nll), grid), 1.0, atol=1e-9)
    components = stats.norm.pdf(grid[:, None, None], means, np.exp(log_scales))
    density = (np.exp(log_weights) * components).sum(-1).T
    seen = density > 1e-290
    np.testing.assert_allclose(-nll[seen], np.log(density[seen]), rtol=1e-10)


def test_log_scales_are_clipped():
    model = MDN(jax.random.key(0))
    model = eqx.tree_at(
        lambda m: m.network.layers[-1].bias,
        model,
        replace_fn=lambda b: b + jnp.repeat(jnp.array([0.0, 0.0, 50.0]), 5),
    )
    assert np.all(np.asarray(model(jnp.zeros((2, 5))).log_scales) == 3.0)


def test_the_loss_stays_finite_far_from_every_component():
    model = MDN(jax.random.key(0))
    prompts, responses = jnp.zeros((1, 5)), jnp.array([[1e6, -1e6, 0.0]])
    both = eqx.filter_value_and_grad(lambda m: mdn_nll(m, prompts, responses).mean())
    value, gradient = eqx.filter_jit(both)(model)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in arrays(gradient))

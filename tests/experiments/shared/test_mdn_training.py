"""What the training experiments share: padded programs, and judges against exact moments."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared import mdn_training
from experiments.shared.mdn_training import (
    PAPER,
    TOY,
    Shape,
    draw,
    judge,
    keep,
    nll_of_many,
    shifted,
    sobol_prompts,
)
from experiments.shared.training import Recipe
from mrtsim.distributions.exact_components import decompose
from mrtsim.losses import mdn_nll, mixture_nll
from mrtsim.models import MDN, Mixture

BRIEF = Recipe(steps=4, validate_every=2)


def shape(strategy, rows, width, **changes):
    return Shape((strategy,), rows, width, drawn_prompts=10, n_candidates=8, recipe=BRIEF, **changes)


@pytest.mark.parametrize("strategy", ["rkon", "bkon", "filtered-max-min"])
def test_a_padded_program_keeps_what_the_settings_own_program_keeps(strategy):
    pools, *_ = draw(jax.random.split(jax.random.key(0), 3), shape(strategy, 10, 4))
    wide = keep(jax.random.key(1), shape(strategy, 10, 4), pools)
    for n_prompts, k in ((10, 1), (6, 3), (3, 4)):
        own = keep(jax.random.key(1), shape(strategy, n_prompts, k), pools)
        np.testing.assert_array_equal(wide.responses[:n_prompts, :k], own.responses)
        np.testing.assert_array_equal(wide.prompts[:n_prompts], own.prompts)


def test_strategies_that_share_a_program_keep_what_they_keep_alone():
    names = ("rkon", "filtered-max-min", "bkon")
    together = dataclasses.replace(shape("rkon", 10, 4), strategies=names)
    pools, *_ = draw(jax.random.split(jax.random.key(0), 3), together)
    of_one = jax.jit(lambda which: keep(jax.random.key(1), together, pools, which).responses)
    kept = [np.asarray(of_one(which)) for which in range(len(names))]
    for name, found in zip(names, kept, strict=True):
        alone = keep(jax.random.key(1), shape(name, 10, 4), pools)
        np.testing.assert_array_equal(found, alone.responses)
    assert not np.array_equal(kept[0], kept[2])


def test_options_reach_the_strategy():
    pools, *_ = draw(jax.random.split(jax.random.key(0), 3), shape("dbkon", 10, 4))
    of_alpha = jax.jit(
        lambda alpha: keep(jax.random.key(1), shape("dbkon", 10, 4), pools, alpha=alpha).responses
    )
    default = keep(jax.random.key(1), shape("dbkon", 10, 4), pools).responses
    np.testing.assert_array_equal(of_alpha(1.0), default)
    without_quality = keep(jax.random.key(1), shape("dkon", 10, 4), pools).responses
    np.testing.assert_array_equal(of_alpha(0.0), without_quality)
    assert not np.array_equal(default, without_quality)


def test_a_padded_run_is_the_settings_own_run():
    key, points = jax.random.key(2), jnp.asarray(sobol_prompts(32), jnp.float32)
    padded = jax.jit(mdn_training.train_once, static_argnums=5)(key, 0, 5, 2, points, shape("rkon", 10, 4))
    own = jax.jit(mdn_training.train_once, static_argnums=5)(key, 0, 5, 2, points, shape("rkon", 5, 2))
    for recipe in mdn_training.RECIPES:
        for name, value in own[recipe].items():
            assert padded[recipe][name] == pytest.approx(float(value), rel=2e-4), (recipe, name)


def steep(key):
    """A network with the steep outputs of an overfitted one."""
    model = MDN(key)
    return eqx.tree_at(lambda m: m.network.layers[-1].weight, model, replace_fn=lambda w: 6 * w)


def test_the_judge_is_exact_also_for_a_steep_network():
    model, prompts = steep(jax.random.key(3)), TOY.sample_prompts(jax.random.key(4), 60)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_array(a) else a, model)
        x = jnp.asarray(np.asarray(prompts, np.float64))
        first = TOY.expectation(lambda y: mdn_nll(wide, x, y), prompts, tolerance=1e-8)
        second = TOY.expectation(lambda y: mdn_nll(wide, x, y) ** 2, prompts, tolerance=1e-8)
    ours = eqx.filter_jit(judge)(model, prompts)
    assert float(ours["nll"]) == pytest.approx(first.value.mean(), rel=1e-4)
    assert float(ours["prompt"]) == pytest.approx(first.value.var(ddof=1), rel=1e-3)
    assert float(ours["response"]) == pytest.approx((second.value - first.value**2).mean(), rel=1e-3)


def test_the_judges_components_are_the_decompositions():
    model = MDN(jax.random.key(5))
    exact = decompose(mdn_nll, model, TOY, points=2**10, randomisations=8)
    points = jnp.asarray(sobol_prompts(256))
    judged = jax.jit(jax.vmap(lambda key: judge(model, shifted(points, key))))
    values = judged(jax.random.split(jax.random.key(6), 16))
    for name, expected in (("nll", exact.mean), ("prompt", exact.prompt), ("response", exact.response)):
        column = np.asarray(values[name], np.float64)
        error = np.hypot(column.std(ddof=1) / 4, expected.standard_error)
        # The variance of 256 stratified points is biased, by less than 1 %.
        assert abs(column.mean() - expected.value) < 5 * error + 0.01 * expected.value * (name == "prompt"), (
            name
        )


def test_nothing_beats_the_truth():
    # Modes 15 standard deviations apart: choosing a mode, then a normal density.
    assert mdn_training.true_nll() == pytest.approx(
        np.log(3) + 0.5 * np.log(2 * np.pi * np.e * 0.01), abs=1e-9
    )


def test_shifted_points_average_without_bias():
    points = jnp.asarray(sobol_prompts(16), jnp.float32)
    mean_square = jax.jit(jax.vmap(lambda key: jnp.mean(jnp.square(shifted(points, key)))))
    means = np.asarray(mean_square(jax.random.split(jax.random.key(1), 100)), np.float64)
    assert np.mean(means) == pytest.approx(1.0, abs=float(5 * np.std(means) / 10))


def test_the_papers_recipe():
    assert (PAPER.steps, PAPER.learning_rate, PAPER.clip) == (400, 0.005, 5.0)


def test_the_loss_of_many_responses_is_the_loss():
    with jax.enable_x64(True):
        parts = jax.random.normal(jax.random.key(0), (3, 6, 5), jnp.float64)
        mixture = Mixture(jax.nn.log_softmax(parts[0]), 3 * parts[1], parts[2])
        responses = 4 * jax.random.normal(jax.random.key(1), (6, 100), jnp.float64)
        responses = responses.at[0, 0].set(1e200)  # its square overflows: an infinite loss, no NaN
        found, expected = nll_of_many(mixture, responses), mixture_nll(mixture, responses)
        assert np.isposinf(found[0, 0])
        np.testing.assert_allclose(found, expected, rtol=1e-14)

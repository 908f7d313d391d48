"""E3: pairs share everything but the responses, and the share of the draw is recovered."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import lottery
from experiments.shared.mdn_training import TOY, Sample, Shape
from experiments.shared.training import Recipe
from mrtsim.errors import InputError

BRIEF = Recipe(steps=4, validate_every=2)


def test_draws_of_a_pair_share_everything_but_the_responses():
    key = jax.random.key(7)
    prompts = TOY.sample_prompts(jax.random.key(8), 30)
    test = Sample(prompts, TOY.sample_responses(jax.random.key(9), prompts, 20)[0])
    untrained = Recipe(steps=2, learning_rate=0.0, validate_every=2)
    train_pair = jax.jit(lottery.train_pair, static_argnums=4)
    for recipe, equal in ((untrained, True), (BRIEF, False)):
        made = Shape(("rkon",), 10, 1, drawn_prompts=10, n_candidates=8, recipe=recipe, draws=3)
        pair = train_pair(key, jnp.int32(1), test, prompts, made)
        assert pair["last"]["nll"].shape == (3,)
        assert (len(np.unique(pair["last"]["nll"])) == 1) is equal
        assert len(np.unique(pair["last"]["nll"])) in (1, 3)


def test_shares_of_the_draw_are_recovered():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(4_000, 1, 2)), rng.normal(size=(4_000, 2, 2))
    runs = shared * np.sqrt([0.3, 0.9]) * [5.0, 1.0] + own * np.sqrt([0.7, 0.1]) * [5.0, 1.0]
    np.testing.assert_allclose(lottery._std(runs), [5.0, 1.0], rtol=0.05)
    np.testing.assert_allclose(lottery._draw_share(runs), [0.7, 0.1], rtol=0.1)
    np.testing.assert_allclose(lottery._draw_std_ratio(runs)[1], 5 * np.sqrt(7.0), rtol=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": (1,)}, "two or more"),
        ({"draws": 0}, "at least 1"),
    ],
)
def test_configs_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(lottery.Config(), **changes)

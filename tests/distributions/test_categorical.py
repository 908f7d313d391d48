"""Finite tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.errors import InputError
from tests.distributions.shared import prompts_of


def test_categorical_rewards_and_prompts_come_from_the_tables():
    dist = Categorical()
    with jax.enable_x64(True):
        x = jnp.asarray([[1.0], [0.0]])
        y = jnp.asarray([[2.0, -1.0, 0.7], [0.0, 1.5, -1.5]])
        np.testing.assert_allclose(dist.reward(x, y)[:, :2], [[0.0, 1.0], [1.0, 0.0]])
    prompts, weights = dist.support()
    np.testing.assert_array_equal(prompts, [[0.0], [1.0]])
    np.testing.assert_array_equal(weights, [0.5, 0.5])
    assert Categorical([[0.0, 1.0], [0.5, 2.0]]).rewards[1, 1] == 2.0


def test_categorical_prompts_follow_their_weights():
    dist = Categorical(prompt_weights=[0.2, 0.8])
    counts = np.bincount(prompts_of(dist, 10_000)[:, 0].astype(int))
    assert stats.chisquare(counts, [2_000, 8_000]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClusteredPrompts(group_size=0), "group_size"),
        (lambda: ClusteredPrompts(similarity=1.5), "similarity"),
        (lambda: ClusteredPrompts(similarity=float("nan")), "similarity"),
        (lambda: Categorical(values=[1.0, 2.0]), r"\(prompts, outcomes\)"),
        (lambda: Categorical(values=[[1.0, 1.0]], probabilities=None, rewards=None), "distinct"),
        (lambda: Categorical(probabilities=[[1.0, 0.0, 0.0]]), r"shape \(2, 3\)"),
        (lambda: Categorical(prompt_weights=[0.4, 0.4]), "prompt_weights must be non-negative and sum to 1"),
        (lambda: Categorical(rewards=[[1.0]]), "rewards"),
    ],
)
def test_bad_tables_and_groups_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()

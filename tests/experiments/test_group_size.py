"""Training raises the exact reward; the statistics of known curves."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import group_size
from experiments.group_size import Config
from experiments.shared.token_policy import Shape
from mrtsim.errors import InputError


def test_training_raises_the_exact_reward():
    shape = Shape(n_prompts=16, tokens=2, features=16, actions=3, budget=32, steps=64)
    train = jax.jit(group_size.train_once, static_argnums=4)
    reward = train(jax.random.key(0), 0, 4, jnp.array([0.0, 8.0]), shape)
    assert reward.shape == (2, 17)
    still, climbed = np.asarray(reward)
    assert np.ptp(still) == 0
    assert climbed[-1] > climbed[0] + 0.2


def curves(peaks, config):
    """Rewards (replicates, budgets, sizes, rates, 1 + levels) whose best G is `peaks` per budget and level."""
    sizes = np.log(config.group_sizes)
    top = 0.9 - 0.1 * (sizes[:, None] - np.log(peaks)[:, None, :]) ** 2  # (budgets, sizes, levels)
    with_start = np.concatenate([np.full((*top.shape[:2], 1), 0.2), top], axis=-1)
    by_rate = np.stack([with_start - 0.05 * (np.arange(5) > 0), with_start], axis=2)
    return np.array([by_rate, by_rate], np.float64)


def test_statistics_of_known_curves():
    config = Config(rates=(1.0, 2.0))
    peaks = np.array([[2, 4, 8, 8], [2, 2, 4, 4]])
    found = group_size._summarise(config, curves(peaks, config), [8, 2])
    assert found["best"]["estimate"].tolist() == peaks.tolist()
    assert found["start"] == pytest.approx(0.2)
    assert np.all(found["best_rate"] == 2.0)
    doublings = np.log2(peaks).mean(axis=0)
    assert found["slopes"]["estimate"] == pytest.approx(
        [np.polyfit(np.arange(4), doublings, 1)[0], (doublings[1] - doublings[0]) - 0]
    )
    # The law's G = 8 is two doublings from the best at first, its G = 2 one at the end.
    worst = [0.1 * np.log(4) ** 2 / 0.7, 0.1 * np.log(2) ** 2 / 0.7]
    assert found["lost"]["estimate"] == pytest.approx(worst)
    two, sixteen = (np.mean([0.7 - 0.1 * np.log(g / peak) ** 2 for peak in (8, 4)]) for g in (2, 16))
    assert found["two_over_sixteen"]["estimate"] == pytest.approx(two / sixteen)
    assert found["best"]["low"].tolist() == found["best"]["high"].tolist() == peaks.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_sizes": (2, 4, 8)}, "contain 2 and 16"),
        ({"group_sizes": (16, 2)}, "increasing"),
        ({"budgets": (8,)}, "a group of 16"),
        ({"compute": 1_000}, "must divide compute"),
    ],
)
def test_configs_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(Config(), **changes)

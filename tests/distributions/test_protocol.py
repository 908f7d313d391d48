"""What each distribution offers, and that it agrees with itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.protocol import (
    Distribution,
    NamedModes,
    WithFinitePrompts,
    WithPromptCube,
    WithPromptPairs,
    WithQuadrature,
    require,
)
from mrtsim.errors import InputError


class NoReward:
    def sample_prompts(self, key, n): ...

    def sample_responses(self, key, prompts, n): ...

    def expectation(self, fn, prompts): ...


@pytest.mark.parametrize(
    ("dist", "parts"),
    [
        (GaussianModes(), {Distribution, WithQuadrature, WithPromptCube, NamedModes}),
        (ClusteredPrompts(), {Distribution, WithQuadrature, WithPromptCube, WithPromptPairs, NamedModes}),
        (Categorical(), {Distribution, WithQuadrature, WithFinitePrompts, NamedModes}),
        (NoReward(), set()),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, set) else "",
)
def test_each_distribution_offers_its_parts(dist, parts):
    every = (Distribution, WithQuadrature, WithPromptCube, WithPromptPairs, WithFinitePrompts, NamedModes)
    assert {part for part in every if isinstance(dist, part)} == parts


def test_what_is_lacking_is_named():
    with pytest.raises(
        InputError, match=r"^NoReward lacks reward, which measuring needs: .*protocol\.Distribution$"
    ):
        require(NoReward(), Distribution, "measuring")
    with pytest.raises(InputError, match="lacks prompt_pairs_at, prompts_at, prompt_dim, which"):
        require(NoReward(), WithPromptPairs, "measuring")


EVERY = [GaussianModes(), ClusteredPrompts(), Categorical()]


@pytest.mark.parametrize("dist", EVERY, ids=lambda dist: type(dist).__name__)
def test_every_distribution_agrees_with_itself(dist):
    """Simulated means of response, reward and log-density against the exact expectation."""
    with jax.enable_x64(True):
        prompts = dist.sample_prompts(jax.random.key(3), 6)
        assert prompts.shape[0] == 6
        responses, labels = dist.sample_responses(jax.random.key(4), prompts, 40_000)
        assert responses.shape == labels.shape == (6, 40_000)
        functions = [lambda y: y, lambda y: dist.reward(prompts, y)]
        if isinstance(dist, GaussianModes):
            functions.append(lambda y: dist.log_density(prompts, y))
        for fn in functions:
            sample = np.asarray(fn(responses))
            exact = dist.expectation(fn, np.asarray(prompts))
            assert exact.error.max() < 1e-6
            z = (sample.mean(1) - exact.value) / (sample.std(1) / 200 + 1e-12)
            assert np.abs(z).max() < 4
        mass = dist.expectation(jnp.ones_like, np.asarray(prompts))
        np.testing.assert_allclose(mass.value, 1, rtol=1e-13)

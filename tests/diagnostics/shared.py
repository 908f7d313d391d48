"""What the tests of diagnostics share."""

import jax
import jax.numpy as jnp
import numpy as np

from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.quadrature import Expectation, hermite

TOY = GaussianModes()


def within(measured, expected, errors=4.0):
    assert abs(measured.value - expected) <= errors * measured.standard_error, (measured, expected)


class Bare:
    """A distribution with nothing but what diagnostics need: a normal distribution about the first coordinate."""

    def sample_prompts(self, key, n):
        return jax.random.normal(key, (n, 1))

    def sample_responses(self, key, prompts, n):
        return prompts + jax.random.normal(key, (*prompts.shape[:-1], n), prompts.dtype), None

    def reward(self, prompts, responses):
        return responses

    def expectation(self, fn, prompts):
        rule = hermite(30)
        with jax.enable_x64(True):
            responses = jnp.asarray(np.asarray(prompts, np.float64)) + rule.nodes
            return Expectation(
                np.einsum("q,pq...->p...", rule.weights, np.asarray(fn(responses))), np.zeros(1)
            )

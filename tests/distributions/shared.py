"""What the tests of distributions share."""

import jax
import jax.numpy as jnp
import numpy as np

from mrtsim.distributions.gaussian_modes import GaussianModes

UNEVEN = {"offsets": [-1.0, 0.25, 2.0, 3.0], "weights": [0.1, 0.4, 0.5, 0.0], "scales": [0.1, 0.5, 0.3, 0.2]}


def uneven() -> GaussianModes:
    return GaussianModes(
        **UNEVEN,
        prompt_dim=1,
        centre=lambda x: jnp.square(x[..., 0]),
        prompt_scale=lambda x: 1 + jnp.abs(x[..., 0]),
    )


def prompts_of(dist, n, seed=0):
    with jax.enable_x64(True):
        return np.asarray(dist.sample_prompts(jax.random.key(seed), n))

"""What is p(y|x)? Toy multi-modal conditional distributions: sampling, reward, exact expectations."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray


def paper_centre(prompts: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """The paper's centre of p(y|x): f(x) = sin(2 x_1) + 0.5 x_2."""
    return jnp.sin(2.0 * prompts[..., 0]) + 0.5 * prompts[..., 1]


class GaussianModes(eqx.Module):
    """Prompts x ~ N(0, I); a response is centre(x) + offset_m + scale_m * eps, with mode m drawn by weight.

    The defaults are the toy distribution of arXiv:2606.00544: three equal modes at -1.5, 0, 1.5 and noise 0.1.
    """

    offsets: np.ndarray = eqx.field(converter=np.asarray, default=(-1.5, 0.0, 1.5))
    weights: np.ndarray = eqx.field(converter=np.asarray, default=(1 / 3, 1 / 3, 1 / 3))
    scales: np.ndarray = eqx.field(converter=np.asarray, default=(0.1, 0.1, 0.1))
    prompt_dim: int = eqx.field(static=True, default=5)
    centre: Callable[[Array], Array] = eqx.field(static=True, default=paper_centre)

    def sample_prompts(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Draw n prompts."""
        return jax.random.normal(key, (n, self.prompt_dim))

    def sample_responses(
        self, key: PRNGKeyArray, prompts: Float[Array, "*batch d"], n: int
    ) -> tuple[Float[Array, "*batch n"], Int[Array, "*batch n"]]:
        """Draw n responses to each prompt; returns them and the mode of each."""
        shape = (*prompts.shape[:-1], n)
        mode_key, noise_key = jax.random.split(key)
        modes = jax.random.categorical(
            mode_key, jnp.log(jnp.asarray(self.weights, prompts.dtype)), shape=shape
        )
        offsets, scales = (jnp.asarray(a, prompts.dtype)[modes] for a in (self.offsets, self.scales))
        noise = jax.random.normal(noise_key, shape, prompts.dtype)
        return self.centre(prompts)[..., None] + offsets + scales * noise, modes

    def reward(
        self, prompts: Float[Array, "*batch d"], responses: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """The paper's reward r(x, y) = -(y - f(x))^2: it prefers the middle of the modes."""
        return -jnp.square(responses - self.centre(prompts)[..., None])

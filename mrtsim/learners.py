"""Who learns p(y|x)? Networks with the paper's initialisation (uniform in +-1/sqrt(fan_in), Equinox's default)."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class MLP(eqx.Module):
    """ReLU network from prompts to one number; the paper's E1 uses 5-32-32-1."""

    network: eqx.nn.MLP

    def __init__(self, key: PRNGKeyArray, in_size: int = 5, width: int = 32, depth: int = 2):
        self.network = eqx.nn.MLP(in_size, "scalar", width, depth, jax.nn.relu, key=key)

    def __call__(self, prompts: Float[Array, "prompts d"]) -> Float[Array, " prompts"]:
        return jax.vmap(self.network)(prompts)


class Mixture(NamedTuple):
    """Parameters of a Gaussian mixture, one row a prompt; components on the last axis."""

    log_weights: Float[Array, "*prompts components"]
    means: Float[Array, "*prompts components"]
    log_scales: Float[Array, "*prompts components"]


class MDN(eqx.Module):
    """Mixture density network of the paper: 5-64-64 ReLU trunk, three linear heads for 5 Gaussians."""

    trunk: eqx.nn.MLP
    logits: eqx.nn.Linear
    means: eqx.nn.Linear
    log_scales: eqx.nn.Linear

    def __init__(
        self, key: PRNGKeyArray, in_size: int = 5, width: int = 64, depth: int = 2, components: int = 5
    ):
        keys = jax.random.split(key, 4)
        self.trunk = eqx.nn.MLP(in_size, width, width, depth - 1, jax.nn.relu, jax.nn.relu, key=keys[0])
        self.logits, self.means, self.log_scales = (
            eqx.nn.Linear(width, components, key=head) for head in keys[1:]
        )

    def __call__(self, prompts: Float[Array, "prompts d"]) -> Mixture:
        hidden = jax.vmap(self.trunk)(prompts)
        logits, means, log_scales = (jax.vmap(h)(hidden) for h in (self.logits, self.means, self.log_scales))
        return Mixture(jax.nn.log_softmax(logits), means, jnp.clip(log_scales, -3.0, 3.0))

"""The untrained network of the paper's E1, and the mean squared loss of one training set under it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.losses import squared_loss
from mrtsim.models import MLP

_FILE = Path(__file__).parents[1] / "data" / "reference_network.json"


def reference_network() -> MLP:
    """The untrained 5-32-32-1 network behind the published variances (data/reference_network.json)."""
    with _FILE.open(encoding="utf-8") as file:
        layers = json.load(file)["layers"]
    arrays = []
    for layer in layers:
        arrays += [
            np.array(layer["weight"], np.float32).reshape(layer["shape"]),
            np.array(layer["bias"], np.float32),
        ]
    return eqx.tree_at(
        lambda model: [array for layer in model.network.layers for array in (layer.weight, layer.bias)],
        MLP(jax.random.key(0)),
        [jnp.asarray(array, float) for array in arrays],
    )


def mean_losses(
    key: PRNGKeyArray, config: Any, model: MLP, distribution: GaussianModes
) -> Float[Array, " settings"]:
    """The mean loss of one training set for every K: of `config`, `n_prompts` and `responses` are used.

    Only the max K candidates that RKoN can keep are drawn.
    """
    prompt_key, response_key = jax.random.split(key)
    prompts = distribution.sample_prompts(prompt_key, config.n_prompts)
    responses, _ = distribution.sample_responses(response_key, prompts, config.responses[-1])
    k = jnp.asarray(config.responses)
    return jnp.cumsum(jnp.mean(squared_loss(model, prompts, responses), axis=0))[k - 1] / k

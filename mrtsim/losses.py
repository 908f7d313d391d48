"""Losses l(theta; x, y), with the signature loss(model, prompts, responses) -> losses.

Prompts are (prompts, d), responses and losses (prompts, responses): the model sees each prompt once, however many
responses it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mrtsim.models import Mixture

Loss = Callable[[Any, Float[Array, "prompts d"], Float[Array, "prompts k"]], Float[Array, "prompts k"]]


def squared_loss(
    model: Callable[[Array], Array], prompts: Float[Array, "prompts d"], responses: Float[Array, "prompts k"]
) -> Float[Array, "prompts k"]:
    """Squared error (y - model(x))^2, the loss of E1.

    Args:
        model: called on the prompts.
        prompts: (prompts, d).
        responses: (prompts, k).
    """
    return jnp.square(responses - model(prompts)[:, None])


def mixture_nll(mixture: Mixture, responses: Float[Array, "*prompts k"]) -> Float[Array, "*prompts k"]:
    """Negative log-likelihood, in nats, of responses under their prompt's Gaussian mixture."""
    # Components and responses lead, so that prompts, the longest axis, fill the vector units: twice as fast.
    log_weights, means, log_scales = (jnp.moveaxis(p, -1, 0)[:, None] for p in mixture)
    standard = (jnp.moveaxis(responses, -1, 0) - means) * jnp.exp(-log_scales)
    log_joint = (log_weights - log_scales - 0.5 * math.log(2 * math.pi)) - 0.5 * jnp.square(standard)
    return -jnp.moveaxis(jax.nn.logsumexp(log_joint, axis=0), 0, -1)


def mdn_nll(
    model: Callable[[Array], Mixture],
    prompts: Float[Array, "prompts d"],
    responses: Float[Array, "prompts k"],
) -> Float[Array, "prompts k"]:
    """The MDN's negative log-likelihood in nats, the loss of E2 to E6.

    Args:
        model: called on the prompts.
        prompts: (prompts, d).
        responses: (prompts, k).
    """
    return mixture_nll(model(prompts), responses)

"""Losses l(theta; x, y), with the signature loss(model, prompts, responses) -> losses.

Prompts are (prompts, d), responses and losses (prompts, responses): the model sees each prompt once, however many
responses it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrtsim.models import Mixture

Loss = Callable[[Any, Float[Array, "prompts d"], Float[Array, "prompts k"]], Float[Array, "prompts k"]]


def squared_loss(
    model: Callable[[Array], Array], prompts: Float[Array, "prompts d"], responses: Float[Array, "prompts k"]
) -> Float[Array, "prompts k"]:
    """(y - model(x))^2, the loss of E1."""
    return jnp.square(responses - model(prompts)[:, None])


def mixture_nll(mixture: Mixture, responses: Float[Array, "*prompts k"]) -> Float[Array, "*prompts k"]:
    """Negative log-likelihood, in nats, of responses under their prompt's Gaussian mixture."""
    # Components and responses lead, so that prompts, the longest axis, fill the vector units: twice as fast.
    log_weights, means, log_scales = (jnp.moveaxis(p, -1, 0)[:, None] for p in mixture)
    standard = (jnp.moveaxis(responses, -1, 0) - means) * jnp.exp(-log_scales)
    log_joint = (log_weights - log_scales - 0.5 * math.log(2 * math.pi)) - 0.5 * jnp.square(standard)
    return -jnp.moveaxis(jax.nn.logsumexp(log_joint, axis=0), 0, -1)


def used_mixture_nll(
    mixture: Mixture,
    responses: Float[Array, "prompts width"],
    n_prompts: Int[Array, ""] | int,
    k: Int[Array, ""] | int,
    columns: int = 4,
) -> Float[Array, ""]:
    """Mean `mixture_nll` of the first k responses to each of the first n_prompts prompts.

    For runs of different sizes that share one program: `n_prompts` and `k` may be traced, and the time grows with k,
    not with the width, as so many `columns` of responses are worked on at a time. What lies beyond changes nothing;
    of the mixture there it must be finite. The gradient is computed on the way (Bishop 1994, equations 35 to 39), so
    that nothing is kept of the responses that have been passed. Reverse mode only; responses count as constants.
    """
    log_weights, means, log_scales = (jnp.moveaxis(p, -1, 0) for p in mixture)
    k = jnp.asarray(k)
    return _used_mixture_nll(log_weights, means, log_scales, responses.T, jnp.asarray(n_prompts), k, columns)


def _used_with_gradient(
    log_weights: Float[Array, "components prompts"],
    means: Float[Array, "components prompts"],
    log_scales: Float[Array, "components prompts"],
    responses: Float[Array, "width prompts"],
    n_prompts: Int[Array, ""],
    k: Int[Array, ""],
    columns: int,
) -> tuple[Float[Array, ""], tuple[Float[Array, "components prompts"], ...]]:
    width, prompts = responses.shape
    columns = min(columns, width)
    filled = jnp.pad(responses, ((0, -width % columns), (0, 0)))
    precision = jnp.exp(-log_scales)
    constant = log_weights - log_scales - 0.5 * math.log(2 * math.pi)

    def add(step: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        loss, by_weight, by_mean, by_scale = sums
        start = step * columns
        used = (start + jnp.arange(columns) < k)[:, None] & (jnp.arange(prompts) < n_prompts)
        chunk = jnp.where(used, jax.lax.dynamic_slice_in_dim(filled, start, columns), 0)
        standard = (chunk - means[:, None]) * precision[:, None]  # (components, columns, prompts)
        log_joint = constant[:, None] - 0.5 * jnp.square(standard)
        largest = jnp.max(log_joint, axis=0)
        joint = jnp.exp(log_joint - largest)
        total = jnp.sum(joint, axis=0)
        posterior = joint * jnp.where(used, 1 / total, 0)
        return (
            loss - jnp.sum(jnp.where(used, largest + jnp.log(total), 0), axis=0),
            by_weight - jnp.sum(posterior, axis=1),
            by_mean - jnp.sum(posterior * standard, axis=1),
            by_scale + jnp.sum(posterior * (1 - jnp.square(standard)), axis=1),
        )

    zeros = jnp.zeros_like(means)
    chunks = (k + columns - 1) // columns
    sums = jax.lax.fori_loop(0, chunks, add, (jnp.zeros_like(means[0]), zeros, zeros, zeros))
    loss, by_weight, by_mean, by_scale = (a / (n_prompts * k) for a in sums)
    return jnp.sum(loss), (by_weight, by_mean * precision, by_scale)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _used_mixture_nll(*arguments: Any) -> Float[Array, ""]:
    return _used_with_gradient(*arguments)[0]


def _used_backward(columns: int, gradient: tuple[Array, ...], cotangent: Array) -> tuple[Array | None, ...]:
    return (*(cotangent * part for part in gradient), None, None, None)


_used_mixture_nll.defvjp(_used_with_gradient, _used_backward)


def mdn_nll(
    model: Callable[[Array], Mixture],
    prompts: Float[Array, "prompts d"],
    responses: Float[Array, "prompts k"],
) -> Float[Array, "prompts k"]:
    """The MDN's negative log-likelihood in nats, the loss of E2 to E6."""
    return mixture_nll(model(prompts), responses)

"""The mixture loss of runs of different sizes that share one program: what pads a run changes nothing."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrtsim.models import Mixture


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

"""The built-in selection strategies: pure functions of one prompt's pool, for use inside jit, vmap and simulations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from mrtsim.selection.facility_location import greedy, quality
from mrtsim.selection.registry import Pool, register_strategy


def _noise(key: PRNGKeyArray, n: int) -> Array:
    """31 random bits a candidate: a longer pool only adds to them, so padding changes nothing."""
    return (jax.random.bits(key, (n,), jnp.uint32) >> 1).astype(jnp.int32)


@register_strategy("rkon", random=True, nested=True)
def rkon(key: PRNGKeyArray, pool: Pool, k: int) -> Array:
    """Random-K-of-N: uniform without replacement."""
    exists = pool.exists()
    return jax.lax.top_k(jnp.where(exists, _noise(key, exists.size), -1), k)[1]


@register_strategy("bkon", needs=("rewards",), nested=True)
def bkon(key: None, pool: Pool, k: int) -> Array:
    """Best-K-of-N: the k highest rewards."""
    return jax.lax.top_k(jnp.where(pool.exists(), pool.rewards, -jnp.inf), k)[1]


@register_strategy("dkon", needs=("similarity",), nested=True)
def dkon(key: None, pool: Pool, k: int) -> Array:
    """Diverse-K-of-N: greedy on the GRADES objective with quality 1."""
    return greedy(pool.similarities(), None, k, pool.mask)


@register_strategy("dbkon", needs=("rewards", "similarity"), nested=True)
def dbkon(key: None, pool: Pool, k: int, *, alpha: Any = 1.0) -> Array:
    """Diverse-Best-K-of-N: greedy on the GRADES objective with quality from the rewards, to the power alpha."""
    return greedy(pool.similarities(), quality(jnp.asarray(pool.rewards), alpha, pool.mask), k, pool.mask)


@register_strategy("filtered-max-min", needs=("rewards", "distance"))
def filtered_max_min(key: None, pool: Pool, k: int) -> Array:
    """The simulations' selector: of the rewards from the median up, the best, then always the farthest from those kept.

    Where fewer than k reach the median, the k best.
    """
    exists = pool.exists()
    rewards = jnp.where(exists, pool.rewards, -jnp.inf)
    descending, best = jax.lax.top_k(rewards, exists.size)
    size = jnp.sum(exists)
    # No reward lies between the median and the least reward that reaches it.
    passing = exists & (rewards >= descending[(size - 1) // 2])

    def pick(state: Any, _: None) -> Any:
        nearest, last = state
        nearest = jnp.minimum(nearest, pool.distances_to(last)).at[last].set(-1)
        choice = jax.lax.argmax(nearest, 0, jnp.int32)
        return (nearest, choice), choice

    start = jnp.where(passing, jnp.inf, -1).astype(pool.distances_to(best[0]).dtype)
    rest = jax.lax.scan(pick, (start, best[0]), length=k - 1)[1]
    spread = jnp.concatenate([best[:1], rest])
    return jnp.where(jnp.sum(passing) < k, best[:k], spread)


@register_strategy("gumbel", needs=("rewards",), random=True, nested=True)
def gumbel(key: PRNGKeyArray, pool: Pool, k: int, *, temperature: Any = 1.0) -> Array:
    """Reward-weighted sampling without replacement: each next with probability proportional to exp(reward/temperature).

    By Gumbel top-k (Kool, van Hoof, Welling 2019). Temperature 0 is BKoN, infinity RKoN.
    """
    exists = pool.exists()
    rewards = jnp.asarray(pool.rewards)
    uniform = (_noise(key, exists.size).astype(rewards.dtype) + 0.5) / 2.0**31
    noise = -jnp.log(-jnp.log(jnp.minimum(uniform, 1 - jnp.finfo(rewards.dtype).epsneg)))
    # Either form orders the same; each is finite on its side of 1.
    hot = jnp.asarray(temperature, rewards.dtype) > 1
    scores = jnp.where(
        hot,
        rewards / jnp.where(hot, temperature, 1) + noise,
        rewards + jnp.where(hot, 1, temperature) * noise,
    )
    return jax.lax.top_k(jnp.where(exists, scores, -jnp.inf), k)[1]

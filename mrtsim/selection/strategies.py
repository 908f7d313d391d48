"""The built-in selection strategies: pure functions of one prompt's pool, for use inside jit, vmap and simulations."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from mrtsim.errors import InputError
from mrtsim.selection.facility_location import greedy, quality, row_weights
from mrtsim.selection.registry import Picks, Pool, register_strategy


def _largest(values: Array, k: int) -> Array:
    """Indices of the k largest of (candidates,) values, the largest first, ties to the lowest index."""
    n = values.size
    if values.dtype != jnp.float64 or 4 * k > n:
        return jax.lax.top_k(values, k)[1]
    # `top_k` sorts all float64 numbers on a CPU: a pass for each of a few is four to ten times as quick.
    place = jnp.arange(n, dtype=jnp.int32)

    def next_largest(left: Array, _: None) -> tuple[Array, Array]:
        best = jnp.max(values, where=left, initial=-jnp.inf)
        first = jnp.min(jnp.where(left & (values == best), place, n - 1))
        return left & (place != first), first

    return jax.lax.scan(next_largest, jnp.ones(n, bool), None, length=k)[1]


def _noise(key: PRNGKeyArray, n: int) -> Array:
    """31 random bits a candidate: a longer pool only adds to them, so padding changes nothing."""
    return (jax.random.bits(key, (n,), jnp.uint32) >> 1).astype(jnp.int32)


@register_strategy("rkon", random=True, nested=True)
def rkon(key: PRNGKeyArray, pool: Pool, k: int) -> Array:
    """Random-K-of-N: uniform without replacement.

    Args:
        key: seeds the choice.
        pool: the candidates of one prompt.
        k: K.
    """
    exists = pool.exists()
    return jax.lax.top_k(jnp.where(exists, _noise(key, exists.size), -1), k)[1]


@register_strategy("bkon", needs=("rewards",), nested=True)
def bkon(key: None, pool: Pool, k: int) -> Array:
    """Best-K-of-N: the k highest rewards.

    Args:
        key: None, nothing is random.
        pool: the candidates of one prompt.
        k: K.
    """
    return _largest(jnp.where(pool.exists(), pool.rewards, -jnp.inf), k)


TIES = ("index", "reward", "diverse", "random")
QUALITY_SIDES = ("both", "covered")


def _checked_grades(ties: str, alpha: float = 0.0, quality_side: str = "both") -> tuple[str, ...]:
    """What a tie rule needs besides."""
    if quality_side not in QUALITY_SIDES:
        raise InputError(f"quality_side must be one of {', '.join(QUALITY_SIDES)}, got {quality_side!r}")
    if ties not in TIES:
        raise InputError(f"ties must be one of {', '.join(TIES)}, got {ties!r}")
    if not 0 <= alpha < math.inf:
        raise InputError(f"alpha must be a finite number >= 0, got {alpha}")
    return {"reward": ("rewards",), "random": ("key",)}.get(ties, ())


def _tie_rule(key: Any, pool: Pool, ties: str) -> dict[str, Any]:
    """The arguments of `greedy` that decide among ties; but for "index" they do not depend on the candidates' order."""
    if ties == "index":
        return {}
    # Only candidates that are identical, in what the strategy reads, share a number: it is theirs wherever they stand.
    content = _content(pool)
    if ties == "random":
        words = jax.random.bits(key, (2,), jnp.uint32)
        return {"order": _mixed(_mixed(content ^ words[0]) + words[1])}
    rewards = () if pool.rewards is None else (jnp.asarray(pool.rewards),)
    preferences = (*rewards, "diverse") if ties == "reward" else ("diverse", *rewards)
    return {"preferences": preferences, "order": content}


def _content(pool: Pool) -> Array:
    """A 32-bit digest of each candidate's reward and embedding (or similarities, in order of size)."""
    columns = [] if pool.rewards is None else [jnp.asarray(pool.rewards)[:, None]]
    if pool.embeddings is not None:
        vectors = jnp.asarray(pool.embeddings)
        # Directions count, and no digit changes: the lengths may differ by powers of two.
        exponent = jnp.frexp(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True))[1]
        columns.append(jnp.ldexp(vectors, -exponent))
    else:
        both = pool.exists()[:, None] & pool.exists()[None, :]
        columns.append(-jnp.sort(-jnp.where(both, pool.similarity, 0), axis=1))
    digest = jnp.zeros(pool.shape, jnp.uint32)
    for values in columns:
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32)) + 0.0  # no negative zeros
        words = jax.lax.bitcast_convert_type(values, jnp.uint32)
        words = words.reshape(*pool.shape, -1)
        places = jnp.arange(words.shape[-1], dtype=jnp.uint32)
        # A zero adds nothing, so that the zeros which pad similarities do not count.
        digest = _mixed(digest) + jnp.sum(
            jnp.where(words == 0, 0, _mixed(words ^ _mixed(places))), axis=-1, dtype=jnp.uint32
        )
    return digest


def _mixed(words: Array) -> Array:
    """The finaliser of MurmurHash3: every bit of a 32-bit word depends on every bit."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = (words ^ (words >> shift)) * jnp.uint32(factor)
    return words ^ (words >> 16)


@register_strategy("dkon", needs=("similarity",), nested=True, check=_checked_grades)
def dkon(key: PRNGKeyArray | None, pool: Pool, k: int, *, ties: str = "index") -> Picks:
    """Diverse-K-of-N: greedy on the GRADES objective with quality 1.

    Args:
        key: seeds the choice among ties at random.
        pool: the candidates of one prompt.
        k: K.
        ties: as for `dbkon`.
    """
    return Picks(*greedy(pool.similarities(), None, k, pool.mask, **_tie_rule(key, pool, ties)))


@register_strategy("dbkon", needs=("rewards", "similarity"), nested=True, check=_checked_grades)
def dbkon(
    key: PRNGKeyArray | None,
    pool: Pool,
    k: int,
    *,
    alpha: Any = 1.0,
    ties: str = "index",
    quality_side: str = "both",
) -> Picks:
    """Diverse-Best-K-of-N: greedy on the GRADES objective with quality from the rewards, to the power alpha.

    Rewards are scaled to [0, 1] within the pool before the power, so they may be negative, and have no unit. `ties`
    decides among equal gains: by the lowest "index" (the paper's rule), the largest "reward", "diverse" (the largest
    gain with quality 1), or at "random". With `quality_side` "both" (the paper's) quality counts in who covers and in
    who is covered, and picks soon add nothing; with "covered" in the latter alone, and every pick adds something.

    Args:
        key: seeds the choice among ties at random.
        pool: the candidates of one prompt.
        k: K.
        alpha: the power.
        ties: "index", "reward", "diverse" or "random".
        quality_side: "both" or "covered".
    """
    qualities = quality(jnp.asarray(pool.rewards), alpha, pool.mask)
    weights = row_weights(qualities)
    covers = qualities if quality_side == "both" else None
    return Picks(
        *greedy(pool.similarities(), covers, k, pool.mask, weights=weights, **_tie_rule(key, pool, ties))
    )


@register_strategy("filtered-max-min", needs=("rewards", "distance"))
def filtered_max_min(key: None, pool: Pool, k: int) -> Array:
    """The simulations' selector: of the rewards from the median up, the best, then always the farthest from those kept.

    Where fewer than k reach the median, the k best.

    Args:
        key: None, nothing is random.
        pool: the candidates of one prompt.
        k: K.
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


def _checked_temperature(temperature: float) -> None:
    if not temperature >= 0:
        raise InputError(f"temperature must be a number >= 0, got {temperature}")


@register_strategy("gumbel", needs=("rewards",), random=True, nested=True, check=_checked_temperature)
def gumbel(key: PRNGKeyArray, pool: Pool, k: int, *, temperature: Any = 1.0) -> Array:
    """Reward-weighted sampling without replacement: each next with probability proportional to exp(reward/temperature).

    By Gumbel top-k (Kool, van Hoof, Welling 2019). Temperature 0 is BKoN, infinity RKoN.

    Args:
        key: seeds the choice.
        pool: the candidates of one prompt.
        k: K.
        temperature: from 0 to infinity.
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
    return _largest(jnp.where(exists, scores, -jnp.inf), k)

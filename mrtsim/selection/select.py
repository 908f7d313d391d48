"""Keep K of N candidates of every prompt: arrays are checked, and streamed in blocks."""

from __future__ import annotations

import math
import operator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from mrtsim.devices import device_memory, usable_cores
from mrtsim.errors import InputError
from mrtsim.selection import registry
from mrtsim.selection.facility_location import similarity_matrix
from mrtsim.selection.registry import Picks, Pool, Strategy


def select(
    strategy: str,
    k: int,
    *,
    rewards: Any = None,
    embeddings: Any = None,
    similarity: Any = None,
    mask: Any = None,
    key: PRNGKeyArray | None = None,
    shape: tuple[int, int] | None = None,
    numbers: Any = None,
    **options: Any,
) -> Int[np.ndarray, "prompts k"]:
    """Keep k candidates of each prompt's pool.

    Prompts are streamed in blocks, so memory beyond the arguments and the answer does not grow with them. Rewards are
    ranked in float64. Embeddings are taken as float32 numbers, and their similarities, distances and gains computed in
    float64: an array in either precision gives the same picks.

    Args:
        strategy: "rkon" (random), "bkon" (best rewards), "dkon" (diverse: greedy facility location), "dbkon" (the
            same with quality from rewards), "filtered-max-min" (the farthest among the better half), "gumbel" (random,
            weighted by exp(reward/temperature)), or a registered name.
        k: how many to keep, at least 1.
        rewards: (prompts, candidates), higher is better.
        embeddings: (prompts, candidates, features).
        similarity: (prompts, candidates, candidates), non-negative, instead of embeddings.
        mask: (prompts, candidates), True where a candidate exists, for pools of different sizes.
        key: a JAX random key, for random strategies.
        shape: (prompts, candidates), where no array tells it.
        numbers: (prompts,) whole numbers below 2**32, which each prompt folds into the key; 0, 1, ... by default. A
            prompt with a number of its own has the same picks whichever others it stands with.
        **options: the strategy's keyword-only parameters. Of "dbkon": `alpha`, >= 0, the exponent of the quality (the
            rewards scaled to [0, 1] within each pool, so they may be negative); 0 makes it "dkon". Of "dkon" and
            "dbkon": `ties`, what decides among gains within 1e-5 of the largest: "index" (the lowest), "reward" (the
            largest), "diverse" (the largest gain with quality 1) or "random" (by the key); but for "index" the kept
            set does not depend on the order of the candidates. Of "dbkon": `quality_side`, "both" (the paper's) or
            "covered", with which every pick adds something. Of "gumbel": `temperature`, in units of the reward,
            0 (BKoN) to infinity (RKoN).

    Returns:
        Indices of the kept candidates, (prompts, k), in the order of picking: best first, greedy order, random order.
        Where no option says otherwise, ties go to the lowest index.

    Raises:
        InputError: something is missing, misshapen, not finite or out of range, or a pool has fewer than k candidates.
    """
    return select_picks(
        strategy,
        k,
        rewards=rewards,
        embeddings=embeddings,
        similarity=similarity,
        mask=mask,
        key=key,
        shape=shape,
        numbers=numbers,
        **options,
    ).indices


def select_picks(
    strategy: str,
    k: int,
    *,
    rewards: Any = None,
    embeddings: Any = None,
    similarity: Any = None,
    mask: Any = None,
    key: PRNGKeyArray | None = None,
    shape: tuple[int, int] | None = None,
    numbers: Any = None,
    at_once: int = 1,
    **options: Any,
) -> Picks:
    """What `select` keeps, and which picks added nothing to the strategy's objective: arrays (prompts, k).

    Args:
        strategy: its name.
        k: K.
        rewards: (prompts, candidates).
        embeddings: (prompts, candidates, features).
        similarity: (prompts, candidates, candidates).
        mask: (prompts, candidates), which candidates exist.
        key: seeds a random strategy.
        shape: (prompts, candidates), where none of the arrays tells.
        numbers: (prompts,), the prompts' numbers in the whole.
        at_once: prompts that blocks are made for, memory allowing; one size for all calls is compiled once.
        options: of the strategy.
    """
    method = registry.strategy(strategy)
    options, needs = method.resolve(options)
    pool, shape = _checked(method.name, needs, rewards, embeddings, similarity, mask, shape)
    k = _checked_k(k, pool, shape)
    if "key" in needs:
        _check_key(method, key)
    picks = Picks(np.empty((shape[0], k), np.int32), np.zeros((shape[0], k), bool))
    if shape[0]:
        each = np.arange(shape[0]) if numbers is None else np.asarray(numbers)
        blocks = max(at_once, shape[0])
        key = key if "key" in needs else None
        _keep_blocks(method, key, each.astype(np.uint32), pool, k, options, picks, blocks)
    return picks


def _checked(
    name: str,
    needs: tuple[str, ...],
    rewards: Any,
    embeddings: Any,
    similarity: Any,
    mask: Any,
    shape: tuple[int, int] | None,
) -> tuple[Pool, tuple[int, int]]:
    """The arrays that the strategy uses, and (prompts, candidates)."""
    arrays = {
        "rewards": (rewards, 2, "(prompts, candidates)"),
        "embeddings": (embeddings, 3, "(prompts, candidates, features)"),
        "similarity": (similarity, 3, "(prompts, candidates, candidates)"),
        "mask": (mask, 2, "(prompts, candidates)"),
    }
    shapes = {} if shape is None else {"shape": tuple(shape)}
    fields: dict[str, Any] = {}
    for field, (array, ndim, axes) in arrays.items():
        if array is None:
            continue
        if not isinstance(array, jax.Array | np.ndarray):
            try:
                array = np.asarray(array)
            except ValueError as error:
                raise InputError(
                    f"{field} must be {axes}; for pools of different sizes pad them and give mask"
                ) from error
        if array.ndim != ndim:
            raise InputError(f"{field} must be {axes}, got shape {array.shape}")
        if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
            raise InputError(f"{field} must be numbers, got {array.dtype}")
        shapes[field] = array.shape
        fields[field] = array
    if not shapes:
        raise InputError(f"{name} needs {_wanted(needs) or 'an array or shape=(prompts, candidates)'}")
    sizes = {field: tuple(given[:2]) for field, given in shapes.items()}
    if len(set(sizes.values())) > 1 or ("similarity" in shapes and len(set(shapes["similarity"][1:])) > 1):
        told = ", ".join(f"{field} {given}" for field, given in shapes.items())
        raise InputError(f"arrays must agree on (prompts, candidates): {told}")
    if "mask" in fields and fields["mask"].dtype != bool:
        raise InputError(f"mask must be boolean, True where a candidate exists, got {fields['mask'].dtype}")
    vectors = {"embeddings", "similarity"} & set(fields)
    wanted = [need for need in needs if need != "key"]
    if not all(need in fields or (need in ("similarity", "distance") and vectors) for need in wanted):
        raise InputError(f"{name} needs {_wanted(needs)}")
    if {"similarity", "distance"} & set(needs) and len(vectors) == 2:
        raise InputError(f"give {name} embeddings or a similarity matrix, not both")
    used = {"mask", "rewards", *vectors}
    if "rewards" not in needs:
        used.discard("rewards")
    if not {"embeddings", "similarity", "distance"} & set(needs):
        used -= vectors
    pool = Pool(**{field: fields[field] for field in used if field in fields})
    prompts, candidates = next(iter(sizes.values()))
    if not any(array is not None for array in pool):
        pool = Pool(mask=np.ones((prompts, candidates), bool))
    if pool.rewards is not None:
        pool = pool._replace(rewards=_checked_rewards(pool))
    return pool, (prompts, candidates)


def _checked_rewards(pool: Pool) -> np.ndarray:
    rewards = np.asarray(pool.rewards, np.float64)
    wrong = ~np.isfinite(rewards)
    if pool.mask is not None:
        wrong &= np.asarray(pool.mask)
    if wrong.any():
        prompt, candidate = np.argwhere(wrong)[0]
        raise InputError(
            f"the reward of prompt {prompt}, candidate {candidate} is {rewards[prompt, candidate]}; "
            "rewards must be finite (mask=False leaves a candidate out)"
        )
    return rewards


def _check_key(method: Strategy, key: Any) -> None:
    if key is None:
        how = "is random" if method.random else "is random with these options"
        raise InputError(f"{method.name} {how}: give key=jax.random.key(seed)")
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if np.shape(key) != (() if typed else (2,)):
        raise InputError(f"key must be one JAX random key, jax.random.key(seed), got {key!r}")


def _wanted(needs: tuple[str, ...]) -> str:
    vectors = "embeddings or a similarity matrix"
    words = {"similarity": vectors, "distance": vectors}
    return " and ".join(words.get(need, need) for need in needs if need != "key")


def _checked_k(k: int, pool: Pool, shape: tuple[int, int]) -> int:
    try:
        k = operator.index(k)
    except TypeError:
        raise InputError(f"k must be a whole number, got {k!r}") from None
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    sizes = np.full(shape[0], shape[1]) if pool.mask is None else np.asarray(pool.mask).sum(axis=1)
    if (short := sizes < k).any():
        first = int(np.argmax(short))
        raise InputError(
            f"prompt {first} has {sizes[first]} candidates, fewer than k = {k} "
            f"({int(short.sum())} of {len(sizes)} prompts have too few)"
        )
    return k


# Numbers in a block's largest array on a CPU: 128 prompts of 32 candidates with 384 features, 12 MB in float64.
BLOCK_ELEMENTS = 128 * 32 * 384
# On an accelerator two blocks fill half of its memory: for each such number, four float64 arrays.
ELEMENT_BYTES = 4 * 8


# How far below zero rounding may take a similarity.
SIMILARITY_ROUNDING = 1e-6


def _keep_blocks(
    method: Strategy,
    key: PRNGKeyArray | None,
    numbers: np.ndarray,
    pool: Pool,
    k: int,
    options: dict[str, Any],
    picks: Picks,
    at_once: int,
) -> None:
    """Fill `picks` block by block: one compiled unit, called from one thread per core, on the devices in turn."""
    prompts = len(picks.indices)
    traced = {name: value for name, value in options.items() if isinstance(value, float)}
    fixed = tuple(item for item in options.items() if item[0] not in traced)
    candidates = pool.shape[-1]
    largest = max(math.prod(array.shape[1:]) for array in pool if array is not None)
    if pool.embeddings is not None and "similarity" in method.needs:
        largest = max(largest, candidates**2)
    devices = jax.local_devices()
    memory = device_memory(devices[0])
    elements = BLOCK_ELEMENTS if memory is None else memory // 4 // ELEMENT_BYTES
    size = 2 ** int(math.log2(max(1, min(elements // largest, 2 * at_once - 1))))
    threads = usable_cores() if memory is None else 2 * len(devices)

    def keep(start: int) -> None:
        stop = min(start + size, prompts)
        # The last block is filled with copies of the last prompt, so that nothing is compiled twice.
        rows = np.minimum(np.arange(start, start + size), prompts - 1)
        part = jax.tree.map(lambda a: a[start:stop] if stop - start == size else a[rows], pool)
        with jax.enable_x64(True), jax.default_device(devices[start // size % len(devices)]):
            (indices, saturated), sound = jax.device_get(
                _keep_block(method, key, numbers[rows], part, k, traced, fixed)
            )
        if not sound.all():
            _raise_unsound(method, min(start + int(np.argmin(sound)), prompts - 1), pool)
        picks.indices[start:stop] = _checked_kept(method, indices[: stop - start], pool, start)
        picks.saturated[start:stop] = saturated[: stop - start]

    keep(0)  # alone, so that the threads find it compiled
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(keep, range(size, prompts, size)))


@partial(jax.jit, static_argnames=("method", "k", "fixed"))
def _keep_block(
    method: Strategy,
    key: PRNGKeyArray | None,
    rows: Array,
    pool: Pool,
    k: int,
    traced: dict[str, float],
    fixed: tuple[tuple[str, Any], ...],
) -> tuple[Picks, Array]:
    """What is kept, and whether every number of the pool that is used can be used, for each prompt."""
    rewards, embeddings, similarity, mask = pool
    if embeddings is not None:
        embeddings = _rounded(embeddings, method.needs)
    if mask is not None:
        # Whatever stands in the place of a candidate that does not exist, it is a number.
        rewards = None if rewards is None else jnp.where(mask, rewards, 0)
        embeddings = None if embeddings is None else jnp.where(mask[..., None], embeddings, 1)
        both = mask[..., None, :] & mask[..., :, None]
        similarity = None if similarity is None else jnp.where(both, similarity, 0)
    sound = jnp.ones(rows.shape, bool)
    if embeddings is None and similarity is not None:
        similarity = similarity.astype(float)
        sound = jnp.all((similarity >= -SIMILARITY_ROUNDING) & (similarity < jnp.inf), axis=(-2, -1))
    elif embeddings is not None and "similarity" in method.needs:
        # A vector without a direction is not similar to itself. (Sums over the vectors would cost as much as all else.)
        similarity = similarity_matrix(embeddings)
        itself = jnp.diagonal(similarity, axis1=-2, axis2=-1)
        sound = jnp.all(jnp.abs(itself - 1) < 0.01, axis=-1)
    elif embeddings is not None:
        sound = jnp.all(jnp.isfinite(embeddings), axis=(-2, -1))
    pool = Pool(rewards, embeddings, similarity, mask)
    return method.picks(key, rows, pool, k, **traced, **dict(fixed)), sound


def _rounded(embeddings: Array, needs: tuple[str, ...]) -> Array:
    """Embeddings in float64 with the digits of float32, (prompts, candidates, features).

    Powers of two, which change no digit, take those beyond float32's range into it first: each vector by its own where
    directions count alone, a pool by one where distances count. A strategy that asks for the embeddings themselves
    gets all digits.
    """
    if embeddings.dtype != jnp.float64 or "embeddings" in needs:
        return embeddings.astype(float)
    axes = (-2, -1) if "distance" in needs else -1
    largest = jnp.max(jnp.abs(embeddings), axis=axes, keepdims=True)
    exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 1))[1]
    # Not a cast to float32 and back, which compilers for accelerators leave out.
    return jax.lax.reduce_precision(jnp.ldexp(embeddings, -exponent), exponent_bits=8, mantissa_bits=23)


def _raise_unsound(method: Strategy, prompt: int, pool: Pool) -> None:
    """Say what is wrong with the embeddings or similarities of a prompt."""
    exists = np.ones(pool.shape[-1], bool) if pool.mask is None else np.asarray(pool.mask[prompt])
    if pool.similarity is not None:
        wrong = np.asarray(pool.similarity[prompt], np.float64)
        usable = np.isfinite(wrong) & (wrong >= -SIMILARITY_ROUNDING)
        i, j = np.argwhere(~usable & np.outer(exists, exists))[0]
        raise InputError(
            f"the similarity of prompt {prompt}, candidates {i} and {j} is {wrong[i, j]}; similarities must be finite "
            "and not negative: use (1 + cos) / 2"
        )
    vectors = np.asarray(pool.embeddings[prompt], np.float64)
    where = f"the embedding of prompt {prompt}, candidate "
    if (wrong := exists & ~np.isfinite(vectors).all(axis=-1)).any():
        raise InputError(f"{where}{np.argmax(wrong)} has a NaN or infinite feature")
    if (wrong := exists & ~vectors.any(axis=-1)).any():
        raise InputError(
            f"{where}{np.argmax(wrong)} is all zero, so it has no direction for {method.name} to compare"
        )
    raise InputError(f"{where}some is too long or too short for float32: scale the embeddings to length 1")


def _checked_kept(method: Strategy, kept: np.ndarray, pool: Pool, start: int) -> np.ndarray:
    """What a strategy returned, if it keeps distinct candidates that exist."""
    ordered = np.sort(kept, axis=1)
    valid = (ordered[:, 0] >= 0) & (ordered[:, -1] < pool.shape[-1]) & (np.diff(ordered) > 0).all(axis=1)
    if pool.mask is not None and valid.all():
        mask = np.asarray(pool.mask[start : start + len(kept)])
        valid &= np.take_along_axis(mask, kept, axis=1).all(axis=1)
    if not valid.all():
        prompt = int(np.argmin(valid))
        raise InputError(
            f"strategy {method.name!r} kept {kept[prompt].tolist()} of prompt {start + prompt}: "
            "it must keep distinct candidates that exist"
        )
    return kept

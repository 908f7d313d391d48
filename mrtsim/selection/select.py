"""Which K of N? Selection strategies behind `select`, each one a function of one prompt's pool.

`select` takes arrays over many prompts, checks them, and streams them in blocks. The strategies themselves
(`STRATEGY(key, pool, k)`) are pure and traceable, for use inside jit, vmap and simulations.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import math
import operator
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from mrtsim.errors import InputError
from mrtsim.montecarlo import usable_cores
from mrtsim.selection.facility_location import greedy, quality, similarity_matrix

ENTRY_POINTS = "mrtsim.strategies"
NEEDS = ("rewards", "embeddings", "similarity", "distance")


class Pool(NamedTuple):
    """Candidates of a prompt, or of many with the same leading axes on every array; what is not known is None.

    `rewards` and `mask` (the candidates that exist) are (..., candidates), `embeddings` (..., candidates, features),
    `similarity` (..., candidates, candidates).
    """

    rewards: Any = None
    embeddings: Any = None
    similarity: Any = None
    mask: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., candidates)."""
        for array, extra in zip(self, (0, 1, 1, 0), strict=True):
            if array is not None:
                return tuple(array.shape[: array.ndim - extra])
        raise InputError("a pool needs at least one array to have a shape")

    def exists(self) -> Array:
        """Which candidates exist, (..., candidates)."""
        return jnp.ones(self.shape, bool) if self.mask is None else jnp.asarray(self.mask)

    def similarities(self) -> Array:
        """Similarities, (..., candidates, candidates): as given, else (1 + cos)/2 of the embeddings."""
        return similarity_matrix(jnp.asarray(self.embeddings)) if self.similarity is None else self.similarity

    def distances_to(self, candidate: Array) -> Array:
        """Squared distances of one prompt's candidates to one of them: Euclidean between embeddings.

        From a similarity matrix, 1 - s: up to a factor, the same between the unit embeddings behind it.
        """
        if self.embeddings is None:
            return 1 - self.similarity[:, candidate]
        return jnp.sum(jnp.square(self.embeddings - self.embeddings[candidate]), axis=-1)


class Strategy(NamedTuple):
    """A registered strategy; call it with (key, pool, k), where the pool may have any leading axes.

    The key is for random strategies, None otherwise; prompt number i (in row-major order) uses `fold_in(key, i)`. The
    answer is (..., k), in the order of picking. Pure: may be traced; k is static.
    """

    name: str
    function: Callable[..., Array]
    needs: tuple[str, ...]
    random: bool
    nested: bool
    options: tuple[str, ...]

    def __call__(
        self, key: PRNGKeyArray | None, pool: Pool, k: int, **options: Any
    ) -> Int[Array, "*batch k"]:
        batch = pool.shape[:-1]
        rows = jnp.arange(math.prod(batch), dtype=jnp.uint32).reshape(batch)
        return self.rows(key, rows, pool, k, **options)

    def rows(self, key: PRNGKeyArray | None, rows: Array, pool: Pool, k: int, **options: Any) -> Array:
        """The same with the prompts' numbers given, so that a block of prompts answers as it does in the whole."""

        def one(row: Array, pool: Pool) -> Array:
            return self.function(None if key is None else jax.random.fold_in(key, row), pool, k, **options)

        for _ in range(rows.ndim):
            one = jax.vmap(one)
        kept = one(rows, pool)
        if kept.shape != (*rows.shape, k) or not jnp.issubdtype(kept.dtype, jnp.integer):
            raise InputError(
                f"strategy {self.name!r} must return k = {k} integers a prompt, returned {kept.dtype} {kept.shape}"
            )
        return kept


_REGISTRY: dict[str, Strategy] = {}


def register_strategy(
    name: str, *, needs: tuple[str, ...] = (), random: bool = False, nested: bool = False
) -> Callable[[Callable[..., Array]], Strategy]:
    """Decorator that makes a function of one pool a strategy of `select`, the command line and the experiments.

    The function takes (key, pool, k) and returns the k distinct indices it keeps, in the order of picking; it is
    traced by JAX and batched over prompts, so `pool` holds the arrays of one prompt, `pool.rewards` (candidates,) and
    so on. It must only pick candidates that exist (`pool.exists()`), and should break ties by the lowest index.
    Keyword-only parameters named `alpha` or `temperature` receive those options of `select`.

    Args:
        name: what users write.
        needs: among "rewards", "embeddings", "similarity" (a similarity matrix or embeddings, as given by
            `pool.similarities()`) and "distance" (either, as given by `pool.distances_to(j)`).
        random: whether it needs a key.
        nested: whether what it keeps for a smaller k is always the first of what it keeps for a larger one. Where
            several k are compared, a nested strategy picks once.

    Raises:
        InputError: the name is taken by another function, or a need is not one of these.
    """
    if unknown := set(needs) - set(NEEDS):
        raise InputError(f"strategy {name!r} needs {sorted(unknown)}; a need is one of {', '.join(NEEDS)}")

    def register(function: Callable[..., Array]) -> Strategy:
        known = _REGISTRY.get(name)
        if known is not None and _origin(known.function) != _origin(function):
            raise InputError(f"strategy {name!r} is already registered by {_origin(known.function)[0]}")
        parameters = inspect.signature(function).parameters.values()
        options = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        _REGISTRY[name] = Strategy(name, function, tuple(needs), random, nested, options)
        return _REGISTRY[name]

    return register


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    return inspect.getfile(function), function.__qualname__


def load_plugin(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Run a Python file that registers strategies; returns their names.

    Raises:
        InputError: the file cannot be read or run, or registers no strategy.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"plugin {path} is not a file")
    spec = importlib.util.spec_from_file_location(f"mrtsim_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"plugin {path} is not a Python file (its name must end in .py)")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"plugin {path} failed: {type(error).__name__}: {error}") from error
    source = str(path.resolve())
    names = tuple(
        n for n, known in _REGISTRY.items() if str(Path(_origin(known.function)[0]).resolve()) == source
    )
    if not names:
        raise InputError(
            f"plugin {path} registers no strategy; decorate a function with @register_strategy(name)"
        )
    return names


@cache
def _load_entry_points() -> None:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def strategies() -> Mapping[str, Strategy]:
    """Every strategy by name: the built-in ones, those of installed packages and of loaded plugins."""
    _load_entry_points()
    return dict(_REGISTRY)


def strategy(name: str) -> Strategy:
    """The strategy of this name.

    Raises:
        InputError: there is none.
    """
    known = strategies()
    if name not in known:
        raise InputError(f"no strategy {name!r}; there are {', '.join(known)}")
    return known[name]


_find = strategy  # `select` has an argument of that name


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
    alpha: float = 1.0,
    temperature: float = 1.0,
) -> Int[np.ndarray, "prompts k"]:
    """Keep k candidates of each prompt's pool.

    Prompts are streamed in blocks, so memory beyond the arguments and the answer does not grow with them. Rewards are
    ranked in float64; similarities are computed in the embeddings' precision.

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
        alpha: exponent of the quality in "dbkon", >= 0; 0 makes it "dkon".
        temperature: of "gumbel", in units of the reward, 0 (BKoN) to infinity (RKoN).

    Returns:
        Indices of the kept candidates, (prompts, k), in the order of picking: best first, greedy order, random order.
        Ties go to the lowest index; in "dkon" and "dbkon", gains within 1e-5 of the largest are ties.

    Raises:
        InputError: something is missing, misshapen, not finite or out of range, or a pool has fewer than k candidates.
    """
    method = _find(strategy)
    pool, shape = _checked(method, rewards, embeddings, similarity, mask, shape)
    k = _checked_k(k, pool, shape)
    if method.random:
        _check_key(method, key)
    given = {
        "alpha": _checked_option("alpha", alpha, infinite=False),
        "temperature": _checked_option("temperature", temperature, infinite=True),
    }
    if unknown := set(method.options) - set(given):
        raise InputError(
            f"{strategy} has keyword-only parameters that select does not offer: {sorted(unknown)}"
        )
    options = {name: given[name] for name in method.options}
    kept = np.empty((shape[0], k), np.int32)
    if shape[0]:
        _keep_blocks(method, key if method.random else None, pool, k, options, kept)
    return kept


def _checked(
    method: Strategy, rewards: Any, embeddings: Any, similarity: Any, mask: Any, shape: tuple[int, int] | None
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
    for name, (array, ndim, axes) in arrays.items():
        if array is None:
            continue
        if not isinstance(array, jax.Array | np.ndarray):
            try:
                array = np.asarray(array)
            except ValueError as error:
                raise InputError(
                    f"{name} must be {axes}; for pools of different sizes pad them and give mask"
                ) from error
        if array.ndim != ndim:
            raise InputError(f"{name} must be {axes}, got shape {array.shape}")
        if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
            raise InputError(f"{name} must be numbers, got {array.dtype}")
        shapes[name] = array.shape
        fields[name] = array
    if not shapes:
        raise InputError(
            f"{method.name} needs {_wanted(method) or 'an array or shape=(prompts, candidates)'}"
        )
    sizes = {name: tuple(given[:2]) for name, given in shapes.items()}
    if len(set(sizes.values())) > 1 or ("similarity" in shapes and len(set(shapes["similarity"][1:])) > 1):
        told = ", ".join(f"{name} {given}" for name, given in shapes.items())
        raise InputError(f"arrays must agree on (prompts, candidates): {told}")
    if "mask" in fields and fields["mask"].dtype != bool:
        raise InputError(f"mask must be boolean, True where a candidate exists, got {fields['mask'].dtype}")
    vectors = {"embeddings", "similarity"} & set(fields)
    if not all(need in fields or (need in ("similarity", "distance") and vectors) for need in method.needs):
        raise InputError(f"{method.name} needs {_wanted(method)}")
    if {"similarity", "distance"} & set(method.needs) and len(vectors) == 2:
        raise InputError(f"give {method.name} embeddings or a similarity matrix, not both")
    used = {"mask", "rewards", *vectors}
    if "rewards" not in method.needs:
        used.discard("rewards")
    if not {"embeddings", "similarity", "distance"} & set(method.needs):
        used -= vectors
    pool = Pool(**{name: fields[name] for name in used if name in fields})
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
        raise InputError(f"{method.name} is random: give key=jax.random.key(seed)")
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if np.shape(key) != (() if typed else (2,)):
        raise InputError(f"key must be one JAX random key, jax.random.key(seed), got {key!r}")


def _checked_option(name: str, value: Any, *, infinite: bool) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number >= 0 or (math.isinf(number) and not infinite):
        raise InputError(f"{name} must be a {'' if infinite else 'finite '}number >= 0, got {value!r}")
    return number


def _wanted(method: Strategy) -> str:
    vectors = "embeddings or a similarity matrix"
    words = {"similarity": vectors, "distance": vectors}
    return " and ".join(words.get(need, need) for need in method.needs)


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


# Numbers in a block's largest array: 256 prompts of 32 candidates with 384 features, 12 MB in float32.
BLOCK_ELEMENTS = 256 * 32 * 384
# How far below zero rounding may take a similarity.
SIMILARITY_ROUNDING = 1e-6


def _keep_blocks(
    method: Strategy,
    key: PRNGKeyArray | None,
    pool: Pool,
    k: int,
    options: dict[str, float],
    kept: np.ndarray,
) -> None:
    """Fill `kept` block by block: one compiled unit, called from a thread a core, on the devices in turn."""
    prompts = len(kept)
    candidates = pool.shape[-1]
    largest = max(math.prod(array.shape[1:]) for array in pool if array is not None)
    if pool.embeddings is not None and "similarity" in method.needs:
        largest = max(largest, candidates**2)
    size = 2 ** int(math.log2(max(1, min(BLOCK_ELEMENTS // largest, 2 * prompts - 1))))
    devices = jax.local_devices()
    threads = max(len(devices), usable_cores() if devices[0].platform == "cpu" else 2)

    def keep(start: int) -> None:
        stop = min(start + size, prompts)
        # The last block is filled with copies of the last prompt, so that nothing is compiled twice.
        rows = np.minimum(np.arange(start, start + size, dtype=np.uint32), prompts - 1)
        part = jax.tree.map(lambda a: a[start:stop] if stop - start == size else a[rows], pool)
        with jax.enable_x64(True), jax.default_device(devices[start // size % len(devices)]):
            indices, sound = jax.device_get(_keep_block(method, key, rows, part, k, options))
        if not sound.all():
            _raise_unsound(method, min(start + int(np.argmin(sound)), prompts - 1), pool)
        kept[start:stop] = _checked_kept(method, indices[: stop - start], pool, start)

    keep(0)  # alone, so that the threads find it compiled
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(keep, range(size, prompts, size)))


@partial(jax.jit, static_argnames=("method", "k"))
def _keep_block(
    method: Strategy, key: PRNGKeyArray | None, rows: Array, pool: Pool, k: int, options: dict[str, float]
) -> tuple[Array, Array]:
    """Kept indices, and whether every number of the pool that is used can be used, for each prompt."""
    rewards, embeddings, similarity, mask = pool
    if embeddings is not None:
        embeddings = embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
    if mask is not None:
        # Whatever stands in the place of a candidate that does not exist, it is a number.
        rewards = None if rewards is None else jnp.where(mask, rewards, 0)
        embeddings = None if embeddings is None else jnp.where(mask[..., None], embeddings, 1)
        both = mask[..., None, :] & mask[..., :, None]
        similarity = None if similarity is None else jnp.where(both, similarity, 0)
    sound = jnp.ones(rows.shape, bool)
    if embeddings is None and similarity is not None:
        sound = jnp.all((similarity >= -SIMILARITY_ROUNDING) & (similarity < jnp.inf), axis=(-2, -1))
    elif embeddings is not None and "similarity" in method.needs:
        # A vector without a direction is not similar to itself. (Sums over the vectors would cost as much as all else.)
        similarity = similarity_matrix(embeddings)
        itself = jnp.diagonal(similarity, axis1=-2, axis2=-1)
        sound = jnp.all(jnp.abs(itself - 1) < 0.01, axis=-1)
    elif embeddings is not None:
        sound = jnp.all(jnp.isfinite(embeddings), axis=(-2, -1))
    return method.rows(key, rows, Pool(rewards, embeddings, similarity, mask), k, **options), sound


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
    raise InputError(
        f"{where}some is too long or too short for its precision: scale the embeddings to length 1"
    )


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

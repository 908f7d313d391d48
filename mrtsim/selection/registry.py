"""The registry of selection strategies: each a function of one prompt's pool, known by name."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import math
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from mrtsim.errors import InputError
from mrtsim.selection.facility_location import similarity_matrix

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
        _load_built_in()  # their names are taken
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


def _load_built_in() -> None:
    importlib.import_module("mrtsim.selection.strategies")


@cache
def _load_entry_points() -> None:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def strategies() -> Mapping[str, Strategy]:
    """Every strategy by name: the built-in ones, those of installed packages and of loaded plugins."""
    _load_built_in()
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

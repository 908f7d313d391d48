"""The registry of selection strategies: each a function of one prompt's pool, known by name."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import math
import operator
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
RESERVED = {"strategy", "k", "rewards", "embeddings", "similarity", "mask", "key", "shape"}


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


class Picks(NamedTuple):
    """What a strategy keeps of one prompt's pool, or of many.

    `indices` (..., k) are in the order of picking; `saturated` (..., k) are the picks that added nothing to the
    strategy's objective, so that its tie rule alone chose them.
    """

    indices: Any
    saturated: Any


# What an option's value is, by its default; the order matters, since a flag is a whole number to Python.
_KINDS: dict[type, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "a word"}


class Option(NamedTuple):
    """A keyword-only parameter of a strategy, and its default; `inspect.Parameter.empty` where it must be given."""

    name: str
    default: Any

    def value(self, strategy_name: str, given: Any) -> Any:
        """A given value in the default's type; as it is where the default is None or missing."""
        kind = next((kind for kind in _KINDS if isinstance(self.default, kind)), None)
        if kind is None:
            return given
        try:
            value = float(given) if kind is float else operator.index(given) if kind is int else given
        except (TypeError, ValueError):
            value = None
        if not isinstance(value, kind) or value != value:
            raise InputError(f"{self.name} of {strategy_name} must be {_KINDS[kind]}, got {given!r}")
        return value

    def parse(self, strategy_name: str, text: str) -> Any:
        """The value that a text on the command line stands for."""
        if isinstance(self.default, str):
            return text
        if isinstance(self.default, bool):
            return self.value(strategy_name, {"true": True, "false": False}.get(text.lower(), text))
        for kind in (int, float):
            try:
                return self.value(strategy_name, kind(text))
            except ValueError:
                continue
        return self.value(strategy_name, text)


class Strategy(NamedTuple):
    """A registered strategy; call it with (key, pool, k), where the pool may have any leading axes.

    The key is for random strategies, whose prompt number i (in row-major order) uses `fold_in(key, i)`, and for options
    that need one, which all prompts share; None otherwise. The answer is (..., k), in the order of picking. Pure: may
    be traced; k is static, and so are options other than floats.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    random: bool
    nested: bool
    options: tuple[Option, ...]
    check: Callable[..., tuple[str, ...] | None] | None = None

    def __call__(
        self, key: PRNGKeyArray | None, pool: Pool, k: int, **options: Any
    ) -> Int[Array, "*batch k"]:
        batch = pool.shape[:-1]
        rows = jnp.arange(math.prod(batch), dtype=jnp.uint32).reshape(batch)
        return self.picks(key, rows, pool, k, **options).indices

    def picks(self, key: PRNGKeyArray | None, rows: Array, pool: Pool, k: int, **options: Any) -> Picks:
        """Picks with the prompts' numbers given, so that a block of prompts answers as it does in the whole.

        Args:
            key: seeds a random strategy, else None.
            rows: (prompts,), the number of each prompt in the whole.
            pool: the candidates of these prompts.
            k: K.
            options: of the strategy.
        """

        def one(row: Array, pool: Pool) -> Any:
            own = jax.random.fold_in(key, row) if self.random and key is not None else key
            return self.function(own, pool, k, **options)

        for _ in range(rows.ndim):
            one = jax.vmap(one)
        kept = one(rows, pool)
        picks = kept if isinstance(kept, Picks) else Picks(kept, jnp.zeros((*rows.shape, k), bool))
        shape = (*rows.shape, k)
        for array, kind, words in (
            (picks.indices, jnp.integer, "integers"),
            (picks.saturated, jnp.bool_, "booleans of saturation"),
        ):
            if array.shape != shape or not jnp.issubdtype(array.dtype, kind):
                raise InputError(
                    f"strategy {self.name!r} must return k = {k} {words} per prompt, returned {array.dtype} "
                    f"{array.shape}"
                )
        return picks

    def resolve(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Every option with its value, and what the strategy needs of a pool with these: `NEEDS`, and "key".

        Raises:
            InputError: an option that the strategy lacks, one that is missing, or a wrong value.
        """
        for name in given:
            self.option(name)
        options = {}
        for option in self.options:
            if option.name in given:
                options[option.name] = option.value(self.name, given[option.name])
            elif option.default is inspect.Parameter.empty:
                raise InputError(f"{self.name} needs the option {option.name}")
            else:
                options[option.name] = option.default
        more = (self.check(**options) or ()) if self.check else ()
        return options, (
            *self.needs,
            *(n for n in more if n not in self.needs),
            *(("key",) if self.random else ()),
        )

    def option(self, name: str) -> Option:
        """The option of this name.

        Raises:
            InputError: there is none.
        """
        for option in self.options:
            if option.name == name:
                return option
        names = ", ".join(option.name for option in self.options)
        raise InputError(f"{self.name} has no option {name!r}; it has {names or 'none'}")


_REGISTRY: dict[str, Strategy] = {}


def register_strategy(
    name: str,
    *,
    needs: tuple[str, ...] = (),
    random: bool = False,
    nested: bool = False,
    check: Callable[..., tuple[str, ...] | None] | None = None,
) -> Callable[[Callable[..., Any]], Strategy]:
    """Decorator that makes a function of one pool a strategy of `select`, the command line and the experiments.

    The function takes (key, pool, k) and returns the k distinct indices it keeps, in the order of picking, or `Picks`
    to say as well which of them added nothing to its objective. It is traced by JAX and batched over prompts, so
    `pool` holds the arrays of one prompt, `pool.rewards` (candidates,) and so on. It must only pick candidates that
    exist (`pool.exists()`), and should break ties by the lowest index.

    Its keyword-only parameters are the strategy's options: `select(..., name=value)`, `Setting(..., {name: value})` and
    `mrtsim select --option name=value`. A value has the type of the parameter's default. Floats are traced, so that a
    sweep over them compiles once; other values are Python's own (a word, a whole number, a flag).

    Args:
        name: what users write.
        needs: among "rewards", "embeddings", "similarity" (a similarity matrix or embeddings, as given by
            `pool.similarities()`) and "distance" (either, as given by `pool.distances_to(j)`).
        random: whether it needs a key.
        nested: whether what it keeps for a smaller k is always the first of what it keeps for a larger one. Where
            several k are compared, a nested strategy picks once.
        check: called with all options by name before anything is selected. Raises InputError for a value that is out of
            range; may return further needs that these values bring ("rewards", ..., or "key").

    Raises:
        InputError: the name is taken by another function, a need is not one of these, or an option has the name of an
            argument of `select`.
    """
    if unknown := set(needs) - set(NEEDS):
        raise InputError(f"strategy {name!r} needs {sorted(unknown)}; a need is one of {', '.join(NEEDS)}")

    def register(function: Callable[..., Any]) -> Strategy:
        _load_built_in()  # their names are taken
        known = _REGISTRY.get(name)
        if known is not None and _origin(known.function) != _origin(function):
            raise InputError(f"strategy {name!r} is already registered by {_origin(known.function)[0]}")
        parameters = inspect.signature(function).parameters.values()
        options = tuple(Option(p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY)
        if taken := {option.name for option in options} & RESERVED:
            raise InputError(
                f"strategy {name!r}: {sorted(taken)} are arguments of select, so no names of options"
            )
        _REGISTRY[name] = Strategy(name, function, tuple(needs), random, nested, options, check)
        return _REGISTRY[name]

    return register


_LAWS: dict[str, Callable[..., Any]] = {}


def register_law(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function the exact law of what a strategy keeps, so that `diagnostics.exact` knows it.

    The function takes (distribution, prompts, n_candidates, k, reward) and options, and returns the law of the kept
    responses as a quadrature rule, `mrtsim.selection.exact_laws.KeptLaw`. `reward` is None for the distribution's own.

    Raises:
        InputError: the strategy has a law of another function.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        known = _LAWS.setdefault(name, function)
        if _origin(known) != _origin(function):
            raise InputError(f"strategy {name!r} already has a law, by {_origin(known)[0]}")
        _LAWS[name] = function
        return function

    return register


def law(name: str) -> Callable[..., Any]:
    """The exact law of a strategy.

    Raises:
        InputError: there is no such strategy, or none for it.
    """
    importlib.import_module("mrtsim.selection.exact_laws")  # where those of the built-in strategies are
    strategy(name)
    if name not in _LAWS:
        raise InputError(f"exact results exist for {' and '.join(_LAWS)}, not for {name!r}: measure it")
    return _LAWS[name]


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

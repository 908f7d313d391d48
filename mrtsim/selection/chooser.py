"""Selection within whole prompts of a table, and the report that adds up on the way."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.selection.registry import strategy
from mrtsim.selection.select import select
from mrtsim.tables.values import shown

ShortPools = Literal["error", "keep", "drop"]
# A larger pool is a wrong prompt column, or too large for its pairs to fit in memory.
MAX_CANDIDATES = 1_000_000
MAX_COMPARED = 16384
# The largest feature of an embedding lies between these where float32 can square and add up the features.
SQUARES_IN_FLOAT32 = 1e-12, 1e15
SQUARES_IN_FLOAT64 = 1e-120, 1e120


@dataclass(frozen=True)
class SelectionReport:
    """How the kept set differs from the pool; means over prompts of per-prompt means, None where not known.

    Attributes:
        prompts: how many there are.
        candidates: how many there are, of all prompts.
        kept: how many of them are kept.
        short_pools: prompts of fewer than k candidates.
        cut_columns: with one row per prompt, the lists that were cut.
        notes: what a reader should know about the reading.
        reward_pool: mean reward.
        reward_kept: the same of the kept.
        similarity_pool: mean (1 + cos)/2 over a prompt's pairs.
        similarity_kept: the same of the kept.
        k_eff: the similarity score K / (1 + (K - 1) similarity) of the kept; it ranks kept sets, but is not a
            calibrated effective number.
        loss_pool: mean loss.
        loss_kept: the same of the kept.
    """

    prompts: int
    candidates: int
    kept: int
    short_pools: int
    cut_columns: list[str]
    notes: list[str]
    reward_pool: float | None
    reward_kept: float | None
    similarity_pool: float | None
    similarity_kept: float | None
    k_eff: float | None
    loss_pool: float | None
    loss_kept: float | None


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, values: NDArray[np.float64]) -> None:
        self.total += float(np.sum(values))
        self.count += values.size

    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class Chooser:
    """Selects within whole prompts and adds up the report.

    Attributes:
        strategy: its name.
        k: how many to keep of each prompt.
        seed: of random strategies; the key of a prompt comes from it and the prompt's id.
        short_pools: what becomes of a prompt of fewer than k candidates.
        options: of the strategy.
    """

    strategy: str
    k: int
    seed: int
    short_pools: ShortPools
    options: Mapping[str, Any]
    prompts: int = 0
    candidates: int = 0
    kept: int = 0
    short: int = 0
    means: dict[str, _Mean] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        needs = set(strategy(self.strategy).needs)
        self.needs_rewards = "rewards" in needs
        self.needs_embeddings = bool(needs & {"embeddings", "similarity", "distance"})

    def keep(
        self,
        names: Sequence[str],
        sizes: NDArray[np.int64],
        rewards: NDArray[np.float64] | None,
        embeddings: NDArray[np.floating] | None,
        losses: NDArray[np.float64] | None,
    ) -> NDArray[np.bool_]:
        """Which candidates to keep.

        Args:
            names: ids of consecutive prompts.
            sizes: how many candidates each has, at least 1.
            rewards: of all candidates, one prompt after another, (candidates,).
            embeddings: (candidates, features).
            losses: (candidates,).

        Raises:
            InputError: a pool is too large, or cannot be chosen from.
        """
        starts = np.concatenate([[0], np.cumsum(sizes)])
        keep = np.zeros(starts[-1], bool)
        short = sizes < self.k
        if self.short_pools == "keep":
            keep[np.repeat(short, sizes)] = True
        if sizes.size and sizes.max() > (MAX_COMPARED if self.needs_embeddings else MAX_CANDIDATES):
            raise too_many(names[int(np.argmax(sizes))])
        # Ragged pools are padded to a power of two, so that few shapes are compiled.
        ragged = sizes.size > 0 and sizes.min() != sizes.max()
        widths = 2 ** np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64) if ragged else sizes
        wide = self._beyond_float32(starts, embeddings)
        key = jax.random.key(self.seed)
        numbers = np.array([zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names], np.uint32)
        for width in np.unique(widths[~short]):
            for precise in (False, True):
                rows = np.flatnonzero((widths == width) & ~short & (wide == precise))
                if not rows.size:
                    continue
                inside = np.arange(width) < sizes[rows, None]
                at = np.where(inside, starts[rows, None] + np.arange(width), starts[rows, None])
                vectors = embeddings[at] if embeddings is not None and self.needs_embeddings else None
                chosen = select(
                    self.strategy,
                    self.k,
                    rewards=rewards[at] if rewards is not None and self.needs_rewards else None,
                    embeddings=vectors
                    if vectors is None or precise
                    else vectors.astype(np.float32, copy=False),
                    mask=inside,
                    key=key,
                    numbers=numbers[rows],
                    **self.options,
                )
                keep[np.take_along_axis(at, chosen, axis=1)] = True
        self._count(starts, sizes, short, keep, rewards, embeddings, losses)
        return keep

    def count_missing(self, pools: int) -> None:
        """Prompts whose list of candidates is missing or empty: short pools."""
        self.prompts += pools
        self.short += pools

    def _beyond_float32(self, starts: NDArray[np.int64], embeddings: Any) -> NDArray[np.bool_]:
        """Prompts whose embeddings need float64, so that a prompt's picks do not depend on the others."""
        if embeddings is None or not self.needs_embeddings or embeddings.dtype == np.float32:
            return np.zeros(len(starts) - 1, bool)
        return np.logical_or.reduceat(~squares_fit(embeddings, SQUARES_IN_FLOAT32), starts[:-1])

    def _count(
        self,
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        short: NDArray[np.bool_],
        keep: NDArray[np.bool_],
        rewards: NDArray[np.float64] | None,
        embeddings: NDArray[np.floating] | None,
        losses: NDArray[np.float64] | None,
    ) -> None:
        self.prompts += sizes.size
        self.candidates += int(starts[-1])
        self.short += int(short.sum())
        self.kept += int(keep.sum())
        if not sizes.size:
            return
        left = np.add.reduceat(keep, starts[:-1])
        some = left > 0
        for name, values in (("reward", rewards), ("loss", losses)):
            if values is None:
                self.unknown.add(name)
            else:
                self._add(f"{name} pool", np.add.reduceat(values, starts[:-1]) / sizes)
                self._add(
                    f"{name} kept",
                    (np.add.reduceat(np.where(keep, values, 0), starts[:-1]) / np.maximum(left, 1))[some],
                )
        if embeddings is None:
            self.unknown.add("similarity")
        else:
            units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
            pool = _mean_similarity(np.add.reduceat(units, starts[:-1]), sizes)
            units[~keep] = 0
            kept = _mean_similarity(np.add.reduceat(units, starts[:-1]), left)
            pairs = left > 1
            self._add("similarity pool", pool[sizes > 1])
            self._add("similarity kept", kept[pairs])
            self._add("similarity k_eff", (left / (1 + (left - 1) * kept))[pairs])

    def _add(self, name: str, values: NDArray[np.float64]) -> None:
        self.means.setdefault(name, _Mean()).add(values)

    def report(self, cut_columns: list[str], notes: list[str]) -> SelectionReport:
        """What was kept so far; a column that could not be read in some rows is not reported on."""

        def mean(name: str) -> float | None:
            return None if name.split()[0] in self.unknown else self.means.get(name, _Mean()).value()

        return SelectionReport(
            prompts=self.prompts,
            candidates=self.candidates,
            kept=self.kept,
            short_pools=self.short,
            cut_columns=cut_columns,
            notes=notes,
            reward_pool=mean("reward pool"),
            reward_kept=mean("reward kept"),
            similarity_pool=mean("similarity pool"),
            similarity_kept=mean("similarity kept"),
            k_eff=mean("similarity k_eff"),
            loss_pool=mean("loss pool"),
            loss_kept=mean("loss kept"),
        )


def squares_fit(embeddings: NDArray[np.floating], limits: tuple[float, float]) -> NDArray[np.bool_]:
    """Which embeddings, (candidates, features), have their largest feature within limits."""
    largest = np.abs(embeddings).max(axis=1).astype(np.float64)
    return (largest >= limits[0]) & (largest <= limits[1])


def too_many(prompt: str) -> InputError:
    """An error about a pool of too many candidates."""
    return InputError(
        f"prompt {shown(prompt)} has too many candidates (at most {MAX_CANDIDATES}, or {MAX_COMPARED} where embeddings "
        "are compared pair by pair); is the prompt column the right one?"
    )


def _mean_similarity(sums: NDArray[np.floating], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean (1 + cos)/2 over the pairs of `count` unit vectors, from their sum: no pair is formed."""
    squares = np.sum(np.square(sums, dtype=np.float64), axis=1)
    return 0.5 + 0.5 * (squares - count) / np.maximum(count * (count - 1), 1)

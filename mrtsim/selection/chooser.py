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
from mrtsim.selection.report import SelectionReport, Totals
from mrtsim.selection.select import select_picks
from mrtsim.tables.values import shown

ShortPools = Literal["error", "keep", "drop"]
# A larger pool is a wrong prompt column, or too large for its pairs to fit in memory.
MAX_CANDIDATES = 1_000_000
MAX_COMPARED = 16384
# The largest feature of an embedding lies between these where the precision can square and add up the features.
SQUARES_IN_FLOAT32 = 1e-12, 1e15
SQUARES_IN_FLOAT64 = 1e-120, 1e120


@dataclass
class Chooser:
    """Selects within whole prompts and adds up the report.

    Attributes:
        strategy: its name.
        k: how many to keep of each prompt.
        seed: of random strategies; the key of a prompt comes from it and the prompt's id.
        short_pools: what becomes of a prompt of fewer than k candidates.
        options: of the strategy.
        lower_is_better: whether the least reward is the best, as of ranks; the report has them as they are.
        totals: what the report is made of.
        most: by pool size, prompts in the largest piece so far.
    """

    strategy: str
    k: int
    seed: int
    short_pools: ShortPools
    options: Mapping[str, Any]
    lower_is_better: bool = False
    totals: Totals = field(default_factory=Totals)
    most: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        needs = set(strategy(self.strategy).resolve(self.options)[1])
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
        key = jax.random.key(self.seed)
        numbers = np.array([zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names], np.uint32)
        saturated, sign = 0, -1 if self.lower_is_better else 1
        for width in np.unique(widths[~short]).tolist():
            rows = np.flatnonzero((widths == width) & ~short)
            inside = np.arange(width) < sizes[rows, None]
            at = np.where(inside, starts[rows, None] + np.arange(width), starts[rows, None])
            # Blocks are made for the largest piece so far: what was compiled for it serves the smaller ones.
            self.most[width] = max(self.most.get(width, 1), rows.size)
            picks = select_picks(
                self.strategy,
                self.k,
                rewards=sign * rewards[at] if rewards is not None and self.needs_rewards else None,
                embeddings=embeddings[at] if embeddings is not None and self.needs_embeddings else None,
                mask=inside,
                key=key,
                numbers=numbers[rows],
                at_once=self.most[width],
                **self.options,
            )
            keep[np.take_along_axis(at, picks.indices, axis=1)] = True
            saturated += int(picks.saturated.sum())
        self.totals.add(
            sizes,
            keep,
            int(short.sum()),
            saturated,
            rewards=rewards,
            embeddings=embeddings,
            losses=losses,
        )
        return keep

    def count_missing(self, pools: int) -> None:
        """Prompts whose list of candidates is missing or empty: short pools."""
        self.totals.prompts += pools
        self.totals.short += pools

    def report(self, cut_columns: list[str], notes: list[str]) -> SelectionReport:
        """What was kept so far."""
        return self.totals.report(cut_columns, notes)


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

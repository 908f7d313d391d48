"""How kept sets differ from their pools: means over prompts, and shifts with their standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.display import Display, number, table
from mrtsim.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SelectionReport(Display):
    """How the kept set differs from the pool; means over prompts of per-prompt means, None where not known.

    `print` it for the text of `mrtsim select`.

    Attributes:
        prompts: in the file, of which `short_pools` have fewer than K candidates.
        candidates: in all pools.
        kept: candidates kept.
        short_pools: prompts of fewer than K candidates.
        cut_columns: with one row per prompt, the lists that were cut.
        notes: what a reader should know about the reading.
        saturated_picks: picks that added nothing to the strategy's objective, so that its tie rule alone chose them.
        reward_pool, reward_kept: mean of the reward in the pools, and among the kept.
        reward_rkon: what RKoN, a random choice, is expected to keep of the same prompts: their pools' mean.
        reward_shift: kept minus RKoN's, over prompts of which some are kept, with a 95 % interval over prompts.
        similarity_pool, similarity_kept, similarity_rkon, similarity_shift: the same of the mean (1 + cos)/2 over the
            pairs of a prompt.
        similarity_score: K / (1 + (K - 1) similarity), the mean over prompts. It ranks kept sets; it is no effective
            number of responses.
        similarity_score_rkon: the same score at the mean similarity of each pool.
        loss_pool, loss_kept, loss_rkon, loss_shift: as of the reward, where a loss column is named.
    """

    prompts: int
    candidates: int
    kept: int
    short_pools: int
    cut_columns: list[str]
    notes: list[str]
    saturated_picks: int
    reward_pool: float | None
    reward_kept: float | None
    reward_rkon: float | None
    reward_shift: Estimate | None
    similarity_pool: float | None
    similarity_kept: float | None
    similarity_rkon: float | None
    similarity_shift: Estimate | None
    similarity_score: float | None
    similarity_score_rkon: float | None
    loss_pool: float | None
    loss_kept: float | None
    loss_rkon: float | None
    loss_shift: Estimate | None

    def _rows(self, loss: str = "loss") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows = []
        for name, quantity in (("reward",) * 2, ("similarity (1 + cos) / 2", "similarity"), (loss, "loss")):
            pool, rkon, kept = (getattr(self, f"{quantity}_{part}") for part in ("pool", "rkon", "kept"))
            shift = getattr(self, f"{quantity}_shift")
            if pool is not None and shift is not None:
                rows.append((name, *map(number, (pool, rkon, kept, shift.value, shift.standard_error))))
        return ("", "pool", "RKoN", "kept", "shift", "standard error"), rows

    def __str__(self) -> str:
        return f"kept {self.kept} of {self.candidates} candidates of {self.prompts} prompts{self.means()}"

    def means(self, loss: str = "loss") -> str:
        """The part of the text about means, where any is known; `loss` names the column of losses."""
        header, rows = self._rows(loss)
        if not rows:
            return ""
        random = "RKoN is what a random choice is expected to keep, the shift is from there"
        text = f"\n\nmeans over prompts; {random}\n{table(rows, header)}"
        if self.similarity_score is not None and self.similarity_score_rkon is not None:
            score, pools = number(self.similarity_score), number(self.similarity_score_rkon)
            text += f"\n\nsimilarity score {score}, at the pools' similarity {pools} "
            text += "(it ranks kept sets, it is not a number of responses)"
        return text

    def plot(self) -> Axes:
        """Draw how far the means of the kept lie from what a random choice keeps, in a new figure of pyplot."""
        from mrtsim.plotting import plot_estimates

        names = ("reward", "similarity", "loss")
        shifts = [(name, getattr(self, f"{name}_shift")) for name in names]
        return plot_estimates(shifts, "shift of the mean from what RKoN keeps, with its 95 % interval")


@dataclass
class _Mean:
    """A mean and the sum of squared deviations from it, of values that come in parts (Chan, Golub and LeVeque 1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        if not values.size:
            return
        mean, count = float(values.mean()), self.count + values.size
        gap = mean - self.mean
        self.squares += float(np.square(values - mean).sum()) + gap**2 * self.count * values.size / count
        self.mean += gap * values.size / count
        self.count = count

    def estimate(self) -> Estimate:
        if self.count < 2:
            return Estimate(self.mean)
        error = math.sqrt(self.squares / (self.count - 1) / self.count)
        return Estimate.from_standard_error(self.mean, error, self.count - 1)


@dataclass
class Totals:
    """What a `SelectionReport` is made of, added up over prompts."""

    prompts: int = 0
    candidates: int = 0
    kept: int = 0
    short: int = 0
    saturated: int = 0
    means: dict[str, _Mean] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    def add(
        self,
        sizes: NDArray[np.int64],
        keep: NDArray[np.bool_],
        short: int,
        saturated: int,
        *,
        rewards: NDArray[np.float64] | None,
        embeddings: NDArray[np.floating] | None,
        losses: NDArray[np.float64] | None,
    ) -> None:
        """Add prompts.

        Args:
            sizes: candidates per prompt, (prompts,).
            keep: which candidates are kept, (candidates,), prompt after prompt; so are the arrays below.
            short: how many of the prompts have fewer than K candidates.
            saturated: how many of the picks added nothing.
            rewards: (candidates,).
            embeddings: (candidates, features).
            losses: (candidates,).
        """
        self.prompts += sizes.size
        self.candidates += int(sizes.sum())
        self.short += short
        self.saturated += saturated
        self.kept += int(keep.sum())
        if not sizes.size:
            return
        starts = np.cumsum(sizes) - sizes
        left = np.add.reduceat(keep, starts, dtype=np.int64)
        some = left > 0
        for name, values in (("reward", rewards), ("loss", losses)):
            if values is None:
                self.unknown.add(name)
            else:
                pool = np.add.reduceat(values, starts) / sizes
                kept = np.add.reduceat(np.where(keep, values, 0), starts) / np.maximum(left, 1)
                self._add(name, pool, pool[some], kept[some])
        if embeddings is None:
            self.unknown.add("similarity")
        else:
            units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
            pool = _mean_similarity(np.add.reduceat(units, starts), sizes)
            units[~keep] = 0
            kept = _mean_similarity(np.add.reduceat(units, starts), left)
            pairs = left > 1
            self._add("similarity", pool[sizes > 1], pool[pairs], kept[pairs])
            for name, similarity in (("similarity score", kept), ("similarity score rkon", pool)):
                self._mean(name).add((left / (1 + (left - 1) * similarity))[pairs])

    def _add(
        self, name: str, pool: NDArray[np.float64], rkon: NDArray[np.float64], kept: NDArray[np.float64]
    ) -> None:
        parts = {"pool": pool, "rkon": rkon, "kept": kept, "shift": kept - rkon}
        for part, values in parts.items():
            self._mean(f"{name} {part}").add(values)

    def _mean(self, name: str) -> _Mean:
        return self.means.setdefault(name, _Mean())

    def report(self, cut_columns: list[str], notes: list[str]) -> SelectionReport:
        """What was added so far; a column that could not be read in some rows is not reported on."""

        def known(name: str) -> _Mean | None:
            found = self.means.get(name)
            return found if found and found.count and name.split()[0] not in self.unknown else None

        def mean(name: str) -> float | None:
            found = known(name)
            return found.mean if found else None

        def shift(name: str) -> Estimate | None:
            found = known(f"{name} shift")
            return found.estimate() if found else None

        means: dict[str, Any] = {}
        for name in ("reward", "similarity", "loss"):
            means |= {f"{name}_{part}": mean(f"{name} {part}") for part in ("pool", "kept", "rkon")}
            means[f"{name}_shift"] = shift(name)
        return SelectionReport(
            prompts=self.prompts,
            candidates=self.candidates,
            kept=self.kept,
            short_pools=self.short,
            saturated_picks=self.saturated,
            cut_columns=cut_columns,
            notes=notes,
            similarity_score=mean("similarity score"),
            similarity_score_rkon=mean("similarity score rkon"),
            **means,
        )


def _mean_similarity(sums: NDArray[np.floating], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean (1 + cos)/2 over the pairs of `count` unit vectors, from their sum: no pair is formed."""
    squares = np.sum(np.square(sums, dtype=np.float64), axis=1)
    return 0.5 + 0.5 * (squares - count) / np.maximum(count * (count - 1), 1)

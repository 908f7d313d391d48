"""How are K of N kept in a file of candidate pools? In bounded memory, and written all at once or not at all.

The file is read once where each prompt's rows stand together, twice where they do not; then the embeddings wait in a
temporary file on disk, and memory grows by at most 40 bytes a row and one entry a prompt.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.selection.registry import strategy
from mrtsim.selection.select import select
from mrtsim.tables.pool_files import CHUNK_ROWS, FORMATS, Chunk, Columns, PoolFormat, Wanted

ShortPools = Literal["error", "keep", "drop"]
# A larger pool is a wrong prompt column, or too large for its pairs to fit in memory.
MAX_CANDIDATES = 1_000_000
MAX_COMPARED = 16384


@dataclass(frozen=True)
class SelectionReport:
    """How the kept set differs from the pool; means over prompts of per-prompt means, None where not known.

    `similarity` is the mean (1 + cos)/2 over a prompt's pairs, `k_eff` the similarity score
    K / (1 + (K - 1) similarity), which ranks kept sets but is not a calibrated effective number.
    """

    prompts: int
    candidates: int
    kept: int
    short_pools: int
    reward_pool: float | None
    reward_kept: float | None
    similarity_pool: float | None
    similarity_kept: float | None
    k_eff: float | None
    loss_pool: float | None
    loss_kept: float | None


def select_file(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    strategy_name: str,
    k: int,
    *,
    columns: Columns | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
    seed: int = 0,
    short_pools: ShortPools = "error",
    progress: bool = False,
) -> SelectionReport:
    """Keep k candidates of each prompt of a file; the kept rows go to another file of the same format and order.

    Args:
        source: CSV, JSONL or Parquet, by its ending.
        destination: written only when complete; has the same ending.
        strategy_name: a registered strategy.
        k: how many to keep of each prompt.
        columns: their names.
        alpha: exponent of the quality in "dbkon".
        temperature: of "gumbel".
        seed: of random strategies.
        short_pools: what to do with a prompt of fewer than k candidates: "error", "keep" all it has, or "drop" it.
        progress: whether to show a progress bar on standard error.

    Raises:
        InputError: a file, a column, a value or an argument is wrong.
    """
    columns = columns or Columns()
    kernel = strategy(strategy_name)
    source, destination = _checked_paths(Path(source), Path(destination))
    needs = set(kernel.needs)
    wanted = Wanted("rewards" in needs, bool(needs & {"embeddings", "similarity", "distance"}))
    chooser = Chooser(kernel.name, k, alpha, temperature, seed, short_pools, wanted)
    format_ = FORMATS[source.suffix.lower()](source, columns, wanted)
    with _atomic(destination) as partial:
        try:
            format_.write(partial, _kept_together(format_, chooser, progress))
        except _Scattered:
            chooser = Chooser(kernel.name, k, alpha, temperature, seed, short_pools, wanted)
            with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".mrtsim-") as folder:
                keep = _keep_scattered(format_, chooser, Path(folder), progress)
            format_.write(partial, _copy(format_, keep, progress))
    return chooser.report()


class _Scattered(Exception):
    """A prompt's rows do not stand together, or seem not to."""


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
    """Selects within whole prompts and adds up the report."""

    strategy: str
    k: int
    alpha: float
    temperature: float
    seed: int
    short_pools: ShortPools
    wanted: Wanted
    prompts: int = 0
    candidates: int = 0
    kept: int = 0
    short: int = 0
    means: dict[str, _Mean] = field(default_factory=dict)

    def keep(
        self,
        names: Sequence[str],
        sizes: NDArray[np.int64],
        rewards: NDArray[np.float64] | None,
        embeddings: NDArray[np.float32] | None,
        losses: NDArray[np.float64] | None,
    ) -> NDArray[np.bool_]:
        """Which candidates to keep: arrays over the candidates of consecutive prompts of these sizes."""
        starts = np.concatenate([[0], np.cumsum(sizes)])
        keep = np.zeros(starts[-1], bool)
        short = sizes < self.k
        if short.any() and self.short_pools == "error":
            first = int(np.argmax(short))
            raise InputError(
                f"prompt {names[first]!r} has {sizes[first]} candidates, fewer than -k {self.k}; lower -k, or say "
                "--short-pools keep (all it has) or --short-pools drop (leave such prompts out)"
            )
        if self.short_pools == "keep":
            keep[np.repeat(short, sizes)] = True
        if sizes.size and sizes.max() > (MAX_COMPARED if self.wanted.embeddings else MAX_CANDIDATES):
            raise _too_many(names[int(np.argmax(sizes))])
        # Ragged pools are padded to a power of two, so that few shapes are compiled.
        ragged = sizes.size > 0 and sizes.min() != sizes.max()
        widths = 2 ** np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64) if ragged else sizes
        key = jax.random.fold_in(jax.random.key(self.seed), self.prompts)
        for width in np.unique(widths[~short]):
            rows = np.flatnonzero((widths == width) & ~short)
            inside = np.arange(width) < sizes[rows, None]
            at = np.where(inside, starts[rows, None] + np.arange(width), starts[rows, None])
            chosen = select(
                self.strategy,
                self.k,
                rewards=rewards[at] if rewards is not None and self.wanted.rewards else None,
                embeddings=embeddings[at] if embeddings is not None and self.wanted.embeddings else None,
                mask=inside,
                key=jax.random.fold_in(key, int(width)),
                alpha=self.alpha,
                temperature=self.temperature,
            )
            keep[np.take_along_axis(at, chosen, axis=1)] = True
        self._count(starts, sizes, short, keep, rewards, embeddings, losses)
        return keep

    def _count(
        self,
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        short: NDArray[np.bool_],
        keep: NDArray[np.bool_],
        rewards: NDArray[np.float64] | None,
        embeddings: NDArray[np.float32] | None,
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
            if values is not None:
                self._add(f"{name} pool", np.add.reduceat(values, starts[:-1]) / sizes)
                self._add(
                    f"{name} kept",
                    (np.add.reduceat(np.where(keep, values, 0), starts[:-1]) / np.maximum(left, 1))[some],
                )
        if embeddings is not None:
            units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
            pool = _mean_similarity(np.add.reduceat(units, starts[:-1]), sizes)
            units[~keep] = 0
            kept = _mean_similarity(np.add.reduceat(units, starts[:-1]), left)
            pairs = left > 1
            self._add("similarity pool", pool[sizes > 1])
            self._add("similarity kept", kept[pairs])
            self._add("k_eff", (left / (1 + (left - 1) * kept))[pairs])

    def _add(self, name: str, values: NDArray[np.float64]) -> None:
        self.means.setdefault(name, _Mean()).add(values)

    def report(self) -> SelectionReport:
        """What was kept so far."""

        def mean(name: str) -> float | None:
            return self.means.get(name, _Mean()).value()

        return SelectionReport(
            prompts=self.prompts,
            candidates=self.candidates,
            kept=self.kept,
            short_pools=self.short,
            reward_pool=mean("reward pool"),
            reward_kept=mean("reward kept"),
            similarity_pool=mean("similarity pool"),
            similarity_kept=mean("similarity kept"),
            k_eff=mean("k_eff"),
            loss_pool=mean("loss pool"),
            loss_kept=mean("loss kept"),
        )


def _too_many(prompt: str) -> InputError:
    return InputError(
        f"prompt {prompt!r} has too many candidates (at most {MAX_CANDIDATES}, or {MAX_COMPARED} where embeddings are "
        "compared pair by pair); is the prompt column the right one?"
    )


def _mean_similarity(sums: NDArray[np.floating], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean (1 + cos)/2 over the pairs of `count` unit vectors, from their sum: no pair is formed."""
    squares = np.sum(np.square(sums, dtype=np.float64), axis=1)
    return 0.5 + 0.5 * (squares - count) / np.maximum(count * (count - 1), 1)


def _kept_together(format_: PoolFormat, chooser: Chooser, progress: bool) -> Iterator[Any]:
    """Kept records where each prompt's rows stand together; raises _Scattered at the first that do not."""
    closed: set[str] = set()
    waiting: Chunk | None = None
    for chunk in format_.chunks(progress):
        if chunk.sizes is not None:
            yield format_.kept(chunk, _choose(chooser, chunk, chunk.prompts, chunk.sizes))
            continue
        chunk = chunk if waiting is None else format_.join(waiting, chunk)
        if len(chunk.prompts) > MAX_CANDIDATES:
            raise _too_many(chunk.prompts[0])
        names, starts = _runs(chunk.prompts)
        for name in names[:-1]:
            if name in closed:
                raise _Scattered
            closed.add(name)
        if names[-1] in closed:
            raise _Scattered
        whole, waiting = chunk.cut(0, starts[-1]), chunk.cut(starts[-1], len(chunk.prompts))
        sizes = np.diff(starts)
        if chooser.short_pools == "error" and np.any(sizes < chooser.k):
            # Too few so far: the rest may come later in the file, which the second way of reading finds out.
            raise _Scattered
        if sizes.size:
            yield format_.kept(whole, _choose(chooser, whole, names[:-1], sizes))
    if waiting is not None:
        yield format_.kept(
            waiting, _choose(chooser, waiting, waiting.prompts[:1], np.array([len(waiting.prompts)]))
        )


def _choose(
    chooser: Chooser, chunk: Chunk, names: Sequence[str], sizes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    return chooser.keep(names, sizes, chunk.rewards, chunk.embeddings, chunk.losses)


def _runs(prompts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The prompts of each run of equal neighbours, and where it starts."""
    new = [i for i, name in enumerate(prompts) if i == 0 or name != prompts[i - 1]]
    return [prompts[i] for i in new], np.asarray(new, np.int64)


def _keep_scattered(format_: PoolFormat, chooser: Chooser, folder: Path, progress: bool) -> NDArray[np.bool_]:
    """First pass over a file whose prompts are scattered: which rows to keep."""
    codes: dict[str, int] = {}
    parts: dict[str, list[NDArray[Any]]] = {"code": [], "rewards": [], "losses": []}
    widths: list[int] = []
    spill = folder / "embeddings"
    with spill.open("wb") as file:
        for chunk in format_.chunks(progress):
            parts["code"].append(np.array([codes.setdefault(p, len(codes)) for p in chunk.prompts], np.int32))
            for name in ("rewards", "losses"):
                if (values := getattr(chunk, name)) is not None:
                    parts[name].append(values)
            if chunk.embeddings is not None:
                widths.append(chunk.embeddings.shape[1])
                if chooser.wanted.embeddings:
                    format_.same_width(widths[0], widths[-1], chunk.position)
                file.write(chunk.embeddings.tobytes())
    code = np.concatenate(parts["code"])
    # A column that is only reported on may be unreadable in some chunk; then it is not reported on.
    rewards, losses = (
        np.concatenate(parts[n]) if sum(map(len, parts[n])) == len(code) else None
        for n in ("rewards", "losses")
    )
    complete = len(set(widths)) == 1 and spill.stat().st_size == 4 * widths[0] * len(code)
    embeddings = np.memmap(spill, np.float32, "r", shape=(len(code), widths[0])) if complete else None
    order = np.argsort(code, kind="stable")
    sizes = np.bincount(code).astype(np.int64)
    names = list(codes)
    ends = np.cumsum(sizes)
    keep = np.zeros(len(code), bool)
    first = 0
    while first < len(names):
        begin = ends[first] - sizes[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + CHUNK_ROWS, side="right")))
        rows = order[begin : ends[last - 1]]
        keep[rows] = chooser.keep(
            names[first:last],
            sizes[first:last],
            None if rewards is None else rewards[rows],
            None if embeddings is None else np.asarray(embeddings[rows]),
            None if losses is None else losses[rows],
        )
        first = last
    return keep


def _copy(format_: PoolFormat, keep: NDArray[np.bool_], progress: bool) -> Iterator[Any]:
    """Second pass: the kept records."""
    row = 0
    for chunk in format_.chunks(progress):
        yield format_.kept(chunk, keep[row : row + len(chunk.prompts)])
        row += len(chunk.prompts)


def _checked_paths(source: Path, destination: Path) -> tuple[Path, Path]:
    if source.suffix.lower() not in FORMATS:
        raise InputError(f"{source}: the ending must be one of {', '.join(FORMATS)}")
    if destination.suffix.lower() != source.suffix.lower():
        raise InputError(
            f"{destination}: kept rows stay in the input's format, so it must end in {source.suffix}"
        )
    try:
        if not source.is_file():
            raise InputError(f"{source} is not a file" if source.exists() else f"{source} does not exist")
        if not destination.parent.is_dir():
            raise InputError(f"{destination.parent} is not a folder; make it first")
        if destination.is_dir():
            raise InputError(f"{destination} is a folder; name a file")
        if destination.exists() and destination.samefile(source):
            raise InputError(f"{destination} is the input; name another file")
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise InputError(f"{error.filename}: {error.strerror}") from None
    return source, destination


@contextmanager
def _atomic(destination: Path) -> Iterator[Path]:
    """A path beside the destination that takes its place only when all went well."""
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, destination)
    except OSError as error:
        raise InputError(f"cannot write {destination}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)

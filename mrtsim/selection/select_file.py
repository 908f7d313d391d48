"""Selection from files and tables of candidate pools, in bounded memory.

A file is read once where each prompt's rows stand together, twice where they do not; then embeddings wait in a
temporary file on disk, and memory grows by at most 40 bytes per candidate and one entry per prompt.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrtsim.pilot.sums import LARGEST
from mrtsim.selection import chooser as limits
from mrtsim.selection.chooser import (
    SQUARES_IN_FLOAT32,
    SQUARES_IN_FLOAT64,
    Chooser,
    ShortPools,
    squares_fit,
    too_many,
)
from mrtsim.selection.outputs import WriteTo, kept_rows
from mrtsim.selection.report import SelectionReport
from mrtsim.tables import chunks
from mrtsim.tables.directions import sounds_low
from mrtsim.tables.formats import Tables, open_tables
from mrtsim.tables.pool_columns import nested_pools
from mrtsim.tables.reader import Batch, Kind, Layout, MissingIds, Places, Reader, Wanted
from mrtsim.tables.values import Wrong, shown

# Names where none is given; they need not be there.
USUAL = {"reward": "reward", "embedding": "embedding"}


@dataclass(frozen=True)
class Columns:
    """Names of the columns, or dotted paths.

    Attributes:
        prompt: ids of the prompts.
        reward: higher is better; where None, "reward" is read if it is there.
        embedding: one vector per candidate; where None, "embedding" is read if it is there.
        loss: only reported on; None for none.
        lower_is_better: whether the rewards are losses or ranks, of which the lowest is the best; None takes them as
            rewards, and says so where the column's name sounds otherwise.
    """

    prompt: str = "prompt_id"
    reward: str | None = None
    embedding: str | None = None
    loss: str | None = None
    lower_is_better: bool | None = None


def select_file(
    source: Tables,
    destination: str | os.PathLike[str],
    strategy_name: str,
    k: int,
    *,
    columns: Columns | None = None,
    layout: Layout | None = None,
    pool_columns: Sequence[str] = (),
    format: str | None = None,
    missing_ids: MissingIds = "error",
    seed: int = 0,
    short_pools: ShortPools = "error",
    progress: bool = False,
    **options: Any,
) -> SelectionReport:
    """Keep k candidates of each prompt; the kept rows go to a file of the same format, unchanged and in order.

    Args:
        source: a file, a folder of shards, a pattern, "-" for standard input, several of these, or a table of pandas,
            polars, pyarrow or `datasets`.
        destination: written only when complete. One file in the input's format; or with a slash at its end, a folder
            for one file per input file.
        strategy_name: a registered strategy.
        k: how many to keep of each prompt.
        columns: their names.
        layout: "rows" (one row per response) or "prompts" (one row per prompt, whose lists are cut); None recognises
            it.
        pool_columns: with one row per prompt, the lists to cut beside those of `columns`; if none is named, all lists
            that are certain to be pools.
        format: of the files, such as "csv"; None recognises it.
        missing_ids: a row without a prompt id is an error, or is dropped and counted ("drop").
        seed: of random strategies; a prompt's picks depend on it and on the prompt's id.
        short_pools: what to do with a prompt of fewer than k candidates: "error", "keep" all it has, or "drop" it.
        progress: whether to show a progress bar on standard error.
        **options: of the strategy, such as `alpha`.

    Raises:
        InputError: a file, a column, a value or an argument is wrong.
    """
    run = _Run(
        source, strategy_name, k, columns, layout, pool_columns, format, missing_ids, seed, short_pools
    )
    run.options, run.progress = options, progress
    with kept_rows(run.reader.tables, destination) as (write, room):
        report = run.keep(write, room)
        if not report.kept:
            why = (
                f"every prompt has fewer than {k} candidates: lower k"
                if report.prompts
                else "every row misses an id"
            )
            raise run.reader.tables[0].file.error(f"nothing is left to keep: {why}")
        return report


def select_table(
    table: Any,
    strategy_name: str,
    k: int,
    *,
    columns: Columns | None = None,
    layout: Layout | None = None,
    pool_columns: Sequence[str] = (),
    missing_ids: MissingIds = "error",
    seed: int = 0,
    short_pools: ShortPools = "error",
    **options: Any,
) -> Any:
    """Keep k candidates of each prompt of a table that holds whole pools.

    A plain function of a table, for engines that hold the data in parts: where a prompt's rows are in one part, the
    parts' answers are those of the whole, random strategies included. Bring pools together first (`groupby(prompt)`).

    Args:
        table: of pandas, polars, pyarrow or `datasets`.
        strategy_name: a registered strategy.
        k: how many to keep of each prompt.
        columns: their names.
        layout: "rows" (one row per response) or "prompts" (one row per prompt, whose lists are cut); None recognises
            it, which in parts needs a number or a vector in each.
        pool_columns: with one row per prompt, the lists to cut beside those of `columns`.
        missing_ids: a row without a prompt id is an error, or is dropped ("drop").
        seed: of random strategies; a prompt's picks depend on it and on the prompt's id.
        short_pools: what to do with a prompt of fewer than k candidates: "error", "keep" all it has, or "drop" it.
        **options: of the strategy, such as `alpha`.

    Returns:
        A pyarrow.Table of the kept rows, in order, with the schema of the input.

    Raises:
        InputError: a column, a value or an argument is wrong.
    """
    import pyarrow as pa

    from mrtsim.tables.frames import arrow_table

    run = _Run(
        arrow_table(table),
        strategy_name,
        k,
        columns,
        layout,
        pool_columns,
        None,
        missing_ids,
        seed,
        short_pools,
    )
    run.options = options
    pieces: list[Any] = []
    with tempfile.TemporaryDirectory() as room:
        run.keep(lambda _, piece: pieces.append(piece), Path(room))
    return pa.concat_tables(pieces)


class _Scattered(Exception):
    """A prompt's rows do not stand together, or seem not to."""


class _Wide(Exception):
    """Embeddings need float64."""


class _Run:
    """One selection: the reader, and how its batches become kept rows."""

    def __init__(
        self,
        source: Tables,
        strategy_name: str,
        k: int,
        columns: Columns | None,
        layout: Layout | None,
        pool_columns: Sequence[str],
        format: str | None,
        missing_ids: MissingIds,
        seed: int,
        short_pools: ShortPools,
    ) -> None:
        self.arguments = strategy_name, k, seed, short_pools
        self.options: dict[str, Any] = {}
        self.progress = False
        self.columns = c = columns or Columns()
        needs = self._chooser()
        self.needs_rewards, self.needs_embeddings = needs.needs_rewards, needs.needs_embeddings
        wanted = [Wanted("prompt", c.prompt, "id", "--prompt-column")]
        read: tuple[tuple[str, str | None, bool, Kind], ...] = (
            ("reward", c.reward, self.needs_rewards, "number"),
            ("embedding", c.embedding, self.needs_embeddings, "vector"),
        )
        for role, name, needed, kind in read:
            column, named = name or USUAL[role], name is not None
            wanted.append(Wanted(role, column, kind, f"--{role}-column", required=needed, named=named))
        if c.loss is not None:
            wanted.append(Wanted("loss", c.loss, "number", "--loss-column"))
        tables = open_tables(source, format)
        self.reader = Reader(tables, wanted, layout, tuple(pool_columns), missing_ids)
        self.chooser = needs

    def _chooser(self) -> Chooser:
        return Chooser(*self.arguments, self.options, lower_is_better=bool(self.columns.lower_is_better))

    def keep(self, write: WriteTo, room: Path) -> SelectionReport:
        """Choose, and write the kept rows.

        Args:
            write: takes the number of the input file and kept rows.
            room: a folder for temporary files.
        """
        notes: list[str] = []
        reward = self.columns.reward or USUAL["reward"]
        if self.needs_rewards and self.columns.lower_is_better is None and sounds_low(reward):
            notes.append(
                f"of {reward!r} the highest are kept as the best: for a loss or a rank say --lower-is-better, or "
                "--no-lower-is-better if that is meant"
            )
        try:
            self._start()
            self._together(write)
        except _Scattered:
            notes.append("the rows of a prompt do not stand together, so the input was read twice")
            self._scattered(write, room)
        if self.chooser.totals.prompts > 1 and self.chooser.totals.prompts == self.chooser.totals.candidates:
            inside = nested_pools(self.reader.tables[0]) if self.reader.layout == "rows" else []
            option = f"--pool-columns {inside[0]}" if inside else "--layout prompts, --pool-columns"
            raise self.reader.tables[0].file.error(
                "every prompt has one candidate, so there is nothing to choose; is the list of candidates nested in a "
                f"column ({option}), or the prompt column {self.reader.prompt.column!r} unique per row?"
            )
        return self.chooser.report(self.reader.cut_columns, [*self.reader.notes(), *notes])

    def _start(self) -> None:
        self.reader.reset()
        self.chooser = self._chooser()

    def _batches(self, copies: bool) -> Iterator[Batch]:
        """Checked batches."""
        from tqdm import tqdm

        width: int | None = None
        with tqdm(unit="row", unit_scale=True, desc="select", disable=not self.progress) as bar:
            for batch in self.reader.batches(copies=copies):
                for role, values in batch.numbers.items():
                    batch.numbers[role] = self._checked_numbers(batch, role, values)
                vectors = batch.vectors.get("embedding")
                if vectors is not None and len(vectors):
                    vectors, width = self._checked_vectors(batch, vectors, width)
                    batch.vectors["embedding"] = vectors
                if (empty := (batch.sizes == 0) & ~batch.dropped).any():
                    if self.chooser.short_pools == "error":
                        raise self.reader.error(
                            "an empty pool: no list, or one without elements; remove the row, or say "
                            "--short-pools drop",
                            batch.file,
                            batch.first_row + int(np.argmax(empty)),
                        )
                    self.chooser.count_missing(int(empty.sum()))
                yield batch
                bar.update(len(batch.records))

    def _checked_numbers(
        self, batch: Batch, role: str, values: NDArray[np.float64] | None
    ) -> NDArray[np.float64] | None:
        """Rewards or losses whose squares are finite; None where they are only reported on and cannot be used."""
        if values is None or not values.size or max(values.max(), -values.min()) <= LARGEST:
            return values
        wanted = next(w for w in self.reader.roles if w.role == role)
        if not wanted.required:
            return None
        index = int(np.argmax(np.abs(values) > LARGEST))
        record = int(np.repeat(np.arange(len(batch.records)), batch.sizes)[index])
        raise self.reader.error(
            f"a {role} of {values[index]:.3g} is too large to square: divide all by a constant",
            batch.file,
            batch.first_row + record,
            wanted.column,
        )

    def _checked_vectors(self, batch: Batch, vectors: Any, width: int | None) -> tuple[Any, int | None]:
        """Embeddings as float32 where that is enough; None where they are only reported on and cannot be used."""
        good = squares_fit(vectors, SQUARES_IN_FLOAT64)
        if good.all() and width in (None, vectors.shape[1]):
            if vectors.dtype != np.float32 and squares_fit(vectors, SQUARES_IN_FLOAT32).all():
                vectors = vectors.astype(np.float32)
            return vectors, vectors.shape[1]
        if not self.needs_embeddings:
            return None, width
        at = np.repeat(np.arange(len(batch.records)), batch.sizes)
        index, message = 0, f"an embedding of {vectors.shape[1]} features where others have {width}"
        if not good.all():
            index = int(np.argmin(good))
            message = "its features are too large or too small to compare; scale the embedding to length 1"
            if not vectors[index].any():
                message = "an embedding of zeros has no direction; remove the row or mend the embedding"
        column = next(w.column for w in self.reader.roles if w.role == "embedding")
        raise self.reader.error(message, batch.file, batch.first_row + int(at[index]), column)

    # Each prompt's rows stand together

    def _together(self, write: WriteTo) -> None:
        """Choose and write while reading; raises _Scattered at the first prompt that does not stand together."""
        waiting = _Waiting()
        closed = np.zeros(0, bool)
        queue = _Queue(self, write)
        for batch in self._batches(copies=True):
            queue.put(batch)
            waiting = waiting.joined(batch)
            codes = waiting.codes
            if len(codes) == 0:
                queue.decided(np.zeros(0, bool))
                continue
            if len(codes) > limits.MAX_CANDIDATES and (codes == codes[0]).all():
                raise too_many(self.reader.names("prompt")[codes[0]])
            starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
            prompts, whole = codes[starts], int(starts[-1])
            closed = np.concatenate([closed, np.zeros(max(0, codes.max() + 1 - len(closed)), bool)])
            if closed[prompts].any() or len(np.unique(prompts)) < len(prompts):
                raise _Scattered
            closed[prompts[:-1]] = True
            queue.decided(self._choose(prompts[:-1], np.diff(starts), waiting.part(0, whole)))
            waiting = waiting.part(whole, len(codes))
        codes = waiting.codes
        if len(codes):
            queue.decided(self._choose(codes[:1], np.array([len(codes)]), waiting))

    def _choose(
        self, prompts: NDArray[np.int64], sizes: NDArray[np.int64], of: _Waiting
    ) -> NDArray[np.bool_]:
        if not len(prompts):
            return np.zeros(0, bool)
        if self.chooser.short_pools == "error" and (sizes < self.chooser.k).any():
            # Too few so far: the rest may come later in the file, which the second way of reading finds out.
            raise _Scattered
        names = self.reader.names("prompt")
        return self.chooser.keep(
            [names[p] for p in prompts.tolist()], sizes, of.rewards, of.embeddings, of.losses
        )

    def write_batch(self, write: WriteTo, batch: Batch, keep: NDArray[np.bool_]) -> None:
        """Write the kept rows of a batch; `keep` runs over its candidates."""
        self.write_records(
            write, batch.file, batch.first_row, batch.records, batch.sizes, batch.dropped, keep
        )

    def write_records(
        self,
        write: WriteTo,
        file: int,
        row: int,
        records: Any,
        sizes: NDArray[np.int64],
        dropped: NDArray[np.bool_],
        keep: NDArray[np.bool_],
    ) -> None:
        """Write the kept rows of records.

        Args:
            write: takes the number of the input file and kept rows.
            file: number of the input file.
            row: of the first record in it.
            records: as read.
            sizes: candidates of each record.
            dropped: records without an id.
            keep: over the candidates.
        """
        if self.reader.layout == "rows":
            rows = np.zeros(len(records), bool)
            rows[~dropped] = keep
            write(file, records.kept(rows))
            return
        parts: list[Any] = np.split(keep, np.cumsum(sizes)[:-1])
        for index in np.flatnonzero(sizes == 0).tolist():
            if dropped[index] or self.chooser.short_pools == "drop":
                parts[index] = None
        try:
            write(file, records.cut(parts, self.reader.pools.roots[file]))
        except Wrong as wrong:
            raise self.reader.error(wrong.message, file, row + wrong.index) from None

    # Prompts are scattered

    def _scattered(self, write: WriteTo, room: Path) -> None:
        """First which candidates to keep, with the embeddings on disk; then read again and write."""
        try:
            keep, sizes, dropped = self._first_pass(room, np.float32)
        except _Wide:
            keep, sizes, dropped = self._first_pass(room, np.float64)
        row = candidate = 0
        for number, table in enumerate(self.reader.tables):
            inside = 0
            for records in table.records([], copies=True):
                here = slice(row, row + len(records))
                if here.stop > len(sizes):
                    raise table.file.error("changed while it was read; wait until it is complete")
                count = int(sizes[here].sum())
                self.write_records(
                    write,
                    number,
                    inside,
                    records,
                    sizes[here],
                    dropped[here],
                    keep[candidate : candidate + count],
                )
                row, inside, candidate = here.stop, inside + len(records), candidate + count
            table.file.check_unchanged()
        if row != len(sizes):
            raise self.reader.tables[0].file.error("changed while it was read; wait until it is complete")

    def _first_pass(self, room: Path, precision: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Which candidates to keep; and of each record its number of candidates, and whether it has no id."""
        self._start()
        codes: list[NDArray[np.int32]] = []
        numbers: dict[str, list[NDArray[np.float64]] | None] = {"reward": [], "loss": []}
        sizes: list[NDArray[np.int32]] = []
        dropped: list[NDArray[np.bool_]] = []
        width: int | None = 0
        places = Places()
        spill = room / "embeddings"
        with spill.open("wb") as file:
            for batch in self._batches(copies=self.reader.layout == "prompts"):
                codes.append(batch.ids["prompt"].astype(np.int32))
                sizes.append(batch.sizes.astype(np.int32))
                dropped.append(batch.dropped)
                places.add(batch)
                for name, parts in numbers.items():
                    values = batch.numbers.get(name)
                    if values is None:
                        numbers[name] = None
                    elif parts is not None:
                        parts.append(values)
                vectors = batch.vectors.get("embedding")
                if vectors is None and len(codes[-1]):
                    width = None
                elif vectors is not None and width is not None and len(vectors):
                    if vectors.dtype != np.float32 and precision is np.float32:
                        raise _Wide
                    width = vectors.shape[1]
                    file.write(vectors.astype(precision, copy=False).tobytes())
        code = np.concatenate(codes)
        rewards, losses = (None if parts is None else np.concatenate(parts) for parts in numbers.values())
        embeddings = None
        if width and len(code):
            embeddings = np.memmap(spill, precision, "r", shape=(len(code), width))
        keep = self._keep_of_all(code, rewards, embeddings, losses, places)
        return keep, np.concatenate(sizes), np.concatenate(dropped)

    def _keep_of_all(
        self,
        code: NDArray[np.int32],
        rewards: NDArray[np.float64] | None,
        embeddings: Any,
        losses: NDArray[np.float64] | None,
        places: Places,
    ) -> NDArray[np.bool_]:
        order = np.argsort(code, kind="stable")
        counts = np.bincount(code) if len(code) else np.zeros(0, np.int64)
        prompts = np.flatnonzero(counts)
        sizes = counts[prompts].astype(np.int64)
        names = self.reader.names("prompt")
        ends = np.cumsum(sizes)
        k = self.chooser.k
        if self.chooser.short_pools == "error" and (sizes < k).any():
            first = int(np.argmax(sizes < k))
            file, row = places.of(int(order[ends[first] - sizes[first]]))
            raise self.reader.error(
                f"prompt {shown(names[prompts[first]])} has {counted(int(sizes[first]))}, fewer than -k {k}; lower "
                "-k, or say --short-pools keep (all it has) or --short-pools drop (leave such prompts out)",
                file,
                row,
            )
        keep = np.zeros(len(code), bool)
        first = 0
        while first < len(prompts):
            begin = ends[first] - sizes[first]
            last = max(first + 1, int(np.searchsorted(ends, begin + chunks.ROWS // 4, side="right")))
            rows = order[begin : ends[last - 1]]
            keep[rows] = self.chooser.keep(
                [names[p] for p in prompts[first:last].tolist()],
                sizes[first:last],
                None if rewards is None else rewards[rows],
                None if embeddings is None else np.asarray(embeddings[rows]),
                None if losses is None else losses[rows],
            )
            if embeddings is not None and hasattr(mmap, "MADV_DONTNEED"):
                embeddings._mmap.madvise(mmap.MADV_DONTNEED)  # or the file's pages count as our memory
            first = last
        return keep


def counted(candidates: int) -> str:
    """A number of candidates in words."""
    return "1 candidate" if candidates == 1 else f"{candidates} candidates"


class _Waiting(NamedTuple):
    """Candidates that are not decided yet, with what is known of each."""

    codes: NDArray[np.int64] = np.zeros(0, np.int64)
    rewards: NDArray[np.float64] | None = None
    embeddings: NDArray[np.floating] | None = None
    losses: NDArray[np.float64] | None = None

    def joined(self, batch: Batch) -> _Waiting:
        """These, and then the candidates of a batch."""
        new = _Waiting(
            batch.ids["prompt"],
            batch.numbers.get("reward"),
            batch.vectors.get("embedding"),
            batch.numbers.get("loss"),
        )
        if not len(self.codes):
            return new
        if not len(new.codes):
            return self
        return _Waiting(
            *(
                None if a is None or b is None else np.concatenate([a, b])
                for a, b in zip(self, new, strict=True)
            )  # type: ignore[arg-type]
        )

    def part(self, start: int, stop: int) -> _Waiting:
        """Candidates start to stop."""
        return _Waiting(*(None if a is None else a[start:stop] for a in self))  # type: ignore[arg-type]


@dataclass
class _Queue:
    """Batches in order, each written when all its candidates are decided."""

    run: _Run
    write: WriteTo
    batches: list[Batch] = field(default_factory=list)
    keep: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def put(self, batch: Batch) -> None:
        """One more batch."""
        self.batches.append(batch)

    def decided(self, keep: NDArray[np.bool_]) -> None:
        """The answers for the next candidates."""
        self.keep = np.concatenate([self.keep, keep])
        while self.batches and (count := int(self.batches[0].sizes.sum())) <= len(self.keep):
            self.run.write_batch(self.write, self.batches.pop(0), self.keep[:count])
            self.keep = self.keep[count:]

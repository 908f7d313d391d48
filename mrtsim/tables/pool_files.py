"""Which records does a file of candidate pools hold? CSV, JSONL and Parquet, read in chunks and cut to the kept.

A file has one row a response, or (JSONL, Parquet) one row a prompt with list columns; the first record tells which.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError

CHUNK_ROWS = 16384


@dataclass(frozen=True)
class Columns:
    """Names of the columns; `loss` is only reported on, and may be absent."""

    prompt: str = "prompt_id"
    reward: str = "reward"
    embedding: str = "embedding"
    loss: str | None = None


class Wanted(NamedTuple):
    """What a strategy needs; what it does not need is read where it is there, for the report."""

    rewards: bool
    embeddings: bool


class Chunk(NamedTuple):
    """Consecutive records of a file.

    `prompts` has an entry a record. `sizes` is None with one row a response; with one row a prompt it holds the pool
    sizes, and the arrays run over the candidates of all records, one after another.
    """

    records: Any
    prompts: list[str]
    rewards: NDArray[np.float64] | None
    embeddings: NDArray[np.float32] | None
    losses: NDArray[np.float64] | None
    sizes: NDArray[np.int64] | None
    position: int

    def cut(self, start: int, stop: int) -> Chunk:
        """Records start to stop, of a chunk with one row a response."""

        def part(array: Any) -> Any:
            return None if array is None else array[start:stop]

        return self._replace(
            records=self.records[start:stop],
            prompts=self.prompts[start:stop],
            rewards=part(self.rewards),
            embeddings=part(self.embeddings),
            losses=part(self.losses),
        )


class PoolFormat:
    """One file: `chunks` reads it, `kept` cuts a chunk, `join` concatenates, `write` writes the kept pieces."""

    def __init__(self, path: Path, columns: Columns, wanted: Wanted):
        self.path, self.columns, self.wanted = path, columns, wanted

    def chunks(self, progress: bool) -> Iterator[Chunk]:
        """The file, in order."""
        raise NotImplementedError

    def kept(self, chunk: Chunk, keep: NDArray[np.bool_]) -> Any:
        """What `write` takes: the chunk's kept records, or its records with their lists cut."""
        raise NotImplementedError

    def join(self, first: Chunk, second: Chunk) -> Chunk:
        """Two chunks with one row a response, one after the other."""

        def both(a: Any, b: Any) -> Any:
            return None if a is None or b is None else np.concatenate([a, b])

        embeddings = first.embeddings, second.embeddings
        if embeddings[0] is not None and embeddings[1] is not None:
            widths = embeddings[0].shape[1], embeddings[1].shape[1]
            if self.wanted.embeddings:
                self.same_width(*widths, second.position)
            elif widths[0] != widths[1]:  # only reported on: then it is not
                embeddings = None, None
        return Chunk(
            self._stack(first.records, second.records),
            [*first.prompts, *second.prompts],
            both(first.rewards, second.rewards),
            both(*embeddings),
            both(first.losses, second.losses),
            None,
            first.position,
        )

    def _stack(self, first: Any, second: Any) -> Any:
        return [*first, *second]

    def write(self, path: Path, pieces: Iterator[Any]) -> None:
        """Write the pieces."""
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def same_width(self, first: int, other: int, position: int) -> None:
        """InputError, naming where, if embeddings that are needed change their number of features."""
        if first != other:
            raise InputError(
                f"{self.path}, {self.unit} {position}: an embedding of {other} features where others have {first}"
            )

    unit = "line"

    def _missing(self, column: str, present: Sequence[str], option: str) -> InputError:
        return InputError(
            f"{self.path}: no column {column!r} (there are: {', '.join(present)}); name it with {option}"
        )

    def _arrays(
        self,
        rewards: list[Any] | None,
        embeddings: list[Any] | None,
        losses: list[Any] | None,
        at: Sequence[int],
    ) -> tuple[Any, Any, Any]:
        """Checked arrays of parsed values; `at` has the position of each in the file."""
        return (
            self._column(rewards, self.columns.reward, at, self.wanted.rewards),
            self._matrix(embeddings, at, self.wanted.embeddings),
            self._column(losses, str(self.columns.loss), at, True),
        )

    def _column(self, values: list[Any] | None, name: str, at: Sequence[int], required: bool) -> Any:
        if values is None:
            return None
        array = np.full(len(values), np.nan)
        for i, value in enumerate(values):
            if not isinstance(value, bool) and isinstance(value, int | float):
                with suppress(OverflowError):
                    array[i] = value
        bad = ~np.isfinite(array)
        if bad.any():
            if not required:
                return None
            i = int(np.argmax(bad))
            raise InputError(
                f"{self.path}, {self.unit} {at[i]}, column {name!r}: {_shown(values[i])} is not a finite number"
            )
        return array

    def _matrix(self, values: list[Any] | None, at: Sequence[int], required: bool) -> Any:
        if values is None:
            return None
        try:
            with np.errstate(over="ignore"):  # to infinity, which is refused below
                matrix = np.array(values, np.float32)
        except (ValueError, TypeError, OverflowError):
            matrix = np.empty((0, 0), np.float32)
        if matrix.ndim == 2 and matrix.size and np.isfinite(matrix).all() and matrix.any(axis=1).all():
            return matrix
        if not required:
            return None
        width = len(values[0]) if isinstance(values[0], list) else 0
        for i, value in enumerate(values):
            where = f"{self.path}, {self.unit} {at[i]}, column {self.columns.embedding!r}: "
            numbers = self._numbers(value)
            if numbers is None:
                raise InputError(f"{where}{_shown(value)} is not a list of finite numbers")
            if not numbers.any():
                raise InputError(
                    f"{where}an embedding of zeros has no direction; remove the row or mend the embedding"
                )
            if len(numbers) != width:
                raise InputError(f"{where}{len(numbers)} features where others have {width}")
        raise InputError(
            f"{self.path}, column {self.columns.embedding!r}: not lists of numbers that float32 holds"
        )

    @staticmethod
    def _numbers(value: Any) -> NDArray[np.float64] | None:
        try:
            array = np.array(value, np.float64)
        except (ValueError, TypeError, OverflowError):
            return None
        return array if array.ndim == 1 and array.size and np.all(np.isfinite(array)) else None


class TextFormat(PoolFormat):
    """Records are the bytes of the file."""

    def _lines(self, progress: bool) -> Iterator[tuple[int, bytes]]:
        """Line numbers from 1, and lines with their ends; reports a line that is not UTF-8 only when it is used."""
        from tqdm import tqdm

        try:
            size = self.path.stat().st_size
            with (
                self.path.open("rb") as file,
                tqdm(total=size, unit="B", unit_scale=True, desc="select", disable=not progress) as bar,
            ):
                for number, line in enumerate(file, 1):
                    bar.update(len(line))
                    yield number, line
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error

    def _text(self, line: bytes, number: int) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.path}, line {number}: not UTF-8 text ({error.reason}); convert the file"
            ) from None

    def kept(self, chunk: Chunk, keep: NDArray[np.bool_]) -> bytes:
        return b"".join(record for record, kept in zip(chunk.records, keep, strict=True) if kept)


class CsvFormat(TextFormat):
    """CSV with a header: quoted fields may hold line ends; an embedding is a JSON list in its cell."""

    header: bytes = b""

    def write(self, path: Path, pieces: Iterator[Any]) -> None:
        def with_header() -> Iterator[bytes]:
            first = next(pieces, b"")
            yield self.header
            yield first
            yield from pieces

        super().write(path, with_header())

    def chunks(self, progress: bool) -> Iterator[Chunk]:
        with _large_fields():
            yield from self._chunks(self._records(progress))

    def _records(self, progress: bool) -> Iterator[tuple[int, bytes]]:
        """Records with the number of their first line: lines, joined while a quoted field is open."""
        start, parts, quotes = 0, [], 0
        for number, line in self._lines(progress):
            if not parts:
                start = number
            parts.append(line)
            quotes += line.count(b'"')
            if quotes % 2 == 0:
                yield start, parts[0] if len(parts) == 1 else b"".join(parts)
                parts, quotes = [], 0
        if parts:
            raise InputError(f"{self.path}, line {start}: a quoted field is never closed")

    def _chunks(self, records: Iterator[tuple[int, bytes]]) -> Iterator[Chunk]:
        number, self.header = next(records, (1, b""))
        names = self._fields([self._text(self.header, number).removeprefix("\ufeff")], [number])[0]
        if not self.header.strip():
            raise InputError(f"{self.path} is empty; expected a header and one row a response")
        if not self.header.endswith(b"\n"):
            self.header += b"\n"
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"{self.path}: column {name!r} appears {names.count(name)} times; rename all but one"
                )
        at = {name: i for i, name in enumerate(names)}
        c = self.columns
        for name, option, required in (
            (c.prompt, "--prompt-column", True),
            (c.reward, "--reward-column", self.wanted.rewards),
            (c.embedding, "--embedding-column", self.wanted.embeddings),
            (c.loss, "--loss-column", c.loss is not None),
        ):
            if required and name not in at:
                raise self._missing(str(name), names, option)
        empty = True
        for batch in _batched(((n, r) for n, r in records if r.strip()), CHUNK_ROWS):
            empty = False
            numbers = [n for n, _ in batch]
            rows = self._fields([self._text(r, n) for n, r in batch], numbers)
            for n, row in zip(numbers, rows, strict=True):
                if len(row) != len(names):
                    raise InputError(
                        f"{self.path}, line {n}: {len(row)} fields where the header has {len(names)}"
                    )
                if not row[at[c.prompt]]:
                    raise InputError(f"{self.path}, line {n}, column {c.prompt!r}: no prompt id")
            rewards = [_number(row[at[c.reward]]) for row in rows] if c.reward in at else None
            losses = [_number(row[at[c.loss]]) for row in rows] if c.loss is not None else None
            embeddings = [_json(row[at[c.embedding]]) for row in rows] if c.embedding in at else None
            yield Chunk(
                [r for _, r in batch],
                [row[at[c.prompt]] for row in rows],
                *self._arrays(rewards, embeddings, losses, numbers),
                None,
                numbers[0],
            )
        if empty:
            raise InputError(f"{self.path} has a header but no rows")

    def _fields(self, texts: list[str], numbers: Sequence[int]) -> list[list[str]]:
        rows: list[list[str]] = []
        for text, number in zip(texts, numbers, strict=True):
            try:
                rows.append(next(csv.reader([text], strict=True), []))
            except csv.Error as error:
                raise InputError(f"{self.path}, line {number}: not CSV ({error})") from None
        return rows


class JsonlFormat(TextFormat):
    """A JSON object a line, either layout."""

    def chunks(self, progress: bool) -> Iterator[Chunk]:
        lists: bool | None = None
        position = 1
        for batch in _batched(((n, r) for n, r in self._lines(progress) if r.strip()), CHUNK_ROWS // 16):
            numbers = [n for n, _ in batch]
            rows = [self._object(line, n) for n, line in batch]
            if lists is None:
                lists = self._has_lists(rows[0])
            yield self._chunk([line for _, line in batch], rows, numbers, lists)
            position = numbers[-1]
        if lists is None:
            raise InputError(f"{self.path} is empty (line {position}); expected a JSON object a line")

    def _object(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(self._text(line, number).removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"{self.path}, line {number}: expected a JSON object, found {_shown(row)}")
        return row

    def _has_lists(self, row: dict[str, Any]) -> bool:
        reward, embedding = row.get(self.columns.reward), row.get(self.columns.embedding)
        if isinstance(reward, list) or (
            isinstance(embedding, list) and any(isinstance(e, list) for e in embedding)
        ):
            return True
        return reward is None and embedding is None and any(isinstance(v, list) for v in row.values())

    def _chunk(
        self, lines: list[bytes], rows: list[dict[str, Any]], numbers: list[int], lists: bool
    ) -> Chunk:
        c = self.columns
        if lists:
            sizes = np.array(
                [self._pool_size(row, n) for row, n in zip(rows, numbers, strict=True)], np.int64
            )
            prompts = [str(row.get(c.prompt, f"line {n}")) for row, n in zip(rows, numbers, strict=True)]
        else:
            sizes = None
            prompts = [self._prompt(row, n) for row, n in zip(rows, numbers, strict=True)]
        found: list[list[Any] | None] = []
        for name, option, required in (
            (c.reward, "--reward-column", self.wanted.rewards),
            (c.embedding, "--embedding-column", self.wanted.embeddings),
            (c.loss, "--loss-column", c.loss is not None),
        ):
            if name is None or not all(name in row for row in rows):
                if required:
                    i = next(i for i, row in enumerate(rows) if name not in row)
                    raise InputError(
                        f"{self.path}, line {numbers[i]}: no column {name!r} (there are: {', '.join(rows[i])}); "
                        f"name it with {option}"
                    )
                found.append(None)
            elif sizes is None:
                found.append([row[name] for row in rows])
            else:
                found.append(self._flat(rows, name, sizes, numbers, required))
        at = numbers if sizes is None else np.repeat(numbers, sizes).tolist()
        rewards, embeddings, losses = self._arrays(found[0], found[1], found[2], at)
        return Chunk(lines, prompts, rewards, embeddings, losses, sizes, numbers[0])

    def _flat(
        self,
        rows: list[dict[str, Any]],
        name: str,
        sizes: NDArray[np.int64],
        numbers: list[int],
        required: bool,
    ) -> list[Any] | None:
        flat: list[Any] = []
        for row, size, number in zip(rows, sizes, numbers, strict=True):
            if not isinstance(row[name], list) or len(row[name]) != size:
                if not required:
                    return None
                raise InputError(
                    f"{self.path}, line {number}, column {name!r}: expected a list of {size} (one a candidate), "
                    f"found {_shown(row[name])}"
                )
            flat.extend(row[name])
        return flat

    def _prompt(self, row: dict[str, Any], number: int) -> str:
        if self.columns.prompt not in row:
            raise InputError(
                f"{self.path}, line {number}: no column {self.columns.prompt!r} (there are: {', '.join(row)}); "
                "name it with --prompt-column"
            )
        prompt = row[self.columns.prompt]
        if isinstance(prompt, str) and prompt:
            return prompt
        if isinstance(prompt, int) and not isinstance(prompt, bool):
            return str(prompt)
        raise InputError(
            f"{self.path}, line {number}, column {self.columns.prompt!r}: {_shown(prompt)} is not a prompt id "
            "(text or a whole number)"
        )

    def _pool_size(self, row: dict[str, Any], number: int) -> int:
        for name in (self.columns.reward, self.columns.embedding):
            if isinstance(row.get(name), list):
                size = len(row[name])
                break
        else:
            found = {len(v) for v in row.values() if isinstance(v, list)}
            if len(found) != 1:
                raise InputError(
                    f"{self.path}, line {number}: cannot tell the pool from its lists (lengths {sorted(found)}); "
                    "name one with --reward-column or --embedding-column"
                )
            size = found.pop()
        if size == 0:
            raise InputError(f"{self.path}, line {number}: an empty pool; remove the row")
        return size

    def kept(self, chunk: Chunk, keep: NDArray[np.bool_]) -> bytes:
        if chunk.sizes is None:
            return super().kept(chunk, keep)
        pieces, start = [], 0
        for line, size in zip(chunk.records, chunk.sizes, strict=True):
            chosen = keep[start : start + size]
            start += size
            if chosen.all():
                pieces.append(line)
            elif chosen.any():
                pieces.append(cut_lists(line.decode("utf-8"), chosen).encode("utf-8"))
        return b"".join(pieces)


def cut_lists(text: str, keep: NDArray[np.bool_]) -> str:
    """A JSON object with every top-level list of len(keep) cut to the kept elements; all else as it stands."""
    decoder = json.JSONDecoder()
    pieces, done = [], 0
    at = _after_space(text, text.index("{") + 1)
    while text[at] != "}":
        _, at = decoder.raw_decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)
        value, end = decoder.raw_decode(text, at)
        if isinstance(value, list) and len(value) == len(keep):
            spans, inner = [], _after_space(text, at + 1)
            for _ in value:
                _, stop = decoder.raw_decode(text, inner)
                spans.append((inner, stop))
                inner = _after_space(text, _after_space(text, stop) + 1)
            chosen = [text[a:b] for (a, b), kept in zip(spans, keep, strict=True) if kept]
            gap = text[spans[0][1] : spans[1][0]] if len(spans) > 1 else ","
            pieces += [text[done : spans[0][0]], gap.join(chosen)]
            done = spans[-1][1]
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return "".join([*pieces, text[done:]])


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


class ParquetFormat(PoolFormat):
    """Parquet, either layout; records are data frames."""

    unit = "row"

    def __init__(self, path: Path, columns: Columns, wanted: Wanted):
        import polars as pl

        super().__init__(path, columns, wanted)
        try:
            self.frame = pl.scan_parquet(path)
            self.schema = self.frame.collect_schema()
            self.rows = self.frame.select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"cannot read {path} as Parquet: {str(error).splitlines()[0]}") from None
        if not self.rows:
            raise InputError(f"{path} has no rows")
        reward, embedding = (self._depth(c) for c in (columns.reward, columns.embedding))
        known = reward is not None or embedding is not None
        self.lists = reward == 1 or embedding == 2 if known else any(self._depth(c) for c in self.schema)
        for name, option, required in (
            (columns.prompt, "--prompt-column", not self.lists),
            (columns.reward, "--reward-column", wanted.rewards),
            (columns.embedding, "--embedding-column", wanted.embeddings),
            (columns.loss, "--loss-column", columns.loss is not None),
        ):
            if required and name not in self.schema:
                raise self._missing(str(name), list(self.schema), option)
        if columns.prompt in self.schema and not (
            self.schema[columns.prompt] in (pl.String, pl.Categorical)
            or self.schema[columns.prompt].is_integer()
        ):
            raise InputError(
                f"{path}, column {columns.prompt!r}: {self.schema[columns.prompt]} cannot be a prompt id; make it text"
            )

    def _depth(self, column: str) -> int | None:
        """How many lists deep a column is; None where there is no such column."""
        import polars as pl

        if column not in self.schema:
            return None
        depth, kind = 0, self.schema[column]
        while isinstance(kind, pl.List | pl.Array):
            depth, kind = depth + 1, kind.inner
        return depth

    def chunks(self, progress: bool) -> Iterator[Chunk]:
        import polars as pl
        from tqdm import tqdm

        size = max(1, CHUNK_ROWS // 32) if self.lists else CHUNK_ROWS
        row = 1
        with tqdm(total=self.rows, unit="row", unit_scale=True, desc="select", disable=not progress) as bar:
            try:
                for batch in self.frame.collect_batches(chunk_size=size, maintain_order=True):
                    for frame in batch.iter_slices(size):
                        yield self._chunk(frame, row)
                        row += len(frame)
                        bar.update(len(frame))
            except pl.exceptions.PolarsError as error:
                raise InputError(f"cannot read {self.path}: {str(error).splitlines()[0]}") from None

    def _chunk(self, frame: Any, row: int) -> Chunk:
        import polars as pl

        c = self.columns
        at = np.arange(row, row + len(frame))
        sizes = None
        if self.lists:
            sizes = self._sizes(frame, row)
            at = np.repeat(at, sizes)
        if c.prompt in frame.columns:
            names = frame[c.prompt].cast(pl.String)
            if not self.lists and names.null_count():
                raise InputError(
                    f"{self.path}, row {row + names.is_null().arg_max()}, column {c.prompt!r}: no prompt id"
                )
            prompts = names.to_list()
        else:
            prompts = [f"row {i}" for i in range(row, row + len(frame))]
        return Chunk(
            frame,
            prompts,
            self._vector(frame, c.reward, sizes, at, self.wanted.rewards),
            self._features(frame, sizes, at),
            self._vector(frame, c.loss, sizes, at, True) if c.loss is not None else None,
            sizes,
            row,
        )

    def _sizes(self, frame: Any, row: int) -> NDArray[np.int64]:
        import polars as pl

        candidates = [n for n in (self.columns.reward, self.columns.embedding) if self._depth(n)]
        names = candidates[:1] or [n for n in frame.columns if self._depth(n)]
        lengths = np.stack(
            [_as_list(frame[n]).list.len().fill_null(0).cast(pl.Int64).to_numpy() for n in names]
        )
        if np.any(lengths != lengths[0]):
            i = int(np.argmax(np.any(lengths != lengths[0], axis=0)))
            found = sorted(set(lengths[:, i].tolist()))
            raise InputError(
                f"{self.path}, row {row + i}: cannot tell the pool from its lists (lengths {found}); "
                "name one with --reward-column or --embedding-column"
            )
        if np.any(lengths[0] == 0):
            raise InputError(
                f"{self.path}, row {row + int(np.argmax(lengths[0] == 0))}: an empty pool; remove the row"
            )
        return lengths[0]

    def _flat(self, frame: Any, name: str, sizes: NDArray[np.int64] | None, at: Any, required: bool) -> Any:
        import polars as pl

        series = frame[name]
        if sizes is None:
            return series
        lengths = (
            _as_list(series).list.len().fill_null(0).cast(pl.Int64).to_numpy()
            if self._depth(name)
            else 0 * sizes
        )
        if np.array_equal(lengths, sizes):
            return _as_list(series).explode()
        if not required:
            return None
        i = int(np.argmax(lengths != sizes))
        row = at[np.concatenate([[0], np.cumsum(sizes)])[i]]
        raise InputError(
            f"{self.path}, row {row}, column {name!r}: a list of {lengths[i]} where the pool has {sizes[i]} candidates"
        )

    def _vector(self, frame: Any, name: str, sizes: Any, at: Any, required: bool) -> Any:
        if name not in frame.columns:
            return None
        series = self._flat(frame, name, sizes, at, required)
        if series is None:
            return None
        if not series.dtype.is_numeric():
            if required:
                raise InputError(f"{self.path}, column {name!r}: {series.dtype} is not a column of numbers")
            return None
        values = series.to_numpy().astype(np.float64)
        if np.all(np.isfinite(values)):
            return values
        if not required:
            return None
        i = int(np.argmax(~np.isfinite(values)))
        raise InputError(
            f"{self.path}, row {at[i]}, column {name!r}: {_shown(series[i])} is not a finite number"
        )

    def _features(self, frame: Any, sizes: Any, at: Any) -> Any:
        import polars as pl

        name, required = self.columns.embedding, self.wanted.embeddings
        if name not in frame.columns:
            return None
        series = self._flat(frame, name, sizes, at, required)
        if series is None:
            return None
        nested = isinstance(series.dtype, pl.List | pl.Array)
        lengths = (
            _as_list(series).list.len().fill_null(0).to_numpy() if nested else np.zeros(len(series), int)
        )
        values = _as_list(series).explode() if nested else series
        if nested and values.dtype.is_numeric() and lengths.size and lengths.min() == lengths.max() > 0:
            with np.errstate(over="ignore"):  # to infinity, which is refused below
                matrix = values.to_numpy().astype(np.float32).reshape(len(lengths), -1)
            good = np.isfinite(matrix).all(axis=1) & matrix.any(axis=1)
            if good.all():
                return matrix
            bad, what = int(np.argmin(good)), "an embedding that is not finite, or all zeros"
        else:
            bad = int(np.argmax(lengths != lengths[0])) if lengths.size else 0
            what = (
                f"an embedding of {lengths[bad]} features where others have {lengths[0]}"
                if nested
                else (f"{series.dtype} is not a list of numbers")
            )
        if not required:
            return None
        raise InputError(f"{self.path}, row {at[bad]}, column {name!r}: {what}")

    def _stack(self, first: Any, second: Any) -> Any:
        return first.vstack(second)

    def kept(self, chunk: Chunk, keep: NDArray[np.bool_]) -> Any:
        import polars as pl

        if chunk.sizes is None:
            return chunk.records.filter(pl.Series(keep))
        starts = np.concatenate([[0], np.cumsum(chunk.sizes)])
        inside = np.arange(starts[-1]) - np.repeat(starts[:-1], chunk.sizes)
        left = np.add.reduceat(keep, starts[:-1])
        ends = np.concatenate([[0], np.cumsum(left)])
        picks = [part.tolist() for part in np.split(inside[keep], ends[1:-1])]
        frame = chunk.records.with_columns(
            pl.col(n).arr.to_list() for n in self._cut_columns() if isinstance(self.schema[n], pl.Array)
        ).with_columns(pl.Series("__picks", picks, pl.List(pl.Int64)), pl.Series("__size", chunk.sizes))
        frame = frame.with_columns(
            pl.when(pl.col(n).list.len() == pl.col("__size"))
            .then(pl.col(n).list.gather(pl.col("__picks")))
            .otherwise(pl.col(n))
            for n in self._cut_columns()
        )
        return frame.filter(pl.Series(left > 0)).drop("__picks", "__size")

    def _cut_columns(self) -> list[str]:
        """List columns; of fixed-width ones those whose width is a pool's, since their type must change."""
        import polars as pl

        fixed = {
            kind.size
            for name, kind in self.schema.items()
            if isinstance(kind, pl.Array) and name in (self.columns.reward, self.columns.embedding)
        }
        return [
            name
            for name, kind in self.schema.items()
            if isinstance(kind, pl.List) or (isinstance(kind, pl.Array) and kind.size in fixed)
        ]

    def write(self, path: Path, pieces: Iterator[Any]) -> None:
        from polars.io.plugins import register_io_source

        first = next(pieces)

        # polars calls the source from its own thread and wraps what it raises.
        failure: list[BaseException] = []

        def source(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[Any]:
            try:
                yield first
                yield from pieces
            except BaseException as error:
                failure.append(error)
                raise

        try:
            register_io_source(io_source=source, schema=first.schema).sink_parquet(path)
        except Exception as error:
            if failure:
                raise failure[0] from None
            raise OSError(str(error).splitlines()[0]) from error


def _as_list(series: Any) -> Any:
    import polars as pl

    return series.arr.to_list() if isinstance(series.dtype, pl.Array) else series


FORMATS: dict[str, type[PoolFormat]] = {".csv": CsvFormat, ".jsonl": JsonlFormat, ".parquet": ParquetFormat}


@contextmanager
def _large_fields() -> Iterator[None]:
    """An embedding's cell is longer than the csv module's limit, which is global."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, float) or math.isfinite(value) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."

"""CSV and TSV: a header, then one record per row; quoted fields may hold line ends."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables import chunks, paths
from mrtsim.tables.columns import PythonColumn
from mrtsim.tables.cut import cut_cell, is_whole
from mrtsim.tables.format import Format, Records, Write
from mrtsim.tables.sources import BYTE_ORDER_MARK, ahead, compressed, whole_lines

ROWS_AT_ONCE = 4096
# Bytes from which on a file is worth the import of pyarrow.
LARGE = 8 << 20


class CsvFormat(Format):
    """Comma-separated values, strictly: a row of another length or an odd quote is an error, never repaired."""

    name = "csv"
    endings = (".csv",)
    delimiter = ","
    plain_text = True

    def columns(self) -> list[str]:
        with self._rows() as rows:
            return self._header(rows)

    def _header(self, rows: Iterator[list[str]]) -> list[str]:
        names = next(rows, [])
        if not names:
            raise self.file.error("blank; expected a header with the names of the columns", "line 1")
        if len(set(names)) < len(names) and (json := self._json()) is not None:
            raise self.file.error(json)
        return self.unique(names)

    def _json(self) -> str | None:
        """What to do where the text looks like JSON."""
        start = self.file.head.lstrip()[:1]
        kind = {b"{": "jsonl", b"[": "json"}.get(start)
        return kind and f"this looks like JSON, not {self.name.upper()}; say --format {kind}"

    @contextmanager
    def _rows(self, record: list[str] | None = None) -> Iterator[Any]:
        """A reader of the file's rows; `record` receives the lines that each is read from."""
        limit = csv.field_size_limit(sys.maxsize)  # a cell may hold an embedding; the limit is global
        try:
            with self.file.open() as file, io.TextIOWrapper(file, "utf-8-sig", newline="\n") as lines:  # type: ignore[type-var]
                each = lines if record is None else _remembered(lines, record)
                yield csv.reader(each, strict=True, delimiter=self.delimiter)
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._explained(error) from None
        finally:
            csv.field_size_limit(limit)

    def records(self, columns: Sequence[str] | None, *, copies: bool = False) -> Iterator[Records]:
        read = self._records_with_text() if copies else self._records_alone()
        if not copies and columns and self.file.path.stat().st_size > LARGE:
            read = self._records_of_blocks(columns)
        row = 0
        for records in read:
            yield records
            row += len(records)
        if not row:
            raise self.file.error("has columns but no rows")

    def _records_of_blocks(self, columns: Sequence[str]) -> Iterator[Records]:
        """Records by pyarrow as long as the text leaves no choice; the rest row by row."""
        import pyarrow as pa
        import pyarrow.csv

        from mrtsim.tables.arrow_records import ArrowRecords

        header: list[str] = []
        with self._rows(header) as rows:
            names = self._header(rows)
        texts = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=list(columns),
            strings_can_be_null=False,
        )
        skip = len("".join(header).encode())
        with self.file.open() as file:
            blocks = whole_lines(file)
            first = next(blocks, b"")[skip:]
            stopped = False

            def parsed(block: bytes) -> Any:
                """A table; None where it is not simple."""
                quotes = None if stopped else self._simple_quotes(block)
                if quotes is None:
                    return None
                try:
                    return pyarrow.csv.read_csv(
                        pa.BufferReader(block or b"\n"),
                        read_options=pyarrow.csv.ReadOptions(
                            column_names=names, use_threads=False, block_size=len(block) + 1
                        ),
                        parse_options=pyarrow.csv.ParseOptions(
                            delimiter=self.delimiter, quote_char='"' if quotes else False
                        ),
                        convert_options=texts,
                    )
                except (pa.ArrowInvalid, pa.ArrowKeyError):
                    return None

            with closing(ahead(chain([first], blocks), parsed)) as pairs:
                for block, table in pairs:
                    if table is None:
                        stopped = True
                        yield from self._records_of_lines(names, block, (rest for rest, _ in pairs))
                        return
                    if table.num_rows:
                        yield ArrowRecords(table, self.file, plain_text=True)

    def _simple_quotes(self, block: bytes) -> bool | None:
        """Whether whole lines have quotes; None where they are more than marks around whole fields on one line.

        Then stray quotes, doubled ones, line ends inside a field or without a line feed are for the csv module, whose
        strictness is ours.
        """
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return None
        if b'"' not in block:
            return False
        text = np.frombuffer(b"\n" + block + b"\n", np.uint8)
        marks = np.flatnonzero((text == ord('"')) | (text == ord("\n")))
        quotes = np.flatnonzero(text[marks] == ord('"'))
        opening, closing = quotes[::2], quotes[1::2]
        if len(quotes) % 2 or not np.array_equal(closing, opening + 1):  # a line ends between the two
            return None
        mark = ord(self.delimiter)
        before, after = text[marks[opening] - 1], text[marks[closing] + 1]
        simple = ((before == mark) | (before == ord("\n"))).all() and (
            (after == mark) | (after == ord("\n")) | (after == ord("\r"))
        ).all()
        return True if simple else None

    def _records_of_lines(self, names: list[str], block: bytes, blocks: Iterator[bytes]) -> Iterator[Records]:
        lines = (
            line
            for part in chain([block], blocks)
            for line in io.StringIO(part.decode("utf-8"), newline="\n")
        )
        limit = csv.field_size_limit(sys.maxsize)
        try:
            rows = csv.reader(lines, strict=True, delimiter=self.delimiter)
            yield from self._batches(names, rows)
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._explained(error) from None
        finally:
            csv.field_size_limit(limit)

    def _records_alone(self) -> Iterator[CsvRecords]:
        with self._rows() as rows:
            yield from self._batches(self._header(rows), rows)

    def _batches(self, names: list[str], rows: Any) -> Iterator[CsvRecords]:
        many = min(64, chunks.ROWS)
        while batch := list(islice(rows, many)):
            size = sum(sum(map(len, row)) + len(row) for row in batch[:64]) / len(batch[:64])
            many = max(1, min(ROWS_AT_ONCE, chunks.ROWS, int(chunks.BYTES / (size + 1))))
            if set(map(len, batch)) != {len(names)}:
                batch = [row for row in batch if row]  # blank lines
                if not set(map(len, batch)) <= {len(names)}:
                    raise self._odd_row(len(names))
            yield CsvRecords(self, names, batch, None)

    def _records_with_text(self) -> Iterator[CsvRecords]:
        record: list[str] = []
        with self._rows(record) as rows:
            names = self._header(rows)
            batch: list[list[str]] = []
            texts: list[str] = []
            size = 0
            record.clear()
            for row in rows:
                if row:
                    if len(row) != len(names):
                        raise self._odd_row(len(names))
                    batch.append(row)
                    texts.append(record[0] if len(record) == 1 else "".join(record))
                    size += len(texts[-1])
                record.clear()
                if len(batch) >= min(ROWS_AT_ONCE, chunks.ROWS) or size > chunks.BYTES:
                    yield CsvRecords(self, names, batch, texts)
                    batch, texts, size = [], [], 0
            if batch:
                yield CsvRecords(self, names, batch, texts)

    def _located(self) -> Iterator[tuple[int, list[str]]]:
        """Every row with its first line, to find the one that a message is about."""
        limit = csv.field_size_limit(sys.maxsize)
        line = 0
        try:
            with self.file.open() as file:
                reader = csv.reader(self._decoded(file), strict=True, delimiter=self.delimiter)
                for row in reader:
                    yield line + 1, row
                    line = reader.line_num
        except csv.Error as error:
            text = str(error)
            if "delimiter" in text or "expected after" in text:
                hint = 'text after a closing quote; write a quote inside a quoted field as ""'
            elif "end of data" in text:
                hint = "a quoted field is never closed"
            elif "new-line" in text:
                hint = "a line end without its line feed; convert the line ends"
            else:
                hint = text
            raise self.file.error(f"not CSV ({hint})", f"line {line + 1}") from None
        finally:
            csv.field_size_limit(limit)

    def _decoded(self, file: Any) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise self.file.error(
                    f"not UTF-8 text ({error.reason}); save the file as UTF-8", f"line {number}"
                ) from None

    def _explained(self, error: Exception) -> InputError:
        try:
            for _ in self._located():
                pass
        except InputError as found:
            return found
        return self.file.error(f"not CSV ({error})")

    def _odd_row(self, width: int) -> InputError:
        for line, row in islice(self._located(), 1, None):
            if row and len(row) != width:
                return self.file.error(f"{len(row)} fields where the header has {width}", f"line {line}")
        return self.file.error("changed while it was read")

    def place(self, row: int) -> str:
        filled = (line for line, fields in islice(self._located(), 1, None) if fields)
        line = next(islice(filled, row, None), None)
        return f"row {row + 1}" if line is None else f"line {line}"

    def no_column(self, name: str, option: str) -> InputError:
        present = self.columns()
        if (json := self._json()) is not None:
            return self.file.error(f"no column {name!r}: {json}")
        marks = [mark for mark in (";", "\t", "|", ",") if mark != self.delimiter and mark in present[0]]
        if len(present) == 1 and marks:
            told = {"\t": "say --format tsv", ",": "say --format csv"}.get(
                marks[0], f"this header has {marks[0]!r} instead: separate the columns by commas"
            )
            return InputError(
                f"{self.file.name}: no column {name!r} in the header {present[0][:60]!r}; {told}"
            )
        return super().no_column(name, option)

    @contextmanager
    def writer(self, path: Path) -> Iterator[Write]:
        header: list[str] = []
        with self._rows(header) as rows:
            self._header(rows)
        text = "".join(header)
        mark = BYTE_ORDER_MARK if self._marked() else b""
        with compressed(path) as file:
            last = mark + text.encode()
            file.write(last)

            def write(piece: str) -> None:
                nonlocal last
                if not piece:
                    return
                if not last.endswith(b"\n"):
                    file.write(b"\r\n" if text.endswith("\r\n") else b"\n")
                last = piece.encode()
                file.write(last)

            yield write

    def _marked(self) -> bool:
        with self.file.open() as file:
            return file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK

    def joins(self, other: Format) -> str | None:
        if isinstance(other, CsvFormat) and other.columns() != self.columns():
            return "their headers differ"
        return None


class TsvFormat(CsvFormat):
    """Tab-separated values, with the quotes of CSV."""

    name = "tsv"
    endings = (".tsv", ".tab")
    delimiter = "\t"


class CsvRecords(Records):
    """Rows of CSV, and where they are copied, the text of each."""

    def __init__(self, format_: CsvFormat, names: list[str], rows: list[list[str]], texts: list[str] | None):
        self.format, self.names, self.rows, self.texts = format_, names, rows, texts

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> PythonColumn:
        return PythonColumn(list(map(itemgetter(self.names.index(name)), self.rows)), plain_text=True)

    def kept(self, keep: NDArray[np.bool_]) -> str:
        assert self.texts is not None
        return "".join(text for text, kept in zip(self.texts, keep, strict=True) if kept)

    def cut(self, keep: Sequence[Any], pools: Sequence[paths.Path]) -> str:
        assert self.texts is not None
        at = {}
        for pool in pools:
            at.setdefault(self.names.index(pool.column), []).append(pool.fields)
        pieces = []
        for index, (text, row, chosen) in enumerate(zip(self.texts, self.rows, keep, strict=True)):
            whole = is_whole(chosen)
            if whole:
                pieces.append(text)
            elif whole is False:
                fields = _raw_fields(text, self.format.delimiter)
                for column, inside in at.items():
                    value = cut_cell(row[column], inside, chosen, index)
                    fields[column] = '"' + value.replace('"', '""') + '"'
                end = re.search(r"(?:\r?\n)?\Z", text)
                pieces.append(self.format.delimiter.join(fields) + (end.group() if end else ""))
        return "".join(pieces)


def _raw_fields(text: str, delimiter: str) -> list[str]:
    """The fields of one record as they are written, quotes included."""
    text = re.sub(r"\r?\n\Z", "", text)
    fields, at = [], 0
    while True:
        if text.startswith('"', at):
            end = at + 1
            while True:
                end = text.index('"', end) + 1
                if not text.startswith('"', end):
                    break
                end += 1
        else:
            end = text.find(delimiter, at)
            end = len(text) if end < 0 else end
        fields.append(text[at:end])
        if end >= len(text):
            return fields
        at = end + 1


def _remembered(lines: Iterator[str], record: list[str]) -> Iterator[str]:
    for line in lines:
        record.append(line)
        yield line

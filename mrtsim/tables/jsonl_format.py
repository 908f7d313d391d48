"""JSON lines: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables import paths
from mrtsim.tables.columns import PythonColumn
from mrtsim.tables.cut import cut_record, is_whole
from mrtsim.tables.format import Format, Records, Write
from mrtsim.tables.sources import BYTE_ORDER_MARK, compressed, whole_lines
from mrtsim.tables.values import shown

# Columns are those of the first objects.
FIRST_OBJECTS = 100


class JsonlFormat(Format):
    """One JSON object per line; lines are copied byte for byte."""

    name = "jsonl"
    endings = (".jsonl", ".ndjson")

    def columns(self) -> list[str]:
        names: dict[str, None] = {}
        for index, (number, line) in enumerate(self._lines()):
            if index == FIRST_OBJECTS:
                break
            names.update(dict.fromkeys(self.decode(line, number, unique=index == 0)))
        if not names:
            raise self.file.error("is empty; expected one JSON object per line")
        return list(names)

    def records(self, columns: Sequence[str] | None, *, copies: bool = False) -> Iterator[Records]:
        columns, read = _decoder(columns)
        number, empty = 1, True
        for block in self._blocks():
            ended = block.endswith(b"\n")
            count = block.count(b"\n") + (not ended)
            rows = None
            if columns is None or columns or not copies:
                with suppress(msgspec.MsgspecError):
                    rows = read(block)
            if rows is not None and len(rows) == count:
                lines = block.split(b"\n")[:count] if copies else []
                records = JsonRecords(columns, rows, lines, ended)
            else:
                records = self._one_by_one(block.split(b"\n")[:count], number, columns, ended)
            number += count
            if len(records):
                empty = False
                yield records
        if empty:
            raise self.file.error("is empty; expected one JSON object per line")

    def _one_by_one(
        self, block: list[bytes], number: int, columns: Sequence[str] | None, ended: bool
    ) -> JsonRecords:
        """Lines of which some are blank, or no strict JSON, such as those with NaN."""
        lines, rows = [], []
        for index, line in enumerate(block):
            if line.strip():
                lines.append(line)
                rows.append(self.decode(line, number + index) if columns is None or columns else {})
        return JsonRecords(None, rows, lines, ended or not block[-1].strip())

    def decode(self, line: bytes, number: int, *, unique: bool = False) -> dict[str, Any]:
        """One line's object.

        Raises:
            InputError: the line holds something else, or where `unique`, an object with two fields of one name.
        """
        try:
            text = line.decode("utf-8")
            value = json.loads(text, object_pairs_hook=self._unique if unique else None)
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 text ({error.reason}); save the file as UTF-8"
        except InputError:
            raise
        except RecursionError:
            reason = "nested too deep"
        except json.JSONDecodeError as error:
            reason = f"not a JSON object on one line ({error.msg} at character {error.pos + 1})"
        except ValueError as error:
            reason = f"not a JSON object on one line ({str(error)[:60]})"
        else:
            if isinstance(value, dict):
                return value
            reason = f"expected a JSON object, found {shown(value)}"
        raise self.file.error(reason, f"line {number}")

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise self.file.error(f"column {twice!r} appears {names.count(twice)} times; rename all but one")
        return found

    def _blocks(self) -> Iterator[bytes]:
        with self.file.open() as file:
            yield from whole_lines(file)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are not blank, with their numbers."""
        number = 1
        for block in self._blocks():
            for line in block.removesuffix(b"\n").split(b"\n"):
                if line.strip():
                    yield number, line
                number += 1

    def place(self, row: int) -> str:
        try:
            for index, (number, _) in enumerate(self._lines()):
                if index == row:
                    return f"line {number}"
        except InputError:
            pass
        return f"row {row + 1}"

    @contextmanager
    def writer(self, path: Path) -> Iterator[Write]:
        with self.file.open() as file:
            marked = file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK
        with compressed(path) as file:
            if marked:
                file.write(BYTE_ORDER_MARK)
            last = b"\n"

            def write(piece: bytes) -> None:
                nonlocal last
                if piece:
                    file.write(piece if last.endswith(b"\n") else b"\n" + piece)
                    last = piece[-1:]

            yield write


def _decoder(columns: Sequence[str] | None) -> tuple[Sequence[str] | None, Any]:
    """The columns of its rows, None for all, and a function from whole lines to rows."""
    if columns is not None:
        fields = [(f"f{i}", Any, None) for i in range(len(columns))]
        names = {f"f{i}": name for i, name in enumerate(columns)}
        with suppress(ValueError):  # a name with quotes
            return columns, msgspec.json.Decoder(
                msgspec.defstruct("Row", fields, rename=names, gc=False)
            ).decode_lines
    return None, msgspec.json.Decoder(dict[str, Any]).decode_lines


class JsonRecords(Records):
    """Objects and the line of each, without its end.

    Rows are dictionaries where `columns` is None, else structs with the fields f0, f1, ... for these columns. `ended`
    says whether the last line has a line feed.
    """

    def __init__(
        self, columns: Sequence[str] | None, rows: Sequence[Any], lines: Sequence[bytes], ended: bool
    ):
        self.columns, self.rows, self.lines, self.ended = columns, rows, lines, ended

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> PythonColumn:
        if self.columns is None:
            return PythonColumn([row.get(name) for row in self.rows])
        return PythonColumn(list(map(attrgetter(f"f{list(self.columns).index(name)}"), self.rows)))

    def kept(self, keep: NDArray[np.bool_]) -> bytes:
        return self._joined(
            [line for line, kept in zip(self.lines, keep, strict=True) if kept], bool(keep[-1])
        )

    def cut(self, keep: Sequence[Any], pools: Sequence[paths.Path]) -> bytes:
        roots = [(pool.column, *pool.fields) for pool in pools]
        pieces = []
        for index, (line, chosen) in enumerate(zip(self.lines, keep, strict=True)):
            whole = is_whole(chosen)
            if whole is False:
                line = cut_record(line.decode(), roots, chosen, index).encode()
            if whole is not None:
                pieces.append(line)
        return self._joined(pieces, is_whole(keep[-1]) is not None)

    def _joined(self, lines: list[bytes], to_the_end: bool) -> bytes:
        """Lines with their ends, of which the file's last may have none."""
        return b"\n".join(lines) + (b"" if not lines or (to_the_end and not self.ended) else b"\n")

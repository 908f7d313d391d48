"""Formats with one record per line of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables import paths
from mrtsim.tables.columns import PythonColumn
from mrtsim.tables.cut import is_whole
from mrtsim.tables.format import Format, Records, Write
from mrtsim.tables.sources import BYTE_ORDER_MARK, compressed, lines_in, whole_lines

# Columns are those of the first records.
FIRST_RECORDS = 100


class LinesFormat(Format):
    """One record per line; lines are copied byte for byte. A format of this kind needs `decode` alone."""

    plain_text: ClassVar[bool] = False
    """Whether every value is text, so that NA stands for a missing one."""
    empty = "is empty; expected one record per line"

    def decode(self, line: bytes, number: int, *, unique: bool = False) -> dict[str, Any]:
        """One line's record.

        Args:
            line: without its end.
            number: of the line, for messages.
            unique: whether two fields of one name are an error.

        Raises:
            InputError: the line holds something else.
        """
        raise NotImplementedError

    def cut_line(
        self, line: bytes, pools: Sequence[Sequence[str]], keep: NDArray[np.bool_], index: int
    ) -> bytes:
        """A line with the lists at these paths cut to the kept elements.

        Args:
            line: one record as it stands in the file.
            pools: paths to the lists, each the names of its fields.
            keep: which elements stay, (candidates,).
            index: of the record, for messages.
        """
        raise self.file.error(f"lists in {self.name} cannot be cut; write the table as JSON lines")

    def columns(self) -> list[str]:
        names: dict[str, None] = {}
        for index, (number, line) in enumerate(self._lines()):
            if index == FIRST_RECORDS:
                break
            names.update(dict.fromkeys(self.decode(line, number, unique=index == 0)))
        if not names:
            raise self.file.error(self.empty)
        return list(names)

    def records(self, columns: Sequence[str] | None, *, copies: bool = False) -> Iterator[Records]:
        number, empty = 1, True
        for block, records in self._read(columns, copies):
            count = lines_in(block) if records is None else len(records)
            if records is None:
                records = self._of_block(block, count, number, columns, copies)
            number += count
            if len(records):
                empty = False
                yield records
        if empty:
            raise self.file.error(self.empty)

    def _read(self, columns: Sequence[str] | None, copies: bool) -> Iterator[tuple[bytes, Records | None]]:
        """Each block of whole lines, and its records, one per line, where other threads have read them."""
        return ((block, None) for block in self._blocks())

    def _of_block(
        self, block: bytes, count: int, number: int, columns: Sequence[str] | None, copies: bool
    ) -> LineRecords:
        """The records of whole lines, the first of which has this number."""
        lines, rows = [], []
        whole = block.split(b"\n")[:count]
        for index, line in enumerate(whole):
            if line.strip():
                lines.append(line)
                rows.append(self.decode(line, number + index) if columns is None or columns else {})
        ended = block.endswith(b"\n") or not whole[-1].strip()
        return LineRecords(self, None, rows, lines, ended)

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


class LineRecords(Records):
    """Records and the line of each, without its end.

    Rows are dictionaries where `columns` is None, else structs with the fields f0, f1, ... for these columns. `ended`
    says whether the last line has a line feed.
    """

    def __init__(
        self,
        format_: LinesFormat,
        columns: Sequence[str] | None,
        rows: Sequence[Any],
        lines: Sequence[bytes],
        ended: bool,
    ):
        self.format, self.columns, self.rows, self.lines, self.ended = format_, columns, rows, lines, ended
        self._columns: dict[str, PythonColumn] = {}  # that were asked for

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> PythonColumn:
        if name not in self._columns:
            if self.columns is None:
                values = [row.get(name) for row in self.rows]
            else:
                values = list(map(attrgetter(f"f{list(self.columns).index(name)}"), self.rows))
            self._columns[name] = PythonColumn(values, self.format.plain_text)
        return self._columns[name]

    def kept(self, keep: NDArray[np.bool_]) -> bytes:
        return self._joined(
            [line for line, kept in zip(self.lines, keep, strict=True) if kept], bool(keep[-1])
        )

    def cut(self, keep: Sequence[Any], pools: Sequence[paths.Path]) -> bytes:
        roots = [(pool.column, *pool.fields) for pool in pools]
        pieces = []
        for index, (line, chosen) in enumerate(zip(self.lines, keep, strict=True)):
            whole = is_whole(chosen)
            if whole is not None:
                pieces.append(line if whole else self.format.cut_line(line, roots, chosen, index))
        return self._joined(pieces, is_whole(keep[-1]) is not None)

    def _joined(self, lines: list[bytes], to_the_end: bool) -> bytes:
        """Lines with their ends, of which the file's last may have none."""
        return b"\n".join(lines) + (b"" if not lines or (to_the_end and not self.ended) else b"\n")

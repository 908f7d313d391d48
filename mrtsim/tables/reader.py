"""Reading: which columns, one row per response or per prompt, and values as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables import paths
from mrtsim.tables.columns import Column
from mrtsim.tables.format import Format, Records
from mrtsim.tables.late_labels import LateLabels
from mrtsim.tables.paths import Path
from mrtsim.tables.pool_columns import PoolColumns
from mrtsim.tables.values import LONGEST_SHOWN, Labels, Wrong, as_list, shown
from mrtsim.tables.values import number as as_number

Layout = Literal["rows", "prompts"]
MissingIds = Literal["error", "drop"]
Kind = Literal["id", "number", "vector"]


@dataclass(frozen=True)
class Wanted:
    """A column to read.

    Attributes:
        role: what the result calls it: "prompt", "loss".
        column: its name, or a dotted path.
        kind: "id" (text or a number, compared as text), "number" or "vector" (a list of numbers of one length).
        option: of the command line that names it, for messages.
        required: whether it is an error that it holds something else; else it is left out then.
        named: whether the user named it, so that its absence is an error.
    """

    role: str
    column: str
    kind: Kind
    option: str = ""
    required: bool = True
    named: bool = True

    @property
    def told(self) -> str:
        """The option for messages."""
        return self.option or f"--{self.role.replace('_', '-')}-column"


class Batch(NamedTuple):
    """Consecutive records of one file, and what was wanted of them.

    Arrays run over the responses. `sizes` has the number of responses of each record: 1 with one row per response, 0
    for a record that is left out or whose pool is missing. `ids` are numbers in the reader's `labels`; `numbers` and
    `vectors` have None for a column that is not required and could not be read, and `ids` lack it.
    """

    file: int
    first_row: int
    records: Records
    sizes: NDArray[np.int64]
    dropped: NDArray[np.bool_]
    row_ids: dict[str, NDArray[np.int64]]
    ids: dict[str, NDArray[np.int64]]
    numbers: dict[str, NDArray[np.float64] | None]
    vectors: dict[str, NDArray[np.floating] | None]


@dataclass
class Reader:
    """Reads wanted columns of files that share a format.

    Attributes:
        tables: the files.
        wanted: the columns; the first id is the prompt's.
        layout: one row per response ("rows") or per prompt ("prompts"); found out where it is None.
        pool_columns: lists to cut, which say that a row is a prompt.
        missing_ids: whether a row without an id is an error, or is dropped and counted.
        late_ids: whether the numbers of ids may be provisional until all is read (`labels[role].settled`).
        labels: the ids of each role, filled while reading.
        dropped: rows that were dropped so far.
    """

    tables: Sequence[Format]
    wanted: Sequence[Wanted]
    layout: Layout | None = None
    pool_columns: Sequence[str] = ()
    missing_ids: MissingIds = "error"
    late_ids: bool = False
    labels: dict[str, Labels] = field(default_factory=dict)
    dropped: int = 0

    def __post_init__(self) -> None:
        self.paths = [self._paths(table) for table in self.tables]
        present = [set(found) for found in self.paths]
        self.roles = [w for w in self.wanted if all(w.role in found for found in present)]
        self.reset()
        _refuse_filters(self)
        if self.layout is None:
            self.layout = "prompts" if self.pool_columns else self._found_layout()
        self.pools = PoolColumns(self.tables, self.pool_columns)

    def reset(self) -> None:
        """Forget the ids of an earlier reading."""
        new = LateLabels if self.late_ids else Labels
        self.labels = {w.role: new() for w in self.roles if w.kind == "id"}
        self.dropped = 0

    @property
    def prompt(self) -> Wanted:
        """The column of prompt ids."""
        return next(w for w in self.wanted if w.kind == "id")

    def _paths(self, table: Format) -> dict[str, Path]:
        """Where each role stands in a file; InputError if a required one is absent."""
        columns = table.columns()
        found = {}
        for wanted in self.wanted:
            path = paths.resolved(wanted.column, columns)
            if path is not None:
                found[wanted.role] = path
            elif wanted.required or wanted.named:
                raise table.no_column(wanted.column, wanted.told)
        table.used = list(found.values())
        table.used_ids = [found[w.role] for w in self.wanted if w.kind == "id" and w.role in found]
        return found

    def names(self, role: str) -> list[str]:
        """The ids of a role as text, by number."""
        return self.labels[role].names

    @property
    def cut_columns(self) -> list[str]:
        """With one row per prompt, the lists that were cut."""
        return self.pools.cut if self.layout == "prompts" else []

    # Layout

    def _found_layout(self) -> Layout:
        """By the first value of a number's column, else of a vector's; else by whether a prompt has several rows."""
        values = sorted((w for w in self.roles if w.kind != "id"), key=lambda w: w.kind == "vector")
        for wanted in values:
            value = self._first_value(wanted)
            if value is None:
                continue
            depth = _depth(value)
            if wanted.kind == "vector":
                return "prompts" if depth > 1 and not (depth == 2 and len(as_list(value)) == 1) else "rows"
            return "prompts" if depth else "rows"
        if values:
            return "rows"
        lists = self._list_columns()
        if not lists or self._a_prompt_has_several_rows():
            return "rows"
        raise InputError(
            f"{self.tables[0].file.name}: cannot tell whether a row is a response or a prompt: {paths.listed(lists)} "
            f"{'holds' if len(lists) == 1 else 'hold'} lists, and no prompt has a second row; say --layout rows, or "
            f"--layout prompts with --pool-columns {lists[0]}"
        )

    def _first_value(self, wanted: Wanted) -> Any:
        for table, found in zip(self.tables, self.paths, strict=True):
            path = found[wanted.role]
            for records in table.records([path.column]):
                value = records.column(path.column).at(path.fields).first()
                if value is not None:
                    return value
        return None

    def _list_columns(self) -> list[str]:
        for records in self.tables[0].records(None):
            ids = {found.column for found in self.paths[0].values()}
            return [
                name
                for name in self.tables[0].columns()
                if name not in ids and records.column(name).lists() is not None
            ]
        return []

    def _a_prompt_has_several_rows(self) -> bool:
        labels, rows = Labels(), 0
        for table, found in zip(self.tables, self.paths, strict=True):
            path = found[self.prompt.role]
            for records in table.records([path.column]):
                try:
                    codes = records.column(path.column).at(path.fields).labels(labels)
                except Wrong:
                    return False
                rows += int((codes >= 0).sum())
                if len(labels) < rows:
                    return True
        return False

    # Values

    def batches(self, *, copies: bool = False) -> Iterator[Batch]:
        """Every file in order, in pieces of bounded size.

        Args:
            copies: whether the records will be written.

        Raises:
            InputError: a value cannot be used; it names the file, the line and the column.
        """
        for number, (table, found) in enumerate(zip(self.tables, self.paths, strict=True)):
            columns: Sequence[str] | None = list(dict.fromkeys(path.column for path in found.values()))
            if copies and self.layout == "prompts":
                columns = None  # any list may have to be cut
            row = 0
            for records in table.records(columns, copies=copies):
                batch = self._batch(number, row, records)
                if copies and self.layout == "prompts":
                    self._look_at_pools(batch)
                yield batch
                row += len(records)
            table.file.check_unchanged()

    def _look_at_pools(self, batch: Batch) -> None:
        """Find the lists that are cut, and whether they are as long as the pools."""
        for role, values in (*batch.numbers.items(), *batch.vectors.items()):
            if values is not None:
                self.pools.add_root(batch.file, batch.records, self.paths[batch.file][role])
        sizes = np.where(batch.dropped, 0, batch.sizes)
        self.pools.check(batch.file, batch.first_row, batch.records, sizes)

    def _column(self, number: int, records: Records, wanted: Wanted) -> Column:
        path = self.paths[number][wanted.role]
        return records.column(path.column).at(path.fields)

    def _batch(self, number: int, row: int, records: Records) -> Batch:
        nested = self.layout == "prompts"
        row_ids, later = self._row_ids(number, row, records)
        dropped = np.zeros(len(records), bool)
        for wanted in self.roles:
            if wanted.required and wanted.role in row_ids:
                dropped |= row_ids[wanted.role] < 0
        if dropped.any():
            self._drop(dropped, row_ids, number, row)
            rows = np.flatnonzero(~dropped)  # of the records that stay
        else:
            rows = np.arange(len(records))
        sizes: NDArray[np.int64] | None = None if nested else np.broadcast_to(np.int64(1), len(rows))
        columns: dict[str, Any] = {}
        read = sorted((w for w in self.roles if w.kind != "id"), key=lambda w: not w.required)
        for wanted in (*read, *later):
            column: Any = self._column(number, records, wanted)
            if dropped.any():
                column = column.where(~dropped)
            if nested:
                try:
                    column, lengths = column.flattened()
                except Wrong as wrong:
                    if wanted.required:
                        raise self.wrong(wrong, number, row, wanted, rows) from None
                    continue
                sizes = pool = lengths if sizes is None else sizes
                if (other := np.flatnonzero(lengths != pool)).size:
                    if wanted.required:
                        index = int(other[0])
                        raise self.error(
                            f"a list of {lengths[index]} where the pool has {pool[index]} candidates",
                            number,
                            row + int(rows[index]),
                            wanted.column,
                        )
                    continue
            columns[wanted.role] = column
        if sizes is None:
            sizes = self.pools.sizes(number, row, records)[~dropped]
        at = np.repeat(rows, sizes) if nested else rows  # the record of each response
        values = {
            w.role: self._values(columns.get(w.role), number, row, w, at)
            for w in self.roles
            if w.kind != "id"
        }
        ids = {role: codes[~dropped] if dropped.any() else codes for role, codes in row_ids.items()}
        if nested:
            ids = {role: np.repeat(codes, sizes) for role, codes in ids.items()}
        for wanted in later:
            codes = self._values(columns.get(wanted.role), number, row, wanted, at)
            if codes is None:
                continue
            ids[wanted.role] = codes
            if wanted.required and (codes < 0).any():
                index = int(at[np.argmax(codes < 0)])
                raise self.error("no value; every response needs one", number, row + index, wanted.column)
        full = sizes
        if dropped.any():
            full = np.zeros(len(records), np.int64)
            full[rows] = sizes
        kinds = {w.role: w.kind for w in self.roles}
        return Batch(
            number,
            row,
            records,
            full,
            dropped,
            row_ids,
            ids,
            {role: v for role, v in values.items() if kinds[role] == "number"},
            {role: v for role, v in values.items() if kinds[role] == "vector"},
        )

    def _row_ids(
        self, number: int, row: int, records: Records
    ) -> tuple[dict[str, NDArray[np.int64]], list[Wanted]]:
        """Ids per record; and the roles whose ids are lists, one per response."""
        found: dict[str, NDArray[np.int64]] = {}
        later: list[Wanted] = []
        for wanted in self.roles:
            if wanted.kind != "id":
                continue
            column = self._column(number, records, wanted)
            if (
                self.layout == "prompts"
                and wanted is not self.prompt
                and isinstance(as_list(column.first()), list)
            ):
                later.append(wanted)
                continue
            try:
                found[wanted.role] = column.labels(self.labels[wanted.role])
            except Wrong as wrong:
                if wanted.required:
                    raise self.wrong(wrong, number, row, wanted) from None
        return found, later

    def _values(
        self, column: Column | None, number: int, row: int, wanted: Wanted, at: NDArray[np.int64]
    ) -> Any:
        """A column's numbers, vectors or ids; None where it is not required and holds something else."""
        if column is None:
            return None
        try:
            if wanted.kind == "number":
                return column.numbers(wanted.role.replace("_", " "))
            return column.vectors() if wanted.kind == "vector" else column.labels(self.labels[wanted.role])
        except Wrong as wrong:
            if wanted.required:
                raise self.wrong(wrong, number, row, wanted, at) from None
            return None

    def _drop(self, dropped: Any, row_ids: dict[str, Any], number: int, row: int) -> None:
        if self.missing_ids == "error":
            first = int(np.argmax(dropped))
            wanted = next(
                w for w in self.roles if w.required and w.role in row_ids and row_ids[w.role][first] < 0
            )
            count = self._count_missing(wanted)
            rows = "1 row has" if count == 1 else f"{count} rows have"
            raise self.error(
                f"no value: {rows} no {wanted.role} id; mend them, or leave them out with --missing-ids drop",
                number,
                row + first,
                wanted.column,
            )
        self.dropped += int(dropped.sum())

    def _count_missing(self, wanted: Wanted) -> int:
        count = 0
        for table, found in zip(self.tables, self.paths, strict=True):
            path = found[wanted.role]
            for records in table.records([path.column]):
                try:
                    codes = records.column(path.column).at(path.fields).labels(Labels())
                except Wrong:
                    continue
                count += int((codes < 0).sum())
        return count

    # Messages

    def error(self, message: str, number: int, row: int, column: str | None = None) -> InputError:
        """An InputError about a row of a file.

        Args:
            message: what is wrong, and what would be right.
            number: of the file.
            row: counted from 0.
            column: its name, where one column is to blame.
        """
        return self.tables[number].error(message, row, column)

    def wrong(
        self, wrong: Wrong, number: int, row: int, wanted: Wanted, at: NDArray[np.int64] | None = None
    ) -> InputError:
        """An InputError about a value that cannot be used; `at` has the record of each value, if not its own number.

        Args:
            wrong: the value and why it cannot be used.
            number: of the file.
            row: of the first record, counted from 0.
            wanted: what the column was asked for as.
            at: record of each value, (values,); None where a record is one value.
        """
        message = wrong.message
        row += wrong.index if at is None else int(at[wrong.index]) if at.size else 0
        path = self.paths[number][wanted.role]
        record = self._record(number, row, path.column)
        early = paths.fields_at(record, path.fields)
        if early is not None and record is not None and early[0]:
            there = ".".join((path.column, *path.fields[: early[1]]))
            message = f"{there} has no field {path.fields[early[1]]!r}; it has {paths.listed(early[0])}"
        elif message.endswith(": name one"):
            record = paths.follow(record, path.fields)
            while isinstance(record, list) and record:
                record = as_list(record[0])
            fields = record if isinstance(record, dict) else {}
            usable = [
                name
                for name, value in fields.items()
                if wanted.kind == "id" or not np.isnan(as_number(value))
            ]
            if usable:
                message += f", {wanted.told} {wanted.column}.{paths.near(wanted.role, usable) or usable[0]}"
        return self.error(message, number, row, wanted.column)

    def _record(self, number: int, row: int, column: str) -> Any:
        """One value of a column, for a message."""
        for records in self.tables[number].records([column]):
            if row < len(records):
                keep = records.column(column)
                values = getattr(keep, "values", None)
                return values[row] if values is not None else keep.array[row].as_py()  # type: ignore[attr-defined]
            row -= len(records)
        return None

    def notes(self) -> list[str]:
        """What a report should say about the ids."""
        found = []
        if self.dropped:
            found.append(f"{self.dropped} rows without an id were left out")
        required = {w.role for w in self.roles if w.required}
        for role, labels in self.labels.items():
            if role in required and labels.inexact:
                found.append(
                    f"{role} ids are floats beyond 2^53, where neighbouring whole numbers are one: ids that differed "
                    "may have become equal before they were written; write them as whole numbers or as text"
                )
            if role in required and len(labels.kinds) > 1:
                found.append(
                    f"{role} ids are of several kinds ({', '.join(sorted(labels.kinds))}); they are compared as "
                    "text, so that 1 and '1' are one and 1.0 is another"
                )
        return found


class Places:
    """Where responses stand: the files and records of the batches that were read."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, int, NDArray[np.integer]]] = []

    def add(self, batch: Batch) -> None:
        """The responses of one more batch."""
        sizes = batch.sizes.astype(np.int32)
        if (sizes == 1).all():
            sizes = np.broadcast_to(np.int32(1), len(sizes))  # which takes no memory
        self._batches.append((batch.file, batch.first_row, sizes))

    def of(self, response: int) -> tuple[int, int]:
        """The file and the record of a response, counted from 0 over all batches."""
        for file, row, sizes in self._batches:
            total = int(sizes.sum())
            if response < total:
                return file, row + int(np.searchsorted(np.cumsum(sizes), response, side="right"))
            response -= total
        raise IndexError(response)


def _refuse_filters(reader: Reader) -> None:
    """Refuse samples of lm-evaluation-harness with several filters: these are not responses of their own."""
    columns = reader.tables[0].columns()
    if not {"doc_id", "filter", "filtered_resps"} <= set(columns) or any(
        w.column == "filter" for w in reader.wanted
    ):
        return
    labels = Labels()
    for table in reader.tables:
        for records in table.records(["filter"]):
            records.column("filter").labels(labels)
    if len(labels) > 1:
        raise InputError(
            f"{reader.tables[0].file.name}: samples of lm-evaluation-harness, each with the filters "
            f"{', '.join(labels.names)}, which are not separate responses; say --log lm-eval --filter {labels.names[0]}"
        )


def _depth(value: Any) -> int:
    """How many lists deep a value is."""
    value = as_list(value)
    if not isinstance(value, list | tuple):
        return 0
    return 1 + next((_depth(item) for item in value if item is not None), 0)


def short_id(text: str) -> str:
    """An id in a message."""
    return shown(text, LONGEST_SHOWN)

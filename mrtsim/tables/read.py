"""Columns of files and tables as NumPy arrays: one entry per response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables.formats import Tables, open_tables
from mrtsim.tables.reader import Kind, Layout, MissingIds, Places, Reader, Wanted
from mrtsim.tables.values import Labels


@dataclass(frozen=True)
class Ids:
    """Ids of one kind, one per response.

    Attributes:
        codes: which id each response has: 0, 1, ... in the order in which they first appear, (rows,).
        count: how many ids there are.
        labels: of the reading.
        present: numbers in `labels` of the ids that are left; None where all are.
    """

    codes: NDArray[np.int64]
    count: int
    labels: Labels = field(repr=False)
    present: NDArray[np.int64] | None = field(default=None, repr=False)

    @cached_property
    def names(self) -> list[str]:
        """The ids as text, by code."""
        names = self.labels.names
        return names if self.present is None else [names[i] for i in self.present.tolist()]


@dataclass(frozen=True)
class ColumnData:
    """What `read_columns` read, one entry per response.

    Attributes:
        ids: by role; of those that were optional, the ones that every response has.
        numbers: finite numbers by role, (rows,).
        vectors: by role, (rows, features).
        layout: "rows", one row per response, or "prompts", one row per prompt.
        dropped: rows that were left out since an id was missing.
        notes: what a report should say about the reading.
        reader: behind it; gives messages their place.
        places: where each response stands.
    """

    ids: dict[str, Ids]
    numbers: dict[str, NDArray[np.float64]]
    vectors: dict[str, NDArray[np.floating]]
    layout: Layout
    dropped: int
    notes: list[str]
    reader: Reader
    places: Places

    def error(self, message: str, response: int, role: str | None = None) -> InputError:
        """An InputError about one response, counted from 0, with its file and line, and the column of a role.

        Args:
            message: what is wrong, and what would be right.
            response: its number from 0.
            role: what the column was asked for as, such as "prompt"; None names no column.
        """
        column = next((w.column for w in self.reader.wanted if w.role == role), None)
        return self.reader.error(message, *self.places.of(response), column)


def read_columns(
    source: Tables,
    *,
    ids: Mapping[str, str],
    numbers: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    optional_ids: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    layout: Layout | None = None,
    format: str | None = None,
    missing_ids: MissingIds = "error",
) -> ColumnData:
    """Read columns of a file, several files or a table in memory.

    Args:
        source: a file, a folder of shards, a pattern, "-" for standard input, several of these, or a table of pandas,
            polars, pyarrow or `datasets`.
        ids: role -> column of ids (text or numbers, compared as text), {"prompt": "prompt_id"}; the first is the
            prompt's.
        numbers: role -> column of finite numbers, {"loss": "loss"}; with one row per prompt each holds a list.
        vectors: role -> column of lists of numbers, all of one length.
        optional_ids: role -> column of ids that are read where they are there and whole, and else left out.
        options: role -> the option of the command line that names its column, for messages; `--ROLE-column` if absent.
        layout: "rows" (one row per response) or "prompts" (one row per prompt); None recognises it.
        format: of the files, such as "csv"; None recognises it.
        missing_ids: a row without an id is an error, or is dropped and counted ("drop").

    Returns:
        Arrays with one entry per response, in the order of the files.

    Raises:
        InputError: something cannot be read or used; the message names the file, the line and the column.
    """
    told = options or {}
    kinds: tuple[tuple[Kind, Mapping[str, str]], ...] = (
        ("id", ids),
        ("number", numbers or {}),
        ("vector", vectors or {}),
    )
    wanted = [
        Wanted(role, column, kind, told.get(role, ""))
        for kind, columns in kinds
        for role, column in columns.items()
    ]
    optional = optional_ids or {}
    wanted += [Wanted(role, column, "id", required=False, named=False) for role, column in optional.items()]
    reader = Reader(open_tables(source, format), wanted, layout, missing_ids=missing_ids, late_ids=True)
    parts: dict[str, list[NDArray[Any]]] = {w.role: [] for w in reader.roles}
    places, partial = Places(), set[str]()
    for batch in reader.batches():
        if (empty := (batch.sizes == 0) & ~batch.dropped).any():
            column = next((w.column for w in reader.roles if w.kind != "id"), None)
            raise reader.error(
                "no list, or an empty one; a prompt needs one response or more",
                batch.file,
                batch.first_row + int(np.argmax(empty)),
                column,
            )
        for role, values in (*batch.ids.items(), *batch.numbers.items(), *batch.vectors.items()):
            if values is not None:
                _same_width(reader, parts[role], values, batch, role)
                parts[role].append(values)
        partial |= {
            role
            for role in optional
            if role in parts and (role not in batch.ids or (batch.ids[role] < 0).any())
        }
        places.add(batch)
    joined = {role: _joined(pieces) for role, pieces in parts.items() if role not in partial}
    if not len(next(iter(joined.values()))):
        raise reader.tables[0].file.error("no row is left: every one misses an id")
    return ColumnData(
        {role: _ids(joined[role], labels) for role, labels in reader.labels.items() if role in joined},
        {w.role: joined[w.role] for w in reader.roles if w.kind == "number"},
        {w.role: joined[w.role] for w in reader.roles if w.kind == "vector"},
        reader.layout or "rows",
        reader.dropped,
        reader.notes(),
        reader,
        places,
    )


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of all parts, which go on the way so that memory does not hold all twice."""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.result_type(*parts))
    stop = len(whole)
    while parts:
        part = parts.pop()
        whole[stop - len(part) : stop] = part
        stop -= len(part)
    return whole


def _ids(codes: NDArray[np.int64], labels: Labels) -> Ids:
    """The ids that are left, without gaps where rows were dropped."""
    codes = labels.settled(codes)
    present = np.zeros(len(labels), bool)
    present[codes] = True
    if present.all():
        return Ids(codes, len(labels), labels)
    left = np.flatnonzero(present)
    return Ids((np.cumsum(present) - 1)[codes], len(left), labels, left)


def _same_width(
    reader: Reader, parts: Sequence[NDArray[Any]], values: NDArray[Any], batch: Any, role: str
) -> None:
    if values.ndim == 2 and parts and parts[0].shape[1] != values.shape[1]:
        column = next(w.column for w in reader.wanted if w.role == role)
        raise reader.error(
            f"a list of {values.shape[1]} features where others have {parts[0].shape[1]}",
            batch.file,
            batch.first_row,
            column,
        )

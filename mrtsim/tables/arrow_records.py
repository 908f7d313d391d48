"""Records of Arrow tables: which stay, and lists cut to the kept elements, with every type as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from mrtsim.tables import paths
from mrtsim.tables.arrow_columns import (
    ArrowColumn,
    as_arrow,
    elements_of,
    is_list,
    is_text,
    resized,
    sizes_of,
)
from mrtsim.tables.cut import cut_cell, is_whole
from mrtsim.tables.format import Records
from mrtsim.tables.sources import InputFile
from mrtsim.tables.values import Wrong

pc: Any = pyarrow.compute


class ArrowRecords(Records):
    """Rows of an Arrow table, and the file that they are of."""

    def __init__(self, table: Any, file: InputFile, plain_text: bool = False):
        self.file, self.plain_text = file, plain_text
        self.table = table if isinstance(table, pa.Table) else pa.Table.from_batches([table])

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> ArrowColumn:
        column = self.table.column(name)
        twice = _twice(column.type)
        if twice is not None:
            raise self.file.error(
                f"field {twice!r} stands twice in one object; rename all but one", column=name
            )
        return ArrowColumn(column, self.plain_text)

    def kept(self, keep: NDArray[np.bool_]) -> Any:
        return filtered(self.table, keep)

    def cut(self, keep: Sequence[Any], pools: Sequence[paths.Path]) -> Any:
        fates = [is_whole(k) for k in keep]
        table = filtered(self.table, np.array([fate is not None for fate in fates], bool))
        rows = [index for index, fate in enumerate(fates) if fate is not None]
        chosen = [keep[index] for index in rows]
        for pool in pools:
            at = self.table.schema.get_field_index(pool.column)
            array = _combined(table.column(at))
            try:
                array = cut_array(array, pool.fields, chosen)
            except Wrong as wrong:
                raise Wrong(rows[wrong.index], wrong.message) from None
            field = table.schema.field(at)
            table = table.set_column(at, field.with_type(array.type), array)
        return table.replace_schema_metadata(self.table.schema.metadata)


def _twice(kind: Any) -> str | None:
    """A name that two fields of one struct have, anywhere in a type."""
    if is_list(kind):
        return _twice(kind.value_type)
    if not pa.types.is_struct(kind):
        return None
    fields = [kind.field(i) for i in range(kind.num_fields)]
    names = [field.name for field in fields]
    again = [name for name in names if names.count(name) > 1]
    again += [name for field in fields if (name := _twice(field.type)) is not None]
    return again[0] if again else None


def filtered(table: Any, keep: NDArray[np.bool_]) -> Any:
    """The rows where `keep` is true, of a table of any types."""
    if keep.all():
        return table
    try:
        return table.filter(as_arrow(keep))
    except pa.ArrowNotImplementedError:  # views and run-length types have no kernel; slices need none
        edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]])))
        runs = [table.slice(a, b - a) for a, b in edges.reshape(-1, 2).tolist()]
        return pa.concat_tables([table.slice(0, 0), *runs])


def cut_array(array: Any, fields: Sequence[str], keep: Sequence[NDArray[np.bool_]]) -> Any:
    """An array with the lists at a path inside it cut to the kept elements; its type stays, fixed sizes aside.

    Args:
        array: Arrow array of lists, of structs that hold them, or of JSON text.
        fields: names that lead from a value of the array to its list; empty where it is the list.
        keep: which elements stay, one mask per value.
    """
    kind = array.type
    if fields and pa.types.is_struct(kind):
        whole = ".".join(fields)
        name, rest = (whole, ()) if kind.get_field_index(whole) >= 0 else (fields[0], fields[1:])
        at = kind.get_field_index(name)
        children = [pc.struct_field(array, [i]) for i in range(kind.num_fields)]
        children[at] = cut_array(children[at], rest, keep)
        parts = [kind.field(i).with_type(child.type) for i, child in enumerate(children)]
        return pa.StructArray.from_arrays(
            children, fields=parts, mask=array.is_null() if array.null_count else None
        )
    if is_text(kind):
        texts = [
            text if text is None or k.all() else cut_cell(text, [fields], k, index)
            for index, (text, k) in enumerate(zip(array.to_pylist(), keep, strict=True))
        ]
        return pa.array(texts, kind)
    if fields or not is_list(kind):
        raise Wrong(0, f"{kind} is not a list that can be cut")
    sizes = sizes_of(array)
    wrong = [i for i, k in enumerate(keep) if sizes[i] >= 0 and sizes[i] != len(k) and not k.all()]
    if wrong:
        index = wrong[0]
        raise Wrong(index, f"a list of {sizes[index]} where the pool has {len(keep[index])} candidates")
    # A row that is kept whole keeps its list, however long.
    flags = [
        k if len(k) == s else np.ones(max(s, 0), bool) for k, s in zip(keep, sizes.tolist(), strict=True)
    ]
    flat = np.concatenate([*flags, np.zeros(0, bool)])
    left = np.array(
        [-1 if s < 0 else int(f.sum()) for f, s in zip(flags, sizes.tolist(), strict=True)], np.int64
    )
    values = elements_of(array)
    kept = filtered(pa.table([values], names=["x"]), flat).column("x")
    return resized(array, left, _combined(kept))


def _combined(column: Any) -> Any:
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    return pa.concat_arrays(column.chunks)

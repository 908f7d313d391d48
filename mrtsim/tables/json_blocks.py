"""Blocks of JSON lines as Arrow tables, where each column that is used holds text alone or numbers alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.json

from mrtsim.tables.arrow_records import ArrowRecords
from mrtsim.tables.json_fields import one_per_line
from mrtsim.tables.sources import InputFile, lines_in

ID_TYPES = {str: pa.string(), bool: pa.bool_(), int: pa.int64()}
TYPES = {str: pa.string(), bool: pa.bool_(), int: pa.float64(), float: pa.float64()}


def schema_of(row: Mapping[str, Any], columns: Sequence[str], ids: Collection[str]) -> Any:
    """The Arrow types that columns have by one row's values; None where one is of another kind.

    Args:
        row: values by column.
        columns: that are needed.
        ids: those of them whose every digit counts.
    """
    types = [(ID_TYPES if name in ids else TYPES).get(type(row.get(name))) for name in columns]
    return None if None in types else pa.schema(list(zip(columns, types, strict=True)))


def records_of(file: InputFile, block: bytes, schema: Any) -> ArrowRecords | None:
    """Whole lines read by pyarrow; None where they are not one object each, with values of the schema's types.

    pyarrow refuses a field of the schema that stands twice in one object, and a value of another type.

    Args:
        file: that the lines are of.
        block: the lines.
        schema: the columns that are needed.
    """
    count = lines_in(block)
    if not one_per_line(block, count):  # what is not even an object may crash pyarrow 26
        return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)
    except (pa.ArrowException, OverflowError):  # OverflowError: a block may be too long
        return None
    return ArrowRecords(table, file) if table.num_rows == count else None

"""JSON lines: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from itertools import chain, islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables.cut import cut_record
from mrtsim.tables.format import Records
from mrtsim.tables.json_fields import (
    doubtful,
    has_decimal_id,
    has_float,
    names_escaped,
    names_inside,
    one_per_line,
    some_twice,
    twice,
)
from mrtsim.tables.json_values import exact_number, from_pairs
from mrtsim.tables.lines_format import LineRecords, LinesFormat
from mrtsim.tables.sources import ahead
from mrtsim.tables.values import shown


class JsonlFormat(LinesFormat):
    """One JSON object per line."""

    name = "jsonl"
    endings = (".jsonl", ".ndjson")
    empty = "is empty; expected one JSON object per line"

    def _read(self, columns: Sequence[str] | None, copies: bool) -> Iterator[tuple[bytes, Records | None]]:
        """Blocks after the first are read by pyarrow as long as their columns hold what the first line's do."""
        blocks = self._blocks()
        first, second = next(blocks, b""), None
        if first:
            yield first, None
            second = next(blocks, None)
        if second is None:
            return
        blocks = chain([second], blocks)
        line = first.partition(b"\n")[0]
        if copies or not columns or not line.strip():
            yield from ((block, None) for block in blocks)
            return
        from mrtsim.tables.json_blocks import records_of, schema_of

        schema = schema_of(self.decode(line, 1), columns, {path.column for path in self.used_ids})

        def read(block: bytes) -> Records | None:
            nonlocal schema
            records = None if schema is None else records_of(self.file, block, schema)
            if records is None:
                schema = None  # the rest is probably no simpler
            return records

        with closing(ahead(blocks, read)) as pairs:
            yield from pairs

    def _of_block(
        self, block: bytes, count: int, number: int, columns: Sequence[str] | None, copies: bool
    ) -> LineRecords:
        if (columns is None or columns or not copies) and one_per_line(block, count):
            known, read = _decoder(None if columns is None else tuple(columns), Any)
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                rows = read(block)
                if len(rows) == count:
                    lines = block.split(b"\n")[:count] if copies else []
                    found = LineRecords(self, known, rows, lines, block.endswith(b"\n"))
                    return self._certain(found, block, count, number)
        # Line by line: some are blank, or no strict JSON, such as those with NaN.
        return super()._of_block(block, count, number, columns, copies)

    def _certain(self, found: LineRecords, block: bytes, count: int, number: int) -> LineRecords:
        """The records, with every digit of their ids; InputError if a field that is used stands twice."""
        doubts = set(range(count) if names_escaped(block) else ())
        decimals = False
        for path in self.used:
            if found.columns is not None and path.column not in found.columns:
                continue
            column, is_id = found.column(path.column), path in self.used_ids
            doubts.update(doubtful(block, count, path.column, column))
            if path.fields or (is_id and column.kinds & {dict, list}):
                names = names_inside(column.values, path, all_below=is_id)
                if names is None or (names and some_twice(self._texts(block, path.column), names)):
                    doubts.update(range(count))
            decimals |= is_id and has_float(column.at(path.fields))
        if not decimals and not doubts:
            return found
        lines = block.split(b"\n")[:count]
        if not decimals:
            for index in sorted(doubts):
                self.decode(lines[index], number + index)
            return found
        rows = [self.decode(line, number + index) for index, line in enumerate(lines)]
        return LineRecords(self, None, rows, found.lines, found.ended)

    def _texts(self, block: bytes, column: str) -> bytes:
        """A column's values as they are written."""
        known, read = _decoder((column,), msgspec.Raw)
        values = LineRecords(self, known, read(block), [], True).column(column).values
        return b"\n".join([value for value in values if value is not None])

    def decode(self, line: bytes, number: int, *, unique: bool = False) -> dict[str, Any]:
        try:
            text = line.decode("utf-8")
            value = json.loads(text, object_pairs_hook=self._unique if unique else from_pairs)
            if isinstance(value, dict) and has_decimal_id(value, self.used_ids):
                value = json.loads(text, object_pairs_hook=from_pairs, parse_float=exact_number)
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 text ({error.reason}); save the file as UTF-8"
        except InputError:
            raise
        except RecursionError:
            reason = "nested too deep"
        except json.JSONDecodeError as error:
            reason = f"not a JSON object on one line ({error.msg} at character {error.pos + 1})"
            reason += self._remedy(line.strip())
        except ValueError as error:
            reason = f"not a JSON object on one line ({str(error)[:60]})"
        else:
            if isinstance(value, dict):
                name = twice(value, self.used)
                if name is not None:
                    raise self.file.error(name, f"line {number}")
                return value
            reason = f"expected a JSON object, found {shown(value)}"
        raise self.file.error(reason, f"line {number}")

    def _remedy(self, line: bytes) -> str:
        """What mends a file of lines that are not JSON, as its first line shows."""
        name = self.file.path.name
        if line.startswith(b"{'"):
            return "; Python's own text of a row is not JSON: write json.dumps(row)"
        if line.endswith(b"},"):
            return f"; without the commas after objects: sed 's/}},$/}}/' {name} > lines.jsonl"
        if line == b"{" or (line.startswith(b"{") and line.endswith((b"{", b"[", b","))):
            return f"; of objects that are spread over lines: jq -c . {name} > lines.jsonl"
        return ""

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self.unique([name for name, _ in pairs])
        return dict(pairs)

    def no_column(self, name: str, option: str) -> InputError:
        lines = list(islice(self._lines(), 2))
        record = self.decode(lines[0][1], lines[0][0])
        for field, value in record.items() if len(lines) == 1 else ():
            if isinstance(value, list) and value and isinstance(value[0], dict) and name in value[0]:
                inside = f".{field}[]" if field.isidentifier() else f".{json.dumps(field)}[]"
                return self.file.error(
                    f"is one object, and its field {field!r} holds the rows: "
                    f"jq -c '{inside}' {self.file.path.name} > rows.jsonl"
                )
        return super().no_column(name, option)

    def cut_line(
        self, line: bytes, pools: Sequence[Sequence[str]], keep: NDArray[np.bool_], index: int
    ) -> bytes:
        return cut_record(line.decode(), pools, keep, index).encode()


@cache
def _decoder(columns: tuple[str, ...] | None, kind: Any) -> tuple[Sequence[str] | None, Any]:
    """The columns of its rows, None for all, and a function from whole lines to rows of values of one kind."""
    if columns is not None:
        fields = [(f"f{i}", kind, None) for i in range(len(columns))]
        names = {f"f{i}": name for i, name in enumerate(columns)}
        with suppress(ValueError):  # a name with quotes
            row = msgspec.defstruct("Row", fields, rename=names, gc=False)
            return columns, msgspec.json.Decoder(row).decode_lines
    return None, msgspec.json.Decoder(dict[str, kind]).decode_lines

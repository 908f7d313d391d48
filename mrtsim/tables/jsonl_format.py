"""JSON lines: one object per line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables.cut import cut_record
from mrtsim.tables.json_fields import doubtful, has_decimal_id, has_float, twice
from mrtsim.tables.json_values import exact_number, from_pairs
from mrtsim.tables.lines_format import LineRecords, LinesFormat
from mrtsim.tables.values import shown


class JsonlFormat(LinesFormat):
    """One JSON object per line."""

    name = "jsonl"
    endings = (".jsonl", ".ndjson")
    empty = "is empty; expected one JSON object per line"

    def _of_block(
        self, block: bytes, count: int, number: int, columns: Sequence[str] | None, copies: bool
    ) -> LineRecords:
        if columns is None or columns or not copies:
            known, read = _decoder(None if columns is None else tuple(columns))
            with suppress(msgspec.MsgspecError):
                rows = read(block)
                if len(rows) == count:
                    lines = block.split(b"\n")[:count] if copies else []
                    found = LineRecords(self, known, rows, lines, block.endswith(b"\n"))
                    return self._certain(found, block, count, number)
        # Line by line: some are blank, or no strict JSON, such as those with NaN.
        return super()._of_block(block, count, number, columns, copies)

    def _certain(self, found: LineRecords, block: bytes, count: int, number: int) -> LineRecords:
        """The records, with every digit of their ids; InputError if a field that is used stands twice."""
        here = [path for path in self.used if found.columns is None or path.column in found.columns]
        values = {path: found.column(path.column).values for path in here}
        lines = None
        for path in here:
            for index in doubtful(block, count, path, values[path]):
                lines = lines or block.split(b"\n")
                self.decode(lines[index], number + index)
        if any(has_float(values[path], path) for path in here if path in self.used_ids):
            lines = lines or block.split(b"\n")
            rows = [self.decode(line, number + index) for index, line in enumerate(lines[:count])]
            return LineRecords(self, None, rows, found.lines, found.ended)
        return found

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

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self.unique([name for name, _ in pairs])
        return dict(pairs)

    def cut_line(
        self, line: bytes, pools: Sequence[Sequence[str]], keep: NDArray[np.bool_], index: int
    ) -> bytes:
        return cut_record(line.decode(), pools, keep, index).encode()


@cache
def _decoder(columns: tuple[str, ...] | None) -> tuple[Sequence[str] | None, Any]:
    """The columns of its rows, None for all, and a function from whole lines to rows."""
    if columns is not None:
        fields = [(f"f{i}", Any, None) for i in range(len(columns))]
        names = {f"f{i}": name for i, name in enumerate(columns)}
        with suppress(ValueError):  # a name with quotes
            row = msgspec.defstruct("Row", fields, rename=names, gc=False)
            return columns, msgspec.json.Decoder(row).decode_lines
    return None, msgspec.json.Decoder(dict[str, Any]).decode_lines

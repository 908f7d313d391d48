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
                    return LineRecords(self, known, rows, lines, block.endswith(b"\n"))
        # Line by line: some are blank, or no strict JSON, such as those with NaN.
        return super()._of_block(block, count, number, columns, copies)

    def decode(self, line: bytes, number: int, *, unique: bool = False) -> dict[str, Any]:
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

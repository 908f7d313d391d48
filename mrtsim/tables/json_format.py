"""JSON: one array of objects, however it is laid out over lines."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.tables import chunks, paths
from mrtsim.tables.columns import PythonColumn
from mrtsim.tables.cut import cut_record, is_whole
from mrtsim.tables.format import Format, Records, Write
from mrtsim.tables.json_fields import has_decimal_id, twice
from mrtsim.tables.json_values import exact_number, from_pairs
from mrtsim.tables.lines_format import FIRST_RECORDS
from mrtsim.tables.sources import BYTE_ORDER_MARK, compressed
from mrtsim.tables.values import shown

SPACE = " \t\r\n"


class JsonFormat(Format):
    """An array of objects; kept objects are copied byte for byte, with the space between them."""

    name = "json"
    endings = (".json",)

    @classmethod
    def recognises(cls, head: bytes) -> bool:
        return head.lstrip().startswith(b"[")

    def columns(self) -> list[str]:
        names: dict[str, None] = {}
        for index, (_, _, value, _) in enumerate(self._objects()):
            if index == FIRST_RECORDS:
                break
            names.update(dict.fromkeys(value))
        if not names:
            raise self.file.error("is empty; expected an array of objects")
        return list(names)

    def records(self, columns: Sequence[str] | None, *, copies: bool = False) -> Iterator[Records]:
        batch: list[tuple[str, str, Any]] = []
        size, empty = 0, True
        for before, text, value, _ in self._objects():
            empty = False
            batch.append((before, text, value))
            size += len(text)
            if size > chunks.BYTES:
                yield JsonObjects(batch)
                batch, size = [], 0
        if empty:
            raise self.file.error("is empty; expected an array of objects")
        if batch:
            yield JsonObjects(batch)

    def _objects(self) -> Iterator[tuple[str, str, dict[str, Any], int]]:
        """Each object with the text since the one before it, its own text, and the line where it starts."""
        decoder = json.JSONDecoder(object_pairs_hook=from_pairs)
        exact = json.JSONDecoder(object_pairs_hook=from_pairs, parse_float=exact_number)
        decode = codecs.getincrementaldecoder("utf-8")("strict")
        with self.file.open() as file:
            text, at, ended = "", 0, False
            line, counted = 1, 0  # the line at text[counted]

            def here() -> str:
                nonlocal line, counted
                line, counted = line + text.count("\n", counted, at), at
                return f"line {line}"

            def more() -> None:
                nonlocal text, at, counted, ended
                here()
                counted = 0
                block = file.read(max(chunks.BYTES, len(text) - at))
                ended = not block
                try:
                    text, at = text[at:] + decode.decode(block, ended), 0
                except UnicodeDecodeError as error:
                    raise self.file.error(
                        f"not UTF-8 text ({error.reason}); save the file as UTF-8"
                    ) from None

            def skip(marks: str) -> str:
                """The text of the space and at most one of the marks from here on."""
                nonlocal at
                begin, seen = at, ""
                while True:
                    while at < len(text) and (text[at] in SPACE or (text[at] in marks and not seen)):
                        seen += text[at] if text[at] in marks else ""
                        at += 1
                    if at < len(text) or ended:
                        return text[begin:at]
                    done, at = at - begin, begin
                    more()
                    begin, at = 0, done

            more()
            text = text.removeprefix("\ufeff")
            before = skip("[")
            if "[" not in before:
                raise self.file.error(
                    f"expected an array of objects, found {shown(text[at : at + 100])}; of one object with a field "
                    f"that holds the rows: jq -c '.FIELD[]' {self.file.path.name} > rows.jsonl"
                )
            while True:
                if at >= len(text):
                    raise self.file.error("the array is not closed; is the file cut short?", here())
                if text[at] == "]":
                    rest = (
                        text[at + 1 :]
                        if ended
                        else text[at + 1 :] + file.read(1024).decode("utf-8", "replace")
                    )
                    if rest.strip():
                        raise self.file.error(
                            f"text after the end of the array: {shown(rest.strip())}", here()
                        )
                    return
                try:
                    value, stop = decoder.raw_decode(text, at)
                except json.JSONDecodeError as error:
                    cut_off = error.pos >= len(text) - 16 or error.msg.startswith("Unterminated string")
                    if cut_off and not ended:
                        more()
                        continue
                    at = max(at, error.pos)
                    raise self.file.error(f"not JSON ({error.msg})", here()) from None
                except (RecursionError, ValueError) as error:
                    raise self.file.error(f"not JSON ({str(error)[:60]})", here()) from None
                if not isinstance(value, dict):
                    raise self.file.error(f"expected a JSON object, found {shown(value)}", here())
                here()
                if has_decimal_id(value, self.used_ids):
                    value, _ = exact.raw_decode(text, at)
                repeated = twice(value, self.used)
                if repeated is not None:
                    raise self.file.error(repeated, f"line {line}")
                yield before, text[at:stop], value, line
                at = stop
                before = skip(",")
                if "," not in before and at < len(text) and text[at] != "]":
                    raise self.file.error("a comma is missing between two objects", here())
                if "," in before and at < len(text) and text[at] == "]":
                    raise self.file.error("a comma without an object after it", here())

    def place(self, row: int) -> str:
        for index, (_, _, _, line) in enumerate(self._objects()):
            if index == row:
                return f"line {line}"
        return f"row {row + 1}"

    @contextmanager
    def writer(self, path: Path) -> Iterator[Write]:
        opening, mark = "[", b""
        with self.file.open() as file:
            mark = BYTE_ORDER_MARK if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else b""
        opening = next(iter(self._objects()))[0]
        with compressed(path) as file:
            file.write(mark)
            first = True

            def write(piece: list[tuple[str, str]]) -> None:
                nonlocal first
                for before, text in piece:
                    if first:
                        before = opening
                    elif "," not in before:  # the first of another file
                        before = before.replace("[", ",", 1)
                    file.write((before + text).encode())
                    first = False

            yield write
            space = opening[: opening.index("[")] + opening[opening.index("[") + 1 :]
            file.write(("[]" if first else ("\n" if "\n" in space else "") + "]").encode() + b"\n")


class JsonObjects(Records):
    """Objects of an array, each with the text before it and its own."""

    def __init__(self, objects: list[tuple[str, str, Any]]):
        self.objects = objects

    def __len__(self) -> int:
        return len(self.objects)

    def column(self, name: str) -> PythonColumn:
        return PythonColumn([value.get(name) for _, _, value in self.objects])

    def kept(self, keep: NDArray[np.bool_]) -> list[tuple[str, str]]:
        return [(before, text) for (before, text, _), kept in zip(self.objects, keep, strict=True) if kept]

    def cut(self, keep: Sequence[Any], pools: Sequence[paths.Path]) -> list[tuple[str, str]]:
        roots = [(pool.column, *pool.fields) for pool in pools]
        pieces = []
        for index, ((before, text, _), chosen) in enumerate(zip(self.objects, keep, strict=True)):
            whole = is_whole(chosen)
            if whole is not None:
                pieces.append((before, text if whole else cut_record(text, roots, chosen, index)))
        return pieces

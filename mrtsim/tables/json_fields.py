"""What stands at the paths that are used in JSON objects: fields that stand twice, ids with decimals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mrtsim.tables.json_values import repeated_name
from mrtsim.tables.paths import Path, follow
from mrtsim.tables.values import shown

# A letter of a name that is written by its number; what web frameworks write so (< > & ' = / +) is left out.
ESCAPED = re.compile(rb"\\u00(?!3[cCdDeE]|2[67bBfF])[2-7]")


def twice(record: Any, used: Iterable[Path]) -> str | None:
    """A message about a field that is used and stands twice in one object of a record; None without any."""
    for path in used:
        name = repeated_name(record, (path.column, *path.fields))
        if name is not None:
            return f"field {shown(name)} stands twice in one object; which of them counts is not certain: remove one"
    return None


def opened(values: Iterable[Any]) -> Iterator[Any]:
    """Values, with lists opened."""
    for value in values:
        if isinstance(value, list):
            yield from opened(value)
        else:
            yield value


def has_float(values: Sequence[Any], path: Path) -> bool:
    """Whether a number with decimals stands at a path in one of its column's values."""
    ends = [follow(value, path.fields) for value in values] if path.fields else values
    kinds = set(map(type, ends))
    return float in kinds or (list in kinds and any(isinstance(v, float) for v in opened(ends)))


def has_decimal_id(record: dict[str, Any], ids: Iterable[Path]) -> bool:
    """Whether a number with decimals stands at one of these paths of a record."""
    return any(has_float([record.get(path.column)], path) for path in ids)


def doubtful(block: bytes, count: int, path: Path, values: Sequence[Any]) -> Iterable[int]:
    """Numbers of the lines in which a field on a path may stand twice, by how often its name is there at all.

    Args:
        block: lines of one object each.
        count: how many they are.
        path: to what is used.
        values: of the path's column, one per line, each the last where there are two.
    """
    found = set(_suspects(block, count, path.column, values))
    for depth, name in enumerate(path.fields):
        if name.isdecimal():
            values = [v[int(name)] for v in values if isinstance(v, list) and int(name) < len(v)]
            continue
        objects = [v for v in opened(values) if isinstance(v, dict)]
        if any(".".join(path.fields[depth:]) in v for v in objects) and depth + 1 < len(path.fields):
            return range(count)  # a name with a dot
        values = [v.get(name) for v in objects]
        found.update(_suspects(block, count, name, values))
    return range(count) if any(isinstance(v, dict) for v in opened(values[:1])) else sorted(found)


def _suspects(block: bytes, count: int, name: str, values: Sequence[Any]) -> Iterable[int]:
    key = json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass")
    times = block.count(key)
    present = len(values) - (values.count(None) if type(None) in set(map(type, values)) else 0)
    # A search for one byte is much faster than for five.
    escaped = b"\\" in block and b"\\u00" in block and ESCAPED.search(block)
    if not name.isascii() or times < present or escaped:
        return range(count)
    if times == present:
        return ()
    return [index for index, line in enumerate(block.split(b"\n")[:count]) if line.count(key) > 1]

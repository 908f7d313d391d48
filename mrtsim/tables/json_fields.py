"""What stands at the paths that are used in JSON objects: fields that stand twice, ids with decimals."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from mrtsim.tables.columns import PythonColumn
from mrtsim.tables.json_values import repeated_name
from mrtsim.tables.paths import Path
from mrtsim.tables.values import shown

# Names whose letters have no other escape than their numbers.
SIMPLE = re.compile(r"[\w .:-]*", re.ASCII)
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


def has_float(column: PythonColumn) -> bool:
    """Whether a number with decimals stands in a column, or in a list in it."""
    kinds = column.kinds
    return float in kinds or (list in kinds and any(isinstance(v, float) for v in opened(column.values)))


def has_decimal_id(record: dict[str, Any], ids: Iterable[Path]) -> bool:
    """Whether a number with decimals stands at one of these paths of a record."""
    return any(has_float(PythonColumn([record.get(path.column)]).at(path.fields)) for path in ids)


def one_per_line(block: bytes, count: int) -> bool:
    """Whether as many objects as there are lines stand one on each: all line ends are between two objects."""
    if not block.startswith(b"{"):
        return False
    text = np.frombuffer(block.removesuffix(b"\n"), np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if ((text[ends - 1] == ord("}")) & (text[ends + 1 - (ends + 1 == len(text))] == ord("{"))).all():
        return True
    return len(re.findall(rb"\}[ \t\r]*\n[ \t\r]*\{", block)) + 1 == count


def names_escaped(block: bytes) -> bool:
    """Whether letters of an ASCII name may be written by their numbers."""
    # A search for one byte is much faster than for five.
    return b"\\" in block and b"\\u00" in block and ESCAPED.search(block) is not None


def doubtful(block: bytes, count: int, name: str, column: PythonColumn) -> Iterable[int]:
    """Numbers of the lines in which a field may stand twice, by how often its name is there at all.

    Args:
        block: lines of one object each, without escapes in names.
        count: how many they are.
        name: of a field of these objects.
        column: its values, one per line, each the last where there are two.
    """
    key = _key(name)
    times, present = block.count(key), count
    if type(None) in column.kinds:
        present -= column.values.count(None)
    if times < present or not _certain(name, block):
        return range(count)
    if times == present:
        return ()
    return [index for index, line in enumerate(block.split(b"\n")[:count]) if line.count(key) > 1]


def names_inside(values: Sequence[Any], path: Path, *, all_below: bool) -> Counter[str] | None:
    """How often fields of objects inside a column's values are used, by name; None where that is not certain.

    Args:
        values: of the path's column.
        path: to what is used.
        all_below: whether every field of an object at the path's end is used.
    """
    names: Counter[str] = Counter()
    for depth, name in enumerate(path.fields):
        if name.isdecimal():
            values = [v[int(name)] for v in values if isinstance(v, list) and int(name) < len(v)]
            continue
        objects = [v for v in opened(values) if isinstance(v, dict)]
        if any(".".join(path.fields[depth:]) in v for v in objects) and depth + 1 < len(path.fields):
            return None  # a name with a dot
        values = [v[name] for v in objects if name in v]
        names[name] += len(values)
    while all_below and values:
        objects = [v for v in opened(values) if isinstance(v, dict)]
        names.update(chain.from_iterable(objects))
        values = [v for item in objects for v in item.values() if isinstance(v, list | dict)]
    return +names


def some_twice(text: bytes, names: Counter[str]) -> bool:
    """Whether a field may stand twice in JSON text, without escapes, where objects have these names that often."""
    return any(not _certain(name, text) or text.count(_key(name)) != times for name, times in names.items())


def _certain(name: str, text: bytes) -> bool:
    """Whether a name is written in one way only in a text without escaped names: `/` may also be `\\/`."""
    return b"\\" not in text or SIMPLE.fullmatch(name) is not None


def _key(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass")

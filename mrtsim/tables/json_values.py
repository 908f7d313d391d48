"""JSON as its owner reads it: names that stand twice in one object, and numbers of which a float keeps a part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any


class Repeated(dict[str, Any]):
    """An object in which a name stands twice; it holds the last value of each.

    Attributes:
        names: that stand twice or more.
    """

    def __init__(self, pairs: Sequence[tuple[str, Any]]):
        super().__init__(pairs)
        self.names = {name for name, times in Counter(name for name, _ in pairs).items() if times > 1}


def from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its fields, as `json` takes it for `object_pairs_hook`."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def exact_number(text: str) -> float | Decimal | str:
    """A number with decimals: a float where its shortest text is this number, else all digits.

    As `json` takes it for `parse_float`; ids that differ in the twentieth digit stay two.
    """
    value = float(text)
    try:
        exact = Decimal(text)
    except ArithmeticError:
        return text
    return value if math.isfinite(value) and Decimal(repr(value)) == exact else exact


def repeated_name(value: Any, fields: Sequence[str]) -> str | None:
    """The name on a path, or anywhere below its end, that stands twice in one object; None where none does."""
    if isinstance(value, list):
        if fields and fields[0].isdecimal():
            at = int(fields[0])
            return repeated_name(value[at], fields[1:]) if at < len(value) else None
        return next((name for item in value if (name := repeated_name(item, fields))), None)
    if not isinstance(value, dict):
        return None
    if not fields:
        if isinstance(value, Repeated):
            return min(value.names)
        return next((name for item in value.values() if (name := repeated_name(item, ()))), None)
    whole = ".".join(fields)
    name, rest = (whole, ()) if whole in value else (fields[0], fields[1:])
    if isinstance(value, Repeated) and name in value.names:
        return name
    return repeated_name(value.get(name), rest)

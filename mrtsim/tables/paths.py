"""Dotted paths into nested values: `completions.overall_score`, `response.body.choices`, `resps.0`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mrtsim.tables.values import LONGEST_SHOWN, as_list

MOST_SHOWN = 20


@dataclass(frozen=True)
class Path:
    """A column, and the fields to follow inside its values.

    Attributes:
        column: a top-level column.
        fields: names of fields, or positions in a list, one inside the other; empty where the column is meant.
    """

    column: str
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join((self.column, *self.fields))


def resolved(name: str, columns: Iterable[str]) -> Path | None:
    """The column or path of this name; a column whose own name has dots wins, the longest one. None without any."""
    columns = set(columns)
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        column = ".".join(parts[:length])
        if column in columns:
            return Path(column, tuple(parts[length:]))
    return None


def follow(value: Any, fields: Sequence[str]) -> Any:
    """What stands at a path inside a value: through a list of objects it is the list of their fields.

    A field that is absent is None.
    """
    for depth, field in enumerate(fields):
        value = as_list(value)
        if isinstance(value, dict):
            whole = ".".join(fields[depth:])
            if whole in value:  # a field whose own name has a dot
                return value[whole]
            value = value.get(field)
        elif isinstance(value, list | tuple):
            if field.isdecimal():
                value = value[int(field)] if int(field) < len(value) else None
            else:
                return [follow(item, fields[depth:]) for item in value]
        else:
            return None
    return value


def fields_at(value: Any, fields: Sequence[str]) -> tuple[list[str], int] | None:
    """Where a path ends too early: the fields that are there instead, and how many of the path's were found."""
    for depth, field in enumerate(fields):
        value = as_list(value)
        while isinstance(value, list | tuple) and value and not field.isdecimal():
            value = as_list(value[0])
        if isinstance(value, dict):
            if field not in value and ".".join(fields[depth:]) not in value:
                return list(map(str, value)), depth
            value = value.get(field)
        elif isinstance(value, list | tuple) and field.isdecimal() and int(field) < len(value):
            value = value[int(field)]
        else:
            return [], depth
    return None


def listed(names: Sequence[str]) -> str:
    """Names in a message, not too many of them."""
    text = ", ".join(
        name if len(name) <= LONGEST_SHOWN else name[:LONGEST_SHOWN] + "..." for name in names[:MOST_SHOWN]
    )
    return text if len(names) <= MOST_SHOWN else f"{text} and {len(names) - MOST_SHOWN} more"


def near(name: str, present: Sequence[str]) -> str | None:
    """The name that was probably meant."""
    folded = {str(p).casefold(): str(p) for p in reversed(present)}
    close = (
        [name.casefold()]
        if name.casefold() in folded
        else difflib.get_close_matches(name.casefold(), folded, 1)
    )
    return folded[close[0]] if close else None

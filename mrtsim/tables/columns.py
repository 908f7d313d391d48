"""One column of consecutive records, whatever the format: as numbers, lists, vectors or ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain, compress
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mrtsim.tables.paths import follow
from mrtsim.tables.values import MISSING_TEXT, Labels, Wrong, as_list, is_turn, numbers, shown, vectors

Elements = Literal["numbers", "turns", "answers", "other"]


class Lists(NamedTuple):
    """What the lists of a column hold, and their lengths, -1 where there is none.

    `elements` is "turns" for chat turns of several speakers, "answers" for turns that are all the assistant's.
    """

    elements: Elements
    sizes: NDArray[np.int64]


@runtime_checkable
class Column(Protocol):
    """Values of consecutive records; every method raises `values.Wrong` at the first value that it cannot use."""

    def at(self, fields: Sequence[str]) -> Column:
        """What stands at a path inside each value."""
        ...

    def where(self, keep: NDArray[np.bool_]) -> Column:
        """The values where `keep` is true."""
        ...

    def first(self) -> Any:
        """The first value that is not missing, as Python; None without one."""
        ...

    def numbers(self, what: str) -> NDArray[np.float64]:
        """One finite number per record."""
        ...

    def vectors(self) -> NDArray[np.float64]:
        """One list of numbers per record, all of one length: (records, features)."""
        ...

    def labels(self, labels: Labels) -> NDArray[np.int64]:
        """One id per record, as its number in `labels`; -1 where it is missing."""
        ...

    def flattened(self) -> tuple[Column, NDArray[np.int64]]:
        """The elements of one list per record, one after another, and the length of each; 0 where it is missing."""
        ...

    def lists(self) -> Lists | None:
        """What the lists are made of; None where the column holds something else."""
        ...


class PythonColumn:
    """A column of Python values."""

    def __init__(self, values: Sequence[Any], plain_text: bool = False):
        self.values, self.plain_text = values, plain_text

    @cached_property
    def kinds(self) -> set[type]:
        """The types of the values."""
        return set(map(type, self.values))

    def at(self, fields: Sequence[str]) -> PythonColumn:
        if not fields:
            return self
        return PythonColumn([follow(value, fields) for value in self.values], self.plain_text)

    def where(self, keep: NDArray[np.bool_]) -> PythonColumn:
        return PythonColumn(list(compress(self.values, keep)), self.plain_text)

    def first(self) -> Any:
        return next((v for v in self.values if not self._missing(v)), None)

    def _missing(self, value: Any) -> bool:
        return value is None or (self.plain_text and isinstance(value, str) and value.strip() in MISSING_TEXT)

    def numbers(self, what: str) -> NDArray[np.float64]:
        return numbers(self.values, what)

    def vectors(self) -> NDArray[np.float64]:
        return vectors(self.values)

    def labels(self, labels: Labels) -> NDArray[np.int64]:
        return labels.of(self.values, plain_text=self.plain_text)

    def flattened(self) -> tuple[PythonColumn, NDArray[np.int64]]:
        sizes = np.empty(len(self.values), np.int64)
        lists: list[Any] = []
        for index, value in enumerate(self.values):
            value = as_list(value)
            if self._missing(value):
                value = ()
            elif not isinstance(value, list | tuple):
                raise Wrong(index, f"{shown(value)} where other rows have a list")
            sizes[index] = len(value)
            lists.append(value)
        return PythonColumn(list(chain.from_iterable(lists))), sizes

    def lists(self) -> Lists | None:
        sizes = np.full(len(self.values), -1, np.int64)
        kinds: set[str] = set()
        for index, value in enumerate(self.values):
            value = as_list(value)
            if isinstance(value, list | tuple):
                sizes[index] = len(value)
                kinds.update(map(_element, value))
            elif not self._missing(value):
                return None
        if (sizes < 0).all():
            return None
        kinds.discard("missing")
        if kinds and kinds <= {"numbers"}:
            return Lists("numbers", sizes)
        if kinds and kinds <= {"turns", "answers"}:
            return Lists("turns" if "turns" in kinds else "answers", sizes)
        return Lists("other", sizes)


def _element(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, int | float):
        return "numbers"
    if is_turn(value):
        return "answers" if value.get("role", value.get("from")) in ("assistant", "gpt", "model") else "turns"
    return "other"

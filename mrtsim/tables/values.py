"""Values of a table as numbers, vectors and ids: the same rules for every format."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.tables.json_values import exact_number, from_pairs, repeated_name

# What stands for "no value" where every value is text.
MISSING_TEXT = frozenset({"", "NA", "nan", "NaN", "NAN", "None", "none", "null", "NULL", "Null"})
TRUTH = {"true": 1.0, "false": 0.0}
LONGEST_SHOWN = 60
MOST_DIGITS = 1000  # of an id; a larger power of ten is written as one


class Wrong(Exception):
    """A value that cannot be used: its index among those given, and what is wrong with it."""

    def __init__(self, index: int, message: str):
        super().__init__(message)
        self.index, self.message = index, message


def numbers(values: Sequence[Any], what: str = "number") -> NDArray[np.float64]:
    """Python values as finite numbers: numbers, true and false, and text that is one of these.

    Args:
        values: as a format gives them; None is a missing one.
        what: what a message calls one of them, "loss" or "reward".

    Raises:
        Wrong: the first that is not a finite number.
    """
    kinds = set(map(type, values))
    array = None
    if kinds <= {float, int, bool}:
        try:
            array = np.array(values, np.float64)
        except OverflowError:
            array = None
    elif kinds == {str}:
        joined = "".join(values)
        if joined.isascii() and "_" not in joined:
            try:
                array = np.fromiter(map(float, values), np.float64, len(values))
            except ValueError:
                array = None
    if array is not None and np.isfinite(array).all():
        return array
    result = np.empty(len(values))
    for index, value in enumerate(values):
        result[index] = found = number(value)
        if not math.isfinite(found):
            raise Wrong(index, why_not_a_number(value, what))
    return result


def number(value: Any) -> float:
    """A value as a number; NaN where it is none."""
    if isinstance(value, str):
        text = value.strip()
        if not text.isascii() or "_" in text:
            return math.nan
        try:
            return float(text)
        except ValueError:
            return TRUTH.get(text.lower(), math.nan)
    if isinstance(value, float | int | bool | decimal.Decimal | np.generic):
        try:
            return float(value)  # type: ignore[arg-type]
        except (OverflowError, ValueError, TypeError):
            return math.nan
    return math.nan


def why_not_a_number(value: Any, what: str) -> str:
    """A message about a value that is not a finite number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"no {what}; every response needs one"
    if isinstance(value, dict):
        fields = ", ".join(map(str, list(value)[:12])) or "none"
        return f"an object with fields {fields}: name one"
    if isinstance(value, list | tuple):
        return f"a list, {shown(value)}, where one {what} is expected"
    seen = shown(value)
    if str(value).strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return f"{seen} is not a finite number: leave the response out or mend it"
    if isinstance(value, str) and "," in value and "[" not in value:
        return f"{seen} is not a number; write the decimals after a point"
    return f"{seen} is not a finite number"


def vectors(values: Sequence[Any]) -> NDArray[np.float64]:
    """Lists of numbers, all of one length, as a matrix (values, features); JSON text and `[[...]]` are lists too.

    Raises:
        Wrong: the first that is not a list of finite numbers, or not as long as the first.
    """
    rows = [_flat_vector(value) for value in values]
    width = len(rows[0]) if rows and isinstance(rows[0], list | tuple) else 0
    if width and all(isinstance(row, list | tuple) and len(row) == width for row in rows):
        flat = list(chain.from_iterable(rows))
        if set(map(type, flat)) <= {float, int, bool}:
            try:
                matrix = np.array(flat, np.float64).reshape(len(rows), width)
            except OverflowError:
                matrix = np.full((1, 1), np.nan)
            if np.isfinite(matrix).all():
                return matrix
    result = np.empty((len(rows), width))
    for index, row in enumerate(rows):
        if not isinstance(row, list | tuple) or not row:
            raise Wrong(index, f"{shown(values[index])} is not a list of finite numbers")
        found = [number(item) for item in row]
        if not all(map(math.isfinite, found)):
            raise Wrong(index, f"{shown(values[index])} is not a list of finite numbers")
        if len(found) != width:
            raise Wrong(index, f"a list of {len(found)} features where others have {width}")
        result[index] = found
    return result


def _flat_vector(value: Any) -> Any:
    value = as_list(value)
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        return value[0]
    return value


def as_list(value: Any) -> Any:
    """The list or object that JSON text holds; anything else as it is."""
    if (
        isinstance(value, str)
        and value[:1] in ("[", "{", " ", "\n", "\t")
        and value.strip()[:1] in ("[", "{")
    ):
        try:
            if "{" not in value:
                return json.loads(value)
            found = json.loads(value, object_pairs_hook=from_pairs, parse_float=exact_number)
            return value if repeated_name(found, ()) else found
        except (ValueError, RecursionError):
            return value
    return value


class Labels:
    """Ids of one kind as numbers, 0, 1, ... in the order in which they first appear.

    Attributes:
        names: the ids as text, by number.
        kinds: the kinds of values that they came from, such as "text" and "whole number".
        inexact: whether one is a float so large that neighbouring whole numbers are the same float.
    """

    def __init__(self) -> None:
        self._codes: defaultdict[str, int] = defaultdict(count().__next__)
        self._names: list[str] = []
        self.kinds: set[str] = set()
        self.inexact = False

    @property
    def names(self) -> list[str]:
        new = len(self._codes) - len(self._names)
        self._names += list(islice(reversed(self._codes), new))[::-1]
        return self._names

    def __len__(self) -> int:
        return len(self._codes)

    def of_texts(self, texts: Iterable[str], size: int) -> NDArray[np.int64]:
        """Numbers of ids that are text already."""
        return np.fromiter(map(self._codes.__getitem__, texts), np.int64, size)

    def of(self, values: Sequence[Any], *, plain_text: bool = False) -> NDArray[np.int64]:
        """Numbers of ids, -1 for a missing one.

        Args:
            values: as a format gives them.
            plain_text: whether every value is text, as in CSV, where "NA" and the like stand for a missing one.

        Raises:
            Wrong: the first that cannot be an id, such as a list.
        """
        kinds = set(map(type, values))
        if kinds == {str}:
            if any(values):  # an empty text is a missing id
                self.kinds.add("text")
            return self._of_present(values, plain_text)
        if kinds == {int}:
            self.kinds.add("whole number")
            return self.of_texts(map(str, values), len(values))
        texts: dict[int, str] = {}
        for index, value in enumerate(values):
            text = id_text(value, plain_text=plain_text)
            if isinstance(text, Wrong):
                raise Wrong(index, text.message)
            if text is not None:
                texts[index] = text
                self.kinds.add(_kind(value))
                self.inexact |= isinstance(value, float) and abs(value) >= 2**53
        codes = np.full(len(values), -1, np.int64)
        codes[list(texts)] = self.of_texts(texts.values(), len(texts))
        return codes

    def of_arrow(self, texts: Any, *, kind: str = "text", plain_text: bool = False) -> NDArray[np.int64]:
        """Numbers of ids that stand as text in an Arrow array, -1 for a missing one.

        Args:
            texts: of a string type.
            kind: of the values that they came from.
            plain_text: as in `of`.
        """
        from mrtsim.tables.arrow_columns import as_numpy

        if texts.null_count < len(texts):
            self.kinds.add(kind)
        encoded = texts.dictionary_encode()
        codes = np.append(self._of_present(encoded.dictionary.to_pylist(), plain_text), -1)
        return codes[as_numpy(encoded.indices, -1)]

    def settled(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The final numbers for those that were given while reading."""
        return codes

    def _of_present(self, values: Sequence[str], plain_text: bool) -> NDArray[np.int64]:
        """Numbers of texts, -1 for one that stands for a missing id."""
        codes = self.of_texts(values, len(values))
        absent = MISSING_TEXT if plain_text else ("",)
        missing = [self._codes[text] for text in absent if text in self._codes]
        if missing:
            codes[np.isin(codes, missing)] = -1
        return codes


def id_text(value: Any, *, plain_text: bool = False) -> str | Wrong | None:
    """An id as text in its shortest exact form; None where it is missing."""
    if isinstance(value, str):
        if plain_text:
            return None if value in MISSING_TEXT else value
        return value or None
    if value is None:
        return None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        value = value + 0  # -0.0 is 0.0
        return None if math.isnan(value) else repr(float(value)) if isinstance(value, float) else str(value)
    if isinstance(value, decimal.Decimal):
        text = f"{value:f}" if abs(value.adjusted()) < MOST_DIGITS else str(value)
        whole, _, decimals = text.partition(".")
        return f"{whole}.{decimals.rstrip('0') or '0'}" if decimals else whole
    if isinstance(value, int | np.integer | uuid.UUID):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if is_conversation(value):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    if isinstance(value, dict):
        return Wrong(0, f"an object with fields {', '.join(map(str, list(value)[:12])) or 'none'}: name one")
    return Wrong(0, f"{shown(value)} is not an id (text or a number)")


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of chat turns: objects with role and content, or from and value."""
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def is_turn(value: Any) -> bool:
    """Whether a value is one turn of a chat."""
    return isinstance(value, dict) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "true or false"
    if isinstance(value, int | np.integer):
        return "whole number"
    if isinstance(value, float | np.floating | decimal.Decimal):
        return "number with decimals"
    return type(value).__name__


def shown(value: Any, most: int = LONGEST_SHOWN) -> str:
    """A value in a message, at most `most` characters of it."""
    text = repr(value[: most + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[:most] + "..."


def first_line(error: BaseException) -> str:
    """The first line of a library's message, for one of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


Texts = Callable[[Any], str]

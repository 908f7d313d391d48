"""Lists in JSON text, cut to the kept elements while all else stays as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.tables.values import Wrong, as_list, shown

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def cut_record(text: str, pools: Sequence[Sequence[str]], keep: NDArray[np.bool_], index: int) -> str:
    """A JSON object with the lists at these paths cut to the kept elements, and all else as it stands.

    Args:
        text: of the object.
        pools: names of fields from the top to each list.
        keep: which elements.
        index: of the record, for messages.

    Raises:
        Wrong: a list is not as long as `keep`.
    """
    spans = [_span_at(text, path, keep, index) for path in pools]
    pieces, done = [], 0
    for start, stop, replacement in sorted(span for span in spans if span is not None):
        pieces += [text[done:start], replacement]
        done = stop
    return "".join([*pieces, text[done:]])


def cut_cell(text: str, fields: Sequence[Sequence[str]], keep: NDArray[np.bool_], index: int) -> str:
    """The JSON text of a cell with the lists at these paths inside it cut; a cell without a list stays.

    Args:
        text: content of the cell.
        fields: paths to the lists, each the names of its fields.
        keep: which elements stay, (candidates,).
        index: of the record, for messages.
    """
    value = as_list(text)
    if not isinstance(value, list | dict):
        if text.strip()[:1] in ("[", "{"):
            raise Wrong(index, f"{shown(text)} looks like a list but is not JSON, so that it cannot be cut")
        return text
    return cut_record(text, fields, keep, index)


def _span_at(
    text: str, path: Sequence[str], keep: NDArray[np.bool_], index: int
) -> tuple[int, int, str] | None:
    """Where the list at a path stands in a JSON text, and its cut text; None where there is no list."""
    at = _after_space(text, 0)
    path = list(path)
    while path:
        if text[at] == '"':
            return _inside_text(text, at, path, keep, index)
        if text[at] != "{":
            return None
        found = _field(text, at, path, index)
        if found is None:
            return None
        at, used = found
        del path[:used]
    if text[at] == '"':
        return _inside_text(text, at, path, keep, index)
    if text[at] != "[":
        return None
    stop, replacement = _cut_list(text, at, keep, index)
    return at, stop, replacement


def _inside_text(
    text: str, at: int, path: Sequence[str], keep: NDArray[np.bool_], index: int
) -> tuple[int, int, str] | None:
    """The cut of a list that stands as JSON text inside a JSON string."""
    value, stop = _DECODER.raw_decode(text, at)
    cut = cut_cell(value, [path], keep, index)
    if cut is value:
        return None
    return at, stop, json.dumps(cut, ensure_ascii=text[at:stop].isascii())


def _field(text: str, at: int, path: Sequence[str], index: int) -> tuple[int, int] | None:
    """Where the value of the path's first field starts in the object at `at`, and how many parts its name took."""
    found: dict[str, tuple[int, int]] = {}
    whole = ".".join(path)
    at = _after_space(text, at + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)
        if name in found:
            raise Wrong(index, f"field {shown(name)} stands twice in one object; remove one")
        if name in (whole, path[0]):
            found[name] = at, len(path) if name == whole else 1
        at = _after_space(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return found.get(whole) or found.get(path[0])


def _cut_list(text: str, at: int, keep: NDArray[np.bool_], index: int) -> tuple[int, str]:
    """Where the list at `at` ends, and its text with the kept elements alone."""
    spans = []
    inner = _after_space(text, at + 1)
    while text[inner] != "]":
        stop = _DECODER.raw_decode(text, inner)[1]
        spans.append((inner, stop))
        inner = _after_space(text, stop)
        if text[inner] == ",":
            inner = _after_space(text, inner + 1)
    if len(spans) != len(keep):
        raise Wrong(index, f"a list of {len(spans)} where the pool has {len(keep)} candidates")
    if not spans:
        return inner + 1, text[at : inner + 1]
    chosen = [text[a:b] for (a, b), kept in zip(spans, keep, strict=True) if kept]
    gap = text[spans[0][1] : spans[1][0]] if len(spans) > 1 else ","
    return inner + 1, text[at : spans[0][0]] + gap.join(chosen) + text[spans[-1][1] : inner + 1]


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def is_whole(keep: NDArray[np.bool_] | None) -> bool | None:
    """What becomes of a record: it stays whole (True), its lists are cut (False), or it goes (None)."""
    if keep is None:
        return None
    if keep.all():
        return True
    return False if keep.any() else None


def chosen_records(keep: Sequence[Any]) -> NDArray[np.bool_]:
    """Which records stay, whole or cut."""
    return np.array([is_whole(k) is not None for k in keep], bool)

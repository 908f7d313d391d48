"""Numbers of ids that are settled after reading: Arrow's hash tables in place of a look-up in Python per id.

A million ids in any order meet one large table out of the processor's cache. They are dealt into parts by a hash of
their text, so that each part has a table small enough for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.tables.values import MISSING_TEXT, Labels

# Fewer ids at once are not worth the import of pyarrow.
LARGE = 4096
# Bytes of ids that wait to be settled; or as many as the known ids have, so that these are hashed again rarely.
WAITING_BYTES = 256 << 20
# From here on two threads share the work.
SHARED_BYTES = 32 << 20
# Parts that ids are dealt into, a power of two.
PARTS = 64


@dataclass
class _Part:
    """The ids of one part.

    Attributes:
        ids: that are known, as binary: text from JSON may hold what is no UTF-8.
        numbers: final number of each, (ids,).
        waiting: pieces of ids that are to be settled.
        starts: provisional number of each piece's first id.
    """

    ids: Any
    numbers: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    waiting: list[Any] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def spans(self, settled: int) -> list[slice]:
        """Where the waiting pieces stand among all provisional numbers that are not settled."""
        starts = (start - settled for start in self.starts)
        return [slice(a, a + len(piece)) for a, piece in zip(starts, self.waiting, strict=True)]


class LateLabels(Labels):
    """Labels whose numbers are provisional in large tables: `settled` gives the final ones.

    Small tables are numbered by `Labels`, until the first large piece.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[_Part] = []  # none while `Labels` numbers
        self._count = 0  # of known ids
        self._waiting_bytes = self._known_bytes = 0
        self._given = 0
        self._rows: list[
            NDArray[np.int32]
        ] = []  # by provisional number that waits: where its id stands among them
        self._final = np.zeros(0, np.int32)  # numbers by provisional number

    @property
    def names(self) -> list[str]:
        if not self._parts:
            return super().names
        self._settle()
        if len(self._names) < self._count:
            names = np.empty(self._count, object)
            for part in self._parts:
                names[part.numbers] = [name.decode("utf-8", "surrogatepass") for name in part.ids.to_pylist()]
            self._names = names.tolist()
        return self._names

    def __len__(self) -> int:
        if not self._parts:
            return super().__len__()
        self._settle()
        return self._count

    def settled(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self._parts:
            return codes
        self._settle()
        final = np.append(self._final, np.int32(-1))  # the last is that of a missing id
        return final[codes].astype(np.int64)

    def of_texts(self, texts: Iterable[str], size: int) -> NDArray[np.int64]:
        if not self._parts and size < LARGE:
            return super().of_texts(texts, size)
        return self._of_array(_binary(list(texts)), False)

    def of_arrow(self, texts: Any, *, kind: str = "text", plain_text: bool = False) -> NDArray[np.int64]:
        if not self._parts and len(texts) < LARGE:
            return super().of_arrow(texts, kind=kind, plain_text=plain_text)
        if texts.null_count < len(texts):
            self.kinds.add(kind)
        return self._of_array(texts, plain_text)

    def _of_present(self, values: Sequence[str], plain_text: bool) -> NDArray[np.int64]:
        if not self._parts and len(values) < LARGE:
            return super()._of_present(values, plain_text)
        return self._of_array(_binary(values), plain_text)

    def _of_array(self, texts: Any, plain_text: bool) -> NDArray[np.int64]:
        from mrtsim.tables.arrow_columns import as_numpy

        if not self._parts:
            names = super().names
            self._parts = [_Part(_binary(())) for _ in range(PARTS)]
            self._put(_binary(names))
            self._settle()
            self._final = np.arange(len(names), dtype=np.int32)  # those that `Labels` gave
        if 2 * len(texts.slice(0, LARGE).unique()) > min(LARGE, len(texts)):
            return self._numbered(texts, plain_text)
        encoded = texts.dictionary_encode()
        codes = np.append(self._numbered(encoded.dictionary, plain_text), -1)
        return codes[as_numpy(encoded.indices, -1)]

    def _numbered(self, texts: Any, plain_text: bool) -> NDArray[np.int64]:
        """Provisional numbers, -1 for what is missing."""
        import pyarrow as pa
        import pyarrow.compute

        from mrtsim.tables.arrow_columns import as_numpy, valid

        pc: Any = pyarrow.compute
        codes = self._put(texts.cast(pa.large_binary()))
        if not len(texts):
            return codes
        if texts.null_count:
            codes[~valid(texts)] = -1
        sizes = as_numpy(pc.binary_length(texts), 0)
        if plain_text and sizes.min() <= max(map(len, MISSING_TEXT)):
            absent = pc.is_in(texts, _binary(list(MISSING_TEXT)).cast(texts.type))
            codes[as_numpy(absent.cast(pa.uint8()), 0).astype(bool)] = -1
        elif sizes.min() == 0:
            codes[sizes == 0] = -1
        return codes

    def _put(self, ids: Any) -> NDArray[np.int64]:
        """Provisional numbers of binary ids, dealt into the parts."""
        from mrtsim.tables.arrow_columns import as_arrow

        part_of = _part_of(ids)
        order = np.argsort(part_of, kind="stable")
        dealt = ids.take(as_arrow(order))
        stops = np.cumsum(np.bincount(part_of, minlength=PARTS)).tolist()
        for part, start, stop in zip(self._parts, [0, *stops], stops, strict=False):
            if stop > start:
                part.waiting.append(dealt.slice(start, stop - start))
                part.starts.append(self._given + start)
        codes = np.empty(len(ids), np.int64)
        codes[order] = np.arange(self._given, self._given + len(ids))
        self._rows.append((order + (self._given - len(self._final))).astype(np.int32))
        self._given += len(ids)
        self._waiting_bytes += dealt.nbytes
        if self._waiting_bytes > max(WAITING_BYTES, self._known_bytes):
            self._settle()
        return codes

    def _settle(self) -> None:
        """Number what waits: what is known as before, what is new in the order in which it first appears."""
        if not self._given > len(self._final):
            return
        settled = len(self._final)
        rows = np.concatenate(self._rows)
        is_first = np.zeros(len(rows), bool)  # by row: whether a new id first appears there
        found = []
        with ThreadPoolExecutor(2 if self._waiting_bytes > SHARED_BYTES else 1) as pool:
            for part, (places, ids) in zip(self._parts, pool.map(_encoded, self._parts), strict=True):
                here = np.concatenate([rows[:0], *(rows[span] for span in part.spans(settled))])
                highest = np.maximum.accumulate(np.append(np.int32(len(part.ids) - 1), places))
                new = here[np.flatnonzero(np.diff(highest))]
                is_first[new] = True
                found.append((places, new))
                part.ids = ids
        number_at = np.cumsum(is_first, dtype=np.int32) + np.int32(self._count - 1)
        final = np.empty(len(rows), np.int32)
        for part, (places, new) in zip(self._parts, found, strict=True):
            part.numbers = np.concatenate([part.numbers, number_at[new]])
            numbers = np.append(part.numbers, np.int32(-1))[places]  # the last is that of a null
            at = 0
            for span in part.spans(settled):
                final[span] = numbers[at : (at := at + span.stop - span.start)]
            part.waiting, part.starts = [], []
        self._count = sum(len(part.numbers) for part in self._parts)
        self._known_bytes, self._waiting_bytes = sum(part.ids.nbytes for part in self._parts), 0
        self._rows, self._final = [], np.concatenate([self._final, final])


def _encoded(part: _Part) -> tuple[NDArray[np.int32], Any]:
    """The places of what waits, -1 for a null, among the known ids and then the new ones; and all of these."""
    import pyarrow as pa

    from mrtsim.tables.arrow_columns import as_numpy

    ids = pa.chunked_array([part.ids, *part.waiting], pa.large_binary())
    chunks = ids.dictionary_encode().chunks  # one dictionary for all chunks
    if not chunks:
        return np.zeros(0, np.int32), part.ids
    places = np.concatenate([as_numpy(chunk.indices, np.int32(-1)) for chunk in chunks])
    return places[len(part.ids) :], chunks[-1].dictionary


def _part_of(ids: Any) -> NDArray[np.uint8]:
    """The part of each id, by a hash of its last eight bytes; binary ids, equal ones in the same part."""
    _, offsets, data = ids.buffers()
    ends = np.frombuffer(offsets, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    begin, stop = (int(ends[0]), int(ends[-1])) if len(ends) else (0, 0)
    sizes, ends = np.diff(ends), ends[1:] - begin
    text = np.zeros(8 + stop - begin, np.uint8)  # eight zeros, then the text
    if data is not None:
        text[8:] = np.frombuffer(data, np.uint8)[begin:stop]
    words = np.ndarray(len(text) - 7, "<u8", text, strides=(1,))  # at each byte the eight that start there
    last = words[ends]
    if len(ids) and sizes.min() < 8:  # without what stands before the id
        last = np.where(
            sizes > 0, last >> (8 * np.maximum(8 - sizes, 0)).astype(np.uint64) % np.uint64(64), 0
        )
    return ((last * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(65 - PARTS.bit_length())).astype(np.uint8)


def _binary(texts: Sequence[str]) -> Any:
    from mrtsim.tables.arrow_columns import as_binary

    return as_binary(texts)

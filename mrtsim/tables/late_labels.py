"""Numbers of ids that are settled after reading: one of Arrow's hash tables in place of a look-up in Python per id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
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


class LateLabels(Labels):
    """Labels whose numbers are provisional in large tables: `settled` gives the final ones.

    Small tables are numbered by `Labels`, until the first large piece.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: Any = None  # final ids as binary: text from JSON may hold what is no UTF-8
        self._waiting: list[Any] = []
        self._waiting_bytes = 0
        self._given = 0
        self._final = np.zeros(0, np.int32)  # numbers by provisional number

    @property
    def names(self) -> list[str]:
        if self._known is None:
            return super().names
        self._settle()
        if len(self._names) < len(self._known):
            self._names = [name.decode("utf-8", "surrogatepass") for name in self._known.to_pylist()]
        return self._names

    def __len__(self) -> int:
        if self._known is None:
            return super().__len__()
        self._settle()
        return len(self._known)

    def settled(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._known is None:
            return codes
        self._settle()
        final = np.append(self._final, np.int32(-1))  # the last is that of a missing id
        return final[codes].astype(np.int64)

    def of_texts(self, texts: Iterable[str], size: int) -> NDArray[np.int64]:
        if self._known is None and size < LARGE:
            return super().of_texts(texts, size)
        return self._of_array(_binary(list(texts)), False)

    def of_arrow(self, texts: Any, *, kind: str = "text", plain_text: bool = False) -> NDArray[np.int64]:
        if self._known is None and len(texts) < LARGE:
            return super().of_arrow(texts, kind=kind, plain_text=plain_text)
        if texts.null_count < len(texts):
            self.kinds.add(kind)
        return self._of_array(texts, plain_text)

    def _of_present(self, values: Sequence[str], plain_text: bool) -> NDArray[np.int64]:
        if self._known is None and len(values) < LARGE:
            return super()._of_present(values, plain_text)
        return self._of_array(_binary(values), plain_text)

    def _of_array(self, texts: Any, plain_text: bool) -> NDArray[np.int64]:
        from mrtsim.tables.arrow_columns import as_numpy

        if self._known is None:
            self._known = _binary(())
            self._put(_binary(super().names))
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
        # A copy: a slice would keep all of its batch's columns in memory.
        codes = self._put(pa.concat_arrays([texts, texts.slice(0, 0)]).cast(pa.large_binary()))
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
        codes = np.arange(self._given, self._given + len(ids))
        self._given += len(ids)
        self._waiting.append(ids)
        self._waiting_bytes += ids.nbytes
        if self._waiting_bytes > max(WAITING_BYTES, self._known.nbytes):
            self._settle()
        return codes

    def _settle(self) -> None:
        if not self._given > len(self._final):
            return
        known, parts = len(self._known), [self._known, *self._waiting]
        self._waiting, size, self._waiting_bytes = [], self._waiting_bytes, 0
        half = int(np.searchsorted(np.cumsum([part.nbytes for part in parts]), size / 2)) + 1
        if size < SHARED_BYTES:
            indices, self._known = _encoded(parts)
        else:
            with ThreadPoolExecutor(2) as pool:
                (first, ids), (second, others) = pool.map(_encoded, (parts[:half], parts[half:]))
            del parts
            place, self._known = _encoded([ids, others])
            indices = np.concatenate([first, place[len(ids) :][second]])
        self._final = np.concatenate([self._final, indices[known:]])


def _encoded(parts: Sequence[Any]) -> tuple[NDArray[np.int32], Any]:
    """The number of each id among the different ones, and these in the order in which they first appear."""
    import pyarrow as pa

    from mrtsim.tables.arrow_columns import as_numpy

    encoded = pa.chunked_array(parts, pa.large_binary()).dictionary_encode()  # one dictionary for all chunks
    if not encoded.num_chunks:
        return np.zeros(0, np.int32), _binary(())
    indices = np.concatenate([as_numpy(chunk.indices, 0) for chunk in encoded.chunks])
    return indices, encoded.chunk(encoded.num_chunks - 1).dictionary


def _binary(texts: Sequence[str]) -> Any:
    from mrtsim.tables.arrow_columns import as_binary

    return as_binary(texts)

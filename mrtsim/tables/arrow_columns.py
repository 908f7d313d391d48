"""Columns of Arrow arrays: numbers and ids by Arrow's own kernels, what is unusual by way of Python values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from mrtsim.tables.columns import Lists, PythonColumn
from mrtsim.tables.values import Labels, Wrong, is_turn

pc: Any = pyarrow.compute

SAMPLE = 1000


class ArrowColumn:
    """A column that is an Arrow array."""

    def __init__(self, array: Any, plain_text: bool = False):
        self.plain_text = plain_text
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if isinstance(array, pa.ChunkedArray):  # types that do not combine
            array = pa.concat_arrays(array.chunks) if array.num_chunks != 1 else array.chunk(0)
        if isinstance(array.type, pa.BaseExtensionType) and not isinstance(array.type, pa.UuidType):
            array = array.storage
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        self.array = array

    def _python(self) -> PythonColumn:
        return PythonColumn(self.array.to_pylist(), self.plain_text)

    def at(self, fields: Sequence[str]) -> Any:
        if not fields:
            return self
        kind = self.array.type
        if pa.types.is_struct(kind):
            whole = ".".join(fields)
            for name, rest in ((whole, ()), (fields[0], fields[1:])):
                index = kind.get_field_index(name)
                if index >= 0:
                    return ArrowColumn(pc.struct_field(self.array, [index])).at(rest)
        if is_list(kind) and not fields[0].isdecimal():
            inner = ArrowColumn(elements_of(self.array)).at(fields)
            if isinstance(inner, ArrowColumn):
                return ArrowColumn(_with_elements(self.array, inner.array))
        return self._python().at(fields)

    def where(self, keep: NDArray[np.bool_]) -> Any:
        try:
            return ArrowColumn(self.array.filter(as_arrow(keep)), self.plain_text)
        except pa.ArrowNotImplementedError:
            return self._python().where(keep)

    def first(self) -> Any:
        for start in range(0, len(self.array), SAMPLE):
            part = self.array.slice(start, SAMPLE)
            if part.null_count < len(part):
                value = PythonColumn(part.to_pylist(), self.plain_text).first()
                if value is not None:
                    return value
        return None

    def numbers(self, what: str) -> NDArray[np.float64]:
        kind = self.array.type
        if not self.array.null_count and (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        ):
            array = self.array.cast(pa.uint8()) if pa.types.is_boolean(kind) else self.array
            values = as_numpy(array).astype(np.float64)
            if np.isfinite(values).all():
                return values
        if is_text(kind) and not self.array.null_count:
            with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):  # what is unusual goes the long way
                values = as_numpy(self.array.cast(pa.float64()))
                if np.isfinite(values).all():
                    return values
        return self._python().numbers(what)

    def vectors(self) -> NDArray[np.float64]:
        array = self.array
        if is_list(array.type) and not array.null_count:
            inner, sizes = elements_of(array), sizes_of(array)
            if is_list(inner.type) and (sizes == 1).all() and not inner.null_count:  # 1 x d
                inner, sizes = elements_of(inner), sizes_of(inner)
            numeric = pa.types.is_integer(inner.type) or pa.types.is_floating(inner.type)
            if numeric and not inner.null_count and sizes.size and sizes.min() == sizes.max() > 0:
                values = as_numpy(inner)
                if values.dtype != np.float32:
                    values = values.astype(np.float64)
                if np.isfinite(values).all():
                    return values.reshape(len(sizes), -1)
        if not is_list(array.type) and not is_text(array.type):
            raise Wrong(0, f"{array.type} is not a list of numbers")
        return self._python().vectors()

    def labels(self, labels: Labels) -> NDArray[np.int64]:
        kind = self.array.type
        if pa.types.is_nested(kind):
            return self._python().labels(labels)
        unusable = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
        if any(test(kind) for test in (*unusable, pa.types.is_binary_view, pa.types.is_duration)):
            raise Wrong(0, f"holds {kind}; expected one id per row, text or a number")
        array = self.array
        if is_text(kind):
            array = array.cast(pa.large_string()) if pa.types.is_string_view(kind) else array
            return labels.of_arrow(array, plain_text=self.plain_text)
        try:
            encoded = array.dictionary_encode()
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            return self._python().labels(labels)
        indices = as_numpy(encoded.indices, -1)
        if pa.types.is_integer(kind):
            numbers = encoded.dictionary.cast(pa.string())
            return np.append(labels.of_arrow(numbers, kind="whole number"), -1)[indices]
        # Float16 and float32 in their own shortest text: 0.1, not 0.10000000149011612.
        narrow = {pa.float16(): np.float16, pa.float32(): np.float32}.get(kind)
        moments = pa.types.is_timestamp(kind) or pa.types.is_time(kind)
        values = _times(encoded.dictionary) if moments else encoded.dictionary.to_pylist()
        if narrow is not None:
            values = [v if v is None or math.isnan(v) else narrow(v) for v in values]
        codes = np.append(PythonColumn(values, self.plain_text).labels(labels), -1)
        return codes[indices]

    def flattened(self) -> tuple[Any, NDArray[np.int64]]:
        if not is_list(self.array.type):
            return self._python().flattened()
        sizes = sizes_of(self.array)
        return ArrowColumn(elements_of(self.array)), np.maximum(sizes, 0)

    def lists(self) -> Lists | None:
        kind = self.array.type
        if is_text(kind):
            first = self.first()
            if not isinstance(first, str) or first.lstrip()[:1] != "[":
                return None
            return self._python().lists()
        if not is_list(kind):
            return None
        sizes = sizes_of(self.array)
        if (sizes < 0).all():
            return None
        inner = kind.value_type
        if pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner):
            return Lists("numbers", sizes)
        if pa.types.is_struct(inner):
            names = {inner.field(i).name: None for i in range(inner.num_fields)}
            if is_turn(names):
                return self._python().lists()
        return Lists("other", sizes)


# `to_numpy` and `pa.array` would import pandas where it is installed, which takes longer than a small file;
# `to_pandas_dtype` of pyarrow 24 fails where it is not.
FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def as_numpy(array: Any, missing: Any = None) -> NDArray[Any]:
    """Numbers of an Arrow array as NumPy's; `missing` stands for a null."""
    name = str(array.type)
    dtype = np.dtype(FLOATS.get(name, name))
    end = array.offset + len(array)
    buffer = array.buffers()[1]
    values = (
        np.frombuffer(buffer, dtype, end)[array.offset :] if end and buffer else np.zeros(len(array), dtype)
    )
    return np.where(valid(array), values, missing) if array.null_count else values


def as_arrow(values: NDArray[Any]) -> Any:
    """Integers or truth values as an Arrow array."""
    if values.dtype == bool:
        bits = pa.py_buffer(np.packbits(values, bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])
    kind = {np.dtype(np.int32): pa.int32(), np.dtype(np.int64): pa.int64()}[values.dtype]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def as_binary(texts: Sequence[str]) -> Any:
    """Text as a binary Arrow array, whatever JSON's escapes made of it."""
    joined = "".join(texts)
    if joined.isascii():
        data, sizes = joined.encode(), np.fromiter(map(len, texts), np.int64, len(texts))
    else:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        data, sizes = b"".join(encoded), np.fromiter(map(len, encoded), np.int64, len(texts))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return pa.Array.from_buffers(
        pa.large_binary(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def valid(array: Any) -> NDArray[np.bool_]:
    """Which values are not null."""
    bits = array.buffers()[0]
    if bits is None:
        return np.full(len(array), array.null_count == 0)
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return flags[array.offset : array.offset + len(array)].astype(bool)


def is_list(kind: Any) -> bool:
    """Whether a type is a list, of any kind whose elements stand one after another."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: Any) -> bool:
    """Whether a type is text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def sizes_of(array: Any) -> NDArray[np.int64]:
    """The length of each list, -1 for a null."""
    if pa.types.is_fixed_size_list(array.type):
        sizes = np.full(len(array), array.type.list_size, np.int64)
        if array.null_count:
            sizes[~valid(array)] = -1
        return sizes
    return as_numpy(pc.list_value_length(array), -1).astype(np.int64)


def elements_of(array: Any) -> Any:
    """The elements of all lists that are not null, one after another."""
    return array.flatten()


def _with_elements(array: Any, elements: Any) -> Any:
    """Lists of the same lengths around other elements."""
    sizes = sizes_of(array)
    offsets = as_arrow(np.concatenate([[0], np.cumsum(np.maximum(sizes, 0))]).astype(np.int64))
    mask = as_arrow(sizes < 0) if (sizes < 0).any() else None
    return pa.LargeListArray.from_arrays(offsets, elements, mask=mask)


def _times(array: Any) -> list[Any]:
    """Moments as text with all their digits and none beyond; Python's own have microseconds."""
    text = array.cast(pa.string())
    return [
        t and re.sub(r"\.0+(?!\d)|(\.\d+?)0+(?!\d)", r"\1", t.replace(" ", "T")) for t in text.to_pylist()
    ]


def resized(array: Any, sizes: NDArray[np.int64], elements: Any) -> Any:
    """Lists of the same type (of fixed size: of a free one) with these lengths, -1 for null, and elements.

    Args:
        array: Arrow array of lists, whose type is kept.
        sizes: length of each list, -1 for null, (lists,).
        elements: Arrow array of all elements, one list after another.
    """
    kind = array.type
    offsets = np.concatenate([[0], np.cumsum(np.maximum(sizes, 0))])
    mask = as_arrow(sizes < 0) if (sizes < 0).any() else None
    large = pa.types.is_large_list(kind)
    target = kind if large or pa.types.is_list(kind) else pa.list_(kind.value_field)
    builder = pa.LargeListArray if large else pa.ListArray
    offsets = as_arrow(offsets.astype(np.int64 if large else np.int32))
    return builder.from_arrays(offsets, elements, type=target, mask=mask)

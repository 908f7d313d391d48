"""Reads the weights of a language model from a GGUF file, into float32 arrays.

GGUF version 3, little-endian: a header, metadata, the tensors' names and shapes, and their data. Of the data's types
those are known that the experiment's model has: F32, Q4_1 (blocks of 32 four-bit numbers with a scale and an offset)
and Q8_0 (blocks of 32 eight-bit numbers with a scale). Source of the layout: the GGUF specification of ggml.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrtsim.errors import InputError

# struct codes of the metadata's scalar types, by number; 8 is text and 9 a list
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9


class Gguf(NamedTuple):
    """What a file holds: metadata by name, and tensors by name, rows first as NumPy has them."""

    metadata: dict[str, Any]
    tensors: dict[str, np.ndarray]


def read_gguf(path: str | Path) -> Gguf:
    """The metadata and the tensors of a file, every tensor as float32.

    Raises:
        InputError: it is no GGUF file of version 3, is cut off, or has a tensor of another type.
    """
    data = np.fromfile(path, np.uint8)
    try:
        return _parsed(data, path)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is cut off or damaged ({error}): install the weights again") from None


def _parsed(data: np.ndarray, path: str | Path) -> Gguf:
    view, at = data.data, 0

    def scalar(code: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(f"<{code}", view, at)
        at += struct.calcsize(f"<{code}")
        return value

    def text() -> str:
        nonlocal at
        length = scalar("Q")
        if at + length > len(view):
            raise IndexError("text goes beyond the end")
        at += length
        return bytes(view[at - length : at]).decode()

    def value(kind: int) -> Any:
        if kind == _TEXT:
            return text()
        if kind == _LIST:
            inner, count = scalar("I"), scalar("Q")
            return [value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise InputError(f"{path}: metadata of the unknown type {kind}")
        return scalar(_SCALARS[kind])

    if bytes(view[:4]) != b"GGUF":
        raise InputError(f"{path} is no GGUF file: it does not begin with the letters GGUF")
    at = 4
    version = scalar("I")
    if version != 3:
        raise InputError(f"{path} has GGUF version {version}, and version 3 is read")
    n_tensors, n_metadata = scalar("Q"), scalar("Q")
    metadata = {}
    for _ in range(n_metadata):
        name = text()
        metadata[name] = value(scalar("I"))
    found = []
    for _ in range(n_tensors):
        name = text()
        shape = [scalar("Q") for _ in range(scalar("I"))][::-1]
        found.append((name, shape, scalar("I"), scalar("Q")))
    alignment = metadata.get("general.alignment", 32)
    begin = -(-at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in found:
        if kind not in _TYPES:
            raise InputError(
                f"{path}: tensor {name} has type {kind}; read are F32 (0), Q4_1 (3) and Q8_0 (8)"
            )
        per_block, size, decode = _TYPES[kind]
        blocks = math.prod(shape) // per_block
        raw = data[begin + offset : begin + offset + blocks * size]
        if len(raw) < blocks * size:
            raise IndexError(f"tensor {name} goes beyond the end")
        tensors[name] = decode(raw.reshape(blocks, size)).reshape(shape)
    return Gguf(metadata, tensors)


def _halves(raw: np.ndarray) -> np.ndarray:
    """Two bytes per row as one float16 number, in float32."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _f32(raw: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(raw).view("<f4").astype(np.float32)


def _q4_1(raw: np.ndarray) -> np.ndarray:
    """Scale, offset, and 16 bytes whose low halves are numbers 0 to 15 of the block, and whose high halves 16 to 31."""
    scale, offset, packed = _halves(raw[:, 0:2]), _halves(raw[:, 2:4]), raw[:, 4:]
    return scale * np.concatenate([packed & 15, packed >> 4], axis=1) + offset


def _q8_0(raw: np.ndarray) -> np.ndarray:
    return _halves(raw[:, :2]) * raw[:, 2:].view(np.int8)


# by type: numbers per block, bytes per block, blocks (n, bytes) -> numbers (n, numbers)
_TYPES: dict[int, tuple[int, int, Callable[[np.ndarray], np.ndarray]]] = {
    0: (1, 4, _f32),
    3: (32, 20, _q4_1),
    8: (32, 34, _q8_0),
}

import struct

import numpy as np
import pytest

from experiments.shared.gguf import read_gguf
from mrtsim.errors import InputError


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(name, kind, body):
    return text(name) + struct.pack("<I", kind) + body


def written(path, tensors, metadata=(), version=3):
    """A file of tensors: name -> (shape, type, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + b"".join(metadata)
    body = b""
    for name, (shape, kind, data) in tensors.items():
        body += b"\0" * (-len(body) % 32)
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += text(name) + dims + struct.pack("<IQ", kind, len(body))
        body += data
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path


def half(value):
    return struct.pack("<e", value)


# Q4_1: number i of a block is scale * (low half of byte i) + offset, number 16 + i takes the high half.
Q4_1 = half(0.5) + half(-1.0) + bytes(i | (15 - i) << 4 for i in range(16))
Q8_0 = half(0.25) + bytes((i - 16) % 256 for i in range(32))
TENSORS = {
    "plain": ((2, 3), 0, np.arange(6, dtype="<f4").tobytes()),
    "four": ((2, 32), 3, Q4_1 * 2),
    "eight": ((32,), 8, Q8_0),
}


def test_all_three_types_are_read(tmp_path):
    metadata = [
        entry("a.name", 8, text("Ünï")),
        entry("a.number", 4, struct.pack("<I", 7)),
        entry("a.list", 9, struct.pack("<IQ", 8, 2) + text("x") + text("y")),
    ]
    data, tensors = read_gguf(written(tmp_path / "m.gguf", TENSORS, metadata))
    assert data == {"a.name": "Ünï", "a.number": 7, "a.list": ["x", "y"]}
    np.testing.assert_array_equal(tensors["plain"], [[0, 1, 2], [3, 4, 5]])
    row = np.concatenate([np.arange(16), 15 - np.arange(16)]) * 0.5 - 1
    np.testing.assert_array_equal(tensors["four"], [row, row])
    np.testing.assert_array_equal(tensors["eight"], (np.arange(32) - 16) * 0.25)
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}


def test_what_is_no_such_file_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"PK\3\4 something else")
    with pytest.raises(InputError, match="is no GGUF file"):
        read_gguf(path)
    with pytest.raises(InputError, match="has GGUF version 2"):
        read_gguf(written(path, TENSORS, version=2))
    with pytest.raises(InputError, match="tensor odd has type 2"):
        read_gguf(written(path, {"odd": ((32,), 2, bytes(18))}))
    whole = written(path, TENSORS).read_bytes()
    for cut in (10, 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="cut off or damaged"):
            read_gguf(path)

"""Files that a command is given: names, folders, globs and standard input, and the bytes inside their compression."""

from __future__ import annotations

import glob
import gzip
import io
import os
import re
import stat
import sys
import tempfile
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from mrtsim.errors import InputError
from mrtsim.tables import chunks

HEAD_BYTES = 4096
# A pipe that nobody opens for writing within this time is refused.
PIPE_SECONDS = 10.0
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
WORKBOOKS = (".xlsx", ".xlsm", ".ods")
# What a folder of shards holds beside them: `datasets` and Spark write these.
NOT_DATA = {"dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json"}

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class InputFile:
    """One file of a table.

    Attributes:
        path: where its bytes are.
        name: how messages call it.
        compression: "gzip", "zstd" or None, by its content.
        head: its first bytes, uncompressed, without a byte order mark.
        ending: of its name, in lower case, without the compression's: ".jsonl".
        state: size and time of its last change when it was first looked at; None for a table in memory.
    """

    path: Path
    name: str
    compression: str | None
    head: bytes
    ending: str
    state: tuple[int, int] | None = None

    def check_unchanged(self) -> None:
        """InputError if the file is another than when it was first looked at: it grew, shrank or was written anew."""
        if self.state is None:
            return
        try:
            info = self.path.stat()
        except OSError as error:
            raise InputError(_unreadable(self.name, error)) from None
        if (info.st_size, info.st_mtime_ns) != self.state:
            raise InputError(f"{self.name} changed while it was read; wait until it is complete")

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes, uncompressed; what fails on the way is an InputError."""
        try:
            with self.path.open("rb", buffering=1 << 20) as file:
                yield decompressed(file, self.compression)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(_unreadable(self.name, error)) from None

    def error(self, message: str, place: str | None = None, column: str | None = None) -> InputError:
        """An InputError about this file, a place in it ("line 3") and a column.

        Args:
            message: what is wrong, and what would be right.
            place: such as "line 3"; None for the whole file.
            column: its name, where one column is to blame.
        """
        where = self.name + (f", {place}" if place else "") + (f", column {column!r}" if column else "")
        return InputError(f"{where}: {message}")


def decompressed(file: IO[bytes], compression: str | None) -> IO[bytes]:
    """The bytes inside a compressed file."""
    if compression == "gzip":
        return io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20)  # type: ignore[arg-type]
    if compression == "zstd":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"), 1 << 20)  # type: ignore[arg-type]
    return file


def whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """A file's bytes after its byte order mark, in blocks that end where a line does."""
    start = file.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
    while block := file.read(chunks.BYTES):
        yield start + block + file.readline()
        start = b""
    if start:
        yield start


def lines_in(block: bytes) -> int:
    """How many lines a block has; the last may lack its end."""
    # NumPy takes a third of the time of `bytes.count`.
    ends = int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))
    return ends + (not block.endswith(b"\n"))


def ahead(blocks: Iterator[bytes], work: Callable[[bytes], Any]) -> Generator[tuple[bytes, Any]]:
    """Each block in order, and what other threads made of it meanwhile; a few blocks wait at most."""
    with ThreadPoolExecutor(2) as pool:
        waiting: deque[tuple[bytes, Future[Any]]] = deque()
        for block in blocks:
            waiting.append((block, pool.submit(work, block)))
            if len(waiting) > 3:
                block, done = waiting.popleft()
                yield block, done.result()
        for block, done in waiting:
            yield block, done.result()


@contextmanager
def compressed(path: Path) -> Iterator[IO[bytes]]:
    """A new file for bytes, compressed where its ending says so (its `.partial` aside); on disk when it closes."""
    kind = COMPRESSIONS.get(Path(path.name.removesuffix(".partial")).suffix.lower())
    with path.open("wb", buffering=1 << 20) as file:
        if kind == "gzip":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as stream:
                yield stream  # type: ignore[misc]
        elif kind == "zstd":
            import pyarrow as pa

            with pa.CompressedOutputStream(file, "zstd") as stream:
                yield stream
        else:
            yield file
    with path.open("rb") as written:  # what compresses may have closed the file
        os.fsync(written.fileno())


def endings_of(path: Path) -> tuple[str, str | None]:
    """The ending that names a format, and the compression that the name claims: ".jsonl", "gzip"."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        return Path(path.stem).suffix.lower(), COMPRESSIONS[suffix]
    return suffix, None


def locate(sources: Source | Sequence[Source], known: Sequence[str]) -> list[InputFile]:
    """Every file that the sources name, in order.

    A name is first taken literally, then as a folder of shards, then as a pattern (`runs/*.jsonl`); "-" is standard
    input.

    Args:
        sources: one name or several.
        known: the endings that name a format; of a folder, the files that have one are its shards.

    Raises:
        InputError: a name is no file, a file cannot be read, or stands there twice.
    """
    names = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not names:
        raise InputError("no file is named")
    files: list[InputFile] = []
    for name in names:
        files.extend(_one_source(os.fspath(name), known))
    seen: dict[tuple[int, int], str] = {}
    for file in files:
        info = file.path.stat()
        place = info.st_dev, info.st_ino
        if place in seen:
            raise InputError(
                f"{file.name} is named twice (first as {seen[place]}); its rows would count twice"
            )
        seen[place] = file.name
    return files


def _one_source(name: str, known: Sequence[str]) -> list[InputFile]:
    if name == "-":
        return [_standard_input()]
    if not name:
        raise InputError("a file's name is empty; is a variable of the shell unset?")
    if re.match(r"[a-z][a-z0-9+.-]+://", name):
        raise InputError(f"{name} is an address, not a file; download it first")
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if not glob.has_magic(name):
            raise InputError(_unreadable(name, error)) from None
        found = sorted((p for p in glob.glob(name, recursive=True) if Path(p).is_file()), key=_natural)
        if not found:
            raise InputError(f"no file is called {name}, and none matches it as a pattern") from None
        return [inspected(Path(p), p) for p in found]
    if stat.S_ISDIR(mode):
        return [inspected(p, str(p)) for p in _shards(path, known)]
    if stat.S_ISFIFO(mode):
        return [_from_pipe(path)]
    if not stat.S_ISREG(mode):
        raise InputError(f"{name} is a device, not a file; pipe its content in, with - for the file's name")
    return [inspected(path, name)]


def _shards(folder: Path, known: Sequence[str]) -> list[Path]:
    """The files of a folder that hold rows, in the order of their numbers."""
    try:
        inside = sorted((p for p in folder.iterdir() if not p.name.startswith((".", "_"))), key=_natural)
        shards = [p for p in inside if p.is_file() and endings_of(p)[0] in known and p.name not in NOT_DATA]
        deeper = [p for p in inside if p.is_dir()]
        below = next(
            (
                endings_of(p)[0]
                for d in deeper
                for p in d.rglob("*")
                if endings_of(p)[0] in known and p.name not in NOT_DATA and p.is_file()
            ),
            None,
        )
    except OSError as error:
        raise InputError(_unreadable(str(folder), error)) from None
    if below is not None:
        raise InputError(
            f"{folder} has files in folders inside it; name those that are meant: '{folder}/**/*{below}'"
        )
    if not shards:
        logs = "; its logs of Inspect: mrtsim pilot --log inspect" if any(folder.glob("*.eval")) else ""
        raise InputError(f"{folder} is a folder without a file that ends in {', '.join(known)}{logs}")
    kinds = sorted({endings_of(p)[0] for p in shards})
    if len(kinds) > 1:
        raise InputError(
            f"{folder} holds files of several formats ({', '.join(kinds)}); name those that are meant: "
            f"'{folder}/*{endings_of(shards[0])[0]}'"
        )
    return shards


def _natural(path: str | Path) -> list[Any]:
    """Sorts 2.jsonl before 10.jsonl."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", str(path))
        if part
    ]


def _standard_input() -> InputFile:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or sys.stdin.isatty():
        raise InputError("standard input is a terminal; pipe a table into it, or name a file")
    return _spooled(stream, "standard input", "")


def _from_pipe(path: Path) -> InputFile:
    """A named pipe is read once, into a temporary file; one that nobody writes to is refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as pipe:
        deadline = time.monotonic() + PIPE_SECONDS
        first: bytes | None = b""
        while first == b"":
            first = pipe.read(1 << 16)  # None: somebody is there, and has written nothing yet
            if first == b"":
                if time.monotonic() > deadline:
                    raise InputError(f"{path} is a pipe that nobody writes to; start what writes to it first")
                time.sleep(0.02)
        os.set_blocking(descriptor, True)
        return _spooled(pipe, str(path), endings_of(path)[0], first or b"")


def _spooled(stream: Any, name: str, ending: str, first: bytes = b"") -> InputFile:
    """A stream's bytes in a temporary file, which goes when the last user of it does."""
    descriptor, path = tempfile.mkstemp(prefix="mrtsim-")
    try:
        with open(descriptor, "wb") as file:
            file.write(first)
            while block := stream.read(1 << 20):
                file.write(block)
        found = inspected(Path(path), name, ending)
    except OSError as error:
        os.unlink(path)
        raise InputError(
            f"cannot keep {name} in {tempfile.gettempdir()}: {error.strerror or error}"
        ) from None
    except BaseException:
        os.unlink(path)
        raise
    weakref.finalize(found, _remove, path)
    return found


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def inspected(path: Path, name: str, ending: str | None = None) -> InputFile:
    """Look into a file: compression by content, and what is not a table at all.

    Args:
        path: of the file.
        name: what messages call it.
        ending: in place of that of the path, such as ".csv".
    """
    claimed = None
    if ending is None:
        ending, claimed = endings_of(path)
    try:
        with path.open("rb") as file:
            info = os.stat(file.fileno())
            raw = file.read(HEAD_BYTES)
            kind = next((kind for magic, kind in MAGIC.items() if raw.startswith(magic)), None)
            head = raw
            if kind:
                file.seek(0)
                head = decompressed(file, kind).read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(_unreadable(name, error)) from None
    if not raw:
        raise InputError(f"{name} is empty; expected a table with one row per response or one row per prompt")
    if claimed and kind is None:
        raise InputError(
            f"{name} is not compressed, though its name says so: mv {path} {path.with_suffix('')}"
        )
    state = info.st_size, info.st_mtime_ns
    found = InputFile(path, name, kind, head.removeprefix(BYTE_ORDER_MARK), ending, state)
    _refuse_what_is_no_table(found)
    return found


def _refuse_what_is_no_table(file: InputFile) -> None:
    head, name = file.head, file.name
    start = head.lstrip()[:64].lower()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise InputError(
            f"{name} is a Git LFS pointer, not the data: git lfs pull --include '{file.path.name}'"
        )
    if start.startswith((b"<!doctype html", b"<html")):
        raise InputError(
            f"{name} is an HTML page, not the data: download the raw file again (curl -L -o {file.path.name} URL)"
        )
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and len(head) > 2:
        raise InputError(
            f"{name}, line 1: not UTF-8 text but UTF-16: iconv -f utf-16 -t utf-8 {file.path.name} > utf8{file.ending}"
        )
    inspect = f"{name} is a log of Inspect: mrtsim pilot --log inspect"
    if head.startswith(b"PK\x03\x04") and file.path.suffix == ".eval":
        raise InputError(inspect)
    if re.match(rb'\{\s*"version": \d+,\s*"status": "\w+",\s*"eval": ', head):
        raise InputError(inspect)
    if head.startswith(b"PK\x03\x04") and file.ending in WORKBOOKS:
        raise InputError(f"{name} is a workbook, not a table: save the sheet as CSV")
    for magic, tool in ((b"BZh", "bunzip2"), (b"\xfd7zXZ", "unxz"), (b"PK\x03\x04", "unzip")):
        if head.startswith(magic):
            raise InputError(f"{name} is a compressed archive: {tool} {file.path.name}")


def _unreadable(name: str, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"cannot read {name}: No such file or folder"
    if (
        isinstance(error, EOFError | zlib.error | gzip.BadGzipFile)
        or "ompress" in str(error)
        or "CRC" in str(error)
    ):
        return f"{name} is cut short or damaged: its compression does not end well; copy it again"
    text = getattr(error, "strerror", None) or str(error)
    return f"cannot read {name}: {text}"

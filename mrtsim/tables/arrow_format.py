"""Arrow IPC (Feather), as a file or a stream, and tables in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mrtsim.errors import InputError
from mrtsim.tables import chunks
from mrtsim.tables.arrow_output import written_tables
from mrtsim.tables.format import Format, Records, Write
from mrtsim.tables.parquet_format import why_schemas_differ
from mrtsim.tables.values import first_line

FILE_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
# Where the codec's own magic stands in the first buffer of a batch, after the buffer's length.
CODECS = {b"\x04\x22\x4d\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}


class ArrowFormat(Format):
    """An Arrow IPC file or stream; `.feather` is the former."""

    name = "arrow"
    endings = (".arrow", ".feather", ".ipc", ".arrows")
    unit = "row"

    @classmethod
    def recognises(cls, head: bytes) -> bool:
        return head.startswith((FILE_MAGIC, STREAM_MAGIC))

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream, without an index of its batches."""
        return not self.file.head.startswith(FILE_MAGIC)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Iterator[Any]]]:
        """The schema and the batches."""
        import pyarrow as pa

        if self.file.head.startswith(b"FEA1"):
            raise self.file.error("Feather version 1 is too old to read; write it anew with pyarrow.feather")
        try:
            with self.file.open() as file:
                if self.is_stream:
                    reader = pa.ipc.open_stream(file)
                    yield reader.schema, iter(reader)
                elif self.file.compression:
                    raise self.file.error(f"compressed Arrow: gunzip or unzstd {self.file.path.name} first")
                else:
                    index = pa.ipc.open_file(file)
                    yield index.schema, (index.get_batch(i) for i in range(index.num_record_batches))
        except InputError:
            raise
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, MemoryError) as error:
            if isinstance(error, OSError) and error.strerror:
                raise InputError(f"cannot read {self.file.name}: {error.strerror}") from None
            raise self.file.error(f"not an Arrow file, or a damaged one ({first_line(error)})") from None

    @cached_property
    def schema(self) -> Any:
        """The Arrow schema."""
        with self._opened() as (schema, _):
            _ = schema.names, str(schema)  # of a damaged file they may be no text
            return schema

    def columns(self) -> list[str]:
        return self.unique(self.schema.names)

    def records(self, columns: Sequence[str] | None, *, copies: bool = False) -> Iterator[Records]:
        from mrtsim.tables.arrow_records import ArrowRecords

        empty = True
        with self._opened() as (_, batches):
            for batch in batches:
                if columns is not None and not copies:
                    batch = batch.select(list(columns))
                batch.validate(full=True)  # offsets of a damaged file would lead outside the memory
                for part in sliced(batch):
                    empty = False
                    yield ArrowRecords(part, self.file)
        if empty:
            raise self.file.error("has columns but no rows")

    def writer(self, path: Path) -> AbstractContextManager[Write]:
        import pyarrow as pa

        options = pa.ipc.IpcWriteOptions(compression=self._codec())
        new = pa.ipc.new_stream if self.is_stream else pa.ipc.new_file

        def explained(error: Exception) -> InputError:
            if "ictionary" not in str(error):
                return self.file.error(f"its rows cannot be written as Arrow ({first_line(error)})")
            return self.file.error(
                "its dictionaries differ from those before, and an Arrow file has one; write each file for itself "
                "(--out FOLDER/)"
            )

        return written_tables(
            path, lambda file, schema: new(file, schema, options=options), self.schema, explained
        )

    def _codec(self) -> str | None:
        """The compression of the first batch's buffers."""
        import pyarrow as pa

        with self.file.open() as file:
            if not self.is_stream:
                file.read(8)
            reader = pa.ipc.MessageReader.open_stream(file)
            try:
                for message in reader:
                    if message.type == "record batch" and message.body is not None:
                        return (
                            CODECS.get(message.body.slice(8, 4).to_pybytes())
                            if message.body.size > 12
                            else None
                        )
            except (pa.ArrowException, OSError, StopIteration):
                return None
        return None

    def joins(self, other: Format) -> str | None:
        return why_schemas_differ(self.schema, other.schema) if isinstance(other, ArrowFormat) else None


def sliced(batch: Any) -> Iterator[Any]:
    """A batch in parts of bounded size."""
    rows = max(1, min(chunks.ROWS, int(batch.num_rows * 4 * chunks.BYTES / (batch.nbytes + 1))))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)

"""Parquet: read by row groups, and copied with its schema, metadata and types."""

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
from mrtsim.tables.values import first_line


class ParquetFormat(Format):
    """A Parquet file."""

    name = "parquet"
    endings = (".parquet", ".pq")
    unit = "row"

    @classmethod
    def recognises(cls, head: bytes) -> bool:
        return head.startswith(b"PAR1")

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.file.compression:
            raise self.file.error(
                f"compressed Parquet cannot be read: gunzip or unzstd {self.file.path.name}"
            )
        opened = False
        try:
            # One column's pages at a time, so that a large row group is not held whole.
            with pq.ParquetFile(self.file.path, pre_buffer=False, buffer_size=1 << 20) as parquet:
                opened = True
                yield parquet
        except InputError:
            raise
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            if isinstance(error, OSError) and error.strerror:
                raise InputError(f"cannot read {self.file.name}: {error.strerror}") from None
            what = "a damaged Parquet file" if opened else "not a Parquet file"
            raise self.file.error(f"{what} ({first_line(error)})") from None

    @cached_property
    def schema(self) -> Any:
        """The Arrow schema."""
        with self._opened() as parquet:
            _ = parquet.schema_arrow.names, str(parquet.schema_arrow)  # of a damaged file they may be no text
            return parquet.schema_arrow

    def columns(self) -> list[str]:
        return self.unique(self.schema.names)

    def records(self, columns: Sequence[str] | None, *, copies: bool = False) -> Iterator[Records]:
        from mrtsim.tables.arrow_records import ArrowRecords

        with self._opened() as parquet:
            meta = parquet.metadata
            if not meta.num_rows:
                raise self.file.error("has columns but no rows")
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            size = sum(group.total_byte_size for group in groups) / meta.num_rows
            names = None if copies or columns is None else list(columns)
            most = chunks.ROWS if names is None else 4 * chunks.ROWS  # few columns: fewer, larger pieces
            rows = max(1, min(most, int(4 * chunks.BYTES / (size + 1))))
            for batch in parquet.iter_batches(rows, columns=names):
                batch.validate(full=True)  # text that is no UTF-8
                yield ArrowRecords(batch, self.file)

    def writer(self, path: Path) -> AbstractContextManager[Write]:
        import pyarrow.parquet as pq

        with self._opened() as parquet:
            compression, old_times = self._kinds(parquet)

        def create(file: Any, schema: Any) -> Any:
            return pq.ParquetWriter(
                file, schema, compression=compression, use_deprecated_int96_timestamps=old_times
            )

        def explained(error: Exception) -> InputError:
            return self.file.error(f"its rows cannot be written as Parquet ({first_line(error)})")

        return written_tables(path, create, self.schema, explained)

    def _kinds(self, parquet: Any) -> tuple[Any, bool]:
        """The compression of each column, and whether moments are written as INT96, the old way."""
        import pyarrow as pa

        # Of a damaged file the metadata of a column may end the process, but for a reader they raise.
        next(parquet.iter_batches(1, row_groups=[0]), None)
        meta = parquet.metadata
        leaves = [parquet.schema.column(i) for i in range(meta.num_columns)]
        old = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
        moments = sum(pa.types.is_timestamp(field.type) for field in self.schema)
        if old and len(old) != moments:
            raise self.file.error(
                f"column {old[0]!r} holds INT96 times beside times of another kind, which cannot be written together; "
                "rewrite it as TIMESTAMP first"
            )
        compression = {
            meta.row_group(0).column(i).path_in_schema: meta.row_group(0).column(i).compression
            for i in range(meta.num_columns)
        }
        compression = {path: "NONE" if kind == "UNCOMPRESSED" else kind for path, kind in compression.items()}
        one = set(compression.values())
        return (one.pop() if len(one) == 1 else compression), bool(old)

    def joins(self, other: Format) -> str | None:
        return why_schemas_differ(self.schema, other.schema) if isinstance(other, ParquetFormat) else None


def why_schemas_differ(first: Any, other: Any) -> str | None:
    """Why two Arrow schemas cannot stand in one file; None where they can. Their metadata may differ."""
    if first.names != other.names:
        return "their columns differ"
    for a, b in zip(first, other, strict=True):
        if a.type != b.type:
            return f"column {a.name!r} holds {a.type} in one and {b.type} in the other"
    return None

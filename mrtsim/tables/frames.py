"""Tables in memory: pandas, polars, pyarrow and `datasets`, by the Arrow C stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mrtsim.errors import InputError
from mrtsim.tables.arrow_format import ArrowFormat, sliced
from mrtsim.tables.arrow_output import written_tables
from mrtsim.tables.format import Format, Records, Write
from mrtsim.tables.parquet_format import ParquetFormat
from mrtsim.tables.sources import InputFile
from mrtsim.tables.values import first_line

STREAMED = 10_000  # rows of a streamed data set at a time


def arrow_table(frame: Any) -> Any:
    """A table in memory as an Arrow table.

    Raises:
        InputError: it is no such table.
    """
    import pyarrow as pa

    if type(frame).__module__.split(".")[0] == "datasets" and not isinstance(frame, pa.Table):
        if not hasattr(frame, "with_format") or isinstance(frame, dict):
            raise InputError(
                f"expected one split of a data set, got {type(frame).__name__}: name it, dataset['train']"
            )
        whole = frame.with_format("arrow")
        if hasattr(frame, "__len__"):
            return whole[:]
        batches = list(whole.iter(batch_size=STREAMED))  # a streamed data set has no length
        if not batches:
            raise InputError(f"the {type(frame).__name__} has no rows")
        return pa.concat_tables(batches)
    try:
        return pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        why = "collect() it first" if hasattr(frame, "collect") else first_line(error)
        raise InputError(f"cannot read the {type(frame).__name__} as a table ({why})") from None


class FrameFormat(Format):
    """A table in memory; it is read like a file, and the kept rows are an Arrow table."""

    name = "table"
    endings = ()
    unit = "row"

    def __init__(self, frame: Any):
        self.table = arrow_table(frame)
        super().__init__(InputFile(Path(), f"the {type(frame).__name__}", None, b"", ""))

    def columns(self) -> list[str]:
        return self.unique(self.table.schema.names)

    def records(self, columns: Sequence[str] | None, *, copies: bool = False) -> Iterator[Records]:
        from mrtsim.tables.arrow_records import ArrowRecords

        if not self.table.num_rows:
            raise self.file.error("has columns but no rows")
        table = self.table if columns is None or copies else self.table.select(list(columns))
        for part in sliced(table):
            yield ArrowRecords(part, self.file)

    def writer(self, path: Path) -> AbstractContextManager[Write]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        ending = path.suffix.lower()
        if ending not in (*ParquetFormat.endings, *ArrowFormat.endings):
            raise InputError(
                f"{path.name}: a table in memory is written as Parquet or Arrow; end the name in .parquet or .arrow"
            )
        create = pq.ParquetWriter if ending in ParquetFormat.endings else pa.ipc.new_file

        def explained(error: Exception) -> InputError:
            return self.file.error(f"its rows cannot be written as {ending} ({first_line(error)})")

        return written_tables(path, create, self.table.schema, explained)

"""New files of Arrow tables, for every format that Arrow writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrtsim.errors import InputError
from mrtsim.tables.format import Write


@contextmanager
def written_tables(
    path: Path, create: Callable[[Any, Any], Any], schema: Any, explained: Callable[[Any], InputError]
) -> Iterator[Write]:
    """A function that takes tables; the file begins with the first, and is whole and on disk on leaving.

    Args:
        path: of the new file.
        create: the writer, from the open file and the first table's schema.
        schema: of a file without tables.
        explained: what to say where Arrow cannot write a table.
    """
    import pyarrow as pa

    writer: Any = None
    with path.open("wb") as file:

        def write(table: Any) -> None:
            nonlocal writer
            if writer is None:
                writer = create(file, table.schema)
            if table.num_rows:
                try:
                    writer.write_table(table)
                except pa.ArrowException as error:
                    raise explained(error) from None

        try:
            yield write
        except BaseException:
            if writer is not None:
                with suppress(Exception):  # the file goes away
                    writer.close()
            raise
        if writer is None:
            write(schema.empty_table())
        if writer is not None:
            writer.close()
        file.flush()
        os.fsync(file.fileno())

"""The formats that files can have, and which of them a file has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from mrtsim.errors import InputError
from mrtsim.tables.arrow_format import ArrowFormat
from mrtsim.tables.csv_format import CsvFormat, TsvFormat
from mrtsim.tables.format import Format
from mrtsim.tables.json_format import JsonFormat
from mrtsim.tables.jsonl_format import JsonlFormat
from mrtsim.tables.parquet_format import ParquetFormat
from mrtsim.tables.sources import InputFile, Source, locate

FORMATS: list[type[Format]] = [CsvFormat, TsvFormat, JsonlFormat, JsonFormat, ParquetFormat, ArrowFormat]

Tables = Source | Sequence[Source] | Any


def endings() -> list[str]:
    """Every ending that names a format."""
    return [ending for kind in FORMATS for ending in kind.endings]


def open_tables(sources: Tables, format_name: str | None = None) -> list[Format]:
    """The files that a command is given, each as its format.

    Args:
        sources: a file, a folder of shards, a pattern, "-" for standard input, several of these, or one table in
            memory that has the Arrow C stream (pandas, polars, pyarrow, `datasets`).
        format_name: of the files; by their content and ending where it is None.

    Raises:
        InputError: a file cannot be found or read, has no known format, or they have several.
    """
    if is_frame(sources):
        from mrtsim.tables.frames import FrameFormat

        return [FrameFormat(sources)]
    _refuse_what_is_no_source(sources)
    files = locate(sources, endings())
    opened = [format_of(file, format_name)(file) for file in files]
    for other in opened[1:]:
        if type(other) is not type(opened[0]):
            raise InputError(
                f"{opened[0].file.name} is {opened[0].name} but {other.file.name} is {other.name}; "
                "read files of one format at a time"
            )
    return opened


def is_frame(source: Any) -> bool:
    """Whether a source is a table in memory."""
    return hasattr(source, "__arrow_c_stream__") or type(source).__module__.split(".")[0] == "datasets"


def _refuse_what_is_no_source(sources: Any) -> None:
    if isinstance(sources, Iterable) and not isinstance(sources, list | tuple | str | os.PathLike):
        return  # of names, such as a generator's; what they are is seen when they are read
    for name in sources if isinstance(sources, list | tuple) else [sources]:
        if isinstance(name, str | os.PathLike):
            continue
        kind = type(name).__name__
        if is_frame(name):
            raise InputError(f"several tables in memory: put them together, and give one {kind}")
        lazy = "; collect() it first" if hasattr(name, "collect") else ""
        raise InputError(
            f"expected a file's name, or a table of pandas, polars, pyarrow or datasets, got {kind}{lazy}"
        )


def format_of(file: InputFile, name: str | None = None) -> type[Format]:
    """The format of a file: the one that is named, else by its content, else by its ending."""
    if name is not None:
        for kind in FORMATS:
            if kind.name == name:
                return kind
        raise InputError(f"no format {name!r}; there are {', '.join(kind.name for kind in FORMATS)}")
    by_ending = next((kind for kind in FORMATS if file.ending in kind.endings), None)
    tabular = by_ending is not None and issubclass(by_ending, CsvFormat)  # a header may begin with anything
    for kind in FORMATS:
        if kind.recognises(file.head) and not (tabular and kind is JsonFormat):
            return kind
    if file.head.lstrip().startswith(b"{") and not tabular:
        return JsonlFormat
    if by_ending is not None:
        return by_ending
    ending = f"the ending {file.ending!r}" if file.ending else "no ending"
    raise InputError(
        f"{file.name} has {ending}, which names no format; say --format {', '.join(kind.name for kind in FORMATS)}"
    )

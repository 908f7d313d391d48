"""Which losses does a pilot file hold? CSV, JSONL and Parquet, one row a response or one row a prompt.

polars reads the needed columns only, and as text: prompt ids are text, never numbers ("007" stays "007"). What is
wrong is named by file, line (Parquet: row), column and what would be right; a text file is read a second time, line
by line, only to find the line that an error is about.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrtsim.errors import InputError

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

FORMATS = {".csv": "CSV", ".jsonl": "JSONL", ".ndjson": "JSONL", ".parquet": "Parquet"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Pilot:
    """Losses of a pilot, one entry a response; `estimate_components(pilot.losses, pilot.prompts, ...)` takes them.

    Attributes:
        losses: finite numbers, (rows,).
        prompts: which prompt each belongs to, as integers, (rows,).
        groups: which group of redundant prompts, as integers, (rows,); None where no group column was asked for.
    """

    losses: NDArray[np.float64]
    prompts: NDArray[np.int64]
    groups: NDArray[np.int64] | None


def read_pilot(
    path: str | PathLike[str],
    *,
    prompt_column: str = "prompt_id",
    loss_column: str = "loss",
    group_column: str | None = None,
) -> Pilot:
    """Read a pilot: CSV, JSONL or Parquet by the file's ending.

    With one row a response the loss is a number; with one row a prompt (JSONL, Parquet) it is a list of numbers. A
    prompt's rows need not stand together.

    Raises:
        InputError: the file cannot be read, has no such column, or holds a value that is not a loss, an id or a group.
    """
    source = _Source(Path(path))
    wanted = {"prompt": prompt_column, "loss": loss_column}
    options = {"prompt": "--prompt-column", "loss": "--loss-column", "group": "--group-column"}
    if group_column is not None:
        wanted["group"] = group_column
    present = source.columns()
    for role, name in wanted.items():
        if name not in present:
            raise source.no_column(name, present, options[role])
    return _pilot(source, source.read(wanted), wanted)


def table_format(path: Path) -> str:
    """The format of a table by its file's ending: "CSV", "JSONL" or "Parquet"."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        ending = f"the ending {path.suffix!r}" if path.suffix else "no ending"
        raise InputError(
            f"{path} has {ending}, which names no format; rename it to end in {', '.join(FORMATS)}"
        ) from None


class _Source:
    """A table on disk: which columns it has, those asked for, and where in the file a row stands."""

    def __init__(self, path: Path):
        self.path, self.format = path, table_format(path)
        try:
            with path.open("rb") as file:
                head = file.read(len(BYTE_ORDER_MARK))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        if not head:
            raise InputError(f"{path} is empty; expected a table with a row a response or a row a prompt")
        self.marked = head == BYTE_ORDER_MARK

    def error(self, message: str, row: int | None = None, column: str | None = None) -> InputError:
        """An error about one row, counted from 0 as polars counts."""
        where = f"{self.path}"
        if row is not None:
            where += f", {self.position(row)}"
        if column is not None:
            where += f", column {column!r}"
        return InputError(f"{where}: {message}")

    def no_column(self, name: str, present: Sequence[str], option: str) -> InputError:
        close = difflib.get_close_matches(name, present, 1)
        hint = f"did you mean {option} {close[0]}?" if close else f"name it with {option}"
        if len(present) == 1 and self.format == "CSV" and any(mark in present[0] for mark in ";\t|"):
            hint = "separate the columns by commas"
        return InputError(f"{self.path}: no column {name!r} (there are: {', '.join(present)}); {hint}")

    def position(self, row: int) -> str:
        """Where a row stands: its line in a text file, its number in Parquet."""
        if self.format == "Parquet":
            return f"row {row + 1}"
        for index, (line, _) in enumerate(self.records()):
            if index == row:
                return f"line {line}"
        return f"row {row + 1}"

    def records(self) -> Iterator[tuple[int, Any]]:
        """Rows of a text file as Python objects with their line, for messages; raises at the first broken line."""
        with self.path.open("rb") as file:
            lines = self._lines(file)
            if self.format == "JSONL":
                for number, text in enumerate(lines, 1):
                    if text.strip():
                        yield number, self._object(text, number)
                return
            reader = csv.reader(lines, strict=True)
            line, limit = 0, csv.field_size_limit(sys.maxsize)  # a prompt's text may be long
            try:
                names = next(reader)
                line = reader.line_num
                for row in reader:
                    if row and len(row) != len(names):
                        raise InputError(
                            f"{self.path}, line {line + 1}: {len(row)} fields where the header has {len(names)}"
                        )
                    yield line + 1, dict(zip(names, row, strict=False))
                    line = reader.line_num
            except csv.Error as error:
                raise InputError(f"{self.path}, line {line + 1}: not CSV ({error})") from None
            finally:
                csv.field_size_limit(limit)

    def _lines(self, file: Any) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{self.path}, line {number}: not UTF-8 text ({error.reason}); save the file as UTF-8"
                ) from None

    def _object(self, text: str, number: int) -> dict[str, Any]:
        try:
            value = json.loads(text, object_pairs_hook=self._pairs)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, ValueError) else error
            raise InputError(
                f"{self.path}, line {number}: not a JSON object on one line ({reason})"
            ) from None
        if not isinstance(value, dict):
            raise InputError(f"{self.path}, line {number}: expected a JSON object, found {_shown(value)}")
        return value

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._no_duplicates([name for name, _ in pairs])
        return dict(pairs)

    def _no_duplicates(self, names: Sequence[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"{self.path}: column {name!r} appears {names.count(name)} times; rename all but one"
                )

    def columns(self) -> list[str]:
        """Names of the columns: the header's, the first object's or the schema's."""
        if self.format == "Parquet":
            return list(self._schema())
        if self.format == "JSONL":
            for _, first in self.records():
                return list(first)
            raise InputError(f"{self.path} is empty; expected a JSON object a line")
        with self.path.open("rb") as file:
            try:
                names = next(csv.reader(self._lines(file), strict=True), [])
            except csv.Error as error:
                raise InputError(f"{self.path}, line 1: not a CSV header ({error})") from None
        if not names:
            raise InputError(f"{self.path}, line 1: blank; expected a header with the names of the columns")
        self._no_duplicates(names)
        return names

    def _schema(self) -> pl.Schema:
        import polars as pl

        try:
            return pl.scan_parquet(self.path, glob=False).collect_schema()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise InputError(f"{self.path}: not a Parquet file ({_first_line(error)})") from None

    def read(self, wanted: dict[str, str]) -> pl.DataFrame:
        """The columns `wanted` names (role -> column), under their roles; text formats as strings or lists of them."""
        import polars as pl

        names = list(dict.fromkeys(wanted.values()))
        try:
            if self.format == "Parquet":
                frame = pl.read_parquet(self.path, columns=names, glob=False)
            elif self.format == "CSV":
                frame = pl.read_csv(self.path, columns=names, infer_schema=False, glob=False)
            else:
                first = next(self.records())[1]
                text: dict[str, Any] = {
                    name: pl.List(pl.String) if isinstance(first[name], list) else pl.String for name in names
                }
                with self.path.open("rb") as file:
                    file.seek(len(BYTE_ORDER_MARK) if self.marked else 0)
                    frame = pl.read_ndjson(file, schema=text)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            if self.format == "Parquet":
                raise InputError(f"{self.path}: a damaged Parquet file ({_first_line(error)})") from None
            self._explain(wanted)
            hint = "; is there a quote inside a field that is not quoted?" if self.format == "CSV" else ""
            raise InputError(f"cannot read {self.path}: {_first_line(error)}{hint}") from None
        if frame.is_empty():
            raise InputError(f"{self.path} has columns but no rows")
        return frame.select(pl.col(name).alias(role) for role, name in wanted.items())

    def _explain(self, wanted: dict[str, str]) -> None:
        """Raise for the first row that polars may have refused."""
        lists = None
        for row, (_, record) in enumerate(self.records()):
            value = record.get(wanted["loss"])
            lists = isinstance(value, list) if lists is None else lists
            if isinstance(value, list) != lists:
                expected = "a list of losses" if lists else "one loss"
                raise self.error(f"{_shown(value)} where the first row has {expected}", row, wanted["loss"])
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, float) and not math.isfinite(item):
                    raise self.error(_not_a_loss(item), row, wanted["loss"])


def _pilot(source: _Source, frame: pl.DataFrame, wanted: dict[str, str]) -> Pilot:
    """Check the columns and turn them into arrays."""
    import polars as pl

    kind = frame.schema["loss"]
    if isinstance(kind, pl.Array):
        frame = frame.with_columns(pl.col("loss").arr.to_list())
        kind = frame.schema["loss"]
    inner = kind.inner if isinstance(kind, pl.List) else kind
    if not (inner == pl.String or inner.is_numeric() or inner == pl.Null):
        raise source.error(
            f"holds {kind}; expected a number a response, or a list of them", column=wanted["loss"]
        )

    frame = frame.with_row_index("row")
    if source.format == "CSV":  # polars keeps a blank line as a row without values
        frame = frame.filter(~pl.all_horizontal(pl.col(role).is_null() for role in wanted))
    for role in wanted.keys() - {"loss"}:
        frame = frame.with_columns(_labels(source, frame[role], frame["row"], wanted[role]))
    if isinstance(kind, pl.List):
        empty = frame.filter(pl.col("loss").list.len() == 0)
        if not empty.is_empty():
            raise source.error(
                "an empty list; a prompt needs one loss or more", empty["row"][0], wanted["loss"]
            )
        frame = frame.explode("loss")

    raw = frame["loss"]
    numbers = (raw.str.strip_chars() if inner == pl.String else raw).cast(pl.Float64, strict=False)
    bad = (numbers.is_finite().not_() | numbers.is_null()).fill_null(True)
    if bad.any():
        first = bad.arg_max() or 0
        raise source.error(_not_a_loss(raw[first]), frame["row"][first], wanted["loss"])

    prompts = first_rows(frame["prompt"])
    groups = None
    if "group" in wanted:
        groups = first_rows(frame["group"])
        strays = np.flatnonzero(groups[prompts] != groups)
        if strays.size:
            row, earlier = (
                frame.row(int(strays[0]), named=True),
                frame.row(int(prompts[strays[0]]), named=True),
            )
            raise source.error(
                f"prompt {row['prompt']!r} is in group {row['group']!r} here but in {earlier['group']!r} before; a "
                "prompt belongs to one group",
                row["row"],
                wanted["group"],
            )
    return Pilot(numbers.to_numpy(), prompts, groups)


def _labels(source: _Source, values: pl.Series, rows: pl.Series, name: str) -> pl.Series:
    """Prompt ids or groups as text."""
    import polars as pl

    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise source.error(
            f"holds {values.dtype}; expected one id a row, text or a whole number", column=name
        )
    if values.dtype.is_float():
        values = values.fill_nan(None)
    text = values.cast(pl.String)
    missing = (text.is_null() | (text == "")).fill_null(True)
    if missing.any():
        raise source.error("no value; every row needs one", rows[missing.arg_max() or 0], name)
    return text


def first_rows(labels: pl.Series) -> NDArray[np.int64]:
    """Each label as the index of the first row that has it."""
    import polars as pl

    first = labels.to_frame("label").with_row_index("row").select(pl.col("row").first().over("label"))
    return first.to_series().to_numpy().astype(np.int64)


def _not_a_loss(value: Any) -> str:
    if value is None:
        return "no loss; every response needs one"
    shown = _shown(value)
    if str(value).strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return f"{shown} is not a loss that has a variance; leave the response out or mend it"
    if isinstance(value, str) and "," in value and "[" not in value:
        return f"{shown} is not a number; write the decimals after a point"
    return f"{shown} is not a finite number"


def _shown(value: Any, most: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""What a file format must offer; each format is one class in one file of this folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables import paths
from mrtsim.tables.columns import Column
from mrtsim.tables.sources import InputFile

Write = Callable[[Any], None]
# Columns that a harness's log has, for a hint.
LOG_COLUMNS = {
    "lm-eval": {"doc_id", "resps", "filtered_resps"},
    "lighteval": {"doc", "metric", "model_response"},
}


class Records:
    """Consecutive records of one file, as a format holds them."""

    def __len__(self) -> int:
        raise NotImplementedError

    def column(self, name: str) -> Column:
        """A top-level column, among those that were asked for; missing values where a record lacks it."""
        raise NotImplementedError

    def kept(self, keep: NDArray[np.bool_]) -> Any:
        """What the writer takes: the records where `keep` is true, as they stand."""
        raise NotImplementedError

    def cut(self, keep: Sequence[NDArray[np.bool_] | None], pools: Sequence[paths.Path]) -> Any:
        """What the writer takes: of each record the pool columns' elements that are kept, and all else as it stands.

        Args:
            keep: of each record which elements of its pool; None, or none of some, leaves the record out.
            pools: paths of the lists to cut.

        Raises:
            Wrong: a list is not as long as the pool.
        """
        raise NotImplementedError


class Format:
    """A format of files: it recognises them, reads their records, and writes the kept ones."""

    name: ClassVar[str]
    """What `--format` and messages call it."""
    endings: ClassVar[tuple[str, ...]]
    """Of file names, in lower case."""
    unit: ClassVar[str] = "line"
    """What a place in the file is called: "line" or "row"."""
    used: Sequence[paths.Path] = ()
    """What a reader takes from the records, where it has said so: a field there that stands twice is an error."""
    used_ids: Sequence[paths.Path] = ()
    """Those of them that are ids, of which every digit counts."""

    def __init__(self, file: InputFile):
        self.file = file

    @classmethod
    def recognises(cls, head: bytes) -> bool:
        """Whether the first bytes of a file prove that it has this format, whatever its name says."""
        return False

    def columns(self) -> list[str]:
        """The names of the top-level columns."""
        raise NotImplementedError

    def records(self, columns: Sequence[str] | None, *, copies: bool = False) -> Iterator[Records]:
        """The file in order, in pieces of bounded size.

        Args:
            columns: the top-level columns that are needed; None for all.
            copies: whether `kept` or `cut` will be called on the pieces.
        """
        raise NotImplementedError

    def place(self, row: int) -> str:
        """Where a record stands in the file, counted from 0: "line 7"."""
        return f"{self.unit} {row + 1}"

    def writer(self, path: Path) -> AbstractContextManager[Write]:
        """A new file of this format: a function that takes what `kept` and `cut` give, and ends the file on leaving."""
        raise NotImplementedError

    def joins(self, other: Format) -> str | None:
        """Why another file's records cannot go to one output with this one's; None where they can."""
        return None

    def unique(self, names: list[str]) -> list[str]:
        """These names of columns, or an InputError where two are equal."""
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise self.file.error(f"column {twice!r} appears {names.count(twice)} times; rename all but one")
        return names

    def error(self, message: str, row: int | None = None, column: str | None = None) -> InputError:
        """An InputError about a record, counted from 0.

        Args:
            message: what is wrong, and what would be right.
            row: number of the record from 0; None for the whole file.
            column: its name, where one column is to blame.
        """
        return self.file.error(message, None if row is None else self.place(row), column)

    def no_column(self, name: str, option: str) -> InputError:
        """An InputError about a column that is not there, with the name that was probably meant."""
        present = self.columns()
        close = paths.near(name, present)
        log = next((log for log, known in LOG_COLUMNS.items() if known <= set(present)), None)
        numbered = [column for column in present if re.fullmatch(r".*?\d+", column)]
        hint = f"name it with {option}"
        if f"/{name}=" in f"/{self.file.name}":
            hint = f"it stands in a folder's name, {name}=..., which is not read: write it into the files"
        elif log is not None:
            hint = f"of a log of {log}: mrtsim pilot --log {log}"
        elif len(numbered) > 1 and (not close or close in numbered):
            hint = (
                f"{paths.listed(numbered)} look like one column per response, but a file holds one row per response "
                f"(pandas: table.melt(id_vars=..., value_name={name!r})), or a list per prompt; else {hint}"
            )
        elif close:
            hint = f"did you mean {option} {shlex.quote(close)}?"
        return InputError(
            f"{self.file.name}: no column {name!r} (there are: {paths.listed(present)}); {hint}"
        )

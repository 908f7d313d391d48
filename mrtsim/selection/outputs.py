"""Where kept rows go: one file or one per input file, whole or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mrtsim.errors import InputError
from mrtsim.tables.format import Format
from mrtsim.tables.formats import endings
from mrtsim.tables.sources import COMPRESSIONS, endings_of

WriteTo = Callable[[int, Any], None]


@contextmanager
def kept_rows(
    tables: Sequence[Format], destination: str | os.PathLike[str]
) -> Iterator[tuple[WriteTo, Path]]:
    """A function of (number of the input file, kept rows), and the folder that has room for temporary files.

    Everything is written beside the destination, and takes its place only when all went well.

    Args:
        tables: the input.
        destination: a file in the input's format; or with a slash at its end, a folder for one file per input file.

    Raises:
        InputError: the destination cannot be written, is an input, or cannot hold these tables.
    """
    text = os.fspath(destination)
    path = Path(text)
    folder = path if text.endswith(("/", os.sep)) else None
    targets = _one_each(tables, path) if folder else [_checked(tables, path)]
    beside = path.parent
    try:
        # Checked above; what fails from here on is the disk.
        with _room(beside, path.name) as room:
            partials = [room / target.name for target in targets]
            with ExitStack() as stack:
                writers = [
                    stack.enter_context(table.writer(partial))
                    for table, partial in zip(tables, partials, strict=False)
                ]
                yield (lambda number, piece: writers[number if folder else 0](piece)), room
            if folder:
                folder.mkdir(exist_ok=True)
            for partial, target in zip(partials, targets, strict=True):
                os.replace(partial, target)
    except OSError as error:
        raise InputError(f"cannot write {text}: {error.strerror or error}") from None


@contextmanager
def _room(parent: Path, name: str) -> Iterator[Path]:
    """A temporary folder beside the destination."""
    room = parent / f".{name[:100]}.{os.getpid()}.partial"
    room.mkdir()
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _one_each(tables: Sequence[Format], folder: Path) -> list[Path]:
    """The files of a folder, named like the input files."""
    names = [table.file.path.name for table in tables]
    for table in tables:
        if table.file.path.name != Path(table.file.name).name:
            raise InputError(
                f"{folder}/ takes one file per input file, but {table.file.name} has no name; name a file"
            )
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two input files are called {name}, so that {folder}/ cannot hold one for each")
    if not folder.parent.is_dir():
        raise InputError(f"{folder.parent} is not a folder; make it first")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder")
    targets = [folder / name for name in names]
    for target in targets:
        _not_an_input(tables, target)
    return targets


def _checked(tables: Sequence[Format], path: Path) -> Path:
    """One file for all tables, if it can hold them."""
    first = tables[0]
    ending, compression = endings_of(path)
    own = bool(ending) and ending == first.file.ending
    text = first.unit != "row"
    if first.endings and ending not in first.endings and not (own and (text or ending not in endings())):
        raise InputError(
            f"{path}: kept rows stay in the input's format, {first.name}, so it must end in {first.endings[0]}"
        )
    if compression and first.unit == "row":
        inner = next(end for end, kind in COMPRESSIONS.items() if kind == compression)
        raise InputError(f"{path}: {first.name} files are compressed inside; leave out the {inner}")
    for other in tables[1:]:
        if (why := first.joins(other)) is not None:
            raise InputError(
                f"{first.file.name} and {other.file.name} cannot go to one file, since {why}; write each for itself: "
                f"--out {path.with_suffix('')}/"
            )
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file, or say {path}/ for one file per input file")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent} is not a folder; make it first")
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise InputError(f"{error.filename}: {error.strerror}") from None
    _not_an_input(tables, path)
    return path


def _not_an_input(tables: Sequence[Format], path: Path) -> None:
    try:
        for table in tables:
            if path.exists() and table.file.state is not None and path.samefile(table.file.path):
                raise InputError(f"{path} is the input; name another file")
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None

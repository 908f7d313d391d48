"""Pool columns of files with one row per prompt: the lists that hold one element per candidate."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables import paths
from mrtsim.tables.columns import Lists
from mrtsim.tables.format import Records
from mrtsim.tables.paths import Path
from mrtsim.tables.values import Wrong, as_list, is_conversation


def is_python_list(value: Any) -> bool:
    """Whether text is a list as Python shows it, such as a data frame leaves in CSV: ['a', 'b']."""
    if not isinstance(value, str) or value.strip()[:1] != "[" or value.strip()[-1:] != "]":
        return False
    try:
        return isinstance(ast.literal_eval(value.strip()), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def nested_pools(table: Any) -> list[str]:
    """Dotted paths of lists that stand inside objects of a file's first record, and may be pools."""
    for records in table.records(None):
        return [
            path
            for name in table.columns()
            for path in _lists_inside(records.column(name).first(), name)
            if path != name
        ]
    return []


def _lists_inside(value: Any, path: str) -> list[str]:
    value = as_list(value)
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in _lists_inside(item, f"{path}.{name}")]
    return [path] if isinstance(value, list) and len(value) > 1 and not is_conversation(value) else []


class PoolColumns:
    """Which lists are cut to the kept candidates.

    They are those of the named numbers and vectors, and `--pool-columns`; without that option also every top-level list
    that is as long as the pool in each row, unless its elements may be parts of one response: chat turns, and numbers
    that nobody named. A list that is as long in some rows only is an error, since neither answer would be certain.
    """

    def __init__(self, tables: Sequence[Any], named: Sequence[str]):
        self.tables, self.named = tables, tuple(named)
        self.explicit = [self._resolved(table) for table in tables]
        self.roots: list[list[Path]] = [list(found) for found in self.explicit]
        self.state: dict[str, bool] = {}  # of columns that nobody named: cut or not

    def _resolved(self, table: Any) -> list[Path]:
        found = []
        for name in self.named:
            path = paths.resolved(name, table.columns())
            if path is None:
                raise table.no_column(name, "--pool-columns")
            found.append(path)
        return found

    @property
    def cut(self) -> list[str]:
        """Names of the columns that are cut, in the first file's words."""
        return list(dict.fromkeys(str(path) for roots in self.roots for path in roots))

    def add_root(self, number: int, records: Records, path: Path) -> None:
        """Note the list that a named number or vector stands in.

        Args:
            number: of the file.
            records: the records that show where the list is.
            path: to the number or vector.
        """
        for depth in range(len(path.fields) + 1):
            if depth < len(path.fields) and path.fields[depth].isdecimal():
                continue  # a place in a list
            root = Path(path.column, path.fields[:depth])
            value = as_list(records.column(root.column).at(root.fields).first())
            if isinstance(value, list | tuple):
                if root not in self.roots[number]:
                    self.roots[number].append(root)
                return

    def sizes(self, number: int, row: int, records: Records) -> NDArray[np.int64]:
        """Pool sizes where no number and no vector tells them: by the named columns, else by all that may be pools.

        Args:
            number: of the file.
            row: of the first record, counted from 0, for messages.
            records: prompts with their lists.
        """
        table = self.tables[number]
        if self.explicit[number]:
            path = self.explicit[number][0]
            try:
                return records.column(path.column).at(path.fields).flattened()[1]
            except Wrong as wrong:
                raise table.error(wrong.message, row + wrong.index, str(path)) from None
        found = {
            name: lists for name in table.columns() if (lists := self._candidate(records, name)) is not None
        }
        lengths = np.array([lists.sizes for lists in found.values()])
        if not found:
            raise InputError(
                f"{table.file.name}: no column holds a pool of candidates; name it with --pool-columns"
            )
        known = np.where(lengths < 0, lengths.max(axis=0), lengths)
        if (other := np.flatnonzero((known != known[0]).any(axis=0))).size:
            index = int(other[0])
            raise table.error(
                f"cannot tell the pool from its lists (lengths {sorted(set(known[:, index].tolist()))}); name one with "
                "--reward-column or --embedding-column, or name them all with --pool-columns",
                row + index,
            )
        return np.maximum(known[0], 0)

    def _candidate(self, records: Records, name: str) -> Lists | None:
        lists = records.column(name).lists()
        return lists if lists is not None and lists.elements == "other" else None

    def check(self, number: int, row: int, records: Records, sizes: NDArray[np.int64]) -> list[Path]:
        """The paths to cut in these records, after a look at every column's lengths.

        Args:
            number: of the file.
            row: of the first record, counted from 0, for messages.
            records: prompts with their lists.
            sizes: candidates of each prompt, (records,).

        Raises:
            InputError: it is not certain whether a column is a pool.
        """
        table = self.tables[number]
        for path in self.explicit[number]:
            lists = records.column(path.column).at(path.fields).lists()
            lengths = np.full(len(sizes), -1) if lists is None else lists.sizes
            if (other := np.flatnonzero((lengths >= 0) & (lengths != sizes) & (sizes > 0))).size:
                index = int(other[0])
                raise table.error(
                    f"a list of {lengths[index]} where the pool has {sizes[index]} candidates",
                    row + index,
                    str(path),
                )
        if not self.named:
            self._automatic(number, row, records, sizes)
        return self.roots[number]

    def _automatic(self, number: int, row: int, records: Records, sizes: NDArray[np.int64]) -> None:
        table = self.tables[number]
        taken = {path.column for path in self.roots[number] if self.state.get(path.column) is None}
        for name in table.columns():
            if name in taken:
                continue
            lists = records.column(name).lists()
            known = self.state.get(name)
            if lists is None and (sizes > 1).any() and is_python_list(records.column(name).first()):
                raise self._uncertain(
                    table, name, row, "holds lists as Python writes them, which are not JSON"
                )
            if lists is None:
                if known and (sizes > 1).any() and records.column(name).first() is not None:
                    raise table.error("not a list, as in other rows", row, name)
                continue
            seen = np.flatnonzero((sizes > 1) & (lists.sizes >= 0))
            if not seen.size or lists.elements in ("numbers", "turns"):
                continue
            equal = lists.sizes[seen] == sizes[seen]
            if lists.elements == "answers":
                if equal.all():
                    raise self._uncertain(
                        table, name, row + int(seen[0]), "holds one chat turn per candidate, or one chat"
                    )
                continue
            is_pool = bool(equal.all())
            if is_pool is bool(equal.any()) and known in (None, is_pool):
                self.state[name] = is_pool
                if is_pool and Path(name) not in self.roots[number]:
                    self.roots[number].append(Path(name))
                continue
            index = int(seen[np.argmax(~equal)]) if not is_pool else int(seen[0])
            other = "as many as" if is_pool else "other than"
            raise self._uncertain(
                table,
                name,
                row + index,
                f"a list of {lists.sizes[index]}, {other} the pool's {sizes[index]} candidates, unlike in other rows",
            )

    def _uncertain(self, table: Any, name: str, row: int, why: str) -> InputError:
        known = ",".join(self.cut) or name
        return table.error(
            f"{why}: it is not certain that it is cut with the pool; name the columns that are, --pool-columns {known}"
            + ("" if name in known.split(",") else f" (and {name}, if it is one)"),
            row,
            name,
        )

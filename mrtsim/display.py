"""How results show themselves: aligned text, as on the command line; a table in a notebook; JSON."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any


class Display:
    """A result that shows itself: `str()` as on the command line, a table in a notebook, `to_dict()` as JSON."""

    def _rows(self) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """A header, which may be empty, and rows of names, values and remarks."""
        raise NotImplementedError

    def __str__(self) -> str:
        header, rows = self._rows()
        return table(rows, header)

    def _repr_html_(self) -> str:
        header, rows = self._rows()
        return html_table(rows, header)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints: plain numbers, with None for what is infinite or undefined."""
        shown = [f.name for f in fields(self) if f.repr]  # pyright: ignore[reportArgumentType]
        return {name: plain(getattr(self, name)) for name in shown}


def number(value: float, digits: int = 4) -> str:
    """A number as a person reads it: `digits` significant digits, whole numbers in full below 1e15."""
    if isinstance(value, int):
        return str(value) if abs(value) < 10**15 else f"{float(value):.{digits}g}"
    value = float(value)
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.{digits}g}" if abs(value) < 10**digits or abs(value) >= 1e15 else f"{value:.0f}"


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] = (), indent: str = "  ") -> str:
    """Rows as aligned columns: text to the left, numbers to the right.

    Args:
        rows: cells, text or numbers.
        header: names of the columns; none by default.
        indent: what every line starts with.
    """
    cells = [list(header)] if header else []
    cells += [[_cell(cell) for cell in row] for row in rows]
    columns = range(max(map(len, cells), default=0))
    numeric = [any(isinstance(row[c], int | float) for row in rows if c < len(row)) for c in columns]
    widths = [max(len(row[c]) for row in cells if c < len(row)) for c in columns]
    return "\n".join(
        (
            indent
            + "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=False)
            )
        ).rstrip()
        for row in cells
    )


def html_table(rows: Sequence[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Rows as an HTML table; every text is escaped."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(
            f'<{tag} style="text-align: {"right" if isinstance(cell, int | float) else "left"}">'
            f"{html.escape(_cell(cell))}</{tag}>"
            for cell in cells
        )

    head = [f"<thead>{line(header, 'th')}</tr></thead>"] if header else []
    return "<table>" + "".join([*head, *(f"{line(row, 'td')}</tr>" for row in rows)]) + "</table>"


def plain(value: Any) -> Any:
    """A value as strict JSON holds it: infinite and undefined numbers are None, arrays lists, results dictionaries."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)

"""Pilots: the losses of a file or a table, with the prompt and the group of each response."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mrtsim.tables.formats import Tables
from mrtsim.tables.read import ColumnData, read_columns
from mrtsim.tables.reader import Layout, MissingIds
from mrtsim.tables.values import shown


@dataclass(frozen=True)
class Pilot:
    """Losses of a pilot, one entry per response; `estimate_components(pilot.losses, pilot.prompts, ...)` takes them.

    Attributes:
        losses: finite numbers, (rows,).
        prompts: which prompt each belongs to, 0, 1, ... in the order in which they first appear, (rows,).
        groups: which group of redundant prompts, numbered the same way, (rows,); None where no group column was asked
            for.
        data: everything that was read, with the ids as text.
    """

    losses: NDArray[np.float64]
    prompts: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    data: ColumnData = field(repr=False)

    @property
    def notes(self) -> list[str]:
        """What a report should say about the reading."""
        return self.data.notes


def read_pilot(
    source: Tables,
    *,
    prompt_column: str = "prompt_id",
    loss_column: str = "loss",
    group_column: str | None = None,
    layout: Layout | None = None,
    format: str | None = None,
    missing_ids: MissingIds = "error",
) -> Pilot:
    """Read a pilot: one number per response, or one list of numbers per prompt. A prompt's rows may be scattered.

    Args:
        source: a file, a folder of shards, a pattern, "-" for standard input, several of these, or a table of pandas,
            polars, pyarrow or `datasets`.
        prompt_column: of the prompt ids; this and the others may be dotted paths, `completions.score`.
        loss_column: of the losses.
        group_column: of groups of redundant prompts.
        layout: "rows" (one row per response) or "prompts" (one row per prompt); None recognises it.
        format: of the files, such as "csv"; None recognises it.
        missing_ids: a row without an id is an error, or is dropped and counted ("drop").

    Raises:
        InputError: the file cannot be read, has no such column, or holds a value that is not a loss, an id or a group.
    """
    ids = {"prompt": prompt_column} | ({} if group_column is None else {"group": group_column})
    data = read_columns(
        source, ids=ids, numbers={"loss": loss_column}, layout=layout, format=format, missing_ids=missing_ids
    )
    prompts = data.ids["prompt"]
    if len(prompts.names) > 1 and len(prompts.names) == len(prompts.codes):
        raise data.reader.tables[0].file.error(
            "every prompt has one response, so the spread between responses is not in the data; "
            f"is the list of losses nested in another column, or the prompt column {prompt_column!r} unique per row?"
        )
    groups = data.ids["group"].codes if group_column is not None else None
    if groups is not None:
        _one_group_each(data)
    return Pilot(data.numbers["loss"], prompts.codes, groups, data)


def _one_group_each(data: ColumnData) -> None:
    prompts, groups = data.ids["prompt"], data.ids["group"]
    group_of = np.full(len(prompts.names), -1, np.int64)
    group_of[prompts.codes[::-1]] = groups.codes[::-1]  # the first row of a prompt wins
    strays = np.flatnonzero(group_of[prompts.codes] != groups.codes)
    if strays.size:
        row = int(strays[0])
        prompt, group = prompts.names[prompts.codes[row]], groups.names[groups.codes[row]]
        earlier = groups.names[group_of[prompts.codes[row]]]
        raise data.error(
            f"prompt {shown(prompt)} is in group {shown(group)} here but in {shown(earlier)} before; a prompt "
            f"belongs to one group. If ids restart in each group, join them: {shown(f'{group}:{prompt}')}",
            row,
            "group",
        )

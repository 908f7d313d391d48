"""Pilots: the losses of a file or a table, with the prompt, the group and the judge of each response."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mrtsim.errors import InputError
from mrtsim.tables.formats import Tables
from mrtsim.tables.read import ColumnData, read_columns
from mrtsim.tables.reader import Layout, MissingIds
from mrtsim.tables.values import shown

# Columns whose ids may be common to all prompts (`mrtsim.pilot.common_judges`): read where they are there.
MODELS = ("model", "model_name", "model_id", "generator", "checkpoint", "step", "global_step")
MAYBE_COMMON = ("response_id", "seed", "judge", "rater", "annotator", *MODELS, "epoch", "run", "sample")
POSITION = "place in the list"  # of the responses to a prompt; in Python a column of the array


@dataclass(frozen=True)
class Pilot:
    """Losses of a pilot, one entry per response; `estimate_components(pilot.losses, pilot.prompts, ...)` takes them.

    Attributes:
        losses: finite numbers, (rows,); with a vector column (rows, features).
        prompts: which prompt each belongs to, 0, 1, ... in the order in which they first appear, (rows,).
        groups: which group of redundant prompts, numbered the same way, (rows,); None where no group column was asked
            for.
        judges: which judge, numbered the same way, (rows,); None where no judge column was asked for.
        maybe_common: by name, columns of other ids that may be common to all prompts, numbered the same way, (rows,);
            none where a judge column was asked for.
        data: everything that was read, with the ids as text.
    """

    losses: NDArray[np.float64]
    prompts: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    judges: NDArray[np.int64] | None
    maybe_common: dict[str, NDArray[np.int64]]
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
    judge_column: str | None = None,
    vector_column: str | None = None,
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
        judge_column: of judges, seeds or checkpoints that are common to all prompts.
        vector_column: of a list of numbers per response, all of one length (a gradient or a sketch of one), in place
            of the losses.
        layout: "rows" (one row per response) or "prompts" (one row per prompt); None recognises it.
        format: of the files, such as "csv"; None recognises it.
        missing_ids: a row without an id is an error, or is dropped and counted ("drop").

    Raises:
        InputError: the file cannot be read, has no such column, or holds a value that is not a loss, an id or a group.
    """
    if vector_column is not None and loss_column != "loss":
        raise InputError("give --vector-column or --loss-column: a pilot has vectors or losses")
    columns = {"prompt": prompt_column, "group": group_column, "judge": judge_column}
    ids = {role: column for role, column in columns.items() if column is not None}
    others = () if judge_column is not None else MAYBE_COMMON
    data = read_columns(
        source,
        ids=ids,
        numbers={"loss": loss_column} if vector_column is None else {},
        vectors={} if vector_column is None else {"vector": vector_column},
        optional_ids={
            name: name for name in others if name not in {*ids.values(), loss_column, vector_column}
        },
        layout=layout,
        format=format,
        missing_ids=missing_ids,
    )
    prompts = data.ids["prompt"]
    if 1 < prompts.count == len(prompts.codes):
        raise data.reader.tables[0].file.error(
            "every prompt has one response, so the spread between responses is not in the data; "
            f"is the list of losses nested in another column, or the prompt column {prompt_column!r} unique per row?"
        )
    data.notes.extend([*of_several_models(data), *_rows_of_one_response(data)])
    groups = data.ids["group"].codes if group_column is not None else None
    if groups is not None:
        _one_group_each(data)
    return Pilot(
        losses=data.numbers["loss"] if vector_column is None else data.vectors["vector"].astype(np.float64),
        prompts=prompts.codes,
        groups=groups,
        judges=data.ids["judge"].codes if judge_column is not None else None,
        maybe_common=_positions(data) | {name: data.ids[name].codes for name in others if name in data.ids}
        if others
        else {},
        data=data,
    )


def of_several_models(data: ColumnData) -> Iterator[str]:
    """What to say where a column of `MODELS` was read besides and differs between the responses to a prompt."""
    prompts = data.ids["prompt"]
    for name in MODELS:
        if name in data.ids:
            of, one = data.ids[name], np.empty(prompts.count, np.int64)
            one[prompts.codes] = of.codes
            if (one[prompts.codes] != of.codes).any():
                yield (
                    f"the responses to a prompt differ in {name!r}, which has {of.count} values, and are taken as one "
                    "sample; where these are models or checkpoints, keep the rows of one, or compare two: mrtsim "
                    f"compare --model-column {name}"
                )


def _rows_of_one_response(data: ColumnData) -> Iterator[str]:
    """What to say where a column of response ids was read besides and does not tell the rows of a prompt apart."""
    if "response_id" not in data.ids:
        return
    prompts, responses = data.ids["prompt"], data.ids["response_id"]
    rows = np.flatnonzero(prompts.codes < 1_000)  # a layout shows in few prompts, and fewer are sorted
    pairs = prompts.codes[rows].astype(np.int64) * responses.count + responses.codes[rows]
    order = np.argsort(pairs, kind="stable")
    again = np.flatnonzero(np.diff(pairs[order]) == 0)
    if again.size:
        row = int(rows[order[again].min()])
        yield (
            f"prompt {shown(prompts.names[prompts.codes[row]])} has several rows of response "
            f"{shown(responses.names[responses.codes[row]])} (column 'response_id'), and each is taken as a response "
            "of its own; where they are tokens or judgements of one response, take their mean first, or name the "
            "judges: --judge-column"
        )


def _positions(data: ColumnData) -> dict[str, NDArray[np.int64]]:
    """The places of responses in their prompt's list, where every prompt has one list and all are as long."""
    prompts = data.ids["prompt"]
    if data.layout != "prompts":
        return {}
    n, rows = prompts.count, len(prompts.codes)
    k = rows // n
    if rows != n * k or np.any(prompts.codes != np.repeat(np.arange(n), k)):
        return {}
    return {POSITION: np.tile(np.arange(k), n)}


def _one_group_each(data: ColumnData) -> None:
    prompts, groups = data.ids["prompt"], data.ids["group"]
    group_of = np.full(prompts.count, -1, np.int64)
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

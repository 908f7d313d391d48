"""Options of every command that reads files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mrtsim.cli import option_name
from mrtsim.errors import InputError


def add_files(
    parser: argparse.ArgumentParser,
    what: str = "one row per response, or one row per prompt",
    *,
    optional: bool = False,
) -> None:
    """FILE..., `--layout`, `--format` and `--missing-ids`: what `read_columns` takes.

    Args:
        parser: takes the arguments.
        what: which rows the files hold, for the help.
        optional: whether no file at all is allowed.
    """
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*" if optional else "+",
        help="CSV, TSV, JSON lines, JSON, Parquet or Arrow, text also as .gz or .zst; several files, a folder of "
        f"them, a pattern, or - for standard input; {what}",
    )
    add_reading(parser.add_argument_group("file"))


def add_reading(group: argparse._ArgumentGroup) -> None:
    """`--layout`, `--format` and `--missing-ids`: how `read_columns` reads."""
    group.add_argument(
        "--layout",
        choices=("rows", "prompts"),
        help="one row per response, or one row per prompt that holds lists (default: by the first value)",
    )
    group.add_argument(
        "--format",
        metavar="NAME",
        help="csv, tsv, jsonl, json, parquet or arrow (default: by content and ending)",
    )
    group.add_argument(
        "--missing-ids",
        choices=("error", "drop"),
        default="error",
        help="a row without an id: stop (default), or leave it out and say how many",
    )


def add_log(parser: argparse.ArgumentParser) -> None:
    """`--log` with its `--filter`, `--metric`, `--higher-is-better` and `--unscored`."""
    group = parser.add_argument_group("evaluation log")
    group.add_argument(
        "--log",
        metavar="NAME",
        help="FILE is a log of lm-eval (samples_*.jsonl), inspect (.eval, .json) or lighteval (details): a question is "
        "a prompt, a repeat or an epoch a response, a task a group; loss = 1 - score",
    )
    group.add_argument("--filter", metavar="F", help="lm-eval: the filter whose answers are scored")
    group.add_argument("--metric", metavar="M", help="the metric or scorer, where the log has several")
    group.add_argument(
        "--higher-is-better",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether a higher score is better (default); if not, the scores are the losses",
    )
    group.add_argument(
        "--unscored",
        choices=("error", "drop"),
        help="a response without a score: stop (default), or leave it out and say how many",
    )


def read_of_log(args: argparse.Namespace) -> Any:
    """The pilot of `--log`; None without it."""
    if args.log is None:
        for name in ("filter", "metric", "higher_is_better", "unscored"):
            if getattr(args, name) is not None:
                option = option_name(name)
                raise InputError(f"{option} belongs to a log: say --log lm-eval, inspect or lighteval")
        return None
    columns = ("prompt_column", "loss_column", "judge_column", "vector_column")
    for name in (*columns, "layout", "format"):
        if getattr(args, name, None) != args.parser.get_default(name):
            raise InputError(f"{option_name(name)} does not go with --log, which knows its columns")
    from mrtsim.tables.logs import read_log

    return read_log(
        args.files,
        args.log,
        filter=args.filter,
        metric=args.metric,
        group_column=args.group_column,
        higher_is_better=args.higher_is_better is not False,
        unscored=args.unscored or "error",
    )


def how_read(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_reading` as keyword arguments."""
    return {"layout": args.layout, "format": args.format, "missing_ids": args.missing_ids}


def told(files: Sequence[Any]) -> str:
    """The files in a report or a message."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def given(args: argparse.Namespace, name: str) -> bool:
    """Whether an option has another value than its default; the command's parser is among its arguments."""
    return getattr(args, name) != args.parser.get_default(name)

"""Options of every command that reads files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def add_files(
    parser: argparse.ArgumentParser,
    what: str = "one row per response, or one row per prompt",
    *,
    optional: bool = False,
) -> None:
    """FILE..., `--layout`, `--format` and `--missing-ids`: what `read_columns` takes."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*" if optional else "+",
        help="CSV, TSV, JSON lines, JSON, Parquet or Arrow, text also as .gz or .zst; several files, a folder of "
        f"them, a pattern, or - for standard input; {what}",
    )
    group = parser.add_argument_group("file")
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


def told(files: Sequence[Any]) -> str:
    """The files in a report or a message."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def given(args: argparse.Namespace, name: str) -> bool:
    """Whether an option has another value than its default; the command's parser is among its arguments."""
    return getattr(args, name) != args.parser.get_default(name)

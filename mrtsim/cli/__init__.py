"""The `mrtsim` command: one module per subcommand, and what they share.

A subcommand's module has `add_parser(subparsers)` and `run(args) -> int`; what is heavy is imported in `run`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any, NoReturn

from mrtsim import __version__
from mrtsim.display import number as number
from mrtsim.display import plain
from mrtsim.display import table as table
from mrtsim.errors import InputError

COMMANDS = ("plan-pilot", "pilot", "compare", "allocate", "rollouts", "select")  # as a user meets them


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on standard error, and exit code 2."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class PrintCompletion(argparse.Action):
    """Print a script that completes commands, options and file names in a shell, and exit."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("completion needs shtab: pip install 'mrtsim[completion]'")
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        for command in subparsers.choices.values():
            for action in command._actions:
                if str(action.metavar).startswith(("FILE", "OUT", "PILOT")):
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, str(values)))
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong input or arguments."""
    parser = Parser(
        prog="mrtsim",
        description="Variance-budget analysis of multi-response training: how many responses per prompt, and "
        "which.",
    )
    parser.add_argument("--version", action="version", version=f"mrtsim {__version__}")
    parser.add_argument(
        "--print-completion",
        choices=("bash", "zsh", "tcsh"),
        action=PrintCompletion,
        help="print a script for the shell's completion, and exit",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    arguments = sys.argv[1:] if argv is None else list(argv)
    named = [command for command in COMMANDS if arguments[:1] == [command]]
    for command in named or COMMANDS:  # a command's answer does not wait for the others' parsers
        import_module(f"mrtsim.cli.{command.replace('-', '_')}").add_parser(subparsers)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        subparsers.choices[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        code = import_module(f"mrtsim.cli.{args.command.replace('-', '_')}").run(args)
        sys.stdout.flush()  # a closed pipe shows here, not in the interpreter's last flush
        return code
    except InputError as error:
        print(f"mrtsim {args.command}: {_in_options(str(error), vars(args))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _in_options(message: str, arguments: Collection[str]) -> str:
    """A message on one line; the parameter that the library asks to set is named as the command's option."""

    def named(name: re.Match[str]) -> str:
        return option_name(name[0]) if name[0] in arguments else name[0]

    return re.sub(r"(?<=: set )[a-z_]+", named, " ".join(message.splitlines()))


def option_name(name: str) -> str:
    """The option on the command line whose value is the parameter `name`."""
    return f"--{name.replace('_', '-')}"


def strict_json(value: Any) -> str:
    """A value as strict JSON on one line: infinite and undefined numbers are null, NumPy values plain."""
    return json.dumps(plain(value), allow_nan=False)


def positive(text: str) -> float:
    """Argument type: a finite number above 0."""
    value = finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text!r}")
    return value


def non_negative(text: str) -> float:
    """Argument type: a finite number, 0 or above."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or above, not {text!r}")
    return value


def probability(text: str) -> float:
    """Argument type: a number between 0 and 1, both excluded."""
    value = finite(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, such as 0.95, not {text!r}")
    return value


def count(text: str) -> int:
    """Argument type: a whole number, 1 or above."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def finite(text: str) -> float:
    """Argument type: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, not {text!r}")
    return value

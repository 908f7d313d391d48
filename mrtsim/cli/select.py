"""`mrtsim select`: keep K of N candidate responses of each prompt of a file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mrtsim.cli import count, strict_json
from mrtsim.cli.reading import add_files
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.selection.registry import Strategy
    from mrtsim.selection.report import SelectionReport

DESCRIPTION = """\
Keep K of N candidate responses of each prompt. The kept rows go unchanged to --out, in the input's format and order.

A row is a response, or a prompt that holds lists. Of a prompt's row the pool columns are cut: those that are named, and
with no --pool-columns every list as long as the pool whose elements cannot be parts of one response; the report says
which. In CSV a list is JSON text in its cell.

strategies:
  rkon              K at random, without replacement: unbiased for the pool
  bkon              the K best rewards: collapses onto the modes that the reward prefers
  dkon              K diverse ones (greedy facility location on embeddings)
  dbkon             K diverse and good ones: the same, weighted by reward ** alpha
  filtered-max-min  of the better half by reward, the K farthest apart
  gumbel            K at random, weighted by exp(reward / temperature)
"""

EPILOG = """\
example:
  mrtsim select pool.parquet --strategy dbkon -k 4 --out kept.parquet
"""


def add_parser(subparsers: Any) -> None:
    """Add `mrtsim select`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "select",
        help="keep K of N candidate responses of each prompt",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_files(parser)
    parser.add_argument("--strategy", required=True, metavar="NAME", help="one of the above, or of --plugin")
    parser.add_argument("-k", type=count, required=True, metavar="K", help="how many to keep of each prompt")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="where the kept rows go, in FILE's format; FOLDER/ (with the slash) takes one file per FILE",
    )
    columns = parser.add_argument_group("columns")
    columns.add_argument(
        "--prompt-column", default="prompt_id", metavar="NAME", help="prompt id (default: %(default)s)"
    )
    columns.add_argument(
        "--reward-column", metavar="NAME", help="higher is better (default: reward, where it is there)"
    )
    columns.add_argument(
        "--lower-is-better",
        action=argparse.BooleanOptionalAction,
        help="the reward column holds losses or ranks: the lowest are the best",
    )
    columns.add_argument("--embedding-column", metavar="NAME", help="default: embedding, where it is there")
    columns.add_argument(
        "--loss-column", metavar="NAME", help="report how selection moves the mean of this column"
    )
    columns.add_argument(
        "--pool-columns",
        metavar="A,B",
        default="",
        help="with one row per prompt: the lists that have one element per candidate, beside those above",
    )
    options = parser.add_argument_group("selection")
    options.add_argument(
        "--alpha",
        metavar="A",
        help="dbkon: quality is reward ** A, of rewards scaled to [0, 1] within each pool, so they may be negative; "
        "0 is dkon (default: 1)",
    )
    options.add_argument(
        "--temperature",
        metavar="T",
        help="gumbel: in units of the reward; 0 is bkon (default: 1)",
    )
    options.add_argument(
        "--ties",
        metavar="RULE",
        help="dkon and dbkon, among picks that add the same: index (first in the file, the default), reward (largest), "
        "diverse (largest gain without rewards) or random; but for index the order of the rows does not matter",
    )
    options.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any option of the strategy, those of a plugin included; may be given several times",
    )
    options.add_argument(
        "--seed", type=_seed, default=0, metavar="S", help="of random strategies (default: 0)"
    )
    options.add_argument(
        "--short-pools",
        choices=("error", "keep", "drop"),
        default="error",
        help="a prompt of fewer than K candidates: stop (default), keep all it has, or drop it",
    )
    options.add_argument("--plugin", metavar="FILE", help="Python file that registers more strategies")
    options.add_argument("--json", action="store_true", help="the report as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run `mrtsim select`."""
    from mrtsim.selection.registry import load_plugin, strategy
    from mrtsim.selection.select_file import Columns, select_file

    if args.plugin:
        load_plugin(args.plugin)
    options = _options(strategy(args.strategy), args)
    report = select_file(
        args.files,
        args.out,
        args.strategy,
        args.k,
        columns=Columns(
            args.prompt_column,
            args.reward_column,
            args.embedding_column,
            args.loss_column,
            args.lower_is_better,
        ),
        layout=args.layout,
        pool_columns=[name for name in args.pool_columns.split(",") if name],
        format=args.format,
        missing_ids=args.missing_ids,
        seed=args.seed,
        short_pools=args.short_pools,
        progress=sys.stderr.isatty(),
        **options,
    )
    if args.json:
        print(strict_json(report.to_dict()))
        return 0

    r: SelectionReport = report
    print(f"{args.strategy}, K = {args.k}: kept {r.kept} of {r.candidates} candidates of {r.prompts} prompts")
    print(f"written to {args.out}")
    if r.cut_columns:
        print(f"cut columns: {', '.join(r.cut_columns)}")
    for note in r.notes:
        print(f"note: {note}")
    if r.short_pools:
        what = "kept whole" if args.short_pools == "keep" else "dropped"
        print(f"{r.short_pools} prompts had fewer than {args.k} candidates and were {what}")
    if r.saturated_picks:
        rule = options.get("ties", "index")
        follow = "the file's order" if rule == "index" else f"--ties {rule}"
        print(f"{r.saturated_picks} of {r.kept} picks added nothing to the objective: they follow {follow}")
    if means := r.means(args.loss_column or "loss"):
        print(means[1:])
    return 0


def _options(known: Strategy, args: argparse.Namespace) -> dict[str, Any]:
    """The strategy's options: the short forms, and every --option."""
    given = [(name, getattr(args, name)) for name in ("alpha", "temperature", "ties")]
    texts = {name: text for name, text in given if text is not None}
    for pair in args.option:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--option {pair}: write --option name=value")
        if name in texts:
            raise InputError(f"the option {name} is given twice")
        texts[name] = text
    return {name: known.option(name).parse(known.name, text) for name, text in texts.items()}


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**63 - 1, not {text!r}")
    return int(text)

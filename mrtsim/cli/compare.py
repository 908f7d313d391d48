"""`mrtsim compare`: two models on the same prompts: which is better, by how much, and what a comparison should cost."""

from __future__ import annotations

import argparse
import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrtsim.cli import count, non_negative, number, option_name, positive, probability, strict_json, table
from mrtsim.cli.reading import add_files, how_read, told
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.pilot.compare import Comparison
    from mrtsim.plan.allocate import Cost
    from mrtsim.plan.two_models import ComparisonPlan

EXAMPLES = """\
examples:
  two models in one file, with columns prompt_id, model and loss
    mrtsim compare results.csv --model-column model --models new old
  one row per pair: the same seed for both, one column of losses per model
    mrtsim compare results.csv --loss-columns loss_new loss_old
  how many prompts and responses show a difference of 0.03 with power 0.8
    mrtsim compare results.csv --model-column model --models new old --detect 0.03 --c-prompt 4 --c-response 1
  is the new model not worse than the old one by more than 0.02?
    mrtsim compare scores.csv --loss-column score --higher-is-better --model-column model --models new old \\
        --margin 0.02
  a benchmark of exactly these 198 prompts: only responses count
    mrtsim compare results.csv --loss-columns a b --population 198 --fix-prompts 198 --detect 0.02 \\
        --c-prompt 0 --c-response 1
"""
PLAN_OPTIONS = ("c_response_b", "max_responses", "max_prompts")


def add_parser(subparsers: Any) -> None:
    """The subcommand's arguments."""
    parser = subparsers.add_parser(
        "compare",
        help="the difference of two models on the same prompts, with its interval, its power and a plan",
        description="Compare two models by their losses (or scores) of responses to the same prompts: the difference "
        "and its\ninterval, the components V_D, W_A, W_B that it varies by, what this design can show, and what a "
        "better one would be.",
        epilog=EXAMPLES,
    )
    add_files(parser)
    group = parser.add_argument_group("columns")
    group.add_argument("--model-column", metavar="M", help="which model each response is of; needs --models")
    group.add_argument("--models", nargs=2, metavar=("A", "B"), help="the two models to compare")
    group.add_argument(
        "--loss-column",
        metavar="L",
        help="losses or scores of both models (default loss), with --model-column",
    )
    group.add_argument(
        "--pair-column",
        metavar="S",
        help="responses of both models with the same value here and the same prompt are a pair (such as a shared "
        "seed), with --model-column",
    )
    group.add_argument(
        "--loss-columns",
        nargs=2,
        metavar=("A", "B"),
        help="one column of losses per model: each row is a pair of responses to one prompt",
    )
    group.add_argument(
        "--prompt-column", default="prompt_id", metavar="P", help="prompt ids (default prompt_id)"
    )
    group.add_argument("--group-column", metavar="G", help="groups of redundant prompts")
    group.add_argument(
        "--higher-is-better",
        action=argparse.BooleanOptionalAction,
        help="the columns hold scores or rewards, not losses",
    )
    group = parser.add_argument_group("estimation")
    group.add_argument("--confidence", type=probability, default=0.95, metavar="C", help="default 0.95")
    group.add_argument(
        "--power",
        type=probability,
        default=0.8,
        metavar="P",
        help="chance to show the difference that is called detectable, or that of --detect (default 0.8)",
    )
    group.add_argument(
        "--population",
        type=count,
        metavar="P",
        help="the difference on a given benchmark of P prompts, not on all prompts like them",
    )
    group.add_argument(
        "--redundancy",
        type=positive,
        metavar="R",
        help="prompts per group in the corpus that the plan is for (default: as in the file)",
    )
    group = parser.add_argument_group("plan")
    group.add_argument("--c-prompt", type=non_negative, metavar="C", help="C_p, cost of one prompt")
    group.add_argument(
        "--c-response", type=non_negative, metavar="C", help="cost of one response of model A (and of B)"
    )
    group.add_argument(
        "--c-response-b",
        type=non_negative,
        metavar="C",
        help="cost of one response of model B; K_A and K_B are then chosen apart (pairs keep one K)",
    )
    goal = group.add_mutually_exclusive_group()
    goal.add_argument(
        "--budget", type=positive, metavar="B", help="the most to spend, in the unit of the costs"
    )
    goal.add_argument(
        "--target-variance",
        type=non_negative,
        metavar="V",
        help="reach this variance of the difference at least cost",
    )
    goal.add_argument(
        "--margin",
        type=positive,
        metavar="M",
        help="is A not inferior to B by M? One-sided; a plan for it assumes the advantage of --detect, or 0",
    )
    group.add_argument(
        "--detect",
        type=_number,
        metavar="D",
        help="show a difference of D at least cost; with --margin the advantage of A that the plan assumes",
    )
    group.add_argument(
        "--max-responses", type=count, metavar="K", help="largest number of responses per prompt"
    )
    group.add_argument("--max-prompts", type=count, metavar="N", help="largest number of prompts")
    group.add_argument("--fix-prompts", type=count, metavar="N", help="the number of prompts is given")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--plot", metavar="OUT.png", help="draw the power for --detect or --margin against N_p for several K"
    )
    group.add_argument(
        "--json", action="store_true", help="one JSON object on standard output and nothing else"
    )


@dataclass(frozen=True)
class _Report:
    """Everything that the output is made of."""

    files: str
    models: tuple[str, str]
    comparison: Comparison
    cost: Cost | None
    plan: ComparisonPlan | None
    notes: list[str]


def run(args: argparse.Namespace) -> int:
    """Read, compare, plan, print."""
    cost = _cost(args)
    models, comparison, notes = _compare(args)
    plan = None
    try:
        if cost is not None and _goal(args):
            plan = _plan(args, comparison, cost)
        if args.plot:
            _plot(args, comparison, plan)
    except InputError as error:
        raise InputError(f"{told(args.files)}: {error}") from None
    report = _Report(told(args.files), models, comparison, cost, plan, notes)
    print(strict_json(_record(args, report)) if args.json else _text(args, report))
    return 0


def _effect(args: argparse.Namespace) -> float | None:
    """The difference to show, above 0: D, or the margin plus the assumed advantage."""
    if args.margin is None:
        if args.detect is not None and args.detect <= 0:
            raise InputError(f"--detect must be above 0, not {args.detect:g}: it is the size of a difference")
        return args.detect
    effect = args.margin + (args.detect or 0.0)
    if effect <= 0:
        raise InputError(
            f"an advantage of {args.detect:g} with a margin of {args.margin:g} leaves {effect:g}, not above 0: a model "
            "that is worse by the margin cannot be shown not to be; give a larger margin"
        )
    return effect


def _goal(args: argparse.Namespace) -> bool:
    return any(v is not None for v in (args.budget, args.target_variance, args.margin, args.detect))


def _cost(args: argparse.Namespace) -> Cost | None:
    """The costs; what makes no sense without them or without a goal is refused."""
    effect = _effect(args)
    if args.margin is None and args.detect is not None and (args.budget or args.target_variance) is not None:
        raise InputError("give one of --budget, --target-variance and --detect")
    priced = args.c_prompt is not None and args.c_response is not None
    if not priced and (args.c_prompt, args.c_response) != (None, None):
        raise InputError("a plan depends on both costs: give --c-prompt and --c-response, or neither")
    if not priced and _goal(args) and args.margin is None:
        raise InputError("a plan needs --c-prompt and --c-response as well")
    if not (priced and _goal(args)):
        given = args.fix_prompts is not None and args.fix_prompts == args.population
        for name in (*PLAN_OPTIONS, *(() if given else ("fix_prompts",))):
            if getattr(args, name) is not None:
                raise InputError(
                    f"{option_name(name)} belongs to a plan: give costs, and --budget, --target-variance, "
                    "--detect or --margin"
                )
    if args.plot and effect is None:
        raise InputError("--plot draws the power to show a difference: give --detect or --margin")
    if args.redundancy is not None and args.group_column is None:
        raise InputError("--redundancy needs --group-column: without groups every prompt stands for itself")
    if args.c_prompt is None or args.c_response is None:
        return None
    from mrtsim.plan.allocate import Cost

    return Cost(args.c_prompt, args.c_response)


# Reading


def _compare(args: argparse.Namespace) -> tuple[tuple[str, str], Comparison, list[str]]:
    """The models' names, their comparison, and what to say about the reading."""
    from mrtsim.pilot.compare import compare_models
    from mrtsim.tables.directions import sounds_high

    models, arrays, notes = _paired_columns(args) if args.loss_columns else _models(args)
    try:
        comparison = compare_models(
            **arrays,
            confidence=args.confidence,
            power=args.power,
            population=args.population,
            redundancy=args.redundancy,
        )
    except InputError as error:
        raise InputError(f"{told(args.files)}: {error}") from None
    columns = args.loss_columns or [args.loss_column or "loss"]
    if args.higher_is_better is None and any(map(sounds_high, columns)):
        notes = [
            *notes,
            f"of {' and '.join(map(repr, columns))} lower is taken as better: for scores say --higher-is-better, or "
            "--no-higher-is-better if that is meant",
        ]
    return models, comparison, notes


def _read(
    args: argparse.Namespace, ids: dict[str, str | None], numbers: dict[str, str], **options: str
) -> Any:
    from mrtsim.tables.read import read_columns

    return read_columns(
        args.files,
        ids={role: column for role, column in ids.items() if column is not None},
        numbers=numbers,
        options=options,
        **how_read(args),
    )


def _paired_columns(args: argparse.Namespace) -> tuple[tuple[str, str], dict[str, Any], list[str]]:
    """One column of losses per model."""
    for name in ("model_column", "models", "loss_column", "pair_column"):
        if getattr(args, name) is not None:
            raise InputError(f"{option_name(name)} and --loss-columns are two layouts: give one of them")
    a, b = args.loss_columns
    if a == b:
        raise InputError(f"--loss-columns names {a!r} twice: give the columns of two models")
    data = _read(
        args,
        {"prompt": args.prompt_column, "group": args.group_column},
        {"a": a, "b": b},
        a="--loss-columns",
        b="--loss-columns",
    )
    import numpy as np

    prompts = _labels(data.ids["prompt"])
    groups = _labels(data.ids["group"]) if args.group_column else None
    arrays = {
        "losses_a": data.numbers["a"],
        "losses_b": data.numbers["b"],
        "prompts_a": prompts,
        "prompts_b": prompts,
        "pairs": np.arange(prompts.size),
        "groups": groups,
    }
    return (a, b), arrays, data.notes


def _models(args: argparse.Namespace) -> tuple[tuple[str, str], dict[str, Any], list[str]]:
    """One column that says which model a response is of."""
    if args.model_column is None or args.models is None:
        raise InputError(
            "say where the two models are: --model-column M --models A B, or --loss-columns A B (one column of losses "
            "per model)"
        )
    a, b = args.models
    if a == b:
        raise InputError(f"--models names {a!r} twice: give two models")
    data = _read(
        args,
        {
            "prompt": args.prompt_column,
            "model": args.model_column,
            "pair": args.pair_column,
            "group": args.group_column,
        },
        {"loss": args.loss_column or "loss"},
    )
    model = data.ids["model"]
    for name in (a, b):
        if name not in model.names:
            close = difflib.get_close_matches(name, model.names, 1)
            there = ", ".join(model.names[:10]) + (", ..." if len(model.names) > 10 else "")
            raise InputError(
                f"{told(args.files)}: no response of model {name!r} in column {args.model_column!r} (there are: "
                f"{there})" + (f"; did you mean {close[0]}?" if close else "")
            )
    of = [model.codes == model.names.index(name) for name in (a, b)]
    prompts = _labels(data.ids["prompt"])
    arrays: dict[str, Any] = {
        "losses_a": data.numbers["loss"][of[0]],
        "losses_b": data.numbers["loss"][of[1]],
        "prompts_a": prompts[of[0]],
        "prompts_b": prompts[of[1]],
    }
    for role, name in (("pair", "pairs"), ("group", "groups")):
        if role in data.ids:
            labels = _labels(data.ids[role])
            arrays[name] = labels[of[0]], labels[of[1]]
    notes = list(data.notes)
    if len(model.names) > 2:
        others = len(model.names) - 2
        notes.append(f"{others} other model{'s were' if others > 1 else ' was'} left out")
    return (a, b), arrays, notes


def _labels(ids: Any) -> Any:
    """Each response's id as text."""
    import numpy as np

    return np.array(ids.names, dtype=object)[ids.codes]


# Planning


def _rule(args: argparse.Namespace) -> Any:
    from mrtsim.plan.power import Rule

    return Rule(args.confidence, args.power, one_sided=args.margin is not None)


def _plan(args: argparse.Namespace, comparison: Comparison, cost: Cost) -> ComparisonPlan:
    from dataclasses import replace

    from mrtsim.plan.two_models import allocate_comparison

    components = comparison.planning
    given = args.fix_prompts is not None and args.fix_prompts == args.population
    if components.difference <= 0:
        if args.max_responses is None and not given:
            raise InputError(
                f"V_D is estimated at {number(components.difference)}, and a plan on that would put everything on few "
                "prompts; give --max-responses, or compare on more prompts"
            )
        components = replace(components, difference=0.0)
    return allocate_comparison(
        components,
        cost,
        args.c_response_b,
        budget=args.budget,
        target_variance=args.target_variance,
        detect=_effect(args),
        rule=_rule(args),
        max_responses=args.max_responses,
        max_prompts=args.max_prompts,
        n_prompts=args.fix_prompts,
        population=args.population,
        redundancy=comparison.redundancy,
    )


def _plot(args: argparse.Namespace, comparison: Comparison, plan: ComparisonPlan | None) -> None:
    from dataclasses import replace

    from mrtsim.plan.power import sampling_of
    from mrtsim.plotting import plot_power, save

    components = comparison.planning
    sampling = sampling_of(
        replace(components, difference=max(0.0, components.difference)),
        None,
        args.population,
        comparison.redundancy,
    )
    effect = _effect(args)
    assert effect is not None
    marked = None
    if plan is not None and plan.responses_a == plan.responses_b:
        marked = plan.n_prompts, plan.responses_a
    save(plot_power(sampling, effect, _rule(args), marked), args.plot)


# Output


def _record(args: argparse.Namespace, report: _Report) -> dict[str, Any]:
    c = report.comparison
    record = {"models": list(report.models)} | c.to_dict() | {"warnings": [*report.notes, *c.warnings]}
    if args.margin is not None:
        advantage = c.advantage(higher_is_better=bool(args.higher_is_better))
        known = math.isfinite(advantage.low)
        record["margin"] = {
            "margin": args.margin,
            "advantage": advantage.value,
            "lower_limit": advantage.low,
            "not_inferior": advantage.low > -args.margin if known else None,
        }
    record["plan"] = None if report.plan is None else _plan_record(report.plan)
    return record


def _plan_record(plan: ComparisonPlan) -> dict[str, Any]:
    from dataclasses import asdict

    apart = asdict(plan)
    del apart["equal"]
    if plan.equal is not None:
        return plan.equal.to_dict() | apart
    unknown = ("responses_per_prompt", "k_star", "efficiency", "k_range_5pct", "k_range_10pct")
    return dict.fromkeys(unknown) | apart


def _text(args: argparse.Namespace, report: _Report) -> str:
    from mrtsim.pilot.text import comparison_text, warning_lines

    c = report.comparison
    level = f"{100 * args.confidence:g} %"
    word = "score" if args.higher_is_better else "loss"
    lines = [f"{report.files}: {comparison_text(c, report.models, word)}"]
    if not math.isfinite(c.correlation):
        lines.append("")
    lines += _verdict(args, c, level, word)
    if report.plan is not None and report.cost is not None:
        lines += ["", "plan", _plan_text(args, report.plan, report.cost)]
        if c.n_groups is not None:
            lines.append(f"  for a corpus with {number(c.redundancy)} prompts per group")
    lines += warning_lines((*report.notes, *c.warnings))
    return "\n".join(lines)


def _verdict(args: argparse.Namespace, c: Comparison, level: str, word: str) -> list[str]:
    """What the comparison says, and what it could have shown."""
    lines = []
    known = math.isfinite(c.difference.low)
    if args.margin is not None and known:
        advantage = c.advantage(higher_is_better=bool(args.higher_is_better))
        shown = advantage.low > -args.margin
        lines.append(
            f"  A is {'' if shown else 'not shown to be '}not inferior to B by {number(args.margin)}: the one-sided "
            f"{level} limit of its advantage is {number(advantage.low)}, {'above' if shown else 'not above'} "
            f"{number(-args.margin)}"
        )
    elif known:
        better = None
        if not c.difference.low <= 0 <= c.difference.high:
            better = "A" if (c.difference.value > 0) == bool(args.higher_is_better) else "B"
        lines.append(
            f"  {better} is better ({'higher' if args.higher_is_better else 'lower'} {word}): the interval excludes 0"
            if better
            else "  no difference is shown: the interval holds 0"
        )
    if math.isfinite(c.detectable.difference):
        lines.append(
            f"  this design shows a difference of {number(c.detectable.difference)} with power {args.power:g} "
            f"({number(c.detectable.large_sample)} were the standard error known)"
        )
    return lines


def _plan_text(args: argparse.Namespace, plan: ComparisonPlan, cost: Cost) -> str:
    cost_b = cost.response if args.c_response_b is None else args.c_response_b
    prices = (
        f"{number(cost.prompt)} per prompt, {number(cost.response)} per response of A, {number(cost_b)} of B"
    )
    rows = [("prompts", number(plan.n_prompts), "N_p, the same for both models")]
    if plan.equal is not None:
        rows.append(("responses per prompt", number(plan.responses_a), "K, of each model"))
    else:
        rows.append(("responses of A", number(plan.responses_a), "K_A, per prompt"))
        rows.append(("responses of B", number(plan.responses_b), "K_B, per prompt"))
    error = number(math.sqrt(plan.variance))
    rows += [
        ("variance", number(plan.variance), f"of the difference; standard error {error}"),
        ("cost", number(plan.cost, 6), prices),
    ]
    if plan.equal is not None:
        rows.append(("K*", number(plan.k_star_a), "best K if N_p and K need not be whole"))
    else:
        stars = f"{number(plan.k_star_a)}, {number(plan.k_star_b)}"
        rows.append(("K_A*, K_B*", stars, "best if nothing need be whole (point values, without intervals)"))
    if args.margin is not None:
        assumed = f"assuming that A's advantage is {number(args.detect or 0.0)}"
        rows.append(
            (
                "power",
                number(plan.power),
                f"to show that A is not inferior by {number(args.margin)}, {assumed}",
            )
        )
    else:
        if args.detect is not None:
            rows.append(("power", number(plan.power), f"to show a difference of {number(args.detect)}"))
        large = number(plan.large_sample_detectable)
        rows.append(
            (
                "detectable",
                number(plan.detectable),
                f"with power {args.power:g}; {large} were the standard error known",
            )
        )
    width = max(len(value) for _, value, _ in rows)
    text = table([(name, value.rjust(width), remark) for name, value, remark in rows])
    if plan.equal is not None and plan.equal.gap:
        text += f"\n\n  Too large to prove: no plan is better by more than {plan.equal.gap:.1g}."
    return text


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, not {text!r}")
    return value

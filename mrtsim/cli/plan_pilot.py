"""`mrtsim plan-pilot`: what pilots of several sizes would tell about K*, before one is run."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from mrtsim.cli import (
    count,
    finite,
    non_negative,
    number,
    option_name,
    positive,
    probability,
    strict_json,
    table,
)
from mrtsim.cli.reading import add_reading, given, how_read, told
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.pilot.estimate import PilotEstimate
    from mrtsim.pilot.sums import PromptSums
    from mrtsim.plan.allocate import Cost
    from mrtsim.plan.pilot_design import PilotDesign

EXAMPLES = """\
examples:
  how large a pilot, if responses to one prompt vary 2.5 times as much as prompts do
    mrtsim plan-pilot --ratio 2.5
  with costs, and the cheapest one whose plan loses 2 % on average
    mrtsim plan-pilot --ratio 2.5 --c-prompt 4 --c-response 1 --tolerance 0.02
  what 20 or 50 more prompts would add to a pilot
    mrtsim plan-pilot --resume pilot.csv --prompts 20 50 --responses 8
"""
PROMPTS, RESPONSES = (10, 20, 50, 100, 200), (2, 4, 8)
READING = ("prompt_column", "loss_column", "layout", "format", "missing_ids")  # of the pilot to go on with


def add_parser(subparsers: Any) -> None:
    """The subcommand's arguments."""
    parser = subparsers.add_parser(
        "plan-pilot",
        help="how large a pilot: what its interval of K* and the plan made from it would be like",
        description="Predict, for pilots of several sizes, the interval of K* that `mrtsim pilot` would print and how "
        "much the plan made from it would lose.",
        epilog=EXAMPLES,
    )
    group = parser.add_argument_group("guesses")
    group.add_argument(
        "--ratio", type=positive, metavar="R", help="V_{y|x} / V_x (with --resume: the pilot's)"
    )
    group.add_argument(
        "--skewness-x",
        type=finite,
        default=0.0,
        metavar="S",
        help="skewness of the prompts' means (default 0)",
    )
    group.add_argument(
        "--skewness-response",
        type=finite,
        default=0.0,
        metavar="S",
        help="of the responses to a prompt (default 0)",
    )
    group = parser.add_argument_group("designs")
    group.add_argument(
        "--prompts", type=count, nargs="+", metavar="P", help="numbers of prompts (default 10 20 50 100 200)"
    )
    group.add_argument(
        "--responses", type=count, nargs="+", metavar="R", help="responses per prompt (default 2 4 8)"
    )
    group.add_argument("--c-prompt", type=non_negative, metavar="C", help="C_p, cost of one prompt")
    group.add_argument("--c-response", type=non_negative, metavar="C", help="C_r, cost of one response")
    group.add_argument(
        "--tolerance",
        type=positive,
        metavar="SHARE",
        help="name the cheapest design whose expected regret is at most this share, and which fails (V_x is "
        "estimated at 0 or below) with at most this probability",
    )
    group.add_argument("--confidence", type=probability, default=0.95, metavar="C", help="default 0.95")
    group = parser.add_argument_group("a pilot to go on with")
    group.add_argument(
        "--resume",
        nargs="+",
        metavar="PILOT",
        help="the file or files of a pilot: --prompts are added to it, and the ratio is its estimate",
    )
    group.add_argument(
        "--prompt-column", default="prompt_id", metavar="P", help="prompt ids (default prompt_id)"
    )
    group.add_argument("--loss-column", default="loss", metavar="L", help="losses (default loss)")
    add_reading(group)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output and nothing else"
    )
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Simulate the designs and print what each would show."""
    from mrtsim.pilot.text import warning_lines
    from mrtsim.plan.pilot_design import cheapest_pilot, plan_pilot

    cost = _cost(args)
    sums, pilot, warnings = _resumed(args) if args.resume else (None, None, [])
    if pilot is None and (reading := [option for option in READING if given(args, option)]):
        named = ", ".join(option_name(option) for option in reading)
        raise InputError(f"--resume PILOT must be given with {named}")
    ratio = args.ratio
    if ratio is None:
        if pilot is None:
            raise InputError(
                "give --ratio, a guess of V_{y|x} / V_x, or a pilot to go on with: --resume PILOT"
            )
        ratio = pilot.ratio.value
        if pilot.planning.prompt <= 0:
            raise InputError(
                f"{told(args.resume)}: V_x is estimated at {number(pilot.planning.prompt)}, so there is no ratio "
                "to go on with: give a guess of it with --ratio"
            )
    designs = [
        plan_pilot(
            ratio,
            prompts,
            responses,
            cost=cost,
            confidence=args.confidence,
            skewness_x=args.skewness_x,
            skewness_response=args.skewness_response,
            resume=sums,
        )
        for prompts in args.prompts or PROMPTS
        for responses in args.responses or RESPONSES
    ]
    cheapest = None if args.tolerance is None else cheapest_pilot(designs, args.tolerance)
    if args.json:
        print(strict_json(_record(args, ratio, pilot, designs, cheapest) | {"warnings": warnings}))
    else:
        print("\n".join([_text(args, ratio, pilot, designs, cheapest), *warning_lines(warnings)]))
    return 0


def _cost(args: argparse.Namespace) -> Cost | None:
    if (args.c_prompt is None) != (args.c_response is None):
        raise InputError("the plan depends on both costs: give --c-prompt and --c-response, or neither")
    if args.c_prompt is None:
        if args.tolerance is not None:
            raise InputError("--tolerance is about the plan's loss: give --c-prompt and --c-response as well")
        return None
    from mrtsim.plan.allocate import Cost

    return Cost(args.c_prompt, args.c_response)


def _resumed(args: argparse.Namespace) -> tuple[PromptSums, PilotEstimate, list[str]]:
    """The pilot to go on with: its sums, its estimate and what a report should say about both."""
    from mrtsim.pilot.estimate import estimate_components
    from mrtsim.pilot.sums import PromptSums
    from mrtsim.tables.pilots import read_pilot

    rows = read_pilot(
        args.resume, prompt_column=args.prompt_column, loss_column=args.loss_column, **how_read(args)
    )
    try:
        sums = PromptSums.of(rows.losses, rows.prompts)
        pilot = estimate_components(sums, confidence=args.confidence)
    except InputError as error:
        raise InputError(f"{told(args.resume)}: {error}") from None
    return sums, pilot, [*rows.notes, *pilot.warnings]


def _design(design: PilotDesign) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(design)


def _record(
    args: argparse.Namespace,
    ratio: float,
    pilot: PilotEstimate | None,
    designs: list[PilotDesign],
    cheapest: PilotDesign | None,
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "ratio": ratio,
        "confidence": args.confidence,
        "designs": [_design(design) for design in designs],
    }
    if pilot is not None:
        record["resumed"] = {
            "n_prompts": pilot.n_prompts,
            "n_responses": pilot.n_responses,
            "ratio": pilot.ratio.to_dict(),
        }
    if args.tolerance is not None:
        record["cheapest"] = None if cheapest is None else _design(cheapest)
    return record


def _text(
    args: argparse.Namespace,
    ratio: float,
    pilot: PilotEstimate | None,
    designs: list[PilotDesign],
    cheapest: PilotDesign | None,
) -> str:
    level = f"{100 * args.confidence:g} %"
    skewed = args.skewness_x or args.skewness_response
    law = (
        f"log-normal effects of skewness {args.skewness_x:g} (prompts) and {args.skewness_response:g} (responses)"
        if skewed
        else "normal effects"
    )
    lines = [f"pilots to estimate V_y|x / V_x = {number(ratio)}; {level} intervals; {law}", ""]
    if pilot is not None:
        lines[0] = f"prompts to add to {told(args.resume)}; " + lines[0].removeprefix("pilots to estimate ")
        lines.insert(
            1,
            f"so far {pilot.n_prompts} prompts and {pilot.n_responses} responses: ratio {number(pilot.ratio.value)}, "
            f"from {number(pilot.ratio.low)} to {number(pilot.ratio.high)}",
        )
    costs = designs[0].cost is not None
    header = [
        "prompts",
        "responses each",
        *(["cost"] if costs else []),
        "no upper limit",
        "limits of K*",
        "no plan",
    ]
    rows = []
    for d in designs:
        row: list[Any] = [d.n_prompts, d.responses_per_prompt, *([d.cost] if costs else [])]
        row += [_percent(d.no_upper_limit), number(d.median_ratio_of_limits, 3), _percent(d.refused)]
        rows.append([*row, *([] if not costs else [_percent(d.expected_regret)])])
    lines.append(table(rows, [*header, *(["regret"] if costs else [])]))
    lines.append("")
    notes = [
        "no upper limit: probability that the interval of K* has none",
        "limits of K*: median over pilots of its upper over its lower limit",
        "no plan: probability that V_x is estimated at 0 or below, on which no plan can rest",
    ]
    if costs:
        notes.append(
            "regret: variance in excess of the best plan at equal budget, a mean over the pilots that give a plan"
        )
    lines += [f"  {note}" for note in notes]
    if args.tolerance is not None:
        share = f"{100 * args.tolerance:g} %"
        if cheapest is None:
            found = f"no design here has a regret and a probability of no plan of at most {share}: try larger ones"
        else:
            found = (
                f"cheapest with regret and probability of no plan of at most {share}: {cheapest.n_prompts} prompts x "
                f"{cheapest.responses_per_prompt} responses, cost {number(cheapest.cost or 0.0)}"
            )
        lines += ["", textwrap.fill(found, 100, subsequent_indent="  ")]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    """A share as a person reads it; simulated shares are known to a third of a percent at best."""
    return "" if share is None else f"{100 * share:.1f} %"

"""`mrtsim pilot`: the variance components of a pilot, with intervals, and the plan that follows from them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mrtsim.cli import count, non_negative, number, option_name, pass_at, positive, probability, strict_json
from mrtsim.cli.detecting import add_detect, check_detect, detect_plan, detect_plot
from mrtsim.cli.pilot_crossed import add_judges, crossed_cost, refuse_judges, run_crossed
from mrtsim.cli.pilot_growth import (
    Grown,
    add_growth,
    grow,
    growth_lines,
    growth_record,
    growth_rows,
    plan_arguments,
    refuse_growth,
    refuse_size,
)
from mrtsim.cli.reading import add_files, add_log, how_read, read_of_log, told
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.pilot.estimate import PilotEstimate
    from mrtsim.plan.allocate import Cost, Plan
    from mrtsim.tables.pilots import Pilot
    from mrtsim.variance import VarianceComponents

EXAMPLES = """\
examples:
  components of a pilot with columns prompt_id and loss
    mrtsim pilot pilot.csv
  and what to do with 400 units, where a prompt costs 4 and a response 1
    mrtsim pilot pilot.parquet --c-prompt 4 --c-response 1 --budget 400
  the cheapest way to tell two models like this one apart that differ by 0.2
    mrtsim pilot pilot.csv --c-prompt 4 --c-response 1 --detect 0.2 --correlation 0.5
  gradients in place of losses, to plan training
    mrtsim pilot gradients.parquet --vector-column gradient --c-prompt 4 --c-response 1 --budget 400
  prompts in groups of near-duplicates
    mrtsim pilot pilot.jsonl --group-column topic --c-prompt 4 --c-response 1 --budget 400
  the same judges for every prompt: how many prompts, and how many judges
    mrtsim pilot ratings.csv --judge-column judge --c-prompt 4 --c-cell 1 --budget 400
  pass@4 of 0/1 rewards in column correct, and the best numbers of prompts and responses for it
    mrtsim pilot samples.jsonl --pass-at 4 --reward-column correct --c-prompt 4 --c-response 1 --budget 3200
"""


def add_parser(subparsers: Any) -> None:
    """The subcommand's arguments."""
    parser = subparsers.add_parser(
        "pilot",
        help="variance components, K* and a plan from the losses of a pilot",
        description="Estimate V_x and V_{y|x} with intervals from per-response losses, and plan with them.",
        epilog=EXAMPLES,
    )
    add_files(parser)
    group = parser.add_argument_group("columns")
    group.add_argument(
        "--prompt-column", default="prompt_id", metavar="P", help="prompt ids (default prompt_id)"
    )
    group.add_argument("--loss-column", default="loss", metavar="L", help="losses (default loss)")
    group.add_argument(
        "--group-column", metavar="G", help="groups of redundant prompts: estimates V_g as a third component"
    )
    group.add_argument(
        "--vector-column",
        metavar="V",
        help="a list of numbers per response, such as its gradient, in place of the loss: components are then traces, "
        "and K* is for training",
    )
    group.add_argument(
        "--sketched",
        action="store_true",
        help="the vectors are random sketches, normal of variance 1/length and the same for all rows",
    )
    add_log(parser)
    add_judges(parser)
    pass_at.add_arguments(parser)
    add_growth(parser)
    group = parser.add_argument_group("estimation")
    group.add_argument(
        "--method",
        choices=("anova", "ml", "reml"),
        default="anova",
        help="anova: unbiased, may be negative (default); ml, reml: normal likelihood, never negative. The intervals "
        "do not depend on it",
    )
    group.add_argument("--confidence", type=probability, default=0.95, metavar="C", help="default 0.95")
    group.add_argument(
        "--redundancy",
        type=positive,
        metavar="R",
        help="prompts per group in the corpus that the plan is for (default: as in the pilot)",
    )
    group = parser.add_argument_group("plan")
    group.add_argument("--c-prompt", type=non_negative, metavar="C", help="C_p, cost of one prompt")
    group.add_argument("--c-response", type=non_negative, metavar="C", help="C_r, cost of one response")
    goal = group.add_mutually_exclusive_group()
    goal.add_argument(
        "--budget", type=positive, metavar="B", help="the most to spend, in the unit of the costs"
    )
    goal.add_argument(
        "--target-variance", type=non_negative, metavar="V", help="reach this variance at least cost"
    )
    add_detect(group, goal, confidence=False)
    group.add_argument(
        "--max-responses", type=count, metavar="K", help="largest number of responses per prompt"
    )
    group.add_argument("--max-prompts", type=count, metavar="N", help="largest number of prompts")
    group.add_argument(
        "--plan-at",
        choices=("low", "estimate", "high"),
        default="estimate",
        help="plan with the ratio V_{y|x}/V_x at its estimate, or at a confidence limit: low plans for the largest V_x "
        "that the data allow, and so for the fewest responses per prompt",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--plot", metavar="OUT.png", help="draw the plan's objective against K, with K*'s interval"
    )
    group.add_argument(
        "--json", action="store_true", help="one JSON object on standard output and nothing else"
    )
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Read, estimate, plan, print."""
    if pass_at.asked(args):
        return pass_at.run(args)
    from mrtsim.pilot.sums import PromptSums
    from mrtsim.tables.pilots import read_pilot

    cost, crossed = None, None
    check_detect(args, "power", "correlation")
    if args.judge_column is None:
        refuse_judges(args)
        refuse_growth(args)
        cost = _cost(args)
    else:
        crossed = crossed_cost(args)
    rows = read_of_log(args) or read_pilot(
        args.files,
        prompt_column=args.prompt_column,
        loss_column=args.loss_column,
        group_column=args.group_column,
        judge_column=args.judge_column,
        vector_column=args.vector_column,
        **how_read(args),
    )
    if rows.judges is not None:
        return run_crossed(args, rows, crossed)
    try:
        sums = PromptSums.of(rows.losses, rows.prompts, rows.groups, sketched=args.sketched)
        grown = grow(args, sums, cost)
    except InputError as error:
        raise InputError(f"{told(args.files)}: {error}") from None
    pilot = replace(grown.pilot, warnings=(*grown.pilot.warnings, *_common_judges(rows, grown.pilot)))
    grown = replace(grown, pilot=pilot)
    planned = _plan(args, grown, cost) if cost is not None and _goal(args) else None
    if args.json:
        print(strict_json(_record(grown, cost, planned, rows.notes)))
    else:
        print(_text(args, grown, cost, planned, rows.notes))
    return 0


def _common_judges(rows: Pilot, pilot: PilotEstimate) -> Iterator[str]:
    """Whether responses that share an id nobody mentioned differ alike in all prompts."""
    from mrtsim.pilot.common_judges import cells_by_column, common_judge_warnings
    from mrtsim.tables.pilots import POSITION

    if pilot.vectors:
        return iter(())

    def remedy(column: str) -> str:
        if column == POSITION:
            return "give each response its judge and say --judge-column, unless the lists are sorted"
        return f"say --judge-column {column}"

    columns = cells_by_column(rows.losses, rows.prompts, rows.maybe_common)
    return common_judge_warnings(columns, remedy=remedy, standard_error=pilot.standard_error)


def _goal(args: argparse.Namespace) -> bool:
    return any(goal is not None for goal in (args.budget, args.target_variance, args.detect))


def _cost(args: argparse.Namespace) -> Cost | None:
    """The costs, where both are given; what makes no sense without them is refused."""
    if (args.c_prompt is None) != (args.c_response is None):
        raise InputError("K* depends on both costs: give --c-prompt and --c-response, or neither")
    if args.c_prompt is None and _goal(args):
        raise InputError("a plan needs --c-prompt and --c-response as well")
    if not _goal(args):
        goals = "give --budget, --target-variance or --detect"
        given = args.fix_prompts is not None and args.fix_prompts == args.population
        for name in ("max_responses", "max_prompts", "plot", *(() if given else ("fix_prompts",))):
            if getattr(args, name) is not None:
                raise InputError(f"{option_name(name)} belongs to a plan: {goals}")
        if args.plan_at != "estimate":
            raise InputError(f"--plan-at belongs to a plan: {goals}")
    if args.sketched and args.vector_column is None:
        raise InputError("--sketched is for --vector-column")
    if args.vector_column is not None:
        for name in ("population", "candidates", "group_population", "detect"):
            if getattr(args, name) is not None:
                raise InputError(f"{option_name(name)} is for losses: it does not go with --vector-column")
    if args.redundancy is not None and args.group_column is None:
        raise InputError("--redundancy needs --group-column: without groups every prompt stands for itself")
    if args.c_prompt is None:
        return None
    from mrtsim.plan.allocate import Cost

    return Cost(args.c_prompt, args.c_response, args.c_group)


Planned = tuple["Plan", Any, "Cost", dict[str, Any]]


def _plan(args: argparse.Namespace, grown: Grown, cost: Cost) -> Planned:
    """The plan, the components and costs it rests on, and the keywords of `allocate` that it obeys."""
    from mrtsim.plan.allocate import allocate

    try:
        refuse_size(grown, args)
    except InputError as error:
        raise InputError(f"{told(args.files)}: {error}") from None
    components, price, constraints = plan_arguments(args, grown, cost)
    between = components.prompt + constraints.get("redundancy", 1) * components.group
    if between <= 0 and args.max_responses is None and args.fix_prompts is None:
        raise InputError(_refusal(args, grown.pilot, price, constraints))
    if args.detect is not None:
        caps = {
            name: constraints[name] for name in ("n_prompts", "max_responses", "max_prompts", "population")
        }
        plan = detect_plan(args, components, price, grown.pilot.redundancy, **caps)
        if args.plot:
            detect_plot(args, components, grown.pilot.redundancy, plan, args.population)
        return plan, components, price, constraints
    plan = allocate(components, price, **constraints)
    if args.plot:
        from mrtsim.plotting import plot_allocation, save

        k_star = grown.pilot.k_star(cost)
        figure = plot_allocation(
            components,
            price,
            k_star_interval=(k_star.low, k_star.high),
            confidence=grown.pilot.confidence,
            **constraints,
        )
        save(figure, args.plot)
    return plan, components, price, constraints


def _refusal(args: argparse.Namespace, pilot: PilotEstimate, cost: Cost, constraints: dict[str, Any]) -> str:
    """Why there is no plan, and which one could be had."""
    from mrtsim.plan.allocate import allocate

    if args.plan_at == "high":
        reason = "the interval of K* has no upper limit, so there is no plan at it"
    else:
        value = number(pilot.planning.prompt)
        reason = f"V_x is estimated at {value}, and a plan on that would put the whole budget on one prompt"
    advice = "give --max-responses, or run a larger pilot"
    low = pilot.planning_at("low")
    bare = cost.group is None and "redundancy" not in constraints
    if low.prompt > 0 and args.detect is None and bare:
        offer = allocate(low, cost, **constraints)
        advice += (
            f", or plan at the {100 * pilot.confidence:g} % confidence limit with --plan-at low: "
            f"{number(offer.n_prompts)} prompts x {number(offer.responses_per_prompt)} responses"
        )
    return f"{told(args.files)}: {reason}; {advice}"


def _record(grown: Grown, cost: Cost | None, planned: Planned | None, notes: Sequence[str]) -> dict[str, Any]:
    pilot = grown.pilot
    record = pilot.to_dict() | {"warnings": [*notes, *pilot.warnings]}
    if pilot.n_groups is not None:
        record["growth"] = growth_record(grown)
    if cost is not None:
        record["k_star"] = pilot.k_star(cost).to_dict()
        record["k_star_for"] = "training" if pilot.vectors else "evaluation"
        if planned is not None:
            record["plan"] = planned[0].to_dict()
            fixed = planned[3]["n_prompts"] is not None  # K alone is free: other K cost more
            regret = None if fixed else pilot.largest_regret(planned[0].responses_per_prompt, cost)
            record["largest_regret"] = regret
    return record


def _text(
    args: argparse.Namespace, grown: Grown, cost: Cost | None, planned: Planned | None, notes: Sequence[str]
) -> str:
    from mrtsim.pilot.text import pilot_text, warning_lines

    pilot = grown.pilot
    level = f"{100 * pilot.confidence:g} %"
    stars = ()
    if cost is not None:
        stars = (
            growth_rows(grown, cost)
            if grown.k_stars
            else [("K*", pilot.k_star(cost), "best responses per prompt")]
        )
    lines = [f"{told(args.files)}: {pilot_text(pilot, args.vector_column or args.loss_column, stars)}"]
    lines += ["", *growth_lines(grown)] if pilot.group is not None else []
    if cost is not None:
        costs = f"where a prompt costs {number(cost.prompt)} and a response {number(cost.response)}"
        lines += ["", *_what_for(costs, vectors=pilot.vectors)]
    if planned is not None and cost is not None:
        plan, components, _, _ = planned
        at = {
            "estimate": "",
            "low": f" at the lower {level} limit of K*",
            "high": f" at the upper {level} limit of K*",
        }
        lines += [
            "",
            f"plan{at[args.plan_at]}",
            str(plan),
            "",
        ]
        lines += _moved(args, pilot, components)
        if args.fix_prompts is None:
            regret = 100 * pilot.largest_regret(plan.responses_per_prompt, cost)
            lines.append(
                f"  Should the ratio lie anywhere in its interval, K = {plan.responses_per_prompt} gives at most "
                f"{number(regret, 2)} % more variance than the best K at equal cost."
            )
    lines += warning_lines((*notes, *pilot.warnings))
    return "\n".join(lines)


def _moved(args: argparse.Namespace, pilot: PilotEstimate, components: VarianceComponents) -> list[str]:
    """What a plan at a limit of the ratio takes for V_x, which may lie outside the interval of V_x itself."""
    if args.plan_at == "estimate":
        return []
    between = "V_x" if pilot.group is None else "V_x|g"
    if pilot.redundancy and pilot.group is not None:
        between = f"{number(pilot.redundancy)} V_g + V_x|g"
    if components.response == 0:
        moved = (
            f"The lower limit of the ratio is 0: the plan takes {between} = {number(components.prompt)}, all of the "
            "variance, and V_y|x = 0, so that K = 1."
        )
    else:
        moved = (
            f"The plan moves the ratio to its limit and leaves V_y|x at its estimate: it takes {between} = "
            f"{number(components.prompt)} (estimate {number(pilot.planning.prompt)})"
        )
        inside = pilot.group is not None or pilot.prompt.low <= components.prompt <= pilot.prompt.high
        moved += ", which is outside the interval of V_x itself" if not inside else ""
        moved += ". The variance and the standard error above are those at this value."
    return [*textwrap.wrap(moved, 98, initial_indent="  ", subsequent_indent="  "), ""]


def _what_for(costs: str, *, vectors: bool) -> list[str]:
    """What K* of this pilot is for."""
    said = (
        f"K* is for an evaluation, {costs}: how well the mean loss is known. For training take a pilot of gradients "
        "(--vector-column): its K* can be several times larger."
    )
    if vectors:
        said = (
            f"K* is for training, {costs}: how well the mean of these vectors is known. For an evaluation take a "
            "pilot of losses."
        )
    return [textwrap.fill(said, 100, initial_indent="  ", subsequent_indent="  ")]

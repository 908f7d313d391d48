"""`mrtsim pilot --judge-column`: the same judges (or seeds, checkpoints) see every prompt."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mrtsim.cli import count, non_negative, number, option_name, strict_json
from mrtsim.cli.reading import told
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.pilot.crossed import CrossedEstimate
    from mrtsim.plan.judges import CrossedCost, CrossedPlan
    from mrtsim.tables.pilots import Pilot

# Options of a pilot without judges, by the name of their argument and its value where they are not given.
ELSEWHERE = {
    "group_column": None,
    "redundancy": None,
    "method": "anova",
    "plan_at": "estimate",
    "plot": None,
    "vector_column": None,
    "sketched": False,
    "detect": None,
    "growth": None,
    "c_group": None,
    "group_population": None,
    "max_group_size": None,
    "population": None,
    "candidates": None,
}
PLAN = ("c_judge", "c_cell", "max_judges", "max_responses", "max_prompts", "fix_prompts")


def add_judges(parser: argparse.ArgumentParser) -> None:
    """The options of a crossed pilot."""
    group = parser.add_argument_group("judges, seeds or checkpoints that see every prompt")
    group.add_argument(
        "--judge-column",
        metavar="J",
        help="which judge each response has: estimates V_j and plans prompts x judges",
    )
    group.add_argument(
        "--judges",
        choices=("random", "fixed"),
        help="a sample of judges that could be others (default), or these judges alone: then V_j is no error",
    )
    group.add_argument("--c-judge", type=non_negative, metavar="C", help="C_j, cost of one judge (default 0)")
    group.add_argument(
        "--c-cell",
        type=non_negative,
        metavar="C",
        help="C_c, cost of one prompt seen by one judge with one response, all included (default --c-response, which "
        "is then the cost of each further response in the cell)",
    )
    group.add_argument("--max-judges", type=count, metavar="J", help="largest number of judges")


def refuse_judges(args: argparse.Namespace) -> None:
    """Refuse options of judges where there are none."""
    for name in ("judges", "c_judge", "c_cell", "max_judges"):
        if getattr(args, name) is not None:
            raise InputError(f"{option_name(name)} needs --judge-column")


def run_crossed(args: argparse.Namespace, rows: Pilot, cost: CrossedCost | None) -> int:
    """Estimate, plan and print a crossed pilot.

    Args:
        args: the parsed command line.
        rows: losses, prompts and judges.
        cost: of prompts, cells and responses; None where nothing is planned.
    """
    from mrtsim.pilot.estimate import estimate_components

    assert rows.judges is not None
    try:
        pilot = estimate_components(
            rows.losses,
            rows.prompts,
            judges=rows.judges,
            fixed_judges=args.judges == "fixed",
            confidence=args.confidence,
        )
    except InputError as error:
        raise InputError(f"{told(args.files)}: {error}") from None
    plan = None if cost is None else _plan(args, pilot, cost)
    if args.json:
        record = pilot.to_dict() | {"warnings": [*rows.notes, *pilot.warnings]}
        print(strict_json(record if plan is None else record | {"plan": plan.to_dict()}))
    else:
        print("\n".join(_text(args, pilot, cost, plan, rows)))
    return 0


def crossed_cost(args: argparse.Namespace) -> CrossedCost | None:
    """The costs of a plan, None where no plan is asked for; options that make no sense with judges are refused."""
    from mrtsim.plan.judges import CrossedCost

    for name, absent in ELSEWHERE.items():
        if getattr(args, name) != absent:
            raise InputError(f"{option_name(name)} does not go with --judge-column")
    if args.budget is None and args.target_variance is None:
        for name in PLAN:
            if getattr(args, name) is not None:
                raise InputError(f"{option_name(name)} belongs to a plan: give --budget or --target-variance")
        return None
    if args.c_prompt is None or (args.c_cell is None and args.c_response is None):
        raise InputError(
            "a plan with judges needs --c-prompt, and --c-cell or --c-response for what one judge adds to a prompt"
        )
    cell = args.c_response if args.c_cell is None else args.c_cell
    return CrossedCost(
        prompt=args.c_prompt,
        judge=args.c_judge or 0.0,
        cell=cell,
        response=cell if args.c_response is None else args.c_response,
    )


def _plan(args: argparse.Namespace, pilot: CrossedEstimate, cost: CrossedCost) -> CrossedPlan:
    from mrtsim.plan.judges import allocate_judges

    components = pilot.planning
    single = pilot.interaction is None
    if single and (args.max_responses or 1) > 1:
        raise InputError(
            f"{told(args.files)}: every cell has one response, so V_pj and V_r cannot be told apart and a plan has one "
            "response per cell: leave --max-responses out"
        )
    capped = pilot.fixed_judges or args.max_judges is not None
    endless = components.interaction <= 0 and not single and args.max_responses is None
    if components.prompt <= 0 and (not capped or endless):
        cap = "--max-judges" if not capped else "--max-responses"
        raise InputError(
            f"{told(args.files)}: V_p is estimated at {number(components.prompt)}, and a plan on that would put the "
            f"whole budget on one prompt; give {cap}, or run a larger pilot"
        )
    if components.prompt < 0:
        from dataclasses import replace

        components = replace(components, prompt=0.0)
    return allocate_judges(
        components,
        cost,
        budget=args.budget,
        target_variance=args.target_variance,
        n_judges=pilot.n_judges if pilot.fixed_judges else None,
        max_judges=args.max_judges,
        max_responses=1 if single else args.max_responses,
        max_prompts=args.max_prompts,
        n_prompts=args.fix_prompts,
        fixed_judges=pilot.fixed_judges,
    )


def _text(
    args: argparse.Namespace,
    pilot: CrossedEstimate,
    cost: CrossedCost | None,
    plan: CrossedPlan | None,
    rows: Pilot,
) -> Iterator[str]:
    yield f"{told(args.files)}: {pilot.summary(args.loss_column)}"
    if plan is not None and cost is not None:
        yield ""
        yield from _plan_text(args, pilot, cost, plan)
    for warning in (*rows.notes, *pilot.warnings):
        yield ""
        yield textwrap.fill(f"warning: {warning}", 100, subsequent_indent="  ")


def _plan_text(
    args: argparse.Namespace, pilot: CrossedEstimate, cost: CrossedCost, plan: CrossedPlan
) -> Iterator[str]:
    from mrtsim.plan.allocate import Cost, allocate
    from mrtsim.variance import VarianceComponents, crossed_variance

    price = (
        f"{number(cost.prompt)} per prompt, {number(cost.judge)} per judge, {number(cost.cell)} per cell"
        + ("" if pilot.interaction is None else f", {number(cost.response)} per further response in it")
    )
    yield "plan"
    yield str(plan)
    yield f"  where costs are {price}"
    c = pilot.planning
    others = c.judge + c.interaction + c.response
    if (
        pilot.fixed_judges
        or args.budget is None
        or c.prompt <= 0
        or c.judge <= 0
        or cost.cell == 0
        or cost.judge
    ):
        return
    nested = allocate(VarianceComponents(c.prompt, others), Cost(cost.prompt, cost.cell), budget=args.budget)
    n, k = nested.n_prompts, nested.responses_per_prompt
    yield ""
    yield textwrap.fill(
        f"With judges taken as each prompt's own the plan would be {n} prompts x {k} at a claimed variance of "
        f"{number(nested.variance)}; with {k} common judges that is {number(crossed_variance(c, n, k))}.",
        100,
        initial_indent="  ",
        subsequent_indent="  ",
    )

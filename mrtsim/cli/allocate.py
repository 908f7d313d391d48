"""`mrtsim allocate`: plans for a budget, a target variance or a difference to detect."""

from __future__ import annotations

import argparse
from typing import Any

from mrtsim.cli import count, non_negative, option_name, per_prompt, positive, strict_json
from mrtsim.cli.detecting import add_detect, check_detect, detect_plan, detect_plot
from mrtsim.errors import InputError

EXAMPLES = """\
examples:
  what to do with 400 units, where a prompt costs 4 and a response 1
    mrtsim allocate --v-prompt 0.187 --v-response 1.329 --c-prompt 4 --c-response 1 --budget 400
  the cheapest way to a standard error of 0.1, at most 8 responses per prompt
    mrtsim allocate --v-prompt 0.187 --v-response 1.329 --c-prompt 4 --c-response 1 \\
        --target-variance 0.01 --max-responses 8
  10 dollars of tokens, each prompt read once for all its responses
    mrtsim allocate --v-prompt 0.187 --v-response 1.329 --prompt-tokens 900 --response-tokens 250 \\
        --price-in 0.5 --price-out 1.5 --budget 10
  prompts in groups (documents) that cost 4 each: how many groups, prompts per group and responses per prompt
    mrtsim allocate --v-group 0.064 --v-prompt 0.133 --v-response 0.493 --c-group 4 --c-prompt 2 --c-response 1 \\
        --budget 400
  the cheapest way to tell two models apart that differ by 0.1, with mean losses per prompt that correlate at 0.7
    mrtsim allocate --v-prompt 0.187 --v-response 1.329 --c-prompt 4 --c-response 1 \\
        --detect 0.1 --power 0.8 --correlation 0.7
  responses of each prompt of a file with its standard deviation and its cost per response
    mrtsim allocate --per-prompt prompts.csv --sd-column sd --cost-column cost --budget 5000 --out plan.csv
  the same from a pilot with one loss per response
    mrtsim allocate --per-prompt pilot.jsonl --budget 5000 --max-responses 16

`mrtsim pilot` estimates the two variance components from data.
"""


def add_parser(subparsers: Any) -> None:
    """The subcommand's arguments."""
    parser = subparsers.add_parser(
        "allocate",
        help="how many prompts, and how many responses for each, a budget should buy",
        description="The best whole-number plan of N_p prompts with K responses each: the least variance\n"
        "V_x/N_p + V_{y|x}/(N_p K) for a budget, or the least cost N_p (C_p + K C_r) for a target variance.",
        epilog=EXAMPLES,
    )
    group = parser.add_argument_group("variance components, in squared units of the loss")
    group.add_argument("--v-prompt", type=non_negative, metavar="V", help="V_x, between prompts' mean losses")
    group.add_argument(
        "--v-response",
        type=non_negative,
        metavar="V",
        help="V_{y|x}, between a prompt's responses",
    )
    group.add_argument(
        "--v-group",
        type=non_negative,
        default=0.0,
        metavar="V",
        help="V_g, between groups of redundant prompts",
    )
    group.add_argument(
        "--redundancy", type=positive, default=1.0, metavar="R", help="prompts in such a group (default 1)"
    )
    group = parser.add_argument_group("costs, in any one unit (US dollars where token prices are given)")
    group.add_argument(
        "--c-group",
        type=non_negative,
        metavar="C",
        help="C_g, cost of one group of prompts: the plan then chooses the prompts per group as well",
    )
    group.add_argument("--c-prompt", type=non_negative, metavar="C", help="C_p, cost of one prompt")
    group.add_argument("--c-response", type=non_negative, metavar="C", help="C_r, cost of one response")
    group.add_argument("--prompt-tokens", type=non_negative, metavar="T", help="mean length of a prompt")
    group.add_argument("--response-tokens", type=non_negative, metavar="T", help="mean length of a response")
    group.add_argument("--price-in", type=non_negative, metavar="USD", help="price per million tokens read")
    group.add_argument(
        "--price-out", type=non_negative, metavar="USD", help="price per million tokens generated"
    )
    group.add_argument(
        "--shared-prefix",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="a prompt is read once for all its responses (default), or anew for each; the latter also describes "
        "training without packing. Token prices add to --c-prompt and --c-response",
    )
    group = parser.add_argument_group("what to reach")
    goal = group.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--budget", type=positive, metavar="B", help="the most to spend, in the unit of the costs"
    )
    goal.add_argument(
        "--target-variance", type=non_negative, metavar="V", help="reach this variance at least cost"
    )
    add_detect(group, goal, confidence=True)
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-responses", type=count, metavar="K", help="largest number of responses per prompt"
    )
    group.add_argument("--max-prompts", type=count, metavar="N", help="largest number of prompts")
    group.add_argument(
        "--max-group-size",
        type=count,
        metavar="R",
        help="largest number of prompts per group, with --c-group",
    )
    group.add_argument("--fix-responses", type=count, metavar="K", help="responses per prompt are given")
    group.add_argument("--fix-prompts", type=count, metavar="N", help="the number of prompts is given")
    group.add_argument(
        "--population",
        type=count,
        metavar="P",
        help="estimate the loss of P given prompts, not of all (finite target)",
    )
    group.add_argument(
        "--candidates",
        type=count,
        metavar="N",
        help="estimate the loss of given pools of N responses (finite target)",
    )
    per_prompt.add_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--plot", metavar="OUT.png", help="draw the objective against K")
    group.add_argument(
        "--json", action="store_true", help="one JSON object on standard output and nothing else"
    )
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Plan, print, perhaps draw."""
    per_prompt.check(args)
    if args.per_prompt is not None:
        return per_prompt.run(args)
    from mrtsim.plan.allocate import allocate
    from mrtsim.variance import VarianceComponents

    components = VarianceComponents(args.v_prompt, args.v_response, args.v_group)
    cost = cost_from(args)
    goal = {
        "budget": args.budget,
        "target_variance": args.target_variance,
        "max_responses": args.max_responses,
        "max_prompts": args.max_prompts,
        "population": args.population,
        "candidates": args.candidates,
        "n_prompts": args.fix_prompts,
        "redundancy": args.redundancy,
        "max_group_size": args.max_group_size,
    }
    check_detect(args, "power", "correlation", "confidence")
    if args.detect is not None:
        plan = _detect(args, components, cost)
        if args.plot:
            detect_plot(args, components, args.redundancy, plan, population=args.population)
    else:
        plan = allocate(components, cost, responses_per_prompt=args.fix_responses, **goal)
    if args.plot and args.detect is None:
        from mrtsim.plotting import plot_allocation, save

        save(plot_allocation(components, cost, **goal), args.plot)
    if args.json:
        costs = {"c_group": cost.group, "c_prompt": cost.prompt, "c_response": cost.response}
        print(strict_json(plan.to_dict() | costs))
    else:
        print(plan)
        print("\n  Components of losses plan an evaluation, components of gradients plan training.")
    return 0


def _detect(args: argparse.Namespace, components: Any, cost: Any) -> Any:
    """The plan for `--detect`; what it does not go with is refused."""
    for name, why in (
        ("c_group", "the power of a plan that chooses the group size is not known: give --redundancy"),
        ("max_group_size", "it needs --c-group"),
        ("candidates", "given pools have no power: the population of responses is meant"),
    ):
        if getattr(args, name) is not None:
            raise InputError(f"--detect does not go with {option_name(name)}: {why}")
    return detect_plan(
        args,
        components,
        cost,
        args.redundancy,
        max_responses=args.max_responses,
        max_prompts=args.max_prompts,
        population=args.population,
        n_prompts=args.fix_prompts,
        responses_per_prompt=args.fix_responses,
    )


def cost_from(args: argparse.Namespace) -> Any:
    """The `Cost` of --c-prompt, --c-response and the token options."""
    from mrtsim.plan.allocate import Cost

    tokens = {
        name: getattr(args, name) for name in ("prompt_tokens", "response_tokens", "price_in", "price_out")
    }
    missing = [option_name(name) for name, value in tokens.items() if value is None]
    if len(missing) == len(tokens):
        if args.c_prompt is None or args.c_response is None or args.shared_prefix is not None:
            raise InputError(
                "costs: give --c-prompt and --c-response, or --prompt-tokens, --response-tokens, --price-in and "
                "--price-out (with --shared-prefix or --no-shared-prefix)"
            )
        return Cost(args.c_prompt, args.c_response, args.c_group)
    if missing:
        raise InputError(f"token costs need {' and '.join(missing)} as well")
    tokens_cost = Cost.from_tokens(
        **tokens,
        shared_prefix=args.shared_prefix is not False,
        prompt=args.c_prompt or 0.0,
        response=args.c_response or 0.0,
    )
    return Cost(tokens_cost.prompt, tokens_cost.response, args.c_group)

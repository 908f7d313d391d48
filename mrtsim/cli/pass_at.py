"""`mrtsim pilot --pass-at k`: pass@k of a pilot of rewards, its components, and a plan."""

from __future__ import annotations

import argparse
import math
import textwrap
from typing import TYPE_CHECKING, Any

from mrtsim.cli import count, finite, number, option_name, strict_json, table
from mrtsim.cli.reading import given, how_read, told
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.pilot.pass_at_k import PassAtKEstimate, PassAtKPlan

OWN = ("reward_column", "success_above")
SHARED = (
    "command", "files", "layout", "format", "missing_ids", "prompt_column", "confidence", "c_prompt", "c_response",
    "budget", "target_variance", "max_responses", "population", "fix_prompts", "plot", "json", "parser", "pass_at",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `--pass-at`."""
    group = parser.add_argument_group("pass@k of 0/1 rewards, in place of the mean loss")
    group.add_argument("--pass-at", type=count, metavar="k", help="estimate pass@k and plan for it")
    group.add_argument(
        "--reward-column", metavar="R", help="rewards, 1 for success; a loss is never taken for a reward"
    )
    group.add_argument("--success-above", type=finite, metavar="T", help="rewards above T are successes")


def asked(args: argparse.Namespace) -> bool:
    """Whether `--pass-at` is asked for; arguments that do not go together are refused."""
    if args.pass_at is None:
        if misplaced := [option_name(name) for name in OWN if given(args, name)]:
            raise InputError(f"--pass-at k must be given with {', '.join(misplaced)}")
        return False
    if args.reward_column is None:
        raise InputError(
            "--pass-at needs --reward-column, the rewards (1 for success): a loss is never taken for one"
        )
    if misplaced := [
        option_name(name) for name in vars(args) if name not in {*OWN, *SHARED} and given(args, name)
    ]:
        raise InputError(f"--pass-at does not go with {', '.join(misplaced)}")
    goal = args.budget is not None or args.target_variance is not None
    costs = [name for name in ("c_prompt", "c_response") if getattr(args, name) is None]
    if goal and costs:
        raise InputError(f"a plan needs {' and '.join(map(option_name, costs))} as well")
    if not goal and (len(costs) < 2 or args.plot or args.max_responses is not None):
        raise InputError(
            "costs, --max-responses and --plot belong to a plan: give --budget or --target-variance"
        )
    population, fixed = (getattr(args, name, None) for name in ("population", "fix_prompts"))
    if population != fixed:
        raise InputError("a given benchmark of P prompts is evaluated on all: --population P --fix-prompts P")
    return True


def run(args: argparse.Namespace) -> int:
    """Read, estimate, plan, print, perhaps draw."""
    from mrtsim.pilot.pass_at_k import allocate_pass_at_k, estimate_pass_at_k
    from mrtsim.plan.allocate import Cost
    from mrtsim.success_counts import read_success_counts

    counts = read_success_counts(
        args.files,
        reward_column=args.reward_column,
        prompt_column=args.prompt_column,
        success_above=args.success_above,
        **how_read(args),
    )
    try:
        pilot = estimate_pass_at_k(counts.successes, counts.trials, args.pass_at, confidence=args.confidence)
    except InputError as error:
        raise InputError(f"{told(args.files)}: {error}") from None
    population = getattr(args, "population", None)
    plan, curve = None, []
    if args.budget is not None or args.target_variance is not None:
        cost = Cost(args.c_prompt, args.c_response)
        goal = {"budget": args.budget, "target_variance": args.target_variance, "population": population}
        try:
            plan = allocate_pass_at_k(pilot.components, cost, max_responses=args.max_responses, **goal)
        except InputError as error:
            raise InputError(f"{told(args.files)}: {error}") from None
        curve = _curve(args, pilot, plan) if population is None and args.budget is not None else []
    if args.plot:
        from mrtsim.plotting import plot_sizes, save

        if not curve:
            raise InputError("--plot draws the variance against n at a budget: give --budget")
        save(plot_sizes(curve, "responses per prompt, n", f"variance of pass@{args.pass_at}"), args.plot)
    record = _record(args, pilot, plan, counts.notes)
    print(strict_json(record) if args.json else _text(args, pilot, plan, curve, record["warnings"]))
    return 0


def _curve(
    args: argparse.Namespace, pilot: PassAtKEstimate, plan: PassAtKPlan
) -> list[tuple[int, int, float, float]]:
    """(n, N, variance, regret) around the plan."""
    from mrtsim.plan.allocate import Cost, integer_costs

    p, r, limit, _ = integer_costs(Cost(args.c_prompt, args.c_response), args.budget)
    k, best = args.pass_at, plan.responses_per_prompt
    rows = []
    for n in sorted({k, k + 1, best - 1, best, best + 1, 2 * best, 4 * best}):
        prompts = limit // (p + n * r) if p + n * r else 0
        if n >= k and prompts and n <= (args.max_responses or n):
            variance = (max(pilot.components.prompt, 0.0) + pilot.components.response(n)) / prompts
            rows.append((n, prompts, variance, variance / plan.variance - 1 if plan.variance else 0.0))
    return rows


def _record(
    args: argparse.Namespace, pilot: PassAtKEstimate, plan: PassAtKPlan | None, notes: list[str]
) -> dict[str, Any]:
    from dataclasses import asdict

    k, components = args.pass_at, pilot.components
    warnings = list(notes)
    if pilot.source == "beta":
        warnings.append(
            f"not all prompts have {2 * k} responses, so V_x and W(n) rest on a Beta distribution of the success "
            "rates, fitted by moments; the estimate and its standard error do not"
        )
    if pilot.n_dropped:
        warnings.append(f"{pilot.n_dropped} prompts with fewer than {k} responses are left out")
    if components.prompt <= 0:
        warnings.append(
            f"V_x is estimated at {number(components.prompt)}, not above 0: a plan needs --max-responses, or a larger "
            "pilot"
        )
    if pilot.n_prompts < 20:
        warnings.append(f"{pilot.n_prompts} prompts are few: the interval may be short")
    return {
        "k": k,
        "pass_at_k": pilot.value.to_dict(),
        "standard_error_given_prompts": pilot.standard_error_given,
        "components": {"prompt": components.prompt, "response": components.response(k)},
        "source": pilot.source,
        "n_prompts": pilot.n_prompts,
        "n_dropped": pilot.n_dropped,
        "confidence": pilot.confidence,
        "plan": None if plan is None else asdict(plan),
        "warnings": warnings,
    }


def _text(
    args: argparse.Namespace,
    pilot: PassAtKEstimate,
    plan: PassAtKPlan | None,
    curve: list[tuple[int, int, float, float]],
    warnings: list[str],
) -> str:
    k, components, value = args.pass_at, pilot.components, pilot.value
    level = f"{100 * pilot.confidence:g} %"
    by = "from counts" if pilot.source == "counts" else "by a fitted Beta distribution"
    lines = [
        f"{told(args.files)}: pass@{k} of {pilot.n_prompts} prompts",
        "",
        table(
            [
                (
                    f"pass@{k}",
                    value.value,
                    value.low,
                    value.high,
                    f"standard error {number(value.standard_error)}",
                ),
            ],
            ("", "estimate", f"{level} low", "high", ""),
        ),
        "",
    ]
    rows = [
        ("V_x", components.prompt, f"between prompts, {by}"),
        (f"W({k})", components.response(k), f"given the prompt, with {k} responses"),
        (f"W({2 * k})", components.response(2 * k), f"with {2 * k}"),
    ]
    if math.isfinite(pilot.standard_error_given):
        rows.append(
            ("SE, these prompts", pilot.standard_error_given, "if the benchmark is these prompts alone")
        )
    lines.append(table(rows))
    if plan is not None:
        target = "these prompts alone" if getattr(args, "population", None) else "all prompts of the kind"
        lines += [
            "",
            f"plan: {number(plan.n_prompts)} prompts x {number(plan.responses_per_prompt)} responses, variance "
            f"{number(plan.variance)} (standard error {number(math.sqrt(plan.variance))}) at cost "
            f"{number(plan.cost, 6)}, for {target}",
        ]
        if plan.gap:
            lines.append(f"  Too large to prove: no plan is better by more than {plan.gap:.1g}.")
    if curve:
        shown = [(n, prompts, v, f"{100 * regret:+.1f} %".rjust(9)) for n, prompts, v, regret in curve]
        lines += ["", table(shown, ("n", "prompts", "variance", "   regret"))]
    for warning in warnings:
        lines += ["", textwrap.fill(f"warning: {warning}", 100, subsequent_indent="  ")]
    return "\n".join(lines)

"""`mrtsim allocate --per-prompt`: how many responses each prompt of a file should get."""

from __future__ import annotations

import argparse
import csv
import math
import textwrap
from pathlib import Path
from typing import Any

from mrtsim.cli import count, number, option_name, strict_json, table
from mrtsim.cli.reading import add_reading, given, how_read
from mrtsim.errors import InputError

OWN = ("sd_column", "weight_column", "cost_column", "min_responses", "offset", "out")
SHARED = ("command", "per_prompt", "budget", "max_responses", "plot", "json", "parser")
READING = ("prompt_column", "loss_column", "layout", "format", "missing_ids")
SHOWN = 20  # prompts in the table that a person reads
NOTES = (
    "responses planned from losses must not be averaged with those losses: where losses are skewed the pooled mean is "
    "biased, as prompts with lucky small losses get no more (average the new responses alone)",
    "in training, weight each row by 1/K_i: else prompts with more responses count more (bias Cov(K, mu) / E K)",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `--per-prompt`."""
    group = parser.add_argument_group(
        "responses of each given prompt (--budget is for all responses; without --sd-column FILE is a pilot)"
    )
    group.add_argument(
        "--per-prompt",
        nargs="+",
        metavar="FILE",
        help="plan K_i of each prompt of FILE: one row per prompt with --sd-column, or one row per response",
    )
    group.add_argument(
        "--sd-column",
        metavar="S",
        help="standard deviation of a response given the prompt; for RLOO sqrt(p (1 - p) T) with --offset 1",
    )
    group.add_argument(
        "--weight-column", metavar="W", help="weight of the prompt in the mean (default: equal)"
    )
    group.add_argument("--cost-column", metavar="C", help="cost of one response to the prompt (default 1)")
    group.add_argument(
        "--min-responses", type=count, metavar="K", help="smallest K_i (default 1 above --offset)"
    )
    group.add_argument(
        "--offset",
        type=int,
        default=0,
        metavar="H",
        help="h in s^2 / (K - h): 1 for a leave-one-out baseline",
    )
    group.add_argument("--prompt-column", default="prompt_id", metavar="P", help="default prompt_id")
    group.add_argument(
        "--loss-column",
        default="loss",
        metavar="L",
        help="losses of a pilot (default loss), whose variances are squeezed",
    )
    add_reading(group)
    group.add_argument("--out", metavar="OUT.csv", help="write prompt_id and responses of every prompt")


def check(args: argparse.Namespace) -> None:
    """Whether the arguments go together: those of a plan for each prompt, or those of one plan for all."""
    if args.per_prompt is None:
        if misplaced := [option_name(name) for name in (*OWN, *READING) if given(args, name)]:
            raise InputError(f"--per-prompt FILE must be given with {', '.join(misplaced)}")
        if missing := [
            option_name(name) for name in ("v_prompt", "v_response") if getattr(args, name) is None
        ]:
            raise InputError(f"the following arguments are required: {', '.join(missing)}")
        return
    if args.budget is None:
        raise InputError("--per-prompt spends a budget: give --budget")
    allowed = {*OWN, *SHARED, *READING}
    if misplaced := [option_name(name) for name in vars(args) if name not in allowed and given(args, name)]:
        raise InputError(f"--per-prompt does not go with {', '.join(misplaced)}")
    if args.sd_column is not None and given(args, "loss_column"):
        raise InputError("give --sd-column (known spreads) or --loss-column (a pilot), not both")


def run(args: argparse.Namespace) -> int:
    """Read, plan, print, perhaps write and draw."""
    from mrtsim.plan.per_prompt import allocate_per_prompt

    names, spreads, weights, costs, prior, notes = _read(args)
    try:
        plan = allocate_per_prompt(
            spreads,
            args.budget,
            costs,
            weights=weights,
            min_responses=args.offset + 1 if args.min_responses is None else args.min_responses,
            max_responses=args.max_responses,
            offset=args.offset,
        )
    except InputError as error:
        raise InputError(f"{args.per_prompt[0]}: {error}") from None
    if args.out:
        try:
            with Path(args.out).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow((args.prompt_column, "responses"))
                writer.writerows(zip(names, plan.responses.tolist(), strict=True))
        except OSError as error:
            raise InputError(f"cannot write {args.out!r}: {error.strerror or error}") from None
    if args.plot:
        from mrtsim.plotting import plot_per_prompt, save

        save(plot_per_prompt(spreads, plan.responses), args.plot)
    efficiency = plan.uniform_variance / plan.variance if plan.variance else math.nan
    record = {
        "prompts": names,
        "responses": plan.responses,
        "variance": plan.variance,
        "uniform_variance": plan.uniform_variance,
        "efficiency": efficiency,
        "cost": plan.cost,
        "gap": plan.gap,
        "prior": prior,
        "warnings": [*notes, *NOTES],
    }
    print(strict_json(record) if args.json else _text(args, record, spreads, costs))
    return 0


def _read(args: argparse.Namespace) -> tuple[list[str], Any, Any, Any, dict[str, float] | None, list[str]]:
    """Names, spreads, weights and costs of the prompts, the prior of squeezed variances, and notes on the reading."""
    import numpy as np

    from mrtsim.tables.read import read_columns

    value = {"sd": args.sd_column} if args.sd_column is not None else {"loss": args.loss_column}
    extra = {"weight": args.weight_column, "cost": args.cost_column}
    data = read_columns(
        args.per_prompt,
        ids={"prompt": args.prompt_column},
        numbers=value | {role: column for role, column in extra.items() if column is not None},
        **how_read(args),
    )
    prompts, names = data.ids["prompt"].codes, data.ids["prompt"].names
    counts = np.bincount(prompts)

    def mean(role: str) -> Any:
        if role not in data.numbers:
            return None
        return np.bincount(prompts, weights=data.numbers[role]) / counts

    if args.sd_column is not None:
        if counts.max() > 1:
            twice = int(np.argmax(counts > 1))
            row = int(np.flatnonzero(prompts == twice)[1])
            raise data.error(
                f"prompt {names[twice]!r} stands here again: with --sd-column give one row per prompt",
                row,
                "prompt",
            )
        return names, mean("sd"), mean("weight"), mean("cost"), None, data.notes
    from mrtsim.pilot.squeeze import squeeze_variances

    losses = data.numbers["loss"]
    residuals = losses - mean("loss")[prompts]
    within = np.bincount(prompts, weights=residuals**2)
    try:
        squeezed = squeeze_variances(within / np.maximum(counts - 1, 1), counts - 1)
    except InputError as error:
        raise InputError(f"{args.per_prompt[0]}: {error}") from None
    prior = {"freedom": squeezed.prior_freedom, "variance": squeezed.prior_variance}
    return names, np.sqrt(squeezed.variances), mean("weight"), mean("cost"), prior, data.notes


def _text(args: argparse.Namespace, record: dict[str, Any], spreads: Any, costs: Any) -> str:
    responses = record["responses"]
    total = int(responses.sum())
    lines = [
        f"{args.per_prompt[0]}: {len(responses)} prompts, {number(total)} responses planned, "
        f"{number(responses.min())} to {number(responses.max())} per prompt"
    ]
    if record["prior"] is not None:
        freedom = record["prior"]["freedom"]
        how = (
            "they differ by no more than chance, so all are taken as equal"
            if math.isinf(freedom)
            else f"the common value counts as {number(freedom)} degrees of freedom"
        )
        lines.append(f"variances squeezed towards {number(record['prior']['variance'])}: {how}")
    rows = [
        ("variance", number(record["variance"]), f"standard error {number(math.sqrt(record['variance']))}"),
        ("cost", number(record["cost"], 6), f"of {number(args.budget, 6)}"),
    ]
    if math.isfinite(record["efficiency"]):
        rows.append(
            (
                "efficiency",
                number(record["efficiency"]),
                "variance of the same K for all (not rounded) over this plan's",
            )
        )
    proof = (
        "proven best"
        if record["gap"] == 0
        else f"no plan is better by more than {record['gap']:.1g} of the variance"
    )
    width = max(len(value) for _, value, _ in rows)
    lines += ["", table([*((name, value.rjust(width), told) for name, value, told in rows), ("", "", proof)])]
    shown = [
        (name, int(k), float(s), *([] if costs is None else [float(costs[i])]))
        for i, (name, k, s) in enumerate(zip(record["prompts"], responses, spreads, strict=True))
    ][:SHOWN]
    header = ("prompt", "K", "sd") + (() if costs is None else ("cost per response",))
    lines += ["", table(shown, header)]
    if len(responses) > SHOWN:
        lines.append(f"  ... and {len(responses) - SHOWN} more: --out OUT.csv or --json has all")
    for warning in record["warnings"]:
        lines += ["", textwrap.fill(f"note: {warning}", 100, subsequent_indent="  ")]
    return "\n".join(lines)

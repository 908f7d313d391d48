"""`mrtsim pilot --growth`: how a corpus of groups grows, and given sets of prompts, pools and groups."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mrtsim.cli import count, non_negative, number, option_name
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.estimates import Estimate
    from mrtsim.pilot.estimate import PilotEstimate
    from mrtsim.pilot.sums import PromptSums
    from mrtsim.plan.allocate import Cost

WAYS = ("new", "same", "choose")
NEEDS_GROUPS = ("growth", "c_group", "group_population", "max_group_size")
# What ends a plan's search beside the goal: option, and keyword of `allocate`.
FINITE = {"population": "population", "candidates": "candidates", "fix_prompts": "n_prompts"}


@dataclass(frozen=True)
class Grown:
    """A pilot as the chosen growth sees it, and K* of every way to grow.

    Attributes:
        way: "new", "same" or "choose".
        pilot: the estimate whose ratio is that of `way`.
        group_size: r*, the best prompts per group, infinite where nothing bounds it; NaN without costs.
        k_stars: by way; empty without costs or groups, and without "choose" where r* is infinite.
    """

    way: str
    pilot: PilotEstimate
    group_size: float
    k_stars: dict[str, Estimate]


def add_growth(parser: argparse.ArgumentParser) -> None:
    """The options of growing corpora and of given sets."""
    group = parser.add_argument_group("how the corpus grows")
    group.add_argument(
        "--growth",
        choices=WAYS,
        help="with --group-column: new groups of the pilot's sizes (default), more prompts in the same groups, or new "
        "groups of a size that the plan chooses",
    )
    group.add_argument(
        "--c-group", type=non_negative, metavar="C", help="C_g, cost of one new group (default 0)"
    )
    group.add_argument(
        "--group-population", type=count, metavar="M", help="estimate the loss of M given groups, not of all"
    )
    group.add_argument(
        "--max-group-size",
        type=count,
        metavar="R",
        help="largest number of prompts per group, with --growth choose",
    )
    group.add_argument(
        "--population",
        type=count,
        metavar="P",
        help="estimate the loss of P given prompts, from which the pilot's were drawn or which they are",
    )
    group.add_argument(
        "--candidates",
        type=count,
        metavar="N",
        help="estimate the loss of given pools of N responses per prompt",
    )
    group.add_argument("--fix-prompts", type=count, metavar="N", help="the plan's number of prompts is given")


def refuse_growth(args: argparse.Namespace) -> None:
    """Refuse what does not go together, before a file is read."""
    if args.group_column is None:
        for name in NEEDS_GROUPS:
            if getattr(args, name) is not None:
                raise InputError(f"{option_name(name)} needs --group-column")
    elif args.population is not None:
        raise InputError("--population does not go with --group-column: say --group-population")
    for name in ("c_group", "max_group_size"):
        if getattr(args, name) is not None and args.c_prompt is None:
            raise InputError(f"{option_name(name)} needs --c-prompt and --c-response as well")
    if args.growth == "same":
        for name in ("redundancy", "group_population", "c_group"):
            if getattr(args, name) is not None:
                raise InputError(f"{option_name(name)} is for new groups: leave it out with --growth same")
    if args.growth == "choose":
        if args.c_prompt is None:
            raise InputError(
                "--growth choose needs --c-prompt and --c-response, and --c-group where groups cost"
            )
        if args.redundancy is not None or args.fix_prompts is not None:
            raise InputError(
                "--growth choose finds the prompts per group: leave --redundancy and --fix-prompts out"
            )
        if args.plan_at != "estimate":
            raise InputError("--plan-at is for a group size that is given: leave --growth choose out")
    if args.detect is not None and (args.growth in ("same", "choose") or args.group_population is not None):
        raise InputError(
            "--detect plans for new groups of the pilot's sizes: leave --growth and --group-population out"
        )
    if args.detect is not None and args.candidates is not None:
        raise InputError("--detect does not go with --candidates")
    if args.group_population is not None and args.plan_at != "estimate":
        raise InputError("--plan-at does not go with --group-population: V_g has an interval of its own")
    if args.max_group_size is not None and args.growth != "choose":
        raise InputError("--max-group-size needs --growth choose")


def grow(args: argparse.Namespace, sums: PromptSums, cost: Cost | None) -> Grown:
    """Estimate for the growth asked for; with costs K* of the others as well.

    Args:
        args: of the command line, as `refuse_growth` has left them.
        sums: the pilot.
        cost: C_p, C_r and C_g; None without.
    """
    from mrtsim.pilot.estimate import estimate_components
    from mrtsim.pilot.growth import best_group_size, mean_standard_error

    options = {"method": args.method, "confidence": args.confidence}
    way = args.growth or "new"
    first = estimate_components(
        sums, growth="same" if way == "same" else "new", redundancy=args.redundancy, **options
    )
    finite = (args.population, args.candidates, args.group_population)
    if finite != (None, None, None):
        population, candidates, groups = finite
        error = mean_standard_error(
            sums, population=population, candidates=candidates, group_population=groups
        )
        first = replace(first, standard_error=error)
    if cost is None or sums.starts is None:
        return Grown(way, first, math.nan, {})
    other = estimate_components(sums, growth="new" if way == "same" else "same", **options)
    new, same = (other, first) if way == "same" else (first, other)
    k_stars = {"new": new.k_star(cost), "same": same.k_star(cost)}
    size = best_group_size(first.components, cost, args.max_group_size)
    if math.isinf(size):
        return Grown(way, first, size, k_stars)
    chosen = estimate_components(sums, redundancy=size, **options)
    k_stars["choose"] = chosen.k_star(cost)
    if way == "choose":
        first = replace(chosen, standard_error=first.standard_error)
    return Grown(way, first, size, k_stars)


def refuse_size(grown: Grown, args: argparse.Namespace) -> None:
    """No plan may put all prompts into one group because of an estimate V_g <= 0, or one that may be."""
    group = grown.pilot.group
    if grown.way != "choose" or args.max_group_size is not None or group is None:
        return
    value = grown.pilot.components.group
    if value <= 0 or group.low <= 0:
        level = f"{100 * grown.pilot.confidence:g} %"
        why = (
            f"V_g is estimated at {number(value)}" if value <= 0 else f"the {level} interval of V_g reaches 0"
        )
        raise InputError(
            f"{why}, and a plan on that could put all prompts into one group; give --max-group-size, or plan with "
            "--growth new"
        )
    if math.isinf(grown.group_size):
        raise InputError(
            "prompts cost nothing, so the best group has any number of them; give --max-group-size"
        )


def plan_arguments(args: argparse.Namespace, grown: Grown, cost: Cost) -> tuple[Any, Cost, dict[str, Any]]:
    """Components, costs and keywords that `allocate` takes for the growth asked for.

    Args:
        args: the parsed command line.
        grown: the pilot and how its corpus grows.
        cost: of groups, prompts and responses.
    """
    from fractions import Fraction

    from mrtsim.variance import VarianceComponents

    pilot = grown.pilot
    keywords = {"budget": args.budget, "target_variance": args.target_variance}
    keywords |= {name: getattr(args, name) for name in ("max_responses", "max_prompts")}
    keywords |= {keyword: getattr(args, name) for name, keyword in FINITE.items()}
    v = pilot.components
    apart = VarianceComponents(max(0.0, v.prompt), v.response, max(0.0, v.group))
    if grown.way == "choose":
        keywords |= {"max_group_size": args.max_group_size, "group_population": args.group_population}
        return apart, replace(cost, group=cost.group or 0.0), keywords
    each = pilot.cost_per_prompt(cost)
    if args.group_population is None:
        return pilot.planning_at(args.plan_at), each, keywords
    # (1 - M/M_tot) r_2 V_g / N with M = N/r_1: as groups of r_2 prompts of which there are M_tot r_1/r_2
    redundancy = Fraction(repr(float(pilot.redundancy)))
    groups = args.group_population * pilot.mean_group_size / redundancy
    return apart, each, keywords | {"redundancy": redundancy, "group_population": groups}


def growth_record(grown: Grown) -> dict[str, Any]:
    """What JSON shows of the growth."""
    record: dict[str, Any] = {
        "kind": grown.way,
        "mean_group_size": float(grown.pilot.mean_group_size),
        "redundancy": grown.pilot.redundancy,
    }
    if grown.k_stars:
        record["best_group_size"] = grown.group_size
        record["k_star"] = {way: k.to_dict() for way, k in grown.k_stars.items()}
    return record


def growth_rows(grown: Grown, cost: Cost) -> Iterator[tuple[str, Estimate, str]]:
    """Rows of the table: K* of each way to grow, the one asked for first, with what makes the others differ."""
    group, size = cost.group or 0.0, grown.pilot
    sizes = f"{number(float(size.mean_group_size))} prompts" if grown.way == "new" else "the pilot's sizes"
    shared = f" and shares its cost {number(group)}" if group else ""
    meaning = {
        "new": f"new groups of {sizes}: each prompt brings part of a new V_g{shared}",
        "same": "more prompts in the same groups, which are all there are: V_g is no error",
        "choose": f"new groups of the best size, r = {number(grown.group_size)}",
    }
    for way in sorted(grown.k_stars, key=lambda way: way != grown.way):
        yield ("K*" if way == grown.way else f"K* {way}"), grown.k_stars[way], meaning[way]


def growth_lines(grown: Grown) -> Iterator[str]:
    """What a person reads about the growth, whenever there are groups."""
    said = {
        "new": "new groups of the pilot's sizes",
        "same": "more prompts in the same groups",
        "choose": "new groups of a size that the plan chooses",
    }
    others = " or ".join(f"--growth {way}" for way in WAYS if way != grown.way)
    yield f"  The corpus grows by {said[grown.way]}; else say {others}."
    if grown.k_stars and "choose" not in grown.k_stars:
        yield "  The best group size has no bound, since V_g is not above 0 or prompts are free: see --max-group-size."

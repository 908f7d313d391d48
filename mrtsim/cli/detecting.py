"""Options for a difference to detect, and what a plan can show, as `allocate`, `pilot` and `compare` have them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mrtsim.cli import positive, probability
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.plan.allocate import Cost
    from mrtsim.plan.power_search import PowerPlan
    from mrtsim.variance import VarianceComponents


def add_detect(group: Any, goal: Any, *, confidence: bool) -> None:
    """`--detect` among the goals, `--power` and `--correlation`; `--confidence` where the command has none.

    Args:
        group: takes `--power`, `--correlation` and `--confidence`.
        goal: the goals, of which one is given.
        confidence: whether the command lacks `--confidence`.
    """
    goal.add_argument(
        "--detect",
        type=positive,
        metavar="D",
        help="show a difference of D at least cost: of the mean from a constant, or of two models with --correlation",
    )
    group.add_argument(
        "--power",
        type=probability,
        metavar="P",
        help="chance to show the difference of --detect (default 0.8)",
    )
    group.add_argument(
        "--correlation",
        type=_correlation,
        metavar="RHO",
        help="compare two models like this one: the correlation of their mean losses per prompt. K is then that of "
        "each model, and a response costs C_r for each",
    )
    if confidence:
        group.add_argument(
            "--confidence",
            type=probability,
            metavar="C",
            help="level of the interval that must exclude 0 (default 0.95)",
        )


def check_detect(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that say nothing without `--detect`."""
    if args.detect is None:
        for name in names:
            if getattr(args, name) is not None:
                raise InputError(f"--{name} belongs to a difference to detect: give --detect")


def detect_plan(
    args: argparse.Namespace,
    components: VarianceComponents,
    cost: Cost,
    redundancy: float,
    **caps: Any,
) -> PowerPlan:
    """The cheapest plan that shows `--detect`; `caps` are keywords of `allocate_for_power`.

    Args:
        args: the parsed command line.
        components: V_x, V_{y|x} and V_g.
        cost: C_p and C_r.
        redundancy: r, prompts per group.
        caps: keywords of `allocate_for_power`.
    """
    from mrtsim.plan.power_search import allocate_for_power

    return allocate_for_power(
        components,
        cost,
        args.detect,
        power=args.power or 0.8,
        confidence=args.confidence or 0.95,
        correlation=args.correlation,
        redundancy=redundancy,
        **caps,
    )


def detect_plot(
    args: argparse.Namespace,
    components: VarianceComponents,
    redundancy: float,
    plan: PowerPlan,
    population: int | None = None,
) -> None:
    """Draw the power to show `--detect` against N_p for several K to the file of `--plot`.

    Args:
        args: the parsed command line.
        components: V_x, V_{y|x} and V_g.
        redundancy: r, prompts per group.
        plan: the plan, which is marked.
        population: P, of a given set of prompts.
    """
    from mrtsim.plan.power import Rule, sampling_of
    from mrtsim.plotting import plot_power, save

    sampling = sampling_of(components, args.correlation, population, redundancy)
    rule = Rule(args.confidence or 0.95, args.power or 0.8)
    save(plot_power(sampling, args.detect, rule, (plan.n_prompts, plan.responses_per_prompt)), args.plot)


def _correlation(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between -1 and 1, not {text!r}")
    return value

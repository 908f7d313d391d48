"""`mrtsim rollouts`: how many rollouts per prompt group-based reinforcement learning should draw."""

from __future__ import annotations

import argparse
import math
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
from mrtsim.cli.reading import add_files, how_read, told
from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.plan.rollouts import GroupPlan, SuccessRates

EXAMPLES = """\
examples:
  dead groups where success rates follow Beta(0.6, 1.8)
    mrtsim rollouts --alpha 0.6 --beta 1.8
  the same from a pilot with one row per response and 0/1 rewards in column correct
    mrtsim rollouts pilot.jsonl --reward-column correct
  the best G for 4,096 responses per update, where the reward explains 5 % of the score's variance
    mrtsim rollouts --alpha 0.6 --beta 1.8 --signal 0.05 --c-prompt 0 --c-response 1 --budget 4096
  and the keys of a trainer's configuration for it
    mrtsim rollouts --alpha 0.6 --beta 1.8 --signal 0.05 --c-prompt 0 --c-response 1 --budget 4096 --trainer verl
  how many batches of 1,536 prompts dynamic sampling generates for 512 groups that are not dead
    mrtsim rollouts --alpha 0.6 --beta 1.8 --group-sizes 8 --prompts 512 --generated 1536
"""

# The versions that the keys were read in, as documentation or source.
VERSIONS = {
    "trl": ("TRL", ("1.10",)),
    "verl": ("verl", ("0.10", "0.9.1")),
    "openrlhf": ("OpenRLHF", ("0.11",)),
}


def add_parser(subparsers: Any) -> None:
    """The subcommand's arguments."""
    parser = subparsers.add_parser(
        "rollouts",
        help="group size for RLOO, GRPO and DAPO: dead groups, gradient variance, trainer settings",
        description="Share of groups whose rewards are all equal (they have no gradient), and the group size G with\n"
        "the least gradient variance for a budget. The model is the first on-policy step with 0/1 rewards; clipping,\n"
        "the KL term, length normalisation and the epsilon in the standard deviation are ignored.",
        epilog=EXAMPLES,
    )
    add_files(parser, "one row per response, or one row per prompt with a list of rewards", optional=True)
    group = parser.add_argument_group("success rates of the prompts: from FILE, or given")
    group.add_argument(
        "--reward-column", metavar="R", help="rewards of FILE, 1 for success and 0 for failure"
    )
    group.add_argument(
        "--prompt-column", default="prompt_id", metavar="P", help="prompt ids of FILE (default prompt_id)"
    )
    group.add_argument("--success-above", type=finite, metavar="T", help="rewards above T are successes")
    group.add_argument("--confidence", type=probability, default=0.95, metavar="C", help="default 0.95")
    group.add_argument("--alpha", type=positive, metavar="A", help="success rates follow Beta(A, B)")
    group.add_argument("--beta", type=positive, metavar="B", help="see --alpha")
    group = parser.add_argument_group("groups")
    group.add_argument(
        "--group-sizes",
        type=_group_size,
        nargs="+",
        default=[2, 4, 8, 16],
        metavar="G",
        help="responses per prompt (default 2 4 8 16)",
    )
    group.add_argument("--prompts", type=count, metavar="N", help="prompts (groups) per update")
    group.add_argument(
        "--generated",
        type=count,
        metavar="M",
        help="prompts per batch of generation, where dynamic sampling draws batches until N groups are not dead "
        "(default N)",
    )
    group = parser.add_argument_group("best group size")
    group.add_argument(
        "--signal",
        type=_share,
        metavar="R2",
        help="|g|^2 / (p (1 - p) E|z|^2), the share of the score's variance that the reward explains; no default",
    )
    group.add_argument(
        "--coherence",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="|E g|^2 / E|g|^2, what the prompts' gradients have in common; below 1 (default 0)",
    )
    group.add_argument("--c-prompt", type=non_negative, metavar="C", help="C_p, cost of one prompt")
    group.add_argument("--c-response", type=non_negative, metavar="C", help="C_r, cost of one response")
    group.add_argument("--budget", type=positive, metavar="B", help="the most to spend per update")
    group.add_argument("--max-group-size", type=_group_size, metavar="G", help="the largest group size")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--trainer",
        metavar="NAME",
        help="print the configuration keys of trl, verl or openrlhf; NAME==VERSION asks for a version",
    )
    group.add_argument("--plot", metavar="OUT.png", help="draw dead groups and gradient variance against G")
    group.add_argument(
        "--json", action="store_true", help="one JSON object on standard output and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """Fit or take the success rates, compute, print, perhaps draw."""
    _check(args)
    from mrtsim.plan.rollouts import (
        GradientComponents,
        best_group,
        dead_share,
        generation_batches,
        reward_variance,
    )

    fit, notes = _fit(args) if args.files else (None, [])
    variance_of_rewards = reward_variance(args.alpha, args.beta) if fit is None else fit.reward_variance
    components, best, costs = None, None, (0, 0, 0, 1)
    if args.signal is not None:
        if variance_of_rewards == 0:
            raise InputError("every group is dead: there is no gradient to plan for")
        from mrtsim.plan.allocate import Cost, integer_costs

        components = GradientComponents.of(variance_of_rewards, args.signal, args.coherence)
        cost = Cost(args.c_prompt, args.c_response)
        best = best_group(components, cost, budget=args.budget, max_group_size=args.max_group_size)
        costs = integer_costs(cost, args.budget)
    groups = []
    sizes: list[int] = sorted(set(args.group_sizes) | ({best.group_size} if best else set()))
    for size in sizes:
        observed = None
        if fit is None:
            dead, estimate = dead_share(args.alpha, args.beta, size), None
        else:
            estimate, observed = fit.dead_share(size), fit.observed_dead_share(size)
            dead = estimate.value
        mixed = 1 - dead
        row: dict[str, Any] = {
            "group_size": size,
            "dead": dead,
            "mixed": mixed,
            "dynamic_sampling_factor": 1 / mixed if mixed > 0 else math.inf,
        }
        if estimate is not None:
            row["dead_interval"] = estimate.to_dict()
            row["dead_observed"] = None if observed is None else observed.to_dict()
        if args.prompts is not None:
            row["effective_prompts"] = args.prompts * mixed
            row["generation_batches"] = generation_batches(
                mixed, args.prompts, args.generated or args.prompts
            )
        if components is not None and best is not None:
            p, r, limit, _ = costs
            n = limit // (p + size * r)
            variance = components.variance(n, size) if n else math.inf
            row |= {"n_prompts": n, "variance": variance, "regret": variance / best.variance - 1}
        groups.append(row)
    record = {
        "alpha": args.alpha if fit is None else fit.alpha.value,
        "beta": args.beta if fit is None else fit.beta.value,
        "groups": groups,
        "best_group": None if best is None else _best_record(best, groups),
        "trainer": None if args.trainer is None else _trainer(args, best),
        "warnings": notes + _warnings(fit, groups, best),
    }
    if fit is not None:
        record |= {
            "alpha_interval": fit.alpha.to_dict(),
            "beta_interval": fit.beta.to_dict(),
            "mean": fit.mean.to_dict(),
            "n_prompts": fit.n_prompts,
            "n_responses": fit.n_responses,
            "confidence": fit.confidence,
        }
    if args.plot:
        from mrtsim.plotting import plot_rollouts, save

        save(plot_rollouts(groups, record["best_group"]), args.plot)
    print(strict_json(record) if args.json else _text(args, record, fit))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Which arguments go together."""
    given = args.alpha is not None, args.beta is not None
    if args.files and any(given):
        raise InputError("success rates come from FILE or from --alpha and --beta, not from both")
    if not args.files and not all(given):
        raise InputError("give FILE with --reward-column, or --alpha and --beta")
    if args.files and args.reward_column is None:
        raise InputError(
            "--reward-column must name the rewards of FILE (1 for success): a loss is never taken for one"
        )
    if not args.files and (args.reward_column is not None or args.success_above is not None):
        raise InputError("--reward-column and --success-above belong to FILE")
    costs = {name: getattr(args, name) for name in ("c_prompt", "c_response", "budget")}
    missing = [option_name(name) for name, value in costs.items() if value is None]
    if args.signal is not None and missing:
        raise InputError(f"the best group size needs {', '.join(missing)} as well")
    if args.signal is None and (len(missing) < 3 or args.max_group_size is not None or args.coherence):
        raise InputError(
            "the best group size depends on the signal: give --signal R2 (it has no default), or leave the budget out"
        )
    if args.signal == 0:
        raise InputError(
            "--signal 0 says that the reward does not depend on the response: there is no gradient"
        )
    if args.coherence == 1 and args.max_group_size is None:
        raise InputError(
            "--coherence 1 gives all prompts one gradient, so that all the budget would go to one prompt: give a "
            "number below 1, or --max-group-size"
        )
    if args.generated is not None and args.prompts is None:
        raise InputError("--generated needs --prompts, the groups per update that dynamic sampling waits for")
    if args.trainer is not None and args.trainer.partition("==")[0] not in VERSIONS:
        raise InputError(f"--trainer is {args.trainer!r}; choose one of {', '.join(VERSIONS)}")


def _fit(args: argparse.Namespace) -> tuple[SuccessRates, list[str]]:
    from mrtsim.plan.rollouts import fit_success_rates
    from mrtsim.success_counts import read_success_counts

    counts = read_success_counts(
        args.files,
        reward_column=args.reward_column,
        prompt_column=args.prompt_column,
        success_above=args.success_above,
        **how_read(args),
    )
    try:
        return fit_success_rates(counts.successes, counts.trials, confidence=args.confidence), counts.notes
    except InputError as error:
        raise InputError(f"{told(args.files)}: {error}") from None


def _best_record(best: GroupPlan, groups: list[dict[str, Any]]) -> dict[str, Any]:
    from dataclasses import asdict

    mixed = next(row["mixed"] for row in groups if row["group_size"] == best.group_size)
    return {**asdict(best), "effective_prompts": best.n_prompts * mixed}


def _trainer(args: argparse.Namespace, best: GroupPlan | None) -> dict[str, Any]:
    """The keys of a trainer's configuration for N prompts and G responses each; what is not known keeps its letter."""
    name, _, asked = args.trainer.partition("==")
    title, versions = VERSIONS[name]
    known = asked == "" or any(f"{asked}.".startswith(f"{version}.") for version in versions)
    size: Any = best.group_size if best else args.group_sizes[0] if len(args.group_sizes) == 1 else "G"
    prompts: Any = args.prompts or (best.n_prompts if best else "N")
    whole = isinstance(size, int) and isinstance(prompts, int)
    samples: Any = prompts * size if whole else f"{prompts} x {size}"
    rows = {
        "trl": [
            ("num_generations", size, "G, responses per prompt"),
            ("generation_batch_size", samples, "responses per generation: over num_generations, prompts"),
            ("scale_rewards", "none", 'switches the standard deviation off; "group" is GRPO'),
        ],
        "verl": [
            ("data.train_batch_size", prompts, "prompts generated"),
            ("actor_rollout_ref.rollout.n", size, "G, responses per prompt"),
            ("actor_rollout_ref.actor.ppo_mini_batch_size", prompts, "prompts per update"),
            ("algorithm.norm_adv_by_std_in_grpo", False, "switches the standard deviation off; True is GRPO"),
            (
                "algorithm.filter_groups.enable",
                False,
                "True is dynamic sampling: dead groups are drawn again",
            ),
        ],
        "openrlhf": [
            ("--rollout.batch_size", prompts, "prompts generated"),
            ("--rollout.n_samples_per_prompt", size, "G, responses per prompt"),
            ("--train.batch_size", samples, "samples per update"),
            (
                "--algo.advantage.estimator",
                "dr_grpo",
                "no standard deviation; group_norm is GRPO, rloo leaves one out",
            ),
            ("--algo.dynamic_filtering_enable", None, "a flag: add it for dynamic sampling"),
        ],
    }[name]
    return {
        "name": name,
        "version": versions[0],
        "asked_version": asked or None,
        "version_known": known,
        "keys": {key: value for key, value, _ in rows},
        "meaning": {key: meaning for key, _, meaning in rows},
        "title": f"{title} {' and '.join(versions)}",
    }


def _warnings(fit: SuccessRates | None, groups: list[dict[str, Any]], best: GroupPlan | None) -> list[str]:
    found = []
    if best is not None and best.gap:
        found.append(
            f"too large to prove: no group size is better by more than {best.gap:.1g} of the variance"
        )
    if fit is None:
        return found
    if math.isnan(fit.ratio):
        found.append("all rewards are equal: every group is dead, and how success rates differ is not known")
    elif math.isinf(fit.ratio):
        found.append("every prompt is all right or all wrong: every group is dead")
    elif fit.ratio <= 0:
        found.append(
            "the variance between prompts is not above 0, so all success rates are taken as equal; a larger pilot "
            "would tell"
        )
    if fit.n_prompts < 20:
        found.append(f"{fit.n_prompts} prompts are few: intervals from so few may be too short")
    for row in groups:
        seen, fitted = row.get("dead_observed"), row.get("dead_interval")
        if seen and fitted and (seen["low"] > fitted["high"] or seen["high"] < fitted["low"]):
            found.append(
                f"at G = {row['group_size']} the counts say {number(seen['estimate'])} dead groups where the Beta "
                f"distribution says {number(row['dead'])}: success rates do not follow it, trust the counts"
            )
    return found


def _text(args: argparse.Namespace, record: dict[str, Any], fit: SuccessRates | None) -> str:
    level = f"{100 * args.confidence:g} %"
    lines = []
    if fit is None:
        lines.append(f"success rates follow Beta({number(args.alpha)}, {number(args.beta)})")
    else:
        lines.append(
            f"{told(args.files)}: {fit.n_responses} responses to {fit.n_prompts} prompts, "
            f"{number(fit.n_responses / fit.n_prompts)} per prompt"
        )
        rows = [
            (name, item.value, item.low, item.high, meaning)
            for name, item, meaning in (
                ("success rate", fit.mean, "mean over prompts"),
                ("alpha", fit.alpha, "of the Beta distribution of success rates, by moments"),
                ("beta", fit.beta, ""),
            )
        ]
        lines += ["", table(rows, ("", "estimate", f"{level} low", "high", ""))]
    header = ["G", "dead"]
    if fit is not None:
        header += [f"{level} low", "high", "by counts"]
    header += ["mixed", "drawn per kept"]
    if args.prompts is not None:
        header += ["effective prompts", "batches"]
    if record["best_group"] is not None:
        header += ["prompts", "variance", "regret"]
    rows = []
    for group in record["groups"]:
        row: list[Any] = [group["group_size"], group["dead"]]
        if fit is not None:
            limits, seen = group["dead_interval"], group["dead_observed"]
            row += [limits["low"], limits["high"], seen["estimate"] if seen else "-"]
        row += [group["mixed"], group["dynamic_sampling_factor"]]
        if args.prompts is not None:
            row += [group["effective_prompts"], group["generation_batches"]]
        if record["best_group"] is not None:
            row += [group["n_prompts"], group["variance"], f"{100 * group['regret']:+.1f} %".rjust(9)]
        rows.append(row)
    lines += ["", table(rows, header)]
    lines += [
        "",
        "  dead: all G rewards are equal, so that the group has no gradient; mixed: the others. Dynamic sampling",
        "  draws 1/mixed groups for each that it keeps.",
    ]
    best = record["best_group"]
    if best is None:
        lines += [
            "",
            "  The best G depends on the signal R2: give --signal, --c-prompt, --c-response and --budget.",
        ]
    else:
        lines += [
            "",
            f"  best: {number(best['n_prompts'])} prompts x {number(best['group_size'])} responses, "
            f"{number(best['effective_prompts'])} of the groups not dead (expected); gradient variance "
            f"{number(best['variance'])} of E|z|^2 at cost {number(best['cost'], 6)}",
        ]
    trainer = record["trainer"]
    if trainer is not None:
        lines += ["", f"keys of {trainer['title']} (others may differ)"]
        if not trainer["version_known"]:
            lines[-1] = (
                f"the keys of {trainer['name']} {trainer['asked_version']} are unknown here; these are of "
                f"{trainer['title']}"
            )
        keys = [
            (key, "" if value is None else str(value), trainer["meaning"][key])
            for key, value in trainer["keys"].items()
        ]
        lines.append(table(keys))
    for warning in record["warnings"]:
        lines += ["", textwrap.fill(f"warning: {warning}", 100, subsequent_indent="  ")]
    return "\n".join(lines)


def _group_size(text: str) -> int:
    value = count(text)
    if value < 2:
        raise argparse.ArgumentTypeError(
            f"must be at least 2, not {text!r}: one response has nothing to be compared with"
        )
    return value


def _share(text: str) -> float:
    value = non_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text!r}")
    return value

"""A plan as a person reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mrtsim.display import number, table

if TYPE_CHECKING:
    from mrtsim.plan.allocate import Cost, Plan
    from mrtsim.plan.power import Rule
    from mrtsim.variance import DifferenceComponents, VarianceComponents


@dataclass(frozen=True)
class Case:
    """What a plan was made for, so that it can say and draw what other K would give.

    Attributes:
        components: that the plan rests on.
        cost: the costs.
        goal: the keywords of `regret_curve`.
        effect: the difference to detect, of a plan for a power.
        rule: confidence and power of such a plan.
        correlation: of two models like one, where it is about them.
    """

    components: VarianceComponents | DifferenceComponents
    cost: Cost
    goal: dict[str, Any] = field(default_factory=dict)
    effect: float | None = None
    rule: Rule | None = None
    correlation: float | None = None

    @property
    def models(self) -> int:
        return 1 if self.correlation is None else 2

    @property
    def compared(self) -> str:
        """What other K have more of."""
        return "variance" if self.goal.get("budget") is not None else "cost"


def plan_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """Names, values and remarks of what there is to know about a plan."""
    case = plan._case
    rows: list[tuple[str, str, str]] = []
    if plan.n_groups is not None and plan.prompts_per_group is not None and plan.r_star is not None:
        remark = f"r; best if nothing is whole: {number(plan.r_star)}"
        rows += [
            ("groups", number(plan.n_groups), "M"),
            ("prompts per group", number(plan.prompts_per_group), remark),
        ]
    models = 1 if case is None else case.models
    rows += [
        ("prompts", number(plan.n_prompts), "N_p"),
        ("responses per prompt", number(plan.responses_per_prompt), "K"),
        ("responses in all", number(models * plan.n_prompts * plan.responses_per_prompt), ""),
        ("variance", number(plan.variance), f"standard error {number(math.sqrt(plan.variance))}"),
        ("cost", number(plan.cost, 6), "" if case is None else _costs(case.cost)),
        ("K*", number(plan.k_star), "best K if N_p and K need not be whole"),
    ]
    if case is not None and case.effect is not None and case.rule is not None:
        rows += _power_rows(plan, case)
    if math.isfinite(plan.efficiency):
        rows.append(
            ("efficiency", number(plan.efficiency), "variance of the best K = 1 plan over this plan's")
        )
    of_this = "" if case is None else f"of this {case.compared}"
    for share, (low, high) in (("5 %", plan.k_range_5pct), ("10 %", plan.k_range_10pct)):
        run = number(low) if low == high else f"{number(low)} to {number(high)}"
        rows.append((f"K within {share}", run, of_this))
    limits = ", ".join(name.replace("_", " ") for name in plan.bound_by) or "nothing: no plan is better"
    return [*rows, ("limited by", limits, "")]


def plan_text(plan: Plan) -> str:
    """A plan with the regret of other K."""
    *rows, limits = plan_rows(plan)
    width = max(len(value) for _, value, _ in rows)
    lines = [table([*((name, value.rjust(width), remark) for name, value, remark in rows), limits[:2]])]
    case = plan._case
    if case is None:
        return lines[0]
    other = [(int(k), n, v, c, f"{100 * r:+.1f} %".rjust(9)) for k, n, v, c, r in _others(plan, case) if n]
    lines += ["", table(other, ("K", "N_p", "variance", "cost", "   regret"))]
    if case.cost.prompt == 0:
        lines += ["", "  A prompt costs nothing by itself, so K = 1 is always best, unless N_p is limited."]
    if plan.gap:
        what = f"no plan is better by more than {plan.gap:.1g} of the {case.compared}"
        lines += ["", f"  Too large to prove: {what}."]
    return "\n".join(lines)


def _others(plan: Plan, case: Case) -> Any:
    """(K, N_p, variance, cost, regret) of the plan's K, of those beside it, and of the ends of its ranges."""
    from mrtsim.plan.allocate import regret_curve
    from mrtsim.plan.power_search import PowerPlan

    if isinstance(plan, PowerPlan):
        curve = plan.curve
    else:
        (low5, high5), (low10, high10), best = (
            plan.k_range_5pct,
            plan.k_range_10pct,
            plan.responses_per_prompt,
        )
        shown = sorted({1, 2, low10, low5, best - 1, best, best + 1, high5, high10, 2 * high10} - {0})
        curve = regret_curve(
            case.components,  # pyright: ignore[reportArgumentType]
            case.cost,
            [k for k in shown if k <= 10**18],
            **case.goal,
        )
    return zip(
        curve.responses_per_prompt, curve.n_prompts, curve.variance, curve.cost, curve.regret, strict=True
    )


def _costs(cost: Cost) -> str:
    group = "" if cost.group is None else f"{number(cost.group)} per group, "
    return f"{group}{number(cost.prompt)} per prompt, {number(cost.response)} per response"


def _power_rows(plan: Any, case: Case) -> list[tuple[str, str, str]]:
    """What a plan for a power can show."""
    assert case.rule is not None
    assert case.effect is not None
    what = "of the mean from a constant"
    if case.correlation is not None:
        what = f"between two models with rho = {case.correlation:g}, K responses of each"
    remark = f"with power {case.rule.power:g}; {number(plan.large_sample_detectable)} were the standard error known"
    return [
        ("power", number(plan.power), f"to show a difference of {number(case.effect)} {what}"),
        ("detectable", number(plan.detectable), remark),
    ]

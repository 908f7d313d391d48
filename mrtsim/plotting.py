"""Pictures of a plan: variance against K or group size (Matplotlib; imported only when one is asked for)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from mrtsim.errors import InputError
from mrtsim.plan.allocate import Cost, allocate, regret_curve
from mrtsim.variance import VarianceComponents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mrtsim.estimates import Estimate
    from mrtsim.plan.allocate import Plan
    from mrtsim.plan.power import Rule, Sampling

BLACK, BLUE, RED, GREEN = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
)  # Okabe and Ito: safe for colour-blind readers
LONGEST = 10**15  # of the K axis
SHAPE: dict[str, Any] = {"figsize": (6.4, 3.2), "layout": "constrained"}


def plot_allocation(
    components: VarianceComponents,
    cost: Cost,
    *,
    k_star_interval: tuple[float, float] | None = None,
    confidence: float = 0.95,
    figure: Figure | None = None,
    **constraints: Any,
) -> Figure:
    """Variance against K at the given budget, or cost against K at the given target, over whole-number plans.

    Marks the best plan, the run of K within 5 % of it, K = 1, and K* with its interval where a pilot gives one.

    Args:
        components: as in `allocate`.
        cost: as in `allocate`.
        k_star_interval: the ends of an interval of K*; the upper one may be infinite (drawn as an arrow).
        confidence: of that interval, for the legend.
        figure: an empty one to draw in.
        **constraints: the keywords of `allocate`, but for a fixed K.

    Raises:
        InputError: as `allocate`.
    """
    plan = allocate(components, cost, **constraints)
    best, (low, high) = plan.responses_per_prompt, plan.k_range_5pct
    ends = [end for end in (plan.k_star, *(k_star_interval or ())) if math.isfinite(end)]
    last = int(min(max(2 * plan.k_range_10pct[1], 8, *(1.3 * end for end in ends)), LONGEST))
    spread = np.arange(1, last + 1) if last <= 100 else np.geomspace(1, last, 100).round()
    curve = regret_curve(components, cost, np.union1d(spread, [min(best, last)]), **constraints)
    by_budget = constraints.get("budget") is not None
    value = curve.variance if by_budget else curve.cost
    shown = np.isfinite(value)
    k, value = curve.responses_per_prompt[shown], value[shown]

    figure = figure or Figure(**SHAPE)
    axes = figure.subplots()
    run = f"K = {_whole(low)}" if low == high else f"K = {_whole(low)} to {_whole(high)}"
    axes.axvspan(low / 1.06, high * 1.06, color=GREEN, alpha=0.2, linewidth=0, label=f"within 5 %: {run}")
    axes.plot(k, value, "o-", color=BLUE, markersize=3.5, linewidth=1, label="whole-number plans")
    if k[0] == 1 and best > 1:
        axes.axhline(value[0], color=BLUE, linestyle=":", linewidth=1, label="one response (K = 1)")
    at = value[np.searchsorted(k, min(best, last))]
    axes.plot(
        best,
        at,
        "*",
        color=RED,
        markersize=13,
        label=f"best: {_whole(plan.n_prompts)} prompts × {_whole(best)}",
    )
    axes.set_xscale("log")
    if np.max(value) > 20 * np.min(value) > 0:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.08 * max(np.max(value), 1e-300))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
    left, right = axes.set_xlim(0.9, max(1.1 * last, 2))
    if left < plan.k_star < right:
        axes.axvline(plan.k_star, color=BLACK, linestyle="--", linewidth=1, label=f"K* = {plan.k_star:.3g}")
    if k_star_interval is not None:
        _interval(axes, k_star_interval, left, right, f"{100 * confidence:g} % interval of K*")
    decades = [tick for exponent in range(16) for tick in (10**exponent, 2 * 10**exponent, 5 * 10**exponent)]
    ticks = range(1, int(right) + 1) if right < 10 else [tick for tick in decades if tick <= right]
    axes.set_xticks(ticks if len(ticks) < 10 else ticks[:: 3 * (1 + len(ticks) // 30)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("responses per prompt, K")
    if by_budget:
        axes.set_ylabel("variance of the loss estimate")
        axes.set_title(f"budget {constraints['budget']:,g}", fontsize="medium")
    else:
        axes.set_ylabel("cost")
        axes.set_title(f"target variance {constraints['target_variance']:g}", fontsize="medium")
    figure.legend(loc="outside right center", fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_plan(plan: Plan) -> Axes:
    """What `Plan.plot` draws, in a new figure of pyplot."""
    import matplotlib.pyplot as plt

    from mrtsim.plan.power import sampling_of

    case = plan._case
    if case is None:
        raise InputError("only a plan of allocate or allocate_for_power knows what to draw")
    figure = plt.figure(**SHAPE)
    if case.effect is not None and case.rule is not None:
        options = {name: case.goal[name] for name in ("population", "redundancy")}
        sampling = sampling_of(case.components, case.correlation, **options)
        chosen = plan.n_prompts, plan.responses_per_prompt
        plot_power(sampling, case.effect, case.rule, chosen, figure=figure)
    else:
        plot_allocation(case.components, case.cost, figure=figure, **case.goal)  # pyright: ignore[reportArgumentType]
    return figure.axes[0]


def plot_estimates(rows: Sequence[tuple[str, Estimate | None]], unit: str) -> Axes:
    """Estimates with their intervals, one row each from the top, in a new figure of pyplot.

    Args:
        rows: names and estimates; what is not known (None, NaN) has no mark, an end that is infinite an arrow.
        unit: label of the axis.
    """
    import matplotlib.pyplot as plt

    known = [(name, e) for name, e in rows if e is not None and math.isfinite(e.value)]
    figure = plt.figure(figsize=(6.4, 0.9 + 0.38 * len(known)), layout="constrained")
    axes = figure.subplots()
    ends = [x for _, e in known for x in (e.value, e.low, e.high) if math.isfinite(x)]
    far = max(ends) + 0.15 * (max(ends) - min(min(ends), 0) or 1)
    for row, (_, e) in enumerate(known):
        low, high = (e.value if math.isnan(end) else end for end in (e.low, e.high))
        axes.plot([low, min(high, far)], [row, row], color=BLACK, linewidth=1.5)
        axes.plot(e.value, row, "o", color=BLACK, markersize=5)
        if high == math.inf:
            axes.plot(far, row, ">", color=BLACK, markersize=6)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def plot_rollouts(groups: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> Figure:
    """Share of dead groups against G, and beside it the gradient variance at equal budget where a best G is known.

    Args:
        groups: rows of `mrtsim rollouts --json`: `group_size`, `dead` and, with a best group, `variance`.
        best: `best_group` of the same record, or None.
    """
    figure = Figure(figsize=(6.4 if best else 3.6, 2.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, 2 if best else 1))
    size = [row["group_size"] for row in groups]
    dead = [row["dead"] for row in groups]
    if "dead_interval" in groups[0]:
        low, high = ([row["dead_interval"][end] for row in groups] for end in ("low", "high"))
        panels[0].fill_between(size, low, high, color=BLUE, alpha=0.2, linewidth=0)
        counts = [
            (row["group_size"], row["dead_observed"]["estimate"]) for row in groups if row["dead_observed"]
        ]
        if counts:
            panels[0].plot(*zip(*counts, strict=True), "x", color=RED, label="by counts")
    panels[0].plot(size, dead, "o-", color=BLUE, markersize=3.5, linewidth=1, label="Beta distribution")
    panels[0].set_ylabel("share of dead groups")
    panels[0].set_ylim(0, 1)
    panels[0].legend(fontsize="small", frameon=False)
    if best:
        shown = [(row["group_size"], row["variance"]) for row in groups if math.isfinite(row["variance"])]
        panels[1].plot(*zip(*shown, strict=True), "o-", color=BLUE, markersize=3.5, linewidth=1)
        panels[1].plot(best["group_size"], best["variance"], "*", color=RED, markersize=13)
        panels[1].set_ylabel("gradient variance")
        panels[1].set_ylim(0)
        panels[1].ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
        panels[1].set_title(
            f"best: {_whole(best['n_prompts'])} prompts × {best['group_size']}", fontsize="medium"
        )
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xticks(size)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("responses per prompt, G")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_sizes(rows: Sequence[tuple[int, int, float, float]], across: str, up: str) -> Figure:
    """A variance against a size at one budget, the best marked; rows are (size, prompts, variance, regret).

    Args:
        rows: size, prompts, variance and regret of each size.
        across: label of the sizes.
        up: label of the variance.
    """
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.subplots()
    sizes, prompts, variance, _ = zip(*rows, strict=True)
    axes.plot(sizes, variance, "o-", color=BLUE, markersize=3.5, linewidth=1)
    best = min(range(len(rows)), key=lambda i: variance[i])
    axes.plot(sizes[best], variance[best], "*", color=RED, markersize=13)
    axes.set_title(f"best: {_whole(prompts[best])} prompts × {_whole(sizes[best])}", fontsize="medium")
    axes.set_xscale("log")
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_per_prompt(spreads: ArrayLike, responses: ArrayLike) -> Figure:
    """Responses K_i of every prompt against its standard deviation."""
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(spreads, responses, "o", color=BLUE, markersize=3.5, alpha=0.5)
    axes.set_xlabel("standard deviation of a response")
    axes.set_ylabel("responses, K")
    axes.set_xlim(0)
    axes.set_ylim(0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _whole(count: int) -> str:
    return f"{count:,}" if count < 10**7 else f"{float(count):.3g}"


def _interval(axes: Any, interval: tuple[float, float], left: float, right: float, label: str) -> None:
    """A bar along the foot of the axes, with an arrow where it goes on beyond them."""
    low, high = max(interval[0], left), min(interval[1], right)
    height, across = 0.05, axes.get_xaxis_transform()
    axes.plot([low, high], [height] * 2, color=BLACK, linewidth=2.5, transform=across, label=label)
    if interval[0] > left:
        axes.plot(low, height, "|", color=BLACK, markersize=9, markeredgewidth=2, transform=across)
    end = "|" if interval[1] < right else ">"
    axes.plot(
        high, height, end, color=BLACK, markersize=9, markeredgewidth=2, transform=across, clip_on=False
    )


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the ending says how (png, pdf, svg).

    Raises:
        InputError: the file cannot be written there, or its ending is not one that Matplotlib knows.
    """
    try:
        figure.savefig(path, dpi=200)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the figure to {str(path)!r}: {error}") from error


def plot_power(
    sampling: Sampling,
    effect: float,
    rule: Rule,
    plan: tuple[int, int] | None = None,
    *,
    most_curves: int = 5,
    figure: Figure | None = None,
) -> Figure:
    """Power to show a difference against the number of prompts, one curve per number of responses K.

    Args:
        sampling: what the estimate varies by (`mrtsim.plan.power`).
        effect: the difference to show, above 0.
        rule: confidence, power and sides of the test; its power is the horizontal line.
        plan: (N_p, K) of a plan, to be marked.
        most_curves: how many K are drawn: 1, 2, 4, ... and that of the plan.
        figure: an empty one to draw in.
    """
    marked = None if plan is None else plan[1]
    ks = sorted({2**i for i in range(most_curves)} | ({marked} if marked else set()))
    single = float(sampling.moments(1, ks[0])[0]) if sampling.population is None else sampling.between + 1
    needed = max(single, 1e-300) * (rule.z / effect) ** 2 + rule.z**2
    last = min(1.5 * max(needed, plan[0] if plan else 0), sampling.population or math.inf, 1e12)
    n = np.unique(np.geomspace(2, max(last, 4), 200).round())

    figure = figure or Figure(**SHAPE)
    axes = figure.subplots()
    shades = np.linspace(0.25, 1, len(ks))
    for k, shade in zip(ks, shades, strict=True):
        variance, freedom = sampling.moments(n, k)
        with np.errstate(divide="ignore"):
            power = rule.power_at(effect / np.sqrt(variance), freedom)
        color = RED if k == marked else BLUE
        axes.plot(n, power, color=color, alpha=1 if k == marked else shade, linewidth=1.2, label=f"K = {k}")
    axes.axhline(rule.power, color=BLACK, linestyle=":", linewidth=1, label=f"power {rule.power:g}")
    if plan is not None:
        variance, freedom = sampling.moments(*plan)
        reached = float(rule.power_at(effect / np.sqrt(variance), freedom))
        label = f"plan: {_whole(plan[0])} prompts × {plan[1]}"
        axes.plot(plan[0], reached, "*", color=RED, markersize=13, label=label)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.set_xlabel("prompts, $N_p$")
    axes.set_ylabel("power")
    side = "one-sided " if rule.one_sided else ""
    axes.set_title(f"difference {effect:g}, {side}{100 * rule.confidence:g} % confidence", fontsize="medium")
    figure.legend(loc="outside right center", fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure

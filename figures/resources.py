"""The best K at equal cost, by budget and recipe: near K* at the best validation step, often above it as published.
Points are interpolated between trained cells of prompts and responses, with 95 % intervals from resampled runs."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style

_RECIPES = {"last": "as published (last step)", "best": "best validation step"}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.resources`: rows of intervals, a budget each, on a shared axis of K."""
    fig, axes = style.figure(1, 2, width=style.PAGE, height=2.5, sharex=True, sharey=True)
    for ax, (recipe, title) in zip(axes, _RECIPES.items(), strict=True):
        _best(ax, result, result["recipes"][recipe])
        ax.set_title(title)
    budgets = result["budgets"]
    axes[0].set_yticks(range(len(budgets)), [f"{budget:g}" for budget in budgets])
    axes[0].set_ylabel("budget")
    axes[0].set_ylim(-0.6, len(budgets) - 0.4)
    style.letters(axes)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return fig


def _best(ax: Axes, result: dict[str, Any], measured: dict[str, Any]) -> None:
    k_star = result["law"]["k_star"]
    ax.axvspan(
        k_star / 2, k_star * 2, color=style.GREY, alpha=0.15, linewidth=0, label="within a factor of 2"
    )
    ax.axvline(k_star, **style.FLOOR, label=f"exact $K^*$ = {k_star:.1f}")
    cells = measured["best_k"]
    value, low, high = ([cell[part] for cell in cells] for part in ("estimate", "low", "high"))
    ax.hlines(range(len(cells)), low, high, color=style.BLUE, linewidth=1.6)
    look: dict[str, Any] = style.STRATEGIES["rkon"] | {
        "linestyle": "none",
        "label": "RKoN, best $K$ with interval",
    }
    ax.plot(value, range(len(cells)), **look)
    style.powers_of_two(ax, result["responses"])
    ax.set_xlabel("responses per prompt $K$ (log scale)")
    ax.grid(axis="y", visible=False)

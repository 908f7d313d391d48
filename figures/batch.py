"""Inside one update the best split of a batch agrees with the gradient's K*, where a prompt costs 4 responses and
where it is free (K* = 0). Curves: excess NLL over the best split's, means over runs; 95 % bands and intervals from
resampled runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.batch`; bars and bands are 95 % intervals."""
    prices = result["prices"]
    fig, axes = style.figure(1, 1 + len(prices), width=style.PAGE, height=2.9)
    for ax, entry in zip(axes, prices, strict=False):
        _curves(ax, result, entry)
    axes[0].set_ylabel("excess test NLL /\nthe best split's (log scale)")
    _components(axes[-1], result)
    style.letters(axes)
    return fig


def _curves(ax: Axes, result: dict[str, Any], entry: dict[str, Any]) -> None:
    """Excess NLL of every split over that of the best split at the same step."""
    steps = np.array(result["steps"][1:], float)
    excess, error = (np.array(entry[name])[1:] for name in ("excess", "standard_error"))
    best = excess.min(axis=1, keepdims=True)
    looks = style.ordered(len(result["responses"]))
    for column, (k, n) in enumerate(zip(result["responses"], entry["prompts"], strict=True)):
        look = looks[column]
        over, half = excess[:, column] / best[:, 0], style.Z95 * error[:, column] / best[:, 0]
        ax.fill_between(steps, over - half, over + half, color=look["color"], alpha=0.15, linewidth=0)
        ax.plot(steps, over, **{**look, "marker": None}, label=f"{n} $\\times$ {k}")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.minorticks_off()
    price = entry["price"]
    ax.set_title("prompts are free" if price == 0 else f"a prompt costs {price:g} responses")
    ax.set_xlabel("updates")
    ax.legend(title="$N_p \\times K$ per update", title_fontsize=7, loc="upper left")


def _components(ax: Axes, result: dict[str, Any]) -> None:
    steps, components = np.array(result["steps"], float), result["components"]
    k_star = {name: np.array(values, float) for name, values in components["k_star"].items()}
    ax.fill_between(steps, k_star["low"], k_star["high"], color=style.GREY, alpha=0.2, linewidth=0)
    ax.plot(steps, k_star["estimate"], **{**style.EXACT, "label": "gradient's $K^*$"})
    for entry in result["prices"]:
        if entry["price"] == components["price"]:
            best = entry["best"]
            style.interval(
                ax,
                steps[1:],
                *([cell[name] for cell in best] for name in ("estimate", "low", "high")),
                **style.STRATEGIES["rkon"] | {"linestyle": "none", "label": "best split"},
            )
    ax.set_yscale("log", base=2)
    ax.set_yticks(result["responses"], [f"{k:g}" for k in result["responses"]])
    ax.minorticks_off()
    ax.set_title("best $K$ and the gradient's $K^*$")
    ax.set_ylabel("responses per prompt $K$ (log scale)")
    ax.set_xlabel("updates")
    ax.legend()

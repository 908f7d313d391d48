"""Which strategy's picks train the best p(y|x): with K of 4 or more DKoN's, below RKoN's; never BKoN's. c: DBKoN over
its alpha, beside RKoN (dotted). KL(p || model) at the training prompts (E4), means over runs with 95 % t intervals;
most are narrower than the markers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from figures import style

_TITLES = {"last": "last step (as published)", "best": "best validation step"}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.distributional`; bars are 95 % intervals of the mean over runs."""
    fig, axes = style.figure(1, 3, width=style.PAGE, height=2.9)
    ks = np.array(result["responses"], float)
    names = style.by_order(result["strategies"])
    for ax, (recipe, title) in zip(axes[:2], _TITLES.items(), strict=True):
        for number, name in enumerate(names):
            cells = result["strategies"][name][recipe]["nll"]["mean"]
            limits = (
                np.array([cell[part] for cell in cells]) - result["true_nll"]
                for part in ("estimate", "low", "high")
            )
            style.interval(ax, ks * style.dodge(number, len(names)), *limits, **style.STRATEGIES[name])
        ax.set_title(title)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if recipe == "best" else (1.0,)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("responses per prompt $K$")
        style.powers_of_two(ax, ks)
    _alphas(axes[2], result)
    axes[0].set_ylabel("KL($p$ || model) (nats, log scale)")
    style.letters(axes)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return fig


def _alphas(ax: Axes, result: dict[str, Any]) -> None:
    of = result["alphas"]
    alphas = np.array(of["alphas"], float)
    for recipe, fill in (("last", "white"), ("best", style.PURPLE)):
        value, low, high = (
            np.array([cell[part] for cell in of[recipe]["nll"]]) - result["true_nll"]
            for part in ("estimate", "low", "high")
        )
        look = style.STRATEGIES["dbkon"] | {
            "markerfacecolor": fill,
            "markeredgecolor": style.PURPLE,
            "label": "_",
        }
        style.interval(ax, alphas, value, low, high, **look)
        style.note(ax, _TITLES[recipe].split(" (")[0], (alphas[-1], value[-1]), (2, 6), ha="right")
        ax.axhline(
            of[recipe]["rkon"]["estimate"] - result["true_nll"],
            color=style.BLUE,
            linestyle=":",
            linewidth=1.0,
        )
    ax.set_title(f"DBKoN, $K$ = {of['k']}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(r"power of the quality $\alpha$")

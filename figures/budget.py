"""E2: test NLL against K under one budget, in both recipes; below, how sure the best K is."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from figures import style

_TITLES = {"last": "last step (as published)", "best": "best validation step"}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.budget`; bars are 95 % intervals, the dashed line is K* with its factor of 2."""
    fig, axes = style.figure(
        2, 2, width=style.PAGE, height=4.0, sharex=True, gridspec_kw={"height_ratios": [2.2, 1.0]}
    )
    ks = np.array(result["responses"], float)
    for (above, below), (recipe, title) in zip(axes.T, _TITLES.items(), strict=True):
        for ax in (above, below):
            _law(ax, result["law"]["k_star"])
        _nll(above, result, recipe)
        for name, entry in result["strategies"].items():
            shift = 1.03 if name == "rkon" else 1 / 1.03
            look = style.STRATEGIES[name]
            probability = np.array(entry[recipe]["best"]["probability"])
            below.vlines(ks * shift, 0, probability, color=look["color"], linewidth=2.4)
            below.plot(ks * shift, probability, **look | {"linestyle": "none", "label": "_"})
        below.set_ylim(0, 1.05)
        below.set_xlabel("responses per prompt $K$")
        style.powers_of_two(below, ks)
        above.set_title(title)
    axes[0, 0].set_ylabel("test NLL (nats)")
    axes[1, 0].set_ylabel("probability that\nthis $K$ is best")
    axes[0, 0].legend(loc="upper right")
    axes[0, 1].legend(loc="upper right")
    return fig


def _nll(ax: Axes, result: dict[str, Any], recipe: str) -> None:
    ks = np.array(result["responses"], float)
    for name, entry in result["strategies"].items():
        cells = entry[recipe]["nll"]["mean"]
        value, low, high = (np.array([cell[part] for cell in cells]) for part in ("estimate", "low", "high"))
        style.interval(ax, ks, value, low, high, **style.STRATEGIES[name])
    if recipe == "last":
        reported = result["reported"]
        ax.plot(
            reported["responses_per_prompt"],
            reported["rkon_mean"],
            **(style.REPORTED | dict[str, Any](label="RKoN, reported")),
        )
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _law(ax: Axes, k_star: float) -> None:
    ax.axvspan(k_star / 2, k_star * 2, color=style.GREY, alpha=0.12, linewidth=0)
    ax.axvline(k_star, **style.FLOOR, label=f"$K^*$ = {k_star:.1f} (exact; band: factor 2)")

"""Under one budget (E2) the best K lies above K* as published and near it at the best validation step. Above: means
over runs with 95 % t intervals; below: the share of resamples in which a K is best. The reported points are means
of few runs."""

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
            won = probability > 0
            below.vlines(ks[won] * shift, 0, probability[won], color=look["color"], linewidth=2.4)
            below.plot(ks[won] * shift, probability[won], **look | {"linestyle": "none", "label": "_"})
        below.set_ylim(0, 1.05)
        below.set_xlabel("responses per prompt $K$")
        style.powers_of_two(below, ks)
        above.set_title(title)
    axes[0, 0].set_ylabel("test NLL (nats, log scale)")
    axes[0, 1].set_ylabel("test NLL (nats)")
    axes[1, 0].set_ylabel("probability that\nthis $K$ is best")
    style.letters(axes[0])
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def _nll(ax: Axes, result: dict[str, Any], recipe: str) -> None:
    ks = np.array(result["responses"], float)
    for name, entry in result["strategies"].items():
        cells = entry[recipe]["nll"]["mean"]
        value, low, high = (np.array([cell[part] for cell in cells]) for part in ("estimate", "low", "high"))
        style.interval(ax, ks, value, low, high, **style.STRATEGIES[name])
    if recipe == "best":
        # Where K = 1 lies far above the others, an arrow instead of an axis that hides their differences.
        cells = {name: entry[recipe]["nll"]["mean"] for name, entry in result["strategies"].items()}
        rest = [cell[end] for row in cells.values() for cell in row[1:] for end in ("low", "high")]
        margin = 0.15 * (max(rest) - min(rest))
        ax.set_ylim(min(rest) - margin, max(rest) + 2 * margin)
        for name, row in cells.items():
            if row[0]["low"] > max(rest) + 2 * margin:
                text = f"↑ {row[0]['estimate']:.2f} at $K$ = {ks[0]:g}"
                at = (ks[1], max(rest) + 2 * margin)
                style.note(ax, text, at, (3, -9), color=style.STRATEGIES[name]["color"])
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

"""Under one budget (E2) the best K lies above K* as published and near it at the best validation step. Above: means
over runs with 95 % t intervals; below: the share of resamples in which a K is best. The reported points are means
of few runs. c: the best K of RKoN at other cost ratios beside K*, after the last step (open) and at the best
validation step (filled), with 95 % intervals from resampled runs."""

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
        2,
        3,
        width=style.PAGE,
        height=4.0,
        sharex="col",
        gridspec_kw={"height_ratios": [2.2, 1.0], "width_ratios": [1.0, 1.0, 0.8]},
    )
    grid = axes[0, 2].get_gridspec()
    for ax in axes[:, 2]:
        ax.remove()
    ratios, axes = fig.add_subplot(grid[:, 2]), axes[:, :2]
    _ratios(ratios, result["ratios"])
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
    style.letters([*axes[0], ratios])
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


def _ratios(ax: Axes, of: dict[str, Any]) -> None:
    ratio = np.array(of["ratios"], float)
    ax.plot(ratio, of["k_star"], **style.FLOOR)
    ax.fill_between(
        ratio,
        np.array(of["k_star"]) / 2,
        np.array(of["k_star"]) * 2,
        color=style.GREY,
        alpha=0.12,
        linewidth=0,
    )
    for recipe, fill, shift in (("last", "white", 1 / 1.03), ("best", style.BLUE, 1.03)):
        value, low, high = (
            np.array([cell[part] for cell in of[recipe]["best"]]) for part in ("estimate", "low", "high")
        )
        look = style.STRATEGIES["rkon"] | {
            "markerfacecolor": fill,
            "markeredgecolor": style.BLUE,
            "label": "_",
        }
        style.interval(ax, ratio * shift, value, low, high, **look)
    ax.set_xscale("log")
    ax.set_yscale("log", base=2)
    ks = of["responses"]
    ax.set_yticks(ks, [f"{k}" for k in ks])
    ax.set_xticks(ratio, [f"{r:g}" for r in ratio])
    ax.minorticks_off()
    ax.set_xlabel("cost ratio $C_p / C_r$")
    ax.set_ylabel("best $K$ (RKoN)")
    ax.set_title("other costs")

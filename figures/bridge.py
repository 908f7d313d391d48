"""Similar responses have similar gradients, and the similarity score ranks strategies as the measured K_eff does,
but is no K_eff (E6). The band holds 80 % of untrained networks; 95 % intervals over trials are narrower than the
markers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.bridge`; the band holds 80 % of untrained networks, bars are 95 % intervals."""
    fig, (left, right) = style.figure(1, 2, width=style.PAGE, height=3.1)
    bins = {name: np.asarray(values) for name, values in result["bins"].items()}
    left.fill_between(bins["similarity"], bins["low"], bins["high"], color=style.GREY, alpha=0.3, linewidth=0)
    left.plot(bins["similarity"], bins["cosine"], **style.SERIES[0])
    left.axhline(0, **style.FLOOR)
    r = result["pairs"]["pearson"]
    left.set_title(
        f"pairs in a pool: r = {r['estimate']:.2f} (reported {result['reported']['pearson_r']:.2f})"
    )
    left.set_xlabel(r"response similarity $1 - |y - y'|\,/\,$largest distance")
    left.set_ylabel("cosine of the two gradients")
    left.set_ylim(-1.05, 1.05)
    _k_eff(right, result)
    right.set_title("strategies")
    style.letters((left, right))
    fig.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return fig


def _k_eff(ax: Any, result: dict[str, Any]) -> None:
    highest = 1.0
    for name in style.by_order(result["strategies"]):
        by_k = result["strategies"][name]
        look = style.STRATEGIES[name]
        scores, found = ([entry[part] for entry in by_k.values()] for part in ("score", "k_eff"))
        x, y = [e["estimate"] for e in scores], [e["estimate"] for e in found]
        low, high = zip(*map(style.limits, found), strict=True)
        highest = max(highest, *y)
        style.interval(ax, x, y, low, high, **look)
        # Numbers once, at the strategy whose points lie apart.
        if name == "dkon":
            for k, score, k_eff in zip(by_k, x, y, strict=True):
                style.note(ax, f"$K$ = {k}", (score, k_eff), (5, -8), color=look["color"])
    ends = np.array([1.0, 2.4])
    ax.plot(ends, ends, **style.FLOOR)
    style.note(ax, r"score = $K_\mathrm{eff}$", (2.02, 1.72), (0, -8), color=style.GREY)
    ax.set_yscale("log", base=2)
    ticks = 2.0 ** np.arange(0, np.ceil(np.log2(highest)) + 1)
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.95, 2.4)
    ax.set_xlabel("similarity score")
    ax.set_ylabel(r"measured $K_\mathrm{eff}$ of the gradient (log scale)")

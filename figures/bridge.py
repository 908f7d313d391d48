"""E6: gradient cosine against response similarity, and the similarity score against the measured K_eff."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.bridge`; the band holds 80 % of untrained networks, bars are 95 % intervals."""
    fig, (left, right) = style.figure(1, 2, width=style.PAGE, height=2.8)
    bins = {name: np.asarray(values) for name, values in result["bins"].items()}
    left.fill_between(bins["similarity"], bins["low"], bins["high"], color=style.SKY, alpha=0.35, linewidth=0)
    left.plot(bins["similarity"], bins["cosine"], color=style.BLUE, marker="o")
    left.axhline(0, **style.FLOOR)
    r = result["pairs"]["pearson"]
    left.set_title(
        f"pairs in a pool: r = {r['estimate']:.2f} (reported {result['reported']['pearson_r']:.2f})"
    )
    left.set_xlabel("response similarity  1 − |y − y'| / largest distance")
    left.set_ylabel("cosine of the two gradients")
    left.set_ylim(-1.05, 1.05)
    _k_eff(right, result)
    return fig


def _k_eff(ax: Any, result: dict[str, Any]) -> None:
    highest = 1.0
    for name, by_k in result["strategies"].items():
        look = style.STRATEGIES[name]
        scores, found = ([entry[part] for entry in by_k.values()] for part in ("score", "k_eff"))
        x, y = [e["estimate"] for e in scores], [e["estimate"] for e in found]
        low, high = zip(*map(style.limits, found), strict=True)
        highest = max(highest, *y)
        style.interval(ax, x, y, low, high, **look)
        for k, score, k_eff in zip(by_k, x, y, strict=True):
            ax.annotate(
                k, (score, k_eff), xytext=(4, 2), textcoords="offset points", fontsize=6, color=look["color"]
            )
    ends = np.array([1.0, 2.4])
    ax.plot(ends, ends, **style.FLOOR)
    ax.text(2.02, 1.72, "score = K_eff", fontsize=6, color=style.GREY, va="top")
    ax.set_yscale("log", base=2)
    ticks = 2.0 ** np.arange(0, np.ceil(np.log2(highest)) + 1)
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.95, 2.4)
    ax.set_xlabel("similarity score (numbers: K)")
    ax.set_ylabel("measured K_eff of the gradient")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.22))

"""Greedy selection reaches nearly the best subset; its trade of bias for variance is lost where the reward weighs more.
a: means over random pools, intervals narrower than the markers. b: untrained networks, 95 % intervals over networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.selection_guarantee`: share of the best subset's value, and EMSE against alpha."""
    fig, axes = style.figure(1, 2, width=style.PAGE, height=2.9)
    _guarantee(axes[0], result)
    _alpha(axes[1], result["trade"])
    style.letters(axes)
    return fig


def _guarantee(ax: Any, result: dict[str, Any]) -> None:
    """The least and the mean over pools of all kinds, for DKoN's objective, where the choice is harder."""
    rows = [row for row in result["guarantee"] if row["objective"] == "dkon"]
    k = sorted({row["k"] for row in rows})

    def over_kinds(name: str) -> list[float]:
        return [float(np.mean([r["shares"][name]["estimate"] for r in rows if r["k"] == each])) for each in k]

    for name in ("rkon", "bkon", "filtered-max-min"):
        ax.plot(k, over_kinds(name), **style.STRATEGIES[name])
    worst = [min(r["worst"] for r in rows if r["k"] == each) for each in k]
    greedy = style.STRATEGIES["dkon"]
    ax.plot(k, over_kinds("greedy"), **greedy | {"label": "DKoN (greedy)"})
    ax.plot(
        k,
        worst,
        **greedy
        | {"linestyle": ":", "markerfacecolor": "white", "markeredgecolor": greedy["color"], "label": "_"},
    )
    style.note(ax, "DKoN, worst pool", (k[1], worst[1]), (5, -8), color=greedy["color"])
    continuous = np.linspace(min(k), max(k), 200)
    bound = 1 - (1 - 1 / continuous) ** continuous
    ax.plot(continuous, bound, **style.FLOOR)
    style.note(
        ax, "promised: $1-(1-1/K)^K$", (continuous[-1], bound[-1]), (0, 9), ha="right", color=style.GREY
    )
    ax.set_xticks(k)
    ax.set_ylim(0.6, 1.12)
    ax.set_xlabel("responses kept $K$")
    ax.set_ylabel("$F(S)\\,/\\,F$(best subset)")
    ax.set_title(f"every subset of {result['pool_candidates']} tried")
    ax.legend(loc="upper center", ncols=2, fontsize=6.5)


def _alpha(ax: Any, rows: list[dict[str, Any]]) -> None:
    """EMSE of the loss over RKoN's: DKoN, then DBKoN by alpha, for every K."""
    path = [row for row in rows if row["alpha"] is not None]
    alphas = sorted({row["alpha"] for row in path})
    # DKoN stands apart: 0 has no place on an axis of doublings.
    places = [0.0, *(1.5 + i for i in range(len(alphas) - 1))]
    ks = sorted({row["k"] for row in path})
    for look, k in zip(style.ordered(len(ks)), ks, strict=True):
        of_k = sorted((row for row in path if row["k"] == k), key=lambda row: row["alpha"])
        values = [
            np.array([row["loss"]["emse_over_rkon"][e] for row in of_k]) for e in ("estimate", "low", "high")
        ]
        style.interval(ax, places[:1], *(v[:1] for v in values), **look | {"label": f"$K$ = {k}"})
        style.interval(ax, places[1:], *(v[1:] for v in values), **look)
    ax.axhline(1.0, **style.EXACT | {"label": "_"})
    style.note(ax, "RKoN", (places[-1], 1.0), (12, 3), ha="right")
    ax.set_yscale("log")
    ax.set_yticks([0.2, 0.5, 1, 2, 4], ["0.2", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.set_xticks(places, ["DKoN", *(f"{a:g}" for a in alphas[1:])])
    ax.set_xlabel(r"DKoN, and DBKoN by $\alpha$")
    ax.set_ylabel("EMSE of the loss / RKoN's (log scale)")
    ax.set_title("the weight of the reward")
    ax.legend(loc="upper left", bbox_to_anchor=(0.12, 1.0))

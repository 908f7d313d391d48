"""A small language model (E7): BKoN's picks cost more than they save at every K, in both recipes; what differs is
the mode's token. NLL less the floor that no model can beat on prompts it has not seen; means over runs with 95 % t
intervals. Thin lines: a learner that gives the modes the probabilities with which they are kept (exact). Crosses:
the reference, run again. Right: the modes of 16 sampled responses differ more where K is larger after the last step,
and less at the best step."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.tokens`."""
    fig, axes = style.figure(2, 3, width=style.PAGE, height=4.6, sharex=True)
    (last, best, diverse_last), (response, mode, diverse_best) = axes
    floors = result["floors"]
    share, unseen = result["response_share"], floors["unseen prompts"]
    panels = (
        (last, "last", "all", 1.0, unseen["all"], "all tokens, last step"),
        (best, "best", "all", 1.0, unseen["all"], "all tokens, best step"),
        (
            response,
            "last",
            "response",
            share,
            share * floors["unseen prompts"]["response"],
            "the response, last step",
        ),
        (mode, "last", "mode", 1.0, floors["entropy"]["mode"], "the mode, last step"),
    )
    for ax, recipe, part, scale, floor, title in panels:
        _curves(ax, result, recipe, part, scale, floor)
        ax.set_title(title)
        ax.set_ylim(bottom=0)
    for name in ("rkon", "bkon"):
        look = {key: style.STRATEGIES[name][key] for key in ("color", "linestyle")}
        kept = np.array([cell["mode"] for cell in floors[name]]) - floors["entropy"]["mode"]
        mode.plot(result["responses"], kept, linewidth=0.8, **look)
    _reported(response, result, share * unseen["response"])
    for ax in (last, response):
        ax.set_ylabel("NLL above the floor\n(nats per token)")
    for ax, recipe in ((diverse_last, "last"), (diverse_best, "best")):
        _diversity(ax, result, recipe)
        ax.set_title(f"diversity, {recipe} step")
    for ax in (response, mode, diverse_best):
        ax.set_xlabel("responses per prompt $K$")
    style.letters(axes.flat)
    exact = Line2D([], [], color=style.GREY, linewidth=0.8, label="modes as kept (exact)")
    reference = Line2D([], [], **{**style.REPORTED, "label": "re-run of the reference"})
    strategies = best.get_legend_handles_labels()[0]
    fig.legend(handles=[*strategies, exact, reference], loc="outside upper center", ncols=5)
    return fig


def _curves(ax: Axes, result: dict[str, Any], recipe: str, part: str, scale: float, floor: float) -> None:
    ks = np.array(result["responses"], float)
    names = style.by_order(result["strategies"])
    for i, name in enumerate(names):
        cells = result["strategies"][name][recipe][part]
        limits = (scale * np.array([c[end] for c in cells]) - floor for end in ("estimate", "low", "high"))
        style.interval(ax, ks * style.dodge(i, len(names)), *limits, **style.STRATEGIES[name])
    style.powers_of_two(ax, result["responses"])


def _diversity(ax: Axes, result: dict[str, Any], recipe: str) -> None:
    """1 - the share of pairs of sampled responses with the same mode, on unseen prompts."""
    ks = np.array(result["responses"], float)
    names = style.by_order(result["strategies"])
    for i, name in enumerate(names):
        cells = result["generations"][recipe]["unseen"][name]["mode_diversity"]["k"]
        limits = (np.array([c[end] for c in cells], float) for end in ("estimate", "low", "high"))
        style.interval(ax, ks * style.dodge(i, len(names)), *limits, **style.STRATEGIES[name])
    exact = result["generations"]["generator"]["mode_diversity"]
    ax.axhline(exact, **style.FLOOR)
    style.note(ax, "the generator's", (ks[-1], exact), (4, 3), ha="right", color=style.GREY)
    style.powers_of_two(ax, result["responses"])
    ax.set_ylim(bottom=0)
    ax.set_ylabel("1 − mean cosine of modes")


def _reported(ax: Axes, result: dict[str, Any], floor: float) -> None:
    reported = result["reported"]
    ks = np.array(reported["responses_per_prompt"], float)
    names = style.by_order(result["strategies"])
    for i, name in enumerate(names):
        look = {**style.REPORTED, "color": style.STRATEGIES[name]["color"], "label": "_", "zorder": 5}
        values = np.array(reported[name.replace("-", "_")]) - floor
        ax.plot(ks * style.dodge(i, len(names)), values, **look)

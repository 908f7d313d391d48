"""E7, test NLL of a small language model under the true modes, for three selectors: over all tokens in two recipes, the
part that the response's tokens add to that mean (crosses: the reference, run again), and the mode's token alone beside
what a learner would get that gives the modes the probabilities with which they are kept (thin lines, exact). Points are
means over runs with 95 % intervals; the floor is what no model can beat on prompts it has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.tokens`."""
    fig, axes = style.figure(2, 2, width=style.PAGE, height=4.9, sharex=True)
    (last, best), (response, mode) = axes
    floors = result["floors"]
    panels = (
        (last, "last", "all", 1.0, "all tokens, as published (last step)"),
        (best, "best", "all", 1.0, "all tokens, best validation step"),
        (
            response,
            "last",
            "response",
            result["response_share"],
            "the response's part of the mean, last step",
        ),
        (mode, "last", "mode", 1.0, "the mode's token, last step"),
    )
    for ax, recipe, part, scale, title in panels:
        _curves(ax, result, recipe, part, scale)
        ax.set_title(title)
        if part != "mode":
            _floor(ax, scale * floors["unseen prompts"][part], "unseen prompts")
    for name in ("rkon", "bkon"):
        look = {key: style.STRATEGIES[name][key] for key in ("color", "linestyle")}
        mode.plot(result["responses"], [cell["mode"] for cell in floors[name]], linewidth=0.6, **look)
    _floor(mode, floors["entropy"]["mode"], "entropy")
    _reported(response, result)
    for ax in (last, response):
        ax.set_ylabel("NLL (nats a token)")
    for ax in (response, mode):
        ax.set_xlabel("responses a prompt $K$")
    exact = Line2D([], [], color=style.GREY, linewidth=0.6, label="modes as kept (exact)")
    reference = Line2D([], [], **{**style.REPORTED, "label": "re-run of the reference"})
    strategies = best.get_legend_handles_labels()[0]
    fig.legend(handles=[*strategies, exact, reference], loc="outside upper center", ncols=5)
    return fig


def _curves(ax: Axes, result: dict[str, Any], recipe: str, part: str, scale: float) -> None:
    ks = np.array(result["responses"], float)
    for i, (name, found) in enumerate(result["strategies"].items()):
        cells = found[recipe][part]
        value, low, high = (scale * np.array([c[end] for c in cells]) for end in ("estimate", "low", "high"))
        style.interval(ax, ks * _shift(i), value, low, high, **style.STRATEGIES[name])
    style.powers_of_two(ax, result["responses"])


def _floor(ax: Axes, value: float, name: str) -> None:
    ax.axhline(value, **style.FLOOR)
    ax.annotate(
        f"floor ({name})",
        (1, value),
        (-2, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=style.GREY,
        fontsize=7,
    )


def _reported(ax: Axes, result: dict[str, Any]) -> None:
    reported = result["reported"]
    ks = np.array(reported["responses_per_prompt"], float)
    for i, name in enumerate(result["strategies"]):
        look = {**style.REPORTED, "color": style.STRATEGIES[name]["color"], "label": "_", "zorder": 5}
        ax.plot(ks * _shift(i), reported[name.replace("-", "_")], **look)


def _shift(i: int) -> float:
    """Strategies stand side by side."""
    return 1.05 ** (i - 1)

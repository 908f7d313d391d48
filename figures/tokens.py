"""E7, test NLL of a small language model under the true modes, for three selectors: over all tokens in two recipes, the
part that the response adds, and the mode's token alone beside what a learner would get that gives the modes the
probabilities with which they are kept (thin lines, exact). Points are means over runs with 95 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.predictions import published
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
        look = style.STRATEGIES[name]
        exact = [cell["mode"] for cell in floors[name]]
        mode.plot(result["responses"], exact, color=look["color"], linestyle=look["linestyle"], linewidth=0.6)
    _floor(mode, floors["entropy"]["mode"], "entropy")
    _reported(response, result)
    for ax in (last, response):
        ax.set_ylabel("NLL (nats a token)")
    for ax in (response, mode):
        ax.set_xlabel("responses a prompt $K$")
    handles, labels = response.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return fig


def _curves(ax: Axes, result: dict[str, Any], recipe: str, part: str, scale: float) -> None:
    ks = np.array(result["responses"], float)
    for i, (name, found) in enumerate(result["strategies"].items()):
        cells = found[recipe][part]
        value, low, high = (scale * np.array([c[end] for c in cells]) for end in ("value", "low", "high"))
        style.interval(ax, ks * 1.04 ** (i - 1), value, low, high, **style.STRATEGIES[name])
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
    reported = published()["tokens"]
    for name in result["strategies"]:
        look = {"color": style.STRATEGIES[name]["color"], "label": "_"}
        ax.plot(
            reported["responses_per_prompt"], reported[name.replace("-", "_")], **{**style.REPORTED, **look}
        )
    ax.plot([], [], **{**style.REPORTED, "label": "re-run of the reference"})

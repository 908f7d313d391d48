"""DKoN trades a little bias for a fifth of RKoN's variance; BKoN and DBKoN (alpha = 1) have next to no variance and
are wrong (E5). Bars are 95 % intervals over trials; an arrow is the upper limit of a Bias^2 whose interval holds 0."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style

_FLOOR = 1e-5  # of the logarithmic axis; a Bias^2 that covers 0 is drawn as its upper limit


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.emse`; bars are 95 % intervals over trials."""
    fig, axes = style.figure(1, 3, width=style.PAGE, height=2.9, gridspec_kw={"width_ratios": [1, 1, 0.8]})
    measured = result["measured"]
    names = style.by_order(measured)
    for ax, quantity, title in (
        (axes[0], "loss", "estimate of the loss"),
        (axes[1], "gradient", "estimate of its gradient"),
    ):
        for place, name in enumerate(names):
            look = style.STRATEGIES[name]
            _point(ax, place - 0.17, measured[name][quantity]["bias_squared"], look["color"], filled=True)
            _point(ax, place + 0.17, measured[name][quantity]["variance"], look["color"], filled=False)
            for offset, moment in ((-0.17, "bias_squared"), (0.17, "variance")):
                exact = result["exact"].get(name, {}).get(quantity, {}).get(moment)
                if exact and exact["estimate"] > 0:
                    ax.plot(
                        [place + offset - 0.13, place + offset + 0.13], 2 * [exact["estimate"]], **style.EXACT
                    )
                reported = result["reported"].get(name.replace("-", "_"))
                if reported and quantity == "loss":
                    ax.plot(place + offset, reported[moment], **style.REPORTED)
        ax.set_yscale("log")
        ax.set_ylim(_FLOOR, 10)
        ax.set_title(title)
        _names(ax, names)
    axes[0].set_ylabel("Bias², variance (nats², log scale)")
    axes[1].set_ylabel("squared norm, trace (log scale)")
    alignment = axes[2]
    for place, name in enumerate(names):
        cell = measured[name]["gradient"]["cosine_of_draws"]
        low, high = style.limits(cell)
        style.interval(
            alignment,
            [place],
            [cell["estimate"]],
            [low],
            [high],
            **style.STRATEGIES[name] | {"linestyle": "none", "label": None},
        )
        reported = result["reported"].get(name.replace("-", "_"))
        if reported:
            alignment.plot(place + 0.2, reported["gradient_cosine"], **style.REPORTED)
    alignment.axhline(0, **style.FLOOR)
    alignment.set_ylim(-0.4, 1.05)
    alignment.set_title("gradient of one draw")
    alignment.set_ylabel("cosine with the true gradient")
    _names(alignment, names)
    style.letters(axes)
    legend = axes[0]
    dot: dict[str, Any] = {"color": style.GREY, "marker": "o", "linestyle": "none"}
    handles = [
        *legend.plot([], [], **dot, label="Bias²"),
        *legend.plot([], [], **dot, markerfacecolor="white", label="variance"),
        *legend.plot([], [], **dot | {"marker": r"$\downarrow$"}, label="Bias² at most"),
        *legend.plot([], [], **style.EXACT),
        *legend.plot([], [], **style.REPORTED),
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=5)
    return fig


def _point(ax: Axes, x: float, entry: dict[str, Any], color: str, *, filled: bool) -> None:
    low, high = style.limits(entry)
    face = color if filled else "white"
    if low > _FLOOR:
        style.interval(
            ax, [x], [entry["estimate"]], [low], [high], color=color, marker="o", markerfacecolor=face
        )
    elif np.isfinite(high):
        top = max(high, 3 * _FLOOR)
        arrow: dict[str, Any] = {
            "arrowstyle": "-|>",
            "color": color,
            "linewidth": 1.0,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        ax.annotate("", (x, _FLOOR), (x, top), arrowprops=arrow)
        ax.plot(x, top, color=color, marker="_", linestyle="none")


def _names(ax: Axes, names: list[str]) -> None:
    ax.set_xticks(range(len(names)), [style.STRATEGIES[n]["label"] for n in names], rotation=30, ha="right")
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.grid(axis="x", visible=False)

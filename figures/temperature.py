"""DKoN, filtered max-min and DBKoN with a small alpha beat reward-weighted sampling at any temperature, DBKoN with
alpha = 1 does not. Untrained networks; 95 % intervals over trials, most narrower than the markers. Grey lines have
equal EMSE."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.temperature`; bars are 95 % intervals over trials, grey lines have equal EMSE."""
    fig, axes = style.figure(1, 2, width=style.PAGE, height=3.3)
    for ax, quantity, title in ((axes[0], "loss", "loss (nats²)"), (axes[1], "gradient", "gradient")):
        _panel(ax, result, quantity)
        ax.set_title(f"{title}, N = {result['n_candidates']}, K = {result['k']}")
    style.letters(axes)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return fig


def _panel(ax: Axes, result: dict[str, Any], quantity: str) -> None:
    frontier = result["frontier"]
    look: dict[str, Any] = {
        "color": style.BLACK,
        "marker": "o",
        "linestyle": "-",
        "label": "reward-weighted, by $T$",
    }
    bias, variance = _moments([row[quantity] for row in frontier])
    _plot(ax, bias, variance, look)
    for row, x, y in zip(frontier, bias, variance, strict=True):
        known = {None: "RKoN", 0.0: "BKoN"}.get(row["temperature"])
        if known or row["temperature"] in (0.4, 1.0, 2.0, 5.0):
            text = known or f"T = {row['temperature']:g}"
            place = (-4, -9) if known == "BKoN" else (4, 3)
            style.note(ax, text, (x["estimate"], y["estimate"]), place)
    bias, variance = _moments([row[quantity] for row in result["dbkon"]])
    _plot(ax, bias, variance, style.STRATEGIES["dbkon"] | {"label": r"DBKoN, by $\alpha$"})
    places = {0.05: (6, 1), 0.35: (5, -8), 0.5: (-14, -9), 1.0: (-9, 5)}
    for row, x, y in zip(result["dbkon"], bias, variance, strict=True):
        if row["alpha"] in places:
            at = (x["estimate"], y["estimate"])
            style.note(ax, f"{row['alpha']:g}", at, places[row["alpha"]], color=style.PURPLE)
    for name in ("filtered-max-min", "dkon"):
        bias, variance = _moments([result[name][quantity]])
        _plot(ax, bias, variance, style.STRATEGIES[name] | {"linestyle": "none"})
    ends = ax.get_xlim()[1], ax.get_ylim()[1]
    many = np.linspace(0, max(ends), 400)
    levels = max(ends) * np.array([0.05, 0.1, 0.2, 0.4, 0.8])
    for level in levels:
        label = "equal EMSE" if level == levels[0] else "_"
        ax.plot(many, level - many, color=style.GREY, linewidth=0.6, linestyle=":", zorder=0, label=label)
    ax.set_xlim(-0.03 * ends[0], ends[0])
    ax.set_ylim(-0.06 * ends[1], ends[1])
    ax.set_xlabel("Bias$^2$")
    ax.set_ylabel("variance")


def _moments(rows: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    return [row["bias_squared"] for row in rows], [row["variance"] for row in rows]


def _sides(cells: list[Any]) -> np.ndarray:
    """How far the intervals reach below and above, (2, cells)."""
    ends = np.array([style.limits(cell) for cell in cells])
    return np.abs(ends - np.array([[cell["estimate"]] for cell in cells])).T


def _plot(ax: Axes, x: list[Any], y: list[Any], look: dict[str, Any]) -> None:
    ax.errorbar(
        [cell["estimate"] for cell in x],
        [cell["estimate"] for cell in y],
        xerr=_sides(x),
        yerr=_sides(y),
        elinewidth=0.8,
        **look,
    )

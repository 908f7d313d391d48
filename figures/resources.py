"""The plane of prompts and responses: exact estimator variance, and excess test NLL of trained networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke, withStroke

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.resources`: each panel relative to its best cell, lines of equal cost, and the best K."""
    fig, axes = style.figure(1, 3, width=style.PAGE, height=2.9, sharey=True)
    panels = [
        ("exact estimator variance", np.array(result["law"]["variance"]), None),
        ("trained, last step", np.array(result["recipes"]["last"]["excess"]), "last"),
        ("trained, best validation step", np.array(result["recipes"]["best"]["excess"]), "best"),
    ]
    for ax, (title, values, recipe) in zip(axes, panels, strict=True):
        _heat(ax, result, values)
        _cost_lines(ax, result)
        _law(ax, result)
        if recipe is not None:
            _best(ax, result, recipe)
        ax.set_title(title)
        ax.set_xlabel("responses per prompt $K$")
    axes[0].set_ylabel("prompts $N_p$")
    handles, labels = axes[-1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def _positions(values: list[float]) -> np.ndarray:
    return np.log2(np.array(values, float))


def _heat(ax: Axes, result: dict[str, Any], values: np.ndarray) -> None:
    """Cells coloured by the log of the value over the least; the number in a cell is the value itself."""
    x, y = _positions(result["responses"]), _positions(result["prompts"])
    colour = np.log(values)
    mesh = ax.pcolormesh(x, y, colour, shading="nearest")
    low, high = float(colour.min()), float(colour.max())
    for row, yy in enumerate(y):
        for column, xx in enumerate(x):
            bright = (colour[row, column] - low) > 0.55 * (high - low)
            ax.text(
                xx,
                yy,
                _short(values[row, column]),
                ha="center",
                va="center",
                fontsize=5.5,
                color="black" if bright else "white",
                path_effects=[withStroke(linewidth=1.2, foreground=mesh.to_rgba(colour[row, column]))],
            )
    mesh.set_rasterized(True)
    ax.grid(visible=False)
    ax.set_xticks(x, [f"{v:g}" for v in result["responses"]])
    ax.set_yticks(y, [f"{v:g}" for v in result["prompts"]])


def _short(value: float) -> str:
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 5 else f"{value:.2f}"


def _cost_lines(ax: Axes, result: dict[str, Any]) -> None:
    x, y = _positions(result["responses"]), _positions(result["prompts"])
    k = 2 ** np.linspace(x[0] - 0.5, x[-1] + 0.5, 100)
    cost = result["cost"]
    for budget in result["budgets"]:
        n = np.log2(budget / (cost["prompt"] + k * cost["response"]))
        ax.plot(
            np.log2(k),
            np.where((n >= y[0] - 0.5) & (n <= y[-1] + 0.5), n, np.nan),
            color="white",
            linewidth=0.9,
            linestyle=":",
            path_effects=[Stroke(linewidth=1.5, foreground=style.GREY), Normal()],  # to be seen on yellow
        )


def _law(ax: Axes, result: dict[str, Any]) -> None:
    k_star = result["law"]["k_star"]
    edge = [Stroke(linewidth=1.8, foreground=style.GREY), Normal()]
    ax.axvline(np.log2(k_star), color="white", linestyle="--", linewidth=1.2, path_effects=edge)
    # A dark twin for the legend, which stands on white.
    ax.plot([], [], color=style.GREY, linestyle="--", label=f"exact $K^*$ = {k_star:.1f}")
    ax.plot([], [], color=style.GREY, linestyle=":", label="equal cost")


def _best(ax: Axes, result: dict[str, Any], recipe: str) -> None:
    cells, cost = result["recipes"][recipe]["best_k"], result["cost"]
    best, low, high = (
        np.array([cell[part] for cell in cells], float) for part in ("estimate", "low", "high")
    )
    n = np.array(result["budgets"]) / (cost["prompt"] + best * cost["response"])
    style.interval(
        ax,
        np.log2(best),
        np.log2(n),
        np.log2(n),
        np.log2(n),
        color=style.ORANGE,
        marker="o",
        markeredgecolor="black",
        markersize=4.5,
        linestyle="none",
        label="best $K$ at equal cost (95 % interval)",
    )
    ax.hlines(np.log2(n), np.log2(low), np.log2(high), color=style.ORANGE, linewidth=1.6)

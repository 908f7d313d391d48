"""Nominal 95 % intervals hold the truth for normal and 0/1 losses; where large losses are rare every method is short.

Coverage over the designs with equal numbers of responses and 20 to 200 prompts: the mean as a marker, least to greatest
as a line (of the bootstrap the mean alone). Losses are prompt effect plus response effect of the law named; ln is
log-normal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import style

METHODS: dict[str, dict[str, Any]] = {
    "weighted": {"color": style.BLACK, "marker": "o", "label": "now"},
    "0.1.0": {"color": style.BLACK, "marker": "o", "markerfacecolor": "white", "label": "version 0.1.0"},
    "bootstrap": {"color": style.GREY, "marker": "x", "label": "percentile bootstrap (mean)"},
}
PANELS = {"ratio": "(a) $K^*$ and the ratio", "prompt": "(b) $V_x$", "response": "(c) $V_{y|x}$"}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.coverage`: a row per law of the losses, a panel per interval."""
    cells = [
        cell
        for cell in result["cells"]
        if (cell["counts"], cell["groups"]) == ("balanced", "none")
        and cell["clusters"] >= 20
        and cell["answered"] >= result["replicates"] / 2
    ]
    losses = list(dict.fromkeys(cell["losses"] for cell in cells))
    fig, axes = style.figure(1, len(PANELS), width=style.PAGE, height=4.2, sharey=True, sharex=True)
    rows = np.arange(len(losses))[::-1]
    for ax, (quantity, title) in zip(axes, PANELS.items(), strict=True):
        ax.axvspan(0.93, 0.97, color=style.GREY, alpha=0.25, linewidth=0, label="93 to 97 %")
        for i, (method, look) in enumerate(METHODS.items()):
            y = rows + 0.25 * (1 - i)
            shares = [
                [c["intervals"][method][quantity][1] / c["answered"] for c in cells if c["losses"] == name]
                for name in losses
            ]
            if method != "bootstrap":
                ends = [min(s) for s in shares], [max(s) for s in shares]
                ax.hlines(y, *ends, color=look["color"], linewidth=0.8)
            ax.plot([np.mean(s) for s in shares], y, linestyle="none", markersize=4, zorder=3, **look)
        ax.set_title(title, loc="left")
        ax.set_ylim(-0.7, len(losses) - 0.3)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(rows, [name.replace("log-normal", "ln") for name in losses])
    axes[1].set_xlabel("coverage of nominal 95 % intervals")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig

"""Intervals of a difference hold, and the power is had, for normal differences and most right or wrong answers.

Shares over K = 1, 2 and 8 responses of each model, by the law of the differences: least to greatest as a line, one
colour per number of prompts. Left: nominal 95 % intervals that hold the detectable difference. Right: those that show
it, where 80 % are promised.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import style

PANELS = {"held": ("(a) interval holds", 0.95, 0.02), "shown": ("(b) difference shown", 0.8, 0.02)}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.comparisons`."""
    cells = [c for c in result["cells"] if c["design"] == "plain" and c["gap"] is not None]
    losses = list(dict.fromkeys(c["losses"] for c in cells))
    sizes = sorted({c["prompts"] for c in cells})
    fig, axes = style.figure(1, len(PANELS), width=style.PAGE, height=4.4, sharey=True)
    rows = np.arange(len(losses))[::-1]
    colors = np.linspace(0.75, 0.0, len(sizes))
    for ax, (name, (title, nominal, near)) in zip(axes, PANELS.items(), strict=True):
        label = "nominal ± 2 points"
        ax.axvspan(nominal - near, nominal + near, color=style.GREY, alpha=0.25, linewidth=0, label=label)
        for i, (n, grey) in enumerate(zip(sizes, colors, strict=True)):
            for row, law in zip(rows, losses, strict=True):
                shares = [
                    c[name] / result["replicates"] for c in cells if (c["losses"], c["prompts"]) == (law, n)
                ]
                if shares:
                    y = row + 0.25 * (1 - i)
                    ax.plot(
                        [min(shares), max(shares)], [y, y], "|-", color=str(grey), linewidth=1, markersize=4
                    )
            ax.plot([], [], "|-", color=str(grey), label=f"{n} prompts")
        ax.set_title(title, loc="left")
        ax.set_ylim(-0.7, len(losses) - 0.3)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("share of comparisons")
    axes[0].set_yticks(rows, [law.replace("log-normal", "ln") for law in losses])
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig

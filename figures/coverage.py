"""Coverage of the 95 % intervals of K*: every cell of the study, and how other methods do on average."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import style

METHODS: dict[str, dict[str, Any]] = {
    "ratio_jackknife": {"color": style.BLACK, "linestyle": "-", "label": "plain jackknife (mean)"},
    "ratio_F": {"color": style.PURPLE, "linestyle": "--", "label": "F interval (mean)"},
    "ratio_bootstrap": {"color": style.RED, "linestyle": ":", "label": "percentile bootstrap (mean)"},
}
BOTTOM = 0.45


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.coverage`: a dot a cell (ratio and balance vary within a colour)."""
    cells = result["cells"]
    losses = list(dict.fromkeys(cell["losses"] for cell in cells))
    prompts = sorted({cell["prompts"] for cell in cells})
    responses = sorted({cell["responses"] for cell in cells})
    fig, axes = style.figure(
        2, len(losses), width=style.PAGE, height=4.2, sharex=True, sharey=True, squeeze=False
    )
    for row, grouped in enumerate((False, True)):
        for column, name in enumerate(losses):
            ax = axes[row, column]
            here = [c for c in cells if c["losses"] == name and c["grouped"] == grouped]
            ax.axhspan(0.93, 0.97, color=style.GREY, alpha=0.25, linewidth=0)
            ax.axhline(0.95, color=style.GREY, linewidth=0.7)
            for method, look in METHODS.items():
                mean = [np.nanmean([_share(c, method) for c in here if c["prompts"] == p]) for p in prompts]
                ax.plot(range(len(prompts)), mean, **{**look, "linewidth": 1.0, "zorder": 2})
            for i, r in enumerate(responses):
                chosen = [c for c in here if c["responses"] == r]
                offset = 0.22 * (i - (len(responses) - 1) / 2)
                x = np.array([prompts.index(c["prompts"]) for c in chosen]) + offset
                y = np.array([_share(c, "ratio") for c in chosen])
                ax.plot(
                    x, np.maximum(y, BOTTOM + 0.01), linestyle="none", markersize=2.6, zorder=3, **_look(i)
                )
            ax.set_xticks(range(len(prompts)), [str(p) for p in prompts])
            ax.set_xlim(-0.5, len(prompts) - 0.5)
            ax.set_ylim(BOTTOM, 1.01)
            if row == 0:
                ax.set_title(name.replace("log-normal ", "log-normal\nσ = "))
        axes[row, 0].set_ylabel("prompts in groups\ncoverage" if grouped else "independent prompts\ncoverage")
    fig.supxlabel("prompts in the pilot", fontsize=8)
    handles: list[Artist] = [
        Line2D([], [], linestyle="none", label=f"mrtsim, {r} responses a prompt", **_look(i))
        for i, r in enumerate(responses)
    ]
    handles += [Line2D([], [], linewidth=1.0, **look) for look in METHODS.values()]
    handles.append(Patch(color=style.GREY, alpha=0.25, linewidth=0, label="93 to 97 %"))
    fig.legend(handles=handles, loc="outside upper center", ncols=3)
    return fig


def _look(i: int) -> dict[str, Any]:
    return {key: style.SERIES[(0, 2, 4)[i % 3]][key] for key in ("color", "marker")}


def _share(cell: dict[str, Any], method: str) -> float:
    return cell["intervals"][method][1] / cell["answered"] if cell["answered"] else np.nan

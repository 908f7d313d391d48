"""BKoN's batch gradient points away from the true one where few of many are kept and the reward disagrees with the
likelihood, and, along training, for a while. a, b: means over untrained networks, hatched where the 95 % interval
holds 0, the black line is cosine 0. c: means over training runs with 95 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.misalignment`; the black line is cosine 0, bars are 95 % intervals over networks."""
    fig, (left, middle, right) = style.figure(
        1, 3, width=style.PAGE, height=2.9, gridspec_kw={"width_ratios": [0.8, 1.2, 1.0]}
    )
    _map(left, result["sizes"], "k", "responses kept $K$")
    mesh = _map(middle, result["agreements"], "agreement", "agreement of reward and log-density")
    left.set_title("the paper's reward")
    middle.set_title(f"$K$ = {result['k']}")
    left.set_ylabel("candidates $N$")
    bar = fig.colorbar(mesh, ax=middle, label="mean cosine, untrained networks")
    bar.outline.set_visible(False)
    for name, rows in result["training"].items():
        half = style.Z95 * np.array(rows["error"])
        cosine = np.array(rows["cosine"])
        look = style.STRATEGIES[name] | {"label": f"trained on {style.STRATEGIES[name]['label']}'s picks"}
        style.interval(right, rows["steps"], cosine, cosine - half, cosine + half, **look)
    right.axhline(0, **style.FLOOR)
    right.set_xscale("symlog", linthresh=10)
    ticks = [0, 10, 30, 100, 400]
    right.set_xticks(ticks, [str(t) for t in ticks])
    right.minorticks_off()
    right.set_xlim(-1.5, 500)
    right.set_xlabel("training step (log above 10)")
    right.set_ylabel("cosine at fresh prompts")
    right.set_title(f"$N$ = {result['n_candidates']}, $K$ = {result['k']}")
    right.set_ylim(-0.85, 1.0)
    right.legend(loc="lower right")
    style.letters((left, middle, right))
    return fig


def _map(ax: Axes, rows: list[dict[str, Any]], across: str, label: str) -> Any:
    columns = sorted({row[across] for row in rows})
    sizes = sorted({row["n"] for row in rows})
    values = np.full((len(sizes), len(columns)), np.nan)
    for row in rows:
        values[sizes.index(row["n"]), columns.index(row[across])] = row["estimate"]
    mesh = ax.pcolormesh(values, cmap="RdBu", vmin=-1, vmax=1)
    for row in rows:
        if abs(row["estimate"]) < style.Z95 * row["standard_error"]:
            corner = (columns.index(row[across]), sizes.index(row["n"]))
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", linewidth=0, edgecolor=style.GREY))
    _boundary(ax, values)
    ax.set_xticks(
        np.arange(len(columns)) + 0.5, [f"{c:g}" for c in columns], rotation=90 if len(columns) > 6 else 0
    )
    ax.set_yticks(np.arange(len(sizes)) + 0.5, [f"{n}" for n in sizes])
    ax.set_xlabel(label)
    ax.grid(visible=False)
    return mesh


def _boundary(ax: Axes, values: np.ndarray) -> None:
    """Edges between cells of different sign: the cosine passes 0 there."""
    sign = np.sign(values)
    line: dict[str, Any] = {"color": style.BLACK, "linewidth": 1.6, "solid_capstyle": "projecting"}
    for i, j in np.argwhere(sign[:-1] * sign[1:] < 0):
        ax.plot([j, j + 1], [i + 1, i + 1], **line)
    for i, j in np.argwhere(sign[:, :-1] * sign[:, 1:] < 0):
        ax.plot([j + 1, j + 1], [i, i + 1], **line)
